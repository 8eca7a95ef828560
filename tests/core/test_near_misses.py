"""Every secret and every list of what is allowed is compared whole, not by its beginning, end, part or letter case."""

import base64
import time
import warnings
from typing import Any

import jwt
import pytest

from answerback.auth import FileKeys, JwtTokens, make_token
from answerback.core.handshake import (
    HandshakeError,
    Hosts,
    Rules,
    UpgradeRequest,
    check_page,
    check_user,
    origins,
    validate,
)
from answerback.gateway.admin_key import AdminKey
from answerback.ports import TokenRefused
from answerback.protocol.limits import SUBPROTOCOL
from near_misses import near_misses

ORIGIN, HOST, KEY = "https://app.example", "named.example", "0123456789-abcdefghijklmnopqrstuvwxyz_ABCDE"
SECRET, ISSUER, AUDIENCE = "a secret of thirty-two characters", "https://id.example/pool", "answerback"


def is_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip()


def refuses(**headers: str) -> bool:
    request = UpgradeRequest(headers={"Host": HOST, **headers}.items(), query=())
    try:
        check_page(request, Rules(hosts=Hosts.of("127.0.0.1", (HOST,)), allow_origins=origins([ORIGIN])))
    except HandshakeError as error:
        return error.status == 403
    return False


def is_another_origin(text: str) -> bool:
    return text.lower().rstrip("/") != ORIGIN


@pytest.mark.parametrize("origin", near_misses(ORIGIN, is_legal=is_another_origin))
def test_an_origin_is_allowed_whole(origin: str) -> None:
    assert not refuses(Origin=ORIGIN)
    assert refuses(Origin=origin)


def is_another_host(text: str) -> bool:
    return text.lower().removesuffix(":1").removesuffix(".") != HOST


@pytest.mark.parametrize(
    "host", [*near_misses(HOST, is_legal=is_another_host), "[::1]evil.example", "127.0.0.1:1:2", "a b"]
)
def test_a_host_is_known_whole(host: str) -> None:
    assert not refuses(Host=HOST + ":8765")
    assert refuses(Host=host)


@pytest.mark.parametrize("key", near_misses(KEY, is_legal=lambda text: text.strip() != KEY))
def test_the_admin_key_opens_whole(key: str) -> None:
    door = AdminKey(KEY)
    for shown, is_right in ((KEY, True), (key, False)):
        basic = base64.b64encode(f"user:{shown}".encode()).decode()
        assert door.opens(f"Bearer {shown}") is is_right
        assert door.opens(f"Basic {basic}") is is_right
        if is_right or "/" not in shown:  # which ends a key in a signature
            assert door.opens(f"AWS4-HMAC-SHA256 Credential={shown}/20260101/local/x/aws4_request") is is_right


def test_no_key_is_no_key() -> None:
    with pytest.raises(ValueError, match="empty"):
        AdminKey("")
    door = AdminKey(KEY)
    for header in (None, "", "Bearer", "Bearer ", "Basic ", "Basic Og==", KEY, f"Token {KEY}"):
        assert not door.opens(header)


def signed(secret: str = SECRET, **changes: Any) -> str:
    claims = {"sub": "ann", "exp": int(time.time()) + 86_400, "iss": ISSUER, "aud": AUDIENCE, **changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of short secrets
        return jwt.encode(claims, secret, algorithm="HS256")


async def refused(token: str) -> bool:
    try:
        await JwtTokens(secret=SECRET, issuer=ISSUER, audience=AUDIENCE).identify(token)
    except TokenRefused:
        return True
    return False


@pytest.mark.parametrize("secret", near_misses(SECRET))
async def test_a_secret_signs_whole(secret: str) -> None:
    assert not await refused(signed())
    assert await refused(signed(secret or "x"))


async def test_a_token_has_one_spelling() -> None:
    token = signed()
    assert not await refused(token)
    head, claims, signature = token.split(".")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = [f"{token[:-1]}{letter}" for letter in letters if letter != token[-1]]
    padded = [f"{token}=", f"{token}==", f"{head}=.{claims}.{signature}", f"{head}.{claims}=.{signature}", f"{token}\n"]
    for other in (*last, *padded, f"{token}.", f".{token}", f"{head}.{claims}.", f"{token[:50]}+{token[50:]}"):
        assert await refused(other), other


@pytest.mark.parametrize("issuer", near_misses(ISSUER))
async def test_an_issuer_is_pinned_whole(issuer: str) -> None:
    assert await refused(signed(iss=issuer))


@pytest.mark.parametrize("audience", near_misses(AUDIENCE))
async def test_an_audience_is_pinned_whole(audience: str) -> None:
    assert await refused(signed(aud=audience))
    assert await refused(signed(aud=[audience]))
    assert await refused(signed(aud=[audience, f"{audience}2"]))
    assert not await refused(signed(aud=[audience, AUDIENCE]))


@pytest.mark.parametrize("kid", near_misses("key-1"))
async def test_a_key_is_named_whole(kid: str, tmp_path: Any) -> None:
    path = tmp_path / "jwks.json"
    path.write_text('{"keys": [{"kty": "RSA", "kid": "key-1", "n": "%s", "e": "AQAB"}]}' % ("w" * 342 + "Q"))
    keys = FileKeys(path)
    assert await keys.key_of("key-1") is not None
    assert await keys.key_of(kid) is None


@pytest.mark.parametrize("user", near_misses("ann"))
def test_the_user_of_the_url_is_the_token_s_whole(user: str) -> None:
    check_user(UpgradeRequest(headers=(), query=[("userId", "ann")]), "ann")
    with pytest.raises(HandshakeError):
        check_user(UpgradeRequest(headers=(), query=[("userId", user)]), "ann")


@pytest.mark.parametrize("name", near_misses(SUBPROTOCOL, is_legal=is_header))
def test_our_subprotocol_is_offered_whole(name: str) -> None:
    request = UpgradeRequest(headers=[("Sec-WebSocket-Protocol", name)], query=())
    with pytest.raises(HandshakeError):
        validate(request, Rules())


async def test_a_token_that_never_expires_can_be_shown() -> None:
    from answerback.core.instants import iso

    token = make_token("ann", secret=SECRET, ttl_s=2**53 - 2, now_s=0, issuer=ISSUER, audience=AUDIENCE)
    identity = await JwtTokens(secret=SECRET, issuer=ISSUER, audience=AUDIENCE).identify(token)
    assert identity.expires_at_ms is not None
    assert iso(identity.expires_at_ms) == "9999-12-31T23:59:59.000Z"
