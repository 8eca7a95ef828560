"""The files of packaging/server: what they name is there, and nginx, HAProxy, systemd and Prometheus take them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from answerback.cli.settings import SETTINGS
from cli_process import STOP_TIMEOUT_S, GatewayProcess, Serve, start_gateway

pytestmark = pytest.mark.process

SERVER = Path(__file__).parents[2] / "packaging/server"
PROMTOOL = Path(__file__).parents[2] / ".cache/promtool"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- proxies -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["nginx", "haproxy"])
def proxied(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> Iterator[tuple[GatewayProcess, int, int]]:
    """A gateway behind a proxy by our file; the proxy's port and the one where the other gateway is expected."""
    program = shutil.which(request.param, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"no {request.param} here")
    first, front, spare = serve(), free_port(), free_port()
    name = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[request.param]
    text = (SERVER / name).read_text()
    for old, new in (
        ("first:8765", first.url.removeprefix("ws://")),
        ("second:8765", f"127.0.0.1:{spare}"),
        ("listen 8765", f"listen 127.0.0.1:{front}"),
        ("bind :8765", f"bind 127.0.0.1:{front}"),
    ):
        text = text.replace(old, new)
    path = tmp_path / name
    path.write_text(text)
    command = {
        "nginx": [program, "-p", tmp_path, "-e", "stderr", "-c", path, "-g", f"daemon off; pid {tmp_path}/nginx.pid;"],
        "haproxy": [program, "-db", "-f", path],
    }[request.param]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        try:
            yield first, front, spare
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def ask(port: int, request_id: str) -> str:
    """The whole answer, through a proxy that may still start or change over."""
    for _ in range(600):
        try:
            with connect(f"ws://127.0.0.1:{port}/?userId=u&sessionId=s", proxy=None) as app:
                app.send(json.dumps({"action": "sendMessage", "requestId": request_id, "message": "hello there"}))
                while (frame := json.loads(app.recv(timeout=30)))["action"] != "messageResponse":
                    pass
                return str(frame["response"])
        except (OSError, WebSocketException):  # refused, cut, or answered by the proxy alone
            time.sleep(0.05)
    raise AssertionError("no answer through the proxy")


def test_answers_come_through_a_proxy_and_the_other_gateway_takes_over(
    proxied: tuple[GatewayProcess, int, int], serve: Serve
) -> None:
    first, port, spare = proxied
    assert ask(port, "r1") == "hello there"
    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok"}
    first.stop(signal.SIGKILL)
    serve("--port", str(spare))
    assert ask(port, "r2") == "hello there"


