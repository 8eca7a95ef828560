"""Every (state, event) pair of a request's record."""

from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import fields, replace

from answerback.core import request as changes
from answerback.core.parts import Content
from answerback.core.request import (
    Busy,
    Claimed,
    Conflict,
    DeliveryTarget,
    Ended,
    Ending,
    Fenced,
    Held,
    Pending,
    Policy,
    Record,
    Step,
    Unknown,
    Watcher,
)
from answerback.core.transitions import TRANSITIONS, Effect, Event, If, State
from answerback.core.watching import Place, placed
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status

POLICY = Policy(lease_ms=100, answer_timeout_ms=10_000, queue_timeout_ms=50_000, max_attempts=3)
T0 = 1_000_000


def accepted(**more: object) -> Record:
    return Record(  # type: ignore[misc]
        **{
            "user_id": "kim",
            "request_id": "r",
            "session_id": "s",
            "conversation_id": "c",
            "ordering_key": "k",
            "fingerprint": "f",
            "model": "m",
            "accepted_at_ms": T0,
            "target": DeliveryTarget(no=1, connection_id="c1", generation=5),
            **more,
        }
    )


def ending(attempt: int = 1) -> Ending:
    return Ending(status=Status.COMPLETED, attempt=attempt, length=4, ended_at_ms=T0 + 9)


def watcher(session: str = "phone", *, generation: int = 6, number: int = 1, **fields: Any) -> Watcher:
    until = {"until_ms": 1_000, **fields}
    return Watcher(
        session_id=session, connection_id=f"{session}{generation}", generation=generation, number=number, **until
    )


def in_state(state: State) -> Record:
    if state is State.ACCEPTED:
        return accepted()
    running = accepted(state=State.RUNNING, attempt=1, owner="w1", lease_until_ms=T0 + 100, started_at_ms=T0)
    if state is State.RUNNING:
        return running
    return replace(running, state=state, lease_until_ms=0, ending=replace(ending(), status=Status(state.value)))


def apply(event: Event, record: Record | None, *, now_ms: int = T0 + 10, owner: str = "w2") -> Step[object]:
    match event:
        case Event.CLAIM:
            return changes.claim(record, owner=owner, now_ms=now_ms, policy=POLICY)
        case Event.RENEW:
            return changes.renew(record, owner=owner, attempt=1, now_ms=now_ms, policy=POLICY)
        case Event.POLL:
            return changes.poll(record, owner=owner, attempt=1)
        case Event.FINISH:
            return changes.finish(record, owner=owner, attempt=1, ending=ending(), content=Content("text"))
        case Event.RETARGET:
            return changes.retarget(record, session_id="s", connection_id="c2", generation=6, attempt=1, offset=3)
        case Event.WATCH:
            return changes.watch(record, conversation_id="c", watcher=watcher())
        case Event.CANCEL:
            return changes.cancel(record, refusal_record=accepted(fingerprint=""), now_ms=now_ms)
        case Event.REFUSE:
            return changes.refuse(
                record, refusal_record=accepted(fingerprint=""), now_ms=now_ms, code=ErrorCode.RATE_LIMITED
            )
        case Event.EXPIRE:
            return changes.expire(record, now_ms=now_ms, code=ErrorCode.TIMEOUT)
        case Event.QUEUED:
            return changes.queued(record, queue_no=4)
        case Event.RECOVER:
            return changes.recover(record)
        case Event.ERASE:
            return changes.erase(record, now_ms=now_ms)


def test_the_stored_name_of_the_target_stays() -> None:
    stored = msgspec.to_builtins(accepted())
    assert stored["wish"] == {"no": 1, "connection_id": "c1", "generation": 5}
    assert "target" not in stored
    assert msgspec.convert(stored, Record) == accepted()


def test_the_table_decides_every_pair() -> None:
    assert set(TRANSITIONS) == set(State)
    for events in TRANSITIONS.values():
        assert set(events) == set(Event)


