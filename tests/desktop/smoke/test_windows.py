"""Real windows: the toolkit, its libraries, the fonts and the command, as a person starts them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PySide6.QtGui import QImage

from cli_process import start_gateway

pytestmark = pytest.mark.desktop_window

PROGRAMS = Path(__file__).parent
SUPPORT = Path(__file__).parents[2] / "support"
TIMEOUT_S = 60.0


def environment(display: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QT_", "WAYLAND_"))}
    return {
        **kept,
        "DISPLAY": display,
        "PYTHONPATH": str(SUPPORT),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    }


def test_two_windows_ask_at_once_and_a_cut_heals(display: str, tmp_path: Path):
    run(display, "two_windows.py", tmp_path)
    look_at(tmp_path / "cut.png", tmp_path / "repaired.png")


MODEL = """
from answerback.models.echo import EchoModel, EchoOptions

def make():
    return EchoModel(EchoOptions(delay_ms=20, parts=True))
"""


def test_a_second_window_of_the_same_person_shows_an_answer_live_and_anothers_shows_nothing(
    display: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "patient.py").write_text(MODEL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    folder, log = tmp_path / "gateway", tmp_path / "gateway.log"
    gateway = start_gateway("--model", "python:patient:make", data_dir=folder, log=log)
    try:
        run(display, "three_windows.py", tmp_path, gateway.url)
    finally:
        gateway.stop()
        gateway.process.stdout.close()
    look_at(tmp_path / "live.png")


def run(display: str, program: str, *arguments: object) -> None:
    command = [sys.executable, str(PROGRAMS / program), *map(str, arguments)]
    done = subprocess.run(
        command, env=environment(display), capture_output=True, text=True, timeout=4 * TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def look_at(*pictures: Path) -> None:
    """They are of the whole screen, and something is drawn."""
    for path in pictures:
        picture = QImage(str(path))
        assert (picture.width(), picture.height()) == (1600, 1000)
        assert len({picture.pixel(x, y) for x in range(0, 1600, 7) for y in range(0, 1000, 7)}) > 20, "nothing is drawn"


def test_the_command_opens_one_window_a_profile_and_ends_with_a_signal(display: str, tmp_path: Path):
    command = [sys.executable, "-m", "answerback", "desktop", "--data-dir", str(tmp_path), "--url", "ws://127.0.0.1:1"]
    first = subprocess.Popen(command, env=environment(display), stderr=subprocess.PIPE, text=True)
    try:
        log = tmp_path / "default" / "desktop.log"
        end = time.monotonic() + TIMEOUT_S
        while not (log.exists() and "the app has started" in log.read_text(encoding="utf-8")):
            assert first.poll() is None, first.stderr.read()
            assert time.monotonic() < end, "it did not start"
            time.sleep(0.05)
        again = subprocess.run(
            command, env=environment(display), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert (again.returncode, "is open already" in again.stderr) == (0, True), again.stderr
        first.send_signal(signal.SIGINT)
        assert first.wait(TIMEOUT_S) == 0
    finally:
        first.kill()
        first.wait()
        first.stderr.close()


def test_without_a_display_it_says_what_to_do(tmp_path: Path):
    command = [sys.executable, "-m", "answerback", "desktop", "--data-dir", str(tmp_path)]
    bare = {name: value for name, value in environment("").items() if name != "DISPLAY"}
    done = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 1
    assert "there is no display" in done.stderr
    assert "Traceback" not in done.stderr
