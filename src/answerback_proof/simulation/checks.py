"""What must have come about when the storm is over: looked at from the outside.

What each window showed, what the store holds, how often the model ran; never a count of the code's own.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from answerback.client.errors import AnswerbackError, RequestCancelled, RequestFailed, RequestTimeout, SessionReplaced
from answerback.client.events import Answer
from answerback.core.request import Ending, Record, RequestKey
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status
from answerback_proof.simulation.faults import Faults
from answerback_proof.simulation.invariants import Monitor
from answerback_proof.simulation.model import WordyModel
from answerback_proof.simulation.report import Violation
from answerback_proof.simulation.server import POLICY
from answerback_proof.simulation.store import FaultyStore
from answerback_proof.simulation.workload import App, Asked

MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is looked at."""

    faults: Faults
    struck: Counter[str]
    apps: Sequence[App]
    store: FaultyStore
    model: WordyModel
    monitor: Monitor
    handed_out: Counter[RequestKey]


def check(evidence: Evidence) -> Iterable[Violation]:
    """Every promise that is broken."""
    for app in evidence.apps:
        yield from _windows(app)
        for request_id, asked in app.asked.items():
            yield from _endings(evidence, app, request_id, asked)
        yield from _order(evidence, app)
    yield from _shown(evidence)
    yield from _one_bill(evidence)
    yield from _thrift(evidence)
    yield from _history(evidence)
    yield from _limits(evidence)


def _windows(app: App) -> Iterable[Violation]:
    """Of several windows of one session one is left, and the others were told."""
    holders = [window.number for window in app.windows if window.is_connected]
    if len(holders) > 1 or app.window.stopped is not None:
        yield Violation("G1", f"the session of {app.name} is held by the windows {holders} of {len(app.windows)}")
    for window in app.windows:
        if window.stopped is not None and not isinstance(window.stopped, SessionReplaced):
            yield Violation("G5", f"window {window.number} of {app.name} was stopped: {window.stopped!r}")
        if window.stopped is not None and not window.had_rival:
            yield Violation("G1", f"window {window.number} of {app.name} was told of another one, and there is none")


# --- endings


def _endings(evidence: Evidence, app: App, request_id: str, asked: Asked) -> Iterable[Violation]:
    for window, times in Counter(number for number, _ in asked.endings).items():
        if times > 1:
            yield Violation("G2", f"window {window} of {app.name} saw {times} endings of {request_id}")
    if not asked.endings:
        yield Violation("G5", f"{app.name} never saw {request_id} end")
    record = evidence.store.records.get(app.key(request_id))
    for _, outcome in asked.endings:
        yield from _ending(evidence, asked, record, outcome)


def _ending(
    evidence: Evidence, asked: Asked, record: Record | None, outcome: Answer | AnswerbackError
) -> Iterable[Violation]:
    name = asked.frame.request_id
    if isinstance(outcome, RequestTimeout):
        if not evidence.faults.patience_s:
            yield Violation("G2", f"{name} timed out at a client that waits for ever")
        if record is not None and record.ending is None:
            yield Violation("G5", f"{name} timed out and the store has no ending of it")
        return
    if record is None or record.ending is None:
        # Cancelled before it was ever sent: nobody else knows of it.
        if record is not None or asked.cancelled_at is None or not isinstance(outcome, RequestCancelled):
            yield Violation("G5", f"{name} ended as {outcome!r}, and the store has no ending of it")
        return
    match outcome:
        case Answer():
            yield from _answer(evidence, record, record.ending, outcome)
        case RequestCancelled():
            if record.ending.status is not Status.CANCELLED:
                yield Violation("G2", f"{name}: shown cancelled, stored {record.ending.status}")
            if asked.cancelled_at is None:
                yield Violation("G6", f"{name} was cancelled by nobody")
        case RequestFailed():
            if record.ending.status is not Status.FAILED or record.ending.error_code != outcome.code:
                yield Violation("G2", f"{name}: shown {outcome!r}, stored {record.ending}")
            yield from _reason(evidence, record, record.ending)
        case _:
            yield Violation("G5", f"{name} ended with {outcome!r}")


def _answer(evidence: Evidence, record: Record, ending: Ending, answer: Answer) -> Iterable[Violation]:
    name = record.request_id
    said = WordyModel.text(record.key, answer.attempt)
    stored = evidence.store.answers.get(record.key, "")
    if not (answer.text == stored == said) or ending.status is not Status.COMPLETED:
        yield Violation("G3", f"{name}: shown {answer.text!r}, stored {stored!r}, said {said!r}")
    if ending.attempt != answer.attempt or ending.length != len(answer.text):
        yield Violation("G3", f"{name}: shown attempt {answer.attempt}, stored {ending}")
    usage = answer.usage
    if usage is None or usage.output_tokens != WordyModel.words(record.key):
        yield Violation("G7", f"{name}: the model said {WordyModel.words(record.key)} tokens, the bill {usage}")


