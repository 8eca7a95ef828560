"""What was asked and what came of it, written down by everybody who sees a part of it."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

_WIRE_KEPT: Final = 400
"""Frames kept of one request, for the trace."""


class Kind(StrEnum):
    """What must not happen."""

    LOST = "lost"
    REPEATED = "repeated"
    FOREIGN = "foreign"
    DIFFERENT = "different"
    DISORDERED = "disordered"
    BROKEN = "broken"


class Result(StrEnum):
    """How a question ended for its app. TIMED_OUT is an ending that the app's client made."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise that was not kept, with the request that shows it ('' if it is about none)."""

    kind: Kind
    request_id: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The ending that an app saw. `code`: of a failure."""

    result: Result
    text: str
    attempt: int
    code: str = ""


@dataclass(slots=True, kw_only=True)
class Asked:
    """One question. Instants in milliseconds since the epoch, as the store has them.

    `number` counts the questions of one conversation in the order asked. `accepted_at_ms`: when the first frame that
    says so left the gateway.
    """

    request_id: str
    user: str
    session: str
    conversation: str | None
    number: int
    text: str
    how: str
    asked_at_ms: int
    accepted_at_ms: int | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    ending_on_wire: tuple[str, int, int] | None = None
    wire: list[dict[str, Any]] = field(default_factory=list)

    def note(self, **facts: Any) -> None:
        """Keep a line for the trace."""
        if len(self.wire) < _WIRE_KEPT:
            self.wire.append({"atMs": now_ms(), **facts})


class Book:
    """Every question by its id, every fault, every violation found on the way."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.violations: list[Violation] = []
        self.faults: list[tuple[int, str]] = []
        self.errors: Counter[str] = Counter()
        self.frames = 0
        self.runs: defaultdict[str, list[int]] = defaultdict(list)
        """Attempts that the model was run for, by request, in the order told."""
        self.run_order: list[str] = []
        """Requests in the order in which the model was run for them."""
        self._ended = asyncio.Semaphore(0)

    def ask(self, asked: Asked) -> Asked:
        """A question is about to go out."""
        self.asked[asked.request_id] = asked
        return asked

    def end(self, asked: Asked, outcome: Outcome) -> None:
        """The app has seen an ending."""
        asked.outcomes.append(outcome)
        self._ended.release()
        asked.note(app=outcome.result.value, code=outcome.code, attempt=outcome.attempt, length=len(outcome.text))

    async def until_answered(self, count: int) -> None:
        """Wait for the next so many endings."""
        for _ in range(count):
            await self._ended.acquire()

    def violate(self, kind: Kind, request_id: str, detail: str) -> None:
        """A promise was not kept."""
        self.violations.append(Violation(kind=kind, request_id=request_id, detail=detail))

    def struck(self, fault: str) -> None:
        """A fault strikes now."""
        self.faults.append((now_ms(), fault))

    def counts(self) -> Counter[str]:
        """How often each fault struck."""
        return Counter(fault for _, fault in self.faults)

    @property
    def pending(self) -> Iterator[Asked]:
        """Questions without an ending."""
        return (asked for asked in self.asked.values() if not asked.outcomes)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
