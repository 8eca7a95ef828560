"""Buttons that keep quiet until they are wanted."""

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QPaintEvent
from PySide6.QtWidgets import QToolButton, QWidget

from answerback_desktop.ui.theme import Icon, Theme, icon

__all__ = ["QuietButton"]


class QuietButton(QToolButton):
    """An icon that is drawn while its turn is active, or while it has the focus itself.

    It is there all the time: the Tab key and screen readers reach it.
    """

    def __init__(self, drawing: Icon, name: str, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self._is_revealed = False
        self._side = theme.body_px + 2
        self.setIconSize(QSize(self._side, self._side))
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.draw(drawing, name)
        self.resize(self.minimumSizeHint())

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """A square that a finger hits."""
        side = self._side + self._theme.space(2.5)
        return QSize(side, side)

    def draw(self, drawing: Icon, name: str, *, colour: str = "text_muted") -> None:
        """Another icon and name."""
        self.setIcon(icon(drawing, self._theme.colour(colour), self._side))
        self.setToolTip(name)
        self.setAccessibleName(name)

    def reveal(self, *, is_revealed: bool) -> None:
        """Draw it, or do not."""
        if is_revealed != self._is_revealed:
            self._is_revealed = is_revealed
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Only when it is wanted."""
        if self._is_revealed or self.hasFocus() or self.underMouse():
            super().paintEvent(event)