@pytest.mark.parametrize(("state", "event"), [(s, e) for s in State for e in Event])
def test_the_table_is_what_happens(monkeypatch: pytest.MonkeyPatch, state: State, event: Event) -> None:
    """Another effect in the cell is another outcome, and one that the event does not have is our own mistake."""
    foreign = Effect.SET_TARGET if event is not Event.RETARGET else Effect.EXTEND
    monkeypatch.setattr(changes, "TRANSITIONS", {state: {event: foreign}})
    record = in_state(state)
    if event in (Event.QUEUED, Event.RECOVER):
        assert apply(event, record) == Step(None, None)
        return
    with pytest.raises(ValueError, match=f"^{event} cannot {foreign}$"):
        apply(event, record)


@pytest.mark.parametrize(("state", "event"), [(s, e) for s in State for e in Event])
def test_every_effect_in_a_cell_can_be_carried_out(monkeypatch: pytest.MonkeyPatch, state: State, event: Event) -> None:
    for effect in effects(TRANSITIONS[state][event]):
        monkeypatch.setattr(changes, "TRANSITIONS", {state: {event: effect}})
        apply(event, in_state(state))


def test_without_a_policy_no_request_runs() -> None:
    with pytest.raises(ValueError, match="needs the policy"):
        changes._effect(accepted(), Event.CLAIM, changes.Facts(owner="w1", now_ms=T0))


def effects(cell: Effect | If) -> set[Effect]:
    return effects(cell.then) | effects(cell.otherwise) if isinstance(cell, If) else {cell}


NO = "no change"
EXPECTED = {
    # state, event, owner, lease lost -> next state, outcome
    (State.ACCEPTED, Event.CLAIM): (State.RUNNING, Claimed),
    (State.ACCEPTED, Event.RENEW): (NO, Fenced),
    (State.ACCEPTED, Event.POLL): (NO, Fenced),
    (State.ACCEPTED, Event.FINISH): (NO, Fenced),
    (State.ACCEPTED, Event.RETARGET): (State.ACCEPTED, Pending),
    (State.ACCEPTED, Event.WATCH): (State.ACCEPTED, Pending),
    (State.RUNNING, Event.WATCH): (State.RUNNING, Pending),
    (State.ACCEPTED, Event.CANCEL): (State.CANCELLED, Ended),
    (State.ACCEPTED, Event.REFUSE): (NO, Pending),
    (State.ACCEPTED, Event.EXPIRE): (State.FAILED, Ended),
    (State.ACCEPTED, Event.QUEUED): (State.ACCEPTED, type(None)),
    (State.RUNNING, Event.CLAIM): (NO, Busy),
    (State.RUNNING, Event.RENEW): (NO, Fenced),
    (State.RUNNING, Event.POLL): (NO, Fenced),
    (State.RUNNING, Event.FINISH): (NO, Fenced),
    (State.RUNNING, Event.RETARGET): (State.RUNNING, Pending),
    (State.RUNNING, Event.CANCEL): (State.RUNNING, Pending),
    (State.RUNNING, Event.REFUSE): (NO, Pending),
    (State.RUNNING, Event.EXPIRE): (NO, Busy),
    (State.RUNNING, Event.QUEUED): (NO, type(None)),
    (State.ACCEPTED, Event.RECOVER): (State.ACCEPTED, type(None)),
    (State.RUNNING, Event.RECOVER): (State.RUNNING, type(None)),
    (State.ACCEPTED, Event.ERASE): (State.CANCELLED, Ended),
    (State.RUNNING, Event.ERASE): (State.CANCELLED, Ended),
}
for terminal in (State.COMPLETED, State.FAILED, State.CANCELLED):
    EXPECTED |= {
        (terminal, Event.CLAIM): (NO, Ended),
        (terminal, Event.RENEW): (NO, Fenced),
        (terminal, Event.POLL): (NO, Fenced),
        (terminal, Event.FINISH): (NO, Fenced),
        (terminal, Event.RETARGET): (NO, Ended),
        (terminal, Event.WATCH): (NO, Ended),
        (terminal, Event.CANCEL): (NO, Ended),
        (terminal, Event.REFUSE): (NO, Ended),
        (terminal, Event.EXPIRE): (NO, Ended),
        (terminal, Event.QUEUED): (NO, type(None)),
        (terminal, Event.RECOVER): (NO, type(None)),
        (terminal, Event.ERASE): (NO, Ended),
    }


