"""A user is deleted while the gateway works for that user: every app hears an ending, then everything is gone."""

import asyncio
import json
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets

from answerback.gateway import app
from answerback.gateway.app import Gateway
from answerback.gateway.canceller import Canceller
from answerback.gateway.settings import GatewaySettings
from answerback.ports import Piece, Prompt


class Waiting:
    """A model that says one word and then nothing; a stubborn one ignores its cancellation."""

    name = "waiting"
    context_tokens = 8_192
    concurrency = 8

    def __init__(self, *, is_stubborn: bool = False) -> None:
        self._is_stubborn = is_stubborn
        self.streaming = 0
        self.let_go = asyncio.Event()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.streaming += 1
        try:
            yield f"{prompt.user_id} "
            while not self.let_go.is_set():
                try:
                    await self.let_go.wait()
                except asyncio.CancelledError:
                    if not self._is_stubborn:
                        raise
        finally:
            self.streaming -= 1

    async def close(self) -> None:
        pass


def gateway_with(model: Waiting, tmp_path: Path) -> Gateway:
    settings = GatewaySettings(port=0, admin_port=0, data_dir=tmp_path, models=("echo",), rate_limit=0, grace_s=0.0)
    return Gateway(settings, models=(model,))


async def ask(ws: websockets.ClientConnection, *request_ids: str) -> None:
    """Ask, and return when all are accepted and the first has text."""
    for request_id in request_ids:
        await ws.send(
            json.dumps({"action": "sendMessage", "requestId": request_id, "message": "hello", "stream": True})
        )
    left = {("messageAccepted", request_id) for request_id in request_ids} | {("messageDelta", request_ids[0])}
    async with asyncio.timeout(20):
        while left:
            frame = json.loads(await ws.recv())
            left.discard((frame["action"], frame["requestId"]))


async def delete(gateway: Gateway, tmp_path: Path, user_id: str) -> int:
    headers = {"Authorization": f"Bearer {(tmp_path / 'admin.key').read_text().strip()}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.delete(f"{gateway.admin_url}/users/{user_id}") as response,
    ):
        return response.status


async def rest(ws: websockets.ClientConnection) -> list[dict[str, Any]]:
    """Every frame until the server closes."""
    async with asyncio.timeout(20):
        return [json.loads(data) async for data in ws]


async def test_running_and_waiting_requests_end_before_their_user_is_erased(tmp_path: Path) -> None:
    model = Waiting()
    async with gateway_with(model, tmp_path) as gateway:
        async with (
            websockets.connect(f"{gateway.url}/?userId=alice") as alice,
            websockets.connect(f"{gateway.url}/?userId=bob") as bob,
        ):
            await ask(alice, "running", "waiting-1", "waiting-2")
            await ask(bob, "bobs")
            assert await delete(gateway, tmp_path, "alice") == 200
            frames = await rest(alice)
            endings = [(f["requestId"], f["status"]) for f in frames if f["action"] == "messageResponse"]
            assert sorted(endings) == [
                ("running", "cancelled"),
                ("waiting-1", "cancelled"),
                ("waiting-2", "cancelled"),
            ]
            assert model.streaming == 1, "alice's answer does not run on, bob's does"
            await bob.send(json.dumps({"action": "ping"}))
            assert json.loads(await bob.recv())["action"] == "pong"
            model.let_go.set()
            assert (json.loads(await bob.recv()))["status"] == "completed"
        assert await delete(gateway, tmp_path, "alice") == 404


async def test_a_model_that_does_not_stop_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "Canceller", partial(Canceller, end_timeout_s=0.05))
    model = Waiting(is_stubborn=True)
    async with gateway_with(model, tmp_path) as gateway:
        async with websockets.connect(f"{gateway.url}/?userId=alice") as alice:
            await ask(alice, "running")
            assert await delete(gateway, tmp_path, "alice") == 200
            frames = await rest(alice)
            assert [(f["action"], f["status"]) for f in frames] == [("messageResponse", "cancelled")]
        model.let_go.set()
