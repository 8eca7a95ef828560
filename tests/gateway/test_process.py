"""Gateways in processes of their own: signals, and a kill in the middle of everything."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import websockets

from answerback.gateway.process import _run_to_end

pytestmark = pytest.mark.process

SCRIPT = """
import sys
from pathlib import Path
from answerback.core.request import Policy
from answerback.gateway.process import run_gateway
from answerback.gateway.logging import configure_logging
from answerback.gateway.settings import GatewaySettings

configure_logging("json")
settings = GatewaySettings(
    port=0,
    admin_port=None,
    data_dir=Path(sys.argv[1]),
    models=(sys.argv[2],),
    rate_limit=0,
    grace_s=3600,
    policy=Policy(lease_ms=3_600_000),
)
run_gateway(settings, announce=lambda gateway: print(gateway.url, flush=True))
"""


class Process:
    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def logged(self, text: str) -> None:
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while text not in json.loads(await self.process.stderr.readline())["message"]:
                pass

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Callable[[str], Awaitable[Process]]]:
    started: list[asyncio.subprocess.Process] = []

    async def run(model: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SCRIPT,
            str(tmp_path),
            model,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
        )
        started.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(20):
            return Process(process, (await process.stdout.readline()).decode().strip())

    yield run
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def accepted(ws: websockets.ClientConnection, request_id: str) -> None:
    await ws.send(json.dumps({"action": "sendMessage", "requestId": request_id, "message": "hello there"}))
    async with asyncio.timeout(20):
        assert json.loads(await ws.recv())["action"] == "messageAccepted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_gracefully(run: Callable[[str], Awaitable[Process]], number: signal.Signals) -> None:
    gateway = await run("echo")
    async with websockets.connect(gateway.url) as ws:
        await accepted(ws, "r1")
        gateway.process.send_signal(number)
        async with asyncio.timeout(20):
            rest = [json.loads(text)["action"] async for text in ws]
        assert rest == ["messageResponse"]
        assert ws.close_code == 1001
    assert await gateway.ended() == 0


async def test_a_second_signal_does_not_wait_for_answers(run: Callable[[str], Awaitable[Process]]) -> None:
    gateway = await run("echo:first_ms=3600000")
    async with websockets.connect(gateway.url) as ws:
        await accepted(ws, "r1")
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.logged("stopping")
        gateway.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert [text async for text in ws] == []
        assert ws.close_code == 1001
    assert await gateway.ended() == 0


async def test_what_was_accepted_before_a_kill_is_answered_after_it(run: Callable[[str], Awaitable[Process]]) -> None:
    gateway = await run("echo:first_ms=3600000")
    async with websockets.connect(gateway.url + "/?sessionId=s&userId=u") as ws:
        for number in range(20):
            await accepted(ws, f"r{number}")
        gateway.process.kill()
        await gateway.ended()
    gateway = await run("echo")
    async with websockets.connect(gateway.url + "/?sessionId=s&userId=u") as ws:
        resume = [{"requestId": f"r{number}", "attempt": 0, "offset": 0} for number in range(20)]
        await ws.send(json.dumps({"action": "hello", "helloId": "h", "resume": resume}))
        answers: dict[str, str] = {}
        async with asyncio.timeout(20):
            while len(answers) < 20:
                frame = json.loads(await ws.recv())
                if frame["action"] == "messageResponse":
                    assert frame["requestId"] not in answers, "one ending"
                    answers[frame["requestId"]] = frame["response"]
    assert answers == {f"r{number}": "hello there" for number in range(20)}


LEAVING = """
import asyncio, sys

def make():
    async def answer(prompt):
        question = prompt.messages[-1].text
        if question == "task":
            await asyncio.create_task(leave(SystemExit(3)))
        if question == "interrupt":
            await asyncio.gather(leave(KeyboardInterrupt()))
        if question == "callback":
            asyncio.get_running_loop().call_soon(sys.exit, 3)
            await asyncio.sleep(0)
        if question == "everything":
            for task in asyncio.all_tasks():
                task.cancel()
            await asyncio.sleep(0)
        yield "here"
    return answer

async def leave(how):
    raise how
"""


async def test_a_model_cannot_end_the_gateway(run: Callable[[str], Awaitable[Process]], tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text(LEAVING)
    gateway = await run("python:leaving:make")
    async with websockets.connect(gateway.url + "/?sessionId=s&userId=u") as ws:
        ended = []
        for question in ("task", "interrupt", "callback", "plain"):
            await ws.send(json.dumps({"action": "sendMessage", "requestId": question, "message": question}))
            async with asyncio.timeout(20):
                while (frame := json.loads(await ws.recv()))["action"] != "messageResponse":
                    pass
            ended.append((frame["status"], frame.get("error", {}).get("code")))
        assert ended == [
            ("failed", "model_failed"),
            ("failed", "model_failed"),
            ("completed", None),
            ("completed", None),
        ]
    gateway.process.send_signal(signal.SIGTERM)
    assert await gateway.ended() == 0


async def test_a_model_that_cancels_everything_stops_the_gateway_in_order(
    run: Callable[[str], Awaitable[Process]], tmp_path: Path
) -> None:
    (tmp_path / "leaving.py").write_text(LEAVING)
    gateway = await run("python:leaving:make")
    async with websockets.connect(gateway.url + "/?sessionId=s&userId=u") as ws:
        await ws.send(json.dumps({"action": "sendMessage", "requestId": "r", "message": "everything"}))
        await gateway.logged("the code of a model has cancelled the gateway's own task")
    assert await gateway.ended() == 1


def test_ctrl_c_stops_where_the_loop_does_not_handle_it() -> None:
    """As on Windows: Python raises it out of the loop."""
    seen: list[str] = []

    async def work() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("closed")

    with asyncio.Runner() as runner, pytest.raises(KeyboardInterrupt):
        _run_to_end(runner.get_loop(), work())
    assert seen == ["closed"]
