"""Real gateway processes, and the results of commands, for tests of any folder."""

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
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
    def admin_port(self) -> str:
        """From its log: the port was any free one."""
        return self.log.read_text().partition("admin port: http://127.0.0.1:")[2].split()[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


Serve = Callable[..., GatewayProcess]


def start_gateway(*arguments: str, data_dir: Path, log: Path, terminal: int | None = None) -> GatewayProcess:
    """Start `answerback serve` with the echo model on free ports, and wait until it listens.

    It has no controlling terminal, or `terminal`, a file descriptor of one.
    """
    model = [] if "--model" in arguments else ["--model", "echo"]
    with log.open("w") as stderr:
        process = Command(
            ["serve", "--port", "0", "--admin-port", "0", *model, "--data-dir", str(data_dir), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("ANSWERBACK_")},
            start_new_session=True,
            terminal=terminal,
        )
    assert process.stdout is not None
    gateway = GatewayProcess(process, process.stdout.readline().rstrip("\n"), data_dir, log)
    if not gateway.first_line:
        process.wait(STOP_TIMEOUT_S)
        process.stdout.close()
        raise AssertionError(log.read_text())
    return gateway


def start_standby(data_dir: Path, log: Path) -> "subprocess.Popen[str]":
    """A second gateway on the data folder, when it has said that it stands by."""
    command = ["serve", "--standby", "--model", "echo", "--port", "0", "--admin-port", "0", "--data-dir", str(data_dir)]
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
