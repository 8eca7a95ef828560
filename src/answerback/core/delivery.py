"""A delivery is a cursor on an answer: "the text from the cursor to the end, as soon as the connection can take it".

Coalescing, slow readers, resume and a new attempt are all this one rule. `Delivery` decides which frame is next, and
when. Its driver sends that frame and reports the result (`sent`, `gone`, `slow`). Nothing is sent twice, unless a
target sets the cursor back.

A model may think for minutes without a word. So a delivery that has sent nothing for a while gives a sign of life, if
the client takes signs. The sign is the worker's: it says that the request is worked on, not that the model speaks.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from answerback.core.answer import Answer, cut
from answerback.core.instants import iso
from answerback.core.parts import TEXT, Mark
from answerback.core.request import DeliveryTarget, Ending, Question, Record
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import (
    Cost,
    ErrorBody,
    MessageAsked,
    MessageDelta,
    MessageProgress,
    MessageResponse,
    MessageStarted,
    ServerFrame,
    Status,
    Timing,
    Usage,
)
from answerback.protocol.limits import MAX_ASKED_BYTES, MAX_FRAME_BYTES

FRAME_RESERVE_BYTES = 2_048
"""Room in a frame for everything but the text: two ids and a model name of 128 four-byte characters, usage, timing;
of a delta one id and the name of a part."""

MAX_TEXT_BYTES = MAX_FRAME_BYTES - FRAME_RESERVE_BYTES
SLOW_RETRY_S = 0.25

COALESCE_MS: Final = 40
"""The shortest pause between two deltas: below what a reader can tell apart, and a burst of tokens is one frame (Ably
rolls up by 40 ms too). The gateway's `--coalesce-ms` sets another one."""

PROGRESS_S: Final = 8.0
"""How often a running answer gives a sign: three fit in the 30 s after which a client gives up, and one may be lost."""

_TEXT: Final = Mark(0, TEXT)

Interval: TypeAlias = Callable[[float], float]
"""Seconds between two deltas of an answer that has been streaming for so many seconds."""


def steady(interval_s: float = COALESCE_MS / 1000) -> Interval:
    """The same pause all along: frames cost little where we run the socket ourselves."""

    def interval(elapsed_s: float) -> float:
        return interval_s

    return interval


def growing(shortest_s: float = COALESCE_MS / 1000, longest_s: float = 1.0, share: float = 0.1) -> Interval:
    """A pause that grows with the answer's age: where each post is billed, a long answer costs few of them."""

    def interval(elapsed_s: float) -> float:
        return min(longest_s, max(shortest_s, elapsed_s * share))

    return interval


def response_frame(record: Record, text: str) -> MessageResponse:
    """The terminal frame of an ended record. Raises: ValueError: the record has not ended."""
    ending = record.ending
    if ending is None:
        raise ValueError("the record has no ending")
    whole = not record.stream and ending.status is Status.COMPLETED
    return MessageResponse(
        request_id=record.request_id,
        status=ending.status,
        response=text if whole else None,
        attempt=ending.attempt,
        length=ending.length,
        finish_reason=ending.finish_reason,
        error=error_body(ending),
        usage=usage_of(ending, tells_more=record.parts is not None),
        model=ending.model,
        timing=Timing(queued_ms=ending.queued_ms, first_text_ms=ending.first_text_ms, total_ms=ending.total_ms),
        cost=None if ending.cost_micro_usd is None else Cost(micro_usd=ending.cost_micro_usd),
    )


def usage_of(ending: Ending, *, tells_more: bool) -> Usage | None:
    """What the client is told of the tokens. `tells_more`: it takes what the first edition of the protocol lacks."""
    if ending.input_tokens is None or ending.output_tokens is None:
        return None
    return Usage(
        input_tokens=ending.input_tokens,
        output_tokens=ending.output_tokens,
        cached_tokens=ending.cached_tokens if tells_more else None,
        reasoning_tokens=ending.reasoning_tokens if tells_more else None,
    )