@pytest.mark.parametrize(("state", "event"), [(s, e) for s in State for e in Event])
def test_each_state_and_event_for_a_stranger(state: State, event: Event) -> None:
    step = apply(event, in_state(state))
    result = NO if step.record is None else step.record.state
    assert (result, type(step.outcome)) == EXPECTED[state, event]


@pytest.mark.parametrize(
    ("event", "expected"),
    [(Event.CLAIM, Claimed), (Event.RENEW, Held), (Event.POLL, Held), (Event.FINISH, Ended)],
)
def test_the_owner_of_the_lease_may(event: Event, expected: type) -> None:
    step = apply(event, in_state(State.RUNNING), owner="w1")
    assert isinstance(step.outcome, expected)


def test_finishing_twice_is_success_and_changes_nothing() -> None:
    step = apply(Event.FINISH, in_state(State.COMPLETED), owner="w1")
    assert step.record is None
    assert isinstance(step.outcome, Ended)
    assert not step.outcome.is_new


def test_an_old_attempt_is_fenced() -> None:
    newer = replace(in_state(State.RUNNING), attempt=2)
    for event in (Event.RENEW, Event.POLL, Event.FINISH):
        step = apply(event, newer, owner="w1")
        assert (step.record, type(step.outcome)) == (None, Fenced)


def test_a_lost_lease_lets_the_next_attempt_in_and_an_end_without_a_lease_raises_the_attempt() -> None:
    step = apply(Event.CLAIM, in_state(State.RUNNING), now_ms=T0 + 100)
    assert step.record is not None
    assert (step.record.attempt, step.record.owner, step.record.lease_until_ms) == (2, "w2", T0 + 200)
    assert step.record.started_at_ms == T0, "the deadline counts from the first start"
    expired = apply(Event.EXPIRE, in_state(State.RUNNING), now_ms=T0 + 100)
    assert expired.record is not None
    assert expired.record.ending is not None
    assert (expired.record.attempt, expired.record.ending.attempt, expired.content.text) == (2, 2, "")


def test_a_noted_cancellation_ends_any_later_claim_or_expiry() -> None:
    noted = replace(in_state(State.RUNNING), cancel_requested=True)
    for event in (Event.CLAIM, Event.EXPIRE):
        step = apply(event, noted, now_ms=T0 + 100)
        assert step.record is not None
        assert step.record.state is State.CANCELLED
    again = apply(Event.CANCEL, noted)
    assert (again.record, type(again.outcome)) == (None, Pending)


@pytest.mark.parametrize(
    ("record", "now_ms", "code"),
    [
        (accepted(), T0 + 50_000, ErrorCode.TIMEOUT),
        (in_state(State.RUNNING), T0 + 10_000, ErrorCode.TIMEOUT),
        (replace(in_state(State.RUNNING), attempt=3), T0 + 100, ErrorCode.INTERNAL),
    ],
)
def test_a_claim_past_a_deadline_or_the_last_attempt_ends_the_request(
    record: Record, now_ms: int, code: ErrorCode
) -> None:
    step = apply(Event.CLAIM, record, now_ms=now_ms)
    assert step.record is not None
    assert step.record.ending is not None
    assert (step.record.state, step.record.ending.error_code) == (State.FAILED, code)


