"""The opening handshake over aiohttp: an upgrade request becomes a `Connection`, before anything is kept for it.

The rules are those of `core.handshake`.
"""

import base64
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from answerback.core.handshake import (
    HandshakeError,
    Rules,
    UpgradeRequest,
    check_user,
    client_address,
    own_session_id,
    token_of,
    token_refused,
    tokens_unavailable,
    user_blocked,
    validate,
)
from answerback.ports import Connection, Identity, TokenRefused, Tokens, Unavailable

log = logging.getLogger("answerback.upgrade")


@dataclass(eq=False, kw_only=True)
class HandshakeValidator:
    """Validates upgrade requests. `tokens`: None if no token is asked for. `clock`: epoch milliseconds.

    `is_blocked`: whether the operator has locked a user out. May raise Unavailable.
    """

    rules: Rules
    tokens: Tokens | None
    clock: Callable[[], int]
    is_blocked: Callable[[str], Awaitable[bool]] | None = None
    node: str | None = None

    def __post_init__(self) -> None:
        self._suffix = "" if self.node is None else f"@{self.node}"
        self._last_connected_ms = 0
        self._has_warned = False

    def address(self, request: web.BaseRequest) -> str:
        """Whose request it is, also behind a proxy that is trusted."""
        items = UpgradeRequest(headers=request.headers.items(), query=()).items("x-forwarded-for")
        if items and self.tokens is None and not self._has_warned:
            self._has_warned = True
            log.warning(
                "a proxy passes requests on, and no tokens are asked for: who reaches the proxy can be any user"
            )
        return client_address(request.remote or "", items, self.rules.proxies)

    async def validate(self, request: web.BaseRequest) -> Connection:
        """The connection that this request may open. Raises: HandshakeError: it may open none."""
        upgrade = UpgradeRequest(method=request.method, headers=request.headers.items(), query=request.query.items())
        handshake = validate(upgrade, self.rules)
        user_id, expires_at_ms, team = handshake.user_id, None, None
        if self.tokens is not None:
            identity = await _identify(self.tokens, token_of(upgrade))
            check_user(upgrade, identity.user_id)
            user_id, expires_at_ms, team = identity.user_id, identity.expires_at_ms, identity.team
        if user_id is not None and self.is_blocked is not None and await _blocked(self.is_blocked, user_id):
            raise user_blocked()
        now_ms = self.clock()
        # The newer connection of a session wins: by the order here, also if two come in one millisecond or the clock
        # is set back. Else an app that reconnects would be sent away for good.
        self._last_connected_ms = max(now_ms, self._last_connected_ms + 1)
        return Connection(
            connection_id=new_connection_id() + self._suffix,
            session_id=handshake.session_id or own_session_id(secrets.token_urlsafe(16)),
            connected_at_ms=self._last_connected_ms,
            last_activity_ms=now_ms,
            user_id=user_id,
            authenticated=self.tokens is not None,
            token_expires_at_ms=expires_at_ms,
            team=team,
            source_ip=self.address(request),
            user_agent=handshake.user_agent,
        )


def error_response(error: HandshakeError) -> web.Response:
    """The HTTP answer to a request that opens no socket; the connection ends with it."""
    response = web.Response(status=error.status, text=error.text + "\n", headers=error.headers)
    response.force_close()
    return response


def new_connection_id() -> str:
    """An unguessable id in the form of API Gateway's: 16 characters, the last one `=`."""
    return base64.urlsafe_b64encode(secrets.token_bytes(11)).decode()


async def _blocked(is_blocked: Callable[[str], Awaitable[bool]], user_id: str) -> bool:
    """Raises: HandshakeError: 503."""
    try:
        return await is_blocked(user_id)
    except Unavailable:
        raise HandshakeError(
            503, "The gateway cannot read its store now. Try again later.", {"Retry-After": "5"}
        ) from None


async def _identify(tokens: Tokens, token: str) -> Identity:
    """Raises: HandshakeError: 401, 503."""
    try:
        return await tokens.identify(token)
    except TokenRefused as exc:
        log.info("a token was refused: %s", exc)
        raise token_refused() from None
    except Unavailable as exc:
        log.warning("a token cannot be checked: %s", exc)
        raise tokens_unavailable() from None
