"""Nothing that a connection, a user or a request brings stays for ever: all maps, before and after load."""

import asyncio
import base64
import gc
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import websockets
from gateway_peers import CONTINUATION, TEXT, raw_connection

from answerback.client import Client, RequestCancelled, RequestFailed, RequestTimeout
from answerback.core.keys import digest
from answerback.core.request import Policy
from answerback.gateway.app import Gateway
from answerback.gateway.settings import Caps, GatewaySettings
from sizes import sizes

CACHES = {
    "_questions",  # texts just accepted, by their length
    "_counts",  # of this minute
    "_windows",  # of three minutes
    "limits",  # of 50,000 users
    "_known",  # of 50,000 users
    "batch",  # the last one
    "endings",  # by code
    "refusals",  # by code
    "tokens",  # by model and direction
    "_offsets",  # the last few of the database's clock
}
"""Maps by name that are caches, each with a bound of its own."""


@pytest.fixture(params=["alone", pytest.param("fleet", marks=pytest.mark.postgres)])
async def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    is_alone = request.param == "alone"
    settings = GatewaySettings(
        node=None if is_alone else "a",
        database=None if is_alone else request.getfixturevalue("postgres_server").url,
        drain_s=0.0,
        lb_grace_s=0.0,
        port=0,
        admin_port=None,
        data_dir=tmp_path,
        models=("echo", "broken=echo:fail=midstream", "slow=echo:first_ms=3600000"),
        rate_limit=20,
        grace_s=0.0,
        janitor_interval_s=0.05,
        policy=Policy(queue_timeout_ms=600_000),
        caps=Caps(message_bytes=2_000, ping_interval_s=1.0),
    )
    async with Gateway(settings) as gateway:
        yield gateway


async def live(gateway: Gateway, user: str) -> None:
    """Everything that one user can do, ending in every way."""
    async with websockets.connect(f"{gateway.url}/?userId={user}&sessionId=s-{user}") as ws:
        text = f"of {user}".encode()
        file: dict[str, Any] = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
        await ws.send(json.dumps({"action": "putPiece", "requestId": "up", **file}))
        upload = json.loads(await ws.recv())["upload"]
        piece = {"requestId": "up", "upload": upload, "data": base64.b64encode(text).decode()}
        await ws.send(json.dumps({"action": "putPiece", **file, **piece}))
        assert json.loads(await ws.recv())["complete"]
        await ws.send(json.dumps({"action": "putPiece", "requestId": "half", **file, "bytes": 1_000_000}))
        await ws.send(json.dumps({"action": "getAttachment", "requestId": "down", **file}))
        await ws.send(json.dumps({"action": "getBudget", "requestId": "budget"}))
        more = (
            {},
            {"parts": ["reasoning"]},
            {"attachments": [{**file, "mediaType": "text/plain", "name": user}]},
            {"format": {"type": "json_schema", "schema": {"title": user}}},
            {"traceparent": f"00-{digest(user)[:32]}-{digest(user)[:16]}-01"},
            {"system": user},
        )
        for number, extra in enumerate(more):
            await send(ws, f"{user}-{number}", conversationId=f"c-{number}", stream=bool(number % 2), **extra)
        await send(ws, f"{user}-broken", model="broken")
        await send(ws, f"{user}-none", model="none")
        for number in range(2):
            await send(ws, f"{user}-slow-{number}", model="slow", conversationId="slow")
        for number in range(2):
            await ws.send(json.dumps({"action": "cancelMessage", "requestId": f"{user}-slow-{number}"}))
        await ws.send(json.dumps({"action": "cancelMessage", "requestId": f"{user}-early"}))
        await ws.send("broken")
        for number in range(15):
            await send(ws, f"{user}-limited-{number}")
        client = {"name": f"app-{user}", "version": user}
        await ws.send(json.dumps({"action": "hello", "helloId": "h", "client": client}))
        endings = 0
        async with asyncio.timeout(60):
            while endings < 26:
                endings += json.loads(await ws.recv())["action"] == "messageResponse"
    async with websockets.connect(f"{gateway.url}/?sessionId=s-{user}") as ws:  # named by its first frame
        await send(ws, f"{user}-named", userId=user)
        await ws.recv()
        with suppress(websockets.ConnectionClosed):
            await ws.send("x" * 3_000)
            await ws.wait_closed()
    async with raw_connection(gateway.port, path=f"/?userId={user}") as (raw, _):
        raw.send(TEXT, b"x" * 500, fin=False)
        raw.send(CONTINUATION, b"x" * 500, fin=False)
        await raw.writer.drain()
    for path in (f"/?userId={user}", "/?userId="):
        async with raw_connection(gateway.port, path=path, headers={"Origin": "https://page.example"}):
            pass


