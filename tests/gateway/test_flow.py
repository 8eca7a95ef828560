"""Back-pressure in both directions, and peers that are dead or only slow."""

import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable

import pytest
import websockets
from gateway_peers import CLOSE, PING, PONG, TEXT, Listening, Raw, frame, raw_connection

from answerback.core.request import RequestKey
from answerback.gateway.listener import MAX_IN_FLIGHT
from answerback.gateway.settings import Caps
from answerback.gateway.sockets import Socket
from answerback.ports import Gone, Sent, Slow
from answerback.protocol.frames import MessageDelta, Pong

Listen = Callable[..., Awaitable[Listening]]
BIG = MessageDelta(request_id="r", attempt=1, offset=0, delta="x" * 30_000)


async def fill(listening: Listening, connection_id: str, *, limit: int = 10_000) -> int:
    """Send until the connection is slow; how many frames it took."""
    for count in range(limit):
        match await listening.sender.send(connection_id, BIG):
            case Slow():
                return count
            case Gone():
                raise AssertionError("the connection is gone")
        await asyncio.sleep(0)
    raise AssertionError("the connection never became slow")


def buffered_bytes(socket: Socket) -> int:
    """What was sent and has not left this process."""
    return socket._corked_bytes + socket._transport.get_write_buffer_size()


async def only_connection(listening: Listening) -> str:
    await listening.front.until(lambda: bool(listening.front.connected))
    return listening.front.connected[-1].connection_id


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - there is no event for what the kernel's buffers do
            await asyncio.sleep(0.001)


async def drain(raw: Raw, frames: int) -> None:
    for _ in range(frames):
        opcode, payload = await raw.receive()
        assert (opcode, len(payload) > 30_000) == (TEXT, True)


async def test_a_reader_that_stops_costs_a_bounded_buffer_and_others_are_unharmed(listen: Listen) -> None:
    listening = await listen(caps=Caps(write_buffer_bytes=100_000))
    listening.echo()
    async with raw_connection(listening.port, receive_buffer=4096) as (raw, _):
        connection_id = await only_connection(listening)
        sent = await fill(listening, connection_id)
        socket = listening.sockets.get(connection_id)
        assert socket is not None
        assert buffered_bytes(socket) < 100_000 + 31_000
        for number in range(10_000):
            assert isinstance(await listening.sender.send(connection_id, BIG), Slow)
            assert listening.sender.park(connection_id, RequestKey("u", f"r{number % 100}"), 1, number)
        assert buffered_bytes(socket) < 100_000 + 31_000
        assert socket.parked == 100
        async with websockets.connect(listening.url) as other:
            await other.send("hello")
            assert await other.recv() == "hello"
        assert listening.front.unparked == []
        await drain(raw, sent)
        await listening.front.until(lambda: len(listening.front.unparked) == 100)
        assert listening.front.unparked[0] == (connection_id, RequestKey("u", "r0"), 1, 9900)
        assert isinstance(await listening.sender.send(connection_id, Pong()), Sent)


async def test_parked_deliveries_are_resumed_one_by_one_and_stop_when_it_is_slow_again(listen: Listen) -> None:
    listening = await listen(caps=Caps(write_buffer_bytes=100_000))
    async with raw_connection(listening.port, receive_buffer=4096) as (raw, _):
        connection_id = await only_connection(listening)
        sent = await fill(listening, connection_id)
        refilled: list[int] = []

        async def unpark(name: str, key: RequestKey, attempt: int, offset: int) -> None:
            refilled.append(await fill(listening, name))

        socket = listening.sockets.get(connection_id)
        assert socket is not None
        socket._unpark = unpark
        for number in range(2):
            socket.park(RequestKey("u", f"r{number}"), 1, 0)
        await drain(raw, sent)
        await until(lambda: bool(refilled))
        await asyncio.sleep(0)
        assert (len(refilled), socket.parked) == (1, 1)
        await drain(raw, refilled[0])
        await until(lambda: len(refilled) == 2)
        assert socket.parked == 0


