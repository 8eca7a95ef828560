"""`answerback aws local`: the environment it makes, the database it starts, what runs, and that nothing is left."""

import asyncio
import glob
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from answerback.cli.main import run as cli
from answerback.client import Client
from answerback_aws.deploy.stack import StackEvent
from answerback_aws.emulator.emulator import LocalFailed
from answerback_aws.emulator.emulator import emulator_python as made_python
from answerback_aws.emulator.postgres import PostgresServer
from answerback_aws.emulator.run import LocalSettings, local_stack
from emulation import ENVIRONMENT, emulator_python


class Steps:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, text: str) -> None:
        self.said.append(text)

    def event(self, event: StackEvent) -> None:
        pass


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made, seen by nobody else."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_environment_is_made_once(tmp_path: Path) -> None:
    pins, steps = tmp_path / "pins.txt", Steps()
    pins.write_text("")
    python = made_python(tmp_path / "cache", steps.step, pins=pins)
    assert (
        subprocess.run([python, "-c", "import sys; assert sys.prefix != sys.base_prefix"], check=True).returncode == 0
    )
    assert made_python(tmp_path / "cache", steps.step, pins=pins) == python
    assert len(steps.said) == 1


PYTHON_WITHOUT_NETWORK = """#!/bin/sh
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; else echo "no such wheel"; exit 1; fi
"""


def test_an_installation_that_failed_says_why_and_does_not_count(tmp_path: Path, monkeypatch) -> None:
    pins, cache, python = tmp_path / "pins.txt", tmp_path / "cache", tmp_path / "python"
    pins.write_text("")
    python.write_text(PYTHON_WITHOUT_NETWORK)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(LocalFailed, match="cannot install the emulator:\nno such wheel"):
        made_python(cache, lambda _text: None, pins=pins)
    assert list(cache.rglob("installed")) == []


@pytest.mark.postgres
def test_the_database_runs_and_leaves_nothing() -> None:
    if not glob.glob("/usr/lib/postgresql/*/bin/initdb"):
        pytest.skip("no PostgreSQL server binary was found")
    with PostgresServer() as server:
        folder = Path(server.dsn.split()[0].removeprefix("host="))
        assert (folder / ".s.PGSQL.5432").exists()
    assert not folder.exists()


def test_without_postgresql_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("answerback_aws.emulator.postgres._PLACES", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LocalFailed, match="apt-get install postgresql"):
        PostgresServer()


@pytest.mark.parametrize("model", ["bedrock:amazon.nova-lite-v1:0", "nonsense"])
def test_a_model_that_cannot_be_used_is_refused(model: str, tmp_path: Path, temporary: Path) -> None:
    settings = LocalSettings(model=model, cache=tmp_path, python=Path("unused"))
    with pytest.raises(LocalFailed), local_stack(settings, Steps()):
        pass
    assert list(temporary.iterdir()) == []


@pytest.mark.emulator
@pytest.mark.postgres
@pytest.mark.timeout(180)
def test_it_answers_and_leaves_nothing(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With IAM enforced, through the deployment's own code, and for a user with a budget in money."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    async def ask(url: str) -> str:
        async with Client(url, user="somebody") as client:
            return (await client.ask("is anybody there", model="echo", timeout=100)).text

    steps = Steps()
    settings = LocalSettings(model="echo", cache=ENVIRONMENT.parent, python=emulator_python())
    with local_stack(settings, steps) as run:
        place = ("--stack", "answerback", "--region", "us-east-1", "--endpoint-url", run.endpoint)
        assert cli(["users", "set-budget", "somebody", "1usd/day", *place]) == 0
        assert asyncio.run(ask(run.url)) == "is anybody there"
        assert run.outputs["WebSocketUrl"] == run.url
        assert not [value for value in run.outputs.values() if "amazonaws.com" in value], "nothing of this is AWS"
    assert list(temporary.iterdir()) == []
    assert "Creating the stack answerback" in steps.said
