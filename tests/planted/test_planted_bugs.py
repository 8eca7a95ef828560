"""The planted bugs fit the source, and a few of them are planted and caught; `scripts/planted_bugs.py` does all."""

import re
from functools import cache
from pathlib import Path

import mutate
import planted_bugs
import pytest

from answerback_proof.simulation import PROFILES
from found_seeds import FOUND

ROOT = Path(__file__).resolve().parents[2]
RULES = set(re.findall(r"^## (.+)$", (ROOT / "docs/rules.md").read_text(encoding="utf-8"), re.MULTILINE))
PROMISES = {f"G{number}" for number in range(1, 8)}
BUGS = {bug.what: bug for bug in planted_bugs.read_bugs()}
MUTANTS = cache(lambda file: list(mutate.mutants(file)))
SAMPLE = [
    "a target is applied again and again",
    "a claim takes a request whose lease is live",
    "another session of the user may cancel",
    "each request has an ordered queue of its own in the gateway",
]


def test_every_rule_and_promise_has_a_bug() -> None:
    assert {bug.rule for bug in BUGS.values()} >= RULES | PROMISES


@pytest.mark.parametrize("what", BUGS)
def test_a_bug_fits_the_source_and_is_still_python(what: str) -> None:
    compile(BUGS[what].planted(), BUGS[what].file, "exec")


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


def test_a_bug_whose_function_moved_says_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/till.py").write_text("def total(prices):\n    return sum(prices)\n")
    (tmp_path / "shop/desk.py").write_text("def totals(prices):\n    return []\n")
    bug = planted_bugs.Bug(rule="G1", what="it is free", at="shop/desk.py:total", by="-", edit={"becomes": "return 0"})
    with pytest.raises(planted_bugs.BadPlan) as error:
        bug.planted(tmp_path)
    assert str(error.value) == (
        "G1, “it is free”, at shop/desk.py:total: there is no total in this file; similar: totals; "
        "total stands in shop/till.py"
    )


@pytest.mark.parametrize("what", SAMPLE)
def test_it_is_caught(what: str) -> None:
    with planted_bugs.planted(BUGS[what]) as source:
        planted_bugs.check_source(source)
        assert planted_bugs.catches(source, BUGS[what].by)


@pytest.mark.parametrize("what", FOUND)
def test_a_found_seed_finds_its_bug_again(what: str) -> None:
    case = FOUND[what]
    with planted_bugs.planted(BUGS[what]) as source:
        assert planted_bugs.catches(source, f"simulate {case.profile} seed {case.seed}")


@pytest.mark.parametrize("number", range(len(mutate.survivors())))
def test_a_decided_survivor_fits_the_source_and_says_why_it_may_live(number: int) -> None:
    bug, why = mutate.survivors()[number]
    assert why
    assert mutate.fits(bug), f"{bug.at}: {bug.what}"
    assert bug in MUTANTS(bug.file), "no operator makes this mutant"


def test_the_operators_make_each_kind_of_mutant() -> None:
    text = """
class Till:
    def pay(self, sum_, paid):
        if not paid:
            raise ValueError
        self.paid = max(paid, 0)
        log(sum_)
        return sum_ < paid and sum_ + 1 == paid

    async def close(self):
        while self.open:
            await self.drain()
            continue
"""
    made = {(bug.at, bug.what) for bug in mutate.mutants("till.py", text)}
    assert made == {
        ("till.py:Till.pay", "not paid -> paid"),
        ("till.py:Till.pay", "without raise ValueError"),
        ("till.py:Till.pay", "without self.paid = max(paid, 0)"),
        ("till.py:Till.pay", "max(paid, 0) -> min(paid, 0)"),
        ("till.py:Till.pay", "0 -> 1"),
        ("till.py:Till.pay", "without log(sum_)"),
        ("till.py:Till.pay", "return sum_ < paid and sum_ + 1 == paid -> return None"),
        ("till.py:Till.pay", "sum_ < paid and sum_ + 1 == paid -> sum_ < paid or sum_ + 1 == paid"),
        ("till.py:Till.pay", "sum_ < paid -> sum_ <= paid"),
        ("till.py:Till.pay", "sum_ + 1 == paid -> sum_ + 1 != paid"),
        ("till.py:Till.pay", "sum_ + 1 -> sum_ - 1"),
        ("till.py:Till.pay", "1 -> 2"),
        ("till.py:Till.close", "self.open -> not self.open"),
        ("till.py:Till.close", "without await self.drain()"),
        ("till.py:Till.close", "without continue"),
    }
