"""Targets `listener` and `handshake`: the bytes of one TCP connection, without a socket."""

import re

from answerback.core.handshake import Hosts, Rules
from answerback.core.request import RequestKey
from answerback.gateway.listener import Listener
from answerback.gateway.settings import Caps
from answerback.gateway.sockets import Sockets
from answerback.gateway.upgrade import HandshakeValidator
from answerback.ports import Connection
from answerback.tasks import Tasks
from answerback_proof.load.websocket import FrameReader
from harness import rfc6455
from harness.memory import MemoryLoop, MemoryTransport, play, settle
from harness.reading import Script, cut

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MAX_MESSAGE = 300
_ANSWER = re.compile(rb"HTTP/\d\.\d (101|4\d\d|503) ")
_INNER_WORDS = re.compile(rb"Traceback|Error:|\.py|aiohttp\.|line \d", re.IGNORECASE)


class Front:
    """Keeps what the listener hands on."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.connected = 0
        self.disconnected = 0

    async def connect(self, connection: Connection) -> None:
        """See service.front.Front."""
        del connection
        self.connected += 1

    async def receive(self, connection_id: str, data: str) -> None:
        """See service.front.Front."""
        del connection_id
        self.received.append(data)

    async def disconnect(self, connection_id: str) -> None:
        """See service.front.Front."""
        del connection_id
        self.disconnected += 1

    async def unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        """See service.front.Front."""


class Talk:
    """One listener, one connection to it, and what came of them."""

    def __init__(self, loop: MemoryLoop, *, message_bytes: int = MAX_MESSAGE) -> None:
        self.front = Front()
        self.sockets = Sockets()
        self.tasks = Tasks()
        self.listener = Listener(
            front=self.front,
            validator=HandshakeValidator(
                rules=Rules(hosts=Hosts.of("127.0.0.1", ())), tokens=None, clock=lambda: 1_750_000_000_000
            ),
            sockets=self.sockets,
            caps=Caps(frames_per_second=0, message_bytes=message_bytes),
            tasks=self.tasks,
        )
        self._loop = loop
        self._transport: MemoryTransport | None = None

    @property
    def transport(self) -> MemoryTransport:
        """The connection."""
        if self._transport is None:
            self._transport = self._loop.dial()
        return self._transport

    async def say(self, pieces: list[bytes]) -> None:
        """Send the pieces, one a turn of the loop."""
        for piece in pieces:
            self.transport.feed(piece)
            await settle()

    async def end(self) -> None:
        """Hang up, and check that nothing is left of the connection."""
        await settle(40)
        self.transport.disconnect()
        await self.listener.close(grace_s=1)
        await self.tasks.settle(grace_s=30)
        assert len(self.sockets) == 0
        assert self.front.connected == self.front.disconnected <= 1


def listener(data: bytes) -> None:
    """After an upgrade: the messages that RFC 6455 says, however the bytes are cut; whole frames come back."""
    script = Script(data)
    sizes = script.block()
    stream = script.rest()
    received, written = play(lambda loop: converse(loop, cut(stream, sizes)))
    parsed = rfc6455.read(stream, max_bytes=MAX_MESSAGE)
    assert received == parsed.messages, (received, parsed.messages, parsed.ended)
    check_frames(written)


async def converse(
    loop: MemoryLoop, pieces: list[bytes], *, message_bytes: int = MAX_MESSAGE
) -> tuple[list[str], bytes]:
    """Upgrade, send the pieces, hang up: the messages that arrived, and the frames that came back."""
    talk = Talk(loop, message_bytes=message_bytes)
    await talk.listener.start("127.0.0.1", 0)
    await talk.say([UPGRADE])
    head, _, frames = bytes(talk.transport.written).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert not frames
    await talk.say(pieces)
    await settle(2 * len(pieces))
    await talk.end()
    return talk.front.received, bytes(talk.transport.written).partition(b"\r\n\r\n")[2]


def check_frames(written: bytes) -> None:
    """Whole, unmasked frames, and nothing after a close."""
    reader = FrameReader()
    frames = reader.feed(written)
    closes = [number for number, (opcode, _) in enumerate(frames) if opcode == 8]
    assert len(closes) <= 1
    assert not closes or closes == [len(frames) - 1]
    for opcode, payload in frames:
        assert opcode in {1, 8, 9, 10}
        assert opcode == 10 or not _INNER_WORDS.search(payload)


def handshake(data: bytes) -> None:
    """From the first byte on: an answer of the documented ones or none, which shows nothing of the inside."""
    script = Script(data)
    sizes = script.block()
    stream = script.rest()
    written = play(lambda loop: _knock(loop, cut(stream, sizes)))
    assert not written or _ANSWER.match(written), written[:80]
    assert not _INNER_WORDS.search(re.sub(rb"Server: [^\r]*", b"", written)), written


async def _knock(loop: MemoryLoop, pieces: list[bytes]) -> bytes:
    talk = Talk(loop)
    await talk.listener.start("127.0.0.1", 0)
    await talk.say(pieces)
    await talk.end()
    return bytes(talk.transport.written)