def test_a_model_may_have_a_deadline_of_its_own() -> None:
    policy = Policy(answer_timeout_ms=10_000, answer_timeouts_ms={"thinker": 600_000})
    for model, answer_ms in (("m", 10_000), ("thinker", 600_000)):
        running = replace(in_state(State.RUNNING), model=model)
        assert changes.deadline_ms(running, policy=policy) == T0 + answer_ms


def test_only_the_asking_session_retargets_and_never_an_older_connection_of_it() -> None:
    target = partial(changes.retarget, accepted(), connection_id="c2", attempt=0, offset=0)
    assert isinstance(target(session_id="other", generation=9).outcome, Conflict)
    older = target(session_id="s", generation=4)
    assert (older.record, type(older.outcome)) == (None, Pending)
    same = target(session_id="s", generation=5)
    assert same.record is not None
    assert same.record.target == DeliveryTarget(no=2, connection_id="c2", generation=5)


def test_each_watcher_is_fenced_by_its_own_frames() -> None:
    """Compared across sessions, the generation of a newer one would bar the older one's resume."""
    record = in_state(State.RUNNING)
    for later in (
        watcher("new", generation=9),
        watcher("old", generation=2),
        watcher("old", generation=2, number=2, offset=7),
        watcher("old", generation=3, number=1),
    ):
        step = changes.watch(record, conversation_id="c", watcher=later)
        assert step.record is not None
        record = step.record
        assert record.watchers[-1] == later
    assert {one.session_id for one in record.watchers} == {"new", "old"}
    assert record.target == in_state(State.RUNNING).target
    for stale in (watcher("old", generation=3, number=1, offset=2), watcher("old", generation=2, number=9)):
        assert changes.watch(record, conversation_id="c", watcher=stale) == Step(None, Pending(record))
    for number in range(20):
        step = changes.watch(record, conversation_id="c", watcher=watcher(f"w{number}"))
        assert step.record is not None
        record = step.record
    assert len(record.watchers) == changes.MAX_NOTED
    assert changes.recover(record).record == replace(record, lease_until_ms=0, target=None, watchers=())


def test_only_what_was_asked_in_the_conversation_is_watched_or_stopped_by_others() -> None:
    never_asked = changes.cancel(None, refusal_record=accepted(model=""), now_ms=T0).outcome
    assert isinstance(never_asked, Ended)
    for record, conversation_id in ((None, "c"), (accepted(), "other"), (never_asked.record, "c")):
        assert changes.watch(record, conversation_id=conversation_id, watcher=watcher()) == Step(None, Unknown())
        stopped = changes.stop(record, conversation_id=conversation_id, session_id="phone", now_ms=T0)
        assert stopped == Step(None, Unknown())
    old = accepted(conversation_id="\u1112\u1161\u11ab")
    assert isinstance(changes.watch(old, conversation_id="\ud55c", watcher=watcher()).outcome, Pending)
    assert isinstance(changes.watch(accepted(), conversation_id="c", watcher=watcher("s")).outcome, Conflict)


@pytest.mark.parametrize(("state", "expected"), [(State.ACCEPTED, Ended), (State.RUNNING, Pending)])
def test_the_record_says_which_other_session_stopped_it(state: State, expected: type) -> None:
    stop = partial(changes.stop, in_state(state), conversation_id="c", now_ms=T0)
    for session_id, by in (("s", None), ("phone", "phone")):
        step = stop(session_id=session_id)
        assert step.record is not None
        assert isinstance(step.outcome, expected)
        assert (step.record.cancelled_by, step.record.schema) == (by, 1 if by is None else 2)
    noted = changes.stop(in_state(State.RUNNING), conversation_id="c", session_id="phone", now_ms=T0).record
    assert changes.stop(noted, conversation_id="c", session_id="tablet", now_ms=T0).record is None
    ended = in_state(State.COMPLETED)
    assert changes.stop(ended, conversation_id="c", session_id="phone", now_ms=T0) == Step(None, Ended(ended))


