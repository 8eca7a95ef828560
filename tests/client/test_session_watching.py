"""The session's transcripts of what it watches: when it asks, what it shows of others' answers, and when it stops."""

import pytest

from answerback.client.effects import Note, ReplyFailed, Show, WatchFailed, WatchHeld
from answerback.client.errors import Closed, ProtocolViolation, RequestCancelled, RequestFailed, RequestTimeout
from answerback.client.events import (
    Asked,
    ChangesMissed,
    Done,
    Failed,
    PartStarted,
    PartText,
    Restarted,
    Started,
    Text,
    Thinking,
    TurnsMissed,
)
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    ConversationChanged,
    GetHistory,
    History,
    MessageAsked,
    MessageDelta,
    ModelInfo,
    Status,
    Turn,
    TurnPart,
    Usage,
    Watching,
)
from session_script import STREAM, Script, accepted, connected, delta, end, error, hellos, sent, sign, watched

FEATURES = ("watch",)
CHANGE = ConversationChanged(conversation_id="c", title="T", turns=1, updated_at="u")


def asked(rid, conversation="c", **more):
    return MessageAsked(
        request_id=rid, conversation_id=conversation, question="Q?", model="m", accepted_at="then", **more
    )


def watching(number, turn=None, conversation="c"):
    return Watching(request_id=f"watch-{number}", conversation_id=conversation, number=number, turn=turn)


def turn(rid, answer="yes", status=Status.COMPLETED, **more):
    more = {"asked_at": "then", "answered_at": "later"} | more
    return Turn(request_id=rid, question="Q?", answer=answer, status=status, **more)


def watch(script, conversation="c", **how):
    return script.session.watch(conversation, now=script.now, **how)


def begun(conversation="c", newest=None):
    """A script in which a conversation is watched."""
    script = connected(features=FEATURES)
    watch(script, conversation)
    script.hear(watching(1, newest, conversation))
    return script


def last_number(script):
    """The number of what was sent last."""
    return script.session._watches._numbers


def page(script, *turns, more=None):
    """Answer the page of the history that was asked for last, oldest turn first."""
    return script.hear(History(request_id=f"turns-{last_number(script)}", conversation_id="c", turns=turns, next=more))


def kinds(effects):
    """What is shown of whom, in short."""
    return [f"{type(item.event).__name__} {item.request_id}" for item in watched(effects)]


# --- asking for it


def test_a_watch_is_sent_held_and_renewed_every_four_minutes():
    script = connected(features=FEATURES)
    assert sent(watch(script)) == ["watch c 1"]
    assert sent(watch(script)) == []
    assert script.hear(watching(1)) == [WatchHeld("c", is_live=True)]
    assert sent(script.wait(239)) == []
    assert sent(script.wait(240)) == ["watch c 2"]
    script.hear(watching(2))
    assert sent(script.wait(480)) == ["watch c 3"]


def test_it_waits_for_a_connection_and_for_the_greeting():
    script = Script()
    assert sent(watch(script)) == []
    (hello,) = hellos(script.connect())
    assert sent(script.welcome(hello, features=FEATURES)) == ["watch c 1"]
    assert sent(script.welcome(hello, features=FEATURES)) == [], "a greeting that comes twice"


def test_a_watch_without_an_answer_is_repeated_with_growing_pauses():
    script = connected(features=FEATURES, probe_max_s=60.0)
    watch(script)
    assert sent(script.wait(9.9)) == []
    assert sent(script.wait(10)) == ["watch c 2"]
    assert sent(script.wait(29.9)) == []
    assert sent(script.wait(30)) == ["watch c 3"]
    assert script.hear(watching(1), watching(2)) == []
    assert script.hear(watching(3)) == [WatchHeld("c", is_live=True)]
    assert script.hear(watching(3)) == []


def test_a_server_without_it_is_told_apart_at_once_and_when_it_comes():
    with pytest.raises(RequestFailed, match="does not show answers to other devices"):
        watch(connected())
    with pytest.raises(RequestFailed, match="does not show answers to other devices"):
        connected().session.cancel("a", "c", now=0)
    script = Script()
    watch(script)
    (hello,) = hellos(script.connect())
    (failed,) = [effect for effect in script.welcome(hello) if isinstance(effect, WatchFailed)]
    assert (failed.conversation_id, failed.error.code, failed.error.retryable) == ("c", "forbidden", False)
    assert "c" not in script.session._watches


