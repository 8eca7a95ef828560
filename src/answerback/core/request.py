"""The record of a request, and every change that it can go through.

Theory of operation. A request is one small immutable `Record`. Everything that decides about it is in that record: who
may run it, where its answer goes, how it ended. Every change is one of the functions below. It takes the record (None
if there is none) and returns a `Step`: the record to write, and what the caller learns. A store applies a step
atomically (`ports.Requests.change`), so two processes that change one record are put in an order, and the second sees
what the first did. Nothing here reads a clock: `now_ms` is an argument.

`TRANSITIONS` (core/transitions.py) decides what an event does in a state. The functions look it up and carry out the
effect that it names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import fields, replace

from answerback.core import budget
from answerback.core.budget import Counted, Entry, Hold
from answerback.core.instants import LeaptSince, no_leaps
from answerback.core.keys import normal_id
from answerback.core.parts import NOTHING, Content
from answerback.core.transitions import TRANSITIONS, Effect, Event, Guard, If, State
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Attachment, Format, Status

T_co = TypeVar("T_co", covariant=True)

SCHEMA: Final = 2
"""The newest version of the record's form that this program reads. A version only adds fields with defaults."""

_SINCE: Final = MappingProxyType({2: ("parts", "traceparent", "hold", "watchers", "cancelled_by")})
"""The fields that came with a version."""


MAX_NOTED: Final = 8
"""Watchers in one record: it is written often, and DynamoDB counts each KB."""


class RequestKey(NamedTuple):
    """A request id is a name inside its user."""

    user_id: str
    request_id: str


