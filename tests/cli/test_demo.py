"""`answerback demo`: the whole run, and the check at its end against planted differences."""

import json
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

import forked
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from answerback.protocol.frames import MessageDelta
from answerback_proof.checker import ViolationCounts, Visible, check, count
from answerback_proof.demo.apps import DemoApp, Phase, ask_all, questions_of
from answerback_proof.demo.run import Demo, check_from_outside, check_store, run_demo
from answerback_proof.demo.screen import Panels
from answerback_proof.history import Asked, Ended, Event, Result, RunHistory, ToApp
from answerback_proof.proxy import Proxy
from cli_process import Run, Serve

pytestmark = pytest.mark.timeout(60)


def test_every_answer_comes_home(run: Run) -> None:
    result = run("demo", "--model", "echo:delay_ms=2", "--apps", "4", "--questions", "3")
    lines = result.out.splitlines()
    assert result.code == 0, result.err
    assert "0 misrouted, 0 lost, 0 repeated" in lines
    assert sum("\tcompleted" in line for line in lines) == 12
    assert result.err == ""


@pytest.mark.process
def test_a_server_that_runs_already_is_asked_and_checked_from_outside(serve: Serve, run: Run) -> None:
    result = run("demo", "--url", serve("--model", "echo").url, "--apps", "2")
    assert result.code == 0, result.err
    assert "0 misrouted, 0 lost, 0 repeated" in result.out.splitlines()
    assert "what the server's history has" in result.out


def test_a_server_that_is_not_there_and_options_that_do_not_go_together(run: Run, tmp_path: Path) -> None:
    assert run("demo", "--url", "ws://127.0.0.1:9").code == 3
    assert run("demo", "--url", "http://127.0.0.1:9").code == 2
    assert run("demo", "--url", "ws://127.0.0.1:9", "--keep", str(tmp_path)).code == 2


@pytest.mark.process
@pytest.mark.parametrize("arguments", [("demo", "--model", "echo"), ("serve", "--model", "echo", "--port", "0")])
def test_a_reader_that_has_gone_is_not_called_a_gateway_that_cannot_start(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        settings = {"ANSWERBACK_DATA_DIR": str(tmp_path), "ANSWERBACK_ADMIN_PORT": "off"}
        done = forked.run(arguments, stdout=closed, env={**os.environ, **settings})
    assert done.returncode == 1
    assert b"cannot start" not in done.stderr


def test_the_store_and_the_log_can_be_kept(run: Run, tmp_path: Path) -> None:
    assert run("demo", "--model", "echo", "--keep", str(tmp_path / "kept")).code == 0
    assert {"answerback.db", "gateway.log"} <= {path.name for path in (tmp_path / "kept").iterdir()}
    again = run("demo", "--model", "echo", "--keep", str(tmp_path / "kept"))
    assert again.code == 2
    assert "is not empty" in again.err


def test_a_model_that_breaks_off_makes_the_demo_fail(run: Run) -> None:
    result = run("demo", "--model", "echo:fail=midstream&fail_every=4", "--apps", "2", "--questions", "2")
    assert result.code == 1
    assert "0 misrouted, 0 lost, 0 repeated" in result.out
    assert "1 failed" in result.out
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize("arguments", [("--model", "nonsense"), ("--apps", "0"), ("--questions", "11")])
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    result = run("demo", *arguments)
    assert result.code == 2
    assert "Traceback" not in result.err


@pytest.mark.local_llm
def test_the_embedded_model(run: Run) -> None:
    pytest.importorskip("xllamacpp")
    result = run("demo", "--apps", "2", "--questions", "1", "--max-tokens", "8")
    assert result.code == 0, result.err
    assert "0 misrouted, 0 lost, 0 repeated" in result.out.splitlines()


def test_the_first_apps_ask_different_questions() -> None:
    asked = [question for app in range(1, 4) for question in questions_of(app, 3)]
    assert len(set(asked)) == len(asked)


# --- the check ----------------------------------------------------------------------------------------------


Ran = tuple[list[DemoApp], RunHistory, Path]


@pytest.fixture
async def ran(tmp_path: Path) -> Ran:
    """Two apps have asked two questions each; the gateway is stopped."""
    settings = GatewaySettings(port=0, admin_port=None, data_dir=tmp_path, models=("echo",))
    history = RunHistory()
    async with Gateway(settings) as gateway:
        proxy = Proxy(gateway.url, history)
        url = await proxy.start()
        apps = [DemoApp(number, questions_of(number, 2), history=history, url=url) for number in (1, 2)]
        await ask_all(apps, max_tokens=60, on_change=lambda app, asked: None)
        await proxy.stop()
    return apps, history, tmp_path


def spoil(history: RunHistory, kind: type, request: str, **facts: Any) -> None:
    """Change the last event of this kind about a request."""
    at = max(at for at, (_, e) in enumerate(history.events) if type(e) is kind and e.request == request)
    at_ms, event = history.events[at]
    changed: Event = replace(event, **facts)
    history.events[at] = (at_ms, changed)


def ending_of(history: RunHistory, request: str) -> Ended:
    return next(e for _, e in history.events if isinstance(e, Ended) and e.request == request)


async def test_all_is_well(ran: Ran) -> None:
    _, history, data_dir = ran
    assert await check_store(history, data_dir) == []


async def test_another_apps_answer(ran: Ran) -> None:
    apps, history, data_dir = ran
    one, other = apps[0].questions[0].request_id, apps[1].questions[1].request_id
    spoil(history, Ended, one, text=ending_of(history, other).text)
    assert count(await check_store(history, data_dir)).misrouted > 0


async def test_what_the_check_from_outside_finds(ran: Ran) -> None:
    apps, history, data_dir = ran
    settings = GatewaySettings(port=0, admin_port=None, data_dir=data_dir, models=("echo",))
    (one, two), (three, _) = ([asked.request_id for asked in app.questions] for app in apps)
    spoil(history, Ended, one, text=ending_of(history, three).text)
    spoil(history, Ended, two, text=ending_of(history, two).text + "!")
    history.add(Asked(request="never asked", user="user_001", session="session-001", conversation=None, text=""))
    async with Gateway(settings) as gateway:
        violations = await check_from_outside(apps, history, gateway.url)
    assert {violation.request for violation in violations} == {one, two, "never asked"}


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: text + "!"])
async def test_a_character_that_is_missing_and_one_too_many(ran: Ran, change: Callable[[str], str]) -> None:
    apps, history, data_dir = ran
    request = apps[0].questions[0].request_id
    spoil(history, Ended, request, text=change(ending_of(history, request).text))
    assert {violation.request for violation in await check_store(history, data_dir)} == {request}


