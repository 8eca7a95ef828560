"""The client's connection: cut, replaced, dead, rolled over, and closed."""

import asyncio
import time

import pytest

from answerback.client import Client, Closed, Connected, Connecting, Disconnected, SessionReplaced, Stopped, Timing

QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.002, close_s=0.5, stay_s=0.0)


async def test_cut_in_mid_answer_it_goes_on_at_the_very_character(gateway):
    async with Client(gateway.url, session="s-1", timing=QUICK) as app:
        stream = app.stream("?")
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.say(rid, 0, "The first ")
        assert await anext(stream) == "The first "
        await peer.cut()
        peer = await gateway.peer()
        assert "sessionId=s-1" in peer.path
        hello = await peer.get("hello")
        assert hello["resume"] == [{"requestId": rid, "attempt": 1, "offset": 10}]
        await peer.say(rid, 10, "half, the second.")
        await peer.end(rid, 27)
        await peer.welcome(hello)
        assert "".join([piece async for piece in stream]) == "half, the second."
        assert (await stream.answer).text == "The first half, the second."


async def test_cut_before_it_was_accepted_it_is_sent_again(gateway):
    async with Client(gateway.url, timing=QUICK) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        first = await peer.get("sendMessage")
        await peer.cut()
        peer = await gateway.peer()
        assert await peer.get("sendMessage") == first
        await peer.answer(first["requestId"], "once")
        assert (await asking).text == "once"


async def test_a_replaced_session_stays_away(gateway):
    async with Client(gateway.url, timing=QUICK) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        await peer.get("sendMessage")
        await peer.send({"action": "error", "code": "session_replaced", "message": "Replaced."})
        with pytest.raises(SessionReplaced):
            await asking
        await peer.closed.wait()
        assert isinstance(app.state, Stopped)
        with pytest.raises(SessionReplaced):
            await app.ask("?")
    assert len(gateway.handshakes) == 1


async def test_a_dead_but_open_connection_is_replaced(gateway):
    timing = Timing(silence_s=0.05, dead_s=0.05, hello_expiry_s=0.02, backoff_min_s=0.001, close_s=0.1)
    async with Client(gateway.url, timing=timing) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        first = await peer.get("sendMessage")
        peer.greets = False
        again = await gateway.peer()
        assert await again.get("sendMessage") == first
        await again.answer(first["requestId"], "here")
        assert (await asking).text == "here"


async def test_waking_up_notices_a_dead_connection(gateway, monkeypatch):
    timing = Timing(watch_s=0.01, jump_s=60, dead_s=0.05, backoff_min_s=0.001, close_s=0.1)
    async with Client(gateway.url, timing=timing):
        peer = await gateway.peer()
        peer.greets = False
        real = time.time
        monkeypatch.setattr("answerback.client.driver.time.time", lambda: real() + 3600)
        await gateway.peer()


async def test_an_old_connection_is_rolled_over_without_a_break(gateway):
    async with Client(gateway.url, timing=QUICK) as app:
        old = await gateway.peer()
        stream = app.stream("?")
        rid = (await old.get("sendMessage"))["requestId"]
        await old.say(rid, 0, "before ")
        assert await anext(stream) == "before "
        await old.welcome({"helloId": "any"}, maxConnectionMs=1)
        new = await gateway.peer()
        hello = await new.get("hello")
        assert hello["resume"] == [{"requestId": rid, "attempt": 1, "offset": 7}]
        assert not old.closed.is_set()
        await old.send({"action": "error", "code": "session_replaced", "message": "Replaced."})
        await old.say(rid, 7, "and ")
        await new.say(rid, 7, "and after")
        await new.end(rid, 16)
        await new.welcome(hello)
        await old.closed.wait()
        assert "".join([piece async for piece in stream]) == "and after"
        assert isinstance(app.state, Connected)


