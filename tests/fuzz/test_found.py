"""What fuzzing found, each as a short story; the inputs themselves are in fuzz/corpus."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from answerback.auth import JwtTokens
from answerback.gateway.admin_key import AdminKey
from answerback.ports import TokenRefused
from answerback.protocol.codec import FrameError, decode_client, encode
from answerback.protocol.frames import UpdateConversation
from answerback.testing.loop import run_virtual
from harness.listener import UPGRADE, Talk
from harness.memory import MemoryLoop, play

SECRET = "0123456789abcdef0123456789abcdef"


def answer_to(request: bytes) -> bytes:
    """What the gateway says to these bytes; `play` checks that it logs no error."""

    @asynccontextmanager
    async def talking(loop: MemoryLoop) -> AsyncIterator[Talk]:
        talk = Talk(loop)
        await talk.listener.start("127.0.0.1", 0)
        try:
            yield talk
        finally:
            await talk.end()

    async def story(loop: MemoryLoop) -> bytes:
        async with talking(loop) as talk:
            await talk.say([request])
        return bytes(talk.transport.written)

    return play(story)


def test_a_websocket_key_that_is_not_ascii_is_refused_and_not_an_error() -> None:
    assert answer_to(UPGRADE.replace(b"AA==", b"A\xec==")).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("value", [b"\xd7Upgrade", b"xupgrade", b"keep-alive"])
def test_a_connection_header_without_the_word_upgrade_is_refused_in_our_words(value: bytes) -> None:
    told = answer_to(UPGRADE.replace(b"Connection: Upgrade", b"Connection: " + value))
    assert told.startswith(b"HTTP/1.1 400 ")
    assert told.endswith(b"The upgrade request needs the header Connection: Upgrade.\n")


@pytest.mark.parametrize("value", [b"websockets", b"h2c, websocket2"])
def test_an_upgrade_to_something_else_learns_what_this_is(value: bytes) -> None:
    told = answer_to(UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: " + value))
    assert told.startswith(b"HTTP/1.1 426 ")


def test_what_aiohttp_alone_refuses_is_refused_in_our_words() -> None:
    """RFC 6455 lets the client offer other protocols beside WebSocket; aiohttp does not take such a list."""
    told = answer_to(UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: websocket, \xff"))
    assert told.startswith(b"HTTP/1.1 400 ")
    assert told.endswith(b"This is not an opening handshake of WebSocket (RFC 6455, section 4.1).\n")


def nested(depth: int) -> str:
    return base64.urlsafe_b64encode(b"[" * depth).decode().rstrip("=")


@pytest.mark.parametrize("token", ["a.b.c\udce6", "\u00e9.b.c", nested(5_900) + ".e30.x"])
def test_a_token_of_odd_bytes_is_refused_and_not_an_error(token: str) -> None:
    async def identify() -> None:
        await JwtTokens(secret=SECRET).identify(token)

    with pytest.raises(TokenRefused):
        run_virtual(identify())


def test_a_basic_password_of_odd_bytes_does_not_open_and_is_not_an_error() -> None:
    assert not AdminKey("k" * 43).opens("Basic \udce6")


def test_a_title_that_postgresql_cannot_store_is_refused() -> None:
    frame = UpdateConversation(request_id="r", conversation_id="c", title="a\0b")
    with pytest.raises(FrameError) as caught:
        decode_client(encode(frame))
    assert caught.value.request_id == "r"
    assert "U+0000" in caught.value.detail
