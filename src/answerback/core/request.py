"""The record of a request, and every change that it can go through.

Theory of operation. A request is one small immutable `Record`. All that decides about it (who may run it, where its
answer goes, how it ended) is in that record, and every change is one of the functions below: it takes the record as
it is (None if there is none) and returns a `Step`: the record as it shall be, and what the caller learns. A store
applies a step atomically (`ports.Requests.change`), so two processes that want to change one record are put in an
order, and the second sees what the first did. Nothing here reads a clock: `now_ms` is an argument.

          accept            claim                     finish
    ( ) ---------> accepted -------> running (attempt n) -------> completed | failed | cancelled
     |                |                 ^  |                               ^
     | refuse, cancel | cancel, expire  +--+ claim after a lost lease      | cancel is only noted: the worker ends it
     +----------------+---------------------------------------------------->

The rules named R1 to R17 are listed, with their homes, in ARCHITECTURE.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status

T_co = TypeVar("T_co", covariant=True)

SCHEMA: Final = 1
"""Version of the record's form; a reader upgrades older ones, so that work in flight survives an upgrade."""


class RequestKey(NamedTuple):
    """A request id is a name inside its user."""

    user_id: str
    request_id: str


class State(StrEnum):
    """Where a request is. The last three are terminal."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can change any more."""
        return self in _TERMINAL


_TERMINAL: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


