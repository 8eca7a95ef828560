"""The line over a chat that can be read but not gone on with: what is missing, and the one thing to do about it."""

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QWidget

from answerback_desktop.ui.theme import Theme

__all__ = ["Banner"]


class Banner(QFrame):
    """Hidden until it has something to say."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("variant", "banner")
        self._act: Callable[[], None] | None = None
        self.text = QLabel()
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.text.setWordWrap(True)
        self.button = QPushButton()
        self.button.clicked.connect(self._pressed)
        self._row = QHBoxLayout(self)
        self._row.addWidget(self.text, 1)
        self._row.addWidget(self.button)
        self.set_theme(theme)
        self.hide()

    def set_theme(self, theme: Theme) -> None:
        """Another look."""
        self._row.setContentsMargins(theme.space(3), theme.space(1.5), theme.space(1.5), theme.space(1.5))
        self._row.setSpacing(theme.space(3))

    def say(self, text: str, action: str = "", act: Callable[[], None] | None = None) -> None:
        """Show this; an empty text hides it."""
        self._act = act
        self.text.setText(text)
        self.button.setText(action)
        self.button.setVisible(bool(action) and act is not None)
        self.setVisible(bool(text))

    def _pressed(self) -> None:
        if self._act is not None:
            self._act()
