"""The client's outbox: questions that survive the app."""

import pytest

from answerback.client import Client, PendingRequest
from answerback.protocol.frames import SendMessage


class MemoryOutbox:
    def __init__(self, *pending):
        self.kept = {p.frame.request_id: p for p in pending}
        self.outcomes = {}

    def load(self):
        return list(self.kept.values())

    def save(self, pending):
        self.kept[pending.frame.request_id] = pending

    def ended(self, request_id, outcome):
        del self.kept[request_id]
        self.outcomes[request_id] = outcome


async def test_a_question_survives_the_app(gateway):
    outbox = MemoryOutbox()
    async with Client(gateway.url, session="s", outbox=outbox) as app:
        stream = app.stream("?", request_id="r")
        peer = await gateway.peer()
        await peer.get("sendMessage")
        assert not outbox.kept["r"].is_accepted
        await peer.accept("r")
        await peer.say("r", 0, "half")
        assert await anext(stream) == "half"
        assert outbox.kept["r"].is_accepted
    assert "r" in outbox.kept
    async with Client(gateway.url, session="s", outbox=outbox, offline_start=True) as app:
        peer = await gateway.peer()
        hello = await peer.get("hello")
        assert hello["resume"] == [{"requestId": "r", "attempt": 0, "offset": 0}]
        await peer.say("r", 0, "half and half")
        await peer.end("r", 13)
        await peer.welcome(hello)
        (restored,) = app.restored
        assert (await restored.answer).text == "half and half"
    assert outbox.kept == {}
    assert outbox.outcomes["r"].text == "half and half"


async def test_a_question_that_was_never_accepted_is_asked_after_a_restart(gateway):
    outbox = MemoryOutbox(PendingRequest(frame=SendMessage(request_id="r", message="?", stream=True)))
    async with Client(gateway.url, outbox=outbox) as app:
        assert (await (await gateway.peer()).get("sendMessage"))["requestId"] == "r"
        assert [p.frame.request_id for p in app.pending()] == ["r"]


async def test_an_outbox_that_fails(gateway, caplog):
    class Broken(MemoryOutbox):
        fails = True

        def save(self, pending):
            if self.fails:
                raise OSError("disk full")

        def ended(self, request_id, outcome):
            raise OSError("disk full")

    outbox = Broken()
    async with Client(gateway.url, outbox=outbox) as app:
        with pytest.raises(OSError, match="disk full"):
            app.stream("not kept, not asked")
        assert app.pending() == []
        outbox.fails = False
        stream = app.stream("?", request_id="r")
        peer = await gateway.peer()
        assert (await peer.get("cancelMessage"))["requestId"] != "r"
        await peer.get("sendMessage")
        outbox.fails = True
        await peer.accept("r")
        await peer.say("r", 0, "x")
        await peer.end("r", 1)
        assert (await stream.answer).text == "x"
    assert "disk full" in caplog.text


async def test_a_client_that_is_not_open():
    with pytest.raises(RuntimeError, match="not open"):
        await Client("ws://127.0.0.1:1").ask("?")
