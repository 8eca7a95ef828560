"""The box that questions are typed in: composition-safe, plain text, as high as its text."""

import math
from pathlib import Path
from typing import Final

from PySide6.QtCore import QBuffer, QMimeData, Qt, Signal
from PySide6.QtGui import QGuiApplication, QImage, QInputMethodEvent, QKeyEvent
from PySide6.QtWidgets import QFrame, QTextEdit, QWidget

from answerback.client import MAX_ATTACHMENT_BYTES
from answerback_desktop.attachments import ROOM_BYTES, ChosenFile, read_bytes, read_file
from answerback_desktop.ui.chat.text_view import wrap_mode
from answerback_desktop.ui.theme import Theme

MAX_LINES: Final = 8
PASTE_CHARACTERS: Final = 200_000
"""What is pasted although it is too long to send: it can still be shortened."""
_BAR_PX: Final = 14
_ENTER: Final = (Qt.Key.Key_Return, Qt.Key.Key_Enter)


def attachments_in(source: QMimeData) -> list[ChosenFile]:
    """The files of a clipboard or a drop, or its image, which has no name of its own; none: it is text."""
    urls = source.urls()
    if urls and all(url.isLocalFile() for url in urls):
        return [read_file(Path(url.toLocalFile())) for url in urls]
    if source.hasImage() and not source.hasText():
        data = encoded_image(QImage(source.imageData()))
        return [read_bytes("", data, len(data))]
    return []


def encoded_image(image: QImage) -> bytes:
    """As PNG; a photo too large for that as JPEG."""
    data = b""
    for form, quality in (("PNG", -1), ("JPEG", 90)):
        buffer = QBuffer()
        buffer.open(QBuffer.OpenModeFlag.WriteOnly)
        image.save(buffer, form, quality)  # type: ignore[call-overload]
        data = bytes(buffer.data().data())
        if len(data) <= MAX_ATTACHMENT_BYTES:
            break
    return data


class InputBox(QTextEdit):
    """Enter submits, Shift+Enter breaks the line.

    While a syllable is being composed (Korean, Japanese, Chinese), Enter belongs to the input method. Some of them let
    it through as well: then the syllable is committed first, and the box is submitted when it has arrived, once.
    Escape belongs to it as well, and goes no further.
    """

    submitted = Signal()
    escaped = Signal()
    recalled = Signal()  # Up in an empty box
    height_changed = Signal()
    dropped = Signal(object)  # a list of ChosenFile: files that were pasted or dropped
    too_long = Signal(str)  # a text that was to be pasted, and was not

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self._height = 0
        self._is_measuring = False
        self._submits_after_commit = False
        self._late_commit = ""
        self.room = ROOM_BYTES
        self.setProperty("variant", "plain")
        self.setAcceptRichText(False)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setTabChangesFocus(True)
        self.setFont(theme.font())
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setLineWrapMode(QTextEdit.LineWrapMode.FixedPixelWidth)
        self.setWordWrapMode(wrap_mode(""))
        self.document().setDocumentMargin(theme.space(1))
        self.document().documentLayout().documentSizeChanged.connect(self._emit_height)

    @property
    def is_composing(self) -> bool:
        """Whether the input method holds a syllable that is not in the text yet."""
        return bool(self._composed())

    def _composed(self) -> str:
        return self.textCursor().block().layout().preeditAreaText()

    def end_composition(self) -> None:
        """Take the syllable that is being composed into the text now: the person goes on elsewhere, by mouse."""
        if not self._composed():
            return
        QGuiApplication.inputMethod().commit()
        if composed := self._composed():
            # The input method did not answer at once. What is on the screen is taken, and its commit is late then.
            event = QInputMethodEvent("", [])
            event.setCommitString(composed)
            self.inputMethodEvent(event)
            self._late_commit = composed
            QGuiApplication.inputMethod().reset()

    def wanted_height(self, width: int) -> int:
        """As high as the text at this width, from one line to eight; then it scrolls."""
        line = self.fontMetrics().lineSpacing()
        margin = 2 * round(self.document().documentMargin())
        most = MAX_LINES * line + margin
        is_scrolling = self.verticalScrollBarPolicy() is Qt.ScrollBarPolicy.ScrollBarAsNeeded
        needed = self._height_at(width - _BAR_PX if is_scrolling else width)
        if is_scrolling is not (needed > most):
            is_scrolling = needed > most
            on, off = Qt.ScrollBarPolicy.ScrollBarAsNeeded, Qt.ScrollBarPolicy.ScrollBarAlwaysOff
            self.setVerticalScrollBarPolicy(on if is_scrolling else off)
            needed = self._height_at(width - _BAR_PX if is_scrolling else width)
        return max(line + margin, min(needed, most))

    def _height_at(self, width: int) -> int:
        if self.lineWrapColumnOrWidth() != width:
            self._is_measuring = True
            self.setLineWrapColumnOrWidth(width)
            self._is_measuring = False
        return math.ceil(self.document().size().height())

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Enter, Escape and Up; the rest is typing."""
        self._submits_after_commit = False
        self._late_commit = ""
        shift = event.modifiers() & Qt.KeyboardModifier.ShiftModifier
        if event.key() in _ENTER and not shift:
            event.accept()
            self._submit()
        elif event.key() == Qt.Key.Key_Escape:
            event.accept()
            if not self.is_composing:
                self.escaped.emit()
        elif event.key() == Qt.Key.Key_Up and self.document().isEmpty() and not self.is_composing:
            event.accept()
            self.recalled.emit()
        else:
            super().keyPressEvent(event)

    def inputMethodEvent(self, event: QInputMethodEvent) -> None:  # noqa: N802 - Qt's name
        if event.preeditString() or event.commitString():
            late, self._late_commit = self._late_commit, ""
            if late and event.commitString() == late and not event.preeditString():
                return
        super().inputMethodEvent(event)
        if self._submits_after_commit and not self.is_composing:
            self._submits_after_commit = False
            if event.commitString():
                self.submitted.emit()
        self._emit_height()

    def setPlainText(self, text: str) -> None:  # noqa: N802 - Qt's name
        """Other text, as a draft."""
        self.setWordWrapMode(wrap_mode(text))
        super().setPlainText(text)

    def canInsertFromMimeData(self, source: QMimeData) -> bool:  # noqa: N802 - Qt's name
        """Text; files and images too, for which there is a dialog."""
        return source.hasText() or source.hasUrls() or source.hasImage()

    def insertFromMimeData(self, source: QMimeData) -> None:  # noqa: N802 - Qt's name
        """Only text is pasted: U+2028 and the like become line ends, NUL is left out. Files are handed on.

        A text that could never be sent is not taken: Qt would need seconds for it, and again for each key.
        """
        if attachments := attachments_in(source):
            self.dropped.emit(attachments)
        elif len(source.text()) > max(self.room, PASTE_CHARACTERS):
            self.too_long.emit(source.text())
        elif source.hasText():
            text = source.text().replace("\r\n", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
            self.setWordWrapMode(wrap_mode(text))
            self.textCursor().insertText(text.replace("\x00", ""))
            self.ensureCursorVisible()

    def _submit(self) -> None:
        if not self.is_composing:
            self.submitted.emit()
            return
        self._submits_after_commit = True
        QGuiApplication.inputMethod().commit()

    def _emit_height(self) -> None:
        height = math.ceil(self.document().size().height())
        if height != self._height and not self._is_measuring:
            self._height = height
            self.height_changed.emit()
