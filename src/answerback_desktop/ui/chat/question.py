"""The view of a question: a bubble at the right, and an editor in its place."""

from collections.abc import Sequence
from html import escape
from typing import Final

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QPaintEvent
from PySide6.QtWidgets import QPushButton, QToolButton, QWidget

from answerback_desktop.attachments import printable
from answerback_desktop.ui.chat.blocks import BlockSignals, BlockView
from answerback_desktop.ui.chat.document import show_plain
from answerback_desktop.ui.chat.footer import CopyButton, QuietButton
from answerback_desktop.ui.chat.input_box import InputBox
from answerback_desktop.ui.chat.text_view import TextView, wrap_mode
from answerback_desktop.ui.markdown import Segment
from answerback_desktop.ui.parts import Appearance, button, label, painter_on
from answerback_desktop.ui.theme import Icon
from answerback_desktop.viewmodels import TurnViewModel

_BY_KEYBOARD: Final = Qt.TextInteractionFlag.LinksAccessibleByKeyboard
SHORT_LINES: Final = 14
SHORT_CHARACTERS: Final = 1_200


class QuestionView(BlockView):
    """Long questions are folded. `start_edit` opens the editor; what is sent from it is a new version of the turn.

    `kept_edit`: an edit that was kept. Escape keeps it, Cancel does not.
    """

    kept_edit = ""

    def __init__(self, turn: TurnViewModel, appearance: Appearance, signals: BlockSignals, parent: QWidget) -> None:
        super().__init__(turn, appearance, signals, parent)
        theme, texts = appearance.theme, appearance.texts.chat
        self._is_unfolded = False
        self._bubble = QRectF()
        self.edit = self.text = TextView(theme, self)
        self.copy_button = CopyButton(lambda: turn.question, appearance, self)
        self.edit_button = QuietButton(Icon.EDIT, texts.edit, theme, self)
        self.files_label = label(variant="muted", parent=self)
        self.files_label.setTextFormat(Qt.TextFormat.RichText)
        self.files_label.setTextInteractionFlags(Qt.TextInteractionFlag.LinksAccessibleByMouse | _BY_KEYBOARD)
        self.files_label.setToolTip(texts.save_hint)
        self.files_label.linkActivated.connect(lambda at: signals.file_wanted.emit(turn.record.attachments[int(at)]))
        self.files_label.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.fold_button = QToolButton(self)
        self.editor: InputBox | None = None
        self._edit_parts: list[QWidget] = []
        self.edit_button.clicked.connect(self.start_edit)
        self.edit_button.setVisible(not appearance.is_read_only)
        self.fold_button.clicked.connect(self._fold)
        self._show()

    @property
    def is_busy(self) -> bool:
        """Also while it is edited."""
        return self.editor is not None or super().is_busy

    @property
    def tab_stops(self) -> Sequence[QWidget]:
        if self.editor is not None:
            return [self.editor, *(part for part in self._edit_parts if isinstance(part, QPushButton))]
        edit = [] if self.appearance.is_read_only else [self.edit_button]
        fold = [self.fold_button] if self._is_long else []
        return [self.copy_button, *edit, *fold, *([self.files_label] if self.turn.record.attachments else [])]

    def take(self, segment: Segment | None) -> None:
        """A question does not change."""

    def set_active(self, *, is_active: bool) -> None:
        self.copy_button.reveal(is_revealed=is_active)
        self.edit_button.reveal(is_revealed=is_active or bool(self.kept_edit))

    @property
    def _is_long(self) -> bool:
        question = self.turn.question
        return len(question) > SHORT_CHARACTERS or question.count("\n") >= SHORT_LINES

    def _show(self) -> None:
        question = self.turn.question
        if self._is_long and not self._is_unfolded:
            question = "\n".join(question.split("\n")[:SHORT_LINES])[:SHORT_CHARACTERS].rstrip() + "…"
        self.text.setWordWrapMode(wrap_mode(question))
        show_plain(self.text.document(), question, self.appearance.theme)
        self.text.setAccessibleName(self.appearance.texts.chat.question_name.format(text=question))
        names = " · ".join(printable(one.name) for one in self.turn.record.attachments)
        colour = self.appearance.theme.colour("text_muted").name()
        self.files_label.setText(
            " · ".join(
                f'<a style="color:{colour}" href="{place}">{escape(printable(one.name))}</a>'
                for place, one in enumerate(self.turn.record.attachments)
            )
        )
        self.files_label.setAccessibleName(self.appearance.texts.chat.files_name.format(names=names))
        self.files_label.setVisible(bool(names))
        self.fold_button.setVisible(self._is_long)
        self.fold_button.setText(
            self.appearance.texts.chat.show_less if self._is_unfolded else self.appearance.texts.chat.show_all
        )

    def arrange(self, width: int) -> int:
        """The bubble at the right, as wide as its text, with room for the actions at its left."""
        theme = self.appearance.theme
        gap = theme.space(7)
        if self.editor is not None:
            return self._arrange_editor(self.editor, width, gap)
        pad_x, pad_y = theme.space(4), theme.space(2.5)
        button = self.copy_button.width()
        room = max(80, width - 2 * button - theme.space(2) - 2 * pad_x)
        text_width = min(room, self.text.natural_width())
        height = self.text.height_for(text_width)
        left = width - text_width - 2 * pad_x
        self.text.setGeometry(left + pad_x, gap + pad_y, text_width, height)
        bottom = gap + height + 2 * pad_y
        if self._is_long:
            fold = self.fold_button.sizeHint()
            self.fold_button.setGeometry(left + pad_x - 4, bottom - pad_y + 2, fold.width(), fold.height())
            bottom += fold.height()
        self._bubble = QRectF(left, gap, width - left, bottom - gap)
        top = gap + max(0, min(bottom - gap - button, (bottom - gap - button) // 2))
        self.edit_button.move(left - theme.space(1) - button, top)
        self.copy_button.move(left - theme.space(1) - (1 if self.appearance.is_read_only else 2) * button, top)
        if self.turn.record.attachments:
            bottom += theme.space(1)
            height = self.files_label.heightForWidth(room)
            self.files_label.setGeometry(width - room - theme.space(2), bottom, room, height)
            bottom += height
        return bottom + theme.space(1.5)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        theme = self.appearance.theme
        painter = painter_on(self, fill=theme.colour("bubble_fill"))
        radius = min(theme.space(4.5), self._bubble.height() / 2)
        painter.drawRoundedRect(self._bubble, radius, radius)

    # --- editing

    def set_edit(self, text: str, *, is_open: bool) -> None:
        """An edit of before: its editor is open again, or its mark says that it is there."""
        self.kept_edit = text
        if is_open:
            self.start_edit(takes_focus=False)
        self._show_mark()

    def _show_mark(self) -> None:
        texts = self.appearance.texts.chat
        name, colour = (texts.unsent_edit, "accent") if self.kept_edit else (texts.edit, "text_muted")
        self.edit_button.draw(Icon.EDIT, name, colour=colour)
        self.edit_button.reveal(is_revealed=bool(self.kept_edit))

    def start_edit(self, *, takes_focus: bool = True) -> None:
        """Put an editor in the bubble's place."""
        if self.editor is not None or self.appearance.is_read_only:
            return
        texts = self.appearance.texts.chat
        editor = self.editor = InputBox(self.appearance.theme, self)
        editor.setAccessibleName(texts.edit_name)
        editor.setPlainText(self.kept_edit or self.turn.question)
        editor.moveCursor(editor.textCursor().MoveOperation.End)
        hint = label(texts.edit_hint, "muted", parent=self)
        cancel = button(texts.cancel, self._cancel, parent=self)
        send = button(texts.edit_send, self._send, "primary", parent=self)
        self._edit_parts = [hint, cancel, send]
        editor.submitted.connect(self._send)
        editor.escaped.connect(self.end_edit)
        editor.height_changed.connect(lambda: self.signals.height_changed.emit(self))
        editor.textChanged.connect(lambda: send.setEnabled(bool(editor.toPlainText().strip())))
        editor.textChanged.connect(self._keep)
        self._set_reading(is_shown=False)
        for part in (editor, *self._edit_parts):
            part.show()
        self.signals.height_changed.emit(self)
        self._keep()
        if takes_focus:
            editor.setFocus()

    def end_edit(self) -> None:
        """Show the question again. What was typed is kept for the next time."""
        if self.editor is None:
            return
        self.editor.end_composition()
        for part in (self.editor, *self._edit_parts):
            part.hide()
            part.deleteLater()
        self.editor = None
        self._edit_parts = []
        self._set_reading(is_shown=True)
        self.signals.edit_changed.emit(self.turn.request_id, self.kept_edit or None, False)
        self._show_mark()
        self.edit_button.setFocus()
        self.signals.height_changed.emit(self)

    def _keep(self) -> None:
        """As it is typed."""
        if self.editor is not None:
            text = self.editor.toPlainText()
            self.kept_edit = "" if text == self.turn.question else text
            self.signals.edit_changed.emit(self.turn.request_id, text, True)

    def _cancel(self) -> None:
        if self.editor is not None:
            self.editor.setPlainText(self.turn.question)
            self.end_edit()

    def _set_reading(self, *, is_shown: bool) -> None:
        for part in (self.text, self.copy_button, self.edit_button):
            part.setVisible(is_shown)
        self.fold_button.setVisible(is_shown and self._is_long)
        self.files_label.setVisible(is_shown and bool(self.turn.record.attachments))

    def _send(self) -> None:
        if self.editor is None:
            return
        self.editor.end_composition()
        if not (text := self.editor.toPlainText()).strip():
            return
        self.end_edit()
        self.signals.edited.emit(self.turn.request_id, text)

    def _arrange_editor(self, editor: InputBox, width: int, gap: int) -> int:
        theme = self.appearance.theme
        pad = theme.space(3)
        hint, cancel, send = self._edit_parts
        height = editor.wanted_height(width - 2 * pad)
        editor.setGeometry(pad, gap + pad, width - 2 * pad, height)
        top = gap + pad + height + theme.space(2)
        one, other = send.sizeHint(), cancel.sizeHint()
        row = max(one.height(), other.height())
        send.setGeometry(width - pad - one.width(), top, one.width(), row)
        cancel.setGeometry(send.x() - theme.space(2) - other.width(), top, other.width(), row)
        hint_width = cancel.x() - 2 * pad
        if hint_width < hint.fontMetrics().averageCharWidth() * 16:
            hint_width = width - 2 * pad
            row += theme.space(2)
            hint.setGeometry(pad + 4, top + row, hint_width, hint.heightForWidth(hint_width))
            row += hint.height()
        else:
            hint.setGeometry(pad + 4, top, hint_width, row)
        self._bubble = QRectF(0, gap, width, top + row + pad - gap)
        return top + row + pad + theme.space(1)

    def _fold(self) -> None:
        self._is_unfolded = not self._is_unfolded
        self._show()
        self.signals.height_changed.emit(self)
