"""Code of the operator's own that does not stop does not keep the process alive."""

import json
import os
import signal
from pathlib import Path

import pytest
from websockets.sync.client import connect

from cli_process import Serve

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
def reached():
    pathlib.Path(__file__).with_name("reached").write_text("the code that does not stop runs")
"""


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_process_ends(kind: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model.py").write_text(REACHED + MODELS[kind])
    os.mkfifo(tmp_path / "reached")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    gateway = serve("--model", "python:own_model:make", "--grace", "0s")
    with connect(gateway.url) as ws:
        ws.send(json.dumps({"action": "sendMessage", "requestId": "r1", "message": "hello", "stream": True}))
        # The word alone does not say so: it may be here before the model goes on.
        assert (tmp_path / "reached").read_text() == "the code that does not stop runs"
        assert gateway.stop(signal.SIGTERM) == 0
    left = gateway.log.read_text()
    assert ("the process ends without what does not stop" in left) == (kind != "blocking")
    assert "Traceback" not in left
