"""Framing on the wire, by section of RFC 6455."""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from gateway_peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Listening,
    frame,
    raw_connection,
)

from answerback.gateway.http import MESSAGE_TIMEOUT_S, Unfinished
from answerback.gateway.settings import Caps
from answerback.protocol.codec import decode_server
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Error

Listen = Callable[..., Awaitable[Listening]]


async def test_no_extension_is_agreed(listen: Listen) -> None:
    listening = await listen()
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    async with raw_connection(listening.port, headers=offer) as (_, head):
        assert b"extensions" not in head.lower()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(TEXT, b"hi", mask=False), id="5.1 unmasked"),
        pytest.param(frame(TEXT, b"hi", rsv=4), id="5.2 reserved bit"),
        pytest.param(frame(0x3, b"hi"), id="5.2 reserved opcode"),
        pytest.param(frame(CONTINUATION, b"hi"), id="5.4 continuation of nothing"),
        pytest.param(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), id="5.4 new message inside another"),
        pytest.param(frame(PING, b"a", fin=False), id="5.5 fragmented control frame"),
        pytest.param(frame(PING, bytes(126)), id="5.5 long control frame"),
        pytest.param(frame(CLOSE, b"\x03"), id="5.5.1 close with half a code"),
        pytest.param(frame(CLOSE, (1005).to_bytes(2)), id="7.4 close code that is never sent"),
    ],
)
async def test_a_breach_closes_with_1002_and_what_came_before_is_answered(listen: Listen, sent: bytes) -> None:
    listening = await listen()
    listening.echo()
    async with raw_connection(listening.port) as (raw, _):
        raw.writer.write(frame(TEXT, b"before"))
        assert await raw.receive() == (TEXT, b"before")
        raw.writer.write(sent + frame(TEXT, b"after"))
        assert await raw.close_code() == 1002
        assert await raw.ended()
    assert listening.front.received == ["before"]
    await listening.front.until(lambda: len(listening.front.disconnected) == 1)


async def test_a_good_frame_in_the_same_read_as_a_breach_is_handled(listen: Listen) -> None:
    listening = await listen()
    async with raw_connection(listening.port) as (raw, _):
        raw.writer.write(frame(TEXT, b"good") + frame(TEXT, b"bad", mask=False))
        assert await raw.close_code() == 1002
    assert listening.front.received == ["good"]


async def test_fragments_one_thousand_with_pings_between(listen: Listen) -> None:
    listening = await listen()
    async with raw_connection(listening.port) as (raw, _):
        raw.send(TEXT, "é".encode()[:1], fin=False)
        for number in range(998):
            raw.send(CONTINUATION, ("é".encode()[1:] if number == 0 else b"x"), fin=False)
            if number % 100 == 0:
                raw.send(PING, b"%d" % number)
        raw.send(CONTINUATION, b"")
        pongs = [await raw.receive() for _ in range(10)]
    assert pongs == [(PONG, b"%d" % number) for number in range(0, 998, 100)]
    await listening.front.until(lambda: bool(listening.front.received))
    assert listening.front.received == ["é" + "x" * 997]


async def test_binary_is_refused_with_1003(listen: Listen) -> None:
    listening = await listen()
    async with raw_connection(listening.port) as (raw, _):
        raw.send(BINARY, b"{}")
        assert await raw.close_code() == 1003


async def test_bad_utf8_is_refused_with_1007(listen: Listen) -> None:
    listening = await listen()
    async with raw_connection(listening.port) as (raw, _):
        raw.send(TEXT, b"\xed\xa0\x80")
        assert await raw.close_code() == 1007


async def test_a_message_may_have_the_limit_and_not_a_byte_more(listen: Listen) -> None:
    listening = await listen(caps=Caps(message_bytes=1000))
    async with raw_connection(listening.port) as (raw, _):
        raw.send(TEXT, b"x" * 600, fin=False)
        raw.send(CONTINUATION, "é".encode() * 200)
        await listening.front.until(lambda: len(listening.front.received) == 1)
        raw.send(TEXT, b"x" * 601, fin=False)
        raw.send(CONTINUATION, "é".encode() * 200)
        opcode, payload = await raw.receive()
        answer = decode_server(payload)
        assert opcode == TEXT
        assert isinstance(answer, Error)
        assert answer.code is ErrorCode.MESSAGE_TOO_LARGE
        assert await raw.close_code() == 1009
    assert len(listening.front.received) == 1


