"""Real windows: the toolkit, its libraries, the fonts and the command, as a person starts them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PySide6.QtGui import QImage

pytestmark = pytest.mark.desktop_window

PROGRAM = Path(__file__).parent / "two_windows.py"
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
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    done = subprocess.run(
        command, env=environment(display), capture_output=True, text=True, timeout=4 * TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("cut.png", "repaired.png"):
        picture = QImage(str(tmp_path / name))
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