@pytest.mark.parametrize("says", ["goAway", "maxConnectionMs"])
async def test_a_server_that_sends_every_connection_away_is_not_asked_without_a_pause(gateway, says):
    async with Client(gateway.url, timing=Timing(stay_s=0.2)) as app:
        began = time.monotonic()
        for _ in range(4):
            peer = await gateway.peer()
            if says == "goAway":
                await peer.send({"action": "goAway", "deadlineMs": 0})
            await peer.welcome({"helloId": "any"}, **({} if says == "goAway" else {"maxConnectionMs": 0}))
        await gateway.peer()
        assert time.monotonic() - began >= 4 * 0.1
        assert isinstance(app.state, Connected)


async def test_a_server_that_leaves_is_left_when_the_new_connection_is_there(gateway):
    async with Client(gateway.url, timing=QUICK) as app:
        old = await gateway.peer()
        stream = app.stream("?")
        rid = (await old.get("sendMessage"))["requestId"]
        await old.say(rid, 0, "before ")
        assert await anext(stream) == "before "
        await old.send({"action": "goAway", "deadlineMs": 100})
        new = await gateway.peer()
        hello = await new.get("hello")
        assert not old.closed.is_set()
        await new.say(rid, 7, "and after")
        await new.end(rid, 16)
        await new.welcome(hello)
        await old.closed.wait()
        assert "".join([piece async for piece in stream]) == "and after"


async def test_a_roll_over_that_fails_is_tried_again_soon(gateway):
    """With the pauses of a lost connection, which grow from a quarter of a second; once it was 30 s at once."""
    timing = Timing(backoff_min_s=0.001, backoff_max_s=3600, stay_s=0.0)
    async with Client(gateway.url, timing=timing) as app:
        old = await gateway.peer()
        gateway.refuse = [503, 502, 503]
        await old.welcome({"helloId": "any"}, maxConnectionMs=1)
        await gateway.peer()
        assert len(gateway.handshakes) == 5
        await old.closed.wait()
        assert isinstance(app.state, Connected)


async def test_states(gateway):
    seen = []
    async with Client(gateway.url, timing=QUICK, on_state=seen.append) as app:
        peer = await gateway.peer()
        states = app.states()
        assert isinstance(await anext(states), Connected)
        await peer.cut()
        later = [type(await anext(states)) for _ in range(3)]
        assert later == [Disconnected, Connecting, Connected]
    assert [type(state) async for state in states] == [Stopped]
    assert [type(state) for state in seen] == [Connecting, Connected, Disconnected, Connecting, Connected, Stopped]
    assert app.limits.max_pending == 1000


async def test_a_listener_that_fails_harms_nothing(gateway):
    async with Client(gateway.url, on_state=lambda state: 1 / 0) as app:
        assert isinstance(app.state, Connected)


async def test_ping(gateway):
    async with Client(gateway.url) as app:
        peer = await gateway.peer()
        pinging = asyncio.create_task(app.ping())
        await peer.get("ping")
        await peer.send({"action": "pong"})
        assert await pinging >= 0


async def test_questions_are_kept_while_offline(gateway):
    gateway.refuse = [503] * 3
    async with Client(gateway.url, timing=QUICK, offline_start=True) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.answer(rid, "at last")
        assert (await asking).text == "at last"
    assert len(gateway.handshakes) == 4


async def test_busy_servers_are_tried_again(gateway):
    gateway.refuse = [429, 503, 500]
    async with Client(gateway.url, timing=QUICK):
        assert len(gateway.handshakes) == 4


async def test_closing_ends_what_is_under_way(gateway):
    async with Client(gateway.url) as app:
        stream = app.stream("?")
        peer = await gateway.peer()
        await peer.get("sendMessage")
    with pytest.raises(Closed):
        await stream.answer
    with pytest.raises(Closed):
        await app.ask("?")
    await peer.closed.wait()
    assert peer.inbox.empty()


async def test_closing_sends_what_is_queued(gateway):
    asked = [f"r{n}" for n in range(40)]  # more than the sockets' buffers hold
    async with Client(gateway.url, timing=Timing(close_s=30)) as app:
        for rid in asked:
            app.stream("x" * 120_000, request_id=rid, conversation=rid)
    peer = await gateway.peer()
    assert [(await peer.get("sendMessage"))["requestId"] for _ in asked] == asked
