#!/usr/bin/env python
"""Mutate the source by operators, run the tests that run the mutated function, and list what survives.

    scripts/mutate.py                          60 mutants of core, service, client and stores; exit status 1 if a
                                               survivor is not decided in tests/planted/survivors.toml
    scripts/mutate.py --seed 7 --mutants 200   another sample, a larger one
    scripts/mutate.py --minutes 5              as many as fit in
    scripts/mutate.py --only core/delivery.py  of files whose path has these words
    scripts/mutate.py --list                   every mutant; runs nothing

A sample holds while the source changes elsewhere: which mutants are in it follows from the seed and from each itself.
A mutant is an edit of one function, in the form of a planted bug (see planted_bugs.py and syntax_edits.py). Which tests
run which function is measured once and kept in .cache/mutation, until a source file or a test changes.
"""

import argparse
import ast
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import planted_bugs
import pytest
from planted_bugs import ROOT, SOURCE, Bug

ROOMS = ("core", "service", "client", "stores")
"""What is mutated, under src/answerback."""

TESTS = (
    *("tests/core", "tests/service", "tests/client", "tests/stores", "tests/contract", "tests/protocol"),
    *("tests/gateway", "tests/aws/functions", "tests/simulation/test_repairs.py"),
)
SURVIVORS = ROOT / "tests" / "planted" / "survivors.toml"
CACHE = ROOT / ".cache" / "mutation"
TESTS_S = 30.0
"""How long the tests of one mutant may take, as they were measured. The quickest come first."""

_NEARLY: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPPOSITE: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
_TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}


# --- the operators --------------------------------------------------------------------------------------------


def mutants(file: str, text: str | None = None) -> Iterator[Bug]:
    """Every mutant of a file under src/. A few do not fit: see `fits`."""
    text = (SOURCE / file).read_text(encoding="utf-8") if text is None else text
    for name, function in _functions(ast.parse(text), ""):
        edits = Counter(tuple(edit.items()) for node in ast.walk(function) for edit in _edits(node))
        for items, count in edits.items():
            for nth in range(1, count + 1) if count > 1 else (None,):
                yield _mutant(f"{file}:{name}", nth, dict(items))


def _mutant(at: str, nth: int | None, edit: dict[str, str]) -> Bug:
    old = edit.get("drop")
    said = f"{edit['replace']} -> {edit['put']}" if old is None else f"without {old}"
    what = " ".join(said.split()) + (f" ({nth})" if nth else "")
    return Bug(rule="mutant", what=what, at=at, by="", nth=nth, edit=edit)


def fits(bug: Bug) -> bool:
    """Whether the operator makes something new there, and Python."""
    try:
        compile(bug.planted(), bug.file, "exec")
    except (planted_bugs.BadPlan, SyntaxError):
        return False
    return True


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Functions and methods by name. What is defined inside one belongs to it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if not any(isinstance(one, ast.Name) and one.id == "overload" for one in child.decorator_list):
                yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")


def _edits(node: ast.AST) -> Iterator[dict[str, str]]:
    match node:
        case ast.If(test=ast.UnaryOp(op=ast.Not(), operand=test) as negated):
            yield _put(negated, test)
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if not _is_comparison(test):
            yield _put(test, ast.UnaryOp(op=ast.Not(), operand=test))
        case ast.Compare(left=left, ops=[op], comparators=comparators):
            yield _put(node, ast.Compare(left=left, ops=[_NEARLY[type(op)]()], comparators=comparators))
        case ast.BoolOp(op=op, values=values):
            yield _put(node, ast.BoolOp(op=ast.Or() if isinstance(op, ast.And) else ast.And(), values=values))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPPOSITE:
            yield _put(node, ast.BinOp(left=left, op=_OPPOSITE[type(op)](), right=right))
        case ast.Constant(value=bool(value)):
            yield _put(node, ast.Constant(value=not value))
        case ast.Constant(value=int(value)):
            yield _put(node, ast.Constant(value=value + 1))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _TWINS:
            yield _put(node, ast.Call(func=ast.Name(id=_TWINS[name]), args=args, keywords=keywords))
        case ast.Return(value=ast.expr()):
            yield {"replace": ast.unparse(node), "put": "return None"}
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Break():
            yield {"drop": ast.unparse(node)}
        case ast.Assign(targets=[place]) | ast.Delete(targets=[place, *_]) if not isinstance(
            place, ast.Name | ast.Tuple
        ):
            yield {"drop": ast.unparse(node)}
        case _:
            pass