def test_each_connection_is_told_what_is_watched_and_what_is_held():
    script = begun()
    script.hear(asked("a"), delta("a", 0, "one "))
    script.lose()
    script.wait(2_000)
    (hello,) = hellos(script.connect())
    assert sent(script.welcome(hello, features=FEATURES)) == ["watch c 2 a@1:4"]
    assert watched(script.wait(2_001)) == [], "it may have been silent for as long as there was no connection"
    script.hear(watching(2))
    page(script)
    assert kinds(script.hear(delta("a", 4, "two"), end("a", 7))) == ["Text a", "Done a"]


def test_what_is_not_watched_any_more_leaves_nothing():
    script = begun()
    script.hear(asked("a"), delta("a", 0, "one "))
    assert sent(script.session.unwatch("c")) == ["unwatch c 2"]
    assert script.hear(watching(2), delta("a", 4, "two"), asked("b"), end("a", 7)) == []
    assert script.session.unwatch("c") == []
    assert sent(script.wait(260)) == []
    watches = script.session._watches
    assert not watches._watches
    assert not watches._answers
    assert sent(watch(script)) == ["watch c 3"]


def test_what_is_not_watched_any_more_is_not_read_either():
    script = begun(newest="old")
    script.wait(240)
    assert sent(script.hear(watching(2, "b"))) == ["GetHistory"]
    script.session.unwatch("c")
    assert sent(script.wait(260)) == []


def test_off_and_on_again_at_once_is_watched():
    script = begun()
    script.session.unwatch("c")
    watch(script)
    assert script.hear(watching(2)) == []
    assert script.hear(watching(3)) == [WatchHeld("c", is_live=True)]


# --- what is shown


def test_an_answer_of_another_session():
    script = begun()
    effects = script.hear(asked("a", replaces="z"), delta("a", 0, "one "), delta("a", 4, "two"), end("a", 7))
    assert kinds(effects) == ["Asked a", "Started a", "Text a", "Text a", "Done a"]
    question, *_, done = (item.event for item in watched(effects))
    assert question == Asked(
        request_id="a", conversation_id="c", question="Q?", model="m", replaces="z", accepted_at="then"
    )
    assert (done.answer.text, done.answer.conversation_id) == ("one two", "c")
    assert script.hear(asked("a"), delta("a", 0, "one "), end("a", 7)) == []


def test_a_question_that_is_cut_says_so():
    (shown,) = watched(begun().hear(asked("a", question_length=99_999)))
    assert shown.event.is_cut


def test_an_answer_that_is_whole_in_one_frame_and_one_that_failed_or_was_stopped():
    script = begun()
    assert kinds(script.hear(asked("a"), end("a", text="yes"))) == ["Asked a", "Text a", "Done a"]
    effects = script.hear(asked("b"), end("b", status=Status.FAILED, code=ErrorCode.MODEL_FAILED))
    assert isinstance(watched(effects)[-1].event, Failed)
    assert watched(effects)[-1].event.error.code == "model_failed"
    effects = script.hear(asked("d"), delta("d", 0, "half"), end("d", 4, status=Status.CANCELLED))
    stopped = watched(effects)[-1].event.error
    assert isinstance(stopped, RequestCancelled)
    assert stopped.answer.text == "half"


def test_a_new_attempt_voids_the_text():
    script = begun()
    effects = script.hear(asked("a"), delta("a", 0, "one"), delta("a", 0, "uno", attempt=2), end("a", 3, attempt=2))
    assert kinds(effects) == ["Asked a", "Started a", "Text a", "Restarted a", "Text a", "Done a"]


def test_parts_and_signs_of_life():
    script = begun()
    thought = MessageDelta(request_id="a", attempt=1, offset=0, delta="hm", part=0, kind="reasoning")
    said = MessageDelta(request_id="a", attempt=1, offset=2, delta="yes", part=1)
    effects = script.hear(asked("a"), sign("a", attempt=0), sign("a"), thought, sign("a"), said, end("a", 5))
    assert [type(item.event) for item in watched(effects)] == [
        *(Asked, Thinking, Started, PartStarted, PartText, Thinking, Text, Done)
    ]
    assert watched(effects)[1].event == Thinking(8.0)
    assert [part.kind for part in watched(effects)[-1].event.answer.parts] == ["reasoning", "text"]


