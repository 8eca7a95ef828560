"""The dialog before files go into a question: what of them will be sent, and why others will not."""

from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QLabel, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget

from answerback_desktop.attachments import ChosenFile
from answerback_desktop.texts import ChatTexts
from answerback_desktop.ui.theme import Theme

PREVIEW_PX: Final = 160


class AttachDialog(QDialog):
    """Shows files as they are sent, and the very text that some become.

    Signals: `accepted_text(str)`: put it into the question. `accepted_files(list of File)`: send them with it.
    """

    accepted_text = Signal(str)
    accepted_files = Signal(object)

    def __init__(
        self, attachments: Sequence[ChosenFile], room_bytes: int, texts: ChatTexts, theme: Theme, parent: QWidget
    ) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(texts.attach_title)
        column = QVBoxLayout(self)
        column.setContentsMargins(*[theme.space(5)] * 4)
        column.setSpacing(theme.space(2.5))
        title = QLabel(texts.attach_title)
        title.setProperty("variant", "title")
        column.addWidget(title)
        for one in attachments:
            column.addWidget(_line(one, texts, room_bytes))
            if one.file is not None and not (picture := _pixmap(one.data)).isNull():
                label = QLabel()
                label.setPixmap(picture)
                label.setAccessibleName(one.name or texts.attach_image)
                column.addWidget(label)
        self.files = [one.file for one in attachments if one.file is not None]
        self.text = "\n".join(one.block for one in attachments if one.refusal is None and one.file is None)
        if self.text:
            explanation = QLabel(texts.attach_text)
            explanation.setWordWrap(True)
            explanation.setProperty("variant", "muted")
            column.addWidget(explanation)
            column.addWidget(self._preview(texts, theme), 1)
        column.addWidget(self._buttons(texts))
        if self.text or self.files:
            self.add_button.setFocus()
        width = theme.space(150)
        self.resize(width, max(column.totalHeightForWidth(width), theme.space(120) if self.text else 0))

    def _preview(self, texts: ChatTexts, theme: Theme) -> QPlainTextEdit:
        self.preview = QPlainTextEdit(self.text)
        self.preview.setReadOnly(True)
        self.preview.setFont(theme.mono_font())
        self.preview.document().setDefaultFont(theme.mono_font())
        self.preview.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.preview.setTabChangesFocus(True)
        self.preview.setAccessibleName(texts.attach_text)
        return self.preview

    def _buttons(self, texts: ChatTexts) -> QDialogButtonBox:
        buttons = QDialogButtonBox()
        cancel = QPushButton(texts.cancel if self.text or self.files else texts.attach_close)
        buttons.addButton(cancel, QDialogButtonBox.ButtonRole.RejectRole)
        buttons.rejected.connect(self.reject)
        if self.text or self.files:
            self.add_button = QPushButton(texts.attach_add)
            self.add_button.setProperty("variant", "primary")
            self.add_button.setDefault(True)
            buttons.addButton(self.add_button, QDialogButtonBox.ButtonRole.AcceptRole)
            buttons.accepted.connect(self._add)
        return buttons

    def _add(self) -> None:
        if self.files:
            self.accepted_files.emit(self.files)
        if self.text:
            self.accepted_text.emit(self.text)
        self.accept()


def _line(one: ChosenFile, texts: ChatTexts, room_bytes: int) -> QLabel:
    facts = [one.name or texts.attach_image]
    if one.size_bytes is not None:
        facts.append(size_text(one.size_bytes))
    if one.refusal is None and one.encoding:
        facts.append(one.encoding.upper())
    if one.file is not None:
        facts.append(texts.attach_beside)
    line = " · ".join(facts)
    if one.refusal is not None:
        room = size_text(max(0, room_bytes))
        line += "\n" + texts.refusals[one.refusal].format(room=room)
    label = QLabel(line)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setProperty("variant", "error" if one.refusal is not None else "")
    return label


def _pixmap(data: bytes) -> QPixmap:
    """An image, small; null: the bytes are none."""
    picture = QPixmap()
    picture.loadFromData(data)
    if picture.isNull() or max(picture.width(), picture.height()) <= PREVIEW_PX:
        return picture
    keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    return picture.scaled(PREVIEW_PX, PREVIEW_PX, keep, smooth)


def size_text(size_bytes: int) -> str:
    """`812 B`, `12.3 KB`, `4.0 MB`."""
    if size_bytes >= 1 << 20:
        return f"{size_bytes / (1 << 20):,.1f} MB"
    return f"{size_bytes / 1024:,.1f} KB" if size_bytes >= 1024 else f"{size_bytes} B"
