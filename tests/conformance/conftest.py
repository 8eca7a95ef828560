"""Real gateway processes for the cases, one of each kind for the whole folder."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from answerback.cli.main import run as run_command
from answerback.core.budget import Budget, Period, Unit
from answerback.stores import open_store
from answerback_proof.conformance import load_models
from cli_process import STOP_TIMEOUT_S, GatewayProcess, Result, Run, start_gateway

SECRET = "a secret of the conformance tests, long enough"
SMALL_LIMITS = (
    *("--rate-limit", "2", "--max-pending-per-user", "2", "--idle-timeout", "5s"),
    *("--answer-timeout", "1s", "--queue-timeout", "1s", "--janitor-interval", "0.5s"),
)


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANSWERBACK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """A command in this process; its exit code, stdout and stderr."""

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        code = run_command(arguments)
        return Result(int(code), *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., GatewayProcess]]:
    """Starts gateways with every model that cases ask for; stops them at the end."""
    started: list[GatewayProcess] = []

    def serve(*arguments: str) -> GatewayProcess:
        folder = tmp_path_factory.mktemp("conform")
        models = [flag for need in load_models().values() for flag in ("--model", need.spec)]
        started.append(start_gateway(*models, *arguments, data_dir=folder / "data", log=folder / "log"))
        return started[-1]

    yield serve
    for gateway in started:
        gateway.process.kill()
        gateway.process.wait(STOP_TIMEOUT_S)
        assert gateway.process.stdout is not None
        gateway.process.stdout.close()


@pytest.fixture(scope="session")
def gateway(serve: Callable[..., GatewayProcess]) -> GatewayProcess:
    """Without tokens and without a rate limit."""
    return serve("--rate-limit", "0")


@pytest.fixture(scope="session")
def gateway_with_a_budget(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Asks for tokens, and the user `conform` has a budget."""
    folder = tmp_path_factory.mktemp("budget")
    (folder / "data").mkdir()
    asyncio.run(_set_budget(folder / "data"))
    models = [flag for need in load_models().values() for flag in ("--model", need.spec)]
    secret = ("--rate-limit", "0", "--auth-secret", SECRET)
    started = start_gateway(*models, *secret, data_dir=folder / "data", log=folder / "log")
    with started.process:
        yield started
        started.process.kill()


async def _set_budget(folder: Path) -> None:
    store = await open_store(None, folder)
    await store.set_budget("conform", Period.DAY, Budget(2_500, Unit.TOKENS, Period.DAY), now_ms=0)
    await store.close()


@pytest.fixture(scope="session")
def gateway_with_tokens(serve: Callable[..., GatewayProcess]) -> GatewayProcess:
    """Asks for tokens made with SECRET."""
    return serve("--rate-limit", "0", "--auth-secret", SECRET)


@pytest.fixture(scope="session")
def gateway_with_small_limits(serve: Callable[..., GatewayProcess]) -> GatewayProcess:
    """Soon says no."""
    return serve(*SMALL_LIMITS)
