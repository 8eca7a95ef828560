"""Finds the smallest case that still breaks the same promise."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from answerback_proof.simulation.campaign import run_quietly
from answerback_proof.simulation.case import Case, Report

MAX_RUNS: Final = 400
OTHER_SEEDS: Final = 6
"""A smaller case that keeps its promises with the same seed is tried with so many others."""

SHORTEST_FAULTS_S: Final = 5.0


Step = Callable[[Case], Case]


def shrink(report: Report, *, run: Callable[[Case], Report] = run_quietly, max_runs: int = MAX_RUNS) -> Report:
    """The report of the smallest case found that breaks the same promise, after at most `max_runs` runs.

    Raises: ValueError: `report` broke none.
    """
    if not report.failed:
        raise ValueError("nothing to make smaller: the case keeps every promise")
    promise = report.violations[0].promise
    best, runs, is_smaller = report, 0, True
    others: tuple[int, ...] = ()
    while is_smaller or not others:
        # Once nothing goes any more with the seed that failed, others are tried as well.
        others = () if is_smaller else tuple(range(OTHER_SEEDS))
        is_smaller = False
        for step in _steps(best.case):
            case = step(best.case)
            if case == best.case:
                continue
            for seed in (case.seed, *others):
                if runs >= max_runs:
                    return best
                runs += 1
                tried = run(replace(case, seed=seed))
                if any(violation.promise == promise for violation in tried.violations):
                    best, is_smaller = tried, True
                    break
    return best


def _steps(case: Case) -> Iterator[Step]:
    """Ways to make a case smaller, the greatest savings first. One that does not apply returns an equal case."""
    for names in _groups(case.faults.active):
        yield partial(_without, names)
    yield lambda c: replace(c, apps=1)
    yield lambda c: replace(c, apps=max(1, c.apps // 2))
    yield lambda c: replace(c, apps=max(1, c.apps - 1))
    yield lambda c: replace(c, questions=1)
    yield lambda c: replace(c, questions=max(1, c.questions // 2))
    yield lambda c: replace(c, questions=max(1, c.questions - 1))
    yield lambda c: replace(c, faults_s=c.faults_s / 2 if c.faults_s / 2 >= SHORTEST_FAULTS_S else c.faults_s)


def _without(names: frozenset[str], case: Case) -> Case:
    """The case without these faults."""
    return replace(case, without=case.without | names) if names & set(case.faults.active) else case


def _groups(names: tuple[str, ...]) -> Iterator[frozenset[str]]:
    """All names, each half, and each name alone."""
    if len(names) > 1:
        yield frozenset(names)
        middle = len(names) // 2
        yield frozenset(names[:middle])
        yield frozenset(names[middle:])
    for name in names:
        yield frozenset({name})
