"""Verifies bearer tokens: a JSON Web Token becomes the user that a connection speaks for.

There are two ways, never both. A shared secret (HS256) is for development and one team. The public keys of an identity
provider (a JWKS, RS256 and ES256) are for everything else. The algorithm follows from the key, never from the token: a
token that says `none`, or HS256 where public keys are configured, is refused before anything is computed with it.
"""

import asyncio
import base64
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol

import jwt
from jwt import PyJWK
from jwt.types import Options

from answerback.core import defaults
from answerback.core.keys import normal_id
from answerback.outbound import fetch
from answerback.ports import Identity, TokenRefused, Unavailable
from answerback.protocol.frames import is_id
from answerback.protocol.limits import MAX_ID_LENGTH
from answerback.tasks import Tasks

log = logging.getLogger("answerback.auth")

MIN_SECRET_BYTES: Final = 32
"""An HS256 key shorter than its hash can be guessed off line from one token (RFC 7518, section 3.2)."""

MAX_TOKEN_LENGTH: Final = 8_000
"""A request line or header of more than 8,190 bytes is refused before a token is looked at."""

REFRESH_AFTER_S: Final = 3600.0
"""Fetched keys are fetched again after this; until that succeeds the old ones hold."""

REFETCH_PAUSE_S: Final = 30.0
"""Between two fetches, whatever tokens ask for: an unknown key id must not make us flood the provider."""

MAX_ASKED_FOR: Final = 1_000
"""Unknown key ids that are remembered until the next fetch: anybody can make them up."""

FETCH_TIMEOUT_S: Final = 5.0
"""For a fetch in all, and the time after which a connection to one address is given up."""

MAX_JWKS_BYTES: Final = 1024 * 1024

_ALGORITHM_OF_KEY: Final = {"RSA": "RS256", "EC": "ES256"}


class AuthError(Exception):
    """Authentication is set up in a way that cannot work; the text says what to do."""


class Keys(Protocol):
    """Where the key of a token comes from."""

    async def key_of(self, kid: str | None) -> PyJWK | None:
        """The key of this id, or the only one if the token names none. Raises: Unavailable."""

    async def close(self) -> None:
        """Stop what runs behind."""


