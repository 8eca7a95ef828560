"""What must hold inside the server, beside the promises that `answerback_proof.checker` checks from the outside.

`Invariants` watches the ends of the store, the network and the model while a run goes on. `check_end` looks once more
when it is over.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from answerback.client.errors import RequestFailed, SessionReplaced
from answerback.client.events import Answer
from answerback.core import budget
from answerback.core.context import Role
from answerback.core.parts import visible
from answerback.core.request import Ending, Record, RequestKey
from answerback.core.transitions import State
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    AttachmentPiece,
    CancelMessage,
    ClientFrame,
    Error,
    Hello,
    History,
    MessageDelta,
    MessageResponse,
    SendMessage,
    ServerFrame,
    UploadState,
    Watch,
    Watching,
)
from answerback.service.worker import LET_GO_MS
from answerback_proof.history import Promise, Violation, broken
from answerback_proof.simulation.app import SimulatedApp, SimulatedWindow
from answerback_proof.simulation.injector import Faults
from answerback_proof.simulation.server import POLICY, Clocks, GeneratedAnswer, WordyModel
from answerback_proof.simulation.store import WatchedStore

MINUTE_MS: Final = 60_000


class Invariants:
    """Checks each change of a record, each frame and each model run when it happens."""

    def __init__(
        self, *, faults: Faults, clocks: Clocks, store: Callable[[], WatchedStore], violate: Callable[[Violation], None]
    ) -> None:
        self._faults = faults
        self._clocks = clocks
        self._store = store
        self._violate = violate
        self.windows: dict[str, SimulatedWindow] = {}
        """The window at the far end of each connection."""
        self.asked_for: Counter[tuple[str, str]] = Counter()
        """How often a client has asked on a connection for the text of a request."""
        self.sent_text: Counter[tuple[str, str, int]] = Counter()
        """Code points of each attempt sent on each connection."""
        self.watched: Counter[tuple[str, str | None]] = Counter()
        """How often a client has asked on a connection to be shown a conversation."""
        self.budgets = Budgets()

    def _broke(self, promise: str, detail: str) -> None:
        self._violate(broken(promise, detail))

    def _key(self, connection_id: str, request_id: str) -> RequestKey:
        return RequestKey(self.windows[connection_id].app.user, request_id)

    # --- the store

    def record_changed(self, before: Record | None, after: Record) -> None:
        if self._faults.budget:
            self.budgets.record_changed(before, after)
            if (store := self._store()).is_watched_whole:
                for detail in self.budgets.check(store):
                    self._broke("budget", detail)
        if before is None:
            return
        name = after.request_id
        if before.state.is_terminal:
            self._broke(Promise.ONE_ENDING, f"{name} had ended and was changed")
        if after.attempt < before.attempt:
            self._broke(Promise.ONE_RUN, f"{name} fell from attempt {before.attempt} to {after.attempt}")
        if before.target and after.target and after.target.generation < before.target.generation:
            self._broke(Promise.OWN_ANSWER, f"the address of {name} went back to an older connection")
        if before.state is State.RUNNING and after.attempt > before.attempt:
            self._displaced(before, after)
        if after.state is State.RUNNING and after.attempt > before.attempt and before.cancel_requested:
            self._broke(Promise.EXPLICIT_CANCELLATION, f"{name} was cancelled and is run again")

    def _displaced(self, before: Record, after: Record) -> None:
        if self._clocks.worker() < before.lease_until_ms:
            self._broke(Promise.ONE_RUN, f"the live lease of {after.request_id} was displaced")

    # --- the queue

    def redelivered(self, key: RequestKey) -> None:
        """Each request that a worker gives back to the queue, to be dispatched again."""
        record, faults = self._store().records.get(key), self._faults
        if record is None or record.ending is None or faults.outage_before or faults.outage_after:
            return  # in an outage the ending cannot be read and sent
        held_ms = self._clocks.worker() - record.ending.ended_at_ms
        if held_ms > LET_GO_MS + faults.skew_ms:
            self._broke(Promise.ANSWERED, f"{key.request_id} ended {held_ms} ms ago and is held for its app")

    # --- the network

    def frame_sent(self, connection_id: str, frame: ServerFrame) -> None:
        if isinstance(frame, Error) and frame.code is ErrorCode.SESSION_REPLACED and connection_id in self.windows:
            self.windows[connection_id].told_of_another(connection_id)
        request_id = getattr(frame, "request_id", None)
        if request_id is None or connection_id not in self.windows:
            return
        if isinstance(frame, Error | UploadState | AttachmentPiece | Watching | History):
            return
        record = self._store().records.get(self._key(connection_id, request_id))
        if record is None:
            if not request_id.startswith("renewal-"):
                self._broke(Promise.ANSWERED, f"{type(frame).__name__} of {request_id}, and the store has no record")
            return
        match frame:
            case MessageDelta():
                self.sent_text[connection_id, frame.request_id, frame.attempt] += len(frame.delta)
            case MessageResponse() if record.ending is None:
                self._broke(Promise.ANSWERED, f"the ending of {request_id} was sent before it was stored")
            case _:
                pass

    def frame_received(self, connection_id: str, frame: ClientFrame) -> None:
        match frame:
            case Hello(resume=points):
                for point in points:
                    self.asked_for[connection_id, point.request_id] += 1
            case Watch(conversation_id=conversation_id):
                self.watched[connection_id, conversation_id] += 1
            case SendMessage() | CancelMessage():
                self.asked_for[connection_id, frame.request_id] += 1
            case _:
                pass

    # --- the model

    def model_started(self, run: GeneratedAnswer) -> None:
        store = self._store()
        record = store.records.get(run.key)
        if record is None:
            self._broke(Promise.ANSWERED, f"the model runs {run.key.request_id}, and the store has no record")
            return
        if run.attempt < record.attempt and self._faults.gateway_freeze_every_s:
            return  # claimed before a freeze, and taken over in it; what it says goes nowhere
        for other in store.records.values():
            if other.ordering_key == record.ordering_key and other.key != run.key and self._is_held(other):
                self._broke(Promise.ORDER, f"{run.key.request_id} starts while {other.request_id} of its key runs")
        if record.hold is not None:
            self.budgets.runs.append((record, run))
        self._check_context(run, record)

    def _is_held(self, record: Record) -> bool:
        """Whether a worker runs it. Without a lease that is certain: the next of its key starts when it has ended."""
        is_leased = not record.lease_until_ms or self._clocks.worker() < record.lease_until_ms
        return record.state is State.RUNNING and is_leased

    def _check_context(self, run: GeneratedAnswer, record: Record) -> None:
        """The model is shown the conversation's completed turns in which it said something, and only those."""
        store = self._store()
        given_answers = [m.text for m in run.prompt.messages[:-1] if m.role is Role.ASSISTANT]
        answers = {key: visible(content) for key, content in store.answers.items()}
        expected = [] if record.standalone else [answers[k] for k in self._completed_before(record) if answers[k]]
        if given_answers != expected[-20:]:
            detail = f"{run.key.request_id} was asked with the answers {given_answers}, the conversation has {expected}"
            self._broke("history", detail)

    def _completed_before(self, record: Record) -> list[RequestKey]:
        return [
            other.key
            for other in self._store().records.values()
            if other.user_id == record.user_id
            and other.conversation_id == record.conversation_id
            and other.state is State.COMPLETED
        ]


