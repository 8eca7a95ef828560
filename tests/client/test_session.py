"""The session's transcripts: inputs with their instants, and exactly what it wants done. No sockets, no clock."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from answerback.client.effects import Emit, Fail, Note, Ready, Reconnect, Reply, ReplyFailed, RoundTrip, Send, Stop
from answerback.client.errors import (
    Closed,
    MessageTooLarge,
    ProtocolViolation,
    RateLimited,
    RequestCancelled,
    RequestConflict,
    RequestFailed,
    RequestTimeout,
    SessionReplaced,
)
from answerback.client.events import Done, Queued, Restarted, Started, Text, Thinking
from answerback.client.exchange import Timeouts
from answerback.client.outbox import PendingRequest
from answerback.client.session import Session
from answerback.client.timing import Timing
from answerback.protocol.codec import encode
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import (
    CancelMessage,
    Error,
    ErrorBody,
    GetHistory,
    Hello,
    History,
    MessageAccepted,
    MessageDelta,
    MessageProgress,
    MessageResponse,
    MessageStarted,
    Ping,
    Pong,
    RenewToken,
    SendMessage,
    ServerLimits,
    Status,
    Welcome,
)

ASK = Timeouts(total_s=30)
STREAM = Timeouts(total_s=700, silence_s=30)
PATIENT = Timeouts(total_s=750, silence_s=30, from_call=True)
LIMITS = ServerLimits(
    max_message_bytes=1,
    max_frame_bytes=1,
    max_answer_bytes=1,
    requests_per_minute=1,
    max_pending=1,
    max_tokens=1,
    idle_timeout_ms=1,
    answer_timeout_ms=1,
    queue_timeout_ms=1,
)


def question(rid, *, stream=False, conversation=None, message="?", parts=()):
    return SendMessage(request_id=rid, message=message, stream=stream, conversation_id=conversation, parts=parts)


def accepted(rid, position=0):
    return MessageAccepted(request_id=rid, conversation_id="c", position=position)


def delta(rid, offset, text, attempt=1):
    return MessageDelta(request_id=rid, attempt=attempt, offset=offset, delta=text)


def end(rid, length=0, *, text=None, attempt=1, status=Status.COMPLETED, code=None, retry_after_ms=None):
    error = None
    if code is not None:
        info = ERRORS[code]
        error = ErrorBody(code=code, message=info.message, retryable=info.retryable, retry_after_ms=retry_after_ms)
    length = length if text is None else len(text)
    return MessageResponse(request_id=rid, status=status, response=text, attempt=attempt, length=length, error=error)


def sign(rid, silent_ms=8000, attempt=1):
    return MessageProgress(request_id=rid, attempt=attempt, silent_ms=silent_ms)


def error(code, rid=None, *, retry_after_ms=None):
    return Error(code=code, message="Said by the server.", request_id=rid, retry_after_ms=retry_after_ms)


class Script:
    """A session with a clock in the test's hand; `link` is the connection that frames come on."""

    def __init__(self, **timing):
        self.session = Session(timing=Timing(**timing))
        self.now = 0.0
        self.link = 0

    def ask(self, rid, timeouts=ASK, **more):
        stream = timeouts.silence_s is not None and not timeouts.from_call
        return self.session.ask(question(rid, stream=stream, **more), timeouts, now=self.now)

    def connect(self):
        self.link += 1
        return self.session.connected(self.link, now=self.now)

    def lose(self, **how):
        return self.session.disconnected(self.link, now=self.now, **how)

    def hear(self, *frames, link=None):
        effects = []
        for frame in frames:
            link = self.link if link is None else link
            effects += self.session.received(link, encode(frame), now=self.now)
        return effects

    def welcome(self, hello, progress_ms=None):
        return self.hear(
            Welcome(
                hello_id=hello.hello_id,
                connection_id="c",
                session_id="s",
                user_id="u",
                protocol=1,
                limits=replace(LIMITS, progress_ms=progress_ms),
                models=("m",),
            )
        )

    def wait(self, until):
        """Let time pass, ticking whenever the session wants it."""
        effects = []
        for _ in range(1000):
            due = self.session.due_at()
            if due is None or due > until:
                self.now = until
                return effects
            self.now = max(self.now, due)
            effects += self.session.tick(now=self.now)
        raise AssertionError("the session wants to be called for ever")


def sent(effects):
    """The frames to send, in short."""
    shown = []
    for effect in effects:
        if isinstance(effect, Send):
            match effect.frame:
                case SendMessage(request_id=rid):
                    shown.append(f"ask {rid}")
                case CancelMessage(request_id=rid):
                    shown.append(f"cancel {rid}")
                case Hello(resume=resume):
                    shown.append(" ".join(["hello", *(f"{p.request_id}@{p.attempt}:{p.offset}" for p in resume)]))
                case frame:
                    shown.append(type(frame).__name__)
    return shown