def test_nothing_opens_an_answer_but_a_question_in_what_is_watched_now_on_the_present_connection():
    script = begun()
    assert script.hear(delta("a", 0, "one"), end("a", 3), sign("a")) == []
    assert script.hear(asked("a", "elsewhere")) == []
    script.connect()
    assert script.hear(asked("a"), link=1) == []


def test_what_was_there_before_is_not_shown_however_late_its_frames_come():
    script = begun(newest="old")
    assert script.hear(asked("old"), delta("old", 0, "x"), end("old", 1)) == []


def test_the_sessions_own_questions_come_by_themselves():
    script = begun()
    script.ask("mine", STREAM, conversation="c")
    script.ask("free", STREAM)
    effects = script.hear(asked("mine"), accepted("mine"), accepted("free"), delta("mine", 0, "x"), end("mine", 1))
    assert watched(effects) == []
    assert watched(script.hear(end("free", text="y"))) == []
    script.wait(240)
    assert sent(script.hear(watching(2, "free"))) == ["GetHistory"]
    assert watched(page(script, turn("mine"), turn("free"), turn("theirs")))[0].request_id == "theirs"


def test_questions_asked_before_the_watch_are_own_ones_too():
    script = connected(features=FEATURES)
    script.ask("mine", STREAM, conversation="c")
    watch(script)
    script.hear(watching(1), accepted("mine"), end("mine", text="x"))
    script.wait(240)
    script.hear(watching(2, "mine"))
    assert watched(page(script, turn("mine"))) == []
    script = connected(features=FEATURES)
    script.ask("mine", STREAM, conversation="c")
    script.hear(accepted("mine"))
    watch(script, after="old")
    script.hear(end("mine", text="x"), watching(1, "mine"))
    assert kinds(page(script, turn("old"), turn("theirs"), turn("mine")))[-1] == "Done theirs"


def test_a_question_in_two_conversations_is_shown_in_the_first():
    script = begun()
    watch(script, "d")
    script.hear(watching(2, conversation="d"))
    assert kinds(script.hear(asked("a"), asked("a", "d"), end("a", text="x"))) == ["Asked a", "Text a", "Done a"]
    script.session.unwatch("c")
    script.session.unwatch("d")


def test_an_own_question_that_the_history_has_before_it_was_accepted_is_no_news():
    script = begun(newest="old")
    script.ask("mine", STREAM)
    script.wait(240)
    script.hear(watching(script.session._watches._watches["c"].number, "mine"))
    assert watched(page(script, turn("old"), turn("mine"))) == []


# --- what is missing


def test_missing_text_is_asked_for_at_once_and_then_with_growing_pauses():
    script = begun()
    assert sent(script.hear(asked("a"), delta("a", 5, "two"))) == ["watch c 2 a@1:0"]
    assert sent(script.hear(delta("a", 9, "three"))) == []  # the answer of that one may bring it
    script.hear(watching(2))
    assert sent(script.wait(0.24)) == []
    assert sent(script.wait(0.25)) == ["watch c 3 a@1:0"]
    script.hear(watching(3), delta("a", 9, "three"))
    assert sent(script.wait(0.74)) == []
    assert sent(script.wait(0.75)) == ["watch c 4 a@1:0"]
    script.hear(delta("a", 0, "one: "), watching(4))
    assert sent(script.wait(5)) == []
    assert sent(script.hear(delta("a", 20, "x"))) == ["watch c 5 a@1:5"]


def test_what_was_missing_and_has_come_is_not_asked_for_again():
    script = begun()
    script.hear(*(frame for rid in "abc" for frame in (asked(rid), delta(rid, 0, "one "))))
    assert sent(script.hear(end("a", 7))) == ["watch c 2 a@1:4 b@1:4 c@1:4"]
    script.hear(end("b", 7), delta("a", 4, "two"))
    assert sent(script.hear(watching(2))) == ["watch c 3 b@1:4 c@1:4"], "b lacks text"
    script.hear(end("b", 7), delta("b", 4, "two"))
    assert sent(script.hear(watching(3))) == []


def test_an_ending_without_its_text_sends_to_the_history():
    script = begun()
    assert sent(script.hear(asked("a"), end("a", 4, status=Status.CANCELLED))) == ["GetHistory"]
    effects = page(script, turn("a", "half", Status.CANCELLED))
    assert kinds(effects) == ["Started a", "Text a", "Failed a"]
    assert watched(effects)[-1].event.error.answer.text == "half"


