"""A session that knows the store of its server says nothing to another one."""

import pytest

from answerback.client.effects import Fail, Stop
from answerback.client.errors import StoreChanged
from answerback.client.outbox import PendingRequest
from answerback.protocol.frames import ListConversations
from session_script import STREAM, Script, accepted, delta, hellos, question, sent


def restored(store):
    """A session of a second run: one question was accepted, one was never sent."""
    script = Script(store=store)
    for name, is_accepted in (("a", True), ("b", False)):
        frame = question(name, stream=True, conversation=name)
        script.session.restore(PendingRequest(frame=frame, is_accepted=is_accepted), STREAM, now=0.0)
    return script


def test_it_asks_first_which_store_it_is():
    script = restored("one")
    effects = script.connect()
    assert sent(effects) == ["hello"]
    assert sent(script.session.probe(now=0.0)) == []
    assert sent(script.session.cancel("a", now=0.0)) == []
    assert sent(script.ask("c", STREAM, conversation="c")) == []
    frame = ListConversations(request_id="l")
    assert sent(script.session.call("l", frame, timeout_s=9.0, now=0.0)) == []
    effects = script.welcome(hellos(effects)[0], store_id="one")
    assert sorted(sent(effects)) == ["ListConversations", "ask b", "ask c", "cancel a", "hello a@0:0"]


def test_another_store_gets_nothing_and_ends_nothing():
    script = restored("one")
    effects = script.welcome(hellos(script.connect())[0], store_id="two")
    assert sent(effects) == []
    (stop,) = (effect for effect in effects if isinstance(effect, Stop))
    assert isinstance(stop.error, StoreChanged)
    assert stop.error.store_id == "two"
    assert [effect.is_final for effect in effects if isinstance(effect, Fail)] == [False, False]
    assert sent(script.connect()) == []


def test_the_first_store_is_the_one_from_then_on():
    script = Script(store="")
    script.welcome(hellos(script.connect())[0], store_id="one")
    script.ask("a", STREAM)
    script.hear(accepted("a"), delta("a", 0, "abc"))
    script.lose()
    effects = script.connect()
    assert sent(effects) == ["hello"]
    assert sent(script.welcome(hellos(effects)[0], store_id="one")) == ["hello a@1:3"]
    script.lose()
    assert any(isinstance(effect, Stop) for effect in script.welcome(hellos(script.connect())[0], store_id="two"))


@pytest.mark.parametrize(("store", "told"), [("one", None), (None, "two")])
def test_a_server_that_does_not_say_and_an_app_that_does_not_ask_are_as_before(store, told):
    script = restored(store)
    effects = script.connect()
    effects += script.welcome(hellos(effects)[0], store_id=told)
    assert [one for one in sent(effects) if one != "hello"] == ["hello a@0:0", "ask b"]
