"""Keeps a person signed in: refreshes access tokens for as long as the provider allows."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from answerback_desktop.signin.browser import ask_in_browser
from answerback_desktop.signin.provider import (
    Grant,
    Provider,
    SignInError,
    SignInFailure,
    discover,
    exchange,
    refresh,
    subject_of,
)

_EARLY_S: Final = 90.0
"""A token that ends so soon is renewed before it is used: the client renews a minute before the end."""
_LIFETIME_S: Final = 300.0
"""Of a token of which nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who is signed in, and how to get tokens for them. The keyring's entry: nothing else is written anywhere."""

    subject: str
    name: str | None
    refresh_token: str | None

    def encoded(self) -> str:
        """As text for the keyring."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decoded(cls, text: str) -> "Identity | None":
        """What `encoded` made; None: it is something else."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError:
            return None


async def sign_in(
    issuer: str, client_id: str, scopes: tuple[str, ...], *, show: Callable[[str], object]
) -> tuple[Identity, Grant]:
    """In the browser. Raises: SignInError."""
    provider = await asyncio.to_thread(discover, issuer)
    returned = await ask_in_browser(provider, client_id=client_id, scopes=scopes, show=show)
    grant = await asyncio.to_thread(
        exchange,
        provider,
        client_id=client_id,
        code=returned.code,
        verifier=returned.verifier,
        redirect_uri=returned.redirect_uri,
    )
    if grant.id_token is None:
        raise SignInError(SignInFailure.BAD_TOKEN)
    subject, name = await asyncio.to_thread(
        subject_of, provider, grant.id_token, client_id=client_id, nonce=returned.nonce
    )
    return Identity(subject=subject, name=name, refresh_token=grant.refresh_token), grant


class TokenSource:
    """The client's token function. `on_rotated` gets the identity when the provider gave another refresh token."""

    def __init__(
        self,
        identity: Identity,
        grant: Grant | None,
        *,
        issuer: str,
        client_id: str,
        monotonic: Callable[[], float],
        on_rotated: Callable[[Identity], None],
        on_failure: Callable[[SignInError], None],
    ) -> None:
        self.identity = identity
        self._issuer = issuer
        self._client_id = client_id
        self._monotonic = monotonic
        self._on_rotated = on_rotated
        self._on_failure = on_failure
        self._lock = asyncio.Lock()
        self._provider: Provider | None = None
        self._access_token = ""
        self._good_until = 0.0
        if grant is not None:
            self._take(grant)

    async def __call__(self) -> str:
        """A token that holds for a while. Raises: SignInError, after `on_failure` got it."""
        async with self._lock:
            if not self._access_token or self._monotonic() >= self._good_until:
                try:
                    await self._refresh()
                except SignInError as exc:
                    self._on_failure(exc)
                    raise
            return self._access_token

    def invalidate(self) -> None:
        """The server does not accept the token: get a fresh one the next time."""
        self._access_token = ""

    async def _refresh(self) -> None:
        token = self.identity.refresh_token
        if token is None:
            raise SignInError(SignInFailure.REFUSED)
        if self._provider is None:
            self._provider = await asyncio.to_thread(discover, self._issuer)
        grant = await asyncio.to_thread(refresh, self._provider, client_id=self._client_id, refresh_token=token)
        self._take(grant)
        if grant.refresh_token is not None and grant.refresh_token != token:
            self.identity = replace(self.identity, refresh_token=grant.refresh_token)
            self._on_rotated(self.identity)

    def _take(self, grant: Grant) -> None:
        lifetime_s = _LIFETIME_S if grant.lifetime_s is None else grant.lifetime_s
        self._access_token = grant.access_token
        self._good_until = self._monotonic() + max(lifetime_s - _EARLY_S, lifetime_s / 2)
