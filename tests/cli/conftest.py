"""Commands run in this process, and real gateways in processes of their own. Nothing of the machine's own settings."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from answerback.cli.main import run as run_command
from cli_process import STOP_TIMEOUT_S, GatewayProcess, Result, Run, Serve, start_gateway


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANSWERBACK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """A command in this process; its exit code, stdout and stderr."""

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        code = run_command(arguments)
        return Result(int(code), *capfd.readouterr())

    return run


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts gateways; those that still run are killed at the end."""
    started: list[GatewayProcess] = []

    def serve(*arguments: str, data_dir: Path | None = None, terminal: int | None = None) -> GatewayProcess:
        log = tmp_path / f"serve-{len(started)}.log"
        gateway = start_gateway(*arguments, data_dir=data_dir or tmp_path / "data", log=log, terminal=terminal)
        started.append(gateway)
        return gateway

    yield serve
    for gateway in started:
        gateway.process.kill()
        gateway.process.wait(STOP_TIMEOUT_S)
        assert gateway.process.stdout is not None
        gateway.process.stdout.close()
        print(gateway.log.read_text())  # shown where the test has failed