async def test_a_message_far_over_the_limit_is_refused_by_its_declared_length(listen: Listen) -> None:
    listening = await listen(caps=Caps(message_bytes=1000))
    async with raw_connection(listening.port) as (raw, _):
        raw.send(TEXT, b"before")
        raw.writer.write(frame(TEXT, bytes(100_000))[:14])
        opcode, payload = await raw.receive()
        assert (opcode, decode_server(payload).code) == (TEXT, ErrorCode.MESSAGE_TOO_LARGE)
        assert await raw.close_code() == 1009
    assert listening.front.received == ["before"]


async def test_what_is_over_the_limit_is_dropped_as_it_comes(listen: Listen) -> None:
    listening = await listen(caps=Caps(message_bytes=1000))
    async with raw_connection(listening.port) as (raw, _):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        raw.send(TEXT, b"x" * 1000, fin=False)
        piece = frame(CONTINUATION, b"x" * 50_000, fin=False)
        for _ in range(1_000):
            raw.writer.write(piece)
            await raw.writer.drain()
        raw.send(CLOSE)
        opcode, payload = await raw.receive()
        assert (opcode, decode_server(payload).code) == (TEXT, ErrorCode.MESSAGE_TOO_LARGE)
        assert await raw.close_code() == 1009
        assert await raw.ended()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "kilobytes; 50 MB came"
    assert listening.front.received == []


async def test_unfinished_messages_share_one_budget_and_the_oldest_makes_room(listen: Listen) -> None:
    listening = await listen()
    listening.echo()
    budget = Unfinished(max_bytes=1_000_000, monotonic=time.monotonic)
    listening.listener._http.unfinished = budget
    async with AsyncExitStack() as stack:
        peers = [(await stack.enter_async_context(raw_connection(listening.port)))[0] for _ in range(50)]
        for number, peer in enumerate(peers):
            for opcode in (TEXT, CONTINUATION, CONTINUATION, CONTINUATION):
                peer.send(opcode, b"x" * 15_000, fin=False)
            await peer.writer.drain()
            while sum(size for size, _ in budget._held.values()) != 60_000 * min(number + 1, 16):  # noqa: ASYNC110
                await asyncio.sleep(0)  # no event says that bytes have come
        assert len(budget) == 16
        for peer in peers[: 50 - 16]:
            assert await peer.ended()
        async with raw_connection(listening.port) as (honest, _):
            honest.send(TEXT, b"whole")
            assert await honest.receive() == (TEXT, b"whole")
        for peer in peers[-16:]:
            peer.send(CONTINUATION, b"")
            assert (await peer.receive())[0] == TEXT
        assert len(budget) == 0


async def test_a_message_must_be_whole_in_time(listen: Listen) -> None:
    listening = await listen()
    now = 0.0
    listening.listener._http.unfinished = budget = Unfinished(monotonic=lambda: now)
    async with raw_connection(listening.port) as (slow, _), raw_connection(listening.port) as (quick, _):
        for peer in (slow, quick):
            peer.send(TEXT, b"x", fin=False)
        while len(budget) < 2:  # noqa: ASYNC110 - no event says that bytes have come
            await asyncio.sleep(0)
        quick.send(CONTINUATION, b"y")
        await listening.front.until(lambda: listening.front.received == ["xy"])
        now = MESSAGE_TIMEOUT_S + 1.0
        assert await slow.ended()
        quick.send(TEXT, b"z")
        await listening.front.until(lambda: listening.front.received == ["xy", "z"])
    assert len(budget) == 0


@pytest.mark.parametrize(
    ("sent", "back"), [(b"", 1000), ((1000).to_bytes(2), 1000), ((1001).to_bytes(2), 1001), ((4321).to_bytes(2), 4321)]
)
async def test_a_close_is_answered_with_its_own_code(listen: Listen, sent: bytes, back: int) -> None:
    listening = await listen()
    async with raw_connection(listening.port) as (raw, _):
        raw.send(CLOSE, sent)
        assert await raw.close_code() == back
        assert await raw.ended()
    await listening.front.until(lambda: len(listening.front.disconnected) == 1)


async def test_a_peer_that_does_not_answer_a_close_is_cut(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("answerback.gateway.sockets.CLOSE_TIMEOUT_S", 0.05)
    listening = await listen()
    async with raw_connection(listening.port) as (raw, _):
        await listening.front.until(lambda: len(listening.front.connected) == 1)
        await listening.sender.close(listening.front.connected[0].connection_id)
        assert await raw.close_code() == 1000
        assert await raw.ended()


async def test_bytes_one_at_a_time(listen: Listen) -> None:
    listening = await listen()
    listening.echo()
    async with raw_connection(listening.port) as (raw, _):
        for byte in frame(TEXT, b"x" * 130):
            raw.writer.write(bytes([byte]))
            await raw.writer.drain()
            await asyncio.sleep(0)
        assert await raw.receive() == (TEXT, b"x" * 130)
