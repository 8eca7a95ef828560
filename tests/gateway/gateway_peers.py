"""A scripted front behind a listener, and a raw client that can break every rule."""

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from answerback.core.request import RequestKey
from answerback.gateway.listener import Listener
from answerback.gateway.sockets import Sockets, SocketSender
from answerback.ports import Connection

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0


@dataclass
class ScriptedFront:
    """Records what the listener calls; `answer` does something about a message."""

    answer: Callable[[str, str], Awaitable[None]] | None = None
    connected: list[Connection] = field(default_factory=list)
    disconnected: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    unparked: list[tuple[str, RequestKey, int, int]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def connect(self, connection: Connection) -> None:
        self.connected.append(connection)
        await self._notify()

    async def receive(self, connection_id: str, data: str) -> None:
        self.received.append(data)
        await self._notify()
        if self.answer is not None:
            await self.answer(connection_id, data)

    async def disconnect(self, connection_id: str) -> None:
        self.disconnected.append(connection_id)
        await self._notify()

    async def unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        self.unparked.append((connection_id, key, attempt, offset))
        await self._notify()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.changed, asyncio.timeout(20):
            await self.changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@dataclass
class Listening:
    """A started listener."""

    front: ScriptedFront
    listener: Listener
    sockets: Sockets
    sender: SocketSender
    port: int

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def echo(self) -> None:
        """Answer every message with itself."""

        async def answer(connection_id: str, data: str) -> None:
            open_socket = self.sockets.get(connection_id)
            if open_socket is not None:
                open_socket.send(data.encode())

        self.front.answer = answer


class Raw:
    """A client that sends any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, rsv: int = 0) -> None:
        self.writer.write(frame(opcode, payload, fin=fin, mask=mask, rsv=rsv))

    async def receive(self) -> tuple[int, bytes]:
        """The next frame of the server: (opcode, payload). Raises IncompleteReadError at the end."""
        async with asyncio.timeout(20):
            first, size = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80, "the server sends whole frames without reserved bits"
            assert size < 128, "the server does not mask"
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0xF, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """Skip everything up to the server's close frame; its code."""
        while True:
            opcode, payload = await self.receive()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2])

    async def ended(self) -> bool:
        """Whether the server ends the TCP connection."""
        async with asyncio.timeout(20):
            try:
                while await self.reader.read(65_536):
                    pass
            except ConnectionError:
                pass
            return True


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, rsv: int = 0) -> bytes:
    head = bytearray([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head.append(bit | len(payload))
    elif len(payload) < 65_536:
        head += struct.pack("!BH", bit | 126, len(payload))
    else:
        head += struct.pack("!BQ", bit | 127, len(payload))
    if not mask:
        return bytes(head) + payload
    key = os.urandom(4)
    return bytes(head) + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


@asynccontextmanager
async def raw_connection(
    port: int, *, path: str = "/", headers: dict[str, str] | None = None, after: bytes = b"", receive_buffer: int = 0
) -> AsyncIterator[tuple[Raw, bytes]]:
    """A raw connection and the head of the server's answer."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    all_headers = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **(headers or {}),
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items() if value), "", ""]
    try:
        writer.write("\r\n".join(lines).encode() + after)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
        yield Raw(reader, writer), head
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass
