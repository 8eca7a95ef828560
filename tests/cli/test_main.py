"""Help, versions, exit codes, and errors as one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from answerback import __version__
from answerback.cli import settings
from answerback.cli.main import build_app
from answerback.cli.settings import SETTINGS
from cli_process import Run


def test_help_shows_examples_and_exit_codes(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for text in ("serve", "token", "users", "doctor", "answerback ask", "3 cannot connect", "5 rate limited"):
        assert text in result.out


def test_no_command_is_a_usage_error_that_shows_help(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert "Usage: answerback" in result.out


def test_help_of_serve_has_every_setting(run: Run) -> None:
    out = run("serve", "--help").out
    assert [setting.flag for setting in SETTINGS if setting.flag not in out] == []


@pytest.mark.parametrize("command", [["users"], ["users", "delete"], ["token"], ["doctor"]])
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(build_app(), [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.output


CLIENT_ALONE = """
import sys
names = "aiohttp prometheus_client uvloop cryptography psycopg boto3 botocore PySide6 xllamacpp"
for name in names.split():
    sys.modules[name] = None
from answerback.cli.main import run
sys.exit(run(sys.argv[1:]))
"""
ANYWHERE = "--url ws://127.0.0.1:9"


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        *((f"{command} {ANYWHERE}", None) for command in ("ask hi", "chat", "demo", "doctor")),
        *((line, None) for line in ("serve --show-config", "conform ws://127.0.0.1:9", "cost", "token --user kim")),
        *(("serve --model echo", "server,local-llm"), ("demo", "server,local-llm"), ("desktop", "desktop")),
        *(("simulate --seeds 1", "server"), ("bench", "server"), ("bench --chaos", "server")),
        *(("nodes --database postgresql://x", "postgres"), ("users list --database postgresql://x/y", "postgres")),
        *(("aws status --stack x", "aws"), ("users list --stack x", "aws"), ("aws local", "aws,server,local-llm")),
    ],
)  # fmt: skip
def test_an_installation_of_the_client_alone_says_what_a_command_needs(line: str, extra: str | None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT_ALONE, *line.split()],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert "should not" not in done.stderr
    assert ("pip install" in done.stderr) is (extra is not None), done.stderr
    if extra is not None:
        assert f"pip install '.[{extra}]'" in done.stderr
        assert done.returncode == 1


def test_version(run: Run) -> None:
    assert run("--version").out == f"answerback {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--prt", "1"], "--port"),
        (["nonsense"], "nonsense"),
        (["serve", "--port", "x"], "--port must be a whole number from 0 to 65535, not 'x'"),
        (["users"], "Missing command"),
        (["users", "show"], "USER"),
        (["users", "set-limit", "bob", "many"], "off or default, not 'many'"),
        (["users", "usage", "--since", "then"], "--since must be a day"),
        (["token"], "--user is missing"),
        (["doctor", "--url", "http://x"], "--url must begin with ws:// or wss://"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run: Run, arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.startswith("answerback: ")
    assert result.err.count("\n") == 1


def test_a_defect_is_one_line_and_a_traceback_only_on_request(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: settings.Configuration) -> str:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(settings.Configuration, "as_toml", broken)
    result = run("serve", "--show-config")
    assert result.code == 1
    assert "ZeroDivisionError: boom" in result.err
    assert "--debug" in result.err
    assert result.err.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        run("--debug", "serve", "--show-config")


def test_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    program = f"{sys.executable} -m answerback serve --show-config | true"
    run = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (run.stdout, run.stderr) == ("", "")


@pytest.mark.process
def test_ctrl_c_while_the_command_is_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    done = subprocess.run(
        [sys.executable, "-m", "answerback", "--version"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (130, "")
