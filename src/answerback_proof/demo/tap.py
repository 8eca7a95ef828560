"""A tap on the wire between an app and the gateway: what really went over it, whatever the app believes.

It relays bytes both ways and reads along. The app's code is not asked; the frames are the evidence.
"""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from answerback.protocol.codec import FrameError, decode_client, decode_server
from answerback.protocol.frames import SendMessage
from answerback_proof.load.ledger import Ledger
from answerback_proof.load.websocket import TEXT, FrameReader, LoadConnectionError

_READ_BYTES = 64 * 1024


class Tap:
    """Listens on a loopback port of its own and relays to the server at `url`.

    Every question and every frame is entered into `ledger` as of app number `app`.
    """

    def __init__(self, *, app: int, url: str, ledger: Ledger) -> None:
        self._app = app
        self._to = urlsplit(url)
        self._ledger = ledger
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Begin to listen; the URL for the app."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return urlunsplit(("ws", f"127.0.0.1:{port}", self._to.path, self._to.query, ""))

    async def close(self) -> None:
        """Stop, and wait until nothing is relayed any more."""
        if self._server is not None:
            self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay(self, from_app: asyncio.StreamReader, to_app: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        is_tls = self._to.scheme == "wss"
        try:
            from_gateway, to_gateway = await asyncio.open_connection(
                self._to.hostname, self._to.port or (443 if is_tls else 80), ssl=is_tls or None
            )
        except OSError:  # the app finds its connection closed, and says so
            to_app.close()
            return
        asked, answered = _Texts(masked=True, on_text=self._asked), _Texts(masked=False, on_text=self._answered)
        pumps = [
            asyncio.create_task(_pump(from_app, to_gateway, asked, host=self._to.netloc.encode())),
            asyncio.create_task(_pump(from_gateway, to_app, answered)),
        ]
        try:
            await asyncio.gather(*pumps)
        except asyncio.CancelledError:
            pass  # by `close`, and the relay ends here; asyncio would log a cancelled one as an error
        finally:
            for pump in pumps:
                pump.cancel()
            for writer in (to_app, to_gateway):
                writer.close()

    def _asked(self, text: bytes) -> None:
        frame = decode_client(text)
        if isinstance(frame, SendMessage):
            self._ledger.asked(self._app, frame.request_id, expected=None, due_at=time.perf_counter())

    def _answered(self, text: bytes) -> None:
        self._ledger.received(self._app, decode_server(text), now=time.perf_counter())


class _Texts:
    """The text messages in one direction of a connection, after the HTTP head."""

    def __init__(self, *, masked: bool, on_text: Callable[[bytes], None]) -> None:
        self._frames = FrameReader(masked=masked)
        self._on_text = on_text
        self._head: bytes | None = b""

    def feed(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            _, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = None
        for opcode, payload in self._frames.feed(data):
            if opcode == TEXT:
                self._on_text(payload)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, texts: _Texts, *, host: bytes | None = None
) -> None:
    """Relay until the end. `host`: what the handshake shall name, for the app knows the tap only."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        if host is not None:
            head = await reader.readuntil(b"\r\n\r\n")
            texts.feed(head)
            writer.write(re.sub(rb"(?im)^host:[^\r\n]*", b"Host: " + host, head, count=1))
        while data := await reader.read(_READ_BYTES):
            with suppress(LoadConnectionError, FrameError):  # what cannot be read is relayed, and missed by the ledger
                texts.feed(data)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():  # TLS cannot
            writer.write_eof()
