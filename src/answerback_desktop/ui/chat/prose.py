"""Views of prose, of tables, and of what is folded."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

from PySide6.QtCore import QPointF, QSize, Qt
from PySide6.QtGui import QFont, QFontMetricsF, QIcon, QPainter, QPaintEvent, QTextOption, QWheelEvent
from PySide6.QtWidgets import QTextBrowser, QToolButton, QWidget

from answerback_desktop.ui.chat.blocks import BlockSignals, BlockView
from answerback_desktop.ui.chat.document import indent_of, read_out, table_in, writer_of
from answerback_desktop.ui.chat.text_view import TextView, keeping_selection, wrap_mode
from answerback_desktop.ui.markdown import Part, Row, Segment, Span
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.theme import Icon, Theme
from answerback_desktop.viewmodels import TurnViewModel


class ProseView(BlockView):
    """A stretch of an answer's prose."""

    def __init__(self, turn: TurnViewModel, appearance: Appearance, signals: BlockSignals, parent: QWidget) -> None:
        super().__init__(turn, appearance, signals, parent)
        self.edit = self.text = TextView(appearance.theme, self)
        self.text.setAccessibleName(appearance.texts.chat.answer_name)
        self.text.link.connect(signals.link)
        self._parts: Sequence[Part] = ()

    @property
    def tab_stops(self) -> Sequence[QWidget]:
        """The text, if there are links in it."""
        return [self.text] if any(span.href for part in self._parts for span in part.spans) else []

    def take(self, segment: Segment | None) -> None:
        """Show the prose; a selection that is still there is kept."""
        if segment is None or segment.parts == self._parts:
            return
        with keeping_selection(self.text):
            self.text.setWordWrapMode(wrap_mode(" ".join(span.text for part in segment.parts for span in part.spans)))
            writer = writer_of(self.appearance.theme)
            writer.show_parts(self.text.document(), segment.parts, self._parts, self.appearance.texts.chat)
        self._parts = segment.parts
        self.text.setAccessibleDescription(read_out(segment.parts, self.appearance.theme, self.appearance.texts.chat))

    def arrange(self, width: int) -> int:
        gap = round(self._parts[0].gap * self.appearance.theme.body_px) if self._parts else 0
        height = self.text.height_for(width)
        self.text.setGeometry(0, gap, width, height)
        return gap + height

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """The bars of quotes that go on from the view above; those beside the text are the text's."""
        self._draw_bars(self.joins, self.text.y() + 3)


class TableView(BlockView):
    """A table: as wide as its text needs, scrolled sideways where that is more than there is."""

    def __init__(self, turn: TurnViewModel, appearance: Appearance, signals: BlockSignals, parent: QWidget) -> None:
        super().__init__(turn, appearance, signals, parent)
        self.edit = self.text = _TableText(appearance.theme, self)
        self.text.setAccessibleName(appearance.texts.chat.table_name)
        self.text.link.connect(signals.link)
        self._table: Segment | None = None
        self._widest: list[float] = []  # letters of a cell, by column
        self._natural_width: int | None = None  # None: to be measured

    @property
    def tab_stops(self) -> Sequence[QWidget]:
        """The table, to be scrolled by the arrow keys."""
        return [self.text]

    def take(self, segment: Segment | None) -> None:
        """Show the table; rows that are there are left alone."""
        if segment is None or segment == self._table:
            return
        self.path = segment.path
        with keeping_selection(self.text):
            writer = writer_of(self.appearance.theme)
            same = writer.show_rows(self.text.document(), segment, self._table, self.appearance.texts.chat)
        if not same or (self._table is not None and len(segment.rows) < len(self._table.rows)):
            self._widest, self._natural_width = [0.0] * len(segment.rows[0]), None
        for number, row in enumerate(segment.rows[same:], start=same):
            self._widen(row, is_head=not number)
        self._table = segment

    def _widen(self, row: Row, *, is_head: bool) -> None:
        """Note how wide its cells are: only a wider one than all above makes the whole table be measured again."""
        for column, spans in enumerate(row[: len(self._widest)]):
            width = sum(self._metrics_of(span, is_bold=is_head).horizontalAdvance(span.text) for span in spans)
            if width > self._widest[column]:
                self._widest[column], self._natural_width = width, None

    def _metrics_of(self, span: Span, *, is_bold: bool) -> QFontMetricsF:
        text, bold, code = self._metrics
        return code if span.styles & {"code", "math"} else bold if is_bold or "bold" in span.styles else text

    @cached_property
    def _metrics(self) -> tuple[QFontMetricsF, QFontMetricsF, QFontMetricsF]:
        """Of text, of bold text, and of code."""
        theme = self.appearance.theme
        fonts = (theme.font(), theme.font(weight=QFont.Weight.Bold), theme.mono_font())
        return QFontMetricsF(fonts[0]), QFontMetricsF(fonts[1]), QFontMetricsF(fonts[2])

    def arrange(self, width: int) -> int:
        """Columns get room for about 15 letters before lines are broken."""
        gap, left = self.appearance.theme.space(3), indent_of(self.path, self.appearance.theme)
        columns = len(self._table.rows[0]) if self._table is not None else 1
        room = max(width - left, columns * self.appearance.theme.body_px * 8)
        if self._natural_width is None:
            self._natural_width = self.text.natural_width()
        text_width = min(self._natural_width, room)
        height = self.text.height_for(text_width) + 2
        bar = 12 if text_width > width - left else 0
        self.text.setGeometry(left, gap, min(width - left, text_width), height + bar)
        return gap + height + bar


