"""The checker: a history that keeps every promise passes, and each way to break one is found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from answerback.core.request import Ending, Record
from answerback.core.transitions import State
from answerback.ports import DailyUsage, StoredTurn
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Error,
    MessageAccepted,
    MessageAsked,
    MessageDelta,
    MessageResponse,
    SendMessage,
    Status,
    Watch,
)
from answerback_proof.answer_text import AnswerText
from answerback_proof.checker import Visible, check, count
from answerback_proof.history import (
    Asked,
    Cancelled,
    Cleared,
    Ended,
    Event,
    Fault,
    ModelRun,
    QuestionShown,
    Result,
    Resumed,
    RunHistory,
    Shown,
    Stored,
    ToApp,
    ToServer,
    Turn,
    TurnsRead,
    Usage,
    Violation,
    ViolationKind,
    WatchBegun,
    WatchLeft,
)
from asking import record_of

DEATH = "killed"
SEES_ALL = Visible(usage=True, deaths=frozenset({DEATH}))


def text_of(request: str) -> str:
    return f"{request} one two three"


def asked(request: str, **more: Any) -> Asked:
    text = text_of(request)
    return Asked(request=request, user="kim", session="s", conversation="c", text=text, answer=text, **more)


def to_app(request: str, frame: Any, *, session: str = "s", connection: str = "s#1") -> ToApp:
    return ToApp(connection=connection, session=session, request=request, frame=frame)


def delta(request: str, offset: int, text: str, *, attempt: int = 1) -> MessageDelta:
    return MessageDelta(request_id=request, attempt=attempt, offset=offset, delta=text)


def response(request: str, *, length: int | None = None, text: str | None = None) -> MessageResponse:
    size = len(text_of(request)) if length is None else length
    return MessageResponse(request_id=request, status=Status.COMPLETED, attempt=1, length=size, response=text)


def record(request: str, *, status: Status | None = Status.COMPLETED, **more: Any) -> Record:
    length = more.pop("length", len(text_of(request)))
    facts = {"attempt": 1, "ended_at_ms": 90, "input_tokens": 3, "output_tokens": 4} | more
    ending = None if status is None else Ending(status=status, length=length, **facts)
    state = State.RUNNING if status is None else State(status.value)
    return record_of(request, "kim", attempt=facts["attempt"], state=state, ending=ending)


def stored(request: str, *, answer: str | None = None, of: Record | None = None) -> Stored:
    answer = text_of(request) if answer is None else answer
    return Stored(request=request, record=of or record(request), answer=answer, has_question=True)


def turn(request: str, *, user: str = "kim", **more: Any) -> Turn:
    text = text_of(request)
    facts = {"question": text, "answer": text, "status": Status.COMPLETED, "input_tokens": 3, "output_tokens": 4} | more
    kept = StoredTurn(position=1, request_id=request, accepted_at_ms=0, ended_at_ms=90, **facts)
    return Turn(request=request, user=user, turn=kept)


def message_asked(request: str) -> MessageAsked:
    about = {"request_id": request, "conversation_id": "c", "accepted_at": "2026-01-01T00:00:00Z"}
    return MessageAsked(question=text_of(request), model="echo", **about)


def ended(request: str, result: Result = Result.COMPLETED, **more: Any) -> Ended:
    facts = {"observer": "app", "text": text_of(request), "attempt": 1} | more
    return Ended(request=request, result=result, **facts)


def usage(requests: int = 2) -> Usage:
    day = DailyUsage(user_id="kim", day="2026-01-01", requests=requests, input_tokens=6, output_tokens=8)
    return Usage(usage=day)


def good() -> list[Event]:
    """Two questions of one conversation, each asked, accepted, streamed, shown, ended and stored."""
    events: list[Event] = []
    for request in ("r1", "r2"):
        text = text_of(request)
        events += [
            asked(request),
            ToServer(
                connection="s#1",
                session="s",
                request=request,
                frame=SendMessage(request_id=request, message=text, stream=True),
            ),
            to_app(request, MessageAccepted(request_id=request, conversation_id="c", position=0)),
            ModelRun(request=request, attempt=1, text=text),
            to_app(request, delta(request, 0, text[:5])),
            Shown(request=request, observer="app", offset=0, delta=text[:5]),
            to_app(request, delta(request, 5, text[5:])),
            Shown(request=request, observer="app", offset=5, delta=text[5:]),
            to_app(request, response(request)),
            ended(request),
        ]
    return [*events, stored("r1"), stored("r2"), turn("r1"), turn("r2"), usage()]


def found(events: list[Event], visible: Visible = SEES_ALL) -> set[tuple[str, ViolationKind, str]]:
    history = RunHistory(clock=iter(range(1000)).__next__)
    for event in events:
        history.add(event)
    return {(violation.promise, violation.kind, violation.request) for violation in check(history, visible)}


def without(*kinds: type, request: str = "r1") -> list[Event]:
    return [
        event for event in good() if not (isinstance(event, kinds) and getattr(event, "request", request) == request)
    ]


def instead(event: Event) -> list[Event]:
    """The good history with one of its events replaced: that of the same kind about the same request."""
    events = good()
    name = getattr(event, "request", "")
    at = next(at for at, e in enumerate(events) if type(e) is type(event) and getattr(e, "request", "") == name)
    return [*events[:at], event, *events[at + 1 :]]


def failed_run(deaths: int) -> list[Event]:
    """A request that was given up after some deaths."""
    of = record("r1", status=Status.FAILED, length=0, error_code=ErrorCode.INTERNAL, attempt=3)
    return [
        asked("r1"),
        *(Fault(name=DEATH) for _ in range(deaths)),
        ended("r1", Result.FAILED, text="", attempt=3, code="internal"),
        stored("r1", answer="", of=of),
        turn("r1", answer="", status=Status.FAILED, error_code=ErrorCode.INTERNAL),
        Usage(usage=replace(usage().usage, requests=1, input_tokens=3, output_tokens=4)),
    ]


def cancelled(*more: Event) -> list[Event]:
    """A request that ended as cancelled."""
    of = record("r1", status=Status.CANCELLED, length=2)
    return [
        asked("r1"),
        *more,
        ended("r1", Result.CANCELLED, text="r1"),
        stored("r1", answer="r1", of=of),
        turn("r1", answer="r1", status=Status.CANCELLED),
        Usage(usage=replace(usage().usage, requests=1, input_tokens=3, output_tokens=4)),
    ]


WATCHER = "s2, watch 1"
SEES_QUESTION = QuestionShown(request="r1", observer=WATCHER, conversation="c", question=text_of("r1"))


def watched(*events: Event, session: str = "s2", user: str = "kim") -> list[Event]:
    """A session that watches the conversation before anything is asked, and sees these."""
    watch = Watch(request_id="watch-1", conversation_id="c", number=1)
    begun = WatchBegun(observer=WATCHER, user=user, session=session, conversation="c")
    asks = ToServer(connection="s2#1", session=session, request="watch-1", frame=watch)
    return [begun, asks, *good(), *events]


def seen(request: str, result: Result = Result.COMPLETED, **more: Any) -> list[Event]:
    """What a watcher sees of an answer that it was not shown from its beginning."""
    shown = QuestionShown(request=request, observer=WATCHER, conversation="c", question=text_of(request))
    return [shown, ended(request, result, observer=WATCHER, **more)]


def test_a_history_that_keeps_every_promise_passes() -> None:
    assert found(good()) == set()
    read = TurnsRead(observer=WATCHER, requests=("r2",))
    assert found(watched(*seen("r1"), read)) == set()
    assert found(watched(SEES_QUESTION, WatchLeft(observer=WATCHER))) == set()
    assert found(watched(*seen("r1"), *seen("r2"), to_app("r1", response("r1"), session="s2"))) == set()
    assert found(cancelled(Cancelled(request="r1"))) == set()
    assert found(failed_run(3)) == set()


ANOTHER_ANSWER = ("G1", ViolationKind.FOREIGN, "r1")
TWO_ENDINGS = ("G2", ViolationKind.REPEATED, "r1")
ANOTHER_ENDING = ("G2", ViolationKind.DIFFERENT, "r1")
ANOTHER_TEXT = ("G3", ViolationKind.DIFFERENT, "r1")
MISSING_TEXT = ("G3", ViolationKind.LOST, "r1")
ANOTHER_TEXT_OF_QUESTION = ("G1", ViolationKind.DIFFERENT, "r1")
QUESTION_TWICE = ("G1", ViolationKind.REPEATED, "r1")
DISORDERED = ("G4", ViolationKind.DISORDERED, "r1")
LOST = ("G5", ViolationKind.LOST, "r1")
UNASKED_CANCELLATION = ("G6", ViolationKind.DIFFERENT, "r1")
SECOND_RUN = ("G7", ViolationKind.REPEATED, "r1")

BROKEN: dict[str, tuple[list[Event], tuple[str, ViolationKind, str]]] = {
    # own answer
    "a frame to another session": ([*good(), to_app("r1", response("r1"), session="s2")], ANOTHER_ANSWER),
    "a frame about what nobody asked": ([*good(), to_app("r9", response("r9"))], ("G1", ViolationKind.FOREIGN, "r9")),
    "an error to another session": (
        [*good(), to_app("r1", Error(code=ErrorCode.UNAVAILABLE, message="", request_id="r1"), session="s2")],
        ANOTHER_ANSWER,
    ),
    "another request's answer at the app": (instead(ended("r1", text=text_of("r2"))), ANOTHER_ANSWER),
    "another request's answer in the store": (instead(stored("r1", answer=text_of("r2"))), ANOTHER_ANSWER),
    "another request's text on the wire": ([*good(), to_app("r1", delta("r1", 0, "r2"))], ANOTHER_ANSWER),
    "a record of another session": (
        [*without(Asked), structs.replace(asked("r1"), session="s2")],
        ANOTHER_ANSWER,
    ),
    "a model run that nobody asked for": (
        [*good(), ModelRun(request="r9", attempt=1)],
        ("G1", ViolationKind.FOREIGN, "r9"),
    ),
    "completed without a model run": (without(ModelRun), ANOTHER_ANSWER),
    "a turn that nobody asked for": ([*good(), turn("r9")], ("G1", ViolationKind.FOREIGN, "r9")),
    "a turn of another user": (instead(turn("r1", user="lee")), ANOTHER_ANSWER),
    "a turn of a request that was never accepted": (without(Stored), ANOTHER_ANSWER),
    # one ending
    "two endings at the app": ([*good(), ended("r1")], TWO_ENDINGS),
    "two apps that see two endings": (
        [*good(), ended("r1", Result.FAILED, observer="window 2", code="internal")],
        TWO_ENDINGS,
    ),
    "two answers when asked again": ([*good(), ended("r1", observer="again", text="r1")], TWO_ENDINGS),
    "two endings on the wire": ([*good(), to_app("r1", response("r1", length=3))], TWO_ENDINGS),
    "two turns": ([*good(), turn("r1")], TWO_ENDINGS),
    "another ending in the store": (instead(ended("r1", Result.FAILED, code="internal")), ANOTHER_ENDING),
    "another reason in the store": (
        [*failed_run(3)[:-3], stored("r1", answer="", of=record("r1", status=Status.FAILED, length=0, attempt=3))],
        ANOTHER_ENDING,
    ),
    "another ending in the turn": (instead(turn("r1", status=Status.FAILED)), ANOTHER_ENDING),
    # exact text
    "a character less at the app": (instead(ended("r1", text=text_of("r1")[:-1])), ANOTHER_TEXT),
    "a character more at the app": (instead(ended("r1", text=text_of("r1") + "!")), ANOTHER_TEXT),
    "a character less in the store": (instead(stored("r1", answer=text_of("r1")[:-1])), ANOTHER_TEXT),
    "another length in the store": (instead(stored("r1", of=record("r1", length=3))), ANOTHER_TEXT),
    "another attempt in the store": (instead(ended("r1", attempt=2)), ANOTHER_TEXT),
    "another question in the turn": (instead(turn("r1", question="what?")), ANOTHER_TEXT),
    "another answer in the turn": (instead(turn("r1", answer="what?")), ANOTHER_TEXT),
    "another response on the wire": ([*good(), to_app("r1", response("r1", text="r1"))], ANOTHER_TEXT),
    "another length on the wire": ([*good(), to_app("r1", response("r1", length=3))], ANOTHER_TEXT),
    "a gap on the wire": ([*good(), to_app("r1", delta("r1", 5, "ne"), connection="s#2")], MISSING_TEXT),
    "a gap on the screen": ([*good(), Shown(request="r1", observer="b", offset=3, delta="one")], ANOTHER_TEXT),
    "a piece shown twice": ([*good(), Shown(request="r1", observer="app", offset=0, delta="r1")], ANOTHER_TEXT),
    "another text on the screen": ([*good(), Shown(request="r1", observer="b", offset=0, delta="x")], ANOTHER_TEXT),
    "a screen that ends with another text": (
        [*without(Shown), Shown(request="r1", observer="b", offset=0, delta="r1"), ended("r1", observer="b")],
        ANOTHER_TEXT,
    ),
    # order
    "an older question begun later": (
        [*without(ModelRun), ModelRun(request="r1", attempt=1, text=text_of("r1"))],
        DISORDERED,
    ),
    "an older question kept later": ([*without(Turn), turn("r1")], DISORDERED),
    # accepted means answered
    "no ending at the app": (without(Ended), LOST),
    "no record": (without(Stored), LOST),
    "no ending in the store": (instead(stored("r1", of=record("r1", status=None))), LOST),
    "no turn": (without(Turn), ("G2", ViolationKind.LOST, "r1")),
    "a client that gives up": (instead(ended("r1", Result.TIMED_OUT)), LOST),
    "given up too early": (failed_run(2), LOST),
    # several devices
    "who watches is shown no ending": (watched(*seen("r2")), LOST),
    "who watches is shown a question and no ending": (
        [event for event in watched(*seen("r2"), SEES_QUESTION) if not isinstance(event, Turn)],
        LOST,
    ),
    "who watches is shown an attempt that never was": (watched(*seen("r1", attempt=2), *seen("r2")), ANOTHER_TEXT),
    "who watches is shown other parts": (
        watched(*seen("r1", parts=((0, "reasoning", "r1"),)), *seen("r2")),
        ANOTHER_TEXT,
    ),
    "who watches is shown two endings": (watched(*seen("r1"), *seen("r2"), *seen("r1")[1:]), TWO_ENDINGS),
    "who watches is shown another ending": (
        watched(*seen("r1", Result.FAILED, code="internal"), *seen("r2")),
        TWO_ENDINGS,
    ),
    "who watches is shown another text": (watched(*seen("r1", text="r1"), *seen("r2")), ANOTHER_TEXT),
    "who watches is shown another's answer": (watched(*seen("r1", text=text_of("r2"))), ANOTHER_ANSWER),
    "who watches waits in vain": (watched(*seen("r1", Result.TIMED_OUT)), LOST),
    "who watches is shown another question": (
        watched(structs.replace(SEES_QUESTION, question="what?")),
        ANOTHER_TEXT_OF_QUESTION,
    ),
    "who watches is shown the question twice": (watched(SEES_QUESTION, SEES_QUESTION), QUESTION_TWICE),
    "who watches is shown another user's question": (watched(SEES_QUESTION, user="lee"), ANOTHER_ANSWER),
    "a watched frame to another user": (
        [*watched(user="lee"), to_app("r1", response("r1"), session="s2")],
        ANOTHER_ANSWER,
    ),
    "the asker is told what it has asked": ([*good(), to_app("r1", message_asked("r1"))], QUESTION_TWICE),
    # explicit cancellation only
    "cancelled by nobody": (cancelled(), UNASKED_CANCELLATION),
    # at most one model run
    "one attempt run twice": ([*good(), ModelRun(request="r1", attempt=1)], SECOND_RUN),
    "a run after the ending": ([Fault(name=DEATH), *good(), ModelRun(request="r1", attempt=2)], SECOND_RUN),
    "an older attempt run later": (
        [ModelRun(request="r1", attempt=2), Fault(name=DEATH), *good()],
        SECOND_RUN,
    ),
    "another attempt without a death": ([ModelRun(request="r1", attempt=0), *good()], SECOND_RUN),
    "more usage than turns": (instead(usage(3)), ("G7", ViolationKind.DIFFERENT, "")),
    "more tokens in the turn than in the record": (instead(turn("r1", output_tokens=5)), ANOTHER_ENDING),
    # what was noticed on the way
    "a violation that somebody saw": (
        [*good(), Violation(promise="", kind=ViolationKind.BROKEN, request="", detail="an error in a log")],
        ("", ViolationKind.BROKEN, ""),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_every_broken_promise_is_found(what: str) -> None:
    events, violation = BROKEN[what]
    assert violation in found(events)


def allowed(*more: Event) -> set[tuple[str, ViolationKind, str]]:
    return found([*good(), *more])


def test_what_is_allowed() -> None:
    resumed = Resumed(connection="s#2", session="s", request="r1", attempt=1, offset=5)
    assert allowed(resumed, to_app("r1", delta("r1", 5, text_of("r1")[5:]), connection="s#2")) == set()
    assert allowed(to_app("r1", response("r1"), connection="s#2")) == set()
    named = Resumed(connection="x", session="s2", request="r1", attempt=0, offset=0)
    refusal = Error(code=ErrorCode.UNKNOWN_REQUEST, message="", request_id="r1")
    assert allowed(named, to_app("r1", refusal, session="s2")) == set()
    assert (
        allowed(Cleared(request="r1", observer="app"), Shown(request="r1", observer="app", offset=0, delta="r1"))
        == set()
    )


@pytest.mark.parametrize(
    ("visible", "lost"),
    [
        (replace(SEES_ALL, records=False), (Stored,)),
        (replace(SEES_ALL, turns=False, usage=False), (Turn, Usage)),
        (replace(SEES_ALL, runs=False), (ModelRun,)),
    ],
)
def test_what_a_run_cannot_see_is_not_checked(visible: Visible, lost: tuple[type, ...]) -> None:
    assert found([event for event in good() if not isinstance(event, lost)], visible) == set()


def test_where_nothing_is_disturbed_a_streamed_ending_follows_the_whole_text() -> None:
    events = [e for e in good() if not (isinstance(e, ToApp) and isinstance(e.frame, MessageDelta) and e.frame.offset)]
    assert found(events) == set()
    assert MISSING_TEXT in found(events, replace(SEES_ALL, undisturbed=True))


@pytest.mark.parametrize(("ended_at_ms", "is_over"), [(2, True), (90, False)])
def test_what_thaws_may_begin_an_attempt_that_another_has_ended(ended_at_ms: int, is_over: bool) -> None:
    """The newer attempt was cancelled before it ran, and what was asked later was begun."""
    of = record("r1", status=Status.CANCELLED, length=0, attempt=2, ended_at_ms=ended_at_ms)
    events = [
        asked("r1"),
        Fault(name=DEATH),
        Cancelled(request="r1"),
        ended("r1", Result.CANCELLED, text="", attempt=2),
        turn("r1", answer="", status=Status.CANCELLED),
        *(event for event in good() if getattr(event, "request", "") == "r2"),
        ModelRun(request="r1", attempt=1, text=text_of("r1")),
        stored("r1", answer="", of=of),
    ]
    late = {("G4", ViolationKind.DISORDERED, "r1")}
    assert found(events, replace(SEES_ALL, usage=False)) == late
    assert found(events, replace(SEES_ALL, usage=False, thaws=True)) == (set() if is_over else late)


@pytest.mark.parametrize(("skew_ms", "may_be_shown"), [(90, True), (0, False)])
def test_what_an_attempt_said_that_may_be_fenced_may_be_shown(skew_ms: int, may_be_shown: bool) -> None:
    """It began after the newer attempt's ending by one clock, and perhaps before that by another."""
    of = record("r1", status=Status.CANCELLED, length=0, attempt=2, ended_at_ms=2)
    events = [
        Asked(request="r1", user="kim", session="s", conversation="c", text="r1", answer=None),
        Fault(name=DEATH),
        ModelRun(request="r1", attempt=1, text="the first"),
        Shown(request="r1", observer="app", offset=0, delta="the"),
        ModelRun(request="r1", attempt=2, text="another"),
        Cancelled(request="r1"),
        stored("r1", answer="", of=of),
    ]
    visible = replace(SEES_ALL, thaws=True, skew_ms=skew_ms)
    assert (ANOTHER_TEXT not in found(events, visible)) is may_be_shown
    kept = stored("r1", answer="the", of=record("r1", status=Status.CANCELLED, length=3, attempt=2, ended_at_ms=2))
    assert ANOTHER_TEXT in found([*events[:-1], kept], visible), "a store takes nothing of it"


