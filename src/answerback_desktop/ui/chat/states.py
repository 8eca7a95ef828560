"""What stands in the transcript's place while there is nothing to show, and the banner above the composer."""

from PySide6.QtCore import QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from answerback_desktop.ui.chat.blocks import Appearance
from answerback_desktop.ui.theme import Icon, pixmap


class EmptyState(QScrollArea):
    """A title, a sentence, and questions to begin with. `chosen` carries the one that was picked."""

    chosen = Signal(str)

    def __init__(
        self,
        appearance: Appearance,
        title: str,
        text: str,
        *,
        examples: tuple[str, ...] = (),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        theme = appearance.theme
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        page = QWidget()
        self.viewport().setAutoFillBackground(False)
        outer = QHBoxLayout(page)
        outer.setContentsMargins(theme.space(5), theme.space(5), theme.space(5), theme.space(5))
        column = QVBoxLayout()
        column.setSpacing(theme.space(2))
        outer.addStretch(1)
        outer.addLayout(column, 100)
        outer.addStretch(1)
        column.addStretch(5)
        column.addWidget(_Mark(appearance), 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(theme.space(2))
        self.title = _centred(title, "title")
        column.addWidget(self.title)
        column.addWidget(_centred(text, "muted"))
        column.addSpacing(theme.space(4))
        self.examples = [self._example(appearance, example) for example in examples]
        for button in self.examples:
            column.addWidget(button)
        column.addStretch(6)
        self._column = page
        self._widest = round(560 * theme.body_px / 15)
        self._outer = outer
        self._side = theme.space(5)
        self.setWidget(page)
        page.setAutoFillBackground(False)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        side = max(self._side, (event.size().width() - self._widest) // 2)
        margins = self._outer.contentsMargins()
        self._outer.setContentsMargins(side, margins.top(), side, margins.bottom())
        super().resizeEvent(event)

    def _example(self, appearance: Appearance, text: str) -> QAbstractButton:
        button = _WrappingButton(text, appearance)
        button.clicked.connect(lambda: self.chosen.emit(text))
        return button


class _WrappingButton(QAbstractButton):
    """A button whose text is broken into lines."""

    def __init__(self, text: str, appearance: Appearance) -> None:
        super().__init__()
        self._theme = appearance.theme
        self.setText(text)
        self.setAccessibleName(text)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def heightForWidth(self, width: int) -> int:  # noqa: N802 - Qt's name
        return self._lines(width).height() + 2 * self._theme.space(3)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        return QSize(self._theme.space(60), self.heightForWidth(self._theme.space(60)))

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        return QSize(self._theme.space(30), self._theme.body_px * 2)

    def _lines(self, width: int) -> QRect:
        theme = self._theme
        room = QRect(theme.space(4), 0, width - theme.space(9) - theme.body_px, 10_000)
        return self.fontMetrics().boundingRect(room, Qt.TextFlag.TextWordWrap, self.text())

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        theme = self._theme
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        is_focused = self.hasFocus()
        is_over = self.underMouse()
        edge = "focus" if is_focused else "control_border" if is_over else "border"
        painter.setPen(QPen(theme.colour(edge), 2 if is_focused else 1))
        painter.setBrush(theme.colour("hover_fill" if is_over else "surface"))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), theme.space(3), theme.space(3))
        painter.setPen(theme.colour("text"))
        lines = self._lines(self.width())
        lines.moveTop((self.height() - lines.height()) // 2)
        lines.setWidth(self.width() - theme.space(9) - theme.body_px)
        painter.drawText(lines, Qt.TextFlag.TextWordWrap, self.text())
        side = theme.body_px + 3
        drawn = pixmap(Icon.CHEVRON_RIGHT, theme.colours.text_muted, side, scale=self.devicePixelRatioF())
        painter.drawPixmap(self.width() - theme.space(3) - side, (self.height() - side) // 2, drawn)


class _Mark(QWidget):
    """The round mark above the title."""

    def __init__(self, appearance: Appearance) -> None:
        super().__init__()
        self._theme = appearance.theme
        self.setFixedSize(appearance.theme.space(14), appearance.theme.space(14))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
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


class _Bar(QFrame):
    """A sentence, and a button."""

    def __init__(self, appearance: Appearance, variant: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        theme = appearance.theme
        self.setProperty("variant", variant)
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(theme.space(3.5), theme.space(1.5), theme.space(1.5), theme.space(1.5))
        self._row.setSpacing(theme.space(2.5))
        self.text = QLabel()
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.text.setWordWrap(True)
        self.text.setStyleSheet(f"font-size: {theme.small_px}px")
        self.button = QPushButton()
        self.button.setProperty("variant", "quiet")
        self._row.addWidget(self.text, 1)
        self._row.addWidget(self.button)


class LanguageBar(_Bar):
    """Says, in the language of a question, that the model does not know it, and offers one that may."""

    taken = Signal()

    def __init__(self, appearance: Appearance, parent: QWidget | None = None) -> None:
        super().__init__(appearance, "card", parent)
        self.button.clicked.connect(self.taken)
        self.hide()

    def tell(self, text: str, offer: str) -> None:
        """Show a sentence and the button's words, if any; an empty sentence hides the bar."""
        self.text.setText(text)
        self.button.setText(offer)
        self.button.setVisible(bool(offer))
        self.setVisible(bool(text))


class OfflineBanner(_Bar):
    """Says why nothing can be sent, that questions wait, and offers to try at once."""

    retry = Signal()

    def __init__(self, appearance: Appearance, parent: QWidget | None = None) -> None:
        super().__init__(appearance, "banner", parent)
        self._appearance = appearance
        theme = appearance.theme
        mark = QLabel()
        mark.setPixmap(pixmap(Icon.OFFLINE, theme.colours.warning, theme.body_px + 4, scale=2))
        self._row.insertWidget(0, mark)
        self.button.setText(appearance.texts.offline_retry)
        self.button.clicked.connect(self.retry)

    def tell(self, why: str) -> None:
        """Show the reason; an empty one hides the bar."""
        self.text.setText(f"{why} {self._appearance.texts.offline_kept}")
        self.setVisible(bool(why))
