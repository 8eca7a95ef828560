"""The planted bugs fit the source, and a few of them are planted and caught; `scripts/planted_bugs.py` does all."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from answerback.testing.simulation import PROFILES

ROOT = Path(__file__).resolve().parents[2]
RULES = {f"R{number}" for number in range(1, 18)}
PROMISES = {f"G{number}" for number in range(1, 8)}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted_bugs", ROOT / "scripts" / "planted_bugs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


planted_bugs = load_script()
BUGS = {bug.what: bug for bug in planted_bugs.read_bugs()}
SAMPLE = [
    "a wish is honoured again and again",
    "a claim takes what is still held",
    "another session of the user may cancel",
    "each request has a lane of its own in the gateway",
]


def test_every_rule_and_promise_has_a_bug() -> None:
    assert {bug.rule for bug in BUGS.values()} >= RULES | PROMISES


@pytest.mark.parametrize("what", BUGS)
def test_a_bug_stands_once_in_the_source_and_is_still_python(what: str) -> None:
    bug = BUGS[what]
    text = (ROOT / "src" / "answerback" / bug.file).read_text(encoding="utf-8")
    compile(bug.planted(text), bug.file, "exec")


@pytest.mark.parametrize("what", BUGS)
def test_what_is_to_catch_a_bug_exists(what: str) -> None:
    kind, _, rest = BUGS[what].by.partition(" ")
    if kind == "simulate":
        profile, seeds = rest.split()
        assert profile in PROFILES
        assert int(seeds) <= 100
    else:
        file, _, test = kind.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text


def test_a_pattern_that_is_gone_is_an_error() -> None:
    bug = BUGS[SAMPLE[0]]
    with pytest.raises(planted_bugs.BadPlan, match="stands 0 times"):
        bug.planted("another source")


@pytest.mark.parametrize("what", SAMPLE)
def test_it_is_caught(what: str) -> None:
    with planted_bugs.planted(BUGS[what]) as source:
        planted_bugs.check_source(source)
        assert planted_bugs.catches(source, BUGS[what].by)
