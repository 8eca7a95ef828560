"""The widget under prose, tables and questions: text that can be selected, and that loads nothing."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from PySide6.QtCore import QMimeData, QPointF, QRectF, Qt, QUrl, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QTextBlock, QTextCursor, QTextOption, QWheelEvent
from PySide6.QtWidgets import QFrame, QTextBrowser, QTextEdit, QWidget

from answerback_desktop.ui.chat.document import IS_RULE, MARKER, PATH, bars_of
from answerback_desktop.ui.chat.links import text_of
from answerback_desktop.ui.parts import painter_on
from answerback_desktop.ui.theme import Theme

_LONGEST_WORD: Final = 4_000


def wrap_mode(text: str) -> QTextOption.WrapMode:
    """How its lines are broken: between words, unless one is so long (an encoded file) that Qt would need seconds."""
    if len(text) > _LONGEST_WORD and max(map(len, text.split()), default=0) > _LONGEST_WORD:
        return QTextOption.WrapMode.WrapAnywhere
    return QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere


@contextmanager
def keeping_selection(text: QTextEdit) -> Iterator[None]:
    """What is selected stays so while the document is written, as far as it is still there."""
    cursor = text.textCursor()
    anchor, position = cursor.anchor(), cursor.position()
    yield
    cursor, end = text.textCursor(), text.document().characterCount() - 1
    if anchor == position:
        cursor.setPosition(0)
    elif max(anchor, position) <= end:
        cursor.setPosition(anchor)
        cursor.setPosition(position, QTextCursor.MoveMode.KeepAnchor)
    if (cursor.anchor(), cursor.position()) != (text.textCursor().anchor(), text.textCursor().position()):
        text.setTextCursor(cursor)


def draw_bar(painter: QPainter, area: QRectF, colour: QColor) -> None:
    """The bar beside a quote."""
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(colour)
    painter.drawRoundedRect(area, 1.5, 1.5)


class TextView(QTextBrowser):
    """A text that is as high as its lines.

    `link` carries an activated link's target and text; nothing is followed by itself.
    """

    link = Signal(str, str)

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self.selected: Callable[[], QMimeData] | None = None
        self.setProperty("variant", "plain")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setOpenLinks(False)
        self.setOpenExternalLinks(False)
        self.setUndoRedoEnabled(False)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setLineWrapMode(QTextBrowser.LineWrapMode.FixedPixelWidth)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
            | Qt.TextInteractionFlag.TextSelectableByKeyboard
            | Qt.TextInteractionFlag.LinksAccessibleByMouse
            | Qt.TextInteractionFlag.LinksAccessibleByKeyboard
        )
        self.viewport().setAutoFillBackground(False)
        self.anchorClicked.connect(self._emit_link)

    def loadResource(self, kind: int, name: QUrl | str) -> None:  # noqa: N802 - Qt's name
        """Nothing is ever loaded, from nowhere."""
        return

    def createMimeDataFromSelection(self) -> QMimeData:  # noqa: N802 - Qt's name
        """What is copied: the selection of the whole conversation, where there is one."""
        return super().createMimeDataFromSelection() if self.selected is None else self.selected()

    def natural_width(self) -> int:
        self.setLineWrapMode(QTextBrowser.LineWrapMode.NoWrap)
        width = math.ceil(self.document().idealWidth()) + 1
        self.setLineWrapMode(QTextBrowser.LineWrapMode.FixedPixelWidth)
        return width

    def height_for(self, width: int) -> int:
        """Breaks the lines at `width` and returns the height."""
        if width != self.lineWrapColumnOrWidth():  # Qt would break all lines again
            self.setLineWrapColumnOrWidth(width)
        return math.ceil(self.document().size().height())

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        """The transcript scrolls, not the text."""
        event.ignore()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """The text, and what stands beside it: bars of quotes, markers of lists, rules."""
        painter = painter_on(self.viewport())
        layout = self.document().documentLayout()
        block = self.document().begin()
        before = ""
        while block.isValid():
            form = block.blockFormat()
            path = str(form.property(PATH) or "")
            if path or form.hasProperty(IS_RULE):
                area = layout.blockBoundingRect(block)
                gap = form.topMargin() if path else 0
                for left, colour in bars_of(path, self._theme):
                    is_joined = before[: len(path)] == path or (before and path.startswith(before))
                    top = area.top() - (gap + 6 if is_joined else 0)  # its round ends are covered
                    draw_bar(painter, QRectF(left, top, 3, area.bottom() - top), self._theme.colour(colour))
                if form.hasProperty(IS_RULE):
                    edge, middle = area.left() + form.leftMargin(), round(area.center().y())
                    painter.fillRect(QRectF(edge, middle, self.width() - edge, 1), self._theme.colour("border"))
                if form.hasProperty(MARKER):
                    self._draw_marker(painter, area, block, str(form.property(MARKER)))
            before = path
            block = block.next()
        painter.end()
        super().paintEvent(event)

    def _draw_marker(self, painter: QPainter, area: QRectF, block: QTextBlock, marker: str) -> None:
        line = block.layout().lineAt(0)
        base = area.top() + line.y() + line.ascent()
        right = block.blockFormat().leftMargin() - self._theme.space(1.75)
        colour = self._theme.colour("text_muted")
        if marker == "•":
            size = self._theme.body_px * 0.16
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            centre = QPointF(right - self._theme.space(1) - size / 2, base - self._theme.body_px * 0.34)
            painter.drawEllipse(centre, size, size)
        elif marker in "☐☑":
            self._draw_box(painter, right, base, is_checked=marker == "☑")
        else:
            painter.setPen(colour)
            painter.setFont(self._theme.font())
            width = painter.fontMetrics().horizontalAdvance(marker)
            painter.drawText(QPointF(max(0.0, right - width), base), marker)

    def _draw_box(self, painter: QPainter, right: float, base: float, *, is_checked: bool) -> None:
        side = self._theme.body_px * 0.8
        box = QRectF(right - side - 1, base - side * 0.92, side, side)
        painter.setPen(QPen(self._theme.colour("accent" if is_checked else "control_border"), 1.2))
        painter.setBrush(self._theme.colour("accent") if is_checked else Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(box, 3, 3)
        if is_checked:
            painter.setPen(QPen(self._theme.colour("on_accent"), 1.6))
            marks = [(0.22, 0.52), (0.42, 0.72), (0.78, 0.3)]
            painter.drawPolyline([QPointF(box.left() + x * side, box.top() + y * side) for x, y in marks])

    def _emit_link(self, target: QUrl) -> None:
        encoded = target.toString(QUrl.ComponentFormattingOption.FullyEncoded)
        self.link.emit(encoded, text_of(encoded, self.document()))