def _reason(evidence: Evidence, record: Record, ending: Ending) -> Iterable[Violation]:
    """A failure names its true reason."""
    name = record.request_id
    failed = {(run.key, run.attempt) for run in evidence.model.runs if run.has_failed}
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
            is_true = bool(evidence.faults.per_minute)
        case ErrorCode.UNAUTHORIZED:
            is_true = bool(evidence.faults.token_s)
        case _:
            is_true = False
    if not is_true:
        yield Violation("G5", f"{name} failed as {ending.error_code}, which is not so: {ending}")


# --- texts, order, cost


def _shown(evidence: Evidence) -> Iterable[Violation]:
    """Whatever was on a screen at any moment is the beginning of one attempt's answer to that question."""
    for app in evidence.apps:
        for window in app.windows:
            for request_id, snapshots in window.ever_shown.items():
                key = app.key(request_id)
                texts = [WordyModel.text(key, attempt) for attempt in range(1, POLICY.max_attempts + 1)]
                for snapshot in snapshots:
                    if not any(text.startswith(snapshot) for text in texts):
                        yield Violation("G3", f"{app.name} showed {snapshot!r} for {request_id}")
                        break


def _order(evidence: Evidence, app: App) -> Iterable[Violation]:
    """Questions of one key start in the order asked by one app."""
    first_runs = list(dict.fromkeys(run.key for run in evidence.model.runs))
    lanes: dict[str | None, list[RequestKey]] = {}
    for request_id, asked in app.asked.items():
        lanes.setdefault(asked.frame.conversation_id, []).append(app.key(request_id))
    for lane, expected in lanes.items():
        started = [key for key in first_runs if key in expected]
        if started != [key for key in expected if key in started]:
            names = [key.request_id for key in started]
            yield Violation("G4", f"{app.name} in {lane}: asked {[k.request_id for k in expected]}, started {names}")


def _one_bill(evidence: Evidence) -> Iterable[Violation]:
    """The model runs an attempt once, and again only after a crash or a lost lease."""
    for (key, attempt), times in Counter((run.key, run.attempt) for run in evidence.model.runs).items():
        if times > 1:
            yield Violation("G7", f"attempt {attempt} of {key.request_id} ran {times} times")
    if any(evidence.struck[fault] for fault in ("worker crash", "process crash", "stalled store call", "stalled post")):
        return
    for record in evidence.store.records.values():
        ending = record.ending
        if ending is not None and ending.status is Status.COMPLETED and ending.attempt > 1:
            yield Violation("G7", f"{record.request_id} needed {ending.attempt} attempts, and no worker was lost")


def _thrift(evidence: Evidence) -> Iterable[Violation]:
    """Text is sent again only to who asks again, by a later attempt, or after the queue has handed it out again."""
    monitor = evidence.monitor
    for (connection_id, request_id, attempt), sent in monitor.sent_text.items():
        app = monitor.windows[connection_id].app
        key = app.key(request_id)
        length = len(WordyModel.text(key, attempt))
        copies = monitor.asked_for[connection_id, request_id] + max(0, evidence.handed_out[key] - 1)
        if sent > length * max(1, copies):
            yield Violation("thrift", f"{connection_id} was sent {sent} of {length} code points of {request_id}")


# --- what is kept, what is limited


def _history(evidence: Evidence) -> Iterable[Violation]:
    """Exactly one turn for each accepted request that has ended, and the usage is the sum of the endings."""
    store = evidence.store
    used: Counter[str] = Counter()
    expected: Counter[RequestKey] = Counter()
    for record in store.records.values():
        if record.ending is not None and store.has_question(record.key):
            expected[record.key] += 1
            used[record.user_id] += record.ending.output_tokens or 0
    found: Counter[RequestKey] = Counter(RequestKey(user, turn.request_id) for user, turn in store.all_turns())
    if found != expected:
        yield Violation("history", f"turns without a request: {found - expected}, missing: {expected - found}")
    for user, turn in store.all_turns():
        if turn.answer != store.answers.get(RequestKey(user, turn.request_id), ""):
            yield Violation("history", f"the turn of {turn.request_id} has another text than its answer")
    billed: Counter[str] = Counter()
    for usage in store.all_usage():
        billed[usage.user_id] += usage.output_tokens
    if +billed != +used:
        yield Violation("G7", f"billed {billed}, used {used}")


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
            yield Violation("limit", f"{user} was let in {count} times in minute {window}")
    for record in evidence.store.records.values():
        ending = record.ending
        if ending is None or ending.error_code is not ErrorCode.RATE_LIMITED:
            continue
        window = record.accepted_at_ms // MINUTE_MS
        if taken[record.user_id, window] < limit:
            yield Violation("limit", f"{record.request_id} was refused with {taken[record.user_id, window]} let in")
        if record.accepted_at_ms + (ending.retry_after_ms or 0) != (window + 1) * MINUTE_MS:
            yield Violation("limit", f"{record.request_id} was told to wait {ending.retry_after_ms} ms")
