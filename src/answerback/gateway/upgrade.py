"""Who may open a socket: every check of an upgrade request, before anything is kept for it.

A browser is the adversary here: any web page can make the user's browser connect to a loopback port. It cannot forge
`Origin`, and after DNS rebinding it cannot hide its own name in `Host`; both are checked first.
"""

import base64
import ipaddress
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from answerback.ports import Connection, TokenRefused, Tokens, Unavailable
from answerback.protocol.frames import VISIBLE
from answerback.protocol.limits import MAX_ID_LENGTH, SUBPROTOCOL

log = logging.getLogger("answerback.upgrade")

BEARER_PROTOCOL: Final = "bearer."
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARD_HOSTS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - names to compare with, not to bind
WHAT_THIS_IS: Final = (
    "This is an Answerback gateway. It speaks WebSocket: connect to this address with ws:// or wss://, "
    "for example with `answerback chat`.\n"
)

_IS_VISIBLE: Final = re.compile(VISIBLE)


class Refusal(Exception):
    """An upgrade request that is answered with an HTTP status instead. `text` says what to do."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        return f"{self.status}: {self.text}"

    def response(self) -> web.Response:
        """The HTTP answer; the connection ends with it."""
        response = web.Response(status=self.status, text=self.text + "\n", headers=self.headers)
        response.force_close()
        return response


@dataclass(frozen=True, slots=True)
class Hosts:
    """The `Host` values that this gateway goes by, lower case. None: any, where a token is required anyway."""

    names: frozenset[str] | None

    @classmethod
    def of(cls, host: str, allow_hosts: tuple[str, ...]) -> "Hosts":
        """For a gateway bound to `host`. A wildcard bind goes by any name, unless names are listed."""
        listed = frozenset(_bare_host(name) for name in allow_hosts)
        if _bare_host(host) not in WILDCARD_HOSTS:
            return cls(LOOPBACK_HOSTS | listed | {_bare_host(host)})
        return cls(LOOPBACK_HOSTS | listed if listed else None)

    def admit(self, host_header: str | None) -> bool:
        """Whether a request with this header is meant for us."""
        if not host_header:
            return False
        return self.names is None or _bare_host(host_header) in self.names


def is_loopback(host: str) -> bool:
    """Whether a bind to `host` can be reached from this machine alone."""
    bare = _bare_host(host)
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def new_connection_id() -> str:
    """An unguessable id in the form of API Gateway's: 16 characters, the last one `=`."""
    return base64.urlsafe_b64encode(secrets.token_bytes(11)).decode()


class Doorkeeper:
    """Checks upgrade requests."""

    def __init__(
        self, *, hosts: Hosts, allow_origins: tuple[str, ...], tokens: Tokens | None, clock: Callable[[], int]
    ) -> None:
        self._hosts = hosts
        self._origins = frozenset(origin.rstrip("/").lower() for origin in allow_origins)
        self._tokens = tokens
        self._clock = clock
        self._last_connected_ms = 0

    async def admit(self, request: web.BaseRequest) -> Connection:
        """The connection that this request may open.

        Raises: Refusal: it may not.
        """
        self._check_page(request)
        _check_handshake(request)
        offered = _offered_protocols(request)
        session_id = _id_of(request, "sessionId")
        named_user = _id_of(request, "userId")
        user_id, expires_at_ms = named_user, None
        if self._tokens is not None:
            user_id, expires_at_ms = await self._identify(self._tokens, _token_of(request, offered))
            if named_user not in {None, user_id}:
                raise Refusal(403, "userId differs from the token's user. Leave userId out.")
        now_ms = self._clock()
        # The newer connection of a session wins (R6): by the order here, also if two come in one millisecond or the
        # clock is set back, or an app that reconnects would be sent away for good.
        self._last_connected_ms = max(now_ms, self._last_connected_ms + 1)
        return Connection(
            connection_id=new_connection_id(),
            session_id=session_id or f"connection-{secrets.token_urlsafe(16)}",
            connected_at_ms=self._last_connected_ms,
            last_activity_ms=now_ms,
            user_id=user_id,
            authenticated=self._tokens is not None,
            token_expires_at_ms=expires_at_ms,
            source_ip=request.remote or "",
            user_agent=request.headers.get("User-Agent", "")[:256],
        )

    def _check_page(self, request: web.BaseRequest) -> None:
        """Keep web pages out."""
        if not self._hosts.admit(request.headers.get("Host")):
            raise Refusal(403, "This gateway does not go by that Host name. The operator allows names by --allow-host.")
        origin = request.headers.get("Origin")
        if origin is not None and origin.rstrip("/").lower() not in self._origins:
            raise Refusal(403, "Web pages of this Origin may not connect. The operator allows them by --allow-origin.")

    async def _identify(self, tokens: Tokens, token: str | None) -> tuple[str, int | None]:
        if not token:
            raise _unauthorized("This gateway needs a token. Send the header Authorization: Bearer TOKEN.")
        try:
            identity = await tokens.identify(token)
        except TokenRefused as exc:
            log.info("a token was refused: %s", exc)
            raise _unauthorized("The token is expired or not accepted. Get a new one.", error=True) from None
        except Unavailable:
            log.warning("the keys of tokens cannot be fetched", exc_info=True)
            raise Refusal(503, "Tokens cannot be checked now. Try again after a pause.", {"Retry-After": "5"}) from None
        return identity.user_id, identity.expires_at_ms