class Budgets:
    """What the counters of budgets must say, worked out from the records and from what the model has billed."""

    def __init__(self) -> None:
        self.runs: list[tuple[Record, GeneratedAnswer]] = []
        self._charged: Counter[tuple[str, str]] = Counter()
        """By counter: of what has ended, and of attempts that were lost."""
        self._held: dict[RequestKey, Record] = {}

    def record_changed(self, before: Record | None, after: Record) -> None:
        held = before and before.hold
        if before is not None and held:
            each = _each(before)
            lost = (after.hold.lost if after.hold is not None else held.lost) - held.lost
            for counter, amount in each.items():
                self._charged[counter] += lost * amount
                if after.ending is not None:
                    self._charged[counter] += self._true_charge(before, after.ending, amount)
        self._held.pop(after.key, None)
        if after.hold is not None and after.ending is None:
            self._held[after.key] = after

    def _true_charge(self, before: Record, ending: Ending, amount: int) -> int:
        """What an ending costs: nothing if no model was asked, the model's count if there is one, else all."""
        is_of_its_worker = ending.attempt == before.attempt
        if is_of_its_worker and not any((r.key, r.attempt) == (before.key, before.attempt) for _, r in self.runs):
            return 0
        if ending.input_tokens is not None and ending.output_tokens is not None:
            return ending.input_tokens + ending.output_tokens
        return amount if before.attempt else 0

    def check(self, store: WatchedStore) -> Iterable[str]:
        """What is wrong with the counters, at this instant."""
        reserved: Counter[tuple[str, str]] = Counter()
        billed: Counter[tuple[str, str]] = Counter()
        for record in self._held.values():
            reserved.update(_each(record))
        for record, run in self.runs:
            billed.update(dict.fromkeys(_each(record), run.billed))
        counters = store.written_counters()
        for name in counters.keys() | reserved.keys() | self._charged.keys():
            counter, cap = counters.get(name, budget.Counter()), store.caps[name[0]]
            if counter.used > cap:
                yield f"{name} is at {counter.used}, above its cap {cap}"
            if counter.reserved != reserved[name]:
                yield f"{name} has {counter.reserved} reserved, unfinished requests hold {reserved[name]}"
            if counter.used - counter.reserved != self._charged[name]:
                yield f"{name} has settled {counter.used - counter.reserved}, true is {self._charged[name]}"
            if counter.used < billed[name]:
                yield f"{name} is at {counter.used}, the model has billed {billed[name]}"


