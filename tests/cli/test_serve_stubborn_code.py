"""Code of the operator's own that does not stop does not keep the process alive."""

import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from cli_process import STOP_TIMEOUT_S, Serve

pytestmark = [pytest.mark.process, pytest.mark.timeout(90)]

MODELS = {
    "blocking": """
import threading
def make():
    def answer(prompt):
        yield "word "
        reached()
        threading.Event().wait()
    return answer
""",
    "deaf": """
import asyncio
def make():
    async def answer(prompt):
        yield "word "
        reached()
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
    return answer
""",
    "thread": """
import asyncio, threading
def stay():
    reached()
    threading.Event().wait()
def make():
    async def answer(prompt):
        yield "word "
        await asyncio.to_thread(stay)
    return answer
""",
}
REACHED = """
import pathlib
import answerback.gateway.app, answerback.gateway.queue
answerback.gateway.app.CLOSE_TIMEOUT_S = answerback.gateway.queue.STOP_S = 0.2  # of 15 s, in which nothing else happens
def reached():
    pathlib.Path(__file__).with_suffix(".reached").write_text("the code that does not stop runs")
"""


def test_the_processes_end(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    gateways = {}
    with ExitStack() as apps:
        for kind, model in MODELS.items():
            (tmp_path / f"{kind}.py").write_text(REACHED + model)
            os.mkfifo(tmp_path / f"{kind}.reached")
            options = ("--model", f"python:{kind}:make", "--grace", "0s")
            gateway = gateways[kind] = serve(*options, data_dir=tmp_path / f"data of {kind}")
            app = apps.enter_context(connect(gateway.url))
            app.send(json.dumps({"action": "sendMessage", "requestId": "r1", "message": "hello", "stream": True}))
            # The word alone does not say so: it may be here before the model goes on.
            assert (tmp_path / f"{kind}.reached").read_text() == "the code that does not stop runs"
        for gateway in gateways.values():
            gateway.process.send_signal(signal.SIGTERM)
        assert {kind: gateway.process.wait(STOP_TIMEOUT_S) for kind, gateway in gateways.items()} == dict.fromkeys(
            MODELS, 0
        )
    for kind, gateway in gateways.items():
        left = gateway.log.read_text()
        assert ("the process ends without what does not stop" in left) == (kind != "blocking")
        assert "Traceback" not in left
