"""Targets `tokens` and `admin_key`: what a peer shows to be let in."""

import base64
import hashlib
import hmac
import time

from answerback.auth import JwtTokens
from answerback.gateway.admin_key import AdminKey
from answerback.ports import Identity, TokenRefused
from harness.memory import play
from harness.reading import Script

SECRET = "a secret of more than thirty-two bytes"
ADMIN_KEY = "admin-key-0123456789-0123456789-0123456789"


def signed(header: bytes, claims: bytes, *, secret: str = SECRET) -> str:
    """A token of these two JSON texts, or of whatever they are."""
    body = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims))
    mac = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    return (body + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def tokens(data: bytes) -> None:
    """A token of ours names its user or is refused; any other is refused; nothing else is raised."""
    script = Script(data)
    mode = script.byte() % 3
    if mode == 0:
        token = script.rest().decode("utf-8", "surrogateescape")
    else:
        header = script.block()
        token = signed(header, script.rest(), secret=SECRET if mode == 1 else SECRET[::-1])
    identity = play(lambda _: _identify(token))
    if identity is not None:
        assert mode == 1 or token.rpartition(".")[2] == signed(*_parts(token)).rpartition(".")[2]
        assert 1 <= len(identity.user_id) <= 128
        assert identity.expires_at_ms is not None
        assert identity.expires_at_ms > (time.time() - 31) * 1000


async def _identify(token: str) -> Identity | None:
    keys = JwtTokens(secret=SECRET)
    try:
        return await keys.identify(token)
    except TokenRefused:
        return None


def _parts(token: str) -> tuple[bytes, bytes]:
    header, claims = token.split(".")[:2]
    return base64.urlsafe_b64decode(header + "=="), base64.urlsafe_b64decode(claims + "==")


def admin_key(data: bytes) -> None:
    """Only a header that has the key in it opens; whatever it is, it is an answer and no exception."""
    header = data.decode("utf-8", "surrogateescape")
    if AdminKey(ADMIN_KEY).opens(header):
        shown = header + _decoded(header.partition(" ")[2])
        assert ADMIN_KEY in shown


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text.strip(), validate=True).decode()
    except ValueError:
        return ""
