"""Two gateways on one store: the second stands by, and takes over what the first has accepted."""

import json
import signal
from pathlib import Path

import pytest
from websockets.sync.client import connect

from cli_process import STOP_TIMEOUT_S, Serve, start_standby

pytestmark = pytest.mark.process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_second_answers_what_the_first_has_accepted(serve: Serve, tmp_path: Path, number: int) -> None:
    first = serve("--model", "echo:first_ms=3600000", "--grace", "0s")
    second = start_standby(first.data_dir, tmp_path / "second.log")
    try:
        with connect(f"{first.url}/?userId=u&sessionId=s", proxy=None) as app:
            app.send(json.dumps({"action": "sendMessage", "requestId": "r1", "message": "hello there"}))
            assert json.loads(app.recv(timeout=30))["action"] == "messageAccepted"
        first.process.send_signal(number)
        assert second.stdout is not None
        url = second.stdout.readline().removeprefix("listening on ").strip()
        with connect(f"{url}/?userId=u&sessionId=s", proxy=None) as app:
            resume = [{"requestId": "r1", "attempt": 0, "offset": 0}]
            app.send(json.dumps({"action": "hello", "helloId": "h", "resume": resume}))
            while (frame := json.loads(app.recv(timeout=30)))["action"] != "messageResponse":
                pass
            assert (frame["requestId"], frame["response"]) == ("r1", "hello there")
    finally:
        second.terminate()
        second.communicate(timeout=STOP_TIMEOUT_S)
    assert second.returncode == 0


def test_a_signal_ends_the_wait(serve: Serve, tmp_path: Path) -> None:
    first = serve()
    second = start_standby(first.data_dir, tmp_path / "second.log")
    second.terminate()
    out, _ = second.communicate(timeout=STOP_TIMEOUT_S)
    assert (second.returncode, out) == (0, "")
    assert (first.data_dir / "admin.port").exists(), "it is the first one's"
