"""The view of a code block: its language, a Copy button, and the code in colours, which Pygments knows."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pygments import lexers  # type: ignore[import-untyped]
from pygments.token import Token  # type: ignore[import-untyped]
from pygments.util import ClassNotFound  # type: ignore[import-untyped]
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
from answerback_desktop.ui.markdown import Segment, visible_code
from answerback_desktop.ui.parts import Appearance, painter_on, set_icon
from answerback_desktop.ui.theme import CODE_COLOURS, Icon, Theme
from answerback_desktop.viewmodels import TurnViewModel

MAX_CHARACTERS: Final = 60_000
"""Code past this length stays plain: Pygments reads about 1 MB/s, and the interface must not wait for it."""

_COLOURS: Final = (
    (Token.Comment, "comment"),
    (Token.Keyword.Type, "type"),
    (Token.Keyword, "keyword"),
    (Token.Operator.Word, "keyword"),
    (Token.Name.Function, "function"),
    (Token.Name.Class, "type"),
    (Token.Name.Builtin, "type"),
    (Token.Name.Exception, "type"),
    (Token.Name.Decorator, "decorator"),
    (Token.Name.Attribute, "function"),
    (Token.Name.Tag, "keyword"),
    (Token.Name.Variable, "decorator"),
    (Token.Literal.String, "string"),
    (Token.Literal.Number, "number"),
    (Token.Generic.Deleted, "deleted"),
    (Token.Generic.Inserted, "inserted"),
    (Token.Generic.Heading, "keyword"),
    (Token.Generic.Subheading, "keyword"),
)
"""Token type to the name of a `CodeColours` field; the first row that contains the token counts."""


@dataclass(frozen=True, slots=True)
class Span:
    """`length` characters of a line from `start` on have this colour, a field of `CodeColours`."""

    start: int
    length: int
    colour: str


class Highlighter:
    """The spans of one code block that grows, in `lines`.

    Each line is read once: a growing block is read on from the last line at which its grammar was surely at its base,
    and the whole of it once more at its end (`is_whole`), which puts right what only later lines decide.
    """

    def __init__(self, language: str) -> None:
        self._lexer = _lexer(language)
        self.lines: list[tuple[Span, ...]] = []
        self._code = ""
        self._from_line = 0  # the first line to read again, and where it begins
        self._from_at = 0
        self._is_whole = False

    def update(self, code: str, *, is_whole: bool) -> int:
        """Take the code so far. Returns the first line whose spans may have changed."""
        if self._lexer is None or len(code) > MAX_CHARACTERS or (code == self._code and is_whole == self._is_whole):
            return len(self.lines)
        if not code.startswith(self._code) or is_whole:
            self.lines, self._from_line, self._from_at = [], 0, 0
        self._code, self._is_whole = code, is_whole
        first = self._from_line
        del self.lines[first:]
        self.lines.extend(self._read(code[self._from_at :]))
        self._set_mark(code)
        return first

    def _read(self, code: str) -> Iterator[tuple[Span, ...]]:
        spans: list[Span] = []
        column = 0
        for _, token, value in self._lexer.get_tokens_unprocessed(code):
            colour = next((colour for parent, colour in _COLOURS if token in parent), None)
            for number, part in enumerate(value.split("\n")):
                if number:
                    yield tuple(spans)
                    spans, column = [], 0
                if part and colour is not None:
                    spans.append(Span(column, len(part), colour))
                column += len(part)
        yield tuple(spans)

    def _set_mark(self, code: str) -> None:
        """Move the mark to the last empty line that no string or comment goes across, if it is far behind."""
        at = code.rfind("\n\n", self._from_at)
        if at < 0 or len(code) - self._from_at < 1_000:
            return
        line = code.count("\n", 0, at)
        before = self.lines[line] if line < len(self.lines) else ()
        if not any(span.colour in {"string", "comment"} for span in before[-1:]):
            self._from_at, self._from_line = at + 2, line + 2


def language_name(language: str) -> str:
    """How a fence's language is called for people: `Python` for `py`. Unknown ones as they are, none as ''."""
    lexer = _lexer(language)
    return language if lexer is None or lexer.name == "Text only" else str(lexer.name)


def _lexer(language: str) -> Any:
    if not language:
        return None
    try:
        return lexers.get_lexer_by_name(language.lower(), stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


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
        self.edit = self.editor = _CodeText(theme, self)
        self._painted = _Colours(self.editor.document(), theme)
        self._back = QTimer(self, singleShot=True, interval=COPIED_MS)
        self._back.timeout.connect(self._show_copy)
        self._show_copy()

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
