"""A picture of every page of the settings, and every field used by keyboard: what cannot be seen cannot be used."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QScrollArea,
    QWidget,
)
from pytestqt.qtbot import QtBot

from answerback_desktop.engine.events import SettingsChanged
from answerback_desktop.settings import AuthMode, Field, Language, Settings
from answerback_desktop.texts import texts_of
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.settings_dialog import SettingsDialog
from answerback_desktop.ui.theme import Scheme, Theme, apply
from answerback_desktop.viewmodels import AppViewModel
from commands import NotedCommands

pytestmark = pytest.mark.usefixtures("theme")  # which puts the appearance back


class Open:
    """The dialog at one size and language."""

    def __init__(
        self, qtbot: QtBot, qapp: QApplication, tmp_path: Path, theme: Theme, settings: Settings, *locked: str
    ) -> None:
        apply(qapp, theme)
        self.model = AppViewModel(NotedCommands())
        self.model.apply([SettingsChanged(settings, locked=frozenset(locked))])
        parent = self._parent = QWidget()
        qtbot.addWidget(parent)
        appearance = Appearance(theme=theme, texts=texts_of(settings.language, system_locale="en"))
        self.dialog = SettingsDialog(
            self.model, appearance, has_tray=True, log_path=tmp_path / "desktop.log", parent=parent
        )
        self.dialog.show()
        self.dialog.activateWindow()
        qtbot.waitUntil(self.dialog.isActiveWindow)
        self._pictures = tmp_path

    def pages(self) -> Iterator[QWidget]:
        """Each page, shown; its picture is kept."""
        tabs = self.dialog.tabs
        for number in range(tabs.count()):
            tabs.setCurrentIndex(number)
            QApplication.processEvents()
            assert self.dialog.grab().save(str(self._pictures / f"{number}.png"))
            area = tabs.currentWidget()
            assert isinstance(area, QScrollArea)
            yield area.widget()


def fields(page: QWidget) -> list[QLineEdit | QPlainTextEdit]:
    found = [*page.findChildren(QLineEdit), *page.findChildren(QPlainTextEdit)]
    return [field for field in found if field.isVisibleTo(page) and not isinstance(field.parent(), QComboBox)]


@pytest.mark.parametrize("auth", list(AuthMode))
@pytest.mark.parametrize("body_px", [12, 15, 28])
@pytest.mark.parametrize("language", [Language.ENGLISH, Language.KOREAN])
def test_each_field_shows_what_is_typed(
    qtbot: QtBot, qapp: QApplication, tmp_path: Path, language: Language, body_px: int, auth: AuthMode
):
    opened = Open(qtbot, qapp, tmp_path, Theme(body_px=body_px), Settings(language=language, auth=auth))
    count = 0
    for page in opened.pages():
        for field in fields(page):
            field.setFocus()
            field.clear()
            QApplication.processEvents()
            inner = field.rect().adjusted(body_px // 2, 6, -body_px * 3, -6)
            empty = field.grab(inner).toImage()
            QTest.keyClicks(field, "1234567")
            text = field.text() if isinstance(field, QLineEdit) else field.toPlainText()
            assert text == "1234567", field.accessibleName()
            typed = field.grab(inner).toImage()
            assert typed != empty, f"{field.accessibleName()}: nothing is seen of what was typed"
            assert field.cursorRect().right() < field.width()
            assert field.accessibleName()
            count += 1
    assert count == {AuthMode.NONE: 6, AuthMode.TOKEN: 6, AuthMode.OIDC: 7}[auth]


@pytest.mark.parametrize("body_px", [12, 15, 28])
@pytest.mark.parametrize("language", [Language.ENGLISH, Language.KOREAN])
def test_no_word_is_cut(qtbot: QtBot, qapp: QApplication, tmp_path: Path, language: Language, body_px: int):
    opened = Open(qtbot, qapp, tmp_path, Theme(body_px=body_px, scheme=Scheme.DARK), Settings(language=language))
    opened.dialog.resize(opened.dialog.width(), 400)
    for page in opened.pages():
        assert page.width() <= page.parentWidget().width(), "it would have to be scrolled sideways"
        for label in page.findChildren(QLabel):
            if label.isVisibleTo(page) and label.text():
                assert label.height() >= label.heightForWidth(label.width()), label.text()
        for box in page.findChildren(QCheckBox):
            assert box.height() >= box.heightForWidth(box.width()), box.text()
        for widget in page.findChildren(QWidget):
            if widget.isVisibleTo(page):
                right = widget.mapTo(page, widget.rect().topRight()).x()
                assert right < page.width(), widget
    for button in opened.dialog.findChildren(QAbstractButton):
        if button.text() and button.isVisible() and not isinstance(button, QCheckBox):
            assert button.width() >= button.sizeHint().width(), button.text()


def test_the_longest_answer_is_a_number_or_nothing(qtbot: QtBot, qapp: QApplication, tmp_path: Path):
    opened = Open(qtbot, qapp, tmp_path, Theme(), Settings(language=Language.ENGLISH, max_tokens=2048))
    field = opened.dialog.answers.max_tokens
    assert (field.text(), opened.dialog.settings.max_tokens) == ("2,048", 2048)
    for typed, value, is_right in (
        ("", None, True),
        ("4096", 4096, True),
        (" 10 000 ", 10_000, True),
        ("0", 0, False),
        ("many", 0, False),
        ("9" * 400, 0, False),
        ("1000001", 1_000_001, False),
    ):
        field.setText(typed)
        assert (opened.dialog.settings.max_tokens, opened.dialog.save_button.isEnabled()) == (value, is_right), typed


def test_a_ca_file_without_certificates_is_told_beside_the_field(qtbot: QtBot, qapp: QApplication, tmp_path: Path):
    opened = Open(qtbot, qapp, tmp_path, Theme(), Settings(language=Language.ENGLISH))
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    for written, is_right in (("no certificate", False), ("-----BEGIN CERTIFICATE-----\n", True)):
        path.write_text(written)
        opened.dialog.server.ca_file.setText("")
        opened.dialog.server.ca_file.setText(str(path))
        complaint = opened.dialog.server._complaints[Field.CA_FILE][1]
        assert complaint.isHidden() is is_right
        assert opened.dialog.save_button.isEnabled() is is_right


def test_an_address_is_shown_as_it_is_understood(qtbot: QtBot, qapp: QApplication, tmp_path: Path):
    opened = Open(qtbot, qapp, tmp_path, Theme(), Settings(language=Language.ENGLISH))
    url = opened.dialog.server.url
    assert url.hasFocus()
    url.selectAll()
    QTest.keyClicks(url, "https://chat.example.com/")
    assert opened.dialog.settings.server_url == "wss://chat.example.com"
    QTest.keyClick(url, Qt.Key.Key_Tab)
    assert url.text() == "wss://chat.example.com"


def test_what_the_administrator_decides_can_be_read_and_not_changed(qtbot: QtBot, qapp: QApplication, tmp_path: Path):
    settings = Settings(language=Language.ENGLISH, server_url="wss://chat.example.com")
    opened = Open(qtbot, qapp, tmp_path, Theme(), settings, "server_url", "starts_gateway")
    server = opened.dialog.server
    assert not server.url.isEnabled()
    assert not server.starts_gateway.isEnabled()
    assert server.user.isEnabled()
    hint = texts_of(Language.ENGLISH, system_locale="en").preferences.locked
    assert [label.text() for label in server.findChildren(QLabel)].count(hint) == 2
