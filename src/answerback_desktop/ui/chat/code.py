"""The view of a code block: its language, a Copy button, and the code in colours."""

import math
import re
from collections.abc import Callable, Sequence

from PySide6.QtCore import QMimeData, QPointF, QRectF, Qt, QTimer
from PySide6.QtGui import (
    QGuiApplication,
    QPaintEvent,
    QSyntaxHighlighter,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QWheelEvent,
)
from PySide6.QtWidgets import QFrame, QLabel, QTextEdit, QToolButton, QWidget

from answerback_desktop.ui.chat.blocks import BlockSignals, BlockView
from answerback_desktop.ui.chat.document import indent_of, line_height_percent
from answerback_desktop.ui.chat.footer import COPIED_MS
from answerback_desktop.ui.highlight import Highlighter, language_name
from answerback_desktop.ui.markdown import Segment, visible_code
from answerback_desktop.ui.parts import Appearance, painter_on, set_icon
from answerback_desktop.ui.theme import CODE_COLOURS, Icon, Theme
from answerback_desktop.viewmodels import TurnViewModel


class CodeView(BlockView):
    """Code never wraps; it scrolls sideways. Only what is new is put into the editor while it streams.

    Signs that turn the direction of text are written out; Copy gives the code as it is.
    """

    def __init__(self, turn: TurnViewModel, appearance: Appearance, signals: BlockSignals, parent: QWidget) -> None:
        super().__init__(turn, appearance, signals, parent)
        theme = appearance.theme
        self._code = self._source = self._title = ""
        self._highlighter: Highlighter | None = None
        self._language = QLabel(self)
        self._language.setProperty("variant", "muted")
        self._language.setTextFormat(Qt.TextFormat.PlainText)
        self.copy_button = QToolButton(self)
        self.copy_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.copy_button.clicked.connect(self._copy)
        self.editor = _CodeText(theme, self)
        self._painted = _Colours(self.editor.document(), theme)
        self._back = QTimer(self, singleShot=True, interval=COPIED_MS)
        self._back.timeout.connect(self._show_copy)
        self._show_copy()

    @property
    def edit(self) -> QTextEdit:
        return self.editor

    @property
    def tab_stops(self) -> Sequence[QWidget]:
        """The Copy button, and the code, to be scrolled by the arrow keys."""
        return [self.copy_button, self.editor]

    def take(self, segment: Segment | None) -> None:
        if segment is None:
            return
        self.path, self._source = segment.path, segment.text
        code = visible_code(segment.text)
        if self._highlighter is None or self._title != segment.title:
            self._title = segment.title
            self._highlighter = Highlighter(segment.title)
            name = language_name(segment.title) or self.appearance.texts.chat.code
            self._language.setText(name)
            self.editor.setAccessibleName(self.appearance.texts.chat.code_name.format(language=name))
        if code.startswith(self._code) and self._code:
            self.editor.put(code[len(self._code) :], at_end=True)
        elif code != self._code:
            self.editor.put(code, at_end=False)
        self._code = code
        whole_lines = code if segment.is_closed else code[: code.rfind("\n") + 1]
        first = self._highlighter.update(whole_lines, is_whole=segment.is_closed)
        self._painted.show(self._highlighter, first)

    def arrange(self, width: int) -> int:
        theme = self.appearance.theme
        gap, pad = theme.space(3), theme.space(3)
        bar = max(self.copy_button.sizeHint().height(), self._language.sizeHint().height()) + theme.space(1.5)
        button, left = self.copy_button.sizeHint(), indent_of(self.path, theme)
        self._language.setGeometry(left + pad, gap, max(0, width - left - 2 * pad - button.width()), bar)
        self.copy_button.setGeometry(
            width - button.width() - theme.space(1), gap + (bar - button.height()) // 2, button.width(), button.height()
        )
        room = max(20, width - left - 2 * pad)
        height = self.editor.height_for(room)
        self.editor.setGeometry(left + pad, gap + bar + theme.space(2), room, height)
        self._bar = (left, gap, bar)
        return gap + bar + height + theme.space(4.5)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        (left, gap, bar), theme = self._bar, self.appearance.theme
        painter = painter_on(self, fill=theme.colour("code_fill"), line=theme.colour("border"))
        box = QRectF(left + 0.5, gap + 0.5, self.width() - left - 1, self.height() - gap - 1 - theme.space(1))
        radius = theme.space(2.5)
        painter.drawRoundedRect(box, radius, radius)
        line = gap + bar + 0.5
        painter.drawLine(QPointF(left + 1, line), QPointF(self.width() - 1, line))
        painter.end()
        super().paintEvent(event)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self._source)
        self._set_button(Icon.CHECK, self.appearance.texts.chat.copied, "success")
        self._back.start()

    def _show_copy(self) -> None:
        self._set_button(Icon.COPY, self.appearance.texts.chat.copy, "text_muted")

    def _set_button(self, drawing: Icon, text: str, colour: str) -> None:
        set_icon(self.copy_button, self.appearance.theme, drawing, self.appearance.theme.small_px + 3, colour)
        self.copy_button.setText(text)
        self.copy_button.setAccessibleName(self.appearance.texts.chat.copy_code if drawing is Icon.COPY else text)
        self.copy_button.setToolTip(self.appearance.texts.chat.copy_code)
        size, right = self.copy_button.sizeHint(), self.copy_button.geometry().right()
        if self.copy_button.isVisible():
            self.copy_button.setGeometry(right - size.width() + 1, self.copy_button.y(), size.width(), size.height())


