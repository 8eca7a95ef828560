"""The HTTP client of the `openai:` adapter: connections, proxies, time-outs, and what a failed transfer means."""

import asyncio
import io
import ipaddress
import math
import ssl
from collections.abc import AsyncGenerator, Mapping
from types import SimpleNamespace
from typing import Final
from weakref import WeakSet

import aiohttp
from yarl import URL

from answerback import __version__
from answerback.outbound import explain_certificate, proxy_for, tls_context
from answerback.ports import ModelError
from answerback.protocol.errors import ErrorCode

_KEEPALIVE_S: Final = 4.0
"""How long an idle connection is kept. uvicorn, Node and llama.cpp close theirs after 5 s."""
_MAX_HEADER_BYTES: Final = 64 * 1024
"""Of one line of a response's head. Gateways in front of models send policies far above aiohttp's 8 KB."""

_TRANSIENT: Final[tuple[tuple[type[Exception], bool], ...]] = (
    (aiohttp.ConnectionTimeoutError, True),
    (TimeoutError, False),  # a server that was silent once is not waited for again
    (aiohttp.ClientHttpProxyError, False),
    (aiohttp.ClientConnectionError, True),  # refused, reset, no such host, TLS
    (aiohttp.ClientResponseError, True),  # what came is not HTTP
    (OSError, True),
)
"""Which failures before the head of a response pass by themselves. The first row that fits counts."""

TRANSPORT_ERRORS: Final = (aiohttp.ClientError, OSError)
"""What `HttpClient.post` and `read` raise."""