def error_body(ending: Ending) -> ErrorBody | None:
    """The error that a failed ending shows to the client."""
    code: ErrorCode | None = ending.error_code
    if code is None:
        return None
    info = ERRORS[code]
    return ErrorBody(
        code=code,
        message=ending.error_detail or info.message,
        retryable=info.retryable if ending.retryable is None else ending.retryable,
        retry_after_ms=ending.retry_after_ms,
        reason=ending.error_reason,
        resets_at=None if ending.opens_at_ms is None else iso(ending.opens_at_ms),
    )


def asked_frame(record: Record, question: Question) -> MessageAsked:
    """What another session is shown of a question, before its answer."""
    end = cut(question.message, 0, MAX_ASKED_BYTES)
    return MessageAsked(
        request_id=record.request_id,
        conversation_id=record.conversation_id,
        question=question.message[:end],
        question_length=len(question.message) if end < len(question.message) else None,
        model=record.model,
        replaces=question.replaces,
        accepted_at=iso(record.accepted_at_ms),
    )


class Delivery:
    """One attempt's answer on its way to one session. Times are monotonic seconds."""

    __slots__ = (
        "__weakref__",
        "_answer",
        "_asked",
        "_asked_is_due",
        "_interval",
        "_last_frame_at",
        "_last_sent",
        "_not_before",
        "_offered",
        "_record",
        "_spoke_at",
        "_start_sent",
        "_started_at",
        "connection_id",
        "is_gone",
        "offset",
        "target_no",
    )

    def __init__(
        self,
        record: Record,
        answer: Answer,
        interval: Interval,
        *,
        now: float,
        target: DeliveryTarget | None = None,
        asked: MessageAsked | None = None,
    ) -> None:
        """Deliver to `target`, else to the one in `record`. `asked`: the target is a session that watches."""
        self._record = record
        self._asked = asked
        self._asked_is_due = False
        self._answer = answer
        self._interval = interval
        self._started_at = self._spoke_at = now
        self.connection_id: str | None = None
        """Where frames go now. None: to no connection."""
        self.offset = 0
        """Code points sent to the present connection."""
        self.target_no = 0
        """Which target it goes to."""
        self.is_gone = False
        """Whether the connection was lost before the ending was out."""
        self._start_sent = False
        self._last_sent: float | None = None
        self._not_before = 0.0
        self._offered = 0
        # A later attempt gives a sign at once: its client has heard nothing for a whole lease.
        self._last_frame_at = now if answer.attempt == 1 else now - PROGRESS_S
        if (first := target or record.target) is not None:
            self.retarget(first)

    @property
    def record(self) -> Record:
        """Whose answer it is, as far as its driver has said."""
        return self._record

    @property
    def attempt(self) -> int:
        """Which attempt's text this is."""
        return self._answer.attempt

    def retarget(self, target: DeliveryTarget) -> bool:
        """Apply a target (rule: each target once). Returns whether the cursor was set.

        Another attempt, or an offset past the end, means from the start. That puts no sign off: a client may ask again
        and again.
        """
        if target.no <= self.target_no:
            return False
        self.target_no = target.no
        self.is_gone = False
        self.connection_id = target.connection_id
        same = target.attempt == self._answer.attempt
        self.offset = target.offset if same and target.offset <= self._answer.length else 0
        self._start_sent = same
        self._asked_is_due = self._asked is not None and not target.attempt
        self._last_sent = None
        self._not_before = 0.0
        return True

    def spoke(self, *, now: float) -> None:
        """The model has said something, be it nothing that is shown."""
        self._spoke_at = now

    def ended(self, record: Record) -> None:
        """The ending is stored: the rest goes out at once (rule: the newest target gets the ending)."""
        self._record = record
        if record.target is not None and self._asked is None:
            self.retarget(record.target)

    @property
    def is_done(self) -> bool:
        """Whether only a new target can bring more: the ending is out, or the connection is gone."""
        return self.connection_id is None

    def next_frame(self, *, now: float) -> ServerFrame | None:
        """The frame that is due now. None: nothing, until `due_at`."""
        if self.connection_id is None or now < self._not_before:
            return None
        if self._asked_is_due:
            return self._asked
        ending = self._record.ending
        if self._record.stream:
            if not self._start_sent and (ending is None or self._answer.length):
                return MessageStarted(request_id=self._record.request_id, attempt=self._answer.attempt)
            if self.offset < self._answer.length and (ending is not None or now >= self._next_text_at()):
                text = self._answer.text
                self._offered = len(text)
                end = cut(text, self.offset, MAX_TEXT_BYTES)
                part, mark = 0, _TEXT
                if self._answer.marks:  # one frame, one part: a resume in the middle of it then needs nothing else
                    part, mark, following = self._answer.part_at(self.offset)
                    end = min(end, following)
                return MessageDelta(
                    request_id=self._record.request_id,
                    attempt=self._answer.attempt,
                    offset=self.offset,
                    delta=text[self.offset : end],
                    part=part,
                    kind=mark.kind,
                    name=mark.name if mark.offset == self.offset else None,
                )
        if ending is not None:
            return response_frame(self._record, self._answer.text)
        if (sign_at := self._sign_at()) is not None and now >= sign_at:
            return MessageProgress(
                request_id=self._record.request_id,
                attempt=self._answer.attempt,
                silent_ms=max(0, round((now - self._spoke_at) * 1000)),
            )
        return None

    def due_at(self) -> float | None:
        """When `next_frame` should be asked again, if nothing else happens. None: not before more text or a target."""
        text_at, sign_at = self.text_due_at(), self._sign_at()
        if text_at is None or sign_at is None:
            return sign_at if text_at is None else text_at
        return min(text_at, sign_at)

    def text_due_at(self) -> float | None:
        """When what is there already may go out: more text that comes until then goes with it. None: nothing waits."""
        if self.connection_id is None:
            return None
        if self._record.ending is not None or self._asked_is_due:
            return self._not_before
        if not self._record.stream:
            return None
        if not self._start_sent:
            return self._not_before
        if self.offset >= self._answer.length:
            return None
        return max(self._not_before, self._next_text_at())

    def _sign_at(self) -> float | None:
        if self.connection_id is None or self._record.parts is None or self._record.ending is not None:
            return None
        return max(self._not_before, self._last_frame_at + PROGRESS_S)

    def sent(self, frame: ServerFrame, *, now: float) -> None:
        """`frame`, got from `next_frame`, has left."""
        self._last_frame_at = now
        match frame:
            case MessageProgress():
                pass
            case MessageStarted():
                self._start_sent = True
            case MessageDelta():
                self.offset = frame.offset + len(frame.delta)
                # A part, or a frame, that is full is no reason to wait: twenty short parts would come a pause apart.
                if self.offset >= self._offered:
                    self._last_sent = now
            case MessageResponse():
                self.connection_id = None
            case MessageAsked():
                self._asked_is_due = False
            case _:
                raise ValueError(f"not a frame of a delivery: {type(frame).__name__}")

    def left(self) -> None:
        """The session watches no longer."""
        self.connection_id = None

    def gone(self) -> None:
        """The connection is gone: detach the cursor. The model goes on, for only an explicit cancellation stops it."""
        self.connection_id = None
        self.is_gone = True

    def slow(self, *, now: float) -> None:
        """The connection cannot take more now: keep the offset and try again later, with one bigger piece.

        A sign is not kept: the connection has enough to read.
        """
        self._not_before = now + SLOW_RETRY_S
        self._last_frame_at = now

    def ready(self) -> None:
        """The slow connection takes frames again."""
        self._not_before = 0.0

    def _next_text_at(self) -> float:
        if self._last_sent is None:
            return 0.0
        return self._last_sent + self._interval(self._last_sent - self._started_at)