async def send(ws: websockets.ClientConnection, request_id: str, **more: Any) -> None:
    await ws.send(json.dumps({"action": "sendMessage", "requestId": request_id, "message": "hello there", **more}))


def grown(gateway: Gateway, before: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """What holds more than before, caches left out."""
    return {
        path: (before.get(path, 0), size)
        for path, size in sizes(gateway).items()
        if size > before.get(path, 0) and not CACHES & set(re.split(r"\W+", path))
    }


async def test_nothing_is_kept_of_connections_users_and_requests_that_are_gone(gateway: Gateway) -> None:
    before = sizes(gateway)
    for number in range(0, 10, 5):
        await asyncio.gather(*(live(gateway, f"user-{one}") for one in range(number, number + 5)))
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            while grown(gateway, before):  # noqa: ASYNC110 - no event says that everything is over
                await asyncio.sleep(0.05)
    assert grown(gateway, before) == {}
    for name in ("_buckets", "_per_user", "_silent", "_held", "_turns", "_sessions", "_running"):
        assert any(path.endswith(f".{name}") for path in before), f"the walk has not seen {name}"


async def test_a_client_keeps_nothing_of_questions_that_are_over(gateway: Gateway) -> None:
    async def ask(client: Client, conversation: str) -> None:
        await client.ask("hello", conversation=conversation)
        with pytest.raises(RequestFailed):
            await client.ask("hello", model="broken")
        with pytest.raises(RequestTimeout):
            await client.ask("hello", model="slow", conversation=f"{conversation}-late", timeout=0.05)
        async with client.stream("one two three", conversation=conversation) as left_early:
            async for _ in left_early:
                break
        stopped = client.stream("hello", model="slow", conversation=f"{conversation}-stopped")
        client.cancel(stopped.request_id)
        with pytest.raises(RequestCancelled):
            await stopped.answer
        await client.ping()
        assert [turn async for turn in client.history(conversation)]

    async with asyncio.timeout(20), Client(gateway.url, user="ann") as client:
        await ask(client, "c")
        before = sizes(client)
        await asyncio.gather(*(ask(client, f"c{number}") for number in range(2)))
        while any(size > before.get(path, 0) for path, size in sizes(client).items()):
            await client.ping()  # what was given up is stopped, and the server says so


async def test_an_answer_leaves_no_cycle_to_the_garbage_collector(gateway: Gateway) -> None:
    async with websockets.connect(f"{gateway.url}/?userId=u&sessionId=s") as ws:
        gc.collect()
        earlier = {id(thing) for thing in gc.get_objects()}  # another test's gateway may become garbage just now
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for number in range(10):
                await send(ws, f"r-{number}", stream=bool(number % 2), model="broken" if number % 5 == 0 else "echo")
                while json.loads(await ws.recv())["action"] != "messageResponse":
                    pass
            gc.collect()
            new = [type(thing) for thing in gc.garbage if id(thing) not in earlier]
            left = {kind.__qualname__ for kind in new if kind.__module__.startswith("answerback")}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
    assert left == set()
