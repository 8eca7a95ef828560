"""What a session says again on a new connection: resumes, repeats, and questions of an earlier run."""

import json

import pytest

from answerback.client.effects import Fail, ReplyFailed, Stop
from answerback.client.errors import MessageTooLarge, SessionReplaced
from answerback.client.events import Text
from answerback.client.outbox import PendingRequest
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import GetHistory
from session_script import (
    ASK,
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
    question,
    sent,
)


def test_a_new_connection_beside_the_old_one_gets_all_that_was_not_accepted_there():
    """A roll-over: what was sent on the old connection may be lost with it."""
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "abc"))
    script.ask("b")
    assert sent(script.connect()) == ["hello a@1:3", "ask b"]


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