def test_a_silent_answer_is_asked_for_and_in_the_end_given_up():
    script = begun()
    script.hear(asked("a"))
    probes, shown = [], []
    for until in range(1, 752):
        effects = script.wait(until)
        shown += watched(effects)
        for _ in [frame for frame in sent(effects) if frame.startswith("watch")]:
            probes.append(until)
            script.hear(watching(script.session._watches._watches["c"].number))
    assert probes[:4] == [10, 30, 70, 130]
    assert len(probes) == 14
    (ending,) = [item.event for item in shown]
    assert isinstance(ending.error, RequestTimeout)
    assert script.hear(delta("a", 0, "late")) == []


def test_the_slowest_model_of_the_server_says_how_long_an_answer_may_be_silent():
    script = Script()
    (hello,) = hellos(script.connect())
    info = {"m": ModelInfo(), "thinker": ModelInfo(answer_timeout_ms=600_000)}
    script.welcome(hello, features=FEATURES, model_info=info)
    watch(script)
    script.hear(watching(1), asked("a"))
    shown = []
    for until in range(10, 1230, 10):
        shown += watched(script.wait(until))
        script.hear(watching(script.session._watches._watches["c"].number))
    assert shown == []
    (ending,) = watched(script.wait(1230))
    assert isinstance(ending.event.error, RequestTimeout)


def test_signs_of_life_put_the_next_look_off():
    script = connected(progress_ms=8_000, features=FEATURES)
    watch(script)
    script.hear(watching(1), asked("a"))
    for second in range(8, 80, 8):
        assert sent(script.wait(second)) == []
        script.hear(sign("a"))
    assert sent(script.wait(72 + 11.9)) == []
    assert sent(script.wait(72 + 12)) == ["watch c 2 a@0:0"]


def test_frames_that_keep_coming_do_not_put_the_renewal_off():
    script = begun()
    renewals = []
    for second in range(1, 500):
        if sent(script.wait(second)):
            renewals.append(second)
            script.hear(watching(script.session._watches._watches["c"].number))
        script.hear(asked("long"), delta("long", second - 1, "x"))
        script.hear(asked(f"r{second}"), end(f"r{second}", text="x"))
    assert renewals == [240, 480]


# --- the history


def test_a_turn_that_ended_while_the_session_was_away_is_in_the_history():
    script = begun(newest="old")
    script.hear(asked("a"), delta("a", 0, "one "))
    script.lose()
    (hello,) = hellos(script.connect())
    script.welcome(hello, features=FEATURES)
    effects = script.hear(watching(2, "b"))
    (asks,) = [effect.frame for effect in effects if hasattr(effect, "frame")]
    assert asks == GetHistory(request_id="turns-3", conversation_id="c", limit=10, superseded=True, parts=True)
    effects = page(
        script,
        turn("older"),
        turn("old"),
        turn("a", "one two"),
        turn("b", usage=Usage(input_tokens=1, output_tokens=2)),
    )
    assert kinds(effects) == ["Text a", "Done a", "Asked b", "Started b", "Text b", "Done b"]
    assert watched(effects)[2].event.conversation_id == "c"
    done = watched(effects)[-1].event.answer
    assert (done.text, done.usage) == ("yes", Usage(input_tokens=1, output_tokens=2))
    assert script.hear(asked("b"), delta("b", 0, "yes"), end("b", 3), end("a", 7), asked("older")) == []


def test_after_a_lost_connection_an_older_turn_may_have_ended_behind_one_that_is_known():
    script = begun(newest="old")
    script.wait(240)
    script.hear(watching(2, "cancelled-while-it-waited"))
    page(script, turn("old"), turn("cancelled-while-it-waited", status=Status.CANCELLED))
    script.lose()
    (hello,) = hellos(script.connect())
    script.welcome(hello, features=FEATURES)
    assert sent(script.hear(watching(4, "cancelled-while-it-waited"))) == ["GetHistory"]
    effects = page(script, turn("old"), turn("a"), turn("cancelled-while-it-waited", status=Status.CANCELLED))
    assert kinds(effects) == ["Asked a", "Started a", "Text a", "Done a"]


