"""Widgets without a screen: the platform is chosen before Qt is imported, and what Qt warns of fails the test."""

import os

os.environ["QT_QPA_PLATFORM"] = "offscreen"

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from PySide6.QtWidgets import QApplication

from answerback_desktop.ui.theme import Theme, apply, stylesheet


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.qt_log_level_fail("WARNING"))
            # What the offscreen platform lacks: a window manager and a tray.
            item.add_marker(pytest.mark.qt_log_ignore("This plugin does not support", "systemTrayWindowChanged"))


@pytest.fixture(scope="session")
def qapp_cls() -> type[QApplication]:
    return QApplication


DEFAULT: Final = Theme()
SHEET: Final = stylesheet(DEFAULT)


@pytest.fixture
def theme(qapp: QApplication) -> Iterator[Theme]:
    """The default appearance, on the application; again after the test, so that no test sees another's."""
    _restore(qapp)
    yield DEFAULT
    _restore(qapp)


def _restore(application: QApplication) -> None:
    if (application.styleSheet(), application.font()) != (SHEET, DEFAULT.font()):  # it takes 100 ms
        apply(application, DEFAULT)
