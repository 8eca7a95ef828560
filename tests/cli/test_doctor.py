"""`answerback doctor`: what it finds on a good machine and on bad ones."""

import json
import os
import re
import socket
import threading
from email.utils import formatdate
from pathlib import Path

import pytest

from answerback.cli import doctor, probe
from answerback.cli.probe import Level
from answerback.gateway.settings import GatewaySettings
from cli_process import Run, Serve

pytestmark = pytest.mark.process


def findings(out: str) -> dict[str, tuple[str, str, str | None]]:
    return {c["check"]: (c["level"], c["text"], c["advice"]) for c in json.loads(out)["checks"]}


def test_a_good_machine_passes(run: Run, tmp_path: Path) -> None:
    result = run("doctor", "--model", "echo", "--port", "0", "--data-dir", str(tmp_path / "data"), "--deep", "--json")
    found = findings(result.out)
    assert result.code == 0
    assert json.loads(result.out)["ok"] is True
    assert {"python", "packages", "data folder", "disk", "store", "authentication", "model", "port"} <= found.keys()
    assert found["model"][:2] == ("ok", found["model"][1])
    assert "echo said 'Say hello.'" in found["model"][1]
    assert not (tmp_path / "data").exists()


def test_in_a_pipe_each_finding_is_one_line_of_fields(run: Run, tmp_path: Path) -> None:
    lines = run("doctor", "--model", "echo", "--port", "0", "--data-dir", str(tmp_path)).out.splitlines()
    assert {line.split("\t")[0] for line in lines} <= {"ok", "warn"}
    assert all(len(line.split("\t")) in {3, 4} for line in lines)


def test_a_running_gateway_is_found_and_talked_to(serve: Serve, run: Run) -> None:
    gateway = serve()
    port = gateway.url.rpartition(":")[2]
    local = findings(
        run("doctor", "--model", "echo", "--port", port, "--data-dir", str(gateway.data_dir), "--json").out
    )
    assert "in use by a running gateway" in local["store"][1]
    assert local["gateway"][0] == local["clock"][0] == "ok"
    remote = run("doctor", "--url", gateway.url, "--deep", "--json")
    assert remote.code == 0
    assert findings(remote.out)["answer"][1].startswith("'Say hello.'")
    tls = run("doctor", "--url", gateway.url.replace("ws://", "wss://"), "--json")
    assert "this port speaks ws://, without TLS" in findings(tls.out)["gateway"][1]


