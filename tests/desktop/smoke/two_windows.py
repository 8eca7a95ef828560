"""Two windows of two users on a real display: both ask, the network is cut and repaired, pictures are taken.

Run by test_windows.py in a process of its own, since Qt's platform holds for a whole process.
Usage: two_windows.py FOLDER
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from answerback_desktop.app import DesktopApp
from answerback_desktop.engine import Engine, Environment
from answerback_desktop.profile import Profile
from answerback_desktop.settings import Language, Settings, SettingsFile
from answerback_desktop.signin.vault import MemoryVault
from desktop_app import QUICK
from gateway_thread import GatewayThread

TIMEOUT_S = 30.0


def until(application: QApplication, condition: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        application.processEvents()
        time.sleep(0.002)


def open_app(
    application: QApplication, root: Path, user: str, url: str, language: Language, *, name: str | None = None
) -> DesktopApp:
    profile = Profile.named(name or user, root=root)
    profile.folder.mkdir(parents=True)
    SettingsFile(profile.settings_path).save(Settings(server_url=url, user=user, language=language, tray=False))
    app = DesktopApp(
        application, profile, engine=Engine(Environment(profile=profile, vault=MemoryVault(), timing=QUICK))
    )
    window = app.start()
    window.resize(780, 900)
    return app


def close(application: QApplication, *apps: DesktopApp) -> None:
    for app in apps:
        app.finish()
        until(application, lambda app=app: app.engine.join(0))
        app.dispose()


def ask(app: DesktopApp, question: str) -> None:
    """By the keyboard."""
    window = app.window
    window.chat.focus_composer()
    QTest.keyClicks(window.chat.composer.box, question)
    QTest.keyClick(window.chat.composer.box, Qt.Key.Key_Return)


def answer(app: DesktopApp) -> str:
    turns = app.view_model.current.messages
    return turns[0].answer if turns else ""


def main() -> None:
    folder = Path(sys.argv[1])
    application = QApplication(["answerback"])
    assert application.platformName() == "xcb"
    with GatewayThread(folder / "gateway") as gateway:
        left = open_app(application, folder, "ada", gateway.url, Language.ENGLISH)
        right = open_app(application, folder, "minjun", gateway.url, Language.KOREAN)
        left.window.move(10, 40)
        right.window.move(805, 40)
        apps = (left, right)
        until(application, lambda: all(app.view_model.connection.is_online for app in apps))
        ask(left, "from ada")
        ask(right, "from minjun")
        gateway.say("from ada", "Hello, **Ada**. ")
        gateway.say("from minjun", "Hello, **Minjun**. ")
        until(application, lambda: answer(left) == "Hello, **Ada**. " and answer(right) == "Hello, **Minjun**. ")

        gateway.cut()
        until(application, lambda: not any(app.view_model.connection.is_online for app in apps))
        gateway.say("from ada", "Are you there?")
        take(application, folder / "cut.png")
        gateway.repair()
        gateway.end("from ada")
        gateway.end("from minjun", "Bye.")
        until(application, lambda: all(app.view_model.pending == 0 for app in apps))
        assert answer(left) == "Hello, **Ada**. Are you there?"
        assert answer(right) == "Hello, **Minjun**. Bye."
        until(application, lambda: all(app.view_model.connection.is_online for app in apps))
        take(application, folder / "repaired.png")
        close(application, *apps)
    print("both windows showed their own answers")


def take(application: QApplication, path: Path) -> None:
    """The whole screen, as the X server has it."""
    for _ in range(20):
        application.processEvents()
        time.sleep(0.01)
    picture = application.primaryScreen().grabWindow(0)
    assert picture.save(str(path))


if __name__ == "__main__":
    main()