def hellos(effects):
    return [e.frame for e in effects if isinstance(e, Send) and isinstance(e.frame, Hello)]


def events(effects):
    return [e.event for e in effects if isinstance(e, Emit)]


def failures(effects):
    return {e.request_id: type(e.error) for e in effects if isinstance(e, Fail)}


def connected(progress_ms=None, **timing):
    """A script with a connection that has been welcomed."""
    script = Script(**timing)
    (hello,) = hellos(script.connect())
    script.welcome(hello, progress_ms)
    return script


# --- asking ---------------------------------------------------------------------------------------------


def test_a_question_is_sent_accepted_and_answered():
    script = connected()
    assert sent(script.ask("a")) == ["ask a"]
    assert events(script.hear(accepted("a", 2))) == [Queued(position=2, conversation_id="c")]
    text, done = events(script.hear(end("a", text="yes")))
    assert (text.delta, done.answer.text, done.answer.conversation_id) == ("yes", "yes", "c")
    assert script.session.pending == 0


def test_a_streamed_answer():
    script = connected()
    script.ask("a", STREAM)
    shown = events(
        script.hear(accepted("a"), MessageStarted(request_id="a", attempt=1), delta("a", 0, "x"), end("a", 1))
    )
    assert [type(event) for event in shown] == [Queued, Started, Text, Done]


def test_questions_wait_for_a_connection_and_go_in_order():
    script = Script()
    assert sent(script.ask("a", conversation="k")) == []
    assert sent(script.ask("b", conversation="l")) == []
    assert sent(script.connect()) == ["hello", "ask a", "ask b"]


def test_one_unaccepted_question_a_key():
    script = connected()
    assert sent(script.ask("a1", conversation="k")) == ["ask a1"]
    assert sent(script.ask("a2", conversation="k")) == []
    assert sent(script.ask("b1", conversation="l")) == ["ask b1"]
    assert sent(script.ask("free")) == ["ask free"]
    assert sent(script.hear(accepted("a1"))) == ["ask a2"]
    assert sent(script.hear(accepted("a2"))) == []


@pytest.mark.parametrize(
    "frame", [delta("a1", 0, "x"), MessageStarted(request_id="a1", attempt=1), end("a1", text="x")]
)
def test_whatever_comes_of_it_says_that_it_was_accepted(frame):
    script = connected()
    script.ask("a1", STREAM)
    script.ask("a2", STREAM)
    assert sent(script.hear(frame)) == ["ask a2"]


def test_a_refusal_ends_it_and_frees_its_key():
    script = connected()
    script.ask("a1")
    script.ask("a2")
    refusal = end("a1", status=Status.FAILED, code=ErrorCode.RATE_LIMITED, retry_after_ms=1500)
    effects = script.hear(refusal)
    (failed,) = [e.error for e in effects if isinstance(e, Fail)]
    assert isinstance(failed, RateLimited)
    assert (failed.retry_after_ms, failed.retryable, failed.code) == (1500, True, "rate_limited")
    assert sent(effects) == ["ask a2"]


def test_a_failed_answer_carries_what_there_was():
    script = connected()
    script.ask("a", STREAM)
    effects = script.hear(delta("a", 0, "half"), end("a", 4, status=Status.FAILED, code=ErrorCode.MODEL_FAILED))
    (failed,) = [e.error for e in effects if isinstance(e, Fail)]
    assert isinstance(failed, RequestFailed)
    assert failed.answer.text == "half"


def test_an_id_is_pending_once():
    script = connected()
    script.ask("a")
    with pytest.raises(ValueError, match="pending already"):
        script.ask("a")


def test_a_new_attempt_is_told():
    script = connected()
    script.ask("a", STREAM)
    shown = events(
        script.hear(delta("a", 0, "old"), delta("a", 0, "new", 2), delta("a", 3, "!", 1), end("a", 3, attempt=2))
    )
    assert [type(event) for event in shown] == [Started, Text, Restarted, Text, Done]
    assert shown[-1].answer.text == "new"


def test_an_impossible_answer_is_refused_and_stopped():
    script = connected()
    script.ask("a")
    effects = script.hear(MessageResponse(request_id="a", status=Status.COMPLETED, response="x", attempt=1, length=9))
    assert failures(effects) == {"a": ProtocolViolation}
    assert sent(effects) == ["cancel a"]


