"""Widgets without a screen: the platform is chosen before Qt is imported, and what Qt warns of fails the test."""

import os

os.environ["QT_QPA_PLATFORM"] = "offscreen"

from collections.abc import Iterator

import pytest
from PySide6.QtWidgets import QApplication

from answerback.desktop.ui.theme import Theme, apply


@pytest.fixture(scope="session")
def qapp_cls() -> type[QApplication]:
    return QApplication


@pytest.fixture
def theme(qapp: QApplication) -> Iterator[Theme]:
    """The default look, on the application; gone after the test, so that no test sees another's."""
    chosen = Theme()
    apply(qapp, chosen)
    yield chosen
    apply(qapp, chosen)
