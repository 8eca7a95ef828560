"""The widget under prose, tables and questions: text that can be selected, and that loads nothing."""

from PySide6.QtCore import QPointF, QRectF, Qt, QUrl, Signal
from PySide6.QtGui import QPainter, QPaintEvent, QTextOption, QWheelEvent
from PySide6.QtWidgets import QFrame, QTextBrowser, QWidget

from answerback.desktop.ui.chat.document import QUOTE_LEVEL
from answerback.desktop.ui.theme import Theme

__all__ = ["TextView"]


class TextView(QTextBrowser):
    """As high as its text. `link` tells the target of a link that was activated; nothing is followed by itself."""

    link = Signal(str)

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
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
            | Qt.TextInteractionFlag.TextSelectableByKeyboard
            | Qt.TextInteractionFlag.LinksAccessibleByMouse
            | Qt.TextInteractionFlag.LinksAccessibleByKeyboard
        )
        self.viewport().setAutoFillBackground(False)
        self.anchorClicked.connect(self._tell_link)

    def loadResource(self, kind: int, name: QUrl | str) -> None:  # noqa: N802 - Qt's name
        """Nothing is ever loaded, from nowhere."""
        return

    def height_for(self, width: int) -> int:
        """Wraps the text at `width` and returns its height."""
        self.document().setTextWidth(width)
        return round(self.document().size().height() + 0.5)

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        """The transcript scrolls, not the text."""
        event.ignore()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """The text, and a bar beside what is quoted."""
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.colour("border"))
        layout = self.document().documentLayout()
        block = self.document().begin()
        while block.isValid():
            level = min(block.blockFormat().intProperty(QUOTE_LEVEL), 6)
            if level:
                area = layout.blockBoundingRect(block).translated(QPointF(0, -self.verticalScrollBar().value()))
                for step in range(level):
                    left = step * self._theme.space(4)
                    painter.drawRoundedRect(QRectF(left, area.top(), 3, area.height()), 1.5, 1.5)
            block = block.next()
        painter.end()
        super().paintEvent(event)

    def _tell_link(self, target: QUrl) -> None:
        self.link.emit(target.toString(QUrl.ComponentFormattingOption.FullyEncoded))
