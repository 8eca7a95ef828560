"""aiohttp's server with what a gateway adds: hooks for flow control, checks of framing, and errors without details.

Two pieces of RFC 6455 framing are here because aiohttp leaves them to its user. Outwards: a frame as one bytes object,
so that several can leave in one write. Inwards: a server must refuse a frame that is not masked (section 5.1), which
aiohttp's reader accepts.
"""

import asyncio
import json
import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger("answerback.http")

TEXT: Final = 0x1
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
_CONTROL: Final = 0x08
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4

REFUSED: Final = b"\xff\xff"
"""The start of a frame with every reserved bit set: aiohttp's reader answers it with close code 1002."""


TOO_LARGE: Final = b"too large"
"""What a pong says that stands where a message was over the limit. A client that sends one itself is treated alike."""

_TOO_LARGE_FRAME: Final = bytes((_FIN | PONG, _MASKED | len(TOO_LARGE))) + bytes(_MASK_BYTES) + TOO_LARGE

MAX_UNFINISHED_BYTES: Final = 64 * 1024 * 1024
"""What may have come of messages that are not whole, of all connections together: 512 of the longest."""

MESSAGE_TIMEOUT_S: Final = 60.0
"""From the first to the last byte of a message. The longest takes 16 s at 64 kbit/s."""


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One whole, unmasked frame (section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", _FIN | opcode, 126, size) + payload
    return struct.pack("!BBQ", _FIN | opcode, 127, size) + payload


class FrameGuard:
    """Follows the frame headers in a stream of bytes, however it is cut.

    It stops the stream at the first unmasked frame. It drops what is over the limit of a message, and all data after
    that: control frames still pass, so that the connection can be closed in order.
    """

    __slots__ = ("_drops", "_held", "_is_data", "_is_final", "_max_bytes", "_message", "_refused", "_skip")

    def __init__(self, max_message_bytes: int) -> None:
        self._max_bytes = max_message_bytes
        self._held = b""
        self._skip = 0
        self._refused = False
        self._message = 0
        self._is_final = True
        self._is_data = False
        self._drops = False

    @property
    def unfinished_bytes(self) -> int:
        """Bytes that have come of a message that is not whole."""
        missing = self._skip if self._is_data else 0
        return self._message - missing if missing or not self._is_final else 0

    def feed(self, data: bytes) -> bytes:
        """What of the bytes so far may go to the reader. A header that is not whole is held back.

        In place of an unmasked frame comes REFUSED, and after it nothing. In place of the frame that makes a message
        too large comes a pong with TOO_LARGE.
        """
        if self._refused:
            return b""
        if self._held:
            data = self._held + data
            self._held = b""
        size = len(data)
        at = self._skip
        passed = b""
        keep_from = min(at, size) if self._drops and self._is_data else 0
        while at < size:
            remaining = size - at
            first, second = data[at], data[at + 1] if remaining >= 2 else _MASKED
            if not second & _MASKED:
                self._refused = True
                return passed + data[keep_from:at] + REFUSED
            length = second & 0x7F
            need = 2 if length < 126 else 4 if length == 126 else 10
            if remaining < need:
                self._held = data[at:]
                self._skip = 0
                return passed + data[keep_from:at]
            if need > 2:
                length = int.from_bytes(data[at + 2 : at + need])
            end = at + need + _MASK_BYTES + length
            self._is_data = not first & _CONTROL
            if self._is_data:
                self._message = length + (0 if first & _OPCODE else self._message)
                self._is_final = bool(first & _FIN)
                if self._drops or self._message > self._max_bytes:
                    passed += data[keep_from:at] + (b"" if self._drops else _TOO_LARGE_FRAME)
                    self._drops = True
                    keep_from = min(end, size)
            at = end
        self._skip = at - size
        return passed + data[keep_from:] if keep_from or passed else data


class Unfinished:
    """Counts what has come of messages that are not whole, of all connections together, and cuts the oldest over that.

    `monotonic`: seconds.
    """

    def __init__(self, *, max_bytes: int = MAX_UNFINISHED_BYTES, monotonic: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._held: dict[Handler, tuple[int, float]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def count(self, handler: "Handler", size: int) -> None:
        """The connection has `size` bytes of such a message now."""
        before, since = self._held.pop(handler, (0, 0.0)) if size == 0 else self._held.get(handler, (0, 0.0))
        if size:
            self._held[handler] = (size, since or self._monotonic())
        self._bytes += size - before
        while self._bytes > self._max_bytes:
            self._cut(next(iter(self._held)), "no room for its unfinished message")

    def cut_late(self) -> None:
        """Cut who has not sent a whole message in MESSAGE_TIMEOUT_S, but for who could not because we do not read."""
        now = self._monotonic()
        for handler, (size, since) in list(self._held.items()):
            if handler.transport is None or not handler.transport.is_reading():
                self._held[handler] = (size, now)
            elif now - since > MESSAGE_TIMEOUT_S:
                self._cut(handler, "its message was not finished in time")

    def _cut(self, handler: "Handler", why: str) -> None:
        self._bytes -= self._held.pop(handler)[0]
        log.info("a connection was cut: %s", why)
        if handler.transport is not None:
            handler.transport.abort()


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

    __slots__ = ("_counted", "_guard", "_server", "head", "on_lost", "on_pause", "on_resume")

    def __init__(self, manager: "Server", **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = manager
        self._guard: FrameGuard | None = None
        self._counted = 0
        self.head = HeadWatch()
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None

    def guard(self, max_message_bytes: int) -> None:
        """From here on the peer's bytes are WebSocket frames."""
        self._guard = FrameGuard(max_message_bytes)
        self._server.shook_hands(self)

    def data_received(self, data: bytes) -> None:
        """Check, then pass on to aiohttp."""
        if self._guard is None:
            self.head.check(data)
        else:
            data = self._guard.feed(data)
            if (unfinished_bytes := self._guard.unfinished_bytes) != self._counted:
                self._count(unfinished_bytes)
        super().data_received(data)

    def _count(self, unfinished_bytes: int) -> None:
        self._counted = unfinished_bytes
        self._server.unfinished.count(self, unfinished_bytes)

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
        self._count(0)
        self._server.shook_hands(self)
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
        self._silent: dict[RequestHandler, asyncio.Transport] = {}
        self.unfinished = Unfinished(monotonic=self._loop.time)

    def __call__(self) -> Handler:
        return Handler(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Over the limit, cut who has waited longest without a handshake: slots are not for those who say nothing."""
        super().connection_made(handler, transport)
        self._silent[handler] = transport
        if len(self._connections) > self._max_connections:
            oldest = next(iter(self._silent))
            self._silent.pop(oldest).abort()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close every connection, also one that was accepted a moment ago; cut what its peer does not read."""
        await asyncio.sleep(0)  # what was accepted is a connection one turn of the loop later
        await asyncio.sleep(0)
        transports = [handler.transport for handler in self._connections if handler.transport is not None]
        await super().shutdown(timeout)
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)

    def shook_hands(self, handler: RequestHandler) -> None:
        """The connection is a WebSocket now, or lost."""
        self._silent.pop(handler, None)


def json_response(status: int, content: Any, headers: dict[str, str] | None = None) -> web.Response:
    """An answer in JSON. A record of msgspec has its own names there."""
    body = json.dumps(msgspec.to_builtins(content)).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def drop_tracebacks(error: BaseException | None) -> None:
    """Forget where an error, and those behind it, came from.

    aiohttp keeps the error that a connection ended with in objects of the connection, and the frames of its traceback
    hold these: some 30 kB a connection that only a full garbage collection would find.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