def test_frames_about_strangers_are_swallowed():
    script = connected()
    assert script.hear(accepted("z"), delta("z", 0, "secret"), end("z", text="secret"), Pong()) == []


def test_an_ending_with_a_code_of_a_later_version_ends_the_question():
    script = connected()
    script.ask("a")
    later = encode(end("a", status=Status.FAILED, code=ErrorCode.TIMEOUT)).replace(b'"timeout"', b'"budget_spent"')
    (failed,) = script.session.received(1, later.replace(b'"retryable":true', b'"retryable":false'), now=0)
    assert isinstance(failed.error, RequestFailed)
    assert (failed.error.code, failed.error.retryable) == ("internal", False)
    assert failed.error.message == ERRORS[ErrorCode.TIMEOUT].message
    script.ask("b")
    (failed,) = script.session.received(1, later.replace(b'"a"', b'"b"').replace(b'"failed"', b'"parked"'), now=0)
    assert isinstance(failed.error, RequestFailed)


# --- time-outs ------------------------------------------------------------------------------------------


def test_an_ask_times_out_is_cancelled_and_then_swallowed():
    script = connected(dead_s=10_000)
    script.ask("a")
    script.hear(accepted("a"))
    script.wait(29)
    effects = script.wait(30)
    assert failures(effects) == {"a": RequestTimeout}
    assert sent(effects)[-1:] == ["cancel a"]
    assert script.hear(end("a", text="late")) == []


def test_a_time_out_in_an_outage_says_so():
    script = connected(dead_s=10_000, resend_s=5)
    script.ask("a")
    script.hear(Error(code=ErrorCode.UNAVAILABLE, message="later", request_id="a"))
    (failure,) = [e.error for e in script.wait(30) if isinstance(e, Fail)]
    assert isinstance(failure, RequestTimeout)
    assert (str(failure), failure.cause_code) == ("Request timeout", "unavailable")
    # Once it was accepted it is only slow.
    script.ask("b")
    script.hear(Error(code=ErrorCode.UNAVAILABLE, message="later", request_id="b"))
    script.hear(accepted("b"))
    (failure,) = [e.error for e in script.wait(60) if isinstance(e, Fail)]
    assert failure.cause_code is None


def test_a_time_out_without_a_connection_is_told_to_the_server_later():
    script = connected()
    script.ask("a")
    script.lose()
    assert failures(script.wait(30)) == {"a": RequestTimeout}
    assert sent(script.connect()) == ["hello", "cancel a"]
    script.hear(end("a", status=Status.CANCELLED))
    script.lose()
    assert sent(script.connect()) == ["hello"]


def test_a_question_that_was_never_sent_times_out_without_a_word():
    script = Script()
    script.ask("a")
    assert failures(script.wait(30)) == {"a": RequestTimeout}
    assert sent(script.connect()) == ["hello"]


def test_a_stop_is_repeated_until_the_server_has_said_how_it_ended():
    script = connected()
    script.ask("a")
    assert sent(script.session.abandon("a", now=script.now)) == ["cancel a"]
    assert sent(script.wait(10)) == ["cancel a"]
    script.hear(end("a", status=Status.CANCELLED))
    assert "cancel a" not in sent(script.wait(100))


@pytest.mark.parametrize("timeouts", [PATIENT, STREAM])
def test_signs_of_life_keep_a_question_and_30_s_without_one_end_it(timeouts):
    script = connected(progress_ms=8000)
    script.ask("a", timeouts)
    script.hear(accepted("a"))
    if timeouts is STREAM:
        script.hear(MessageStarted(request_id="a", attempt=1))
    for second in range(8, 97, 8):
        effects = script.wait(second)
        assert (failures(effects), sent(effects)) == ({}, []), "a thinking answer costs no hello"
        assert events(script.hear(sign("a", second * 1000))) == [Thinking(second)]
    effects = []
    while script.now < 96 + 30:
        assert failures(effects) == {}
        effects = script.wait(script.now + 1)
        for hello in hellos(effects):
            script.welcome(hello, 8000)  # the server lives, and says nothing of the question
    (failure,) = [e.error for e in effects if isinstance(e, Fail)]
    assert isinstance(failure, RequestTimeout)
    assert (str(failure), failure.timeout_s) == ("Request timeout", 30)
    assert "cancel a" in sent(effects)


def test_a_time_out_that_a_caller_gives_is_in_all_whatever_signs_come():
    script = connected(progress_ms=8000)
    script.ask("a", ASK)
    script.hear(accepted("a"))
    for second in (8, 16, 24):
        assert failures(script.wait(second)) == {}
        script.hear(sign("a"))
    assert failures(script.wait(30)) == {"a": RequestTimeout}


