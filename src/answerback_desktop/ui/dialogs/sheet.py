"""What all dialogs have in common: modal to their window, never a loop of their own, gone when closed."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QWidget

__all__ = ["Sheet"]


class Sheet(QDialog):
    """Show it with `open()`."""

    def __init__(self, parent: QWidget, title: str) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.setWindowFlag(Qt.WindowType.WindowContextHelpButtonHint, False)
