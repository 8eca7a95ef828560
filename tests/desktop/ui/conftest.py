"""Widgets without a screen: the platform is chosen before Qt is imported, and what Qt warns of fails the test."""

import os

os.environ["QT_QPA_PLATFORM"] = "offscreen"

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication

from answerback_desktop.ui.theme import Theme, apply


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


@pytest.fixture
def theme(qapp: QApplication) -> Iterator[Theme]:
    """The default appearance, on the application; gone after the test, so that no test sees another's."""
    chosen = Theme()
    apply(qapp, chosen)
    yield chosen
    apply(qapp, chosen)
