"""What stands in the transcript's place while there is nothing to show, and the banner above the composer."""

from PySide6.QtCore import QRectF, Qt, Signal
from PySide6.QtGui import QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QScrollArea, QVBoxLayout, QWidget

from answerback.desktop.ui.chat.blocks import Look
from answerback.desktop.ui.theme import Icon, pixmap

__all__ = ["EmptyState", "OfflineBanner"]


class EmptyState(QScrollArea):
    """A title, a sentence, and questions to begin with. `chosen` tells the one that was picked."""

    chosen = Signal(str)

    def __init__(
        self, look: Look, title: str, text: str, *, examples: tuple[str, ...] = (), parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        theme = look.theme
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        page = QWidget()
        self.viewport().setAutoFillBackground(False)
        page.setAutoFillBackground(False)
        outer = QHBoxLayout(page)
        outer.setContentsMargins(theme.space(5), theme.space(5), theme.space(5), theme.space(5))
        column = QVBoxLayout()
        column.setSpacing(theme.space(2))
        outer.addStretch(1)
        outer.addLayout(column, 100)
        outer.addStretch(1)
        column.addStretch(5)
        column.addWidget(_Mark(look), 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(theme.space(2))
        self.title = _centred(title, "title")
        column.addWidget(self.title)
        column.addWidget(_centred(text, "muted"))
        column.addSpacing(theme.space(4))
        self.examples = [self._example(look, example) for example in examples]
        for button in self.examples:
            column.addWidget(button)
        column.addStretch(6)
        self._column = page
        self._widest = round(560 * theme.body_px / 15)
        self._outer = outer
        self._side = theme.space(5)
        self.setWidget(page)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """The column keeps its width in a wide window."""
        side = max(self._side, (event.size().width() - self._widest) // 2)
        margins = self._outer.contentsMargins()
        self._outer.setContentsMargins(side, margins.top(), side, margins.bottom())
        super().resizeEvent(event)

    def _example(self, look: Look, text: str) -> QPushButton:
        button = _WrappingButton(text, look)
        button.clicked.connect(lambda: self.chosen.emit(text))
        return button


class _WrappingButton(QPushButton):
    """A button whose text is broken into lines."""

    def __init__(self, text: str, look: Look) -> None:
        super().__init__()
        self.setProperty("variant", "suggestion")
        self.setAccessibleName(text)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        theme = look.theme
        layout = QHBoxLayout(self)
        layout.setContentsMargins(theme.space(4), theme.space(3), theme.space(3), theme.space(3))
        label = QLabel(text)
        label.setWordWrap(True)
        label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        arrow = QLabel()
        arrow.setPixmap(pixmap(Icon.CHEVRON_RIGHT, theme.colours.text_muted, theme.body_px + 3, scale=2))
        arrow.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        layout.addWidget(label, 1)
        layout.addWidget(arrow)
        policy = self.sizePolicy()
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """As high as its lines."""
        super().resizeEvent(event)
        layout = self.layout()
        if layout is not None:
            self.setMinimumHeight(layout.heightForWidth(self.width()))


class _Mark(QWidget):
    """The round mark above the title."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._theme = look.theme
        self.setFixedSize(look.theme.space(14), look.theme.space(14))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """A soft disc and the spark."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.colour("accent_fill"))
        painter.drawEllipse(QRectF(self.rect()))
        side = self.width() // 2
        drawn = pixmap(Icon.SPARK, self._theme.colour("accent"), side, scale=self.devicePixelRatioF())
        painter.drawPixmap((self.width() - side) // 2, (self.height() - side) // 2, drawn)


def _centred(text: str, variant: str) -> QLabel:
    label = QLabel(text)
    label.setProperty("variant", variant)
    label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
    label.setWordWrap(True)
    return label


class OfflineBanner(QFrame):
    """Says that questions wait, and offers to try at once."""

    retry = Signal()

    def __init__(self, look: Look, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        theme = look.theme
        self._look = look
        self.setProperty("variant", "banner")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(theme.space(3.5), theme.space(1.5), theme.space(1.5), theme.space(1.5))
        layout.setSpacing(theme.space(2.5))
        mark = QLabel()
        mark.setPixmap(pixmap(Icon.OFFLINE, theme.colours.warning, theme.body_px + 4, scale=2))
        self.text = QLabel(look.texts.offline)
        self.text.setWordWrap(True)
        self.text.setStyleSheet(f"font-size: {theme.small_px}px")
        self.button = QPushButton(look.texts.offline_retry)
        self.button.setProperty("variant", "quiet")
        self.button.clicked.connect(self.retry)
        layout.addWidget(mark)
        layout.addWidget(self.text, 1)
        layout.addWidget(self.button)
