"""The asyncio client against a scripted gateway: real sockets, every step named by the script."""

import asyncio

from answerback.client import Client


async def test_ask(gateway):
    async with Client(gateway.url) as app:
        asking = asyncio.create_task(app.ask("Hello?"))
        peer = await gateway.peer()
        sent = await peer.get("sendMessage")
        assert (sent["message"], sent.get("stream", False)) == ("Hello?", False)
        await peer.accept(sent["requestId"])
        await peer.answer(sent["requestId"], "Hi.")
        answer = await asking
    assert (answer.text, answer.request_id, answer.conversation_id) == ("Hi.", sent["requestId"], "s-1")


async def test_stream(gateway):
    async with Client(gateway.url) as app:
        stream = app.stream("Hello?")
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.accept(rid)
        await peer.start(rid)
        await peer.say(rid, 0, "Hi ")
        await peer.say(rid, 3, "you.")
        await peer.end(rid, 7)
        assert "".join([piece async for piece in stream]) == "Hi you."
        assert (await stream.answer).text == "Hi you."
