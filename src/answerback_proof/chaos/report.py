"""The report at the end, and the trace of the requests that broke a promise."""

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from answerback.protocol.frames import Error
from answerback_proof.chaos.faults import ConnectionFaults
from answerback_proof.history import Ended, Fault, ModelRun, Result, RunHistory, ToApp, Violation, ViolationKind

_SHOWN: Final = 20


class ChaosReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What happened. `accepted`: requests whose acceptance left the gateway or is in the store.

    `timed_out`: given up by the app's own client. `unsent`: cancelled or given up before they were accepted.
    `watched`: endings that other apps of the user saw, each compared with what the store holds.
    `attempts`: how many requests needed so many runs of the model. `errors`: frames that were not endings, as
    `unavailable` in an outage of the store. `faults`: how often each kind was injected, 0 included.
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
    watched: int
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
        return not self.violations

    @property
    def never_injected(self) -> list[str]:
        """Kinds of faults that this run says nothing about."""
        return [fault for fault, count in self.faults.items() if not count]

    def broken(self, kind: ViolationKind) -> int:
        """Requests with a violation of this kind; those that are about none count each."""
        found = [violation for violation in self.violations if violation.kind is kind]
        return len({violation.request or violation.detail for violation in found})

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = msgspec.to_builtins(self)
        values["violations"] = [{"kind": v.kind, "request_id": v.request, "detail": v.detail} for v in self.violations]
        return {
            **values,
            **{kind.value: self.broken(kind) for kind in ViolationKind},
            "neverStruck": self.never_injected,
        }

    def rows(self) -> list[tuple[str, str]]:
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
            ("watched", f"{self.watched} answers seen by other apps of their users, and compared"),
            ("model runs", f"{self.model_runs}; attempts {attempts}"),
            ("sent again", ", ".join(f"{count} after {code}" for code, count in self.errors.items()) or "none"),
            ("kills", f"{self.kills} times SIGKILL"),
            *(("fault", f"{count} times {fault}") for fault, count in self.faults.items() if count),
            *(("never injected", fault) for fault in self.never_injected),
        ]
        rows += [(str(v.kind), f"{v.request or 'the whole'}: {v.detail}") for v in self.violations[:_SHOWN]]
        if len(self.violations) > _SHOWN:
            rows.append(("", f"… and {len(self.violations) - _SHOWN} more"))
        if self.kept is not None:
            rows.append(("kept", self.kept))
        rows.append(("checked", ", ".join(f"{self.broken(kind)} {kind}" for kind in ViolationKind)))
        return rows


def conclude(
    connections: ConnectionFaults,
    violations: Sequence[Violation],
    *,
    folder: Path,
    store: str,
    faults: Sequence[str],
    kills: Sequence[str],
    began: float,
    failed_starts: int = 0,
) -> ChaosReport:
    """The report of a run that was checked. Keep the folder if the plan says so, or a promise was broken.

    `faults`: every kind that there is. `kills`: those that are a SIGKILL. `began`: by `time.monotonic`.
    """
    plan, history = connections.plan, connections.history
    kept = folder if violations or plan.keep is not None else None
    if kept is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        write_trace(kept / "trace.jsonl", history, violations)
    events = [event for _, event in history.events]
    endings: dict[str, Ended] = {}
    for event in events:
        if isinstance(event, Ended) and event.observer not in history.watched:
            endings.setdefault(event.request, event)
    results = Counter(ending.result for ending in endings.values())
    frames = [event.frame for event in events if isinstance(event, ToApp)]
    runs = [event.request for event in events if isinstance(event, ModelRun)]
    accepted = (history.accepted | history.records().keys()) & history.asked.keys()
    return ChaosReport(
        seed=plan.seed,
        store=store,
        apps=plan.apps,
        seconds=round(time.monotonic() - began, 1),
        asked=len(history.asked),
        accepted=len(accepted),
        completed=results[Result.COMPLETED],
        cancelled=results[Result.CANCELLED],
        failed=dict(Counter(ending.code for ending in endings.values() if ending.result is Result.FAILED)),
        timed_out=results[Result.TIMED_OUT],
        unsent=len(history.asked) - len(accepted),
        watched=sum(isinstance(event, Ended) and event.observer in history.watched for event in events),
        attempts=dict(sorted(Counter(Counter(runs).values()).items())),
        model_runs=len(runs),
        frames=len(frames),
        connections=connections.proxy.connected,
        errors=dict(Counter(frame.code.value for frame in frames if isinstance(frame, Error))),
        kills=sum(history.faults[kill] for kill in kills),
        faults={str(fault): history.faults[fault] for fault in faults},
        failed_starts=failed_starts,
        violations=tuple(violations),
        kept=None if kept is None else str(kept),
    )


def write_trace(path: Path, history: RunHistory, violations: Sequence[Violation]) -> None:
    """JSON lines: the violations, the faults, then every event about a request that a violation names."""
    named = (word for one in violations for word in (one.request, *one.detail.replace(":", " ").split()))
    broken = {*named} - {""}
    with path.open("wb") as trace:

        def line(**facts: Any) -> None:
            trace.write(msgspec.json.encode(facts, enc_hook=repr) + b"\n")

        for violation in violations:
            line(violation=violation.kind, requestId=violation.request, detail=violation.detail)
        for at_ms, event in history.events:
            request = getattr(event, "request", None)
            if isinstance(event, Fault):
                line(atMs=at_ms, fault=event.name)
            elif request in broken and not isinstance(event, Violation):
                line(atMs=at_ms, requestId=request, event=type(event).__name__, facts=event)
