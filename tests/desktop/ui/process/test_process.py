"""One log without anybody's words, hooks that catch what nobody did, one app a profile."""

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from answerback_desktop.ui.process import CrashWatch, InstanceServer, open_log, raise_running

SECRET = "what somebody asked"


@pytest.fixture
def log_path(tmp_path: Path):
    path = tmp_path / "desktop.log"
    handler = open_log(path)
    yield path
    logging.getLogger("answerback").removeHandler(handler)
    handler.close()


@pytest.fixture
def watch(qapp, tmp_path: Path):
    before = sys.excepthook
    watch = CrashWatch(tmp_path / "crash.log")
    watch.install()
    yield watch
    watch.remove()
    assert sys.excepthook is before


def raise_secret() -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as exc:
        raise ValueError(SECRET) from exc


def test_an_exception_is_logged_with_its_places_and_without_its_words(log_path: Path):
    try:
        raise_secret()
    except ValueError:
        logging.getLogger("answerback.desktop").exception("it went wrong")
    text = log_path.read_text(encoding="utf-8")
    assert "it went wrong" in text
    assert "ValueError" in text
    assert "KeyError" in text
    assert "raise_secret" in text
    assert SECRET not in text.replace("raise KeyError(SECRET)", "")


def test_what_nobody_caught_is_logged_and_reported(log_path: Path, watch: CrashWatch, qtbot):
    with qtbot.waitSignal(watch.happened, timeout=10_000):
        try:
            raise_secret()
        except ValueError:
            sys.excepthook(*sys.exc_info())
    thread = threading.Thread(target=raise_secret, name="a-thread")
    with qtbot.waitSignal(watch.happened, timeout=10_000):
        thread.start()
        thread.join()
    text = log_path.read_text(encoding="utf-8")
    assert text.count("nobody caught this") == 2
    assert SECRET not in text


def test_a_second_start_reaches_the_first(qapp, qtbot, tmp_path: Path):
    instance_server = InstanceServer(tmp_path)
    instance_server.listen()
    program = (
        "import sys, pathlib; from answerback_desktop.ui.process import raise_running;"
        "sys.exit(not raise_running(pathlib.Path(sys.argv[1])))"
    )
    with qtbot.waitSignal(instance_server.raise_asked, timeout=20_000):
        second = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    assert second.wait(20) == 0
    instance_server.close()
    assert not raise_running(tmp_path)


def test_the_remains_of_a_crash_are_in_nobodys_way(qapp, tmp_path: Path):
    left = InstanceServer(tmp_path)
    left.listen()
    again = InstanceServer(tmp_path)
    again.listen()
    assert again._server.isListening()
    again.close()
    left.close()
