"""Real gateway processes: on a fixed port, so that apps find the next one where the last one was, or of a fleet."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cli_process import STOP_TIMEOUT_S, GatewayProcess, Serve, start_gateway


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANSWERBACK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def serve(tmp_path: Path, unused_port: int) -> Iterator[Serve]:
    """Starts gateways on one data folder and one port; those that still run are killed at the end."""
    started: list[GatewayProcess] = []

    def serve(*arguments: str, data_dir: Path | None = None) -> GatewayProcess:
        log = tmp_path / f"serve-{len(started)}.log"
        options = ("--port", str(unused_port), "--rate-limit", "0", *arguments)
        gateway = start_gateway(*options, data_dir=data_dir or tmp_path / "data", log=log)
        started.append(gateway)
        return gateway

    yield serve
    for gateway in started:
        gateway.process.kill()
        gateway.process.wait(STOP_TIMEOUT_S)
        assert gateway.process.stdout is not None
        gateway.process.stdout.close()


@pytest.fixture
def database(postgres_server: Any, tmp_path: Path) -> str:
    """The URL of a database of the test's own."""
    name = f"fleet_{tmp_path.name}".lower()[:60].replace("-", "_")
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    return postgres_server.url.replace("/postgres?", f"/{name}?")


@pytest.fixture
def join(tmp_path: Path, database: str) -> Iterator[Serve]:
    """Starts gateways of one fleet; those that still run are killed at the end."""
    started: list[GatewayProcess] = []

    def join(node: str, *arguments: str, source: Path | None = None) -> GatewayProcess:
        model = () if "--model" in arguments else ("--model", "echo:delay_ms=25")
        options = ("--rate-limit", "0", *model, "--database", database, "--node", node)
        log = tmp_path / f"{len(started)}-{node}.log"
        gateway = start_gateway(*options, *arguments, data_dir=tmp_path / node, log=log, source=source)
        started.append(gateway)
        return gateway

    yield join
    for gateway in started:
        gateway.process.kill()
        gateway.process.wait(STOP_TIMEOUT_S)
        assert gateway.process.stdout is not None
        gateway.process.stdout.close()