def test_a_server_that_gives_no_signs_has_30_s_in_all_for_a_question_that_is_not_streamed():
    script = connected(dead_s=10_000)
    script.ask("a", PATIENT)
    script.wait(20)
    script.hear(accepted("a"))
    assert failures(script.wait(29)) == {}
    assert failures(script.wait(30)) == {"a": RequestTimeout}


def test_errors_and_resends_are_no_signs_of_life():
    script = connected(progress_ms=8000, resend_s=5)
    script.ask("a", PATIENT)
    effects = []
    while script.now < 30 and not failures(effects):
        script.hear(error(ErrorCode.UNAVAILABLE, "a"))
        effects = script.wait(script.now + 5)
    assert (failures(effects), script.now) == ({"a": RequestTimeout}, 30)


def test_a_question_that_waits_its_turn_is_asked_for_and_kept_as_long_as_the_server_knows_it():
    script = connected(progress_ms=8000)
    script.ask("a", PATIENT)
    script.hear(accepted("a", 2))
    hello_at = []
    while script.now < 200:
        for hello in hellos(script.wait(script.now + 1)):
            hello_at.append(script.now)
            assert events(script.hear(sign("a", attempt=0))) == [], "nobody thinks about it yet"
            script.welcome(hello, 8000)
    assert hello_at == list(range(12, 200, 12))
    assert script.session.pending == 1


def test_a_sign_of_an_older_attempt_or_of_an_unknown_request_means_nothing():
    script = connected(progress_ms=8000)
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "x", attempt=2))
    assert script.hear(sign("a", attempt=1), sign("other")) == []
    assert script.session.pending == 1
    script.hear(sign("a", attempt=3))
    script.hear(delta("a", 1, "y", attempt=2))
    *_, done = events(script.hear(end("a", 2, attempt=2)))
    assert done.answer.text == "xy", "a sign does not touch the text"
    assert script.hear(sign("a", attempt=2)) == []


def test_no_connection_is_a_silence_of_a_question_that_is_not_streamed():
    script = connected(progress_ms=8000)
    script.ask("a", PATIENT)
    script.hear(accepted("a"))
    script.wait(20)
    script.hear(sign("a"))
    script.lose()
    assert failures(script.wait(49)) == {}
    assert failures(script.wait(50)) == {"a": RequestTimeout}


def test_a_stream_may_be_silent_in_the_queue_but_not_after_it_has_started():
    script = connected(dead_s=10_000, hello_expiry_s=10_000)
    script.ask("a", STREAM)
    script.hear(accepted("a"))
    assert failures(script.wait(300)) == {}
    script.hear(MessageStarted(request_id="a", attempt=1))
    assert failures(script.wait(329)) == {}
    script.hear(delta("a", 0, "x"))
    assert failures(script.wait(358)) == {}
    assert failures(script.wait(359)) == {"a": RequestTimeout}


def test_no_connection_is_no_silence():
    script = connected(dead_s=10_000)
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "x"))
    script.lose()
    assert failures(script.wait(300)) == {}
    assert sent(script.connect()) == ["hello a@1:1"]
    assert failures(script.wait(329)) == {}
    assert failures(script.wait(330)) == {"a": RequestTimeout}


def test_a_stream_ends_at_its_deadline_whatever_happens():
    script = Script()
    script.ask("a", STREAM)
    assert failures(script.wait(700)) == {"a": RequestTimeout}


# --- cancel ---------------------------------------------------------------------------------------------


def test_cancelling_waits_for_the_ending_of_the_server():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "x"))
    assert sent(script.session.cancel("a", now=0)) == ["cancel a"]
    assert script.session.cancel("a", now=0) == []
    effects = script.hear(end("a", 1, status=Status.CANCELLED))
    (failed,) = [e.error for e in effects if isinstance(e, Fail)]
    assert isinstance(failed, RequestCancelled)
    assert failed.answer.text == "x"


def test_cancelling_what_was_never_sent_ends_at_once():
    script = connected()
    script.ask("a1")
    script.ask("a2")
    script.ask("a3")
    assert failures(script.session.cancel("a2", now=0)) == {"a2": RequestCancelled}
    assert sent(script.hear(accepted("a1"))) == ["ask a3"]


def test_a_cancelled_question_is_not_asked_again():
    script = connected()
    script.ask("a")
    script.lose()
    assert sent(script.session.cancel("a", now=0)) == []
    assert sent(script.connect()) == ["hello", "cancel a"]
    assert failures(script.hear(end("a", status=Status.CANCELLED))) == {"a": RequestCancelled}


