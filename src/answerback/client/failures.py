"""What a failed opening of a connection means: the error for the app, and whether to try again."""

import asyncio
import os
import re
import socket
import ssl
from dataclasses import KW_ONLY, dataclass
from typing import Final
from urllib.parse import urlsplit

from websockets import exceptions
from websockets.http11 import Response

from answerback import outbound
from answerback.client.errors import AnswerbackError, CannotConnect, Forbidden, Obstacle, Unauthorized

_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
"""What versions of OpenSSL say to an answer that is no TLS."""

_BUSY: Final = frozenset({408, 425, 429, 503})
MAX_RETRY_AFTER_S: Final = 300.0
"""A server, or a proxy before it, keeps no app away for longer."""

_MEANINGS: Final = {
    200: (Obstacle.NOT_WEBSOCKET, "a web server answers there and no gateway (HTTP 200); check host, port and path"),
    404: (Obstacle.NOT_WEBSOCKET, "nothing is served at this path (HTTP 404); check the path of the URL"),
    407: (Obstacle.PROXY_LOGIN, "a proxy in between wants a user and a password (HTTP 407); ask who runs the network"),
    408: (Obstacle.SERVER, "the server waited too long for the request (HTTP 408)"),
    410: (Obstacle.NOT_WEBSOCKET, "nothing is served at this path any more (HTTP 410); check the path of the URL"),
    426: (
        Obstacle.UPGRADE,
        "a proxy in between does not pass WebSocket upgrades (HTTP 426); it must pass Upgrade and Connection on",
    ),
    429: (Obstacle.SERVER, "the server takes no more connections now (HTTP 429)"),
    431: (
        Obstacle.NOT_WEBSOCKET,
        "the request is too large for the server or a proxy (HTTP 431); is the token that long?",
    ),
    500: (Obstacle.SERVER, "the server failed (HTTP 500); its log says why"),
    502: (Obstacle.SERVER, "a proxy in between cannot reach the gateway (HTTP 502); is it running?"),
    503: (Obstacle.SERVER, "the server, or a proxy before it, takes no connections now (HTTP 503)"),
    504: (Obstacle.SERVER, "a proxy in between gets no answer from the gateway (HTTP 504); is it running?"),
}
"""Statuses that say something of their own; `_by_class` has the others."""
_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f<>{}]{1,300}")
"""One line of text, as the gateway's refusals are. A page or JSON is for machines."""


@dataclass(eq=False)
class OpenFailed(Exception):
    """A connection could not be opened. `is_final`: trying again will not help. `is_absent`: nobody listens there."""

    error: AnswerbackError
    _: KW_ONLY
    is_final: bool = False
    is_absent: bool = False
    retry_after_s: float | None = None

    @property
    def obstacle(self) -> Obstacle:
        """The kind of it."""
        return self.error.obstacle if isinstance(self.error, CannotConnect) else Obstacle.OTHER

    @property
    def reason(self) -> str:
        """Why, without the address."""
        return self.error.reason if isinstance(self.error, CannotConnect) else str(self.error)


def explain(url: str, exc: Exception, *, proxy: outbound.Proxy | None, has_token: bool) -> OpenFailed:
    """What a failed opening means; the most specific row wins, and the last one quotes the exception."""
    if isinstance(exc, exceptions.InvalidStatus):
        return _explain_status(url, exc.response, has_token=has_token)
    if isinstance(exc, TimeoutError):
        reason = f"no answer in time{f' through {proxy}' if proxy else ''}"
        return OpenFailed(CannotConnect(url, reason, Obstacle.TIMEOUT))
    obstacle, reason = (_explain_proxy(exc, proxy) if proxy else None) or _explain_way(exc)
    return OpenFailed(CannotConnect(url, reason, obstacle), is_absent=True)


def _explain_proxy(exc: Exception, proxy: outbound.Proxy) -> tuple[Obstacle, str] | None:
    """What the proxy did; None: it is not about the proxy."""
    match exc:
        case exceptions.InvalidProxyStatus():
            status = exc.response.status_code
            if status == 407:
                login = "wants a user and a password (HTTP 407); write http://USER:PASSWORD@HOST:PORT there"
                return Obstacle.PROXY_LOGIN, f"{proxy} {login}"
            if status >= 500:
                return Obstacle.PROXY, f"{proxy} cannot reach the server (HTTP {status}); check host and port"
            refusal = f"refuses the way to the server (HTTP {status}); ask who runs it, or set NO_PROXY"
            return Obstacle.PROXY, f"{proxy} {refusal}"
        case exceptions.InvalidProxyMessage():
            return Obstacle.PROXY, f"{proxy} does not answer as an HTTP proxy"
        case exceptions.InvalidProxy():
            return Obstacle.SETUP, f"{proxy} cannot be used ({exc.msg})"
        case exceptions.ProxyError():
            return Obstacle.PROXY, f"{proxy} does not lead there ({exc.__cause__ or exc})"
        case ImportError():
            return Obstacle.SETUP, f"{proxy} speaks SOCKS; install the package python-socks, or name an HTTP proxy"
        case ssl.SSLError():
            return None
        case ConnectionResetError() | BrokenPipeError() | EOFError() | exceptions.InvalidMessage(__cause__=EOFError()):
            return Obstacle.PROXY, f"{proxy}, or what is behind it, closed the connection; check host and port"
        case OSError():
            way = f"cannot be reached ({_os_reason(exc)}); correct the variable, or set NO_PROXY"
            return Obstacle.PROXY, f"{proxy} {way}"
        case _:
            return None


