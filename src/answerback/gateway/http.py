"""aiohttp's server with what a gateway adds: hooks for flow control, framing checks, and refusals that tell nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from answerback.gateway.framing import HeadWatch, MaskGuard

log = logging.getLogger("answerback.http")


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
        """Check, then hand on to aiohttp."""
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
        """The TCP connection has ended."""
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
        """The protocol of one more connection."""
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
