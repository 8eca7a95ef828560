"""The opening handshake: which upgrade requests a server accepts, and what it reads from them (PROTOCOL.md, section 2).

Pure: no I/O, no HTTP library. A server calls `validate`; if it asks for tokens it then calls `token_of`, verifies the
token, and calls `check_user` with the token's user. On AWS `$connect` calls `validate`. The authorizer before it can
answer with 401 and 403 only, so it calls `check_page`, `token_of` and `check_user`.

A browser is the adversary here: any web page can make the user's browser connect to a loopback port. A page cannot
forge `Origin`, and after DNS rebinding it cannot hide its own name in `Host`. Both are checked first.
"""

import base64
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from answerback.core.keys import normal_id
from answerback.protocol.frames import is_id
from answerback.protocol.limits import MAX_ID_LENGTH, SUBPROTOCOL

BEARER_PROTOCOL: Final = "bearer."
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARD_HOSTS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - names to compare with, not to bind
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_FORWARDED: Final = re.compile(r"\[([0-9a-fA-F:.]+)\](?::\d+)?|([0-9.]+)(?::\d+)?|([0-9a-fA-F:.]+)")
"""An address as proxies write it, some of them with a port."""

MAX_USER_AGENT: Final = 256
"""Characters of `User-Agent` that are kept with a connection."""

WHAT_THIS_IS: Final = (
    "This is an Answerback gateway. It speaks WebSocket: connect to this address with ws:// or wss://, "
    "for example with `answerback chat`."
)


@dataclass(eq=False)
class HandshakeError(Exception):
    """An upgrade request that is answered with an HTTP status instead of a socket.

    `text` says what to do and quotes nothing of the request.
    """

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.status}: {self.text}"


class UpgradeRequest:
    """The head of an upgrade request: its headers and query parameters, in the order they came.

    `method`: None behind API Gateway, which has checked method and headers of RFC 6455 itself.
    """

    def __init__(
        self, *, headers: Iterable[tuple[str, str]], query: Iterable[tuple[str, str]], method: str | None = None
    ) -> None:
        self.method = method
        self._headers = [(name.lower(), value) for name, value in headers]
        self._query = list(query)

    def lines(self, header: str) -> list[str]:
        """The values of a header (lower case), one for each line."""
        return [value for name, value in self._headers if name == header]

    def header(self, header: str) -> str | None:
        """The first line of a header (lower case)."""
        return next(iter(self.lines(header)), None)

    def items(self, header: str) -> list[str]:
        """The items of a header (lower case) that is a list."""
        items = [item.strip() for line in self.lines(header) for item in line.split(",")]
        return [item for item in items if item]

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter."""
        return next((value for given, value in self._query if given == name), None)


@dataclass(frozen=True, slots=True)
class Hosts:
    """The `Host` values that a server goes by, lower case. None: any, where a token is required anyway."""

    names: frozenset[str] | None

    @classmethod
    def of(cls, host: str, allow_hosts: tuple[str, ...]) -> "Hosts":
        """For a server bound to `host`. A wildcard bind goes by any name, unless names are listed."""
        listed = frozenset(_bare_host(name) for name in allow_hosts)
        if _bare_host(host) not in WILDCARD_HOSTS:
            return cls(LOOPBACK_HOSTS | listed | {_bare_host(host)})
        return cls(LOOPBACK_HOSTS | listed if listed else None)

    def accept(self, host_header: str | None) -> bool:
        """Whether a request with this header is meant for us."""
        if not host_header:
            return False
        return self.names is None or _bare_host(host_header) in self.names


def origins(names: Iterable[str]) -> frozenset[str]:
    """A list of allowed origins in the form that `Rules` compares with."""
    return frozenset(_bare_origin(name) for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one deployment accepts.

    `allow_origins`: made by `origins`. `origin_setting`: how the operator allows one more. `hosts`: None where no
    other `Host` leads to the server, which is so on API Gateway. `proxies`: whose `X-Forwarded-For` is believed.
    """

    allow_origins: frozenset[str] = field(default_factory=frozenset)
    origin_setting: str = "--allow-origin"
    hosts: Hosts | None = None
    proxies: Sequence[Network] = ()


