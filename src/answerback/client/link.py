"""One WebSocket connection: opening it, frames out, messages in. A thin skin over `websockets`."""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import websockets.asyncio.client
from websockets.asyncio.client import ClientConnection, HTTPProxyConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from answerback import __version__, outbound
from answerback.client.errors import CannotConnect, Obstacle, Unauthorized
from answerback.client.failures import OpenFailed, explain, wants_tls
from answerback.client.timing import Timing
from answerback.protocol.codec import encode, pieces_of
from answerback.protocol.frames import ClientFrame, is_id
from answerback.protocol.limits import MAX_FRAME_BYTES, MAX_ID_LENGTH

log = logging.getLogger("answerback.client")

_MAX_INCOMING_BYTES: Final = 4 * MAX_FRAME_BYTES
"""Frames have at most 32 KB; some room, so that a newer server is not cut off."""
_MESSAGE_TOO_BIG: Final = 1009


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to connect, and as whom. A path (an API Gateway stage) and a query of the URL are kept."""

    url: str
    session: str
    user: str | None = None

    def __post_init__(self) -> None:
        if not _is_websocket_url(self.url):
            raise ValueError(f"{self.url!r} is not a WebSocket URL; use ws://HOST:PORT or wss://HOST/PATH")
        for what, name in (("session", self.session), ("user", self.user)):
            if name is not None and not is_id(name):
                raise ValueError(
                    f"{what} must be 1 to {MAX_ID_LENGTH} visible characters, without spaces; not {name!r}"
                )

    def uri(self, *, with_user: bool) -> str:
        """The URL to open. `with_user` false: the token says who it is."""
        parts = urlsplit(self.url)
        query = [*parse_qsl(parts.query, keep_blank_values=True), ("sessionId", self.session)]
        if with_user and self.user is not None:
            query.append(("userId", self.user))
        return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", urlencode(query), ""))


def _is_websocket_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is not one
        return False


class _Socket(ClientConnection):
    """TLS 1.3 refuses a client without a certificate after its own handshake, so in the middle of that of WebSocket."""

    _lost_by: Exception | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost_by = exc
        if hasattr(self, "transport"):  # else TLS has failed in a proxy's tunnel, and websockets would break over that
            super().connection_lost(exc)

    async def handshake(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().handshake(*args, **kwargs)
        except WebSocketException:
            if isinstance(self._lost_by, ssl.SSLError):
                raise self._lost_by from None
            raise


class _Tunnel(HTTPProxyConnection):
    """A proxy that hangs up instead of an answer ends its stream a second time when the connection is gone.

    websockets breaks over that in a callback, whose traceback comes to the terminal. It takes no class for this.
    """

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.response.done():
            super().connection_lost(exc)


websockets.asyncio.client.HTTPProxyConnection = _Tunnel  # type: ignore[misc]


async def open_socket(
    address: Address, *, token: str | None, timing: Timing, ssl_context: ssl.SSLContext | None
) -> ClientConnection:
    """Open a connection. Raises: OpenFailed."""
    options: dict[str, Any] = {}
    if token is not None:
        if not token.isascii() or not token.isprintable():  # it cannot stand in a header, so it is no token
            raise OpenFailed(Unauthorized(), is_final=True)
        options["additional_headers"] = {"Authorization": f"Bearer {token}"}
    proxy: outbound.Proxy | None = None
    try:
        proxy = outbound.proxy_for(address.url, kinds=outbound.ALL_PROXIES)
        if address.url.startswith("wss:"):
            options["ssl"] = ssl_context or outbound.tls_context()
        if proxy is not None and proxy.url.startswith("https:"):
            options["proxy_ssl"] = outbound.tls_context()
        return await connect(
            address.uri(with_user=token is None),
            create_connection=_Socket,
            compression=None,
            user_agent_header=f"answerback/{__version__}",
            proxy=None if proxy is None else proxy.url,
            open_timeout=timing.open_timeout_s,
            close_timeout=timing.close_s,
            ping_interval=timing.keepalive_s,
            ping_timeout=timing.keepalive_s,
            max_size=_MAX_INCOMING_BYTES,
            logger=logging.getLogger("answerback.client.websockets"),
            **options,
        )
    except (outbound.ProxyError, outbound.CaFileError) as exc:
        raise OpenFailed(CannotConnect(address.url, str(exc), Obstacle.SETUP), is_absent=True) from exc
    except (OSError, WebSocketException, EOFError, UnicodeError, ImportError) as exc:
        if proxy is None and await wants_tls(address.url, exc, timeout_s=min(2.0, timing.open_timeout_s / 2)):
            wanted = CannotConnect(address.url, "this port speaks TLS; use wss:// in the URL", Obstacle.TLS_WANTED)
            raise OpenFailed(wanted, is_absent=True) from exc
        raise explain(address.url, exc, proxy=proxy, has_token=token is not None) from exc


class Link:
    """An open connection. Frames leave in the order given; `run` reads until the connection ends.

    `rollover_at`: when it is too old. `stays_until`: no sooner is it replaced, whatever the server says. `news` is set
    when that changed, and when the connection was lost.
    """

    def __init__(
        self,
        number: int,
        socket: ClientConnection,
        *,
        on_message: Callable[["Link", str | bytes], None],
        on_lost: Callable[["Link"], None],
    ) -> None:
        self.number = number
        self.rollover_at: float | None = None
        self.stays_until = 0.0
        self._socket = socket
        self._on_message = on_message
        self._on_lost = on_lost
        self._frames: deque[ClientFrame] = deque()
        self._wake = asyncio.Event()
        self._is_sent = asyncio.Event()
        self._is_sent.set()
        self.news = asyncio.Event()

    @property
    def was_too_large(self) -> bool:
        """Whether the peer closed it because of a message's size."""
        return self._socket.close_code == _MESSAGE_TOO_BIG

    @property
    def reason(self) -> str:
        """Why it is over, for the log."""
        return f"the connection was closed (code {self._socket.close_code or 1006})"

    def send(self, frame: ClientFrame) -> None:
        """Queue a frame; the session bounds how many there can be (one a question and what keeps them alive)."""
        self._frames.append(frame)
        self._is_sent.clear()
        self._wake.set()

    async def run(self) -> None:
        """Read and write until the connection ends, in whatever way, then call `on_lost`."""
        writer = asyncio.create_task(self._write(), name=f"answerback-writer-{self.number}")
        try:
            async for message in self._socket:
                self._on_message(self, message)
        except ConnectionClosed:
            pass
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self._socket.transport.abort()
            self._on_lost(self)
            self.news.set()

    def abort(self) -> None:
        """Drop the connection without a word: it is dead, or taken for dead."""
        self._socket.transport.abort()

    async def close(self, *, flush_s: float) -> None:
        """Send what is queued, if that takes no longer than `flush_s`, and close gracefully."""
        try:
            async with asyncio.timeout(flush_s):
                await self._is_sent.wait()
        except TimeoutError:
            pass
        await self._socket.close()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._frames:
                    data = encode(self._frames.popleft())
                    whole = len(data) <= MAX_FRAME_BYTES
                    await self._socket.send(data.decode() if whole else pieces_of(data, MAX_FRAME_BYTES))
                self._is_sent.set()
        except ConnectionClosed:
            self._is_sent.set()  # the reader sees it, too, and calls `on_lost`
