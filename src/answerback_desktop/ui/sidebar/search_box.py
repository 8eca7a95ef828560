"""The search box of the sidebar."""

from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QLineEdit

from answerback_desktop.ui.theme import Icon, Theme, pixmap


class SearchBox(QLineEdit):
    """A line edit with a magnifier that grows with the text; Qt's own icons in a line edit have one size."""

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.setTextMargins(self._side + theme.space(1), 0, 0, 0)
        self.update()

    @property
    def _side(self) -> int:
        return self._theme.body_px + 1

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        super().paintEvent(event)
        painter = QPainter(self)
        drawn = pixmap(Icon.SEARCH, self._theme.colours.text_muted, self._side, scale=self.devicePixelRatioF())
        painter.drawPixmap(self._theme.space(2.5), (self.height() - self._side) // 2, drawn)