async def test_ready_waits_for_the_reader_and_ends_with_the_connection(listen: Listen) -> None:
    listening = await listen(caps=Caps(write_buffer_bytes=50_000))
    async with raw_connection(listening.port, receive_buffer=4096) as (raw, _):
        connection_id = await only_connection(listening)
        await listening.sender.ready(connection_id)
        sent = await fill(listening, connection_id)
        ready = asyncio.create_task(listening.sender.ready(connection_id))
        await asyncio.sleep(0)
        assert not ready.done()
        await drain(raw, sent)
        await ready
        await fill(listening, connection_id)
        ready = asyncio.create_task(listening.sender.ready(connection_id))
        await asyncio.sleep(0)
        raw.writer.transport.abort()
        await ready
    await listening.front.until(lambda: bool(listening.front.disconnected))
    assert isinstance(await listening.sender.send(connection_id, Pong()), Gone)
    assert not listening.sender.park(connection_id, RequestKey("u", "r"), 1, 0)
    await listening.sender.ready(connection_id)
    await listening.sender.close(connection_id)


async def test_a_close_does_not_wait_for_a_peer_that_never_reads(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("answerback.gateway.sockets.CLOSE_TIMEOUT_S", 0.05)
    listening = await listen(caps=Caps(write_buffer_bytes=50_000))
    async with raw_connection(listening.port, receive_buffer=4096):
        connection_id = await only_connection(listening)
        await fill(listening, connection_id)
        await listening.sender.close(connection_id)
        await listening.front.until(lambda: connection_id in listening.front.disconnected)
        await until(lambda: len(listening.listener._http.connections) == 0)


async def test_frames_of_one_turn_are_sent_in_order_and_before_the_close(listen: Listen) -> None:
    listening = await listen()
    async with websockets.connect(listening.url) as ws:
        connection_id = await only_connection(listening)
        for offset in range(500):
            await listening.sender.send(
                connection_id, MessageDelta(request_id="r", attempt=1, offset=offset, delta="x" * (offset % 3 * 200))
            )
        await listening.sender.close(connection_id)
        assert isinstance(await listening.sender.send(connection_id, Pong()), Gone)
        offsets = [message async for message in ws]
        assert len(offsets) == 500
        assert all(f'"offset":{number},' in str(text) for number, text in enumerate(offsets))
        assert ws.close_code == 1000


async def test_frames_are_handled_together_in_order_and_only_so_many(listen: Listen) -> None:
    listening = await listen()
    go = asyncio.Event()

    async def wait(connection_id: str, data: str) -> None:
        await go.wait()

    listening.front.answer = wait
    async with websockets.connect(listening.url) as ws:
        for number in range(3 * MAX_IN_FLIGHT):
            await ws.send(str(number))
        await listening.front.until(lambda: len(listening.front.received) >= MAX_IN_FLIGHT)
        async with websockets.connect(listening.url) as other:
            await other.send("other")
            await listening.front.until(lambda: "other" in listening.front.received)
        assert len(listening.front.received) == MAX_IN_FLIGHT + 1
        listening.front.received.remove("other")
        go.set()
        await listening.front.until(lambda: len(listening.front.received) == 3 * MAX_IN_FLIGHT)
    assert listening.front.received == [str(number) for number in range(3 * MAX_IN_FLIGHT)]


async def test_a_frame_bomb_is_read_slower_and_others_are_served(listen: Listen) -> None:
    listening = await listen(caps=Caps(frames_per_second=2_000, frames_burst=10))
    listening.echo()
    bomb = b"".join(frame(TEXT, b"%d" % number) for number in range(600))
    async with (
        raw_connection(listening.port, path="/?userId=bomber") as (raw, _),
        websockets.connect(listening.url + "/?userId=other") as other,
    ):
        before_s = time.monotonic()
        raw.writer.write(bomb)
        await other.send("hello")
        assert await other.recv() == "hello"
        echoed = [(await raw.receive())[1] for _ in range(600)]
        took_s = time.monotonic() - before_s
    assert echoed == [b"%d" % number for number in range(600)]
    assert took_s > (600 - 10) / 2_000
    assert listening.sockets.traffic.throttled > 0


async def test_a_flood_of_pings_from_a_peer_that_does_not_read_is_bounded(listen: Listen) -> None:
    listening = await listen(caps=Caps(write_buffer_bytes=20_000, frames_per_second=0))
    async with raw_connection(listening.port, receive_buffer=4096) as (raw, _):
        connection_id = await only_connection(listening)
        socket = listening.sockets.get(connection_id)
        assert socket is not None
        for _ in range(200):
            raw.writer.write(frame(PING, bytes(125)) * 200)
            await asyncio.sleep(0)
        await until(lambda: socket.is_clogged)
        for _ in range(100):
            await asyncio.sleep(0)
        assert buffered_bytes(socket) < 20_000 + 70_000
        raw.writer.transport.abort()


async def test_a_dead_peer_is_cut_and_one_that_answers_pings_is_not(listen: Listen) -> None:
    listening = await listen(caps=Caps(ping_interval_s=0.1))
    async with raw_connection(listening.port) as (alive, _), raw_connection(listening.port) as (dead, _):
        for _ in range(5):
            assert await alive.receive() == (PING, b"")
            alive.send(PONG)
        assert await dead.ended()
    assert len(listening.front.disconnected) >= 1


async def test_a_peer_that_only_does_not_read_is_kept_until_it_stalls_too_long(listen: Listen) -> None:
    listening = await listen(caps=Caps(ping_interval_s=0.03, write_buffer_bytes=50_000, write_stall_timeout_s=0.5))
    async with raw_connection(listening.port, receive_buffer=4096):
        connection_id = await only_connection(listening)
        before_s = time.monotonic()
        await fill(listening, connection_id)
        await listening.front.until(lambda: connection_id in listening.front.disconnected)
    assert time.monotonic() - before_s > 0.5, "kept over many ping intervals"


async def test_a_stop_closes_with_1001_and_takes_no_more_questions(listen: Listen) -> None:
    listening = await listen()
    async with websockets.connect(listening.url) as ws:
        await ws.send("before")
        await listening.front.until(lambda: listening.front.received == ["before"])
        listening.listener.stop_accepting()
        await ws.send('{"action": "sendMessage", "requestId": "r1", "message": "hello"}')
        refusal = json.loads(await ws.recv())
        assert (refusal["code"], refusal["requestId"]) == ("unavailable", "r1")
        assert refusal["retryAfterMs"] > 0
        await ws.send("broken")
        await ws.send('{"action": "cancelMessage", "requestId": "r0"}')
        await listening.front.until(lambda: len(listening.front.received) == 3)
        async with asyncio.timeout(20):
            await (await ws.ping())
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", listening.port)
        await listening.listener.close(grace_s=1)
        with pytest.raises(websockets.ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1001
    assert [text for text in listening.front.received if "sendMessage" in text] == []


async def test_a_stop_closes_throttled_connections_gracefully(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("answerback.gateway.sockets.CLOSE_TIMEOUT_S", 3_600.0)
    listening = await listen(caps=Caps(frames_per_second=1, frames_burst=1))
    async with websockets.connect(listening.url) as peer:
        for _ in range(3):
            await peer.send("held back")
        while listening.sockets.traffic.throttled == 0:  # noqa: ASYNC110 - no event says that a frame waits
            await asyncio.sleep(0)
        listening.listener.stop_accepting()
        async with asyncio.timeout(5):  # aiohttp gives up by itself after 10 s
            await listening.listener.close(grace_s=3_600.0)
        await peer.wait_closed()
        assert peer.close_code == 1001


async def test_many_frames_to_a_slow_but_steady_reader_do_not_grow_the_process(listen: Listen) -> None:
    listening = await listen(caps=Caps(write_buffer_bytes=100_000))
    async with raw_connection(listening.port) as (raw, _):
        connection_id = await only_connection(listening)
        reading = asyncio.create_task(drain(raw, 2_000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(2_000):
            while isinstance(await listening.sender.send(connection_id, BIG), Slow):
                await listening.sender.ready(connection_id)
        await reading
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "kilobytes; 60 MB went through"
        raw.send(CLOSE)
        assert await raw.close_code() == 1000
