"""What a gateway tells systemd, over a socket of the test: Type=notify, ExecReload=, WatchdogSec=."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from answerback.gateway.service_manager import notify, stay_alive
from cli_process import STOP_TIMEOUT_S, Serve, start_standby

pytestmark = pytest.mark.process


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield manager


def next_state(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def test_ready_reload_and_stop(serve: Serve, manager: socket.socket) -> None:
    gateway = serve()
    assert next_state(manager) == {"READY": "1", "STATUS": gateway.first_line}
    gateway.process.send_signal(signal.SIGHUP)
    reloading = next_state(manager)
    assert reloading.pop("RELOADING") == "1"
    assert int(reloading.pop("MONOTONIC_USEC")) > 0
    assert next_state(manager) == {"READY": "1"}
    assert gateway.stop() == 0
    assert next_state(manager) == {"STOPPING": "1"}


def test_a_spare_is_ready_to_stand_by_and_the_watchdog_hears_it(
    serve: Serve, manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serve()
    assert next_state(manager)["STATUS"] == first.first_line
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    second = start_standby(first.data_dir, tmp_path / "second.log")
    try:
        said: list[dict[str, str]] = []
        while sum("WATCHDOG" in state for state in said) < 4 or not any("READY" in state for state in said):
            said.append(next_state(manager))
        assert {"READY": "1", "STATUS": "standing by: another gateway uses the store"} in said
    finally:
        second.terminate()
        second.communicate(timeout=STOP_TIMEOUT_S)


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "@nobody-is-there"])
def test_nobody_listens(address: str) -> None:
    notify("READY=1", environ={"NOTIFY_SOCKET": address})


async def test_an_abstract_socket() -> None:
    name = f"answerback-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        notify("READY=1", "STATUS=a b", environ={"NOTIFY_SOCKET": f"@{name}"})
        assert manager.recv(99) == b"READY=1\nSTATUS=a b"


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)}]
)
async def test_no_watchdog(environ: dict[str, str]) -> None:
    await stay_alive(environ)