def _explain_way(exc: Exception) -> tuple[Obstacle, str]:
    match exc:
        case ssl.SSLError():
            return _explain_tls(exc)
        case ConnectionRefusedError():
            how = "nothing listens there; start a server with `answerback serve`, or check host and port"
            return Obstacle.REFUSED, how
        case ConnectionResetError() | BrokenPipeError():
            why = "the connection was reset while it was opened; a firewall, or another kind of server"
            return Obstacle.NETWORK, why
        case socket.gaierror():
            return Obstacle.NAME, f"its host name cannot be looked up ({exc.strerror}); check it and the network"
        case UnicodeError():
            return Obstacle.NAME, "its host is not a name that can be looked up"
        case OSError():
            return Obstacle.NETWORK, _os_reason(exc)
        case exceptions.SecurityError() | exceptions.InvalidURI():
            return Obstacle.REDIRECT, f"the server redirects to a place that cannot be followed ({exc})"
        case exceptions.InvalidMessage(__cause__=EOFError()) | EOFError():
            why = "the connection was closed while it was opened; a proxy without WebSocket, or another kind of server"
            return Obstacle.UPGRADE, why
        case exceptions.InvalidMessage():
            why = "what listens there does not speak WebSocket: its answer is not HTTP"
            return Obstacle.NOT_WEBSOCKET, why
        case _:
            why = f"the handshake failed ({exc or type(exc).__name__}); is it an Answerback server?"
            return Obstacle.NOT_WEBSOCKET, why


def _explain_tls(exc: ssl.SSLError) -> tuple[Obstacle, str]:
    if isinstance(exc, ssl.SSLCertVerificationError):
        is_unfit = outbound.is_unfit(exc)
        return Obstacle.CERTIFICATE_UNFIT if is_unfit else Obstacle.CERTIFICATE, outbound.explain_certificate(exc)
    if exc.reason in _NOT_TLS:
        return Obstacle.NO_TLS, "this port speaks ws://, without TLS"
    if "CERTIFICATE_REQUIRED" in (exc.reason or ""):
        return Obstacle.TLS, "the server wants a certificate of the client; pass an ssl= that has one"
    return Obstacle.TLS, f"TLS cannot be agreed upon ({exc.reason or exc})"


async def wants_tls(url: str, exc: Exception, *, timeout_s: float) -> bool:
    """Whether the port of a `ws://` URL, which could not be opened, speaks TLS.

    Such a port closes the connection without a word, or answers 400 with words of its own, so only a look shows it.
    """
    parts = urlsplit(url)
    is_odd = isinstance(exc, exceptions.InvalidStatus) and exc.response.status_code == 400
    if parts.scheme != "ws" or not (
        is_odd or isinstance(exc, EOFError | exceptions.InvalidMessage | ConnectionResetError)
    ):
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said over it
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, ssl=context)
        writer.transport.abort()
    except ssl.SSLError as refusal:
        return refusal.reason not in _NOT_TLS and not isinstance(
            refusal, ssl.SSLEOFError
        )  # it speaks TLS, but not with us
    except OSError:
        return False
    return True


def _os_reason(exc: OSError) -> str:
    known = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else ""  # asyncio writes sentences of its own
    return known or exc.strerror or str(exc) or "the network refused it"


def _explain_status(url: str, response: Response, *, has_token: bool) -> OpenFailed:
    status = response.status_code
    said = _said(response)
    if status == 401:
        return OpenFailed(Unauthorized(is_missing=not has_token), is_final=True)
    if status == 403:
        return OpenFailed(Forbidden(said), is_final=True)
    obstacle, reason = _MEANINGS.get(status) or _by_class(status, response)
    if said and status not in _MEANINGS:
        reason = f"{reason}: {said}"
    error = CannotConnect(url, reason, obstacle)
    if status in _BUSY or status >= 500:
        after = response.headers.get("Retry-After", "")
        is_number = after.isascii() and after.isdigit()
        return OpenFailed(error, retry_after_s=min(float(after[:9]), MAX_RETRY_AFTER_S) if is_number else None)
    return OpenFailed(error, is_absent=True)


def _by_class(status: int, response: Response) -> tuple[Obstacle, str]:
    match status // 100:
        case 3:
            where = "; ".join(response.headers.get_all("Location"))[:200]
            place = f", {where}" if where else ""
            return Obstacle.REDIRECT, f"the server redirects elsewhere (HTTP {status}{place}); use that address"
        case 4:
            return Obstacle.NOT_WEBSOCKET, f"the server does not take this request (HTTP {status})"
        case 5:
            return Obstacle.SERVER, f"the server, or a proxy before it, failed (HTTP {status})"
        case _:
            why = f"the server answers HTTP {status}, and no WebSocket begins; check host, port and path"
            return Obstacle.NOT_WEBSOCKET, why


def _said(response: Response) -> str | None:
    """The sentence in the body of a refusal, if it is one."""
    text = (response.body or b"").decode("utf-8", "replace").strip().rstrip(".")
    return text if _TEXT.fullmatch(text) else None