class JwtTokens:
    """`ports.Tokens` by JSON Web Tokens. `exp` is required; `iss` and `aud` are checked if they are given here."""

    def __init__(
        self,
        *,
        secret: str | None = None,
        keys: Keys | None = None,
        issuer: str | None = None,
        audience: str | None = None,
        user_claim: str = defaults.USER_CLAIM,
        team_claim: str | None = None,
        leeway_s: int = defaults.LEEWAY_S,
    ) -> None:
        if (secret is None) == (keys is None):
            raise AuthError("Set either a token secret or a JWKS, not both and not neither.")
        self._secret = None if secret is None else check_secret(secret).encode()
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._user_claim = user_claim
        self._team_claim = team_claim
        self._leeway_s = leeway_s

    async def identify(self, token: str) -> Identity:
        """The user of a token. Raises: TokenRefused; Unavailable: the keys cannot be fetched now."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise TokenRefused("the token is too long")
        if not token.isascii():
            raise TokenRefused("not a token: it is not ASCII")
        if not all(map(_is_base64url, token.split("."))):
            raise TokenRefused("not a token: it is not base64url")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, RecursionError) as exc:  # nested too deeply, for PyJWT 2.10
            raise TokenRefused(f"not a token: {type(exc).__name__}") from None
        key, algorithm = await self._key_for(header)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_s,
                options={**_CHECKS, "verify_aud": self._audience is not None},
            )
        except (jwt.PyJWTError, OverflowError) as exc:  # an infinite time, for PyJWT 2.10
            raise TokenRefused(_reason(exc)) from None
        return self._identity(claims)

    async def close(self) -> None:
        if self._keys is not None:
            await self._keys.close()

    async def _key_for(self, header: Mapping[str, Any]) -> tuple[Any, str]:
        """The key, and the one algorithm that it is for."""
        if self._secret is not None:
            if header.get("alg") != "HS256":
                raise TokenRefused("the algorithm is not HS256")
            return self._secret, "HS256"
        if header.get("alg") not in _ALGORITHM_OF_KEY.values():
            raise TokenRefused("the algorithm is neither RS256 nor ES256")
        kid = header.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise TokenRefused("the key id is not a string")
        key = None if self._keys is None else await self._keys.key_of(kid)
        if key is None:
            raise TokenRefused("no key has this id")
        algorithm = _ALGORITHM_OF_KEY[key.key_type or ""]
        if header["alg"] != algorithm:
            raise TokenRefused("the algorithm is not that of the key")
        return key, algorithm

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        user_id = claims.get(self._user_claim)
        if not is_id(user_id):
            raise TokenRefused(f"the claim {self._user_claim} is not a user id")
        exp = claims["exp"]
        # PyJWT takes whatever Python can make an integer of.
        if isinstance(exp, bool) or not isinstance(exp, int | float) or exp >= 2**53:
            raise TokenRefused("the claim exp is not a time")
        team = None if self._team_claim is None else claims.get(self._team_claim)
        if team is not None and not is_id(team):
            raise TokenRefused(f"the claim {self._team_claim} is not a team")
        return Identity(
            normal_id(user_id), (int(exp) + self._leeway_s) * 1000, team=None if team is None else normal_id(team)
        )


_CHECKS: Final[Options] = {"require": ["exp"], "verify_iat": False, "verify_sub": False, "verify_jti": False}
"""A token may be issued by a clock that is ahead, and its user may stand in another claim than `sub`."""

_REASONS: Final[Mapping[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not valid yet",
    jwt.InvalidIssuerError: "another issuer",
    jwt.InvalidAudienceError: "another audience",
}


def _is_base64url(part: str) -> bool:
    """Whether this is the one spelling of some bytes: no padding, and no bits behind the last byte (RFC 7515, 2)."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return False
    return base64.urlsafe_b64encode(data).rstrip(b"=") == part.encode()


def _reason(error: Exception) -> str:
    """Why a token is refused, for the operator's log."""
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"there is no {error.claim} claim"
    return _REASONS.get(type(error), f"not accepted: {type(error).__name__}")