class DeliveryTarget(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The connection that the answer goes to, and from which code point on. `no` counts the targets of a request."""

    no: int
    connection_id: str
    generation: int
    attempt: int = 0
    offset: int = 0


class Watcher(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session that is shown what others of its user ask in a conversation: where, and until when.

    `number`: of the frame that said so. Of one session the one with the highest `order` holds, also if that is `off`.
    `attempt` and `offset`: what it has of the request in whose record it stands.
    """

    session_id: str
    connection_id: str
    generation: int
    number: int
    off: bool = False
    until_ms: int = 0
    attempt: int = 0
    offset: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Later frames of the session have a higher one: its connections rise, and numbers within a connection."""
        return self.generation, self.number


class Ending(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a request ended; its text is kept apart. Times in milliseconds, `ended_at_ms` since the epoch.

    `error_detail` and `retryable` replace what the table of errors says for `error_code`. `error_reason`: which limit
    it was, where a code has several, and `opens_at_ms` when that one opens. `cost_micro_usd`: of all attempts.
    """

    status: Status
    attempt: int
    length: int
    ended_at_ms: int
    finish_reason: str | None = None
    error_code: ErrorCode | None = None
    error_detail: str | None = None
    retryable: bool | None = None
    retry_after_ms: int | None = None
    error_reason: str | None = None
    opens_at_ms: int | None = None
    cost_micro_usd: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
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
    attachments: tuple[Attachment, ...] = ()
    format: Format | None = None


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"target": "wish"}):
    """Everything that decides about one request. It is small, because it is written often.

    `conversation_id` is where the turn is kept. `standalone`: the request named no conversation, so the model gets no
    context. `owner` and `lease_until_ms` name the worker that runs `attempt`. `target` is stored as `wish`. `parts`:
    the kinds of parts that the client takes beside text; None: it takes no signs of life either. `traceparent`: the
    span that asked. `hold`: what it holds of budgets until it ends. `watchers`: sessions that began to watch while it
    was unfinished. `cancelled_by`: the session that cancelled it, if that is another than asked.
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
    parts: tuple[str, ...] | None = None
    traceparent: str | None = None
    hold: Hold | None = None
    watchers: tuple[Watcher, ...] = ()
    cancelled_by: str | None = None

    @property
    def schema(self) -> int:
        """The lowest version that can express this record.

        A program that does not know a field would erase it with its next write. So it must refuse such records, and
        only such records: while a deployment rolls, it works on all others.
        """
        is_plain = self.parts is None and self.traceparent is None and self.hold is None
        return 1 if is_plain and not self.watchers and self.cancelled_by is None else 2

    def lowered(self, schema: int) -> "Record":
        """The record as a program can read it that knows versions up to `schema`, without what came later."""
        if self.schema <= schema:
            return self
        later = {name for version, names in _SINCE.items() if version > schema for name in names}
        return replace(self, **{field.name: field.default for field in fields(self) if field.name in later})

    @property
    def key(self) -> RequestKey:
        """The record's name in a store."""
        return RequestKey(self.user_id, self.request_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Durations in milliseconds; absolute instants are computed from the record, so every process agrees.

    `lease_ms` 0: no leases. One process alone has the store, as a gateway has, and knows what it runs.
    """

    lease_ms: int = 20_000
    answer_timeout_ms: int = 120_000
    queue_timeout_ms: int = 600_000
    max_attempts: int = 3
    answer_timeouts_ms: Mapping[str, int] = field(default_factory=dict)
    """Of the models that have one of their own, by name."""

    @property
    def renew_every_s(self) -> float:
        """How often a worker extends its lease: a third of it, so that two renewals may fail before it is lost."""
        return self.lease_ms / 3000


# --- outcomes -----------------------------------------------------------------------------------------------


class Step(Struct, Generic[T_co], frozen=True):
    """Write `record` (None: leave it as it is), then return `outcome`. `content`: the answer that an ending has.

    `charge` changes counters of budgets in the same transaction. Where one has no room, the step is `otherwise`.
    """

    record: Record | None
    outcome: T_co
    content: Content = NOTHING
    charge: tuple[Entry, ...] = ()
    otherwise: "Step[T_co] | None" = None


class Claimed(Struct, frozen=True):
    """The caller runs this attempt until the lease ends."""

    record: Record


class Busy(Struct, frozen=True):
    """Another worker holds the lease until then."""

    until_ms: int


class Ended(Struct, frozen=True):
    """The request has ended; its ending is in `record`. `is_new`: this change has ended it."""

    record: Record
    is_new: bool = False


class Pending(Struct, frozen=True):
    """The request is unfinished. Its worker will see what was noted."""

    record: Record


class Held(Struct, frozen=True):
    """The lease was extended. `record` has the newest target and cancellation."""

    record: Record


class Fenced(Struct, frozen=True):
    """The attempt is not the caller's any more: it may write nothing. None: the record is gone."""

    record: Record | None


class Conflict(Struct, frozen=True):
    """The id belongs to another session of the user, or to another payload."""


class Unknown(Struct, frozen=True):
    """No such request."""


# --- what the table asks ------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What the caller of a change knows. The guards read it beside the record.

    A fact that is left out lets no event through: no owner, no session, a lease that is not over. Running a request
    without a policy raises ValueError.
    """

    now_ms: int = 0
    grace_ms: int = 0
    owner: str = ""
    attempt: int = 0
    session_id: str = ""
    generation: int = 0
    number: int = 0
    policy: Policy | None = None
    leapt: LeaptSince = no_leaps


def _owns_attempt(record: Record, facts: Facts) -> bool:
    # The lease may be over (rule: attempts, not clocks).
    return record.owner == facts.owner and record.attempt == facts.attempt


def _is_late(record: Record, facts: Facts) -> bool:
    if facts.policy is None:
        raise ValueError("a claim needs the policy: without it a late request would run")
    return facts.now_ms >= deadline_ms(record, policy=facts.policy, leapt=facts.leapt)


def _attempts_are_spent(record: Record, facts: Facts) -> bool:
    return facts.policy is not None and record.attempt >= facts.policy.max_attempts


def _is_older(record: Record, facts: Facts) -> bool:
    return record.target is not None and facts.generation < record.target.generation


def _watched_later(record: Record, facts: Facts) -> bool:
    # Each session has its own order: compared across sessions, one that connects would bar the others.
    order = facts.generation, facts.number
    return any(one.session_id == facts.session_id and one.order >= order for one in record.watchers)


_GUARDS: Final[Mapping[Guard, Callable[[Record, Facts], bool]]] = {
    Guard.OWNS_LEASE: lambda record, facts: record.owner == facts.owner,
    Guard.OWNS_ATTEMPT: _owns_attempt,
    Guard.LEASE_IS_OVER: lambda record, facts: facts.now_ms >= record.lease_until_ms + facts.grace_ms,
    Guard.IS_CANCELLED: lambda record, _: record.cancel_requested,
    Guard.IS_LATE: _is_late,
    Guard.ATTEMPTS_ARE_SPENT: _attempts_are_spent,
    Guard.ASKED_IT: lambda record, facts: record.session_id == facts.session_id,
    Guard.IS_OLDER: _is_older,
    Guard.WATCHED_LATER: _watched_later,
}


def _effect(record: Record, event: Event, facts: Facts) -> Effect:
    """What the table says that `event` does to `record`."""
    cell = TRANSITIONS[record.state][event]
    while isinstance(cell, If):
        cell = cell.then if _GUARDS[cell.guard](record, facts) else cell.otherwise
    return cell


# --- the changes --------------------------------------------------------------------------------------------


def claim(
    record: Record | None, *, owner: str, now_ms: int, policy: Policy, leapt: LeaptSince = no_leaps
) -> Step[Claimed | Busy | Ended | Unknown]:
    """A worker wants to run the request. `owner` is a token that no other run has.

    A noted cancellation, a deadline that has passed and the last allowed attempt end the request here, without running
    the model. A claim by the owner of the lease succeeds again: the answer to its first one was lost
    (rule: repeat as the same owner). Where a budget has no room for one more attempt the request ends, too.
    """
    if record is None:
        return Step(None, Unknown())
    match _effect(record, Event.CLAIM, Facts(owner=owner, now_ms=now_ms, policy=policy, leapt=leapt)):
        case Effect.RUN:
            claimed = replace(
                record,
                state=State.RUNNING,
                attempt=record.attempt + 1,
                owner=owner,
                lease_until_ms=now_ms + policy.lease_ms if policy.lease_ms else 0,
                started_at_ms=now_ms if record.started_at_ms is None else record.started_at_ms,
            )
            if record.hold is None or not record.attempt:
                return Step(claimed, Claimed(claimed))
            hold, charge = budget.reserved_again(record.hold, record.user_id)
            claimed = replace(claimed, hold=hold)
            return Step(claimed, Claimed(claimed), NOTHING, charge, _end_without_room(record, hold, now_ms=now_ms))
        case Effect.OWNED:
            return Step(None, Claimed(record))
        case Effect.BUSY:
            return Step(None, Busy(record.lease_until_ms))
        case Effect.END_CANCELLED:
            return _end_unowned(record, now_ms=now_ms, status=Status.CANCELLED)
        case Effect.END_TIMED_OUT:
            return _end_unowned(record, now_ms=now_ms, status=Status.FAILED, code=ErrorCode.TIMEOUT)
        case Effect.END_EXHAUSTED:
            return _end_unowned(record, now_ms=now_ms, status=Status.FAILED, code=ErrorCode.INTERNAL)
        case effect:
            return _unchanged(record, Event.CLAIM, effect)


def renew(record: Record | None, *, owner: str, attempt: int, now_ms: int, policy: Policy) -> Step[Held | Fenced]:
    """The worker of `attempt` extends its lease, and learns the newest target and whether to cancel."""
    if record is None:
        return Step(None, Fenced(None))
    match _effect(record, Event.RENEW, Facts(owner=owner, attempt=attempt)):
        case Effect.EXTEND:
            held = replace(record, lease_until_ms=now_ms + policy.lease_ms)
            return Step(held, Held(held))
        case effect:
            return _unchanged(record, Event.RENEW, effect)


def poll(record: Record | None, *, owner: str, attempt: int) -> Step[Held | Fenced]:
    """Learn what `renew` does without extending the lease, where a read costs less than a write."""
    if record is None:
        return Step(None, Fenced(None))
    match _effect(record, Event.POLL, Facts(owner=owner, attempt=attempt)):
        case Effect.OWNED:
            return Step(None, Held(record))
        case effect:
            return _unchanged(record, Event.POLL, effect)


def finish(
    record: Record | None,
    *,
    owner: str,
    attempt: int,
    ending: Ending,
    content: Content,
    counted: Counted | None = None,
) -> Step[Ended | Fenced]:
    """The worker of `attempt` stores the one ending. Doing it twice is success (rule: repeat as the same owner).

    `counted`: what is charged for the attempt; None: all that was reserved for it.
    """
    if record is None:
        return Step(None, Fenced(None))
    match _effect(record, Event.FINISH, Facts(owner=owner, attempt=attempt)):
        case Effect.FINISH:
            charge: tuple[Entry, ...] = ()
            if (hold := record.hold) is not None:
                charge = budget.settled(hold, record.user_id, counted)
                ending = replace(ending, cost_micro_usd=budget.cost(hold, counted))
            ended = replace(record, state=State(ending.status.value), ending=ending, lease_until_ms=0, hold=None)
            return Step(ended, Ended(ended, is_new=True), content, charge)
        case effect:
            return _unchanged(record, Event.FINISH, effect)


def retarget(
    record: Record | None, *, session_id: str, connection_id: str, generation: int, attempt: int, offset: int
) -> Step[Pending | Ended | Conflict | Unknown]:
    """The front sets where the answer goes: only for the asking session (rule: the record holds the target).

    A target of a lower generation changes nothing and reports `Pending`: the newer connection is served.
    """
    if record is None:
        return Step(None, Unknown())
    match _effect(record, Event.RETARGET, Facts(session_id=session_id, generation=generation)):
        case Effect.SET_TARGET:
            no = 1 if record.target is None else record.target.no + 1
            target = DeliveryTarget(
                no=no, connection_id=connection_id, generation=generation, attempt=attempt, offset=offset
            )
            retargeted = replace(record, target=target)
            return Step(retargeted, Pending(retargeted))
        case effect:
            return _unchanged(record, Event.RETARGET, effect)


def watch(
    record: Record | None, *, conversation_id: str, watcher: Watcher
) -> Step[Pending | Ended | Conflict | Unknown]:
    """Another session of the user is shown the answer from now on, or (`off`) no longer.

    It conflicts with the session that asked: that one has the record's target.
    """
    if record is None or not _is_of(record, conversation_id):
        return Step(None, Unknown())
    facts = Facts(session_id=watcher.session_id, generation=watcher.generation, number=watcher.number)
    match _effect(record, Event.WATCH, facts):
        case Effect.NOTE_WATCHER:
            others = [one for one in record.watchers if one.session_id != watcher.session_id]
            # A hint: who is left out for want of room has a place of its own among those who watch.
            noted = replace(record, watchers=(*others[-MAX_NOTED + 1 :], watcher))
            return Step(noted, Pending(noted))
        case effect:
            return _unchanged(record, Event.WATCH, effect)


def cancel(record: Record | None, *, refusal_record: Record, now_ms: int) -> Step[Pending | Ended | Conflict]:
    """The asking session stops the request.

    Not yet running: it ends here. Running: the cancellation is noted, for this attempt's worker and any later claim
    (rule: a cancellation survives attempts). Not known: `refusal_record`, made from the cancelling frame, is stored as
    cancelled, so that a question that arrives later is not run (rule: every answered id has a record).
    """
    if record is None:
        return _end_unowned(refusal_record, now_ms=now_ms, status=Status.CANCELLED)
    match _effect(record, Event.CANCEL, Facts(session_id=refusal_record.session_id)):
        case Effect.NOTE_CANCEL:
            noted = replace(record, cancel_requested=True)
            return Step(noted, Pending(noted))
        case Effect.END_CANCELLED:
            return _end_unowned(record, now_ms=now_ms, status=Status.CANCELLED)
        case effect:
            return _unchanged(record, Event.CANCEL, effect)


def stop(
    record: Record | None, *, conversation_id: str, session_id: str, now_ms: int
) -> Step[Pending | Ended | Conflict | Unknown]:
    """Any session of the user stops a request of this conversation (rule: a stop by others leaves no trace).

    What is not known is not kept as cancelled: the session heard of the question, and its frame may be faster.
    """
    if record is None or not _is_of(record, conversation_id):
        return Step(None, Unknown())
    if session_id != record.session_id and record.ending is None and not record.cancel_requested:
        record = replace(record, cancelled_by=session_id)
    return cancel(record, refusal_record=record, now_ms=now_ms)


def refuse(
    record: Record | None,
    *,
    refusal_record: Record,
    now_ms: int,
    code: ErrorCode,
    detail: str | None = None,
    retry_after_ms: int | None = None,
    reason: str | None = None,
    opens_at_ms: int | None = None,
) -> Step[Ended | Pending]:
    """Store a refusal as the one ending (rule: every answered id has a record). A known request is left alone."""
    if record is None:
        return _end_unowned(
            refusal_record,
            now_ms=now_ms,
            status=Status.FAILED,
            code=code,
            detail=detail,
            retry_after_ms=retry_after_ms,
            reason=reason,
            opens_at_ms=opens_at_ms,
        )
    return _unchanged(record, Event.REFUSE, _effect(record, Event.REFUSE, Facts()))


def expire(record: Record | None, *, now_ms: int, code: ErrorCode, grace_ms: int = 0) -> Step[Ended | Busy | Unknown]:
    """End a request that nobody runs any more. The janitor does so after a deadline, and the dead-letter handler."""
    if record is None:
        return Step(None, Unknown())
    match _effect(record, Event.EXPIRE, Facts(now_ms=now_ms, grace_ms=grace_ms)):
        case Effect.END_EXPIRED:
            return _end_unowned(record, now_ms=now_ms, status=Status.FAILED, code=code)
        case Effect.END_CANCELLED:
            return _end_unowned(record, now_ms=now_ms, status=Status.CANCELLED)
        case Effect.BUSY:
            return Step(None, Busy(record.lease_until_ms + grace_ms))
        case effect:
            return _unchanged(record, Event.EXPIRE, effect)


def erase(record: Record | None, *, now_ms: int) -> Step[Ended | Unknown]:
    """The user is erased: an unfinished request ends, even one that runs, and gives back what it holds of a budget."""
    if record is None:
        return Step(None, Unknown())
    match _effect(record, Event.ERASE, Facts()):
        case Effect.END_CANCELLED:
            return _end_unowned(record, now_ms=now_ms, status=Status.CANCELLED)
        case effect:
            return _unchanged(record, Event.ERASE, effect)


def queued(record: Record | None, *, queue_no: int) -> Step[None]:
    """Note that the queue has taken the request under this number."""
    if record is None or _effect(record, Event.QUEUED, Facts()) is not Effect.NOTE_QUEUED:
        return Step(None, None)
    return Step(replace(record, queue_no=max(queue_no, record.queue_no)), None)


def recover(record: Record | None, *, keeps_target: bool = False) -> Step[None]:
    """A new process has the request: the one before it is dead, its lease is void, and its target leads nowhere.

    `keeps_target`: the connection is one of a process that lives.
    """
    if record is None or _effect(record, Event.RECOVER, Facts()) is not Effect.RESET:
        return Step(None, None)
    target = record.target if keeps_target else None
    return Step(replace(record, lease_until_ms=0, target=target, watchers=()), None)


def _is_of(record: Record, conversation_id: str) -> bool:
    """Whether it was asked in this conversation. What was cancelled before it was asked has none."""
    return bool(record.model) and normal_id(record.conversation_id) == conversation_id


def not_begun(record: Record) -> Record:
    """A new request that was claimed before it was stored, without the claim."""
    return replace(record, state=State.ACCEPTED, attempt=0, owner="", lease_until_ms=0, started_at_ms=None)


def aged(record: Record, *, now_ms: int) -> Record:
    """The ended record as it is sent at `now_ms`: a time to wait runs down while it is stored."""
    ending = record.ending
    if ending is None or ending.retry_after_ms is None:
        return record
    left_ms = max(0, ending.ended_at_ms + ending.retry_after_ms - now_ms)
    return replace(record, ending=replace(ending, retry_after_ms=left_ms))


def deadline_ms(record: Record, *, policy: Policy, leapt: LeaptSince = no_leaps) -> int:
    """When an unfinished request is late: after its time in the queue, or after its answer's since the first start."""
    if record.started_at_ms is None:
        since_ms, timeout_ms = record.accepted_at_ms, policy.queue_timeout_ms
    else:
        since_ms = record.started_at_ms
        timeout_ms = policy.answer_timeouts_ms.get(record.model, policy.answer_timeout_ms)
    return since_ms + timeout_ms + leapt(since_ms)


Change: TypeAlias = Callable[[Record | None], Step[T_co]]


def _unchanged(record: Record, event: Event, effect: Effect) -> Step[Any]:
    """What the caller learns where an event changes nothing."""
    match effect:
        case Effect.PENDING:
            return Step(None, Pending(record))
        case Effect.ENDED:
            return Step(None, Ended(record))
        case Effect.FENCED:
            return Step(None, Fenced(record))
        case Effect.CONFLICT:
            return Step(None, Conflict())
        case _:  # the table names an effect that the event does not have: our own mistake
            raise ValueError(f"{event} cannot {effect}")


def _end_unowned(
    record: Record,
    *,
    now_ms: int,
    status: Status,
    code: ErrorCode | None = None,
    detail: str | None = None,
    retry_after_ms: int | None = None,
    reason: str | None = None,
    opens_at_ms: int | None = None,
) -> Step[Ended]:
    """End without holding the lease: a late worker is fenced (rule: ending without a lease raises the attempt).

    An attempt that ran is charged in full: what a provider bills for it is not known (rule: given up is paid in full).
    """
    attempt = record.attempt + 1
    started = record.started_at_ms
    counted = None if record.attempt else budget.NOTHING
    charge: tuple[Entry, ...] = ()
    if (hold := record.hold) is not None:
        charge = budget.settled(hold, record.user_id, counted)
    ended = replace(
        record,
        state=State(status.value),
        attempt=attempt,
        owner="",
        lease_until_ms=0,
        hold=None,
        ending=Ending(
            status=status,
            attempt=attempt,
            length=0,
            ended_at_ms=now_ms,
            error_code=code,
            error_detail=detail,
            retry_after_ms=retry_after_ms,
            error_reason=reason,
            opens_at_ms=opens_at_ms,
            cost_micro_usd=None if hold is None else budget.cost(hold, counted),
            model=record.model or None,
            queued_ms=max(0, (now_ms if started is None else started) - record.accepted_at_ms),
            total_ms=max(0, now_ms - record.accepted_at_ms),
        ),
    )
    return Step(ended, Ended(ended, is_new=True), NOTHING, charge)


def _end_without_room(record: Record, hold: Hold, *, now_ms: int) -> Step[Ended]:
    opens_at_ms = max(budget.opens_at_ms(window.name) for window in hold.windows)
    return _end_unowned(
        record,
        now_ms=now_ms,
        status=Status.FAILED,
        code=ErrorCode.RATE_LIMITED,
        detail="An attempt at this answer was lost, and the budget has no room for another one.",
        retry_after_ms=max(1, min(budget.LONGEST_RETRY_MS, opens_at_ms - now_ms)),
        reason=budget.REASON,
        opens_at_ms=opens_at_ms,
    )
