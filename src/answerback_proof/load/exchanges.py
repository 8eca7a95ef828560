"""The history of a load test in compact form: one entry a request, whose text is let go once it is checked.

A load test sends hundreds of thousands of frames, so no event is kept for each. A load client never resumes: every
text comes once, in order, and whole.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Error,
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    MessageStarted,
    ServerFrame,
    Status,
)
from answerback_proof.answer_text import AnswerText, Flaw
from answerback_proof.checker import ViolationCounts, count
from answerback_proof.history import Promise, Violation, ViolationKind

_MAX_EXAMPLES = 10


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """One question. Instants in seconds on the caller's clock; `due_at` is when it should have been sent.

    `text`: what came of the answer; None once it has ended.
    """

    app: int
    request_id: str
    expected: str | None
    due_at: float
    accepted_at: float | None = None
    first_text_at: float | None = None
    last_text_at: float | None = None
    ended_at: float | None = None
    text: AnswerText | None = field(default_factory=AnswerText)


class Exchanges:
    """Takes every question and every frame, and checks each exchange.

    `on_gap` gets the seconds between two pieces of one answer.
    """

    def __init__(self, *, on_gap: Callable[[float], None] | None = None) -> None:
        self.violations: list[Violation] = []
        self.failures: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.frames = 0
        self.ended: list[Exchange] = []
        self._on_gap = on_gap
        self._exchanges: dict[str, Exchange] = {}

    @property
    def pending(self) -> int:
        """Questions without an ending."""
        return len(self._exchanges) - len(self.ended)

    @property
    def counts(self) -> ViolationCounts:
        """Violations in three numbers."""
        return count(self.violations)

    @property
    def examples(self) -> list[str]:
        """The first violations in words."""
        found = self.violations[:_MAX_EXAMPLES]
        return [f"{'misrouted' if v.kind is ViolationKind.FOREIGN else v.kind}: {v.detail}" for v in found]

    def asked(self, app: int, request_id: str, *, expected: str | None, due_at: float) -> Exchange:
        """A question goes out. `expected`: the text of its answer, if it is known before."""
        exchange = Exchange(app=app, request_id=request_id, expected=expected, due_at=due_at)
        self._exchanges[request_id] = exchange
        return exchange

    def received(self, app: int, frame: ServerFrame | None, *, now: float) -> Exchange | None:
        """A frame has come to this app; the exchange that it ends, if it ends one."""
        self.frames += 1
        match frame:
            case MessageDelta():
                if (exchange := self._owned(app, frame.request_id)) is not None:
                    self._add(exchange, frame, now)
            case MessageAccepted():
                exchange = self._owned(app, frame.request_id)
                if exchange is not None and exchange.accepted_at is None:
                    exchange.accepted_at = now
            case MessageStarted():
                exchange = self._owned(app, frame.request_id)
                if exchange is not None and exchange.text is not None:
                    exchange.text.begin(frame.attempt)
            case MessageResponse():
                exchange = self._owned(app, frame.request_id)
                return None if exchange is None else self._end(exchange, frame, now)
            case Error():
                return self._refused(app, frame, now)
            case _:
                pass
        return None

    def close(self) -> None:
        """Nothing more comes: what has no ending is lost."""
        for exchange in self._exchanges.values():
            if exchange.ended_at is None:
                self._violate(Promise.ANSWERED, ViolationKind.LOST, exchange, "no ending")

    def _owned(self, app: int, request_id: str) -> Exchange | None:
        exchange = self._exchanges.get(request_id)
        if exchange is None or exchange.app != app:
            owner = "nobody" if exchange is None else f"app {exchange.app}"
            detail = f"a frame about request {request_id} of {owner} came to app {app}"
            self.violations.append(
                Violation(promise=Promise.OWN_ANSWER, kind=ViolationKind.FOREIGN, request=request_id, detail=detail)
            )
            return None
        return exchange

    def _add(self, exchange: Exchange, frame: MessageDelta, now: float) -> None:
        text = exchange.text
        if text is None:
            self._violate(
                Promise.EXACT_TEXT, ViolationKind.REPEATED, exchange, f"text at {frame.offset} after the ending"
            )
            return
        flaw = text.add(frame.attempt, frame.offset, frame.delta)
        if flaw is not None:
            self._note(exchange, flaw)
        if exchange.first_text_at is None:
            exchange.first_text_at = now
        elif self._on_gap is not None and exchange.last_text_at is not None:
            self._on_gap(now - exchange.last_text_at)
        exchange.last_text_at = now

    def _end(self, exchange: Exchange, frame: MessageResponse, now: float) -> Exchange | None:
        text = exchange.text
        if text is None:
            self._violate(Promise.ONE_ENDING, ViolationKind.REPEATED, exchange, "a second ending")
            return None
        flaw = text.end(frame.attempt, frame.length, frame.response)
        if frame.status is not Status.COMPLETED:
            self.failures[str(frame.error.code if frame.error else frame.status)] += 1
        elif exchange.expected is not None and text.text != exchange.expected:
            flaw = None  # the same, said better
            self._wrong(exchange, text.text, exchange.expected)
        elif frame.response is None and text.length != frame.length:
            flaw = Flaw(ViolationKind.LOST, f"the ending says {frame.length} code points, but {text.length} came")
        if flaw is not None:
            self._note(exchange, flaw)
        return self._over(exchange, now)

    def _refused(self, app: int, frame: Error, now: float) -> Exchange | None:
        if frame.request_id is None or frame.code is ErrorCode.SESSION_REPLACED:
            self.errors[str(frame.code)] += 1
            return None
        exchange = self._owned(app, frame.request_id)
        if exchange is None or exchange.ended_at is not None:
            return None
        self.failures[str(frame.code)] += 1
        return self._over(exchange, now)

    def _over(self, exchange: Exchange, now: float) -> Exchange:
        exchange.ended_at = now
        exchange.text = None
        self.ended.append(exchange)
        return exchange

    def _wrong(self, exchange: Exchange, got: str, expected: str) -> None:
        pairs = enumerate(zip(got, expected, strict=False))
        at = next((at for at, (a, b) in pairs if a != b), min(len(got), len(expected)))
        detail = f"{len(got)} code points instead of {len(expected)}, different from {at} on"
        if any(other.expected == got for other in self._exchanges.values()):
            self._violate(Promise.OWN_ANSWER, ViolationKind.FOREIGN, exchange, detail)
        elif len(got) > len(expected):
            self._violate(Promise.EXACT_TEXT, ViolationKind.REPEATED, exchange, detail)
        else:
            self._violate(Promise.EXACT_TEXT, ViolationKind.LOST, exchange, detail)

    def _note(self, exchange: Exchange, flaw: Flaw) -> None:
        if flaw.kind is not ViolationKind.DISORDERED:  # text of an older attempt, which a client ignores
            self._violate(Promise.EXACT_TEXT, flaw.kind, exchange, flaw.detail)

    def _violate(self, promise: Promise, kind: ViolationKind, exchange: Exchange, detail: str) -> None:
        detail = f"request {exchange.request_id} of app {exchange.app}: {detail}"
        self.violations.append(Violation(promise=promise, kind=kind, request=exchange.request_id, detail=detail))
