"""aiohttp's server with what a gateway adds: hooks for flow control, checks of framing, and errors without details.

Two pieces of RFC 6455 framing are here because aiohttp leaves them to its user. Outwards: a frame as one bytes object,
so that several can leave in one write. Inwards: a server must refuse a frame that is not masked (section 5.1), which
aiohttp's reader accepts.
"""

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger("answerback.http")

TEXT: Final = 0x1
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4

REFUSED: Final = b"\xff\xff"
"""The start of a frame with every reserved bit set: aiohttp's reader answers it with close code 1002."""


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One whole, unmasked frame (section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", _FIN | opcode, 126, size) + payload
    return struct.pack("!BBQ", _FIN | opcode, 127, size) + payload


class MaskGuard:
    """Follows the frame headers in a stream of bytes, however it is cut, and stops it at the first unmasked frame."""

    __slots__ = ("_held", "_refused", "_skip")

    def __init__(self) -> None:
        self._held = b""
        self._skip = 0
        self._refused = False

    def feed(self, data: bytes) -> bytes:
        """What of the bytes so far may go to the reader. A header that is not whole is held back.

        In place of an unmasked frame comes REFUSED, and after it nothing.
        """
        if self._refused:
            return b""
        if self._held:
            data = self._held + data
            self._held = b""
        size = len(data)
        at = self._skip
        while at < size:
            remaining = size - at
            second = data[at + 1] if remaining >= 2 else _MASKED
            if not second & _MASKED:
                self._refused = True
                return data[:at] + REFUSED
            length = second & 0x7F
            need = 2 if length < 126 else 4 if length == 126 else 10
            if remaining < need:
                self._held = data[at:]
                self._skip = 0
                return data[:at]
            if need > 2:
                length = int.from_bytes(data[at + 2 : at + need])
            at += need + _MASK_BYTES + length
        self._skip = at - size
        return data


class HeadWatch:
    """Notices bytes that a client sends after its upgrade request without waiting for the answer."""

    __slots__ = ("_ended", "_last", "too_early")

    def __init__(self) -> None:
        self._last = b""
        self._ended = False
        self.too_early = False

    def check(self, data: bytes) -> None:
        """Look at the next piece of the connection's bytes."""
        if self._ended:
            self.too_early = self.too_early or bool(data)
            return
        data = self._last + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._last = data[-3:]
            return
        self._ended = True
        self._last = b""
        self.too_early = end + 4 < len(data)


class Handler(RequestHandler):
    """One TCP connection."""

    __slots__ = ("_guard", "head", "on_lost", "on_pause", "on_resume")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._guard: MaskGuard | None = None
        self.head = HeadWatch()
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None

    def guard(self) -> None:
        """From here on the peer's bytes are WebSocket frames, and must be masked."""
        self._guard = MaskGuard()

    def data_received(self, data: bytes) -> None:
        """Check, then pass on to aiohttp."""
        if self._guard is None:
            self.head.check(data)
        else:
            data = self._guard.feed(data)
        super().data_received(data)

    def pause_writing(self) -> None:
        """The write buffer is over its high-water mark."""
        super().pause_writing()
        if self.on_pause is not None:
            self.on_pause()

    def resume_writing(self) -> None:
        """The write buffer is under its low-water mark."""
        super().resume_writing()
        if self.on_resume is not None:
            self.on_resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A short answer without the exception's text; aiohttp's own shows it."""
        if status >= 500:
            if isinstance(exc, ConnectionError):
                log.debug("a client was gone before its answer: %s", exc)
            else:
                log.error("a request failed", exc_info=exc)
            text = "The gateway failed. The operator finds the cause in the log.\n"
        else:
            log.debug("not HTTP from %s", request.remote)
            text = "This is not a valid HTTP request.\n"
            drop_tracebacks(exc)
        response = web.Response(status=status, text=text)
        response.force_close()
        return response


class Server(web.Server):
    """Makes a `Handler` for each TCP connection, up to a number of them."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        max_connections: int,
        handshake_timeout_s: float,
    ) -> None:
        # keepalive_timeout is also aiohttp's limit for the head of the first request.
        super().__init__(
            handler, access_log=None, keepalive_timeout=handshake_timeout_s, lingering_time=0.0, logger=log
        )
        self._max_connections = max_connections

    def __call__(self) -> Handler:
        return Handler(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Cut a connection that is one too many before it costs anything."""
        super().connection_made(handler, transport)
        if len(self._connections) > self._max_connections:
            transport.abort()


def drop_tracebacks(error: BaseException | None) -> None:
    """Forget where an error, and those behind it, came from.

    aiohttp keeps the error that a connection ended with in objects of the connection, and the frames of its traceback
    hold these: some 30 kB a connection that only a full garbage collection would find.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
