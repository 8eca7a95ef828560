"""What an upgrade request says, as API Gateway hands it to the authorizer and to `$connect`."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from answerback.protocol.frames import VISIBLE
from answerback.protocol.limits import MAX_ID_LENGTH, SUBPROTOCOL

BEARER_PROTOCOL: Final = "bearer."

_IS_VISIBLE: Final = re.compile(VISIBLE)


class BadHandshake(Exception):
    """The request cannot be served; the text says what to do, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """The headers (names in lower case) and the query of one upgrade request."""

    headers: Mapping[str, str]
    query: Mapping[str, str]

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> "Handshake":
        """Of an event; API Gateway leaves out what is empty, or says null."""
        headers = event.get("headers") or {}
        return cls({name.lower(): value for name, value in headers.items()}, event.get("queryStringParameters") or {})

    @property
    def offered(self) -> list[str]:
        """The subprotocols that the client offers."""
        names = self.headers.get("sec-websocket-protocol", "").split(",")
        return [name.strip() for name in names if name.strip()]

    @property
    def token(self) -> str | None:
        """The token: of the header, else of the subprotocols, else of the query."""
        header = self.headers.get("authorization")
        if header is not None:
            scheme, _, token = header.partition(" ")
            return (token.strip() or None) if scheme.lower() == "bearer" else None
        for name in self.offered:
            if name.startswith(BEARER_PROTOCOL):
                return name.removeprefix(BEARER_PROTOCOL) or None
        return self.query.get("token") or None

    def is_admitted(self, allow_origins: Collection[str]) -> bool:
        """Whether it comes from an app, which says no `Origin`, or from a web page of the list.

        A browser says of every page whose it is, and no page can forge that.
        """
        origin = self.headers.get("origin")
        return origin is None or origin.rstrip("/").lower() in allow_origins

    def id_of(self, name: str) -> str | None:
        """An id of the query. Raises: BadHandshake."""
        value = self.query.get(name)
        if value is None:
            return None
        if not 1 <= len(value) <= MAX_ID_LENGTH or not _IS_VISIBLE.match(value):
            raise BadHandshake(f"{name} must be 1 to {MAX_ID_LENGTH} visible characters.")
        return value

    def subprotocol(self) -> str | None:
        """The one to answer with. Raises: BadHandshake: ours is not among those offered."""
        if not self.offered:
            return None
        if SUBPROTOCOL not in self.offered:
            raise BadHandshake(f"Offer the subprotocol {SUBPROTOCOL}, or none.")
        return SUBPROTOCOL
