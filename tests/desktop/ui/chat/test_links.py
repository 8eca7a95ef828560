"""A link is opened only after the person saw where it leads."""

import pytest
from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from answerback_desktop.ui.chat import Appearance
from answerback_desktop.ui.chat.links import LinkDialog, is_openable, written_out


@pytest.mark.parametrize("target", ["http://a.example", "https://a.example:8443/x?y#z", "mailto:a@b.example"])
def test_what_may_be_opened(target: str) -> None:
    assert is_openable(target)


@pytest.mark.parametrize(
    "target", ["", "https:", "http://", "file:///x", "mailto:", "http://[", "ftp://a", "x" * 9_000]
)
def test_what_may_not(target: str) -> None:
    assert not is_openable(target)


def test_what_hides_is_written_out() -> None:
    assert written_out("https://a.example/\u202egnp.exe") == "https://a.example/<U+202E>gnp.exe"
    assert written_out("https://a.example/\u200b") == "https://a.example/<U+200B>"
    assert written_out("https://a.example/a\nb") == "https://a.example/a<U+000A>b"
    assert written_out("https://a.example/한글") == "https://a.example/한글"


def test_letters_that_look_alike_show_in_the_host() -> None:
    assert "xn--" in written_out("https://\u0430pple.com/")
    assert written_out("https://apple.com/") == "https://apple.com/"


@pytest.fixture
def opened_urls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: urls.append(QUrl(url).toString()))
    return urls


def test_the_dialog_opens_only_on_request(qtbot: QtBot, appearance: Appearance, opened_urls: list[str]) -> None:
    dialog = LinkDialog("https://a.example/x", appearance.texts, appearance.theme)
    qtbot.addWidget(dialog)
    dialog.open()
    assert dialog.target_box.toPlainText() == "https://a.example/x"
    assert opened_urls == []
    default = next(button for button in dialog.findChildren(QPushButton) if button.isDefault())
    assert default.text() == appearance.texts.cancel
    assert dialog.focusWidget() is default
    dialog.open_button.click()
    assert opened_urls == ["https://a.example/x"]


def test_escape_and_copy_open_nothing(qtbot: QtBot, appearance: Appearance, opened_urls: list[str]) -> None:
    dialog = LinkDialog("https://a.example/\u202ex", appearance.texts, appearance.theme)
    qtbot.addWidget(dialog)
    dialog.open()
    assert any(label.text() == appearance.texts.link_hidden for label in dialog.findChildren(QLabel))
    copy = next(button for button in dialog.findChildren(QPushButton) if button.text() == appearance.texts.link_copy)
    copy.click()
    assert QGuiApplication.clipboard().text() == "https://a.example/\u202ex"
    dialog.reject()
    assert opened_urls == []
