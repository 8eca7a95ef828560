"""The dialog before files go into a question: what of them will be sent, and why others will not."""

from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QDialogButtonBox, QLabel, QPlainTextEdit, QWidget

from answerback_desktop.attachments import ChosenFile
from answerback_desktop.texts import ChatTexts
from answerback_desktop.ui.parts import Appearance, Dialog, button, label
from answerback_desktop.ui.theme import Theme

PREVIEW_PX: Final = 160


class AttachDialog(Dialog):
    """Shows files as they are sent, and the very text that some become.

    Signals: `accepted_text(str)`: put it into the question. `accepted_files(list of File)`: send them with it.
    """

    accepted_text = Signal(str)
    accepted_files = Signal(object)

    def __init__(
        self, attachments: Sequence[ChosenFile], room_bytes: int, appearance: Appearance, parent: QWidget
    ) -> None:
        texts, theme = appearance.texts.chat, appearance.theme
        super().__init__(parent, texts.attach_title, theme, gap=2.5)
        self.column.addWidget(label(texts.attach_title, "title"))
        for one in attachments:
            self.column.addWidget(_line(one, texts, room_bytes))
            if one.file is not None and not (picture := _pixmap(one.data)).isNull():
                shown = QLabel()
                shown.setPixmap(picture)
                shown.setAccessibleName(one.name or texts.attach_image)
                self.column.addWidget(shown)
        self.files = [one.file for one in attachments if one.file is not None]
        self.text = "\n".join(one.block for one in attachments if one.refusal is None and one.file is None)
        if self.text:
            self.column.addWidget(label(texts.attach_text, "muted"))
            self.column.addWidget(self._preview(texts, theme), 1)
        self.column.addWidget(self._buttons(texts))
        if self.text or self.files:
            self.add_button.setFocus()
        width = theme.space(150)
        self.resize(width, max(self.column.totalHeightForWidth(width), theme.space(120) if self.text else 0))

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
        buttons, has_any = QDialogButtonBox(), bool(self.text or self.files)
        cancel = button(texts.cancel if has_any else texts.attach_close, self.reject)
        buttons.addButton(cancel, QDialogButtonBox.ButtonRole.RejectRole)
        if has_any:
            self.add_button = button(texts.attach_add, self._add, "primary")
            self.add_button.setDefault(True)
            buttons.addButton(self.add_button, QDialogButtonBox.ButtonRole.AcceptRole)
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
    return label(line, "error" if one.refusal is not None else "")


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
