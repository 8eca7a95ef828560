"""An Ollama on this machine: found, and used by the app's own gateway at a click."""

import json
import sys

import pytest
from aiohttp import web

from answerback_desktop.engine import session_controller
from answerback_desktop.engine.environment import models_at
from answerback_desktop.engine.events import GatewayStatus
from answerback_desktop.records import TurnStatus
from answerback_desktop.settings import Settings
from desktop_app import DesktopApp
from openai_server import DONE, END, USAGE, chunk

TAGS = {"models": [{"name": "exaone:latest", "size": 1}, {"name": "nomic-embed-text:latest"}, {"name": "qwen3:8b"}]}

pytestmark = pytest.mark.usefixtures("own_network")


@pytest.fixture
async def ollama(stack):
    """A stub of it, and what it was asked."""
    asked = []

    async def tags(_: web.Request) -> web.Response:
        return web.json_response(TAGS)

    async def chat(request: web.Request) -> web.StreamResponse:
        asked.append(json.loads(await request.text())["model"])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chunk("안녕하세요") + END + USAGE + DONE)
        return response

    app = web.Application()
    app.router.add_get("/api/tags", tags)
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}", asked


async def test_its_models_are_found_without_those_that_only_embed(ollama, unused_port):
    url, _ = ollama
    assert await models_at(url) == ("exaone:latest", "qwen3:8b")
    assert await models_at(f"http://127.0.0.1:{unused_port}") == ()


@pytest.mark.parametrize(
    "body", ["", "[]", "null", '{"models": [{"name": 3}]}', "<html>", '{"models": [{"name": "a b"}]}']
)
async def test_whatever_else_answers_there_is_no_model(stack, body):
    async def tags(_: web.Request) -> web.Response:
        return web.Response(text=body)

    app = web.Application()
    app.router.add_get("/api/tags", tags)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert await models_at(f"http://127.0.0.1:{runner.addresses[0][1]}") == ()


async def test_a_click_makes_the_apps_own_gateway_use_it(stack, monkeypatch, tmp_path, unused_port, ollama):
    monkeypatch.setattr(session_controller, "can_start", lambda: False)  # as where the embedded model is not installed
    url, asked = ollama
    settings = Settings(server_url=f"ws://127.0.0.1:{unused_port}", user="ada")
    command = (sys.executable, "-m", "answerback")
    app = DesktopApp(tmp_path, "one", settings, gateway_command=command, ollama_url=url)
    await stack.enter_async_context(app)
    await app.until(lambda: app.model.gateway.status is GatewayStatus.OFFERED)
    assert app.model.local_models == ("exaone:latest", "qwen3:8b")
    for name in app.model.local_models:
        app.model.use_local_model(name)
        app.engine.start_gateway()
        await app.until(lambda name=name: app.model.connection.is_online and app.model.connection.models == (name,))
        turn = await app.ask("안녕?")
        await app.until(lambda turn=turn: turn.status is TurnStatus.COMPLETED)
        assert turn.answer == "안녕하세요"
    assert asked == ["exaone:latest", "qwen3:8b"]
    assert json.loads(app.profile.settings_path.read_text())["local_model"] == "qwen3:8b"
