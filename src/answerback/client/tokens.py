"""Bearer tokens: a fixed one, or a function that gets a fresh one."""

import base64
import binascii
import inspect
import json
import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A token, or a function (plain or async) that returns a fresh one; it is called for every connect and renewal."""


_AROUND: Final = re.compile(r"^[\ufeff \t\r\n]*(bearer[ \t]+)?|[\ufeff \t\r\n]+$", re.IGNORECASE)
"""Blanks, the mark of a file, and the scheme of a header that was copied whole."""


class TokenSource:
    """Gets tokens and remembers until when the last one holds."""

    def __init__(self, token: Token | None) -> None:
        self._token = token
        self._expires_at_s: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is a token at all."""
        return self._token is not None

    @property
    def can_renew(self) -> bool:
        """Whether a fresh one can be had."""
        return callable(self._token)

    async def get(self) -> str | None:
        """The token to show now, without what a file or a header has around it; None: there is none.

        Whatever the app's function raises is passed on.
        """
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        return _AROUND.sub("", token or "") or None

    def adopted(self, token: str | None) -> None:
        """The server has accepted this token."""
        self._expires_at_s = None if token is None else expires_at_s(token)

    def is_due(self, *, wall_s: float, before_s: float) -> bool:
        """Whether it is time to renew. `wall_s`: epoch seconds."""
        return self.can_renew and self._expires_at_s is not None and wall_s >= self._expires_at_s - before_s


def expires_at_s(token: str) -> float | None:
    """`exp` of a JWT in epoch seconds, unverified: it only says when to renew. None: not a JWT, or no `exp`."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expiry = claims.get("exp") if isinstance(claims, dict) else None
        return float(expiry) if isinstance(expiry, int | float) and not isinstance(expiry, bool) else None
    except (binascii.Error, ValueError, OverflowError, RecursionError):
        return None
