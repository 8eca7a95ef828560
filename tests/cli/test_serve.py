"""Real gateway processes: the first line, signals, and what is said when one cannot start."""

import json
import signal
import socket
from pathlib import Path

import pytest
from websockets.sync.client import connect

import forked
from cli_process import Run, Serve

pytestmark = pytest.mark.process


def test_the_second_line_says_what_other_machines_use(serve: Serve, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of more than thirty-two bytes")
    secret.chmod(0o600)
    gateway = serve("--host", "0.0.0.0", "--auth-secret-file", str(secret), "--allow-host", "chat.example")
    assert gateway.process.stdout is not None
    port = gateway.url.rpartition(":")[2]
    assert gateway.process.stdout.readline() == f"from other machines: ws://chat.example:{port}\n"


def test_the_first_line_says_where_it_listens_and_it_does(serve: Serve) -> None:
    gateway = serve()
    assert gateway.first_line.startswith("listening on ws://127.0.0.1:")
    with connect(gateway.url, proxy=None) as app:
        app.send(json.dumps({"action": "sendMessage", "requestId": "r1", "userId": "u", "message": "hello there"}))
        while (frame := json.loads(app.recv(timeout=30)))["action"] != "messageResponse":
            pass
    assert (frame["requestId"], frame["status"], frame["response"]) == ("r1", "completed", "hello there")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_gracefully(serve: Serve, number: int) -> None:
    gateway = serve()
    assert gateway.stop(number) == 0
    assert gateway.process.stdout is not None
    assert gateway.process.stdout.read() == ""


def test_a_second_signal_does_not_wait_for_the_answers(serve: Serve) -> None:
    gateway = serve("--model", "slow=echo:delay_ms=600000", "--grace", "1h", "--answer-timeout", "1h")
    with connect(gateway.url, proxy=None) as app:
        ask = {
            "action": "sendMessage",
            "requestId": "r1",
            "userId": "u",
            "message": "a b",
            "model": "slow",
            "stream": True,
        }
        app.send(json.dumps(ask))
        while json.loads(app.recv(timeout=30))["action"] != "messageStarted":
            pass
        gateway.process.send_signal(signal.SIGTERM)
        while "stopping" not in gateway.log.read_text():
            assert gateway.process.poll() is None
        assert gateway.stop() == 0


def test_log_lines_can_be_json(serve: Serve) -> None:
    gateway = serve("--log-format", "json")
    gateway.stop()
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()


def test_two_gateways_cannot_share_a_store(serve: Serve, run: Run) -> None:
    gateway = serve()
    result = run("serve", "--model", "echo", "--port", "0", "--admin-port", "0", "--data-dir", str(gateway.data_dir))
    assert result.code == 1
    assert "--data-dir" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--host", "0.0.0.0"], 2, "--auth-secret-file"),
        (["--tls-cert", "/nowhere.pem"], 2, "--tls-key"),
        (["--model", "nix"], 2, "no kind of model called 'nix'"),
        (["--model", "echo", "--model", "echo"], 2, "Two models are called 'echo'"),
        (["--jwks-file", "/nowhere.json"], 2, "--issuer"),
        (["--host", "192.0.2.1", "--auth-secret", "s" * 32], 2, "not an address of this machine"),
        (["--data-dir", "/dev/null/x"], 1, "/dev/null/x"),
        (["--database", "mysql://x"], 1, "postgresql://"),
    ],
)
def test_what_keeps_it_from_starting_is_one_sentence(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    """In a process of its own: a gateway that did start would never end."""
    base = ["--data-dir", str(tmp_path / "data"), "--port", "0", "--admin-port", "0"]
    model = [] if "--model" in arguments else ["--model", "echo"]
    result = forked.run(["serve", *base, *model, *arguments], text=True, timeout=60)
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    complaint = result.stderr.splitlines()[-1]
    assert complaint.startswith("answerback: ")
    assert said in complaint
    assert "Traceback" not in result.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = ["serve", "--model", "echo", "--port", port, "--admin-port", "0", "--data-dir", str(tmp_path)]
        result = forked.run(command, text=True, timeout=60)
    assert result.returncode == 1
    assert f"port {port} is taken" in result.stderr.splitlines()[-1]


def test_show_config_starts_nothing(run: Run, tmp_path: Path) -> None:
    result = run("serve", "--show-config", "--data-dir", str(tmp_path / "data"), "--rate-limit", "0")
    assert result.code == 0
    assert "rate_limit = 0  # flag" in result.out
    assert not (tmp_path / "data").exists()