def client_address(peer: str, forwarded: Sequence[str], proxies: Sequence[Network]) -> str:
    """Whose request it is, for the log. `forwarded`: the items of `X-Forwarded-For`, the proxy next to us last.

    What a client writes there itself stands on the left of what the proxies add, and is not believed.
    """
    address = peer
    for item in reversed(forwarded):
        known, found = _address(address), _FORWARDED.fullmatch(item)
        if known is None or found is None or not any(known in network for network in proxies):
            break
        if _address(plain := found[1] or found[2] or found[3]) is None:
            break
        address = plain
    return address


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What an accepted upgrade request says.

    `session_id`: None if the connection is a session of its own. `user_id`: the user that the query names, which counts
    only where no token is asked for. `subprotocol`: the one to answer with.
    """

    session_id: str | None
    user_id: str | None
    subprotocol: str | None
    user_agent: str


def validate(request: UpgradeRequest, rules: Rules) -> Handshake:
    """Check everything about a request but its token, and read it.

    Raises: HandshakeError: 403 for a web page or a foreign host, 426 or 400 for what is no WebSocket handshake, 400 for
    subprotocols without ours and for a malformed id; the first of these that applies.
    """
    check_page(request, rules)
    if request.method is not None:
        _check_websocket(request)
    subprotocol, session_id, user_id = _subprotocol(request), _id_of(request, "sessionId"), _id_of(request, "userId")
    return Handshake(
        subprotocol=subprotocol,
        session_id=session_id,
        user_id=None if user_id is None else normal_id(user_id),
        user_agent=(request.header("user-agent") or "")[:MAX_USER_AGENT],
    )


def check_page(request: UpgradeRequest, rules: Rules) -> None:
    """Keep web pages out that the operator has not allowed. Apps send no `Origin`; browsers always do.

    Raises: HandshakeError: 403.
    """
    if rules.hosts is not None and not rules.hosts.accept(request.header("host")):
        raise HandshakeError(
            403, "This gateway does not go by that Host name. The operator allows names by --allow-host."
        )
    origin = request.header("origin")
    if origin is not None and _bare_origin(origin) not in rules.allow_origins:
        raise HandshakeError(
            403, f"Web pages of this Origin may not connect. The operator allows them by {rules.origin_setting}."
        )


def token_of(request: UpgradeRequest) -> str:
    """The token to verify: of the header, else of the subprotocols, else of the query.

    With an `Authorization` header the other two are not looked at. Raises: HandshakeError: 401, there is none.
    """
    token = _first_token(request)
    if not token:
        raise _unauthorized("This gateway needs a token. Send the header Authorization: Bearer TOKEN.")
    return token


def check_user(request: UpgradeRequest, user_id: str) -> None:
    """Raises: HandshakeError: 403, the query names another user than the token's, which is `user_id`."""
    named = request.parameter("userId")
    if named is not None and normal_id(named) != user_id:
        raise HandshakeError(403, "userId differs from the token's user. Leave userId out.")


def user_blocked() -> HandshakeError:
    """The error for a user whom the operator has locked out."""
    return HandshakeError(403, "The operator has blocked this user.")


def token_refused() -> HandshakeError:
    """The error for a token that is expired or not accepted. Why is for the operator's log only."""
    return _unauthorized("The token is expired or not accepted. Get a new one.", challenge=', error="invalid_token"')


def tokens_unavailable() -> HandshakeError:
    """The error while the keys of tokens cannot be fetched."""
    return HandshakeError(503, "Tokens cannot be checked now. Try again after a pause.", {"Retry-After": "5"})


def own_session_id(unguessable: str) -> str:
    """The session of a connection that names none; `unguessable` is new for each."""
    return f"connection-{unguessable}"


def is_loopback(host: str) -> bool:
    """Whether a bind to `host` can be reached from this machine alone."""
    bare = _bare_host(host)
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def _unauthorized(text: str, *, challenge: str = "") -> HandshakeError:
    return HandshakeError(401, text, {"WWW-Authenticate": f'Bearer realm="answerback"{challenge}'})


def _check_websocket(request: UpgradeRequest) -> None:
    """RFC 6455, section 4.2.1. Raises: HandshakeError: 426, 400."""
    if request.method != "GET" or "websocket" not in _lower(request.items("upgrade")):
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        raise HandshakeError(426, WHAT_THIS_IS, headers)
    if "upgrade" not in _lower(request.items("connection")):
        raise HandshakeError(400, "The upgrade request needs the header Connection: Upgrade.")
    if (request.header("sec-websocket-version") or "").strip() != "13":
        raise HandshakeError(426, "Use version 13 of the WebSocket protocol.", {"Sec-WebSocket-Version": "13"})
    try:
        key = base64.b64decode(request.header("sec-websocket-key") or "", validate=True)
    except ValueError:  # not base64 (binascii.Error), or not even ASCII
        key = b""
    if len(key) != 16:
        raise HandshakeError(400, "Sec-WebSocket-Key must be 16 random bytes in base64.")


def _subprotocol(request: UpgradeRequest) -> str | None:
    """Ours if the client offers any. Raises: HandshakeError: 400, ours is not among those offered."""
    lines = request.lines("sec-websocket-protocol")
    if not lines:
        return None
    # aiohttp looks at one header line alone, and would log the others' tokens as protocols that it does not know.
    if len(lines) > 1 or SUBPROTOCOL not in request.items("sec-websocket-protocol"):
        raise HandshakeError(400, f"Offer {SUBPROTOCOL} in one Sec-WebSocket-Protocol header, or send no such header.")
    return SUBPROTOCOL


def _first_token(request: UpgradeRequest) -> str | None:
    header = request.header("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None
    for name in request.items("sec-websocket-protocol"):
        if name.startswith(BEARER_PROTOCOL):
            return name.removeprefix(BEARER_PROTOCOL)
    return request.parameter("token")


def _id_of(request: UpgradeRequest, name: str) -> str | None:
    value = request.parameter(name)
    if value is None:
        return None
    if not is_id(value):
        raise HandshakeError(400, f"{name} must be 1 to {MAX_ID_LENGTH} visible characters.")
    return value


def _lower(items: list[str]) -> list[str]:
    return [item.lower() for item in items]


def _bare_origin(origin: str) -> str:
    return origin.rstrip("/").lower()


_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/?#@\[\]]+?))\.?(?::[0-9]*)?")
"""RFC 9110, section 7.2: a name or an address, then perhaps a port."""


def _bare_host(host: str) -> str:
    """`Host` without port, brackets and a trailing dot, lower case; as it is if it is nothing of that."""
    host = host.strip().lower()
    found = _HOST.fullmatch(host)
    return host if found is None else found[1] or found[2]
