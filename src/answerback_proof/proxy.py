"""A TCP proxy between apps and a server: it adds every frame to a history, and can cut and stall connections.

The history has what really went over a connection, whatever the app's client makes of it.
"""

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Final
from urllib.parse import parse_qs, urlsplit, urlunsplit

from answerback.protocol.codec import FrameError, decode_client, decode_server
from answerback_proof.history import RunHistory
from answerback_proof.load.websocket import TEXT, FrameReader, LoadConnectionError

_READ_BYTES: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST and drops what is queued (socket(7))."""
_DIAL_S: Final = 10.0
HOST: Final = "127.0.0.1"


class TextFrames:
    """The text messages in one direction of a connection, after the HTTP head.

    `rewrite`: what goes on in place of the head.
    """

    def __init__(self, *, masked: bool, rewrite: Callable[[bytes], bytes], on_text: Callable[[bytes], None]) -> None:
        self._frames = FrameReader(masked=masked)
        self._rewrite = rewrite
        self._on_text = on_text
        self._head: bytes | None = b""

    def feed(self, data: bytes) -> bytes:
        """Read the next bytes, however they are cut; what to pass on for them. What is not WebSocket is skipped."""
        passed_on = data
        if self._head is not None:
            head, found, data = (self._head + data).partition(b"\r\n\r\n")
            if not found:
                self._head = head
                return b""
            self._head = None
            passed_on = self._rewrite(head) + found + data
        with suppress(LoadConnectionError, FrameError):
            for opcode, payload in self._frames.feed(data):
                if opcode == TEXT:
                    self._on_text(payload)
        return passed_on


class FrameObserver:
    """Reads along on one connection and adds its frames to the history. `host`: the server's, for the HTTP head."""

    def __init__(self, history: RunHistory, *, number: int = 0, host: str = HOST) -> None:
        self._history = history
        self._host = host.encode()
        self._number = number
        self._connection = ""
        self.session = ""
        self.from_app = TextFrames(masked=True, rewrite=self._greeted, on_text=self._from_app)
        self.from_server = TextFrames(masked=False, rewrite=lambda head: head, on_text=self._from_server)

    def _greeted(self, head: bytes) -> bytes:
        target = head.split(b" ", 2)[1].decode("latin-1")
        self.session = parse_qs(urlsplit(target).query).get("sessionId", [""])[0]
        self._connection = f"{self.session}#{self._number}"
        return re.sub(rb"(?im)^host:[^\r\n]*", b"Host: " + self._host, head, count=1)

    def _from_app(self, text: bytes) -> None:
        self._history.add_from_app(decode_client(text), connection=self._connection, session=self.session)

    def _from_server(self, text: bytes) -> None:
        self._history.add_to_app(decode_server(text), connection=self._connection, session=self.session)


class Path:
    """One connection through the proxy: a socket to the app, one to the server, a gate in each direction."""

    def __init__(self, observer: FrameObserver, app: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.observer = observer
        self.app = app
        self.server = server
        self.to_app = asyncio.Event()
        self.to_server = asyncio.Event()
        self.is_half_open = False
        self.open_gates()

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done to it now."""
        return self.to_app.is_set() and self.to_server.is_set() and not self.is_half_open

    def open_gates(self) -> None:
        self.to_app.set()
        self.to_server.set()

    def reset(self) -> None:
        """RST to both sides."""
        for side in (self.app, self.server):
            _reset(side)

    def close(self) -> None:
        """FIN to both sides, in the middle of a frame."""
        for side in (self.app, self.server):
            side.close()

    def lose_server(self) -> None:
        """Reset the server's side; the app's stays open, and what it sends is dropped."""
        self.is_half_open = True
        _reset(self.server)

    def lose_app(self) -> None:
        """Reset the app's side; the server's stays open, and what it sends is dropped."""
        self.is_half_open = True
        _reset(self.app)


class Proxy:
    """Listens on a loopback port of its own and relays to the server at `url` (`ws://` or `wss://`)."""

    def __init__(self, url: str, history: RunHistory) -> None:
        self._to = urlsplit(url)
        self._history = history
        self._numbers = count(1)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._paths: set[Path] = set()
        self.connected = 0

    @property
    def paths(self) -> list[Path]:
        """The open connections that nothing is done to."""
        return [path for path in self._paths if path.is_plain]

    async def start(self) -> str:
        """Begin to listen; the URL for the apps."""
        self._server = await asyncio.start_server(self._relay, HOST, 0, backlog=4096)
        port = self._server.sockets[0].getsockname()[1]
        return urlunsplit(("ws", f"{HOST}:{port}", self._to.path, self._to.query, ""))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heal(self) -> None:
        """Open every gate. A half-open connection stays so: to notice it is up to its two ends."""
        for path in self._paths:
            if not path.is_half_open:
                path.open_gates()

    async def _relay(self, from_app: asyncio.StreamReader, to_app: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._keep(task)
        is_tls = self._to.scheme == "wss"
        port = self._to.port or (443 if is_tls else 80)
        try:
            async with asyncio.timeout(_DIAL_S):
                from_server, to_server = await asyncio.open_connection(self._to.hostname, port, ssl=is_tls or None)
        except (OSError, TimeoutError):
            _reset(to_app)
            return
        except asyncio.CancelledError:
            to_app.close()
            return
        self.connected += 1
        observer = FrameObserver(self._history, number=next(self._numbers), host=self._to.netloc)
        path = Path(observer, to_app, to_server)
        self._paths.add(path)
        pumps = [
            asyncio.create_task(_pump(path, from_app, to_server, path.to_server, observer.from_app)),
            asyncio.create_task(_pump(path, from_server, to_app, path.to_app, observer.from_server)),
        ]
        for pump in pumps:
            self._keep(pump)
        try:
            await self._until_over(path, pumps)
        except asyncio.CancelledError:
            pass  # by `stop`, and the relay ends here; asyncio would log a cancelled one as an error
        finally:
            self._paths.discard(path)
            for pump in pumps:
                pump.cancel()
            path.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _until_over(path: Path, pumps: list[asyncio.Task[None]]) -> None:
        """Either direction ends the connection, unless it is half-open: then its open side does."""
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if path.is_half_open:
            await asyncio.wait(pumps)


async def _pump(
    path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event, texts: TextFrames
) -> None:
    with suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            passed_on = texts.feed(data)
            await gate.wait()
            if not path.is_half_open:
                writer.write(passed_on)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError, ValueError):  # ValueError: uvloop's, of one that is closed
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