def _each(record: Record) -> dict[tuple[str, str], int]:
    """What an attempt at the request holds, by counter."""
    assert record.hold is not None
    return {entry[:2]: entry.used for entry in budget.reserved(record.hold, record.user_id)}


# --- at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What `check_end` looks at."""

    faults: Faults
    apps: Sequence[SimulatedApp]
    store: WatchedStore
    model: WordyModel
    invariants: Invariants
    dispatched: Counter[RequestKey]


def check_end(evidence: Evidence) -> Iterable[Violation]:
    """Every invariant that does not hold when the run is over."""
    for app in evidence.apps:
        yield from _windows(app, come_back=not evidence.faults.watchers)
        for request_id, outcome in app.outcomes:
            record = evidence.store.records.get(RequestKey(app.user, request_id))
            if isinstance(outcome, Answer):
                yield from _reported_usage(evidence, RequestKey(app.user, request_id), outcome)
            elif isinstance(outcome, RequestFailed) and record is not None and record.ending is not None:
                yield from _reason(evidence, record, record.ending)
    yield from _no_redundant_resend(evidence)
    yield from _limits(evidence)
    for (holder, window), counter in evidence.store.written_counters().items():
        if counter.reserved:
            yield broken("budget", f"{holder} {window} has {counter.reserved} reserved, and nothing runs")


def _windows(app: SimulatedApp, *, come_back: bool) -> Iterable[Violation]:
    """Of several windows of one session one is left, and the others were notified, if all of them have come back."""
    holders = [window.name for window in app.windows if window.is_connected]
    if (len(holders) > 1 and come_back) or app.window.stopped is not None:
        yield broken(
            Promise.OWN_ANSWER, f"the session of {app.name} is held by {holders} of {len(app.windows)} windows"
        )
    for window in app.windows:
        if window.stopped is not None and not isinstance(window.stopped, SessionReplaced):
            yield broken(Promise.ANSWERED, f"{window.name} of {app.name} was stopped: {window.stopped!r}")
        if window.is_open and (pending := window.client.pending()):
            names = ", ".join(request.frame.request_id for request in pending)
            yield broken(Promise.ONE_ENDING, f"{window.name} of {app.name} waits for {names} after the ending")
        if window.stopped is not None and not window.had_rival:
            yield broken(
                Promise.OWN_ANSWER, f"{window.name} of {app.name} was notified of another one, and there is none"
            )


def _reported_usage(evidence: Evidence, key: RequestKey, answer: Answer) -> Iterable[Violation]:
    """The usage that an app gets is what the model generated, unless that lied."""
    words = WordyModel.words(key)
    if any(run.key == key and run.misbehaviour for run in evidence.model.runs):
        return
    if answer.usage is None or answer.usage.output_tokens != words:
        yield broken(Promise.ONE_RUN, f"the model said {words} tokens to {key.request_id}, its app got {answer.usage}")


def _reason(evidence: Evidence, record: Record, ending: Ending) -> Iterable[Violation]:
    """The error code of a failure is the true reason."""
    name = record.request_id
    failed = {(run.key, run.attempt) for run in evidence.model.runs if run.may_fail}
    started_ms = record.started_at_ms
    waited_ms = ending.ended_at_ms - record.accepted_at_ms
    ran_ms = 0 if started_ms is None else ending.ended_at_ms - started_ms
    slack_ms = 2 * evidence.faults.skew_ms
    match ending.error_code:
        case ErrorCode.MODEL_FAILED:
            is_true = (record.key, ending.attempt) in failed
        case ErrorCode.INTERNAL:
            is_true = ending.attempt > POLICY.max_attempts
        case ErrorCode.TIMEOUT:
            is_true = ran_ms + slack_ms >= POLICY.answer_timeout_ms or waited_ms + slack_ms >= POLICY.queue_timeout_ms
        case ErrorCode.RATE_LIMITED:
            is_true = bool(
                evidence.faults.budget if ending.error_reason == budget.REASON else evidence.faults.per_minute
            )
        case ErrorCode.UNAUTHORIZED:
            is_true = bool(evidence.faults.token_s)
        case _:
            is_true = False
    if not is_true:
        yield broken(Promise.ANSWERED, f"{name} failed as {ending.error_code}, which is not so: {ending}")


def _no_redundant_resend(evidence: Evidence) -> Iterable[Violation]:
    """Text is sent again only if the client asks again, a later attempt begins, or the queue redelivers the request."""
    invariants = evidence.invariants
    lengths = {(run.key, run.attempt): _length(run) for run in evidence.model.runs}
    for (connection_id, request_id, attempt), sent in invariants.sent_text.items():
        app = invariants.windows[connection_id].app
        key = RequestKey(app.user, request_id)
        length = lengths.get((key, attempt))
        if length is None:
            continue
        copies = invariants.asked_for[connection_id, request_id] + max(0, evidence.dispatched[key] - 1)
        if (record := evidence.store.records.get(key)) is not None and record.session_id != app.session:
            # The worker shows it, and again after each `watch`, which may also be answered by the one who takes it.
            copies += 1 + 2 * invariants.watched[connection_id, record.conversation_id]
        if sent > length * max(1, copies):
            yield broken("redundant text", f"{connection_id} was sent {sent} of {length} code points of {request_id}")


def _length(run: GeneratedAnswer) -> int | None:
    if run.text is None:
        return None
    return len("".join(text for _, _, text in run.parts) or run.text)


def _limits(evidence: Evidence) -> Iterable[Violation]:
    """The rate limit is exact: never more in a minute, and nobody is refused before."""
    limit = evidence.faults.per_minute
    if not limit:
        return
    taken: Counter[tuple[str, int]] = Counter()
    for record in evidence.store.records.values():
        if evidence.store.has_question(record.key):
            taken[record.user_id, record.accepted_at_ms // MINUTE_MS] += 1
    for (user, window), count in taken.items():
        if count > limit:
            yield broken("limit", f"{user} was let in {count} times in minute {window}")
    for record in evidence.store.records.values():
        ending = record.ending
        if ending is None or ending.error_code is not ErrorCode.RATE_LIMITED:
            continue
        window = record.accepted_at_ms // MINUTE_MS
        if taken[record.user_id, window] < limit:
            yield broken("limit", f"{record.request_id} was refused with {taken[record.user_id, window]} let in")
        if record.accepted_at_ms + (ending.retry_after_ms or 0) != (window + 1) * MINUTE_MS:
            yield broken("limit", f"{record.request_id} was asked to wait {ending.retry_after_ms} ms")