def test_a_turn_with_other_words_and_parts_restarts_the_answer():
    script = begun()
    script.hear(asked("a"), delta("a", 0, "one "))
    script.wait(240)
    script.hear(watching(script.session._watches._watches["c"].number, "a"))
    labels = (TurnPart(part=0, kind="reasoning", start=0, end=2), TurnPart(part=1, kind="text", start=2, end=5))
    effects = page(script, turn("a", "hmyes", parts=labels))
    assert [type(item.event) for item in watched(effects)] == [Restarted, PartStarted, PartText, Text, Done]
    assert watched(effects)[-1].event.answer.text == "yes"


def test_turns_that_failed_or_were_stopped_and_one_without_a_word():
    script = begun()
    script.wait(240)
    script.hear(watching(2, "d"))
    effects = page(
        script,
        turn("a", "half", Status.CANCELLED),
        turn("b", "", Status.FAILED, error_code=ErrorCode.TIMEOUT),
        turn("d", ""),
    )
    endings = [item.event for item in watched(effects) if isinstance(item.event, Done | Failed)]
    assert endings[0].error.answer.text == "half"
    assert endings[1].error.code == "timeout"
    assert endings[2].answer.text == ""


def test_the_history_is_read_page_by_page_and_at_most_so_far():
    script = begun(newest="old")
    script.lose()
    (hello,) = hellos(script.connect())
    script.welcome(hello, features=FEATURES)
    script.hear(watching(2, "t99"))
    for last in range(99, 59, -10):
        effects = page(script, *(turn(f"t{number}") for number in range(last - 9, last + 1)), more=f"p{last}")
    assert sent(effects) == []
    first, *others = watched(effects)
    assert first == ("t68", TurnsMissed())
    assert [item.request_id for item in others if isinstance(item.event, Asked)] == [f"t{n}" for n in range(68, 100)]


def test_a_new_connection_reads_the_history_anew():
    script = begun(newest="old")
    script.lose()
    (hello,) = hellos(script.connect())
    script.welcome(hello, features=FEATURES)
    script.hear(watching(2, "b"))
    late = last_number(script)
    script.lose()
    (hello,) = hellos(script.connect())
    assert sent(script.welcome(hello, features=FEATURES)) == ["watch c 4"]
    assert script.hear(History(request_id=f"turns-{late}", conversation_id="c", turns=(turn("b"),))) == []
    assert sent(script.hear(watching(4, "b"))) == ["GetHistory"]
    assert kinds(page(script, turn("old"), turn("b")))[-1] == "Done b"


def test_a_history_that_cannot_be_read_is_read_at_the_next_renewal():
    script = begun(newest="old")
    script.wait(240)
    script.hear(watching(2, "b"))
    number = last_number(script)
    assert watched(script.hear(error(ErrorCode.INTERNAL, f"turns-{number}"))) == []
    script.wait(480)
    script.hear(watching(script.session._watches._watches["c"].number, "b"))
    assert [type(effect) for effect in page(script, turn("x", "tail", answer_offset=3))] == [Note]
    script.wait(720)
    script.hear(watching(script.session._watches._watches["c"].number, "b"))
    number = last_number(script)
    assert script.hear(f'{{"action": "history", "requestId": "turns-{number}", "turns": "x"}}') == []
    script.wait(960)
    script.hear(watching(script.session._watches._watches["c"].number, "b"))
    assert kinds(page(script, turn("old"), turn("b")))[-1] == "Done b"


def test_the_app_says_which_turn_it_has():
    script = connected(features=FEATURES)
    watch(script, after="old")
    assert sent(script.hear(watching(1, "b"))) == ["GetHistory"]
    assert kinds(page(script, turn("older"), turn("old"), turn("b"))) == ["Asked b", "Started b", "Text b", "Done b"]
    script.wait(240)
    assert sent(script.hear(watching(3, "b"))) == [], "nothing has ended since"
    script = connected(features=FEATURES)
    watch(script, after="newest")
    assert sent(script.hear(watching(1, "newest"))) == ["GetHistory"], "one asked before it may have ended after it"


def test_an_answer_that_the_server_does_not_know_any_more_is_in_the_history_or_gone():
    script = begun()
    script.hear(asked("a"), asked("b"), delta("b", 0, "half"))
    assert sent(script.hear(error(ErrorCode.UNKNOWN_REQUEST, "a"))) == ["GetHistory"]
    script.hear(error(ErrorCode.UNKNOWN_REQUEST, "b"))
    effects = page(script, turn("a"))
    assert sent(effects) == ["GetHistory"], "b may have ended while the page was on its way"
    assert kinds(effects) == ["Started a", "Text a", "Done a", "Failed b"]
    assert watched(effects)[-1].event.error.code == "unknown_request"


