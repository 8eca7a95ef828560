#!/usr/bin/env python
"""Plant each bug of tests/planted/bugs.toml in a copy of the source and see that what is named there catches it.

    scripts/planted_bugs.py                            every bug, and what catches it; exit status 1 if one is missed
    scripts/planted_bugs.py --only "Each target once"  the bugs of one rule, or whose name has these words
    scripts/planted_bugs.py --only lease --diff        what is planted, beside the source; runs nothing
    scripts/planted_bugs.py --only lease --find        try everything that could catch them

A bug names a function and an edit of its syntax tree (see syntax_edits.py). One that does not fit the source is an
error in words: the source has moved on, and so must the bug.
"""

import argparse
import ast
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from syntax_edits import EditError, NoSuchName, edited, names_in

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
BUGS = ROOT / "tests" / "planted" / "bugs.toml"
TIMEOUT_S = 300
FINDERS = (
    *(
        f"simulate {profile} 60"
        for profile in ("aws-quiet", "gateway-quiet", "aws", "gateway", "outages", "limits", "gateway-hostile")
    ),
    *("tests/core", "tests/service", "tests/client", "tests/contract", "tests/gateway", "tests/simulation"),
)
"""What `--find` tries."""


class BadPlan(Exception):
    """The list of bugs does not fit the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One wrong change: the `edit` of the function that `at` (`FILE:NAME`, FILE under src/) names, caught by `by`."""

    rule: str
    what: str
    at: str
    by: str
    nth: int | None = None
    edit: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Where it is planted, under src/."""
        return self.at.partition(":")[0]

    def planted(self, source: Path = SOURCE) -> str:
        """The wrong module. Raises: BadPlan: it does not fit this source."""
        file, _, name = self.at.partition(":")
        try:
            if not (source / file).is_file():
                raise NoSuchName(f"there is no {file}")
            return edited((source / file).read_text(encoding="utf-8"), name, self.edit, nth=self.nth)
        except EditError as exc:
            elsewhere = [place for place in _functions(source).get(name, []) if place != file]
            hint = f"; {name} stands in {', '.join(elsewhere)}" if elsewhere and isinstance(exc, NoSuchName) else ""
            raise BadPlan(f"{self.rule}, “{self.what}”, at {self.at}: {exc}{hint}") from None


@cache
def _functions(source: Path) -> dict[str, list[str]]:
    """The files, under `source`, in which each function stands: to say where one went."""
    found: dict[str, list[str]] = {}
    for file in sorted(source.rglob("*.py")):
        for name in names_in(file.read_text(encoding="utf-8")):
            found.setdefault(name, []).append(file.relative_to(source).as_posix())
    return found


def read_bugs(path: Path = BUGS) -> list[Bug]:
    """Every bug. Raises: BadPlan: two have one name."""
    bugs = [_bug(entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["bug"]]
    names = [bug.what for bug in bugs]
    if len(set(names)) != len(names):
        raise BadPlan("two bugs have the same name")
    return bugs


def _bug(entry: dict[str, Any]) -> Bug:
    about = {key: entry.pop(key) for key in ("rule", "what", "at", "by", "nth") if key in entry}
    return Bug(**about, edit=entry)


@contextmanager
def planted(bug: Bug) -> Iterator[Path]:
    """A copy of the source with the bug in it, as a folder for PYTHONPATH."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / bug.file).write_text(bug.planted(), encoding="utf-8")
        yield copy


def catches(source: Path, catcher: str) -> bool:
    """Whether `simulate PROFILE SEEDS`, `simulate PROFILE seed SEED`, or a test, fails on this source."""
    words = catcher.split()
    if words[0] == "simulate":
        command = ["-m", "answerback", "simulate", "--profile", words[1], *_seeds(*words[2:])]
        command += ["--jobs", "1", "--no-shrink", "--fail-fast"]
    else:
        command = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "60", *words]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return True  # it hangs, and that is a failure to see
    if done.returncode not in (0, 1):
        raise BadPlan(f"{catcher} cannot be run: {(done.stderr or done.stdout).decode()[-500:]}")
    return done.returncode == 1


def _seeds(count: str, seed: str | None = None) -> tuple[str, str]:
    return ("--seeds", count) if seed is None else ("--seed", seed)


def check_source(source: Path) -> None:
    """Raises: BadPlan: Python would import another answerback than the copy."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    program = "import answerback; print(answerback.__file__)"
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    if not found.startswith(str(source)):
        raise BadPlan(f"the copy at {source} is not what Python imports: {found}")


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a rule, or words of the name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--diff", action="store_true", help="print what is planted")
    what.add_argument("--find", action="store_true", help="try everything that could catch them")
    options = parser.parse_args(arguments)
    try:
        bugs = [bug for bug in read_bugs() if options.only in ("", bug.rule) or options.only in bug.what]
        if not bugs:
            raise BadPlan(f"no bug has the rule or the words “{options.only}”")
        if options.diff:
            print("\n".join(map(_diff, bugs)))
            return 0
        return _find(bugs) if options.find else _run(bugs, jobs=options.jobs)
    except BadPlan as exc:
        print(f"planted_bugs: {exc}", file=sys.stderr)
        return 2


def _diff(bug: Bug) -> str:
    source = ast.unparse(ast.parse((SOURCE / bug.file).read_text(encoding="utf-8")))
    lines = difflib.unified_diff(source.splitlines(), bug.planted().splitlines(), n=2, lineterm="")
    return "\n".join([f"{bug.rule}: {bug.what} ({bug.at})", *list(lines)[2:], ""])


def _run(bugs: Sequence[Bug], *, jobs: int) -> int:
    misfits = list(filter(None, map(_misfit, bugs)))  # all, before the first run: a stale list is found in a second
    if misfits:
        raise BadPlan("\n".join(misfits))
    with planted(bugs[0]) as source:
        check_source(source)
    missed = 0
    with ThreadPoolExecutor(jobs) as pool:
        for bug, is_caught in zip(bugs, pool.map(_is_caught, bugs), strict=True):
            missed += not is_caught
            print(f"{bug.rule:41} {bug.what:80} {'' if is_caught else 'MISSED by '}{bug.by}", flush=True)
    print(f"{len(bugs)} bugs planted, {len(bugs) - missed} caught", file=sys.stderr)
    return 1 if missed else 0


def _misfit(bug: Bug) -> str | None:
    """Why the bug does not fit the source, if so."""
    try:
        bug.planted()
    except BadPlan as exc:
        return str(exc)
    return None


def _is_caught(bug: Bug) -> bool:
    with planted(bug) as source:
        return catches(source, bug.by)


def _find(bugs: Sequence[Bug]) -> int:
    for bug in bugs:
        with planted(bug) as source:
            found = [catcher for catcher in FINDERS if catches(source, catcher)]
        print(f"{bug.rule:41} {bug.what}: {', '.join(found) or 'NOTHING'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