def test_a_record_with_watchers_is_refused_by_a_program_that_would_lose_them() -> None:
    step = changes.watch(accepted(), conversation_id="c", watcher=watcher())
    assert step.record is not None
    assert (accepted().schema, step.record.schema) == (1, 2)


def test_a_conversation_has_a_few_places() -> None:
    kept: tuple[Watcher, ...] = ()
    for number in range(3):
        found = placed(kept, watcher(f"w{number}"), now_ms=0, most=3)
        assert isinstance(found, tuple)
        kept = found
    assert placed(kept, watcher("w3"), now_ms=0, most=3) is Place.FULL
    assert isinstance(placed(kept, watcher("w0", number=2), now_ms=0, most=3), tuple), "it has a place"
    assert placed(kept, watcher("w0", generation=1), now_ms=0, most=3) is Place.OLDER
    left = placed(kept, watcher("w0", number=2, off=True), now_ms=0, most=3)
    assert isinstance(left, tuple)
    assert placed(left, watcher("w0", number=1), now_ms=0, most=3) is Place.OLDER, (
        "it came behind the one that ended it"
    )
    assert isinstance(placed(left, watcher("w3"), now_ms=0, most=3), tuple)
    assert placed(kept, watcher("w3"), now_ms=kept[0].until_ms, most=3) == (watcher("w3"),), "their time is over"


def test_sessions_that_left_take_little_room() -> None:
    kept: tuple[Watcher, ...] = (watcher("stays"),)
    for number in range(20):
        found = placed(kept, watcher(f"w{number}", off=True), now_ms=0, most=3)
        assert isinstance(found, tuple)
        kept = found
    assert [one.session_id for one in kept] == ["stays", "w16", "w17", "w18", "w19"]


def test_a_new_process_recovers_work_without_the_leases_and_targets_of_the_dead_one() -> None:
    step = apply(Event.RECOVER, in_state(State.RUNNING))
    assert step.record is not None
    assert (step.record.lease_until_ms, step.record.target, step.record.attempt) == (0, None, 1)
    # Generations begin again with the process: a target of the first one must count.
    retargeted = changes.retarget(step.record, session_id="s", connection_id="c9", generation=1, attempt=1, offset=3)
    assert retargeted.record is not None
    assert retargeted.record.target == DeliveryTarget(no=1, connection_id="c9", generation=1, attempt=1, offset=3)
    assert apply(Event.RECOVER, None).record is None


def test_a_stored_refusal_shows_the_time_that_is_left() -> None:
    step = changes.refuse(None, refusal_record=accepted(), now_ms=T0, code=ErrorCode.RATE_LIMITED, retry_after_ms=700)
    assert step.record is not None
    for later_ms, left_ms in ((0, 700), (699, 1), (700, 0), (9_000, 0)):
        sent = changes.aged(step.record, now_ms=T0 + later_ms)
        assert sent.ending is not None
        assert sent.ending.retry_after_ms == left_ms


def test_an_unknown_request() -> None:
    assert isinstance(apply(Event.CLAIM, None).outcome, Unknown)
    assert isinstance(apply(Event.RETARGET, None).outcome, Unknown)
    assert isinstance(apply(Event.EXPIRE, None).outcome, Unknown)
    assert isinstance(apply(Event.RENEW, None).outcome, Fenced)
    assert isinstance(apply(Event.POLL, None).outcome, Fenced)
    assert isinstance(apply(Event.FINISH, None).outcome, Fenced)
    refusal_record = apply(Event.CANCEL, None)
    assert refusal_record.record is not None
    assert refusal_record.record.state is State.CANCELLED
    refused = changes.refuse(None, refusal_record=accepted(), now_ms=T0, code=ErrorCode.RATE_LIMITED, retry_after_ms=7)
    assert refused.record is not None
    assert refused.record.ending is not None
    assert (refused.record.state, refused.record.ending.retry_after_ms) == (State.FAILED, 7)