def _is_comparison(test: ast.expr) -> bool:
    """Whether another operator makes its opposite."""
    return isinstance(test, ast.Compare) and len(test.ops) == 1


def _put(old: ast.expr, new: ast.expr) -> dict[str, str]:
    return {"replace": ast.unparse(old), "put": ast.unparse(ast.fix_missing_locations(new))}


def matters(bug: Bug) -> bool:
    """Whether its loss could be noticed: no test reads the log, and an assertion only says what holds anyway."""
    old = bug.edit.get("drop") or bug.edit["replace"]
    return not old.startswith(("log.", "assert", "raise AssertionError")) and "..." not in old


# --- which tests run a function -------------------------------------------------------------------------------


class Covering:
    """A pytest plugin: notes which functions each test enters, and how long it takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[str, tuple[float, list[str]]] = {}
        self._failing: set[str] = set()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):  # type: ignore[no-untyped-def]
        """Around one test."""
        seen: set[object] = set()
        source = str(SOURCE) + os.sep

        def note(frame, event, _arg):  # type: ignore[no-untyped-def]
            if event == "call":
                seen.add(frame.f_code)

        started = time.monotonic()
        sys.setprofile(note)
        threading.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
            test = item.nodeid.partition("[")[0]
            took_s, functions = self._found.get(test, (0.0, []))
            names = {
                f"{code.co_filename.removeprefix(source)}:{code.co_qualname.partition('.<locals>')[0]}"  # type: ignore[attr-defined]
                for code in seen
                if code.co_filename.startswith(source)  # type: ignore[attr-defined]
            }
            self._found[test] = (took_s + time.monotonic() - started, sorted(names | set(functions)))

    def pytest_runtest_logreport(self, report) -> None:  # type: ignore[no-untyped-def]
        """A test that fails without a mutant, as one that counts calls itself, is of no use with one."""
        if report.failed:
            self._failing.add(report.nodeid.partition("[")[0])

    def pytest_sessionfinish(self) -> None:
        """Keep what was found; with xdist each process has a part."""
        self._folder.mkdir(parents=True, exist_ok=True)
        found = {test: about for test, about in self._found.items() if test not in self._failing}
        (self._folder / f"{os.getpid()}.json").write_text(json.dumps(found), encoding="utf-8")


def pytest_configure(config) -> None:  # type: ignore[no-untyped-def]
    """This module is a pytest plugin, too, for its own use."""
    config.pluginmanager.register(Covering(Path(os.environ["MUTATE_COVERING"])))


def covering() -> dict[str, list[tuple[float, str]]]:
    """The tests that enter each function, the quickest first."""
    files = sorted([*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
    state = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = CACHE / state
    if not folder.is_dir():
        print("measuring which tests run which function (some minutes)...", file=sys.stderr)
        part = CACHE / f"part-{os.getpid()}"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(os.cpu_count() or 1), "-p", "mutate", *TESTS]
        paths = os.pathsep.join((str(SOURCE), str(ROOT / "scripts")))
        environment = {**os.environ, "PYTHONPATH": paths, "MUTATE_COVERING": str(part)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)  # noqa: S603
        if done.returncode not in (0, 1) or not part.is_dir():
            raise planted_bugs.BadPlan(f"the tests cannot be run: {done.stdout.decode()[-1500:]}")
        part.rename(folder)
    found: dict[str, list[tuple[float, str]]] = {}
    for file in folder.glob("*.json"):
        for test, (took_s, functions) in json.loads(file.read_text(encoding="utf-8")).items():
            for function in functions:
                found.setdefault(function, []).append((took_s, test))
    return {function: sorted(tests) for function, tests in found.items()}


def tests_of(bug: Bug, tests: Mapping[str, Sequence[tuple[float, str]]]) -> list[str]:
    """The tests to run for a mutant: as many as fit into the time, and one at least."""
    chosen: list[str] = []
    left_s = TESTS_S
    for took_s, test in tests.get(bug.at, ()):
        left_s -= took_s
        if chosen and left_s < 0:
            break
        if test not in chosen:
            chosen.append(test)
    return chosen


# --- what survives --------------------------------------------------------------------------------------------


def survivors() -> list[tuple[Bug, str]]:
    """The decided ones, and why each may live."""
    entries = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))["survivor"]
    return [
        (_mutant(entry.pop("at"), entry.pop("nth", None), entry), why)
        for entry in entries
        for why in [entry.pop("why")]
    ]


def entry_of(bug: Bug) -> str:
    """The survivor as an entry of the list, its reason to be filled in."""
    fields = {"at": bug.at, **({"nth": bug.nth} if bug.nth else {}), **bug.edit, "why": ""}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["[[survivor]]", *lines, ""])


def _survives(bug: Bug, tests: Sequence[str]) -> bool:
    if not tests:
        return True
    with planted_bugs.planted(bug) as source:
        return not planted_bugs.catches(source, " ".join(tests))


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="which sample")
    parser.add_argument("--mutants", type=int, default=60, help="how many")
    parser.add_argument("--minutes", type=float, help="begin no more after so long")
    parser.add_argument("--only", default="", help="words of a path")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="print every mutant, and run nothing")
    options = parser.parse_args(arguments)
    files = sorted(file for room in ROOMS for file in (SOURCE / "answerback" / room).glob("*.py"))
    names = [name for file in files if options.only in (name := file.relative_to(SOURCE).as_posix())]
    found = [bug for name in names for bug in mutants(name) if matters(bug)]
    if options.list:
        print("\n".join(f"{bug.at:70} {bug.what}" for bug in found))
        return 0
    found.sort(key=lambda bug: hashlib.sha256(f"{options.seed}/{bug.at}/{bug.what}".encode()).digest())
    try:
        return _run(list(islice(filter(fits, found), options.mutants)), options)
    except planted_bugs.BadPlan as exc:
        print(f"mutate: {exc}", file=sys.stderr)
        return 2


def _run(sample: Sequence[Bug], options: argparse.Namespace) -> int:
    tests, decided = covering(), {(bug.at, bug.what) for bug, _ in survivors()}
    until = time.monotonic() + (options.minutes * 60 if options.minutes else float("inf"))
    undecided: list[Bug] = []
    counts = dict.fromkeys(("caught", "decided", "survived", "left out"), 0)

    def look(bug: Bug) -> str:
        if (bug.at, bug.what) in decided:
            return "decided"
        if time.monotonic() > until:
            return "left out"
        return "survived" if _survives(bug, tests_of(bug, tests)) else "caught"

    with ThreadPoolExecutor(options.jobs) as pool:
        for bug, outcome in zip(sample, pool.map(look, sample), strict=True):
            counts[outcome] += 1
            print(f"{outcome:9} {bug.at:70} {bug.what}", flush=True)
            if outcome == "survived":
                undecided.append(bug)
    print(f"{len(sample)} mutants: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    if undecided:
        print(f"\nWrite a test that fails with it, or say in {SURVIVORS.relative_to(ROOT)} why it may live:\n")
        print("\n".join(map(entry_of, undecided)))
    return 1 if undecided else 0


if __name__ == "__main__":
    sys.exit(main())
