"""What stands in the transcript's place while there is nothing to show, and the banner above the composer."""

from collections.abc import Sequence

from PySide6.QtCore import QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QAbstractButton, QFrame, QHBoxLayout, QLabel, QScrollArea, QSizePolicy, QWidget

from answerback_desktop.ui.parts import Appearance, button, column, label, painter_on, row
from answerback_desktop.ui.theme import Icon


class EmptyState(QScrollArea):
    """A title, a sentence, and questions to begin with. `chosen` carries the one that was picked."""

    chosen = Signal(str)

    def __init__(self, appearance: Appearance, title: str, text: str, *, examples: Sequence[str] = ()) -> None:
        super().__init__()
        theme = appearance.theme
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        page = QWidget()
        self.viewport().setAutoFillBackground(False)
        self._outer = QHBoxLayout(page)
        self._outer.setContentsMargins(*[theme.space(5)] * 4)
        middle = column(theme, gap=2)
        self._outer.addStretch(1)
        self._outer.addLayout(middle, 100)
        self._outer.addStretch(1)
        middle.addStretch(5)
        middle.addWidget(_Mark(appearance), 0, Qt.AlignmentFlag.AlignHCenter)
        middle.addSpacing(theme.space(2))
        self.title = _centred(title, "title")
        middle.addWidget(self.title)
        middle.addWidget(_centred(text, "muted"))
        middle.addSpacing(theme.space(4))
        self.examples = [self._example(appearance, example) for example in examples]
        for example in self.examples:
            middle.addWidget(example)
        middle.addStretch(6)
        self._widest = round(560 * theme.body_px / 15)
        self._side = theme.space(5)
        self.setWidget(page)
        page.setAutoFillBackground(False)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        side = max(self._side, (event.size().width() - self._widest) // 2)
        self._outer.setContentsMargins(side, self._side, side, self._side)
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
        is_focused, is_over = self.hasFocus(), self.underMouse()
        edge = theme.colour("focus" if is_focused else "control_border" if is_over else "border")
        fill = theme.colour("hover_fill" if is_over else "surface")
        painter = painter_on(self, fill=fill, line=QPen(edge, 2 if is_focused else 1))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), theme.space(3), theme.space(3))
        painter.setPen(theme.colour("text"))
        lines = self._lines(self.width())
        lines.moveTop((self.height() - lines.height()) // 2)
        lines.setWidth(self.width() - theme.space(9) - theme.body_px)
        painter.drawText(lines, Qt.TextFlag.TextWordWrap, self.text())
        side = theme.body_px + 3
        drawn = theme.pixmap(Icon.CHEVRON_RIGHT, side, scale=self.devicePixelRatioF())
        painter.drawPixmap(self.width() - theme.space(3) - side, (self.height() - side) // 2, drawn)


class _Mark(QWidget):
    """The round mark above the title."""

    def __init__(self, appearance: Appearance) -> None:
        super().__init__()
        self._theme = appearance.theme
        self.setFixedSize(appearance.theme.space(14), appearance.theme.space(14))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        painter = painter_on(self, fill=self._theme.colour("accent_fill"))
        painter.drawEllipse(QRectF(self.rect()))
        side = self.width() // 2
        drawn = self._theme.pixmap(Icon.SPARK, side, "accent", scale=self.devicePixelRatioF())
        painter.drawPixmap((self.width() - side) // 2, (self.height() - side) // 2, drawn)


def _centred(text: str, variant: str) -> QLabel:
    made = label(text, variant)
    made.setAlignment(Qt.AlignmentFlag.AlignHCenter)
    return made


class Bar(QFrame):
    """A sentence and a button over the composer; hidden while there is nothing to say. `pressed`: the button."""

    pressed = Signal()

    def __init__(self, appearance: Appearance, variant: str, drawing: Icon | None = None) -> None:
        super().__init__()
        theme = appearance.theme
        self.setProperty("variant", variant)
        self.text = label(variant="small")
        self.button = button("", self.pressed.emit, "quiet")
        line = row(self.text, self.button, into=self)
        line.setStretch(0, 1)
        line.setContentsMargins(theme.space(3.5), theme.space(1.5), theme.space(1.5), theme.space(1.5))
        line.setSpacing(theme.space(2.5))
        if drawing is not None:
            mark = QLabel()
            mark.setPixmap(theme.pixmap(drawing, theme.body_px + 4, "warning", scale=2))
            line.insertWidget(0, mark)
        self.hide()

    def tell(self, text: str, offer: str) -> None:
        """Show a sentence and the button's words, if any; an empty sentence hides the bar."""
        self.text.setText(text)
        self.button.setText(offer)
        self.button.setVisible(bool(offer))
        self.setVisible(bool(text))
