"""Real gateway processes, and the results of commands, for tests of any folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.request import Request, urlopen

from forked import Command

STOP_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


class Run(Protocol):
    """Runs one command."""

    def __call__(self, *arguments: str) -> Result: ...


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A real `answerback serve`. `first_line` is what it said first."""

    process: subprocess.Popen[str]
    first_line: str
    data_dir: Path
    log: Path

    @property
    def url(self) -> str:
        return self.first_line.removeprefix("listening on ")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def admin_port(self) -> str:
        """From its log: the port was any free one."""
        return self.log.read_text().partition("admin port: http://127.0.0.1:")[2].split()[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


Serve = Callable[..., GatewayProcess]


def start_gateway(
    *arguments: str, data_dir: Path, log: Path, terminal: int | None = None, source: Path | None = None
) -> GatewayProcess:
    """Start `answerback serve` with the echo model on free ports, and wait until it listens.

    It has no controlling terminal, or `terminal`, a file descriptor of one. `source`: of another version.
    """
    model = [] if "--model" in arguments else ["--model", "echo"]
    command = ["serve", "--port", "0", "--admin-port", "0", *model, "--data-dir", str(data_dir), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSWERBACK_")}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with log.open("w") as stderr:
        options["stderr"] = stderr
        if source is None:
            process: subprocess.Popen[str] = Command(command, env=environment, terminal=terminal, **options)
        else:
            main = [sys.executable, "-c", "from answerback.cli.entry import main; main()"]
            process = subprocess.Popen([*main, *command], env=environment | {"PYTHONPATH": str(source)}, **options)
    assert process.stdout is not None
    gateway = GatewayProcess(process, process.stdout.readline().rstrip("\n"), data_dir, log)
    if not gateway.first_line:
        process.wait(STOP_TIMEOUT_S)
        process.stdout.close()
        raise AssertionError(log.read_text())
    return gateway


def start_standby(data_dir: Path, log: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A second gateway on the data folder, when it has said that it stands by."""
    arguments = arguments or ("--model", "echo", "--port", "0")
    command = ["serve", "--standby", "--admin-port", "0", "--data-dir", str(data_dir), *arguments]
    with log.open("w") as stderr:
        process = Command(command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True)
    while "standing by" not in log.read_text():
        assert process.poll() is None, log.read_text()
    return process


def read_admin(gateway: GatewayProcess, path: str) -> str:
    """What the admin port says there."""
    key = (gateway.data_dir / "admin.key").read_text().strip()
    url = f"http://127.0.0.1:{gateway.admin_port}/{path}"
    with urlopen(Request(url, headers={"Authorization": f"Bearer {key}"}), timeout=10) as told:
        return str(told.read().decode())
