"""A user whom the operator blocks: sockets close with `forbidden`, and no door opens again, nor after a restart."""

import asyncio
import json
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import websockets

from answerback.auth import make_token
from answerback.client import Client, Forbidden
from answerback.gateway.app import Gateway
from answerback.gateway.canceller import Canceller
from answerback.gateway.settings import AuthSettings, GatewaySettings
from answerback.ports import Unavailable

SECRET = "a secret of thirty-two characters"
MODELS = ("echo", "slow=echo:first_ms=3600000")


def settings(folder: Path, **options: Any) -> GatewaySettings:
    base: dict[str, Any] = {"port": 0, "admin_port": 0, "models": MODELS, "rate_limit": 0, "grace_s": 0.0}
    return GatewaySettings(data_dir=folder, **{**base, **options})


async def set_blocked(gateway: Gateway, folder: Path, user: str, blocked: bool) -> int:
    headers = {"Authorization": f"Bearer {(folder / 'admin.key').read_text().strip()}"}
    url = f"{gateway.admin_url}/users/{quote(user, safe='')}/blocked"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.put(url, json={"blocked": blocked}) as response,
    ):
        return response.status


def question(request_id: str, **more: Any) -> str:
    return json.dumps({"action": "sendMessage", "requestId": request_id, "message": "hello there", **more})


async def rest(ws: websockets.ClientConnection) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        return [json.loads(text) async for text in ws]


async def is_let_in(url: str, **options: Any) -> bool:
    try:
        async with websockets.connect(url, **options) as ws:
            await ws.send(question(uuid.uuid4().hex))
            while (frame := json.loads(await ws.recv()))["action"] != "messageResponse":
                assert frame["action"] != "error", "it is refused before there is a socket"
            return True
    except websockets.InvalidStatus as refused:
        assert refused.response.status_code == 403
        assert b"blocked" in refused.response.body
        return False


async def test_open_sockets_are_closed_and_no_door_opens(tmp_path: Path) -> None:
    async with Gateway(settings(tmp_path)) as gateway, AsyncExitStack() as stack:
        url = f"{gateway.url}/?userId=ann"
        running, idle, named, bob = [
            await stack.enter_async_context(websockets.connect(f"{gateway.url}/{path}"))
            for path in ("?userId=ann&sessionId=1", "?userId=ann&sessionId=2", "?sessionId=3", "?userId=bob")
        ]
        await running.send(question("r1", model="slow"))
        await named.send(question("r2", userId="ann", model="slow", conversationId="c"))
        for ws in (running, named):
            assert json.loads(await ws.recv())["action"] == "messageAccepted"
        assert await set_blocked(gateway, tmp_path, "ann", True) == 200
        for ws, endings in ((running, ["r1"]), (named, ["r2"]), (idle, [])):
            frames = await rest(ws)
            assert [frame["requestId"] for frame in frames if frame["action"] == "messageResponse"] == endings
            assert all(frame["status"] == "cancelled" for frame in frames if frame["action"] == "messageResponse")
            assert (frames[-1]["action"], frames[-1]["code"]) == ("error", "forbidden")
            assert ws.close_code == 1000
        assert not await is_let_in(url)
        async with websockets.connect(gateway.url) as unnamed:
            await unnamed.send(question("r3", userId="ann"))
            (frame,) = await rest(unnamed)
            assert (frame["action"], frame["code"]) == ("error", "forbidden")
        await bob.send(question("r4"))
        assert json.loads(await bob.recv())["action"] == "messageAccepted"
    async with Gateway(settings(tmp_path)) as gateway:
        assert not await is_let_in(f"{gateway.url}/?userId=ann"), "a restart changes nothing"
        assert await set_blocked(gateway, tmp_path, "ann", False) == 200
        assert await is_let_in(f"{gateway.url}/?userId=ann")


async def test_sockets_close_although_the_requests_cannot_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Gateway(settings(tmp_path)) as gateway, websockets.connect(f"{gateway.url}/?userId=ann") as ws:
        await ws.send(question("r1", model="slow"))
        assert json.loads(await ws.recv())["action"] == "messageAccepted"

        async def fail(*_: object) -> None:
            raise Unavailable("the disk is full")

        monkeypatch.setattr(Canceller, "cancel", fail)
        assert await set_blocked(gateway, tmp_path, "ann", True) == 503
        (*_, last) = await rest(ws)
        assert (last["action"], last["code"]) == ("error", "forbidden")
    monkeypatch.undo()


async def test_a_token_that_is_valid_does_not_help_in_either_form(tmp_path: Path) -> None:
    async with Gateway(settings(tmp_path, auth=AuthSettings(secret=SECRET))) as gateway:
        tokens = [make_token(form, secret=SECRET, ttl_s=3600) for form in ("김", "\u1100\u1175\u11b7")]
        assert await set_blocked(gateway, tmp_path, "\u1100\u1175\u11b7", True) == 200
        for token in tokens:
            assert not await is_let_in(gateway.url, additional_headers={"Authorization": f"Bearer {token}"})
        assert await set_blocked(gateway, tmp_path, "김", False) == 200
        for token in tokens:
            assert await is_let_in(gateway.url, additional_headers={"Authorization": f"Bearer {token}"})


async def test_an_app_of_the_sdk_stops_and_says_why(tmp_path: Path) -> None:
    async with Gateway(settings(tmp_path)) as gateway:
        async with Client(gateway.url, user="ann") as app:
            answer = await app.ask("Are you there?")
            assert answer.text == "Are you there?"
            assert await set_blocked(gateway, tmp_path, "ann", True) == 200
            with pytest.raises(Forbidden, match="blocked"):
                await app.ask("And now?")
        with pytest.raises(Forbidden, match="blocked"):
            async with Client(gateway.url, user="ann") as app:
                await app.ask("And now?")


@pytest.mark.parametrize("body", [{}, {"blocked": 1}, {"blocked": "true"}, {"blocked": None}, []])
async def test_what_is_neither_yes_nor_no_blocks_nobody(tmp_path: Path, body: Any) -> None:
    async with Gateway(settings(tmp_path)) as gateway:
        headers = {"Authorization": f"Bearer {(tmp_path / 'admin.key').read_text().strip()}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.put(f"{gateway.admin_url}/users/ann/blocked", json=body) as response,
        ):
            assert response.status == 400
        assert await is_let_in(f"{gateway.url}/?userId=ann")