def test_a_cancel_is_repeated_on_a_new_connection():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "x"))
    script.lose()
    script.session.cancel("a", now=0)
    assert sent(script.connect()) == ["hello a@1:1", "cancel a"]


# --- reconnecting ---------------------------------------------------------------------------------------


def test_resume_the_accepted_and_send_the_unaccepted_again():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "abc"))
    script.ask("b")
    script.ask("c")
    script.lose()
    assert sent(script.connect()) == ["hello a@1:3", "ask b"]
    assert sent(script.hear(accepted("b"))) == ["ask c"]


def test_a_hello_names_at_most_a_hundred():
    script = connected()
    for n in range(205):
        script.ask(f"r{n}", conversation=f"k{n}")
        script.hear(accepted(f"r{n}"))
    script.lose()
    assert [len(hello.resume) for hello in hellos(script.connect())] == [100, 100, 5]


def test_frames_of_an_older_connection_still_count_but_not_what_it_says_of_itself():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "ab"))
    script.connect()
    assert script.hear(error(ErrorCode.SESSION_REPLACED), link=1) == []
    assert [type(e) for e in events(script.hear(delta("a", 2, "c"), link=1))] == [Text]
    assert script.session.disconnected(1, now=0) == []
    assert sent(script.ask("b")) == ["ask b"]


def test_a_replaced_session_gives_everything_up_and_stays_away():
    script = connected()
    script.ask("a")
    script.session.call("h", GetHistory(request_id="h", conversation_id="c"), timeout_s=30, now=0)
    effects = script.hear(error(ErrorCode.SESSION_REPLACED))
    assert isinstance(effects[0], Stop)
    assert failures(effects) == {"a": SessionReplaced}
    assert [e.request_id for e in effects if isinstance(e, ReplyFailed)] == ["h"]
    assert not any(e.is_final for e in effects if isinstance(e, Fail))
    assert script.session.due_at() is None
    assert script.connect() == []
    with pytest.raises(SessionReplaced):
        script.ask("b")


def test_a_message_that_the_way_refuses_is_not_sent_for_ever():
    script = connected()
    script.ask("small", conversation="k")
    script.ask("large", conversation="l", message="x" * 50_000)
    effects = script.lose(too_large=True)
    assert failures(effects) == {"large": MessageTooLarge}
    assert sent(script.connect()) == ["hello", "ask small"]


def test_a_restored_question_is_resumed_from_the_start_or_asked():
    earlier = connected()
    earlier.ask("a", STREAM, conversation="k")
    earlier.hear(accepted("a"), delta("a", 0, "abc"))
    earlier.ask("b")
    kept = [PendingRequest.from_dict(json.loads(json.dumps(p.to_dict()))) for p in earlier.session.export()]
    script = Script()
    for pending in kept:
        script.session.restore(pending, STREAM, now=0)
    assert sent(script.connect()) == ["hello a@0:0", "ask b"]
    *_, done = events(script.hear(delta("a", 0, "abcd"), end("a", 4)))
    assert (done.answer.text, done.answer.conversation_id) == ("abcd", "c")


def test_cancelling_a_restored_question_is_told_because_the_earlier_run_may_have_sent_it():
    script = connected()
    script.session.restore(PendingRequest(frame=question("first")), ASK, now=0)
    pending = PendingRequest(frame=question("a"))
    script.session.restore(pending, ASK, now=0)
    assert sent(script.session.cancel("a", now=1)) == ["cancel a"]


def test_a_question_may_be_restored_on_an_open_connection():
    script = connected()
    pending = PendingRequest(frame=question("a", stream=True), is_accepted=True)
    assert sent(script.session.restore(pending, STREAM, now=0)) == ["hello a@0:0"]
    assert script.session.restore(pending, STREAM, now=0) == []


@pytest.mark.parametrize("data", [{}, {"frame": {"requestId": "x"}, "isAccepted": True}, {"frame": 7, "isAccepted": 1}])
def test_nonsense_is_not_restored(data):
    with pytest.raises(ValueError, match="not a pending request"):
        PendingRequest.from_dict(data)


# --- errors ---------------------------------------------------------------------------------------------


def test_unavailable_means_the_same_frame_again_and_holds_its_key():
    script = connected()
    script.ask("a1")
    script.ask("a2")
    assert sent(script.hear(error(ErrorCode.UNAVAILABLE, "a1", retry_after_ms=2000))) == []
    assert sent(script.wait(1.9)) == []
    assert sent(script.wait(2.0)) == ["ask a1"]
    assert sent(script.hear(accepted("a1"))) == ["ask a2"]


