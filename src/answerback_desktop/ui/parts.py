"""What the widgets are made of: labels, buttons, rows, fields, dialogs. The style sheet draws each `variant`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, QStandardPaths, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QWheelEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QCheckBox,
    QComboBox,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QSizePolicy,
    QStyle,
    QStyleOptionButton,
    QVBoxLayout,
    QWidget,
)

from answerback_desktop.texts import Texts
from answerback_desktop.ui.theme import Icon, Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """What every widget is drawn with. `is_read_only`: nothing can be asked, so nothing is offered that asks.

    `titles`: of the models that have another name for people.
    """

    theme: Theme
    texts: Texts
    is_read_only: bool = False
    titles: Mapping[str, str] = field(default_factory=dict)


def label(
    text: str = "", variant: str = "", *, can_copy: bool = False, wraps: bool = True, parent: QWidget | None = None
) -> QLabel:
    """Plain text, in as many lines as it needs, or in one."""
    made = QLabel(text, parent)
    made.setProperty("variant", variant)
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setWordWrap(wraps)
    if can_copy:
        made.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return made


def button(text: str, act: Callable[[], object], variant: str = "", *, parent: QWidget | None = None) -> QPushButton:
    """A button that calls `act` without an argument."""
    made = QPushButton(text, parent)
    made.setProperty("variant", variant)
    made.clicked.connect(lambda _checked=False: act())
    return made


def row(*parts: QWidget | None, into: QWidget | None = None) -> QHBoxLayout:
    """Widgets beside each other, with no margin; None: as much room as there is. `into`: the widget that it fills."""
    made = QHBoxLayout()
    made.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        if part is None:
            made.addStretch(1)
        else:
            made.addWidget(part)
    if into is not None:
        into.setLayout(made)
    return made


def column(theme: Theme, *, margin: float = 0, gap: float = 0, into: QWidget | None = None) -> QVBoxLayout:
    """Room for widgets below each other. `margin`, `gap`: steps of the theme's spacing."""
    made = QVBoxLayout() if into is None else QVBoxLayout(into)
    made.setContentsMargins(*[theme.space(margin)] * 4)
    made.setSpacing(theme.space(gap))
    return made


def set_icon(button: QAbstractButton, theme: Theme, drawing: Icon, size_px: int, colour: str = "text_muted") -> None:
    """A drawing in one of the theme's colours."""
    button.setIconSize(QSize(size_px, size_px))
    button.setIcon(theme.icon(drawing, size_px, colour))


def set_name(button: QAbstractButton, name: str) -> None:
    """What a button that shows a drawing is called: on hover, and by screen readers."""
    button.setToolTip(name)
    button.setAccessibleName(name)


def painter_on(widget: QWidget, *, fill: QColor | None = None, line: QColor | QPen | None = None) -> QPainter:
    """Paints smooth shapes, filled and edged where a colour is given."""
    painter = QPainter(widget)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen if line is None else line)
    painter.setBrush(Qt.BrushStyle.NoBrush if fill is None else fill)
    return painter


def pop_up(menu: QMenu, place: QPoint) -> None:
    """Show a menu once."""
    menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    menu.popup(place)


def file_dialog(parent: QWidget, title: str, place: str = "", kinds: str = "") -> QFileDialog:
    """Lets the person choose a file. `place`: the first one, in the folder of documents. Open it."""
    folder = Path(QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation))
    dialog = QFileDialog(parent, title, str(folder / place), kinds)
    dialog.finished.connect(dialog.deleteLater)
    return dialog


class Dialog(QDialog):
    """Show it with `open()`. `column`: what is in it."""

    def __init__(self, parent: QWidget | None, title: str, theme: Theme, *, margin: float = 5, gap: float = 3) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.setWindowFlag(Qt.WindowType.WindowContextHelpButtonHint, False)
        self.column = column(theme, margin=margin, gap=gap, into=self)


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
        chevron = self._theme.pixmap(Icon.CHEVRON_DOWN, size, scale=self.devicePixelRatioF())
        left = self.width() - size - self._theme.space(2.5)
        QPainter(self).drawPixmap(left, (self.height() - size) // 2, chevron)

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
        is_on = self.isChecked()
        box = QRectF(1.5, (self.height() - side) / 2, side, side)
        has_focus = bool(option.state & QStyle.StateFlag.State_HasFocus)
        edge = theme.colour("focus" if has_focus else "accent" if is_on else "control_border")
        painter = painter_on(self, fill=theme.colour("accent" if is_on else "surface"), line=edge)
        painter.setOpacity(1.0 if self.isEnabled() else 0.5)
        painter.drawRoundedRect(box, theme.space(1), theme.space(1))
        if has_focus:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(box.adjusted(-1.5, -1.5, 1.5, 1.5), theme.space(1.25), theme.space(1.25))
        if is_on:
            tick = theme.pixmap(Icon.CHECK, round(side), "on_accent", scale=self.devicePixelRatioF())
            painter.drawPixmap(round(box.left()), round(box.top()), tick)
        painter.setPen(theme.colour("text"))
        lines = self.rect().adjusted(self._indent, 0, 0, 0)
        flags = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft | Qt.TextFlag.TextWordWrap
        painter.drawText(lines, int(flags), self.text())
