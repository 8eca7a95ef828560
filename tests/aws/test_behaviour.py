"""Who may connect to the emulated stack, and what the connection is told of it."""

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from answerback.client import Client
from stack import PAGE, Stack

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.timeout(120)]


async def status_of(url: str, **options: Any) -> int:
    """What an upgrade request is answered with; 101 is a connection."""
    try:
        async with asyncio.timeout(60), connect(url, proxy=None, **options):
            return 101
    except InvalidStatus as refused:
        assert b"secret" not in (refused.response.body or b"")
        return refused.response.status_code


# --- web pages


async def test_a_web_page_is_refused_unless_it_is_on_the_list(stack: Stack) -> None:
    """Without tokens it is this alone that keeps any page from using the stack as its visitor."""
    assert await status_of(stack.url) == 101
    assert await status_of(stack.url, origin=PAGE) == 101
    assert await status_of(stack.url, origin="https://evil.example") == 403
    assert await status_of(stack.url, additional_headers={"origin": "null"}) == 403


async def test_a_web_page_is_refused_whatever_its_token_is(secured: Stack) -> None:
    token = {"Authorization": f"Bearer {secured.token(secured.name('user'))}"}
    assert await status_of(secured.url, additional_headers=token, origin=PAGE) == 101
    assert await status_of(secured.url, additional_headers=token, origin="https://evil.example") == 403
    assert await status_of(secured.url, origin="https://evil.example") == 403
    assert await status_of(secured.url, origin=PAGE) == 401


# --- tokens


@pytest.mark.parametrize("way", ["header", "query", "subprotocol"])
async def test_a_token_may_come_in_each_of_three_ways(secured: Stack, way: str) -> None:
    user = secured.name("user")
    token = secured.token(user)
    url, options = secured.url, dict[str, Any]()
    match way:
        case "header":
            options["additional_headers"] = {"Authorization": f"Bearer {token}"}
        case "query":
            url = f"{url}?token={token}"
        case _:
            options["subprotocols"] = [Subprotocol("answerback.v1"), Subprotocol(f"bearer.{token}")]
    async with asyncio.timeout(60), connect(url, proxy=None, **options) as socket:
        assert socket.subprotocol == ("answerback.v1" if way == "subprotocol" else None)
        await socket.send(json.dumps({"action": "hello", "helloId": "h"}))
        welcome = json.loads(await socket.recv())
    assert (welcome["action"], welcome["userId"]) == ("welcome", user)
    assert token not in secured.logs()


@pytest.mark.parametrize("way", ["header", "query", "subprotocol"])
async def test_a_token_that_is_not_accepted_is_401_in_each_of_them(secured: Stack, way: str) -> None:
    token = secured.token(secured.name("user"), ttl_s=-600)
    match way:
        case "header":
            status = await status_of(secured.url, additional_headers={"Authorization": f"Bearer {token}"})
        case "query":
            status = await status_of(f"{secured.url}?token={token}")
        case _:
            offered = [Subprotocol("answerback.v1"), Subprotocol(f"bearer.{token}")]
            status = await status_of(secured.url, subprotocols=offered)
    assert status == 401


async def test_apps_are_told_the_least_version(stack: Stack) -> None:
    with stack.configured("Front", LEAST_CLIENT="999.1"):
        async with asyncio.timeout(60), Client(stack.url, user=stack.name("user")) as client:
            assert client.wanted_version == "999.1"


async def test_the_welcome_says_what_limits_there_are(stack: Stack) -> None:
    """API Gateway's own where they are narrower than the operator's."""
    async with asyncio.timeout(60), connect(f"{stack.url}?userId={stack.name('user')}", proxy=None) as socket:
        await socket.send(json.dumps({"action": "hello", "helloId": "h"}))
        welcome = json.loads(await socket.recv())
    limits = welcome["limits"]
    assert len(welcome["server"]["storeId"]) == 36
    assert limits == {
        "maxMessageBytes": 128 * 1024,
        "maxFrameBytes": 32 * 1024,
        "maxAnswerBytes": 256 * 1024,
        "requestsPerMinute": 0,
        "maxPending": 100,
        "maxTokens": 1024,
        "idleTimeoutMs": 600_000,
        "answerTimeoutMs": 120_000,
        "queueTimeoutMs": 600_000,
        "maxConnectionMs": 7_200_000,
        "progressMs": 8_000,
        "pieceBytes": 65_536,
        "maxAttachmentBytes": 4_194_304,
    }