def test_unavailable_about_an_accepted_question_changes_nothing():
    script = connected()
    script.ask("a")
    script.hear(accepted("a"))
    assert [type(e) for e in script.hear(error(ErrorCode.UNAVAILABLE, "a"))] == [Note]
    assert sent(script.wait(9)) == []


@pytest.mark.parametrize(
    ("code", "expected"), [(ErrorCode.REQUEST_CONFLICT, RequestConflict), (ErrorCode.UNKNOWN_REQUEST, RequestFailed)]
)
@pytest.mark.parametrize("is_accepted", [False, True])
def test_errors_that_end_a_question(code, expected, is_accepted):
    script = connected()
    script.ask("a")
    if is_accepted:
        script.hear(accepted("a"))
    assert failures(script.hear(error(code, "a"))) == {"a": expected}


def test_an_error_about_nothing_is_noted():
    script = connected()
    assert [type(e) for e in script.hear(error(ErrorCode.INVALID_FRAME))] == [Note]


@pytest.mark.parametrize(
    "data",
    [
        '{"message": "Internal server error", "connectionId": "x", "requestId": "y"}',
        '{"message": "Forbidden", "connectionId": "x", "requestId": "y"}',
        '{"message": "Too Many Requests", "connectionId": "x", "requestId": "a"}',
        '{"message": "Endpoint request timed out", "connectionId": "x", "requestId": "a"}',
        "nonsense",
        "[]",
        b"\xff",
        "1",
    ],
)
def test_a_message_without_action_is_noted_and_looked_into(data):
    script = connected()
    script.ask("a")
    assert [type(e) for e in script.session.received(1, data, now=0)] == [Note]
    (hello,) = hellos(script.wait(1))
    assert sent(script.welcome(hello)) == ["ask a"]


def test_an_unknown_action_is_ignored():
    script = connected()
    assert script.session.received(1, '{"action": "confetti"}', now=0) == []


# --- silence --------------------------------------------------------------------------------------------


def test_a_silent_accepted_question_is_asked_for_with_growing_pauses():
    script = connected(probe_max_s=25)
    script.ask("a", Timeouts(total_s=1000, silence_s=None))
    script.hear(accepted("a"))
    instants = []
    while script.now < 90:
        for hello in hellos(script.wait(script.now + 1)):
            instants.append(script.now)
            script.welcome(hello)
    assert instants == [10, 30, 55, 80]


def test_a_silent_unaccepted_question_is_sent_again_once_the_connection_has_answered():
    script = connected()
    script.ask("a")
    effects = script.wait(10)
    assert sent(effects) == ["hello"]
    (hello,) = hellos(effects)
    assert sent(script.welcome(hello)) == ["ask a"]


def test_no_answer_at_all_means_another_connection():
    script = connected()
    script.ask("a")
    script.hear(accepted("a"))
    effects = script.wait(18)
    assert sent(effects) == ["hello a@0:0", "hello"]
    assert [type(e) for e in effects if not isinstance(e, Send)] == [Reconnect]


def test_a_slow_line_gets_more_time_on_the_next_connection():
    script = connected()
    script.ask("a", STREAM)
    assert any(isinstance(e, Reconnect) for e in script.wait(18))
    script.lose()
    script.connect()
    assert not any(isinstance(e, Reconnect) for e in script.wait(33))
    assert any(isinstance(e, Reconnect) for e in script.wait(34))


def test_other_frames_keep_a_connection_alive_until_hellos_are_missed_again_and_again():
    script = connected()
    script.ask("a", STREAM)
    effects = []
    while script.now < 60 and not any(isinstance(e, Reconnect) for e in effects):
        effects += script.wait(script.now + 1)
        effects += script.hear(Pong())
    assert len(hellos(effects)) == 3
    (reason,) = [e.reason for e in effects if isinstance(e, Reconnect)]
    assert reason == "the server does not answer hello"


def test_a_gap_is_resumed_at_once_and_only_once():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "ab"))
    effects = script.hear(delta("a", 5, "f"), delta("a", 6, "g"), delta("a", 7, "h"))
    assert sent(effects) == ["hello a@1:2"]
    script.hear(delta("a", 2, "cdefgh"))
    assert sent(script.welcome(*hellos(effects))) == []
    *_, done = events(script.hear(end("a", 8)))
    assert done.answer.text == "abcdefgh"


def test_a_gap_that_stays_is_asked_for_with_growing_pauses():
    script = connected(silence_s=1000, dead_s=1000)
    script.ask("a", STREAM)
    instants = []
    while script.now < 20:
        effects = script.hear(delta("a", 5, "f")) + script.wait(script.now + 0.125)
        for hello in hellos(effects):
            instants.append(script.now)
            effects = script.welcome(hello)
            assert sent(effects) == []
    assert instants[0] == 0.125
    assert len(instants) < 10
    pauses = [b - a for a, b in itertools.pairwise(instants)]
    assert pauses == sorted(pauses)