def _unauthorized(text: str, *, error: bool = False) -> Refusal:
    challenge = 'Bearer realm="answerback"' + (', error="invalid_token"' if error else "")
    return Refusal(401, text, {"WWW-Authenticate": challenge})


def _check_handshake(request: web.BaseRequest) -> None:
    """RFC 6455 section 4.2.1."""
    headers = request.headers
    if request.method != "GET" or "websocket" not in _listed(request, "Upgrade"):
        raise Refusal(
            426, WHAT_THIS_IS.rstrip(), {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        )
    if "upgrade" not in _listed(request, "Connection"):
        raise Refusal(400, "The upgrade request needs the header Connection: Upgrade.")
    if headers.get("Sec-WebSocket-Version", "").strip() != "13":
        raise Refusal(426, "Use version 13 of the WebSocket protocol.", {"Sec-WebSocket-Version": "13"})
    try:
        key = base64.b64decode(headers.get("Sec-WebSocket-Key", ""), validate=True)
    except ValueError:  # not base64 (binascii.Error), or not even ASCII
        key = b""
    if len(key) != 16:
        raise Refusal(400, "Sec-WebSocket-Key must be 16 random bytes in base64.")


def _listed(request: web.BaseRequest, name: str) -> list[str]:
    """The items of a header that is a list, lower case."""
    return [item.strip().lower() for line in request.headers.getall(name, []) for item in line.split(",")]


def _offered_protocols(request: web.BaseRequest) -> list[str]:
    headers = request.headers.getall("Sec-WebSocket-Protocol", [])
    offered = [name.strip() for header in headers for name in header.split(",") if name.strip()]
    # aiohttp looks at one header line alone, and would log the others' tokens as protocols that it does not know.
    if len(headers) > 1 or (headers and SUBPROTOCOL not in offered):
        raise Refusal(400, f"Offer {SUBPROTOCOL} in one Sec-WebSocket-Protocol header, or send no such header.")
    return offered


def _token_of(request: web.BaseRequest, offered: list[str]) -> str | None:
    """The token: of the header, else of the subprotocols, else of the query."""
    header = request.headers.get("Authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None
    for name in offered:
        if name.startswith(BEARER_PROTOCOL):
            return name.removeprefix(BEARER_PROTOCOL)
    return request.query.get("token")


def _id_of(request: web.BaseRequest, name: str) -> str | None:
    value = request.query.get(name)
    if value is None:
        return None
    if not 1 <= len(value) <= MAX_ID_LENGTH or not _IS_VISIBLE.match(value):
        raise Refusal(400, f"{name} must be 1 to {MAX_ID_LENGTH} visible characters.")
    return value


def _bare_host(host: str) -> str:
    """`Host` without port, brackets and a trailing dot, lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return host.rstrip(".")
