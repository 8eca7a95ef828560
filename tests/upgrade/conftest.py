"""Copies of what ff0d8e5 wrote, and gateways on them."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli_process import STOP_TIMEOUT_S, GatewayProcess, start_gateway
from kept import FOLDER, LONG_TIMEOUTS, MODELS

Serve = Callable[..., GatewayProcess]


@pytest.fixture(scope="package", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ANSWERBACK_")]:
            patch.delenv(name)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="package")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts gateways with the models that the kept requests ask for; those that still run are killed at the end."""
    started: list[GatewayProcess] = []

    def serve(*arguments: str) -> GatewayProcess:
        folder = tmp_path_factory.mktemp("gateway")
        options = (*MODELS, *LONG_TIMEOUTS, "--rate-limit", "0", *arguments)
        started.append(start_gateway(*options, data_dir=folder / "data", log=folder / "log"))
        return started[-1]

    yield serve
    for gateway in started:
        gateway.process.kill()
        gateway.process.wait(STOP_TIMEOUT_S)
        assert gateway.process.stdout is not None
        gateway.process.stdout.close()


@pytest.fixture
def copied_sqlite(tmp_path: Path) -> tuple[str, ...]:
    """The flags of a copy of the kept SQLite file."""
    shutil.copy(FOLDER / "answerback.db", tmp_path)
    return ("--data-dir", str(tmp_path))