# --- systemd -------------------------------------------------------------------------------------------------


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    unit = tmp_path / "answerback.service"
    program = shutil.which("true")
    unit.write_text((SERVER / "answerback.service").read_text().replace("/opt/answerback/bin/answerback", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- containers ----------------------------------------------------------------------------------------------


def test_flags_and_variables_of_the_files_are_settings() -> None:
    flags, variables = {one.flag for one in SETTINGS} | {"--config"}, {one.variable for one in SETTINGS}
    for path in SERVER.iterdir():
        text = path.read_text()
        assert set(re.findall(r"ANSWERBACK_\w+", text)) <= variables, path
        for line in re.findall(r"(?:answerback|CMD|command:).*\bserve\b(.*)", text):
            assert set(re.findall(r"--[a-z-]+", line)) <= flags | {"--build"}, path


def test_the_compose_file_is_two_gateways_a_database_and_a_proxy() -> None:
    compose = yaml.safe_load((SERVER / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"postgres", "first", "second", "nginx"}
    for name in ("first", "second"):
        assert services[name]["read_only"] is True
        assert (SERVER / services[name]["build"]["context"] / services[name]["build"]["dockerfile"]).is_file()
        assert f"server {name}:8765" in (SERVER / "nginx.conf").read_text()
    for mount in services["nginx"]["volumes"]:
        assert (SERVER / mount.split(":")[0]).is_file()
    named = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert set(compose["volumes"]) == {name for name in named if not name.startswith(".")}


# --- metrics -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The metrics of a gateway that has answered, failed and refused."""
    folder = tmp_path_factory.mktemp("metrics")
    models = ("--model", "good=echo", "--model", "broken=echo:fail=unavailable")
    gateway = start_gateway(*models, data_dir=folder / "data", log=folder / "log")
    try:
        with connect(f"{gateway.url}/?userId=u&sessionId=s", proxy=None) as app:
            for number, model in enumerate(("good", "broken", "none")):
                question = {"action": "sendMessage", "requestId": f"r{number}", "message": "hello there"}
                app.send(json.dumps({**question, "model": model}))
                while json.loads(app.recv(timeout=60)).get("status") not in ("completed", "failed"):
                    pass
        yield read_metrics(gateway, "metrics.key")
    finally:
        gateway.stop()
        assert gateway.process.stdout is not None
        gateway.process.stdout.close()


def read_metrics(gateway: GatewayProcess, key: str, path: str = "metrics") -> str:
    shown = (gateway.data_dir / key).read_text().strip()
    url = f"http://127.0.0.1:{gateway.admin_port}/{path}"
    with urlopen(Request(url, headers={"Authorization": f"Bearer {shown}"}), timeout=10) as answer:
        return str(answer.read().decode())


def test_metrics_by_model(metrics: str) -> None:
    for line in (
        'answerback_model_requests_total{code="",model="good",status="completed"} 1.0',
        'answerback_model_requests_total{code="model_unavailable",model="broken",status="failed"} 1.0',
        'answerback_requests_total{code="",status="completed"} 1.0',
        'answerback_refused_total{code="forbidden"} 1.0',
        'answerback_model_tokens_total{direction="output",model="good"} 2.0',
    ):
        assert line in metrics
    assert 'model="none"' not in metrics, "a client must not make labels"
    assert float(re.findall(r"^answerback_database_bytes (\S+)", metrics, re.MULTILINE)[0]) > 0


def expressions() -> list[str]:
    dashboard: dict[str, Any] = json.loads((SERVER / "dashboard.json").read_text())
    rules = yaml.safe_load((SERVER / "alerts.yml").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return shown + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_dashboard_and_alerts_read_metrics_that_there_are(metrics: str) -> None:
    samples = dict(re.findall(r"^(\w+)(\{.*\})? \S+$", metrics, re.MULTILINE))
    for expression in expressions():
        named = re.findall(r"\b((?:answerback|process)_\w+)(?:\{([^}]*)\})?", expression)
        assert named or expression.startswith("up{"), expression
        for name, selectors in named:
            assert name in samples, expression
            labels = set(re.findall(r"(\w+)=~?\"", selectors)) - {"instance", "job"}
            assert labels <= set(re.findall(r'(\w+)="', samples[name])), expression
        for label in re.findall(r"by \(([^)]*)\)", expression):
            known = set(re.findall(r'(\w+)="', "".join(samples[name] for name, _ in named))) | {"instance", "job"}
            assert {one.strip() for one in label.split(",")} <= known, expression


def test_prometheus_takes_the_alerts_and_each_rings(tmp_path: Path) -> None:
    if not PROMTOOL.is_file():
        pytest.skip("no promtool here")
    shutil.copy(SERVER / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "alerts_test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tested = yaml.safe_load((tmp_path / "alerts_test.yml").read_text())
    rung = {one["alertname"] for test in tested["tests"] for one in test["alert_rule_test"] if one.get("exp_alerts")}
    rules = yaml.safe_load((SERVER / "alerts.yml").read_text())
    assert rung == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def test_the_alert_rings_when_all_answers_of_a_gateway_fail(serve: Serve, tmp_path: Path) -> None:
    """With what a real gateway has told of three answers, as if it had failed so many each minute."""
    if not PROMTOOL.is_file():
        pytest.skip("no promtool here")
    gateway = serve("--model", "broken=echo:fail=unavailable")
    with connect(f"{gateway.url}/?userId=u&sessionId=s", proxy=None) as app:
        for number in range(3):
            app.send(json.dumps({"action": "sendMessage", "requestId": f"r{number}", "message": "hello there"}))
            while json.loads(app.recv(timeout=60)).get("status") != "failed":
                pass
    told = re.findall(r"^(answerback_\w+_total)\{(.*)\} (\d+)", read_metrics(gateway, "metrics.key"), re.MULTILINE)
    series = [
        {"series": f'{name}{{instance="a",{labels}}}', "values": f"0+{count}x40"}
        for name, labels, count in told
        if int(count)
    ]
    labels = {"AnswerbackAnswersFail": {}, "AnswerbackModelUnavailable": {"model": "broken"}}
    written = {
        rule["alert"]: rule for rule in yaml.safe_load((SERVER / "alerts.yml").read_text())["groups"][0]["rules"]
    }
    tests = [
        {
            "alertname": name,
            "eval_time": "30m",
            "exp_alerts": [
                {
                    "exp_labels": {"severity": "page", "instance": "a", **more},
                    "exp_annotations": {
                        "summary": written[name]["annotations"]["summary"]
                        .replace("{{ $labels.instance }}", "a")
                        .replace("{{ $labels.model }}", "broken")
                    },
                }
            ],
        }
        for name, more in labels.items()
    ]
    shutil.copy(SERVER / "alerts.yml", tmp_path)
    whole = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m"}
    whole["tests"] = [{"interval": "1m", "input_series": series, "alert_rule_test": tests}]
    (tmp_path / "test.yml").write_text(yaml.safe_dump(whole))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- keys and health -----------------------------------------------------------------------------------------


def test_the_key_of_the_metrics_opens_nothing_else(serve: Serve) -> None:
    gateway = serve()
    assert (gateway.data_dir / "metrics.key").stat().st_mode & 0o077 == 0
    assert read_metrics(gateway, "metrics.key") != ""
    for path in ("requests", "users", "usage", "nothing"):
        with pytest.raises(HTTPError, match="403"):
            read_metrics(gateway, "metrics.key", path)
        assert path == "nothing" or read_metrics(gateway, "admin.key", path)
    (gateway.data_dir / "metrics.key").write_text("x" * 40)
    gateway.process.send_signal(signal.SIGHUP)
    while "read again" not in gateway.log.read_text():
        time.sleep(0.01)
    assert read_metrics(gateway, "metrics.key") != ""


def test_health_can_be_off_on_the_port_of_the_sockets(serve: Serve) -> None:
    for flags, status in (((), 200), (("--no-public-health",), 426)):
        gateway = serve(*flags)
        for path in ("healthz", "readyz"):
            try:
                with urlopen(f"{gateway.url.replace('ws:', 'http:')}/{path}", timeout=10) as answer:
                    found = answer.status
            except HTTPError as error:
                found = error.code
            assert found == status
        gateway.stop()
