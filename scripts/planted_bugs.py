#!/usr/bin/env python
"""Plant each bug of tests/planted/bugs.toml in a copy of the source and see that what is named there catches it.

    scripts/planted_bugs.py                     every bug; prints what catches each rule; exit status 1 if one is missed
    scripts/planted_bugs.py --only R5           the bugs of one rule, or whose name has these words
    scripts/planted_bugs.py --markdown          the table for GUARANTEE.md
    scripts/planted_bugs.py --find --only R5    try everything that could catch them

A pattern that does not stand exactly once in its file is an error: the source has moved on, and so must the bug.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
BUGS = ROOT / "tests" / "planted" / "bugs.toml"
TIMEOUT_S = 300
FINDERS = (
    *(f"simulate {profile} 60" for profile in ("aws-quiet", "gateway-quiet", "aws", "gateway", "outages", "limits")),
    *("tests/core", "tests/service", "tests/client", "tests/contract", "tests/gateway", "tests/simulation"),
)
"""What `--find` tries."""


class BadPlan(Exception):
    """The list of bugs does not fit the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One wrong change: `find` in `file` becomes `put`. `by`: what catches it."""

    rule: str
    what: str
    file: str
    find: str
    put: str
    by: str

    def planted(self, text: str) -> str:
        """The wrong source. Raises: BadPlan: the pattern is not there exactly once."""
        count = text.count(self.find)
        if count != 1 or self.find == self.put:
            raise BadPlan(f"{self.rule}, {self.what}: its pattern stands {count} times in {self.file}, not once")
        return text.replace(self.find, self.put)


def read_bugs(path: Path = BUGS) -> list[Bug]:
    """Every bug. Raises: BadPlan: two have one name."""
    bugs = [Bug(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["bug"]]
    names = [bug.what for bug in bugs]
    if len(set(names)) != len(names):
        raise BadPlan("two bugs have the same name")
    return bugs


@contextmanager
def planted(bug: Bug) -> Iterator[Path]:
    """A copy of the source with the bug in it, as a folder for PYTHONPATH."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / "answerback" / bug.file
        text = bug.planted(file.read_text(encoding="utf-8"))
        compile(text, bug.file, "exec")
        file.write_text(text, encoding="utf-8")
        yield copy


def catches(source: Path, catcher: str) -> bool:
    """Whether `simulate PROFILE SEEDS`, or a test, fails on this source."""
    words = catcher.split()
    if words[0] == "simulate":
        command = ["-m", "answerback", "simulate", "--profile", words[1], "--seeds", words[2]]
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
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--find", action="store_true", help="try everything that could catch them")
    options = parser.parse_args(arguments)
    try:
        bugs = [bug for bug in read_bugs() if options.only in ("", bug.rule) or options.only in bug.what]
        return _find(bugs) if options.find else _run(bugs, jobs=options.jobs, as_markdown=options.markdown)
    except BadPlan as exc:
        print(f"planted_bugs: {exc}", file=sys.stderr)
        return 2


def _run(bugs: Sequence[Bug], *, jobs: int, as_markdown: bool) -> int:
    with planted(bugs[0]) as source:
        check_source(source)
    for bug in bugs:  # every pattern first: a stale list is found in a second, not after minutes
        bug.planted((SOURCE / "answerback" / bug.file).read_text(encoding="utf-8"))
    missed = 0
    if as_markdown:
        print("| Rule | What is wrong | Caught by |\n|---|---|---|")
    with ThreadPoolExecutor(jobs) as pool:
        for bug, is_caught in zip(bugs, pool.map(_is_caught, bugs), strict=True):
            missed += not is_caught
            mark = "" if is_caught else "MISSED by "
            if as_markdown:
                print(f"| {bug.rule} | {bug.what} | {mark}`{bug.by}` |", flush=True)
            else:
                print(f"{bug.rule:8} {bug.what:80} {mark}{bug.by}", flush=True)
    print(f"{len(bugs)} bugs planted, {len(bugs) - missed} caught", file=sys.stderr)
    return 1 if missed else 0


def _is_caught(bug: Bug) -> bool:
    with planted(bug) as source:
        return catches(source, bug.by)


def _find(bugs: Sequence[Bug]) -> int:
    for bug in bugs:
        with planted(bug) as source:
            found = [catcher for catcher in FINDERS if catches(source, catcher)]
        print(f"{bug.rule:8} {bug.what}: {', '.join(found) or 'NOTHING'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
