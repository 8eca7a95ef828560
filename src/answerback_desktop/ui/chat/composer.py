"""The composer: the box that grows with the question, Send or Stop, and what there is to say about its length."""

from typing import Final

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QToolButton, QWidget

from answerback.client import File
from answerback_desktop.attachments import ROOM_BYTES
from answerback_desktop.ui.chat.attach import size_text
from answerback_desktop.ui.chat.input_box import InputBox
from answerback_desktop.ui.parts import Appearance, label, painter_on, set_icon, set_name
from answerback_desktop.ui.theme import Icon

ENVELOPE_BYTES: Final = 2_048
"""Of a message's limit: the frame around the question, its ids, and the model's name."""
NEARLY_FULL: Final = 0.9
CHIP_PX: Final = 220
"""At most for the name of a file."""


class Composer(QWidget):
    """Signals: `sent` with the question, `stopped`, `changed` with the draft, `recalled` for Up in an empty box,
    `attach_wanted` for the button, `dropped(list of ChosenFile)` for files that were pasted or dropped, `let_go(File)`
    for one that is not to go with the question after all.
    """

    sent = Signal(str)
    stopped = Signal()
    changed = Signal(str)
    recalled = Signal()
    attach_wanted = Signal()
    dropped = Signal(object)
    let_go = Signal(object)

    def __init__(self, appearance: Appearance, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._appearance = appearance
        self._limit_bytes: int | None = None
        self._is_running = False
        self.box = InputBox(appearance.theme, self)
        self.button = QToolButton(self)
        self.button.setProperty("variant", "primary")
        self.attach_button = QToolButton(self)
        self.notice = label(parent=self)
        self._refused = ""
        self._files: tuple[File, ...] = ()
        self.chips: list[QToolButton] = []
        self._connect()
        self.set_appearance(appearance)

    def _connect(self) -> None:
        self.box.submitted.connect(self._submit)
        self.box.escaped.connect(self._escape)
        self.box.recalled.connect(self.recalled)
        self.box.height_changed.connect(self.arrange)
        self.box.textChanged.connect(self._edited)
        self.box.installEventFilter(self)
        self.box.dropped.connect(self.dropped)
        self.box.too_long.connect(self._refuse_paste)
        self.attach_button.clicked.connect(self.attach_wanted)
        self.button.clicked.connect(self._press)

    def set_appearance(self, appearance: Appearance) -> None:
        self._appearance = appearance
        texts = appearance.texts.chat
        self.box.setFont(appearance.theme.font())
        self.box.document().setDefaultFont(appearance.theme.font())
        self.box.viewport().setFont(appearance.theme.font())  # which the style sheet holds, and the placeholder takes
        self.box.document().setDocumentMargin(appearance.theme.space(1))
        self.box.setPlaceholderText(texts.placeholder)
        self.box.setAccessibleName(texts.composer_name)
        side = appearance.theme.body_px + 5
        self.button.setIconSize(QSize(side, side))
        set_icon(self.attach_button, appearance.theme, Icon.ATTACH, side)
        set_name(self.attach_button, texts.attach)
        self.button.setAccessibleName("")  # so that it is drawn again
        self.set_files(self._files)
        self._show_button()
        self._show_notice()
        self.arrange()

    def set_files(self, files: tuple[File, ...]) -> None:
        """Show what goes with the question. A click on one takes it out again."""
        for chip in self.chips:
            chip.hide()
            chip.deleteLater()
        self._files, self.chips = files, []
        for file in files:
            chip = QToolButton(self)
            chip.setProperty("variant", "chip")
            chip.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            chip.setIcon(self._appearance.theme.icon(Icon.CLOSE, self._appearance.theme.body_px))
            name = chip.fontMetrics().elidedText(file.name, Qt.TextElideMode.ElideMiddle, CHIP_PX)
            chip.setText(f"{name} · {size_text(len(file.data))}".replace("&", "&&"))
            chip.setToolTip(file.name)
            chip.setAccessibleName(self._appearance.texts.chat.let_file_go.format(name=file.name))
            chip.clicked.connect(lambda _=False, file=file: self.let_go.emit(file))
            chip.show()
            self.chips.append(chip)
        self.arrange()

    def set_limit(self, limit_bytes: int | None) -> None:
        """What the server allows one message to have, encoded; None: not known."""
        self._limit_bytes = limit_bytes
        self.box.room = self.room_bytes
        self._show_notice()

    def set_running(self, *, is_running: bool) -> None:
        """Whether an answer can be stopped: an empty box then shows Stop."""
        self._is_running = is_running
        self._show_button()

    def set_text(self, text: str) -> None:
        """Show another conversation's draft; no change is emitted. `end_composition` comes before that."""
        if text == self.box.toPlainText():
            return
        self.box.blockSignals(True)
        self.box.setPlainText(text)
        self.box.moveCursor(self.box.textCursor().MoveOperation.End)
        self.box.blockSignals(False)
        self._show_button()
        self._show_notice()
        self.arrange()

    @property
    def text(self) -> str:
        return self.box.toPlainText()

    @property
    def over_bytes(self) -> int:
        """By how much the text is too long; 0 or less: it is not."""
        if self._limit_bytes is None:
            return -1
        return encoded_bytes(self.text) + ENVELOPE_BYTES - self._limit_bytes

    @property
    def room_bytes(self) -> int:
        """What may still be put into the question."""
        limit = ROOM_BYTES if self._limit_bytes is None else self._limit_bytes - ENVELOPE_BYTES
        return limit - encoded_bytes(self.text)

    def insert_block(self, text: str) -> None:
        """Put lines where the cursor is, as lines of their own."""
        cursor = self.box.textCursor()
        before = "" if cursor.atBlockStart() else "\n"
        cursor.insertText(before + text)
        self.box.setTextCursor(cursor)
        self.box.ensureCursorVisible()
        self.box.setFocus()

    # --- what happens

    def _refuse_paste(self, text: str) -> None:
        texts = self._appearance.texts.chat
        room = size_text(max(0, self.room_bytes))
        self._refused = texts.paste_too_long.format(size=size_text(len(text.encode("utf-8", "replace"))), room=room)
        self._show_notice()

    def _edited(self) -> None:
        self._refused = ""
        self.box.room = self.room_bytes
        self.changed.emit(self.text)
        self._show_button()
        self._show_notice()

    def _submit(self) -> None:
        if self.text.strip() and self.over_bytes <= 0:
            self.sent.emit(self.text)

    def _escape(self) -> None:
        if self._is_running:
            self.stopped.emit()

    def _press(self) -> None:
        if self._shows_stop:
            self.stopped.emit()
        else:
            self.box.end_composition()
            self._submit()
        self.box.setFocus()

    @property
    def _shows_stop(self) -> bool:
        return self._is_running and not self.text.strip()

    def _show_button(self) -> None:
        theme, texts = self._appearance.theme, self._appearance.texts.chat
        drawing, name = (Icon.STOP, texts.stop) if self._shows_stop else (Icon.SEND, texts.send)
        if name != self.button.accessibleName():
            side = self.button.iconSize().width()
            self.button.setIcon(theme.icon(drawing, side, "on_accent", disabled="text_muted"))
            set_name(self.button, name)
        self.button.setEnabled(self._shows_stop or (bool(self.text.strip()) and self.over_bytes <= 0))

    def _show_notice(self) -> None:
        texts, over = self._appearance.texts.chat, self.over_bytes
        text, variant = "", "muted"
        if self._limit_bytes is not None and over > 0:
            text, variant = texts.too_long.format(over=size_text(over)), "error"
        elif self._refused:
            text, variant = self._refused, "error"
        elif self._limit_bytes is not None and over > -(1 - NEARLY_FULL) * self._limit_bytes:
            text = texts.nearly_full.format(left=size_text(-over))
        was_shown = bool(self.notice.text())
        if text != self.notice.text():
            self.notice.setText(text)
            self.notice.setProperty("variant", variant)
            self.notice.style().polish(self.notice)
        self.notice.setVisible(bool(text))
        self._show_button()
        if was_shown != bool(text):
            self.arrange()

    # --- the geometry

    def arrange(self) -> None:
        """Everything in its place; the height is fixed to what the text needs."""
        theme = self._appearance.theme
        width = self.width()
        pad, side = theme.space(2), theme.body_px + 5 + theme.space(4)
        box_width = max(40, width - 2 * side - 4 * pad)
        text = self.box.wanted_height(box_width)
        inner = max(text, side)
        room = width - 2 * pad - theme.space(2)
        notice = self.notice.heightForWidth(room) + theme.space(1) if self.notice.text() else 0
        top = pad + self._arrange_chips(pad, width - pad, pad)
        self._frame = QRectF(1, 1, width - 2, top + inner + pad - 2)
        self.attach_button.setGeometry(pad, top + inner - side, side, side)
        self.box.setGeometry(2 * pad + side, top + (inner - text + 1) // 2, box_width, text)
        self.button.setGeometry(width - pad - side, top + inner - side, side, side)
        self.notice.setGeometry(pad + theme.space(2), top + inner + pad, room, max(0, notice))
        self.setFixedHeight(top + inner + pad + notice)
        self.update()

    def _arrange_chips(self, left: int, right: int, top: int) -> int:
        """The files over the box, in as many rows as they need. Returns the height of all rows."""
        gap, x, y, row = self._appearance.theme.space(1), left, top, 0
        for chip in self.chips:
            size = chip.sizeHint()
            if x > left and x + size.width() > right:
                x, y = left, y + row + gap
            chip.setGeometry(x, y, min(size.width(), right - left), size.height())
            x, row = x + size.width() + gap, size.height()
        return y - top + row + gap if row else 0

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self.arrange()

    def eventFilter(self, watched: object, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        if event.type() in {QEvent.Type.FocusIn, QEvent.Type.FocusOut}:
            self.update()
        return False

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        theme = self._appearance.theme
        focused = self.box.hasFocus()
        line = QPen(theme.colour("focus" if focused else "control_border"), 2 if focused else 1)
        painter = painter_on(self, fill=theme.colour("surface" if theme.scheme == "light" else "raised"), line=line)
        painter.drawRoundedRect(self._frame, theme.space(4), theme.space(4))


def encoded_bytes(text: str) -> int:
    """Its size inside a JSON string: UTF-8, with quotes, backslashes and line ends escaped."""
    escaped = text.count('"') + text.count("\\") + text.count("\n") + text.count("\t") + text.count("\r")
    return len(text.encode("utf-8", "replace")) + escaped
