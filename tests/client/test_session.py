"""The session's transcripts: what it wants done for a question, a call, an error and a frame that cannot be read."""

import json

import pytest

from answerback.client.effects import Fail, Note, Ready, Reply, ReplyFailed, RoundTrip, Send, Stop
from answerback.client.errors import (
    Closed,
    ProtocolViolation,
    RateLimited,
    RequestCancelled,
    RequestConflict,
    RequestFailed,
    RequestTimeout,
)
from answerback.client.events import Done, Queued, Restarted, Started, Text
from answerback.protocol.codec import encode
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import (
    CancelMessage,
    GetHistory,
    History,
    MessageResponse,
    MessageStarted,
    Ping,
    Pong,
    RenewToken,
    Status,
)
from session_script import (
    LIMITS,
    STREAM,
    Script,
    accepted,
    connected,
    delta,
    end,
    error,
    events,
    failures,
    hellos,
    sent,
)

# --- asking


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
    (failed,) = script.hear(later.replace(b'"retryable":true', b'"retryable":false'))
    assert isinstance(failed.error, RequestFailed)
    assert (failed.error.code, failed.error.retryable) == ("internal", False)
    assert failed.error.message == ERRORS[ErrorCode.TIMEOUT].message
    script.ask("b")
    (failed,) = script.hear(later.replace(b'"a"', b'"b"').replace(b'"failed"', b'"parked"'))
    assert isinstance(failed.error, RequestFailed)


# --- cancel


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


# --- errors


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
    assert [type(e) for e in script.hear(data)] == [Note]
    (hello,) = hellos(script.wait(1))
    assert sent(script.welcome(hello)) == ["ask a"]


def test_an_unknown_action_is_ignored():
    script = connected()
    assert script.hear('{"action": "confetti"}') == []


# --- calls


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
    script = connected()
    script.ask("a", STREAM)
    effects = script.hear(json.dumps(broken))
    (failed,) = [effect for effect in effects if isinstance(effect, Fail)]
    assert isinstance(failed.error, ProtocolViolation)
    assert script.session.pending == 0
    assert Send(CancelMessage(request_id="a")) in effects


def test_a_frame_about_a_call_that_cannot_be_read_ends_it_at_once():
    script = connected()
    script.session.call("h", GetHistory(request_id="h", conversation_id="c"), timeout_s=30, now=0)
    broken = {"action": "history", "requestId": "h", "conversationId": "c", "turns": [{"requestId": "t"}]}
    (failed,) = script.hear(json.dumps(broken))
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
    script = connected()
    script.ask("a", STREAM)
    effects = script.hear(json.dumps(message))
    assert [type(effect) for effect in effects] == [Note]
    assert script.session.pending == 1