async def test_the_wire_said_something_else(ran: Ran) -> None:
    apps, history, data_dir = ran
    request = apps[0].questions[0].request_id
    at = next(
        at
        for at, (_, event) in enumerate(history.events)
        if isinstance(event, ToApp) and event.request == request and isinstance(event.frame, MessageDelta)
    )
    del history.events[at]
    violations = await check_store(history, data_dir)
    assert violations
    assert {violation.request for violation in violations} == {request}


async def test_the_store_says_something_else(ran: Ran) -> None:
    apps, history, data_dir = ran
    request = apps[0].questions[0].request_id
    database = sqlite3.connect(data_dir / "answerback.db")
    with database:
        statement = "UPDATE requests SET answer = answer || '?' WHERE request_id = ?"
        assert database.execute(statement, (request,)).rowcount == 1
    database.close()
    assert {violation.request for violation in await check_store(history, data_dir)} == {request}


async def test_a_request_that_the_store_does_not_know(ran: Ran) -> None:
    _, history, data_dir = ran
    history.add(Asked(request="r9", user="user_001", session="session-001", conversation=None, text=""))
    history.add(Ended(request="r9", observer="app 1", result=Result.COMPLETED))
    assert {violation.request for violation in await check_store(history, data_dir)} == {"r9"}


# --- the proxy ----------------------------------------------------------------------------------------------


async def test_the_proxy_sees_frames_that_come_to_a_wrong_app() -> None:
    """A server with the bug that this product exists to prevent: it sends each answer to everybody."""
    everybody: set[ServerConnection] = set()

    async def broadcast(socket: ServerConnection) -> None:
        everybody.add(socket)
        async for text in socket:
            request_id = json.loads(text)["requestId"]
            ending = {"action": "messageResponse", "status": "completed", "response": "x", "attempt": 1, "length": 1}
            for other in everybody:
                await other.send(json.dumps({**ending, "requestId": request_id}))

    history = RunHistory()
    async with serve(broadcast, "127.0.0.1", 0, compression=None) as server:
        proxy = Proxy(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", history)
        url = await proxy.start()
        async with connect(f"{url}/?sessionId=one") as one, connect(f"{url}/?sessionId=two") as two:
            for socket, session, request in ((one, "one", "r1"), (two, "two", "r2")):
                history.add(Asked(request=request, user=session, session=session, conversation=None, text="hello"))
                history.add(Ended(request=request, observer=session, result=Result.COMPLETED, text="x", attempt=1))
                await socket.send(json.dumps({"action": "sendMessage", "requestId": request, "message": "hello"}))
                await one.recv()
                await two.recv()
        await proxy.stop()
    violations = check(history, Visible(records=False, turns=False, runs=False, undisturbed=True))
    assert count(violations) == ViolationCounts(misrouted=2, lost=0, repeated=0)


# --- the screen ---------------------------------------------------------------------------------------------


def screen_apps() -> list[DemoApp]:
    apps = [DemoApp(number, ["What?"] * 3, history=RunHistory()) for number in (1, 2, 3)]
    for app in apps:
        for position, phase in enumerate((Phase.DONE, Phase.WRITING, Phase.QUEUED)):
            asked = app.questions[position]
            asked.phase, asked.position, asked.text = phase, position, "word " * 99
    return apps


@pytest.mark.parametrize(("width", "height"), [(120, 40), (80, 24), (40, 80)])
def test_panels_fit_the_terminal(width: int, height: int) -> None:
    console = Console(force_terminal=True, width=width, height=height)
    apps = screen_apps()
    assert Panels.fit(apps, console)
    lines = console.render_lines(Panels(apps, console)._render())
    assert len(lines) < height
    text = "\n".join("".join(segment.text for segment in line) for line in lines)
    assert "queued, 1 before it" in text  # the first of its user has come home meanwhile


def test_a_terminal_too_small_for_panels_gets_lines() -> None:
    assert not Panels.fit(screen_apps(), Console(force_terminal=True, width=40, height=24))
    assert not Panels.fit(screen_apps(), Console(force_terminal=False, width=200, height=60))


def test_run_demo_says_whether_it_was_right(tmp_path: Path) -> None:
    assert run_demo(Demo(apps=1, questions=1, model="echo", max_tokens=60, keep=tmp_path / "kept"))


def test_it_speaks_korean_where_the_locale_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    result = run("demo", "--model", "echo", "--apps", "2", "--questions", "1")
    assert "오배송 0건, 유실 0건, 중복 0건" in result.out.splitlines()
    english = [line for line in result.out.splitlines() if line and not re.search("[가-힣]", line)]
    assert all("\t" in line for line in english), "a table for programs"