def test_a_turn_that_stands_among_those_read_before_is_new_whatever_its_clock_says():
    script = connected(features=FEATURES)
    watch(script)
    script.hear(error(ErrorCode.OVERLOADED, "watch-1"))
    page(script, turn("old"), turn("new"))
    assert sent(script.wait(script.now + 60)) == ["watch c 3"]
    assert sent(script.hear(watching(3, "new"))) == ["GetHistory"]
    late = turn("late", answered_at="before that")
    shown = kinds(page(script, turn("older"), turn("old"), late, turn("new")))
    assert (shown[0], shown[-1]) == ("Asked late", "Done late")


def test_a_turn_of_which_the_ending_alone_came_is_new_whatever_its_clock_says():
    script = connected(features=FEATURES)
    watch(script)
    script.hear(end("older", length=3))  # it ended before the watch, and stands in the history
    script.hear(watching(1, "new"))
    script.hear(end("late", length=3))
    script.wait(240)
    assert sent(script.hear(watching(last_number(script), "new"))) == ["GetHistory"]
    shown = kinds(page(script, turn("older"), turn("late", answered_at="before that"), turn("new")))
    assert (shown[0], shown[-1]) == ("Asked late", "Done late")


def asked_here(script):
    watch(script, "another")
    script.ask("x", conversation="c")
    script.hear(accepted("x"), end("x", text="yes"))
    watch(script)


def shown_before(script):
    watch(script)
    script.hear(watching(1), asked("x"), delta("x", 0, "yes"), end("x", length=3))
    script.session.unwatch("c")
    watch(script)


@pytest.mark.parametrize("happens", [asked_here, shown_before])
def test_what_still_comes_of_a_turn_that_was_asked_here_or_shown_is_no_news(happens):
    script = connected(features=FEATURES)
    happens(script)
    script.hear(watching(last_number(script), "new"))
    script.hear(end("x", length=3))
    script.wait(240)
    assert sent(script.hear(watching(last_number(script), "new"))) == ["GetHistory"]
    assert kinds(page(script, turn("x", answered_at="before that"), turn("new"))) == []


def test_an_ending_that_comes_while_an_older_page_is_read_is_looked_for_again():
    script = begun(newest="old")
    script.wait(240)
    assert sent(script.hear(watching(2, "new"))) == ["GetHistory"]
    script.hear(end("late", length=3))
    assert sent(page(script, turn("old"), turn("new"))) == ["GetHistory"]
    late = turn("late", answered_at="before that")
    assert kinds(page(script, late, turn("old"), turn("new")))[-1] == "Done late"


# --- refusals


def test_an_ending_that_overtakes_its_question_is_asked_for_at_once():
    script = begun()
    assert kinds(script.hear(end("a", text="yes"))) == []
    (asks,) = sent(script.hear(asked("a")))
    assert asks.startswith("watch c 2 a@")
    assert kinds(script.hear(end("a", text="yes")))[-1] == "Done a"


def test_a_question_asked_before_the_newest_turn_may_be_answered_after_it():
    script = begun(newest="newest")
    script.lose()
    (hello,) = hellos(script.connect())
    script.welcome(hello, features=FEATURES)
    script.hear(watching(2, "newest"))
    early, late = (
        turn("early", answered_at="2026-01-01T00:00:01.000Z"),
        turn("b", answered_at="2026-01-01T00:00:03.000Z"),
    )
    newest = turn("newest", answered_at="2026-01-01T00:00:02.000Z")
    assert kinds(page(script, early, late, newest))[-1] == "Done b"
    assert kinds(page(script, early, late, newest)) == []


def test_no_room_for_one_more_reads_the_history_every_minute():
    script = connected(features=FEATURES)
    watch(script)
    effects = script.hear(error(ErrorCode.OVERLOADED, "watch-1"))
    assert sent(effects) == ["GetHistory"]
    assert len(effects) == 1  # what ends before the application may look at the history itself must be there
    assert page(script, turn("old")) == [WatchHeld("c", is_live=False)]
    assert sent(script.wait(59.9)) == []
    assert sent(script.wait(60)) == ["watch c 3"]
    assert WatchHeld("c", is_live=False) in script.hear(error(ErrorCode.OVERLOADED, "watch-3"))
    assert sent(script.hear(error(ErrorCode.OVERLOADED, "watch-3"))) == [], "it may come twice"
    assert kinds(page(script, turn("old"), turn("new")))[-1] == "Done new"
    script.wait(120)
    effects = script.hear(watching(5, "new"))
    assert WatchHeld("c", is_live=True) in effects
    assert sent(effects) == ["GetHistory"], "one that was asked before it may have ended after it"
    assert kinds(page(script, turn("old"), turn("late"), turn("new")))[-1] == "Done late"
    script.wait(240 + 120)
    assert sent(script.hear(watching(7, "new"))) == []