class HttpClient:
    """POSTs JSON to one URL over pooled connections. Durations in seconds. A response may take as long as it moves.

    Connections are not counted here: the worker runs at most the model's `concurrency` at a time.

    Raises: ValueError: the URL's host is none. ProxyError, CaFileError: the environment names what cannot be used.
    """

    def __init__(
        self, url: URL, *, headers: Mapping[str, str], connect_timeout_s: float, silence_timeout_s: float
    ) -> None:
        _check_host(url)
        self._url = url
        self._headers = {"Content-Type": "application/json", "User-Agent": f"answerback/{__version__}", **headers}
        self._proxy = proxy_for(str(url))
        self._tls = tls_context() if url.scheme == "https" else None
        self._timeout = aiohttp.ClientTimeout(connect=connect_timeout_s)
        self._connect_timeout_s = connect_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._pooled: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._responses: WeakSet[aiohttp.ClientResponse] = WeakSet()
        self._is_closed = False

    async def post(self, body: bytes) -> aiohttp.ClientResponse:
        """The head of the response; the caller closes it. Raises: TRANSPORT_ERRORS; ModelError: this is closed.

        A server may close an idle connection at the moment when we send on it. A pooled connection that breaks before
        a byte of the response came is therefore replaced at once, by a new one and once a call. The server may have
        read the request before it broke, and then answers it twice. That is what the tries after a pause do as well,
        and nobody has seen a word of the first answer.
        """
        pooled, fresh = self._sessions()
        async with asyncio.timeout(self._connect_timeout_s + self._silence_timeout_s):
            connection = SimpleNamespace(is_reused=False)
            try:
                return await self._send(pooled, body, connection)
            except aiohttp.ClientConnectionError as exc:
                if self._is_closed or not connection.is_reused or not _is_hang_up(exc):
                    raise
            return await self._send(fresh, body, connection)

    async def get(self, url: URL, *, timeout_s: float) -> aiohttp.ClientResponse:
        """The head of the response for another URL of the server. Raises: as `post`."""
        pooled, _ = self._sessions()
        async with asyncio.timeout(timeout_s):
            return await pooled.get(url, allow_redirects=False, trace_request_ctx=SimpleNamespace())

    async def read(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The body as it comes, decompressed. Raises: TRANSPORT_ERRORS."""
        content = response.content
        loop = asyncio.get_running_loop()
        waiting_since = loop.time()
        timer: asyncio.TimerHandle

        # aiohttp's own time-out for reads restarts at each chunk, runs while nobody reads, and does not run after a
        # chunk without a length: aiohttp closes the connection there without a word to the reader.
        def check() -> None:
            nonlocal timer
            silent_s = max(0.0, loop.time() - waiting_since)
            if silent_s >= self._silence_timeout_s:
                content.set_exception(TimeoutError())
            else:
                timer = loop.call_later(self._silence_timeout_s - silent_s, check)

        timer = loop.call_later(self._silence_timeout_s, check)
        try:
            while data := await content.readany():
                waiting_since = math.inf
                yield data
                waiting_since = loop.time()
        except RuntimeError as exc:
            # After such a chunk, where the reader came later.
            raise aiohttp.ClientPayloadError("the connection is closed") from exc
        except TRANSPORT_ERRORS:
            # aiohttp raises ahead of the bytes that came before the error, and no public method gives them.
            if data := content._read_nowait(-1):
                yield data
            raise
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Close all connections; running transfers fail."""
        self._is_closed = True
        # The end of a session does not wake those who read.
        for response in list(self._responses):
            response.close()
        for session in (self._pooled, self._fresh):
            if session is not None:
                await session.close()

    def explain(self, exc: Exception) -> str:
        """What went wrong, for the operator's log. aiohttp's own texts have URLs, in which keys may be."""
        match exc:
            case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as error):
                reason = explain_certificate(error)
            case aiohttp.ClientConnectorError():
                reason = str(exc.os_error)
            case aiohttp.ClientResponseError():
                reason = exc.message
            case aiohttp.ConnectionTimeoutError():
                reason = "no connection in time"
            case TimeoutError():
                reason = "the server was silent for too long"
            case aiohttp.ServerDisconnectedError():
                reason = "the server closed the connection"
            case aiohttp.ClientPayloadError():
                reason = str(exc)
            case _:
                reason = "the connection broke"
        through = f" (through {self._proxy})" if self._proxy else ""
        return f"{type(exc).__name__}: {reason}{through}"

    def _sessions(self) -> tuple[aiohttp.ClientSession, aiohttp.ClientSession]:
        if self._is_closed:
            raise ModelError(ErrorCode.MODEL_UNAVAILABLE, "the model is closed")
        if self._pooled is None or self._fresh is None:
            # Not in the constructor: a session belongs to the event loop that runs when it is made.
            self._pooled = self._session(is_pooled=True)
            self._fresh = self._session(is_pooled=False)
        return self._pooled, self._fresh

    def _session(self, *, is_pooled: bool) -> aiohttp.ClientSession:
        tls = self._tls or True
        connector = (
            aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S, ssl=tls)
            if is_pooled
            else aiohttp.TCPConnector(limit=0, force_close=True, ssl=tls)
        )
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            max_field_size=_MAX_HEADER_BYTES,
            max_line_size=_MAX_HEADER_BYTES,
            proxy=self._proxy.url if self._proxy else None,
            timeout=self._timeout,
            trace_configs=[trace] if is_pooled else None,
        )

    async def _send(
        self, session: aiohttp.ClientSession, body: bytes, connection: SimpleNamespace
    ) -> aiohttp.ClientResponse:
        response = await session.post(
            self._url, data=io.BytesIO(body), allow_redirects=False, trace_request_ctx=connection
        )
        self._responses.add(response)
        return response


def is_transient(exc: Exception) -> bool:
    """Whether a transfer that failed before the head of the response may be tried again."""
    return next((transient for kind, transient in _TRANSIENT if isinstance(exc, kind)), False)


def _check_host(url: URL) -> None:
    """Raises: ValueError: a label is empty or too long, or an address has wrong numbers."""
    host = str(url.raw_host)
    str(url.host).encode("idna")
    if host.rpartition(".")[2].isdecimal():
        ipaddress.ip_address(host)


def _is_hang_up(exc: aiohttp.ClientConnectionError) -> bool:
    """Whether the connection broke before a byte of the response came."""
    if isinstance(exc, TimeoutError):
        return False
    # The message is the beginning of a head, if one came.
    return not isinstance(exc, aiohttp.ServerDisconnectedError) or isinstance(exc.message, str)


async def _note_reuse(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    context.trace_request_ctx.is_reused = True
