"""A link is opened only after the person saw where it leads."""

import pytest
from PySide6.QtCore import QUrl
from PySide6.QtGui import QColor, QDesktopServices, QGuiApplication, QPalette, QTextDocument
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from answerback_desktop.settings import Language
from answerback_desktop.texts import texts_of
from answerback_desktop.ui.chat.links import LinkDialog, host_of, is_openable, text_of, warnings, written_out
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.theme import Theme


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


@pytest.mark.parametrize(
    ("target", "text", "host", "warned"),
    [
        ("https://a.example/x", "the docs", "a.example", ""),
        ("https://accounts.google.com/", "google.com", "accounts.google.com", ""),
        ("https://www.google.com/a", "https://google.com/a", "www.google.com", ""),
        ("https://github.com/a/b", "README.md", "github.com", ""),
        ("https://www.google.com@evil.example/login", "sign in", "evil.example", "before the @"),
        ("https://evil.example/", "https://www.google.com/login", "evil.example", "names google.com"),
        ("https://evil.example/", "Google.COM", "evil.example", "names google.com"),
        ("https://evil.example/", "\uff27oogle\uff0ecom", "evil.example", "names google.com"),
        ("https://notgoogle.com/", "google.com", "notgoogle.com", "names google.com"),
        ("HTTPS://EVIL.example/", "http://me@bank.example:80/", "evil.example", "names bank.example"),
        ("https://xn--pple-43d.com/", "Apple", "xn--pple-43d.com", "\u0430pple.com"),
        ("https://\u0410pple.com/", "Apple", "xn--pple-43d.com", "\u0430pple.com"),
        ("mailto:help@evil.example", "help@bank.example", "evil.example", ""),
    ],
)
def test_where_a_link_leads_and_what_is_odd_about_it(
    target: str, text: str, host: str, warned: str, appearance: Appearance
) -> None:
    assert host_of(target) == host
    found = warnings(target, text, appearance.texts.chat)
    assert [warned in sentence for sentence in found] == [True] * bool(warned), found


def test_a_host_is_written_out_once_and_where_it_stands() -> None:
    shown = written_out("https://\u0410pple.com:8443/\u0410pple.com?q=\u0410pple.com")
    assert shown == "https://xn--pple-43d.com:8443/\u0410pple.com?q=\u0410pple.com"


@pytest.mark.parametrize("language", [Language.ENGLISH, Language.KOREAN])
@pytest.mark.parametrize("body_px", [12, 15, 28])
def test_no_word_of_the_dialog_is_cut(qtbot: QtBot, language: Language, body_px: int) -> None:
    appearance = Appearance(theme=Theme(body_px=body_px), texts=texts_of(language, system_locale="en"))
    target = "https://www.google.com@" + "a-very-long-name." * 8 + "xn--pple-43d.com/\u202e" + "x" * 300
    dialog = LinkDialog(target, appearance, text="www.google.com")
    qtbot.addWidget(dialog)
    dialog.show()
    for label in dialog.findChildren(QLabel):
        assert label.height() >= label.heightForWidth(label.width()), label.text()
        assert dialog.rect().contains(label.geometry())
    for button in dialog.findChildren(QPushButton):
        assert button.width() >= button.sizeHint().width()


def test_the_text_of_a_link_is_that_of_the_document() -> None:
    document = QTextDocument()
    document.setHtml('<p>See <a href="https://evil.example/">www.<b>google</b>.com</a> and <a href="x:">y</a></p>')
    assert text_of("https://evil.example/", document) == "www.google.com"
    assert text_of("https://other.example/", document) == ""


@pytest.fixture
def opened_urls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: urls.append(QUrl(url).toString()))
    return urls


def test_the_dialog_opens_only_on_request(qtbot: QtBot, appearance: Appearance, opened_urls: list[str]) -> None:
    dialog = LinkDialog("https://a.example/x", appearance)
    qtbot.addWidget(dialog)
    dialog.open()
    assert dialog.target_box.toPlainText() == "https://a.example/x"
    assert opened_urls == []
    default = next(button for button in dialog.findChildren(QPushButton) if button.isDefault())
    assert default.text() == appearance.texts.chat.cancel
    assert dialog.focusWidget() is default
    dialog.open_button.click()
    assert opened_urls == ["https://a.example/x"]


def test_escape_and_copy_open_nothing(qtbot: QtBot, appearance: Appearance, opened_urls: list[str]) -> None:
    dialog = LinkDialog("https://a.example/\u202ex", appearance)
    qtbot.addWidget(dialog)
    dialog.open()
    assert any(label.text() == appearance.texts.chat.link_hidden for label in dialog.findChildren(QLabel))
    words = appearance.texts.chat
    copy = next(button for button in dialog.findChildren(QPushButton) if button.text() == words.link_copy)
    copy.click()
    assert QGuiApplication.clipboard().text() == "https://a.example/\u202ex"
    dialog.reject()
    assert opened_urls == []


def test_a_link_with_something_odd_is_opened_by_a_button_that_warns(qtbot: QtBot, appearance: Appearance) -> None:
    def colour(target: str) -> QColor:
        dialog = LinkDialog(target, appearance)
        qtbot.addWidget(dialog)
        dialog.show()
        return dialog.open_button.palette().color(QPalette.ColorRole.ButtonText)

    assert colour("https://a.example/\u202ex") == appearance.theme.colour("danger")
    assert colour("https://a.example/x") == appearance.theme.colour("on_accent")
