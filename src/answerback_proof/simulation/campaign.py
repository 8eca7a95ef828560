"""Many seeds of many profiles, on several processors, and what they exercised."""

import logging
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from answerback_proof.simulation.case import Case, Report
from answerback_proof.simulation.faults import PROFILES
from answerback_proof.simulation.world import simulate

BATCH: Final = 16
"""Cases that a worker process takes at once."""


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
