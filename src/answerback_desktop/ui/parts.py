"""Labels, buttons and rows, as the window and its dialogs have them. The style sheet draws each `variant`."""

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget


def label(text: str = "", variant: str = "", *, can_copy: bool = False) -> QLabel:
    """Plain text, in as many lines as it needs."""
    made = QLabel(text)
    made.setProperty("variant", variant)
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setWordWrap(True)
    if can_copy:
        made.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return made


def button(text: str, act: Callable[[], object], variant: str = "") -> QPushButton:
    """A button that calls `act` without an argument."""
    made = QPushButton(text)
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
