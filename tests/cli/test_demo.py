"""`answerback demo`: the whole run, and the check at its end against planted differences."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from answerback.client import Answer, Client
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from answerback.protocol.frames import Status
from answerback_proof.demo.apps import App, Asked, Phase
from answerback_proof.demo.check import check_everything
from answerback_proof.demo.panels import Panels
from answerback_proof.demo.questions import questions_of
from answerback_proof.demo.remote import check_from_outside
from answerback_proof.demo.show import Demo, run_demo
from answerback_proof.demo.tap import Tap
from answerback_proof.load.ledger import Ledger, Verdicts
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
        done = subprocess.run(
            [sys.executable, "-m", "answerback", *arguments],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "ANSWERBACK_DATA_DIR": str(tmp_path), "ANSWERBACK_ADMIN_PORT": "off"},
        )
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
    asked = [question for app in range(3) for question in questions_of(app, 3)]
    assert len(set(asked)) == len(asked)


# --- the check ----------------------------------------------------------------------------------------------


@pytest.fixture
async def ran(tmp_path: Path) -> tuple[list[App], Ledger, Path]:
    """Two apps have asked two questions each; the gateway is stopped."""
    settings = GatewaySettings(port=0, admin_port=None, data_dir=tmp_path, models=("echo",))
    ledger = Ledger(keep_texts=True)
    apps = []
    async with Gateway(settings) as gateway:
        for number in (1, 2):
            tap = Tap(app=number, url=gateway.url, ledger=ledger)
            app = App(number=number, user=f"user_{number}", session=f"session_{number}", url=await tap.start())
            async with Client(app.url, user=app.user, session=app.session) as client:
                for place in (1, 2):
                    answer = await client.stream(f"question {place} of {app.name}").answer
                    asked = Asked(number=place, question="", request_id=answer.request_id, phase=Phase.DONE)
                    asked.answer, asked.text = answer, answer.text
                    app.asked.append(asked)
            await tap.close()
            apps.append(app)
    return apps, ledger, tmp_path


def counts(verdicts: Verdicts) -> tuple[int, int, int]:
    return verdicts.misrouted, verdicts.lost, verdicts.repeated


def got(asked: Asked, text: str) -> None:
    """The app got another text than it did."""
    assert asked.answer is not None
    asked.answer = Answer(
        text=text,
        request_id=asked.request_id,
        status=Status.COMPLETED,
        attempt=1,
        conversation_id=asked.answer.conversation_id,
    )


async def test_all_is_well(ran: tuple[list[App], Ledger, Path]) -> None:
    assert counts(await check_everything(*ran)) == (0, 0, 0)


async def test_another_apps_answer(ran: tuple[list[App], Ledger, Path]) -> None:
    apps, ledger, data_dir = ran
    got(apps[0].asked[0], apps[1].asked[1].text)
    assert counts(await check_everything(apps, ledger, data_dir)) == (1, 0, 0)


async def test_what_the_check_from_outside_finds(ran: tuple[list[App], Ledger, Path]) -> None:
    apps, ledger, data_dir = ran
    settings = GatewaySettings(port=0, admin_port=None, data_dir=data_dir, models=("echo",))
    got(apps[0].asked[0], apps[1].asked[1].text)
    apps[1].asked[0].text += "!"
    apps[1].asked.append(Asked(number=3, question="", request_id="never asked", phase=Phase.DONE))
    async with Gateway(settings) as gateway:
        assert counts(await check_from_outside(apps, ledger, gateway.url)) == (1, 1, 1)


async def test_a_character_that_is_missing_and_one_that_came_twice(ran: tuple[list[App], Ledger, Path]) -> None:
    apps, ledger, data_dir = ran
    got(apps[0].asked[0], apps[0].asked[0].text[:-1])
    apps[1].asked[0].text += "!"
    assert counts(await check_everything(apps, ledger, data_dir)) == (0, 1, 1)


async def test_the_wire_said_something_else(ran: tuple[list[App], Ledger, Path]) -> None:
    apps, ledger, data_dir = ran
    next(entry for entry in ledger.ended if entry.request_id == apps[0].asked[0].request_id).text = "question"
    assert counts(await check_everything(apps, ledger, data_dir)) == (0, 1, 0)


async def test_the_store_says_something_else(ran: tuple[list[App], Ledger, Path]) -> None:
    apps, ledger, data_dir = ran
    database = sqlite3.connect(data_dir / "answerback.db")
    with database:
        statement = "UPDATE texts SET text = text || '?' WHERE request_id = ? AND role = 'answer'"
        assert database.execute(statement, (apps[0].asked[0].request_id,)).rowcount == 1
    database.close()
    # The store counts as right: the app's answer, its growing text and the wire differ (the history reads the store).
    assert counts(await check_everything(apps, ledger, data_dir)) == (0, 3, 0)


async def test_a_request_that_the_store_does_not_know(ran: tuple[list[App], Ledger, Path]) -> None:
    apps, ledger, data_dir = ran
    apps[0].asked[0].request_id = "made-up"
    assert counts(await check_everything(apps, ledger, data_dir)) == (0, 1, 0)


# --- the tap ------------------------------------------------------------------------------------------------


async def test_the_tap_sees_frames_that_come_to_a_wrong_app() -> None:
    """A server with the bug that this product exists to prevent: it sends each answer to everybody."""
    everybody: set[ServerConnection] = set()

    async def broadcast(socket: ServerConnection) -> None:
        everybody.add(socket)
        async for text in socket:
            request_id = json.loads(text)["requestId"]
            ending = {"action": "messageResponse", "status": "completed", "response": "x", "attempt": 1, "length": 1}
            for other in everybody:
                await other.send(json.dumps({**ending, "requestId": request_id}))

    ledger = Ledger(keep_texts=True)
    async with serve(broadcast, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        taps = [Tap(app=number, url=f"ws://127.0.0.1:{port}", ledger=ledger) for number in (1, 2)]
        async with connect(await taps[0].start()) as one, connect(await taps[1].start()) as two:
            for socket, request_id in ((one, "r1"), (two, "r2")):
                await socket.send(json.dumps({"action": "sendMessage", "requestId": request_id, "message": "hello"}))
                await one.recv()
                await two.recv()
        await asyncio.gather(*(tap.close() for tap in taps))
    assert counts(ledger.verdicts) == (2, 0, 0)
    assert {entry.request_id for entry in ledger.ended} == {"r1", "r2"}


# --- the screen ---------------------------------------------------------------------------------------------


def screen_apps() -> list[App]:
    phases = [Phase.DONE, Phase.WRITING, Phase.QUEUED]
    return [
        App(
            number=number,
            user=f"user_{number:03}",
            session="s",
            url="",
            asked=[
                Asked(
                    number=place, question="What?", request_id="r", phase=phase, position=place - 1, text="word " * 99
                )
                for place, phase in enumerate(phases, start=1)
            ],
        )
        for number in (1, 2, 3)
    ]


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