def test_a_token_is_checked_here_and_there(
    serve: Serve, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    run("token", "--new-secret", str(secret))
    gateway = serve("--auth-secret-file", str(secret))
    monkeypatch.setenv("ANSWERBACK_AUTH_SECRET_FILE", str(secret))
    without = run("doctor", "--url", gateway.url, "--json")
    assert without.code == 1
    assert findings(without.out)["token"][1].endswith("wants a token")
    monkeypatch.delenv("ANSWERBACK_AUTH_SECRET_FILE")
    port = gateway.url.rpartition(":")[2]
    here = run("doctor", "--model", "echo", "--port", port, "--data-dir", str(gateway.data_dir), "--json")
    assert findings(here.out)["token"][1].endswith("wants a token"), "it is a gateway, though no setting says so"
    monkeypatch.setenv("ANSWERBACK_AUTH_SECRET_FILE", str(secret))
    monkeypatch.setenv("ANSWERBACK_TOKEN", run("token", "--user", "alice").out.strip())
    assert "user alice" in findings(run("doctor", "--url", gateway.url, "--json").out)["gateway"][1]
    here = findings(run("doctor", "--model", "echo", "--port", "0", "--json").out)
    assert here["authentication"][0] == "ok"
    assert here["token"][1] == "ANSWERBACK_TOKEN speaks for alice"
    monkeypatch.setenv("ANSWERBACK_TOKEN", "nonsense")
    assert findings(run("doctor", "--url", gateway.url, "--json").out)["token"][1].endswith("refuses the token")
    assert findings(run("doctor", "--model", "echo", "--port", "0", "--json").out)["token"][0] == "fail"


def test_nobody_there(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = run("doctor", "--url", f"ws://127.0.0.1:{unused.getsockname()[1]}", "--json")
    assert result.code == 1
    level, text, advice = findings(result.out)["gateway"]
    assert (level, advice) == ("fail", "start it: answerback serve")
    assert "nobody is there" in text


def test_something_else_on_the_port_is_no_gateway(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        answering = threading.Thread(target=_answer_like_a_web_server, args=(other,))
        answering.start()
        port = str(other.getsockname()[1])
        result = run("doctor", "--model", "echo", "--port", port, "--data-dir", str(tmp_path), "--json")
        answering.join()
    assert findings(result.out)["port"][0] == "warn"


def _answer_like_a_web_server(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)  # root may write anywhere
    found = list(doctor.check_data_dir(GatewaySettings(data_dir=tmp_path / "data")))
    assert found[0].level is Level.FAIL
    assert str(tmp_path) in found[0].text


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    found = list(doctor.check_data_dir(GatewaySettings(data_dir=tmp_path / "data")))
    assert (found[0].level, found[0].advice) == (Level.FAIL, "say another --data-dir")


def test_a_broken_database_is_reported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "answerback.db").write_bytes(b"this is no database" * 1000)
    result = run("doctor", "--model", "echo", "--port", "0", "--data-dir", str(tmp_path), "--json")
    assert result.code == 1
    assert findings(result.out)["store"][0] == "fail"


@pytest.mark.parametrize(
    ("model", "advice"),
    [("nix", "there is no kind of model"), ("python:no_such_module_here:make", "no_such_module_here")],
)
def test_a_model_that_cannot_be_used(run: Run, tmp_path: Path, model: str, advice: str) -> None:
    result = run("doctor", "--model", model, "--port", "0", "--data-dir", str(tmp_path), "--json")
    level, _, said = findings(result.out)["model"]
    assert (result.code, level) == (1, "fail")
    assert advice in str(said)


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "local-llm", ("no_such_module_here",))
    found = list(doctor.check_installation(GatewaySettings(data_dir=tmp_path, models=("mine=local",))))
    [missing] = [finding for finding in found if finding.level is Level.FAIL]
    assert missing.advice == "pip install '.[local-llm]', or use --model echo"


def test_nothing_is_wrong_where_only_the_client_is_installed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for extra in doctor.EXTRAS:
        monkeypatch.setitem(doctor.EXTRAS, extra, ("no_such_module_here",))
    monkeypatch.setattr(doctor, "find_weights", lambda: pytest.fail("no gateway runs here"))
    result = run("doctor", "--data-dir", str(tmp_path), "--json")
    assert result.code == 0
    assert findings(result.out)["packages"][0] == "warn"
    assert "weights" not in findings(result.out)


@pytest.mark.parametrize(("off_s", "level"), [(0, Level.OK), (-20, Level.OK), (3600, Level.WARN), (-3600, Level.WARN)])
def test_clocks_are_compared(off_s: float, level: Level) -> None:
    [finding] = probe.check_clock(formatdate(1_000_000 + off_s, usegmt=True), now_s=1_000_000)
    assert finding.level is level
    assert ("ahead" in finding.text) == (off_s > 60)


def test_it_speaks_korean_where_the_locale_does(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    arguments = ("doctor", "--model", "echo", "--port", "0", "--data-dir", str(tmp_path))
    lines = run(*arguments).out.splitlines()
    assert all(re.search("[가-힣]", line) for line in lines if "\tdata folder\t" not in line), lines
    assert {line.split("\t")[0] for line in lines} <= {"ok", "warn", "fail"}, "for scripts"
    assert not re.search("[가-힣]", run(*arguments, "--json").out)


def test_the_health_of_a_store(serve: Serve, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = serve()
    place = ("--data-dir", str(gateway.data_dir))

    def found(*options: str) -> list[tuple[str, str, str]]:
        out = run("doctor", "--model", "echo", "--port", "0", *place, *options, "--json").out
        checks = [(one["check"], one["level"], one["text"]) for one in json.loads(out)["checks"]]
        return [one for one in checks if one[0] in {"database", "backup", "disk"}]

    told = found("--deep")
    assert ("database", "ok", "every page is whole") in told
    assert ("backup", "ok", "none is known here; answerback backup FOLDER makes one") in told
    assert run("backup", str(tmp_path / "b"), *place).code == 0
    assert ("backup", "ok", f"the last one is 0 days old, in {tmp_path / 'b'}") in found()
    gateway.stop()
    last = json.loads((gateway.data_dir / "backup.json").read_text())
    last["madeAtMs"] -= 30 * 86_400_000
    (gateway.data_dir / "backup.json").write_text(json.dumps(last))
    (gateway.data_dir / "answerback.db").chmod(0o644)
    with (gateway.data_dir / "answerback.db").open("r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 6_000, 3 * 4_096)
    monkeypatch.setattr(doctor, "LONG_LOG_BYTES", -1)
    told = found("--deep")
    assert ("backup", "warn", f"the last one is 30 days old, in {tmp_path / 'b'}") in told
    assert ("database", "warn", "others on this machine may read it") in told
    assert any(level == "warn" and "its log has" in text for _, level, text in told)
    assert any(level == "fail" and text.startswith("it is damaged") for _, level, text in told)
