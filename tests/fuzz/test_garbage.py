"""A connection that has ended is freed at once, however it ended: the gateway's process seldom collects garbage."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from answerback.core.handshake import Hosts, Rules
from answerback.gateway.http import Handler
from answerback.gateway.listener import Listener
from answerback.gateway.settings import Caps
from answerback.gateway.sockets import Sockets
from answerback.gateway.upgrade import HandshakeValidator
from answerback.protocol.codec import FrameError
from answerback.tasks import Tasks
from answerback.testing.backend import Backend
from answerback.testing.loop import run_virtual
from answerback_proof.load.websocket import Masker
from harness.listener import UPGRADE, Front

FRAME = Masker(b"mask").frame
CLOSE, TEXT = 0x8, 0x1


@pytest.fixture
async def port() -> AsyncIterator[int]:
    tasks = Tasks()
    listener = Listener(
        front=Front(),
        validator=HandshakeValidator(rules=Rules(hosts=Hosts.of("127.0.0.1", ())), tokens=None, clock=lambda: 0),
        sockets=Sockets(),
        caps=Caps(message_bytes=1_000),
        tasks=tasks,
    )
    yield await listener.start("127.0.0.1", 0)
    await listener.close(grace_s=1)
    await tasks.settle(grace_s=1)


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # what the tests before have left is not looked through again and again
    gc.disable()
    yield
    gc.enable()


def handlers() -> list[Handler]:
    """The connections that are still somewhere in memory."""
    return [found for found in gc.get_objects() if type(found) is Handler]


@pytest.mark.parametrize(
    "last_words",
    [
        pytest.param(FRAME(b"\x03\xe8", CLOSE), id="close"),
        pytest.param(b"", id="hang up"),
        pytest.param(FRAME(b"{}") * 3_000, id="hang up with much unread"),
        pytest.param(FRAME(b"half a frame")[:5], id="hang up inside of a frame"),
        pytest.param(b"\x81\x02hi", id="unmasked"),
        pytest.param(FRAME(b"\xff"), id="bad UTF-8"),
        pytest.param(FRAME(bytes(1_001)), id="over the limit"),
        pytest.param(FRAME(bytes(100_000))[:14], id="far over the limit"),
    ],
)
@pytest.mark.usefixtures("no_collections")
async def test_nothing_is_left_of_a_connection(port: int, last_words: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(last_words)
    writer.write_eof()
    await ends(reader, writer)


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\nX: " + b"a" * 9_000 + b"\r\n\r\n", b"\x16\x03\x01\x02\r\n", b""])
@pytest.mark.usefixtures("no_collections")
async def test_nothing_is_left_of_who_does_not_speak_http(port: int, words: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    writer.write_eof()
    await ends(reader, writer)


@pytest.mark.usefixtures("no_collections")
def test_nothing_is_left_of_a_broken_message() -> None:
    async def receive() -> list[object]:
        peer = await Backend().connect("c", user="u")
        handling = [asyncio.create_task(peer.say(b'{"action":"sendMessage","requestId":"r"}')) for _ in range(3)]
        await peer.leave()
        await asyncio.wait(handling)
        del handling
        return [found for found in gc.get_objects() if isinstance(found, FrameError)]

    assert run_virtual(receive()) == []


async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The gateway hangs up, and then nothing of the connection is in memory any more."""
    async with asyncio.timeout(10):
        try:
            while await reader.read(65_536):
                pass
        except ConnectionError:
            pass
        writer.transport.abort()
        while handlers():  # noqa: ASYNC110 - nobody tells when memory is freed
            await asyncio.sleep(0.01)
