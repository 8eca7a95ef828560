"""When a session gives a question up: in all, by the silence of its answer, and for want of a connection."""

import pytest

from answerback.client.effects import Fail
from answerback.client.errors import RequestTimeout
from answerback.client.events import Thinking
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Error, MessageStarted, Status
from session_script import (
    ASK,
    PATIENT,
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
    sign,
)


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


def test_a_stop_that_nobody_answers_is_given_up():
    script = connected(dead_s=10_000)
    script.ask("a")
    said = sent(script.session.abandon("a", now=script.now))
    for second in range(1, 1_000):
        said += sent(script.wait(second))
    assert said.count("cancel a") == 4


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