def test_frames_in_any_order_have_no_gaps() -> None:
    events = [*good(), to_app("r1", delta("r1", 5, text_of("r1")[5:]), connection="s#2")]
    assert found(events, replace(SEES_ALL, ordered=False)) == set()


def test_three_numbers() -> None:
    kinds = (ViolationKind.FOREIGN, ViolationKind.LOST, ViolationKind.DIFFERENT, ViolationKind.REPEATED)
    violations = [Violation(promise="", kind=kind, request="", detail="") for kind in kinds]
    assert str(count(violations)) == "1 misrouted, 2 lost, 1 repeated"


# --- the text of one answer


Step = Callable[[AnswerText], Any]
FLAWS: dict[str, tuple[list[Step], list[ViolationKind]]] = {
    "whole": ([lambda t: t.add(1, 0, "one "), lambda t: t.add(1, 4, "two"), lambda t: t.end(1, 7, None)], []),
    "a response": ([lambda t: t.end(1, 3, "two")], []),
    "another attempt": (
        [lambda t: t.add(1, 0, "on"), lambda t: t.add(2, 0, "two"), lambda t: t.end(2, 3, None)],
        [],
    ),
    "an older attempt": ([lambda t: t.begin(2), lambda t: t.add(1, 0, "x")], [ViolationKind.DISORDERED]),
    "a gap": ([lambda t: t.add(1, 4, "two")], [ViolationKind.LOST]),
    "a piece twice": ([lambda t: t.add(1, 0, "one"), lambda t: t.add(1, 0, "one two")], [ViolationKind.REPEATED]),
    "another text at one place": (
        [lambda t: t.add(1, 0, "one"), lambda t: t.add(1, 0, "two")],
        [ViolationKind.DIFFERENT],
    ),
    "a missing end": ([lambda t: t.add(1, 0, "one"), lambda t: t.end(1, 7, None)], [ViolationKind.LOST]),
    "a response of another length": ([lambda t: t.end(1, 7, "one")], [ViolationKind.LOST]),
    "a second ending": ([lambda t: t.end(1, 0, None), lambda t: t.end(1, 0, None)], [ViolationKind.REPEATED]),
    "text after the ending": ([lambda t: t.end(1, 3, "one"), lambda t: t.add(1, 3, "!")], [ViolationKind.REPEATED]),
}


@pytest.mark.parametrize("what", FLAWS)
def test_the_flaws_of_one_text(what: str) -> None:
    steps, kinds = FLAWS[what]
    text = AnswerText()
    assert [flaw.kind for step in steps if (flaw := step(text)) is not None] == kinds
