"""Runs many seeds of many profiles on several processors, tallies them, and shrinks a run that fails."""

import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from answerback_proof.simulation.case import Case, Report
from answerback_proof.simulation.injector import PROFILES
from answerback_proof.simulation.world import simulate

BATCH: Final = 16
"""Cases that a worker process takes at once."""

MAX_RUNS: Final = 400
OTHER_SEEDS: Final = 6
"""A smaller case that keeps its promises with the same seed is tried with so many others."""

SHORTEST_FAULTS_S: Final = 5.0

Step = Callable[[Case], Case]


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the runs of one profile did, together."""

    profile: str
    runs: int = 0
    asked: int = 0
    posts: int = 0
    model_runs: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    failures: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        self.runs += 1
        self.asked += report.asked
        self.posts += report.posts
        self.model_runs += report.model_runs
        self.virtual_s += report.virtual_s
        self.faults += report.faults
        self.endings += report.endings
        if report.failed:
            self.failures.append(report)

    @property
    def never_injected(self) -> Sequence[str]:
        """Faults of the profile that did not happen in any run: about them nothing was proved."""
        return sorted(PROFILES[self.profile].labels - set(self.faults))


def run_cases(cases: Iterable[Case], *, jobs: int) -> Iterator[Report]:
    """The report of each case, in order. With several processes only those that failed keep their traces."""
    if jobs <= 1:
        yield from map(run_quietly, cases)
        return
    # A fresh interpreter each: the caller may have threads, and those do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=context) as pool:
        yield from pool.map(_run_briefly, cases, chunksize=BATCH)


def run_quietly(case: Case) -> Report:
    """One case without the log lines that its faults would make."""
    log = logging.getLogger("answerback")
    was_disabled = log.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        report = simulate(case)
    finally:
        logging.disable(was_disabled)
    return report


def _run_briefly(case: Case) -> Report:
    report = run_quietly(case)
    if not report.failed:
        report.trace.clear()
    return report


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