class DeliveryTarget(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the answer shall go, from which code point on (R1). `no` counts the targets of one request."""

    no: int
    connection_id: str
    generation: int
    attempt: int = 0
    offset: int = 0


class Ending(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a request ended; its text is kept apart. Times in milliseconds, `ended_at_ms` since the epoch."""

    status: Status
    attempt: int
    length: int
    ended_at_ms: int
    finish_reason: str | None = None
    error_code: ErrorCode | None = None
    error_detail: str | None = None
    retry_after_ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str | None = None
    queued_ms: int = 0
    first_text_ms: int | None = None
    total_ms: int = 0


class Question(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked. Never changes after acceptance."""

    message: str
    model: str
    system: str | None = None
    max_tokens: int | None = None
    replaces: str | None = None


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"target": "wish"}):
    """Everything that decides about one request; small, because it is written often.

    `conversation_id` is where the turn is kept; `standalone` says that the request named none, so no context is
    given to the model. `owner` and `lease_until_ms` name the worker that runs `attempt`.
    """

    user_id: str
    request_id: str
    session_id: str
    conversation_id: str
    ordering_key: str
    fingerprint: str
    model: str
    accepted_at_ms: int
    standalone: bool = False
    stream: bool = False
    state: State = State.ACCEPTED
    attempt: int = 0
    owner: str = ""
    lease_until_ms: int = 0
    started_at_ms: int | None = None
    queue_no: int = 0
    cancel_requested: bool = False
    target: DeliveryTarget | None = None
    ending: Ending | None = None
    schema: int = SCHEMA

    @property
    def key(self) -> RequestKey:
        """The record's name in a store."""
        return RequestKey(self.user_id, self.request_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Durations in milliseconds; absolute instants are computed from the record, so every process agrees."""

    lease_ms: int = 20_000
    answer_timeout_ms: int = 120_000
    queue_timeout_ms: int = 600_000
    max_attempts: int = 3


# --- outcomes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step(Generic[T_co]):
    """Write `record` (None: leave it as it is), then tell the caller `outcome`. `text`: the answer, with an ending."""

    record: Record | None
    outcome: T_co
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The caller runs this attempt until the lease ends."""

    record: Record


@dataclass(frozen=True, slots=True)
class Busy:
    """Another worker holds the lease until then."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The request has ended: serve the stored ending. `is_new`: this very change has ended it."""

    record: Record
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """The request goes on; its worker will see what was noted."""

    record: Record


@dataclass(frozen=True, slots=True)
class Held:
    """The lease was extended. `record` has the newest target and cancellation."""

    record: Record


@dataclass(frozen=True, slots=True)
class Fenced:
    """The caller's attempt is over: it may write nothing more. None: the record is gone."""

    record: Record | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """The id belongs to another session of the user, or to another payload."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No such request."""


# --- the table ----------------------------------------------------------------------------------------------


class Event(StrEnum):
    """What can happen to a record."""

    CLAIM = "claim"
    RENEW = "renew"
    FINISH = "finish"
    RETARGET = "retarget"
    CANCEL = "cancel"
    EXPIRE = "expire"
    QUEUED = "queued"
    RECOVER = "recover"


class Verdict(StrEnum):
    """What a (state, event) pair leads to. *_IF_* verdicts hold a guard; when it fails the event is refused."""

    RUN = "run"
    RUN_IF_LEASE_LOST = "run if the lease is lost"
    HOLD_IF_OWNER = "extend the lease if owner and attempt are the caller's"
    END_IF_OWNER = "end if owner and attempt are the caller's"
    END = "end, raising the attempt"
    END_IF_LEASE_LOST = "end, raising the attempt, if the lease is lost"
    NOTE = "note it in the record"
    CLEAR = "clear the lease and the wish"
    ENDED = "ended already"
    ENDED_IF_OWNER = "ended already; success if by the caller"
    FENCED = "refused: not the caller's attempt"
    IGNORE = "nothing to do"


_WHEN_ENDED: Final = {
    Event.CLAIM: Verdict.ENDED,
    Event.RENEW: Verdict.FENCED,
    Event.FINISH: Verdict.ENDED_IF_OWNER,
    Event.RETARGET: Verdict.ENDED,
    Event.CANCEL: Verdict.ENDED,
    Event.EXPIRE: Verdict.ENDED,
    Event.QUEUED: Verdict.IGNORE,
    Event.RECOVER: Verdict.IGNORE,
}
TRANSITIONS: Final[Mapping[State, Mapping[Event, Verdict]]] = MappingProxyType(
    {
        State.ACCEPTED: {
            Event.CLAIM: Verdict.RUN,
            Event.RENEW: Verdict.FENCED,
            Event.FINISH: Verdict.FENCED,
            Event.RETARGET: Verdict.NOTE,
            Event.CANCEL: Verdict.END,
            Event.EXPIRE: Verdict.END,
            Event.QUEUED: Verdict.NOTE,
            Event.RECOVER: Verdict.CLEAR,
        },
        State.RUNNING: {
            Event.CLAIM: Verdict.RUN_IF_LEASE_LOST,
            Event.RENEW: Verdict.HOLD_IF_OWNER,
            Event.FINISH: Verdict.END_IF_OWNER,
            Event.RETARGET: Verdict.NOTE,
            Event.CANCEL: Verdict.NOTE,
            Event.EXPIRE: Verdict.END_IF_LEASE_LOST,
            Event.QUEUED: Verdict.IGNORE,
            Event.RECOVER: Verdict.CLEAR,
        },
        State.COMPLETED: _WHEN_ENDED,
        State.FAILED: _WHEN_ENDED,
        State.CANCELLED: _WHEN_ENDED,
    }
)


# --- the changes --------------------------------------------------------------------------------------------


def claim(record: Record | None, *, owner: str, now_ms: int, policy: Policy) -> Step[Claimed | Busy | Ended | Unknown]:
    """A worker wants to run the request. `owner` is a token that no other run has.

    A noted cancellation (R10), a deadline that has passed and the last allowed attempt (R12) end it here, without
    running the model. A claim by the owner of the lease succeeds again: its first answer was lost (R11).
    """
    if record is None:
        return Step(None, Unknown())
    verdict = TRANSITIONS[record.state][Event.CLAIM]
    if verdict is Verdict.ENDED:
        return Step(None, Ended(record))
    if verdict is Verdict.RUN_IF_LEASE_LOST:
        if record.owner == owner:
            return Step(None, Claimed(record))
        if now_ms < record.lease_until_ms:
            return Step(None, Busy(record.lease_until_ms))
    if record.cancel_requested:
        return _end_unowned(record, now_ms=now_ms, status=Status.CANCELLED)
    if now_ms >= _deadline_ms(record, policy):
        return _end_unowned(record, now_ms=now_ms, status=Status.FAILED, code=ErrorCode.TIMEOUT)
    if record.attempt >= policy.max_attempts:
        return _end_unowned(record, now_ms=now_ms, status=Status.FAILED, code=ErrorCode.INTERNAL)
    claimed = replace(
        record,
        state=State.RUNNING,
        attempt=record.attempt + 1,
        owner=owner,
        lease_until_ms=now_ms + policy.lease_ms,
        started_at_ms=now_ms if record.started_at_ms is None else record.started_at_ms,
    )
    return Step(claimed, Claimed(claimed))


def renew(record: Record | None, *, owner: str, attempt: int, now_ms: int, policy: Policy) -> Step[Held | Fenced]:
    """The worker of `attempt` extends its lease and learns the newest target and whether to cancel."""
    seen = poll(record, owner=owner, attempt=attempt)
    if record is None or isinstance(seen.outcome, Fenced):
        return seen
    held = replace(record, lease_until_ms=now_ms + policy.lease_ms)
    return Step(held, Held(held))


def poll(record: Record | None, *, owner: str, attempt: int) -> Step[Held | Fenced]:
    """As `renew`, but the lease stays as it is: where a write costs more than a read, it need not go with each look."""
    if (
        record is None
        or TRANSITIONS[record.state][Event.RENEW] is not Verdict.HOLD_IF_OWNER
        or not _is_mine(record, owner, attempt)
    ):
        return Step(None, Fenced(record))
    return Step(None, Held(record))


def finish(record: Record | None, *, owner: str, attempt: int, ending: Ending, text: str) -> Step[Ended | Fenced]:
    """The worker of `attempt` stores the one ending (R3). Doing it twice is success (R11)."""
    if record is None or not _is_mine(record, owner, attempt):
        return Step(None, Fenced(record))
    verdict = TRANSITIONS[record.state][Event.FINISH]
    if verdict is Verdict.ENDED_IF_OWNER:
        return Step(None, Ended(record))
    if verdict is not Verdict.END_IF_OWNER:
        return Step(None, Fenced(record))
    ended = replace(record, state=State(ending.status.value), ending=ending, lease_until_ms=0)
    return Step(ended, Ended(ended, is_new=True), text)


def retarget(
    record: Record | None,
    *,
    session_id: str,
    connection_id: str,
    generation: int,
    attempt: int,
    offset: int,
) -> Step[Pending | Ended | Conflict | Unknown]:
    """The front says where the answer shall go (R1): only the asking session may, and never an older connection of it.

    A target of a lower generation changes nothing and reports `Pending`: the newer connection is served.
    """
    if record is None:
        return Step(None, Unknown())
    if record.session_id != session_id:
        return Step(None, Conflict())
    if TRANSITIONS[record.state][Event.RETARGET] is Verdict.ENDED:
        return Step(None, Ended(record))
    last = record.target
    if last is not None and generation < last.generation:
        return Step(None, Pending(record))
    retargeted = replace(
        record,
        target=DeliveryTarget(
            no=1 if last is None else last.no + 1,
            connection_id=connection_id,
            generation=generation,
            attempt=attempt,
            offset=offset,
        ),
    )
    return Step(retargeted, Pending(retargeted))


def cancel(record: Record | None, *, refusal_record: Record, now_ms: int) -> Step[Pending | Ended | Conflict]:
    """The asking session stops the request.

    Not yet running: it ends here. Running: it is noted, for this attempt's worker and any later claim (R10). Not known:
    `refusal_record` (made from the cancelling frame) is stored as cancelled, so that a question that arrives later is
    not run (R7).
    """
    if record is None:
        return _end_unowned(refusal_record, now_ms=now_ms, status=Status.CANCELLED)
    if record.session_id != refusal_record.session_id:
        return Step(None, Conflict())
    verdict = TRANSITIONS[record.state][Event.CANCEL]
    if verdict is Verdict.ENDED:
        return Step(None, Ended(record))
    if verdict is Verdict.END:
        return _end_unowned(record, now_ms=now_ms, status=Status.CANCELLED)
    if record.cancel_requested:
        return Step(None, Pending(record))
    noted = replace(record, cancel_requested=True)
    return Step(noted, Pending(noted))


def refuse(
    record: Record | None,
    *,
    refusal_record: Record,
    now_ms: int,
    code: ErrorCode,
    detail: str | None = None,
    retry_after_ms: int | None = None,
) -> Step[Ended | Pending]:
    """Keep the refusal of a new request as its one ending (R7); a known request is left alone."""
    if record is None:
        return _end_unowned(
            refusal_record,
            now_ms=now_ms,
            status=Status.FAILED,
            code=code,
            detail=detail,
            retry_after_ms=retry_after_ms,
        )
    if record.state.is_terminal:
        return Step(None, Ended(record))
    return Step(None, Pending(record))


def expire(record: Record | None, *, now_ms: int, code: ErrorCode, grace_ms: int = 0) -> Step[Ended | Busy | Unknown]:
    """End a request that nobody runs any more: the janitor after a deadline, the dead-letter handler (R12)."""
    if record is None:
        return Step(None, Unknown())
    verdict = TRANSITIONS[record.state][Event.EXPIRE]
    if verdict is Verdict.ENDED:
        return Step(None, Ended(record))
    if verdict is Verdict.END_IF_LEASE_LOST and now_ms < record.lease_until_ms + grace_ms:
        return Step(None, Busy(record.lease_until_ms + grace_ms))
    if record.cancel_requested:
        return _end_unowned(record, now_ms=now_ms, status=Status.CANCELLED)
    return _end_unowned(record, now_ms=now_ms, status=Status.FAILED, code=code)


def queued(record: Record | None, *, queue_no: int) -> Step[None]:
    """Note that the queue has taken the request under this number (R8, R12)."""
    if record is None or TRANSITIONS[record.state][Event.QUEUED] is Verdict.IGNORE:
        return Step(None, None)
    return Step(replace(record, queue_no=max(queue_no, record.queue_no)), None)


def recover(record: Record | None) -> Step[None]:
    """A new process has the store, and the one before it is certainly dead, with its workers and its connections.

    So the lease is void and the target leads nowhere; its generation must not bar the new process's connections.
    """
    if record is None or TRANSITIONS[record.state][Event.RECOVER] is Verdict.IGNORE:
        return Step(None, None)
    return Step(replace(record, lease_until_ms=0, target=None), None)


def aged(record: Record, *, now_ms: int) -> Record:
    """The ended record as it is told at `now_ms`: a time to wait runs down while it is stored."""
    ending = record.ending
    if ending is None or ending.retry_after_ms is None:
        return record
    left_ms = max(0, ending.ended_at_ms + ending.retry_after_ms - now_ms)
    return replace(record, ending=replace(ending, retry_after_ms=left_ms))


def deadline_passed(record: Record, *, now_ms: int, policy: Policy) -> bool:
    """Whether an unfinished request is past its absolute deadline: in the queue, or since its first start."""
    return now_ms >= _deadline_ms(record, policy)


Change: TypeAlias = Callable[[Record | None], Step[T_co]]


def _deadline_ms(record: Record, policy: Policy) -> int:
    if record.started_at_ms is None:
        return record.accepted_at_ms + policy.queue_timeout_ms
    return record.started_at_ms + policy.answer_timeout_ms


def _is_mine(record: Record, owner: str, attempt: int) -> bool:
    return record.owner == owner and record.attempt == attempt


def _end_unowned(
    record: Record,
    *,
    now_ms: int,
    status: Status,
    code: ErrorCode | None = None,
    detail: str | None = None,
    retry_after_ms: int | None = None,
) -> Step[Ended]:
    """End without holding the lease: the attempt is raised in the same write, so a late worker is fenced (R9)."""
    attempt = record.attempt + 1
    started = record.started_at_ms
    ended = replace(
        record,
        state=State(status.value),
        attempt=attempt,
        owner="",
        lease_until_ms=0,
        ending=Ending(
            status=status,
            attempt=attempt,
            length=0,
            ended_at_ms=now_ms,
            error_code=code,
            error_detail=detail,
            retry_after_ms=retry_after_ms,
            model=record.model or None,
            queued_ms=max(0, (now_ms if started is None else started) - record.accepted_at_ms),
            total_ms=max(0, now_ms - record.accepted_at_ms),
        ),
    )
    return Step(ended, Ended(ended, is_new=True), "")