def test_an_ending_is_held_until_the_text_is_whole():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "ab"))
    effects = script.hear(end("a", 4))
    assert events(effects) == []
    assert sent(effects) == ["hello a@1:2"]
    assert [type(e) for e in events(script.hear(delta("a", 2, "cd")))] == [Text, Done]


def test_waking_up_probes_at_once():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "ab"))
    script.now = 5
    assert sent(script.session.probe(now=5)) == ["hello a@1:2"]
    assert any(isinstance(e, Reconnect) for e in script.wait(13))


def test_a_quiet_connection_shows_a_sign_of_life():
    script = connected()
    effects = script.wait(270)
    assert sent(effects) == ["Ping"]
    script.hear(Pong())
    assert sent(script.wait(539)) == []
    assert sent(script.wait(540)) == ["Ping"]
    assert any(isinstance(e, Reconnect) for e in script.wait(548))


# --- calls ----------------------------------------------------------------------------------------------


def test_a_call_is_answered():
    script = connected()
    frame = GetHistory(request_id="h", conversation_id="c")
    assert sent(script.session.call("h", frame, timeout_s=30, now=0)) == ["GetHistory"]
    reply = History(request_id="h", conversation_id="c", turns=())
    assert script.hear(reply) == [Reply("h", reply)]
    assert script.hear(reply) == []


def test_a_call_survives_a_lost_connection_but_a_renewal_does_not():
    script = connected()
    script.session.call("h", GetHistory(request_id="h", conversation_id="c"), timeout_s=30, now=0)
    script.session.call("t", RenewToken(request_id="t", token="x"), timeout_s=30, now=0)
    script.lose()
    assert sent(script.connect()) == ["hello", "GetHistory"]


def test_a_call_waits_for_a_store_that_is_unavailable():
    script = connected()
    script.session.call("h", GetHistory(request_id="h", conversation_id="c"), timeout_s=30, now=0)
    assert script.hear(error(ErrorCode.UNAVAILABLE, "h", retry_after_ms=500)) == []
    assert sent(script.wait(0.5)) == ["GetHistory"]


def test_a_call_is_refused_or_late():
    script = connected(dead_s=10_000)
    for rid in ("h", "i"):
        script.session.call(rid, GetHistory(request_id=rid, conversation_id="c"), timeout_s=30, now=0)
    (refused,) = script.hear(error(ErrorCode.UNKNOWN_REQUEST, "h"))
    assert (refused.request_id, refused.error.code) == ("h", "unknown_request")
    (late,) = [e for e in script.wait(30) if isinstance(e, ReplyFailed)]
    assert isinstance(late.error, RequestTimeout)


def test_a_round_trip_is_measured_from_its_last_sending():
    script = connected()
    assert sent(script.session.call("p", Ping(), timeout_s=30, now=0)) == ["Ping"]
    script.lose()
    script.now = 3.0
    assert sent(script.connect()) == ["hello", "Ping"]
    script.now = 3.25
    assert script.hear(Pong()) == [RoundTrip("p", 0.25)]


def test_closing_ends_everything_once():
    script = connected()
    script.ask("a")
    script.session.call("p", Ping(), timeout_s=30, now=0)
    effects = script.session.stop(Closed())
    assert [type(e) for e in effects] == [Stop, Fail, ReplyFailed]
    assert script.session.stop(Closed()) == []
    assert script.session.tick(now=99) == []
    with pytest.raises(Closed):
        script.session.call("q", Ping(), timeout_s=30, now=0)


def test_the_welcome_tells_the_limits():
    script = Script()
    (hello,) = hellos(script.connect())
    assert [type(e) for e in script.welcome(hello)] == [Ready]
    assert script.session.limits == LIMITS


# --- any schedule ---------------------------------------------------------------------------------------