class FoldView(BlockView):
    """The line that stands for what is folded: a model's thoughts, or details. A click shows what is in it.

    What a model says of its doing is such a line with nothing in it.
    """

    _is_line = False

    def __init__(self, turn: TurnViewModel, appearance: Appearance, signals: BlockSignals, parent: QWidget) -> None:
        super().__init__(turn, appearance, signals, parent)
        self.button = QToolButton(self)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.clicked.connect(self._toggle)
        self._start = 0

    @property
    def tab_stops(self) -> Sequence[QWidget]:
        return [] if self._is_line else [self.button]

    def take(self, segment: Segment | None) -> None:
        if segment is None:
            return
        texts, theme = self.appearance.texts.chat, self.appearance.theme
        self._start, self.path = segment.start, segment.path
        is_growing = not segment.is_closed and not self.turn.status.is_over
        thoughts = texts.thinking if is_growing else texts.thoughts
        details = (segment.title or texts.details) + (" …" if is_growing else "")
        self.button.setText(thoughts if segment.title == "think" else details)
        self.button.setAccessibleName(self.button.text())
        self._is_line = segment.title != "think" and not segment.text.strip()
        self.button.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents, self._is_line)
        self.set_open(is_open=self.is_open)
        self.button.setIconSize(QSize(theme.body_px, theme.body_px))

    def set_open(self, *, is_open: bool) -> None:
        """Whether what is in it is shown below."""
        theme, self.is_open = self.appearance.theme, is_open
        drawing = Icon.CHEVRON_DOWN if is_open else Icon.CHEVRON_RIGHT
        self.button.setIcon(QIcon() if self._is_line else theme.icon(drawing, theme.body_px))

    def arrange(self, width: int) -> int:
        gap, left = self.appearance.theme.space(2), indent_of(self.path, self.appearance.theme)
        size = self.button.sizeHint()
        left -= self.appearance.theme.space(1.5)
        self.button.setGeometry(left, gap, min(size.width(), width - left), size.height())
        return gap + size.height()

    def _toggle(self) -> None:
        self.signals.folded.emit(self.turn.request_id, self._start)


class _TableText(TextView):
    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(theme, parent)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.setWordWrapMode(QTextOption.WrapMode.WordWrap)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """The cells, and the lines between those rows that are seen."""
        QTextBrowser.paintEvent(self, event)  # in cells there are no quotes, lists or rules
        table = table_in(self.document())
        if table is None:
            return
        painter = QPainter(self.viewport())
        shift = self.horizontalScrollBar().value()
        layout = self.document().documentLayout()
        right = layout.frameBoundingRect(table).right() - shift
        padding = table.format().cellPadding()

        def top_of(row: int) -> float:
            cells = (table.cellAt(row, column).firstCursorPosition().block() for column in range(table.columns()))
            return min(layout.blockBoundingRect(block).top() for block in cells) - padding

        rows = range(1, table.rows())
        for row in rows[bisect_left(rows, float(event.rect().top()), key=top_of) :]:
            if (top := top_of(row)) > event.rect().bottom():
                break
            painter.setPen(self._theme.colour("control_border" if row == 1 else "border"))
            painter.drawLine(QPointF(-shift, round(top)), QPointF(right, round(top)))

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        if abs(event.angleDelta().x()) > abs(event.angleDelta().y()):
            bar = self.horizontalScrollBar()
            bar.setValue(bar.value() - event.angleDelta().x())
            event.accept()
            return
        event.ignore()
