"""Finds the account that the settings name, and its credentials."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Final

import jwt

from answerback.client import is_id
from answerback.tasks import Tasks
from answerback_desktop.engine.account import Login
from answerback_desktop.engine.environment import Environment
from answerback_desktop.engine.events import Event, NoticeCode, NoticeRaised, SignInChanged, SignInStatus
from answerback_desktop.records import Account
from answerback_desktop.settings import AuthMode, Settings
from answerback_desktop.signin.provider import Grant, SignInError
from answerback_desktop.signin.session import Identity, TokenSource, sign_in

log = logging.getLogger("answerback.desktop")

ANONYMOUS: Final = "anonymous"
"""Whom a server without authentication takes an app for that names nobody."""


def account_of(server_url: str, user: str) -> Account:
    """Data of two servers or two users never meet: each pair has a file of its own."""
    digest = hashlib.sha256()
    for part in (server_url, user):
        digest.update(f"{len(part.encode())}:".encode() + part.encode())
    return Account(key=digest.hexdigest()[:32], server_url=server_url, user=user)


def is_same_login(one: Settings, other: Settings) -> bool:
    """Whether both speak to one server as one user."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("server_url", "auth", "user", "oidc_issuer", "oidc_client_id", "oidc_scopes")
    )


class Logins:
    """Knows who is signed in; the keyring is asked in a thread, since it may ask the person something."""

    def __init__(
        self, environment: Environment, emit: Callable[[Event], None], on_failure: Callable[[SignInError], None]
    ) -> None:
        self._environment = environment
        self._emit = emit
        self._on_failure = on_failure
        self._keeping = Tasks()

    async def login(self, settings: Settings) -> Login | None:
        """None: nobody is signed in."""
        match settings.auth:
            case AuthMode.NONE:
                self._emit(SignInChanged(status=SignInStatus.NOT_NEEDED))
                account = account_of(settings.server_url, settings.user or ANONYMOUS)
                return Login(account=account, user=settings.user or None)
            case AuthMode.TOKEN:
                return await self._by_token(settings)
            case AuthMode.OIDC:
                kept = await asyncio.to_thread(self._environment.vault.get, self._name(settings))
                identity = None if kept is None else Identity.decoded(kept)
                if identity is None:
                    self._emit(SignInChanged(status=SignInStatus.SIGNED_OUT))
                    return None
                return self._signed_in(settings, identity, None)

    async def sign_in(self, settings: Settings) -> Login:
        """In the browser. Raises: SignInError."""

        def show(url: str) -> None:
            self._emit(SignInChanged(status=SignInStatus.WAITING_FOR_BROWSER, url=url))
            self._environment.open_browser(url)

        identity, grant = await sign_in(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_scopes, show=show)
        await self._keep(self._name(settings), identity.encoded())
        return self._signed_in(settings, identity, grant)

    async def keep_token(self, settings: Settings) -> None:
        """A development token out of the settings dialog."""
        await self._keep(self._name(settings), settings.token)

    async def forget(self, settings: Settings) -> None:
        """Sign out."""
        await asyncio.to_thread(self._environment.vault.forget, self._name(settings))
        self._emit(SignInChanged(status=SignInStatus.SIGNED_OUT))

    async def settle(self) -> None:
        """Wait for what is still being written to the keyring."""
        await self._keeping.settle(grace_s=None)

    async def _by_token(self, settings: Settings) -> Login | None:
        token = await asyncio.to_thread(self._environment.vault.get, self._name(settings))
        if token is None:
            self._emit(SignInChanged(status=SignInStatus.SIGNED_OUT))
            return None
        user = user_of(token)
        self._emit(SignInChanged(status=SignInStatus.SIGNED_IN, user=user))
        return Login(account=account_of(settings.server_url, user), token=token)

    def _signed_in(self, settings: Settings, identity: Identity, grant: Grant | None) -> Login:
        token_source = TokenSource(
            identity,
            grant,
            issuer=settings.oidc_issuer,
            client_id=settings.oidc_client_id,
            monotonic=time.monotonic,
            on_rotated=lambda rotated: self._keep_soon(self._name(settings), rotated.encoded()),
            on_failure=self._on_failure,
        )
        self._emit(SignInChanged(status=SignInStatus.SIGNED_IN, user=identity.name or identity.subject))
        return Login(account=account_of(settings.server_url, identity.subject), token=token_source)

    def _keep_soon(self, name: str, secret: str) -> None:
        self._keeping.start(self._keep(name, secret), name="keyring")

    async def _keep(self, name: str, secret: str) -> None:
        if not await asyncio.to_thread(self._environment.vault.set, name, secret):
            self._emit(NoticeRaised(code=NoticeCode.NO_KEYRING))

    def _name(self, settings: Settings) -> str:
        profile = self._environment.profile.name
        if settings.auth is AuthMode.OIDC:
            return f"{profile} oidc {settings.oidc_issuer} {settings.oidc_client_id}"
        return f"{profile} token {settings.server_url}"


def user_of(token: str) -> str:
    """Whose token it is, unverified: it only names the local file. The server decides who may do what."""
    try:
        subject = jwt.decode(token, options={"verify_signature": False, "verify_exp": False, "verify_aud": False})[
            "sub"
        ]
    except (jwt.PyJWTError, KeyError, ValueError):
        subject = None
    if isinstance(subject, str) and is_id(subject):
        return subject
    return "token-" + hashlib.sha256(token.encode()).hexdigest()[:16]