@given(st.sampled_from(State))
def test_a_refusal_leaves_a_known_request_alone(state: State) -> None:
    step = changes.refuse(in_state(state), refusal_record=accepted(), now_ms=T0, code=ErrorCode.RATE_LIMITED)
    assert step.record is None
    assert isinstance(step.outcome, Ended if state.is_terminal else Pending)


class AnyHistory(RuleBasedStateMachine):
    """Any sequence of events by any workers at any times: the attempt never falls, and the end is the end."""

    def __init__(self) -> None:
        super().__init__()
        self.record: Record = accepted()
        self.now_ms = T0
        self.endings: list[Ending] = []
        self.holders: dict[str, int] = {}

    def _take(self, step: Step[object]) -> None:
        if step.record is None:
            return
        assert not self.record.state.is_terminal, "an ended record was changed"
        assert step.record.attempt >= self.record.attempt
        if step.record.ending is not None:
            self.endings.append(step.record.ending)
        self.record = step.record

    @rule(owner=st.sampled_from(["a", "b"]), later_ms=st.sampled_from([0, 1, 99, 100, 6_000]))
    def claim(self, owner: str, later_ms: int) -> None:
        self.now_ms += later_ms
        step = changes.claim(self.record, owner=f"{owner}{self.now_ms}", now_ms=self.now_ms, policy=POLICY)
        if isinstance(step.outcome, Claimed):
            self.holders[step.outcome.record.owner] = step.outcome.record.attempt
        self._take(step)

    @rule(data=st.data())
    def renew_or_finish(self, data: st.DataObject) -> None:
        if not self.holders:
            return
        owner = data.draw(st.sampled_from(sorted(self.holders)))
        attempt = self.holders[owner]
        if data.draw(st.booleans()):
            step: Step[object] = changes.renew(
                self.record, owner=owner, attempt=attempt, now_ms=self.now_ms, policy=POLICY
            )
        else:
            step = changes.finish(
                self.record, owner=owner, attempt=attempt, ending=ending(attempt), content=Content("t")
            )
        if step.record is not None:
            assert attempt == self.record.attempt, "a fenced attempt wrote"
        self._take(step)

    @rule(generation=st.integers(3, 8), offset=st.integers(0, 5))
    def retarget(self, generation: int, offset: int) -> None:
        last = self.record.target
        step = changes.retarget(
            self.record, session_id="s", connection_id="x", generation=generation, attempt=1, offset=offset
        )
        self._take(step)
        assert last is not None
        assert self.record.target is not None
        assert self.record.target.generation >= last.generation

    @rule()
    def cancel(self) -> None:
        self._take(changes.cancel(self.record, refusal_record=accepted(), now_ms=self.now_ms))

    @rule(later_ms=st.sampled_from([0, 150]))
    def expire(self, later_ms: int) -> None:
        self.now_ms += later_ms
        self._take(changes.expire(self.record, now_ms=self.now_ms, code=ErrorCode.TIMEOUT))

    @invariant()
    def one_ending(self) -> None:
        assert len(self.endings) <= 1
        assert self.record.state.is_terminal == bool(self.endings)
        if self.record.ending is not None:
            assert self.record.ending.attempt == self.record.attempt
            assert self.record.ending.status.value == self.record.state.value


TestAnyHistory = AnyHistory.TestCase


@pytest.mark.parametrize("name", [field.name for field in fields(Record) if not field.required])
def test_a_record_is_lowered_by_the_fields_that_raise_its_version(name):
    """Whoever adds a field to the one has to add it to the other."""
    record = accepted(**{name: "x"})
    assert record.schema == next((version for version, names in changes._SINCE.items() if name in names), 1)
    assert record.lowered(1).schema == 1
    assert record.lowered(changes.SCHEMA) is record
