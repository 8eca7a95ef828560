"""Fields whose drawings follow the theme: a style sheet alone cannot draw an arrow or a tick without image files."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from PySide6.QtCore import QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QWheelEvent
from PySide6.QtWidgets import QCheckBox, QComboBox, QDialog, QLineEdit, QSizePolicy, QStyle, QStyleOptionButton, QWidget

from answerback_desktop.ui.theme import Icon, Theme, pixmap


class Choice(QComboBox):
    """One of several, with a chevron. The wheel scrolls the page and not the choice under the pointer.

    `names`: how each is called, in their order. `chosen`: the one that is chosen first.
    """

    def __init__(self, theme: Theme, names: Mapping[Any, str] = MappingProxyType({}), chosen: object = None) -> None:
        super().__init__()
        self._theme = theme
        for value, name in names.items():
            self.addItem(name, value)
        if names:
            self.setCurrentIndex(list(names).index(chosen))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        super().paintEvent(event)
        size = self._theme.space(4)
        painter = QPainter(self)
        chevron = pixmap(Icon.CHEVRON_DOWN, self._theme.colours.text_muted, size, scale=self.devicePixelRatioF())
        painter.drawPixmap(self.width() - size - self._theme.space(2.5), (self.height() - size) // 2, chevron)

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802
        """Not for us."""
        event.ignore()


class Number(QLineEdit):
    """A number that is typed, with or without separators of thousands. Empty: none."""

    def __init__(self, value: int | None) -> None:
        super().__init__("" if value is None else f"{value:,}")

    def value(self) -> int | None:
        """0: what stands there is no number."""
        text = "".join(self.text().split()).replace(",", "")
        if not text:
            return None
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


class CheckBox(QCheckBox):
    """A check box whose tick has contrast in both schemes, and whose text is broken into lines."""

    def __init__(self, text: str, theme: Theme) -> None:
        super().__init__(text)
        self._theme = theme
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def sizeHint(self) -> QSize:  # noqa: N802
        width = super().sizeHint().width() + self._theme.space(4)
        return QSize(width, self.heightForWidth(width))

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        return QSize(self._theme.space(30), self._theme.space(6))

    def heightForWidth(self, width: int) -> int:  # noqa: N802
        room = QRect(0, 0, width - self._indent, 10_000)
        lines = self.fontMetrics().boundingRect(room, Qt.TextFlag.TextWordWrap, self.text())
        return max(lines.height() + 2, self._theme.space(6))

    @property
    def _indent(self) -> int:
        """Of the text, past the box."""
        return self._theme.space(7) + 2

    def hitButton(self, pos: object) -> bool:  # noqa: N802
        return True

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        option = QStyleOptionButton()
        self.initStyleOption(option)
        theme, side = self._theme, self._theme.space(4.5)
        colours = theme.colours
        is_on = self.isChecked()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setOpacity(1.0 if self.isEnabled() else 0.5)
        box = QRectF(1.5, (self.height() - side) / 2, side, side)
        has_focus = bool(option.state & QStyle.StateFlag.State_HasFocus)
        painter.setPen(QColor(colours.focus if has_focus else colours.accent if is_on else colours.control_border))
        painter.setBrush(QColor(colours.accent if is_on else colours.surface))
        painter.drawRoundedRect(box, theme.space(1), theme.space(1))
        if has_focus:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(box.adjusted(-1.5, -1.5, 1.5, 1.5), theme.space(1.25), theme.space(1.25))
        if is_on:
            tick = pixmap(Icon.CHECK, colours.on_accent, round(side), scale=self.devicePixelRatioF())
            painter.drawPixmap(round(box.left()), round(box.top()), tick)
        painter.setPen(QColor(colours.text))
        lines = self.rect().adjusted(self._indent, 0, 0, 0)
        flags = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft | Qt.TextFlag.TextWordWrap
        painter.drawText(lines, int(flags), self.text())


class Dialog(QDialog):
    """Show it with `open()`."""

    def __init__(self, parent: QWidget, title: str) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.setWindowFlag(Qt.WindowType.WindowContextHelpButtonHint, False)
