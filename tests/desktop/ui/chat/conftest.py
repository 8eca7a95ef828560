"""A pane with a conversation of the test's own turns."""

from collections.abc import Callable, Iterator

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from answerback_desktop.records import Turn
from answerback_desktop.ui.chat import ChatPane
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.theme import Theme
from answerback_desktop.viewmodels.app import AppViewModel
from chat_samples import ENGLISH, Recorder, Scene, pane_of

Opened = tuple[ChatPane, AppViewModel, Recorder]


@pytest.fixture
def appearance(theme: Theme) -> Appearance:
    return Appearance(theme=theme, texts=ENGLISH)


@pytest.fixture
def opened(qapp: QApplication, theme: Theme, qtbot: QtBot) -> Iterator[Callable[..., Opened]]:
    """`opened(*turns, **fields of a Scene)`: a pane that is shown, its app, and the commands it gave."""
    panes = []

    def make(*turns: Turn, **fields: object) -> Opened:
        pane, app, recorder = pane_of(Scene(turns=turns, **fields), qapp)  # type: ignore[arg-type]
        qtbot.addWidget(pane)
        pane.activateWindow()
        qtbot.waitUntil(pane.isActiveWindow)
        panes.append(pane)
        return pane, app, recorder

    yield make
    for pane in panes:
        pane.close()
