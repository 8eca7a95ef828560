"""The widget under prose, tables and questions: text that can be selected, and that loads nothing."""

import math
from typing import Final

from PySide6.QtCore import QPointF, QRectF, Qt, QUrl, Signal
from PySide6.QtGui import QPainter, QPaintEvent, QTextBlock, QTextOption, QWheelEvent
from PySide6.QtWidgets import QFrame, QTextBrowser, QWidget

from answerback_desktop.ui.chat.document import QUOTE_LEVEL, is_dotted
from answerback_desktop.ui.chat.links import text_of
from answerback_desktop.ui.theme import Theme

_LONGEST_WORD: Final = 4_000


def wrap_mode(text: str) -> QTextOption.WrapMode:
    """How its lines are broken: between words, unless one is so long (an encoded file) that Qt would need seconds."""
    if len(text) > _LONGEST_WORD and max(map(len, text.split()), default=0) > _LONGEST_WORD:
        return QTextOption.WrapMode.WrapAnywhere
    return QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere


class TextView(QTextBrowser):
    """A text that is as high as its lines.

    `link` carries an activated link's target and text; nothing is followed by itself.
    """

    link = Signal(str, str)

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
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

    def natural_width(self) -> int:
        self.setLineWrapMode(QTextBrowser.LineWrapMode.NoWrap)
        width = math.ceil(self.document().idealWidth()) + 1
        self.setLineWrapMode(QTextBrowser.LineWrapMode.FixedPixelWidth)
        return width

    def height_for(self, width: int) -> int:
        """Breaks the lines at `width` and returns the height."""
        self.setLineWrapColumnOrWidth(width)
        return math.ceil(self.document().size().height())

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        """The transcript scrolls, not the text."""
        event.ignore()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """The text, a bar beside what is quoted, and the dots of lists."""
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        layout = self.document().documentLayout()
        block = self.document().begin()
        while block.isValid():
            if level := block.blockFormat().intProperty(QUOTE_LEVEL):
                self._draw_quote(painter, layout.blockBoundingRect(block), level)
            if is_dotted(block):
                self._draw_dot(painter, layout.blockBoundingRect(block), block)
            block = block.next()
        painter.end()
        super().paintEvent(event)

    def _draw_quote(self, painter: QPainter, area: QRectF, level: int) -> None:
        painter.setBrush(self._theme.colour("border"))
        for step in range(min(level, 6)):
            painter.drawRoundedRect(QRectF(step * self._theme.space(4), area.top(), 3, area.height()), 1.5, 1.5)

    def _draw_dot(self, painter: QPainter, area: QRectF, block: QTextBlock) -> None:
        painter.setBrush(self._theme.colour("text_muted"))
        line = block.layout().lineAt(0)
        size = self._theme.body_px * 0.16
        middle = area.top() + line.y() + line.height() - self._theme.body_px * 0.62
        painter.drawEllipse(QPointF(area.left() + line.x() - self._theme.space(2.75), middle), size, size)

    def _emit_link(self, target: QUrl) -> None:
        encoded = target.toString(QUrl.ComponentFormattingOption.FullyEncoded)
        self.link.emit(encoded, text_of(encoded, self.document()))
