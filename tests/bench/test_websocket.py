"""The load tool's own framing, against itself and against a strict server."""

import asyncio
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from answerback.gateway.http import frame
from answerback_proof.load.websocket import TEXT, FrameReader, LoadConnectionError, Masker, open_connection
from listening import listening

PONG = 0xA


@given(
    payloads=st.lists(
        st.binary(max_size=300) | st.sampled_from([b"x" * 125, b"x" * 126, b"x" * 65_535, b"x" * 65_536])
    ),
    cuts=st.lists(st.integers(min_value=0, max_value=200_000)),
    masked=st.booleans(),
)
def test_any_cut_of_the_bytes_gives_the_same_frames(payloads: list[bytes], cuts: list[int], masked: bool) -> None:
    masker = Masker(b"\x01\x02\x03\x04")
    stream = b"".join(masker.frame(payload) if masked else frame(payload) for payload in payloads)
    reader = FrameReader(masked=masked)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    got = [item for start, end in itertools.pairwise(edges) for item in reader.feed(stream[start:end])]
    assert got == [(TEXT, payload) for payload in payloads]


def test_fragments_are_joined_around_a_control_frame() -> None:
    stream = b"\x01\x02ab" + bytes((0x80 | PONG, 0)) + b"\x00\x01c" + b"\x80\x01d"
    assert FrameReader().feed(stream) == [(PONG, b""), (TEXT, b"abcd")]


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"\x81\x82abcd12", "masks"),
        (b"\xc1\x01a", "extension"),
        (b"\x80\x01a", "fragments"),
        (b"\x01\x01a\x01\x01b", "fragments"),
    ],
)
def test_what_a_server_may_not_send(stream: bytes, why: str) -> None:
    with pytest.raises(LoadConnectionError, match=why):
        FrameReader().feed(stream)


async def test_a_strict_server_understands_it_and_is_understood() -> None:
    async def echo(socket: ServerConnection) -> None:
        async for text in socket:
            await socket.send(text)

    texts = ["a", "안녕 👋" * 5000, "x" * 70_000]
    got: asyncio.Queue[bytes] = asyncio.Queue()
    async with serve(echo, "127.0.0.1", 0) as server:
        connection = await open_connection(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/?a=b")
        connection.on_text = got.put_nowait
        for text in texts:
            connection.send(text.encode())
        assert [(await got.get()).decode() for _ in texts] == texts
        (socket,) = server.connections
        await (await socket.ping(os.urandom(4)))  # it answers pings
        connection.close()
        await socket.wait_closed()
    assert socket.close_code == 1000
    with pytest.raises(LoadConnectionError):
        connection.send(b"too late")


async def test_why_a_connection_ended_is_reported() -> None:
    async def hang_up(socket: ServerConnection) -> None:
        await socket.close(1013, "come back later")

    reasons: asyncio.Queue[str] = asyncio.Queue()
    async with serve(hang_up, "127.0.0.1", 0) as server:
        connection = await open_connection(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connection.on_close = reasons.put_nowait
        assert "1013: come back later" in await reasons.get()


async def test_refused_and_absent_servers(unused_port: int) -> None:
    async with listening(_not_websocket) as port:
        with pytest.raises(LoadConnectionError, match="403 Forbidden: not here"):
            await open_connection(f"ws://127.0.0.1:{port}")
    with pytest.raises(LoadConnectionError, match="nothing answers"):
        await open_connection(f"ws://127.0.0.1:{unused_port}")
    with pytest.raises(LoadConnectionError, match="not a ws"):
        await open_connection("http://127.0.0.1")


async def _not_websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\nnot here")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
