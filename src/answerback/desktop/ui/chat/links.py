"""Links in answers: which may be opened, and the question that is asked before."""

import unicodedata
from urllib.parse import urlsplit

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QFrame, QLabel, QPushButton, QVBoxLayout, QWidget

from answerback.desktop.texts.chat import ChatTexts
from answerback.desktop.ui.theme import Theme

__all__ = ["LinkDialog", "is_openable", "written_out"]

_MAX_LENGTH = 8_192


def is_openable(target: str) -> bool:
    """Whether a link leads to the web or to a mail: `http`, `https` with a host, or `mailto`."""
    if len(target) > _MAX_LENGTH:
        return False
    try:
        parts = urlsplit(target)
    except ValueError:
        return False
    if parts.scheme in {"http", "https"}:
        return bool(parts.hostname)
    return parts.scheme == "mailto" and "@" in parts.path


def written_out(target: str) -> str:
    """The target with nothing hidden: control, bidirectional and other invisible characters as `<U+202E>`.

    A host is shown in the ASCII form in which it is looked up, so that look-alike letters show.
    """
    host = _host(target)
    if host and not host.isascii():
        target = target.replace(host, bytes(QUrl.toAce(host).data()).decode("ascii") or host, 1)
    return "".join(f"<U+{ord(letter):04X}>" if _is_hidden(letter) else letter for letter in target)


def _host(target: str) -> str:
    try:
        return urlsplit(target).hostname or ""
    except ValueError:
        return ""


def _is_hidden(letter: str) -> bool:
    return unicodedata.category(letter) in {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"} or (
        letter != " " and letter.isspace()
    )


class LinkDialog(QDialog):
    """Shows where a link really leads, and opens it only if the person says so. Use `open()`."""

    def __init__(self, target: str, texts: ChatTexts, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._target = target
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(texts.link_title)
        self.setMinimumWidth(theme.space(90))
        shown = written_out(target)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(*[theme.space(5)] * 4)
        layout.setSpacing(theme.space(3))
        title = QLabel(texts.link_title)
        title.setProperty("variant", "title")
        explanation = QLabel(texts.link_text)
        explanation.setWordWrap(True)
        layout.addWidget(title)
        layout.addWidget(explanation)
        layout.addWidget(self._target_card(shown, theme))
        if shown != target and "<U+" in shown:
            warning = QLabel(texts.link_hidden)
            warning.setWordWrap(True)
            warning.setProperty("variant", "warning")
            layout.addWidget(warning)
        layout.addSpacing(theme.space(1))
        layout.addWidget(self._buttons(texts))

    def _target_card(self, shown: str, theme: Theme) -> QWidget:
        card = QFrame()
        card.setProperty("variant", "card")
        inner = QVBoxLayout(card)
        label = QLabel()
        label.setTextFormat(Qt.TextFormat.PlainText)
        label.setText("\u200b".join(shown[at : at + 8] for at in range(0, min(len(shown), 1_000), 8)))
        label.setWordWrap(True)
        label.setFont(theme.mono_font())
        label.setAccessibleName(shown)
        inner.addWidget(label)
        return card

    def _buttons(self, texts: ChatTexts) -> QWidget:
        buttons = QDialogButtonBox()
        copy = QPushButton(texts.link_copy)
        self.open_button = QPushButton(texts.link_open)
        self.open_button.setProperty("variant", "primary")
        cancel = QPushButton(texts.cancel)
        buttons.addButton(copy, QDialogButtonBox.ButtonRole.ActionRole)
        buttons.addButton(cancel, QDialogButtonBox.ButtonRole.RejectRole)
        buttons.addButton(self.open_button, QDialogButtonBox.ButtonRole.AcceptRole)
        copy.clicked.connect(self._copy)
        for button in (copy, self.open_button):
            button.setAutoDefault(False)
        cancel.setDefault(True)
        cancel.setFocus()
        buttons.accepted.connect(self._open)
        buttons.rejected.connect(self.reject)
        return buttons

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self._target)

    def _open(self) -> None:
        QDesktopServices.openUrl(QUrl(self._target, QUrl.ParsingMode.StrictMode))
        self.accept()