@pytest.mark.parametrize("code", [ErrorCode.UNAUTHORIZED, ErrorCode.UNAVAILABLE])
def test_what_is_read_while_a_watch_is_refused_settles_nothing(code):
    script = connected(features=FEATURES, can_renew=True)
    watch(script)
    script.hear(watching(1, "old"))
    script.wait(240)
    assert sent(script.hear(watching(2, "new"))) == ["GetHistory"]
    assert sent(script.hear(asked("a"), delta("a", 4, "two"))) == ["watch c 4 a@1:0"]
    script.hear(error(code, "watch-4"))
    found = History(request_id="turns-3", conversation_id="c", turns=(turn("old"), turn("new")))
    assert "Done new" in kinds(script.hear(found))
    assert sent(script.wait(script.now + 30)) == ["watch c 5 a@1:0", "watch c 6 a@1:0"]
    assert sent(script.hear(watching(6, "new"))) == ["GetHistory"]


def test_an_error_that_passes_is_waited_for_and_another_one_ends_the_watch():
    script = connected(features=FEATURES)
    watch(script)
    assert script.hear(error(ErrorCode.UNAVAILABLE, "watch-1", retry_after_ms=2_000)) == []
    assert sent(script.wait(1.999)) == []
    assert sent(script.wait(2)) == ["watch c 2"]
    (failed,) = script.hear(error(ErrorCode.INVALID_FRAME, "watch-2"))
    assert (failed.conversation_id, failed.error.code) == ("c", "invalid_frame")
    assert "c" not in script.session._watches


def test_a_token_that_can_be_renewed_is_waited_for_once_the_server_has_known_the_watch():
    script = connected(features=FEATURES, can_renew=True)
    watch(script)
    script.hear(watching(1, "old"))
    script.wait(250)
    refusal = error(ErrorCode.UNAUTHORIZED, "watch-2")
    assert [type(effect) for effect in script.hear(refusal, refusal)] == [WatchHeld, Note]
    assert sent(script.wait(269)) == []
    assert sent(script.wait(270)) == ["watch c 3"]
    script.hear(error(ErrorCode.UNAUTHORIZED, "watch-3"))
    assert sent(script.wait(309)) == []
    assert sent(script.wait(310)) == ["watch c 4"]
    effects = script.hear(watching(4, "old"))
    assert WatchHeld("c", is_live=True) in effects
    assert "GetHistory" in sent(effects), "what ended meanwhile was not shown"


@pytest.mark.parametrize(("can_renew", "is_known"), [(False, True), (True, False)])
def test_a_token_that_is_refused_for_good_or_at_once_ends_the_watch(can_renew, is_known):
    script = connected(features=FEATURES, can_renew=can_renew)
    watch(script)
    if is_known:
        script.hear(watching(1))
        script.wait(240)
    (failed,) = script.hear(error(ErrorCode.UNAUTHORIZED, "watch-2" if is_known else "watch-1"))
    assert (type(failed), failed.error.code) == (WatchFailed, "unauthorized")


def test_frames_that_cannot_be_read_end_what_they_are_about():
    script = begun()
    script.hear(asked("a"))
    (shown,) = effects = script.hear('{"action": "messageDelta", "requestId": "a", "attempt": "x"}')
    assert effects == [Show("c", shown.item)]
    (shown,) = watched(effects)
    assert isinstance(shown.event.error, ProtocolViolation)
    broken = MessageDelta(request_id="b", attempt=1, offset=1, delta="y", part=7)
    script.hear(asked("b"), delta("b", 0, "x"))
    (shown,) = watched(script.hear(broken))
    assert isinstance(shown.event.error, ProtocolViolation)
    script.wait(240)
    (failed,) = script.hear('{"action": "watching", "requestId": "watch-2", "number": "x"}')
    assert isinstance(failed, WatchFailed)