class _CodeText(QTextEdit):
    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self.selected: Callable[[], QMimeData] | None = None
        self.setProperty("variant", "plain")
        self.setReadOnly(True)
        self.setUndoRedoEnabled(False)
        self.setFont(theme.mono_font())
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setLineWrapMode(QTextEdit.LineWrapMode.NoWrap)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setTabChangesFocus(True)
        self.viewport().setAutoFillBackground(False)
        self.document().setDefaultFont(theme.mono_font())
        self.document().setDocumentMargin(0)
        self.setTabStopDistance(4 * self.fontMetrics().horizontalAdvance(" "))

    def createMimeDataFromSelection(self) -> QMimeData:  # noqa: N802 - Qt's name
        """What is copied: the selection of the whole conversation, where there is one."""
        return super().createMimeDataFromSelection() if self.selected is None else self.selected()

    def put(self, code: str, *, at_end: bool) -> None:
        """All of the code, or more of it. New lines are as high as the first."""
        cursor = QTextCursor(self.document())
        if at_end:
            cursor.movePosition(QTextCursor.MoveOperation.End)
        else:
            cursor.select(QTextCursor.SelectionType.Document)
            form = QTextBlockFormat()
            percent = line_height_percent(self.document().defaultFont(), 1.5)
            form.setLineHeight(percent, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
            cursor.setBlockFormat(form)
        cursor.insertText(code)
        if not at_end:
            self.moveCursor(QTextCursor.MoveOperation.Start)

    def height_for(self, width: int) -> int:
        """All lines, and the bar if a line is wider than `width`."""
        size = self.document().size()
        return math.ceil(size.height()) + (14 if size.width() > width else 2)

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        """Sideways here, up and down in the transcript."""
        delta = event.angleDelta()
        sideways = delta.x() or (delta.y() if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 0)
        if not sideways:
            event.ignore()
            return
        self.horizontalScrollBar().setValue(self.horizontalScrollBar().value() - sideways)
        event.accept()


class _Colours(QSyntaxHighlighter):
    """Paints the spans that were found; finds none itself."""

    def __init__(self, document: QTextDocument, theme: Theme) -> None:
        super().__init__(document)
        self._formats: dict[str, QTextCharFormat] = {}
        self._lines: Highlighter | None = None
        for name in CODE_COLOURS:
            self._formats[name] = QTextCharFormat()
            self._formats[name].setForeground(theme.code_colour(name))
        self._formats["comment"].setFontItalic(True)
        self._sign = QTextCharFormat()
        self._sign.setForeground(theme.colour("warning"))
        self._sign.setBackground(theme.colour("warning_fill"))

    def show(self, lines: Highlighter, first: int) -> None:
        """Paint from line `first` on."""
        self._lines = lines
        block = self.document().findBlockByNumber(first)
        while block.isValid():
            self.rehighlightBlock(block)
            block = block.next()

    def highlightBlock(self, text: str) -> None:  # noqa: N802 - Qt's name
        """Qt asks for one line."""
        number = self.currentBlock().blockNumber()
        if self._lines is not None and number < len(self._lines.lines):
            for span in self._lines.lines[number]:
                self.setFormat(span.start, span.length, self._formats[span.colour])
        if "⟦U+" in text:
            for sign in re.finditer(r"⟦U\+[0-9A-F]{4}⟧", text):
                self.setFormat(sign.start(), len(sign[0]), self._sign)
