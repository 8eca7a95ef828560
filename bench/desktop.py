"""How much of a frame the desktop app takes while five answers stream at 50 tokens a second each.

    .venv/bin/python bench/desktop.py

A gateway in a process of its own (the `echo` model, a word every 20 ms); the real app without a screen: Qt's
`offscreen` platform draws everything and shows it nowhere. Twice: five conversations in one window, one of them seen;
and five windows in one process, all five answers seen, which is the worst that the toolkit's thread can be given.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"

from PySide6.QtCore import QEvent, QEventLoop, Qt, QTimer
from PySide6.QtWidgets import QApplication

from answerback_desktop.app import DesktopApp
from answerback_desktop.engine import Engine, Environment
from answerback_desktop.profile import Profile
from answerback_desktop.settings import Language, Settings, SettingsFile
from answerback_desktop.signin.vault import MemoryVault

STREAMS = 5
TOKENS_A_SECOND = 50
FRAME_MS = 1000 / 60
TIMEOUT_S = 60.0
PARAGRAPH = (
    "A **connection** stays open, and both sides may `speak` at any time; that is what [it](https://example.com) is "
    "for. Every frame says how long it is, so that nobody has to guess where it ends, not even at night. "
)
CODE = "\n```python\nfor frame in connection: \n    total += len(frame) \n    print(total) \n```\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=12)
    seconds = parser.parse_args().seconds
    application = QApplication(["answerback"])
    application.setQuitOnLastWindowClosed(False)
    print(f"{STREAMS} streams of {TOKENS_A_SECOND} tokens/s for {seconds} s, a frame is {FRAME_MS:.1f} ms")
    print(f"{'':<28}{'drawing a batch, ms':>36}{'longest':>12}{'CPU of':>10}{'memory':>10}")
    print(f"{'':<28}{'median':>12}{'p99':>12}{'most':>12}{'gap, ms':>12}{'the UI':>10}{'MB':>10}")
    for windows in (1, STREAMS):
        with tempfile.TemporaryDirectory() as folder:
            measure(application, Path(folder), windows, seconds)


def measure(application: QApplication, folder: Path, windows: int, seconds: int) -> None:
    """One line of the table."""
    serve = ("serve", "--port", "0", "--admin-port", "0", "--rate-limit", "0", "--grace", "0s", "--log-level", "error")
    model = ("--model", f"echo:delay_ms={1000 // TOKENS_A_SECOND}")
    command = [sys.executable, "-m", "answerback", *serve, *model, "--data-dir", str(folder / "gateway")]
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    apps: list[DesktopApp] = []
    try:
        url = gateway.stdout.readline().strip().removeprefix("listening on ")
        apps += [open_app(application, folder, number, url) for number in range(windows)]
        until(application, lambda: all(app.view_model.connection.is_online for app in apps))
        stream(application, apps, windows, seconds)
    finally:
        for app in apps:
            app.finish()
            app.dispose()
        gateway.kill()
        gateway.wait()


def stream(application: QApplication, apps: list[DesktopApp], windows: int, seconds: int) -> None:
    words = (PARAGRAPH * 3 + CODE).split(" ")
    count = seconds * TOKENS_A_SECOND
    for number in range(STREAMS):
        app = apps[number % windows]
        text = " ".join((words * (count // len(words) + 1))[:count])
        app.window.new_conversation()
        conversation = app.view_model.current
        conversation.ask(f"{number} {text}")
        until(application, lambda conversation=conversation: conversation.pending)
    until(application, lambda: sum(c.is_streaming for app in apps for c in app.view_model.conversations) == STREAMS)

    batches: list[float] = []
    gaps: list[float] = []
    for app in apps:
        time_pumps(app, batches)
    ticks = QTimer(interval=4, timerType=Qt.TimerType.PreciseTimer)
    last = [time.perf_counter()]

    def tick() -> None:
        now = time.perf_counter()
        gaps.append((now - last[0]) * 1000)
        last[0] = now

    ticks.timeout.connect(tick)
    ticks.start()
    loop = QEventLoop()
    QTimer.singleShot(int(seconds * 1000 * 0.8), loop.quit)
    wall, cpu = time.perf_counter(), time.thread_time()
    loop.exec()
    share = (time.thread_time() - cpu) / (time.perf_counter() - wall)
    ticks.stop()
    assert sum(c.is_streaming for app in apps for c in app.view_model.conversations) == STREAMS, "not all streamed"
    batches.sort()
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    name = "one window, one visible" if windows == 1 else "five windows, five visible"
    figures = (batches[len(batches) // 2], batches[int(len(batches) * 0.99)], batches[-1], max(gaps))
    print(f"{name:<28}{''.join(f'{figure:>12.1f}' for figure in figures)}{share:>10.0%}{memory_mb:>10.0f}", flush=True)


def time_pumps(app: DesktopApp, batches: list[float]) -> None:
    """Note what taking events and drawing them costs, whenever there were any."""
    told = [0]
    app.bridge.changed.connect(lambda _: told.__setitem__(0, 1))
    pump = app.bridge.pump

    def timed() -> None:
        told[0] = 0
        began = time.thread_time()
        pump()
        if told[0]:
            QApplication.sendPostedEvents(None, QEvent.Type.LayoutRequest)
            QApplication.sendPostedEvents(app.window, QEvent.Type.UpdateRequest)  # paints what is stale
            batches.append((time.thread_time() - began) * 1000)

    app.bridge._timer.timeout.disconnect()
    app.bridge._timer.timeout.connect(timed)


def open_app(application: QApplication, folder: Path, number: int, url: str) -> DesktopApp:
    profile = Profile.named(f"p{number}", root=folder)
    profile.folder.mkdir(parents=True)
    settings = Settings(server_url=url, user=f"user{number}", language=Language.ENGLISH, tray=False)
    SettingsFile(profile.settings_path).save(settings)
    app = DesktopApp(application, profile, engine=Engine(Environment(profile=profile, vault=MemoryVault())))
    app.start().resize(1000, 760)
    return app


def until(application: QApplication, condition: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            sys.exit("the app did not come so far")
        application.processEvents()
        time.sleep(0.002)


if __name__ == "__main__":
    main()
