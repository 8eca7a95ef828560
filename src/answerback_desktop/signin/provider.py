"""The identity provider: what it says about itself, and its token endpoint. Blocking; run it in a thread."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import jwt

from answerback.outbound import CaFileError, ProxyError, fetch
from answerback_desktop.settings import is_issuer

log = logging.getLogger("answerback.desktop.signin")

TIMEOUT_S: Final = 10.0
_BYTES: Final = 1 << 20
_ALGORITHMS: Final = ("RS256", "ES256", "PS256", "EdDSA")
"""Of id tokens; never `none`, and never a shared secret: this client has none."""
_LEEWAY_S: Final = 120.0
_NOT_AGAIN: Final = frozenset({"invalid_grant", "invalid_client", "unauthorized_client", "access_denied"})


class SignInFailure(StrEnum):
    """A closed list; the texts are the language tables'."""

    UNREACHABLE = "unreachable"
    """The identity provider does not answer."""
    BAD_PROVIDER = "bad-provider"
    """What answers at the issuer's URL is no OpenID provider, or not that one."""
    DENIED = "denied"
    """The person, or the provider, said no in the browser."""
    REFUSED = "refused"
    """The provider does not give tokens to this client: its id or redirect URI may not be registered."""
    BAD_TOKEN = "bad-token"  # noqa: S105 - the name of a failure
    """The provider's id token does not hold."""
    TIMEOUT = "timeout"
    """Nobody signed in in the browser."""


class SignInError(Exception):
    """Signing in, or getting a fresh token, did not work. `is_final`: the person has to sign in again."""

    def __init__(self, failure: SignInFailure, *, is_final: bool = True) -> None:
        super().__init__(failure.value)
        self.failure = failure
        self.is_final = is_final


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """From its discovery document (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the token endpoint gave. `access_token` is for the server; `lifetime_s` None: not said."""

    access_token: str
    lifetime_s: float | None
    refresh_token: str | None
    id_token: str | None


def discover(issuer: str) -> Provider:
    """Raises: SignInError."""
    found = _json(issuer.rstrip("/") + "/.well-known/openid-configuration")
    fields = [found.get(name) for name in ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")]
    match fields:
        case [str(name), str(authorization), str(token), str(keys)] if all(
            map(is_issuer, (authorization, token, keys))
        ) and name.rstrip("/") == issuer.rstrip("/"):
            return Provider(issuer=name, authorization_endpoint=authorization, token_endpoint=token, jwks_uri=keys)
        case _:
            raise SignInError(SignInFailure.BAD_PROVIDER)


def exchange(provider: Provider, *, client_id: str, code: str, verifier: str, redirect_uri: str) -> Grant:
    """The code of the redirect for tokens (RFC 6749, section 4.1.3; RFC 7636, section 4.5). Raises: SignInError."""
    return _token(
        provider,
        {
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": redirect_uri,
        },
    )


def refresh(provider: Provider, *, client_id: str, refresh_token: str) -> Grant:
    """RFC 6749, section 6. Raises: SignInError; not final if the provider cannot be reached."""
    return _token(provider, {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": refresh_token})


def subject_of(provider: Provider, id_token: str, *, client_id: str, nonce: str) -> tuple[str, str | None]:
    """Check an id token (OpenID Connect Core, section 3.1.3.7). Returns the subject and a name to show.

    Raises: SignInError.
    """
    try:
        keys = jwt.PyJWKSet.from_dict(_json(provider.jwks_uri))
        header = jwt.get_unverified_header(id_token)
        key = next(key for key in keys.keys if header.get("kid") in (None, key.key_id))
        claims = jwt.decode(
            id_token,
            key,
            algorithms=list(_ALGORITHMS),
            audience=client_id,
            issuer=provider.issuer,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "iat", "sub"]},
        )
    except (jwt.PyJWTError, StopIteration, ValueError, TypeError) as exc:
        raise SignInError(SignInFailure.BAD_TOKEN) from exc
    subject, name = claims["sub"], claims.get("name") or claims.get("preferred_username") or claims.get("email")
    if claims.get("nonce") != nonce or claims.get("azp", client_id) != client_id or not isinstance(subject, str):
        raise SignInError(SignInFailure.BAD_TOKEN)
    return subject, name if isinstance(name, str) else None


def _token(provider: Provider, form: Mapping[str, str]) -> Grant:
    found = _json(provider.token_endpoint, data=urlencode(form).encode())
    access_token, kind = found.get("access_token"), found.get("token_type")
    if not isinstance(access_token, str) or not isinstance(kind, str) or kind.lower() != "bearer":
        raise SignInError(SignInFailure.REFUSED)
    lifetime, fresh, id_token = (found.get(name) for name in ("expires_in", "refresh_token", "id_token"))
    return Grant(
        access_token=access_token,
        lifetime_s=float(lifetime) if isinstance(lifetime, int | float) and not isinstance(lifetime, bool) else None,
        refresh_token=fresh if isinstance(fresh, str) and fresh else None,
        id_token=id_token if isinstance(id_token, str) else None,
    )


def _json(url: str, *, data: bytes | None = None) -> dict[str, Any]:
    """What the provider says. A redirect is a refusal: it would take the code or the refresh token along."""
    headers = {"Accept": "application/json"}
    if data is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    try:
        status, body = fetch(url, data=data, headers=headers, timeout_s=TIMEOUT_S, max_bytes=_BYTES)
    except (OSError, ProxyError, CaFileError) as exc:
        log.warning("the sign-in service cannot be reached: %s", exc)
        raise SignInError(SignInFailure.UNREACHABLE, is_final=False) from exc
    if status >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS:
        raise SignInError(SignInFailure.UNREACHABLE, is_final=False)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise SignInError(SignInFailure.BAD_PROVIDER, is_final=False) from exc
    if not isinstance(found, dict):
        raise SignInError(SignInFailure.BAD_PROVIDER, is_final=False)
    if status != HTTPStatus.OK:  # RFC 6749, section 5.2
        raise SignInError(SignInFailure.REFUSED, is_final=found.get("error") in _NOT_AGAIN)
    return found