class Server:
    """What a server owes, and nothing more: it answers `hello`, attaches repeats, and its frames may be lost."""

    def __init__(self, texts):
        self.texts = texts
        self.known = set()
        self.runs = []

    def handle(self, frame):
        match frame:
            case SendMessage(request_id=rid):
                if rid not in self.known:
                    self.known.add(rid)
                    self.runs.append(rid)
                return [accepted(rid), *self.rest(rid, 0, 0)]
            case Hello(hello_id=hello_id, resume=resume):
                frames = [
                    frame for point in resume for frame in self.rest(point.request_id, point.attempt, point.offset)
                ]
                return [*frames, hello_id]
        return []

    def rest(self, rid, attempt, offset):
        assert rid in self.known, "a resume never names an unaccepted question"
        text = self.texts[rid]
        offset = offset if attempt == 1 else 0
        middle = (offset + len(text)) // 2
        return [
            delta(rid, offset, text[offset:middle]),
            delta(rid, middle, text[middle:]),
            end(rid, len(text)),
        ]


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(1, 4), st.floats(0, 0.6))
def test_any_schedule_of_losses_ends_with_the_exact_texts_one_ending_each_and_the_order_of_calls(rng, count, loss):
    texts = {f"r{n}": f"answer {n} " * rng.randint(0, 4) for n in range(count)}
    server = Server(texts)
    script = Script()
    shown = dict.fromkeys(texts, "")
    endings = {rid: [] for rid in texts}

    def carry_out(effects):
        """Frames go through a network that drops, repeats and reorders, and that breaks at times."""
        for effect in effects:
            match effect:
                case Emit(rid, Text() as text):
                    shown[rid] += text.delta
                case Emit(rid, Done(answer)):
                    endings[rid].append(answer.text)
                case Fail():
                    raise AssertionError(effect)
                case Reconnect():
                    script.lose()
                    carry_out(script.connect())
                case Send(frame):
                    if rng.random() < loss:
                        continue
                    answers = server.handle(frame)
                    if rng.random() < 0.2:
                        rng.shuffle(answers)
                    for answer in answers:
                        for _ in range(rng.choice((1, 1, 2))):
                            if rng.random() < loss:
                                continue
                            if isinstance(answer, str):
                                carry_out(script.welcome(Hello(hello_id=answer)))
                            else:
                                carry_out(script.hear(answer))

    for rid in texts:
        carry_out(script.ask(rid, Timeouts(total_s=1e9, silence_s=1e9)))
    carry_out(script.connect())
    for _ in range(5000):
        if script.session.pending == 0:
            break
        if rng.random() < 0.05:
            script.lose()
            carry_out(script.connect())
        script.now = max(script.now, script.session.due_at())
        carry_out(script.session.tick(now=script.now))
    assert endings == {rid: [text] for rid, text in texts.items()}
    assert shown == texts
    assert server.runs == list(texts)


# --- frames that cannot be read


@pytest.mark.parametrize(
    "broken",
    [
        {
            "action": "messageResponse",
            "requestId": "a",
            "status": "completed",
            "response": 7,
            "attempt": 1,
            "length": 2,
        },
        {"action": "messageResponse", "requestId": "a", "status": "who knows", "attempt": 1, "length": 2},
        {"action": "messageDelta", "requestId": "a", "attempt": 1, "offset": -1, "delta": "x"},
        {"action": "messageStarted", "requestId": "a"},
        {"action": "messageAccepted", "requestId": "a", "conversationId": "c", "position": "first"},
        {"action": "error", "requestId": "a", "code": 7},
    ],
)
def test_a_frame_about_a_question_that_cannot_be_read_ends_it_at_once(broken):
    script = Script()
    script.connect()
    script.ask("a", STREAM)
    effects = script.session.received(script.link, json.dumps(broken), now=script.now)
    (failed,) = [effect for effect in effects if isinstance(effect, Fail)]
    assert isinstance(failed.error, ProtocolViolation)
    assert script.session.pending == 0
    assert Send(CancelMessage(request_id="a")) in effects


def test_a_frame_about_a_call_that_cannot_be_read_ends_it_at_once():
    script = Script()
    script.connect()
    script.session.call("h", GetHistory(request_id="h", conversation_id="c"), timeout_s=30, now=0)
    broken = {"action": "history", "requestId": "h", "conversationId": "c", "turns": [{"requestId": "t"}]}
    (failed,) = script.session.received(script.link, json.dumps(broken), now=script.now)
    assert isinstance(failed, ReplyFailed)
    assert isinstance(failed.error, ProtocolViolation)


@pytest.mark.parametrize(
    "message",
    [
        {"message": "Internal server error", "requestId": "a"},  # API Gateway's own
        {"action": "messageProgress", "requestId": "a", "attempt": "x"},
        {"action": "messageResponse", "requestId": "somebody's", "status": 3},
    ],
)
def test_what_is_about_no_question_or_only_a_hint_ends_none(message):
    script = Script()
    script.connect()
    script.ask("a", STREAM)
    effects = script.session.received(script.link, json.dumps(message), now=script.now)
    assert [type(effect) for effect in effects] == [Note]
    assert script.session.pending == 1
