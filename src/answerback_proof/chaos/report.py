"""The ledger at the end, and the trace of what broke it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from answerback.core.request import Record
from answerback_proof.chaos.book import Book, Kind, Result, Violation
from answerback_proof.chaos.plan import ChaosPlan

_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosReport:
    """What happened. `accepted`: requests whose acceptance left the gateway or is in the store.

    `timed_out`: given up by the app's own client. `unsent`: cancelled or given up before they were accepted.
    `attempts`: how many requests needed so many runs of the model. `errors`: frames that were not endings, as
    `unavailable` while the store was away. `faults`: how often each kind struck, 0 included.
    """

    seed: int
    store: str
    apps: int
    seconds: float
    asked: int
    accepted: int
    completed: int
    cancelled: int
    failed: Mapping[str, int]
    timed_out: int
    unsent: int
    attempts: Mapping[int, int]
    model_runs: int
    frames: int
    connections: int
    errors: Mapping[str, int]
    kills: int
    faults: Mapping[str, int]
    failed_starts: int
    violations: Sequence[Violation]
    kept: str | None

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    @property
    def never_struck(self) -> list[str]:
        """Kinds of faults that this run says nothing about."""
        return [fault for fault, count in self.faults.items() if not count]

    def broken(self, kind: Kind) -> int:
        """Requests with a violation of this kind; those that are about none count each."""
        found = [violation for violation in self.violations if violation.kind is kind]
        return len({violation.request_id or violation.detail for violation in found})

    def as_json(self) -> dict[str, Any]:
        """With names in camelCase."""
        values = {_camel(name): value for name, value in asdict(self).items()}
        return {**values, **{kind.value: self.broken(kind) for kind in Kind}, "neverStruck": self.never_struck}

    def rows(self) -> list[tuple[str, str]]:
        """For people: what, and how much."""
        failed = ", ".join(f"{count} {code}" for code, count in self.failed.items())
        attempts = ", ".join(f"{number}: {count}" for number, count in self.attempts.items())
        rows = [
            ("run", f"seed {self.seed}, {self.store}, {self.apps} apps, {self.seconds:.0f} s"),
            ("asked", f"{self.asked} questions over {self.connections} connections, {self.frames} frames came"),
            ("accepted", str(self.accepted)),
            ("completed", str(self.completed)),
            ("cancelled", str(self.cancelled)),
            ("failed", f"{sum(self.failed.values())}{f' ({failed})' if failed else ''}"),
            ("timed out", f"{self.timed_out} (given up by their apps)"),
            ("not accepted", f"{self.unsent} (stopped by their apps before)"),
            ("model runs", f"{self.model_runs}; attempts {attempts}"),
            ("sent again", ", ".join(f"{count} after {code}" for code, count in self.errors.items()) or "none"),
            ("kills", f"{self.kills} times SIGKILL"),
            *(("fault", f"{count} times {fault}") for fault, count in self.faults.items() if count),
            *(("never struck", fault) for fault in self.never_struck),
        ]
        rows += [(str(v.kind), f"{v.request_id or 'the whole'}: {v.detail}") for v in self.violations[:_SHOWN]]
        if len(self.violations) > _SHOWN:
            rows.append(("", f"… and {len(self.violations) - _SHOWN} more"))
        if self.kept is not None:
            rows.append(("kept", self.kept))
        rows.append(("judged", ", ".join(f"{self.broken(kind)} {kind}" for kind in Kind)))
        return rows


def report_of(
    plan: ChaosPlan,
    book: Book,
    records: Mapping[str, Record],
    *,
    store: str,
    faults: Sequence[str],
    kills: Sequence[str],
    seconds: float,
    connections: int,
    failed_starts: int,
    kept: Path | None,
) -> ChaosReport:
    """The ledger of a run that was judged. `faults`: every kind that there is; `kills`: those that are a SIGKILL."""
    outcomes = {asked.request_id: asked.outcomes[0] for asked in book.asked.values() if asked.outcomes}
    results = Counter(outcome.result for outcome in outcomes.values())
    accepted = {asked.request_id for asked in book.asked.values() if asked.accepted_at_ms is not None} | set(records)
    struck = book.counts()
    return ChaosReport(
        seed=plan.seed,
        store=store,
        apps=plan.apps,
        seconds=round(seconds, 1),
        asked=len(book.asked),
        accepted=len(accepted),
        completed=results[Result.COMPLETED],
        cancelled=results[Result.CANCELLED],
        failed=dict(Counter(outcome.code for outcome in outcomes.values() if outcome.result is Result.FAILED)),
        timed_out=results[Result.TIMED_OUT],
        unsent=len(book.asked) - len(accepted),
        attempts=dict(sorted(Counter(len(runs) for runs in book.runs.values()).items())),
        model_runs=len(book.run_order),
        frames=book.frames,
        connections=connections,
        errors=dict(book.errors),
        kills=sum(struck[kill] for kill in kills),
        faults={fault: struck[fault] for fault in faults},
        failed_starts=failed_starts,
        violations=tuple(book.violations),
        kept=None if kept is None else str(kept),
    )


def write_trace(path: Path, book: Book, records: Mapping[str, Record]) -> None:
    """JSON lines: the faults, then everything about each request that shows a violation."""
    broken = dict.fromkeys(violation.request_id for violation in book.violations)
    with path.open("w", encoding="utf-8") as trace:

        def line(**facts: Any) -> None:
            trace.write(json.dumps(facts, ensure_ascii=False, default=str) + "\n")

        for violation in book.violations:
            line(violation=violation.kind, requestId=violation.request_id, detail=violation.detail)
        for at_ms, fault in book.faults:
            line(atMs=at_ms, fault=fault)
        for request_id in broken:
            asked, record = book.asked.get(request_id), records.get(request_id)
            if asked is not None:
                line(**asdict(asked))
            if record is not None:
                line(requestId=request_id, record=repr(record))


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)