class FileKeys:
    """`Keys` from a JWKS file, which is read once."""

    def __init__(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise AuthError(f"The JWKS file {path} cannot be read: {exc.strerror}.") from None
        try:
            self._keys = read_jwks(content.decode())
        except ValueError as exc:
            raise AuthError(f"The JWKS file {path} cannot be used: {exc}.") from None

    async def key_of(self, kid: str | None) -> PyJWK | None:
        return _pick(self._keys, kid)

    async def close(self) -> None:
        """Nothing is open."""


class FetchedKeys:
    """`Keys` from a JWKS URL, fetched when first needed and later again in the background.

    A key id that is not known causes one fetch, but not more than one in REFETCH_PAUSE_S. While the URL is down the
    keys fetched before hold. `fetch` returns the JSON text; it may raise anything.

    An id is refused only when a fetch since it was first seen has not brought it. Until then it may be of a key that is
    new: somebody else's token, with any id, may have used up the one fetch.
    """

    def __init__(self, fetch: Callable[[], Awaitable[str]], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: Mapping[str, PyJWK] = {}
        self._asked_for: dict[str | None, None] = {}
        self._missing: set[str | None] = set()
        self._fetched_at = 0.0
        self._tried_at: float | None = None
        self._tasks = Tasks()
        self._fetching: asyncio.Task[None] | None = None

    async def key_of(self, kid: str | None) -> PyJWK | None:
        """Raises: Unavailable: whether there is such a key is not known now."""
        key = _pick(self._keys, kid)
        if key is None:
            self._asked_for[kid] = None
            if len(self._asked_for) > MAX_ASKED_FOR:
                del self._asked_for[next(iter(self._asked_for))]
            # Callers wait together for one fetch; that one of them goes away must not stop it.
            if (fetching := self._start_fetching()) is not None:
                await asyncio.shield(fetching)
            key = _pick(self._keys, kid)
            if key is None and kid not in self._missing:
                raise Unavailable("the keys of tokens cannot be fetched now")
        elif self._monotonic() - self._fetched_at >= REFRESH_AFTER_S:
            self._start_fetching()
        return key

    async def close(self) -> None:
        await self._tasks.settle(grace_s=0)

    def _start_fetching(self) -> asyncio.Task[None] | None:
        """The fetch that runs, or a new one if it is time for one."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now = self._monotonic()
        if self._tried_at is not None and now - self._tried_at < REFETCH_PAUSE_S:
            return None
        self._tried_at = now
        self._fetching = self._tasks.start(self._refresh(), name="fetch the keys of tokens")
        return self._fetching

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                keys = read_jwks(await self._fetch())
            self._missing = {*self._asked_for, *self._keys} - set(keys)
            self._asked_for.clear()
            self._keys = keys
            self._fetched_at = self._monotonic()
        except Exception as exc:
            log.warning("the keys of tokens could not be fetched: %s: %s", type(exc).__name__, exc)


def fetched_keys(url: str) -> FetchedKeys:
    """The keys at an `https` URL (or `http` on this machine). Raises: AuthError: another kind of URL."""
    if not re.match(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/]", url):
        raise AuthError("The JWKS URL must begin with https://: anybody who can change the keys can be any user.")

    async def fetch() -> str:
        return await asyncio.to_thread(_get, url)

    return FetchedKeys(fetch)


def _get(url: str) -> str:
    status, body = fetch(url, timeout_s=FETCH_TIMEOUT_S, max_bytes=MAX_JWKS_BYTES)
    if status != HTTPStatus.OK:
        raise ValueError(f"status {status}")
    return body.decode()


def read_jwks(text: str) -> Mapping[str, PyJWK]:
    """The RSA and P-256 signing keys of a JWKS by key id ('' if one has none); others are left out.

    Raises: ValueError: not a JWKS, or none of its keys can be used.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError('it is not a JSON object with a list "keys"')
    found: dict[str, PyJWK] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        kind = entry.get("kty")
        if kind == "RSA" or (kind == "EC" and entry.get("crv") == "P-256"):
            try:
                found[str(entry.get("kid", ""))] = PyJWK(_public(entry), algorithm=_ALGORITHM_OF_KEY[kind])
            except (jwt.PyJWTError, ValueError):
                log.warning("a key of the JWKS cannot be read and is left out")
    if not found:
        raise ValueError("it has no RSA or P-256 signing key")
    return found


def check_secret(secret: str) -> str:
    """The secret itself. Raises: AuthError: it is too short."""
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise AuthError(
            f"The token secret has {len(secret.encode())} bytes; it needs at least {MIN_SECRET_BYTES}. "
            'Make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return secret


def make_token(
    user_id: str,
    *,
    secret: str,
    ttl_s: int,
    issuer: str | None = None,
    audience: str | None = None,
    user_claim: str = defaults.USER_CLAIM,
    now_s: float | None = None,
) -> str:
    """A development token (HS256) for a user, valid for `ttl_s` seconds from `now_s` (epoch; None: now).

    Raises: AuthError: the secret is too short, or the user id is not one.
    """
    if not is_id(user_id):
        raise AuthError(f"A user id is 1 to {MAX_ID_LENGTH} visible characters.")
    issued_at = int(time.time() if now_s is None else now_s)
    claims: dict[str, Any] = {user_claim: user_id, "iat": issued_at, "exp": issued_at + ttl_s}
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience
    return jwt.encode(claims, check_secret(secret), algorithm="HS256")


def _pick(keys: Mapping[str, PyJWK], kid: str | None) -> PyJWK | None:
    if kid is not None:
        return keys.get(kid)
    return next(iter(keys.values())) if len(keys) == 1 else None


def _public(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Without private parts, should somebody have put them there."""
    return {name: entry[name] for name in ("kty", "crv", "x", "y", "n", "e", "kid") if name in entry}