def test_what_is_about_nothing_that_is_watched_is_noted_and_changes_nothing():
    def broken(action, rid):
        return f'{{"action": "{action}", "requestId": "{rid}", "attempt": "x", "number": "x"}}'

    script = begun()
    script.hear(asked("a"))
    script.wait(240)
    number = last_number(script)  # of a `watch` that is not answered
    others = [
        error(ErrorCode.INTERNAL, "a"),
        error(ErrorCode.UNKNOWN_REQUEST, "other"),
        broken("messageDelta", "other"),
    ]
    late = [error(ErrorCode.INTERNAL, f"watch-{number}"), broken("watching", f"watch-{number}")]
    for frame in others:
        assert [type(effect) for effect in script.hear(frame)] == [Note]
    script.hear(watching(number))
    for frame in late:
        assert [type(effect) for effect in script.hear(frame)] == [Note]


def test_everything_ends_with_the_session():
    script = begun()
    script.hear(asked("a"))
    script.wait(240)
    script.hear(watching(2, "b"))
    effects = script.session.stop(Closed())
    assert [effect.conversation_id for effect in effects if isinstance(effect, WatchFailed)] == ["c"]
    assert not [effect for effect in effects if isinstance(effect, Show | ReplyFailed)]
    with pytest.raises(Closed):
        watch(script)


# --- stopping it


def test_a_stop_is_repeated_until_the_server_has_said_how_it_ended():
    script = begun()
    script.hear(asked("a"), delta("a", 0, "half"))
    (cancel,) = script.session.cancel("a", "c", now=script.now)
    assert (cancel.frame.request_id, cancel.frame.conversation_id) == ("a", "c")
    assert "cancel a" in sent(script.wait(10))
    script.lose()
    assert sent(script.wait(60)) == []
    (hello,) = hellos(script.connect())
    assert "cancel a" in sent(script.welcome(hello, features=FEATURES))
    script.hear(end("a", 4, status=Status.CANCELLED))
    assert "cancel a" not in sent(script.wait(200))


def test_a_stop_of_what_is_not_there_is_not_repeated():
    script = begun()
    script.session.cancel("a", "c", now=script.now)
    assert script.hear(error(ErrorCode.UNKNOWN_REQUEST, "a")) == []
    assert sent(script.wait(100)) == []


def test_a_stop_of_an_own_question_names_no_conversation():
    script = begun()
    script.ask("mine", STREAM, conversation="c")
    (cancel,) = script.session.cancel("mine", "c", now=script.now)
    assert cancel.frame.conversation_id is None


# --- the list


def test_the_list_is_to_be_read_when_it_is_watched_and_after_each_loss():
    script = connected(features=FEATURES)
    assert sent(watch(script, None)) == ["watch list 1"]
    assert watched(script.hear(watching(1, conversation=None))) == [ChangesMissed()]
    assert watched(script.hear(CHANGE)) == [CHANGE]
    script.wait(240)
    assert watched(script.hear(watching(2, conversation=None))) == []
    script.lose()
    (hello,) = hellos(script.connect())
    script.welcome(hello, features=FEATURES)
    assert watched(script.hear(watching(3, conversation=None))) == [ChangesMissed()]
    script.session.unwatch(None)
    assert script.hear(CHANGE) == []


def test_the_list_without_room_is_read_every_minute():
    script = connected(features=FEATURES)
    watch(script, None)
    effects = script.hear(error(ErrorCode.OVERLOADED, "watch-1"))
    assert watched(effects) == [ChangesMissed()]
    assert WatchHeld(None, is_live=False) in effects
    assert sent(script.wait(60)) == ["watch list 2"]
    assert watched(script.hear(error(ErrorCode.OVERLOADED, "watch-2"))) == [ChangesMissed()]


def test_another_reader_is_shown_what_there_is_so_far():
    script = begun()
    thought = MessageDelta(request_id="a", attempt=1, offset=0, delta="hm", part=0, kind="reasoning")
    said = MessageDelta(request_id="a", attempt=1, offset=2, delta="one ", part=1)
    script.hear(asked("a"), thought, said)
    shown = [event for _, event in script.session.shown_so_far("c")]
    assert [type(event) for event in shown] == [Asked, Started, PartStarted, PartText, Text]
    (later,) = watched(script.hear(MessageDelta(request_id="a", attempt=1, offset=6, delta="two", part=1)))
    assert shown[-1].joined(later.event).delta == "one two"
