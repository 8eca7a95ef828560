"""Links in answers: which may be opened, and the question that is asked before."""

import math
import unicodedata
from typing import Final
from urllib.parse import urlsplit

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication, QTextOption
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QLabel, QPushButton, QTextEdit, QVBoxLayout, QWidget

from answerback_desktop.texts import ChatTexts
from answerback_desktop.ui.theme import Theme

_MAX_LENGTH: Final = 8_192
_WIDTH_STEPS: Final = 110


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
        self.setFixedWidth(theme.space(_WIDTH_STEPS))
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
        layout.addWidget(self._target_box(shown, theme))
        if shown != target and "<U+" in shown:
            warning = QLabel(texts.link_hidden)
            warning.setWordWrap(True)
            warning.setProperty("variant", "warning")
            layout.addWidget(warning)
        layout.addSpacing(theme.space(1))
        layout.addWidget(self._buttons(texts))
        self._cancel.setFocus()

    def _target_box(self, shown: str, theme: Theme) -> QWidget:
        """The whole target; past eight lines it scrolls. It begins with what matters most, the host."""
        box = QTextEdit()
        box.setReadOnly(True)
        box.setFocusPolicy(Qt.FocusPolicy.ClickFocus)  # Cancel has the focus
        box.setFont(theme.mono_font())
        box.document().setDefaultFont(theme.mono_font())
        box.setWordWrapMode(QTextOption.WrapMode.WrapAnywhere)
        box.setPlainText(shown)
        box.setAccessibleName(shown)
        letters = max(1, (theme.space(_WIDTH_STEPS - 25)) // box.fontMetrics().horizontalAdvance("m"))
        lines = min(8, math.ceil(len(shown) / letters))
        margins = 2 * (round(box.document().documentMargin()) + theme.space(2.5))
        box.setFixedHeight(lines * box.fontMetrics().lineSpacing() + margins)
        self.target_box = box
        return box

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
        self._cancel = cancel
        buttons.accepted.connect(self._open)
        buttons.rejected.connect(self.reject)
        return buttons

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self._target)

    def _open(self) -> None:
        QDesktopServices.openUrl(QUrl(self._target, QUrl.ParsingMode.StrictMode))
        self.accept()
