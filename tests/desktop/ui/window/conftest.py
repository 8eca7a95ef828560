"""The whole window without a screen, at a real gateway whose network can be cut."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from answerback.clock import epoch_ms
from answerback_desktop.app import DesktopApp
from answerback_desktop.engine import Engine, Environment
from answerback_desktop.profile import Profile
from answerback_desktop.settings import Language, Settings, SettingsFile
from answerback_desktop.signin.vault import MemoryVault
from answerback_desktop.viewmodels import ConversationViewModel
from desktop_app import QUICK
from gateway_thread import GatewayThread

TIMEOUT_MS = 20_000


class Person:
    """Somebody at one window of the app."""

    def __init__(self, app: DesktopApp, qtbot: QtBot) -> None:
        self.app = app
        self.window = app.window
        self.model = app.view_model
        self._qtbot = qtbot

    def until(self, condition: Callable[[], object]) -> None:
        """Poll until it holds."""
        self._qtbot.waitUntil(lambda: bool(condition()), timeout=TIMEOUT_MS)

    def online(self) -> None:
        self.until(lambda: self.model.connection.is_online)

    def write(self, text: str) -> None:
        """Into the box."""
        self.window.chat.composer.box.setPlainText(text)

    def ask(self, text: str) -> ConversationViewModel:
        """In the conversation that is open; it is in the list when this returns."""
        self.write(text)
        self.window.chat.composer.button.click()
        conversation = self.model.current
        self.until(lambda: conversation.record is not None and self.turn(conversation, text) is not None)
        return conversation

    def ask_again(self, text: str) -> ConversationViewModel:
        """In a new conversation."""
        self.window.new_conversation()
        return self.ask(text)

    def turn(self, conversation: ConversationViewModel, question: str):
        return next((turn for turn in conversation.messages if turn.question == question), None)

    def titles(self) -> list[str]:
        """As the list shows them."""
        rows = self.window.sidebar.list.model()
        return [rows.index(row, 0).data() for row in range(rows.rowCount())]

    def toasts(self) -> list[str]:
        return [toast.text for toast in self.window.toasts.toasts]

    def leave(self) -> None:
        """Close the app as its menu does, and wait for its end."""
        self.app.finish()
        self.until(lambda: self.app.engine.join(0))
        self.app.dispose()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayThread]:
    with GatewayThread(tmp_path / "gateway") as gateway:
        yield gateway


@pytest.fixture
def open_app(qapp: QApplication, qtbot: QtBot, tmp_path: Path, monkeypatch) -> Iterator[Callable[..., Person]]:
    """`open_app(url=..., name=..., user=...)`; ended at the end."""
    monkeypatch.setattr(qapp, "quit", lambda: None)  # the application is the test run's
    people: list[Person] = []

    def open_app(name: str = "one", *, clock: Callable[[], int] = epoch_ms, **settings: object) -> Person:
        profile = Profile.named(name, root=tmp_path / "profiles")
        if not profile.settings_path.exists():
            profile.folder.mkdir(parents=True)
            chosen = {"user": "ada", "language": Language.ENGLISH, "tray": False, **settings}
            SettingsFile(profile.settings_path).save(Settings(server_url=chosen.pop("url"), **chosen))
        environment = Environment(
            profile=profile,
            vault=MemoryVault(),
            timing=QUICK,
            clock=clock,
            gateway_command=(sys.executable, "-m", "answerback"),
            gateway_arguments=("--model", "echo"),
        )
        app = DesktopApp(qapp, profile, engine=Engine(environment))
        app.start()
        app.window.activateWindow()
        people.append(Person(app, qtbot))
        return people[-1]

    yield open_app
    for person in people:
        if person.app.window is not None:
            person.leave()
