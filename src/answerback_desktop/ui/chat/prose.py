"""Views of prose and of tables."""

from collections.abc import Sequence

from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QTextOption, QTextTable, QWheelEvent
from PySide6.QtWidgets import QWidget

from answerback_desktop.ui.chat.blocks import Appearance, BlockSignals, BlockView
from answerback_desktop.ui.chat.document import show_markdown
from answerback_desktop.ui.chat.text_view import TextView, wrap_mode
from answerback_desktop.ui.markdown import Segment
from answerback_desktop.ui.theme import Theme
from answerback_desktop.viewmodels.turn import TurnViewModel


class ProseView(BlockView):
    """A stretch of an answer's prose."""

    def __init__(self, turn: TurnViewModel, appearance: Appearance, signals: BlockSignals, parent: QWidget) -> None:
        super().__init__(turn, appearance, signals, parent)
        self.text = self._text_view()
        self.text.link.connect(signals.link)
        self._shown = ""

    def _text_view(self) -> TextView:
        text = TextView(self.appearance.theme, self)
        text.setAccessibleName(self.appearance.texts.answer_name)
        return text

    @property
    def is_busy(self) -> bool:
        """Also while something is selected."""
        return self.text.textCursor().hasSelection() or super().is_busy

    @property
    def tab_stops(self) -> Sequence[QWidget]:
        """The text, if there are links in it."""
        return [self.text] if "://" in self._shown or "mailto:" in self._shown else []

    def take(self, segment: Segment | None) -> None:
        """Show the prose; a selection that is still there is kept."""
        if segment is None or segment.markdown == self._shown:
            return
        self._shown = segment.markdown
        cursor = self.text.textCursor()
        anchor, position = cursor.anchor(), cursor.position()
        has_selection = cursor.hasSelection()
        document = self.text.document()
        self._set_wrapping()
        show_markdown(document, self._shown, self.appearance.theme, image=self.appearance.texts.image)
        if has_selection and max(anchor, position) < document.characterCount():
            cursor = self.text.textCursor()
            cursor.setPosition(anchor)
            cursor.setPosition(position, cursor.MoveMode.KeepAnchor)
            self.text.setTextCursor(cursor)
        else:
            self.text.moveCursor(cursor.MoveOperation.Start)

    def _set_wrapping(self) -> None:
        self.text.setWordWrapMode(wrap_mode(self._shown))

    def arrange(self, width: int) -> int:
        gap = self.appearance.theme.space(2.5)
        height = self.text.height_for(width)
        self.text.setGeometry(0, gap, width, height)
        return gap + height


class TableView(ProseView):
    """A table: as wide as its text needs, scrolled sideways where that is more than there is."""

    def _text_view(self) -> TextView:
        text = _TableText(self.appearance.theme, self)
        text.setAccessibleName(self.appearance.texts.table_name)
        return text

    def _set_wrapping(self) -> None:
        """Cells are broken between words only."""

    @property
    def tab_stops(self) -> Sequence[QWidget]:
        """The table, to be scrolled by the arrow keys."""
        return [self.text]

    def arrange(self, width: int) -> int:
        """Columns get room for about 20 letters before lines are broken."""
        gap = self.appearance.theme.space(3)
        columns = max(1, self._shown.split("\n", 1)[0].count("|") - 1)
        room = max(width, columns * self.appearance.theme.body_px * 11)
        text_width = min(self.text.natural_width(), room)
        height = self.text.height_for(text_width) + 2
        bar = 12 if text_width > width else 0
        self.text.setGeometry(0, gap, min(width, text_width), height + bar)
        return gap + height + bar


class _TableText(TextView):
    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(theme, parent)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.setWordWrapMode(QTextOption.WrapMode.WordWrap)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        super().paintEvent(event)
        painter = QPainter(self.viewport())
        shift = self.horizontalScrollBar().value()
        layout = self.document().documentLayout()
        for frame in self.document().rootFrame().childFrames():
            if not isinstance(frame, QTextTable):
                continue
            right = layout.frameBoundingRect(frame).right() - shift
            for row in range(1, frame.rows()):
                cells = [frame.cellAt(row, column).firstCursorPosition().block() for column in range(frame.columns())]
                top = min(layout.blockBoundingRect(block).top() for block in cells) - frame.format().cellPadding()
                painter.setPen(self._theme.colour("control_border" if row == 1 else "border"))
                painter.drawLine(QPointF(-shift, round(top)), QPointF(right, round(top)))

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        if abs(event.angleDelta().x()) > abs(event.angleDelta().y()):
            bar = self.horizontalScrollBar()
            bar.setValue(bar.value() - event.angleDelta().x())
            event.accept()
            return
        event.ignore()
