"""The sheet of keyboard shortcuts."""

from PySide6.QtCore import Qt
from PySide6.QtGui import QFont
from PySide6.QtWidgets import QDialogButtonBox, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from answerback_desktop.texts import Texts
from answerback_desktop.ui.dialogs.sheet import Sheet
from answerback_desktop.ui.shortcuts import GROUPS, Shortcut, shown
from answerback_desktop.ui.theme import Theme

__all__ = ["HelpSheet"]


class HelpSheet(Sheet):
    """All of them, in groups."""

    def __init__(self, texts: Texts, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent, texts.window.help_title)
        column = QVBoxLayout(self)
        column.setContentsMargins(*[theme.space(6)] * 4)
        column.setSpacing(theme.space(5))
        groups = QHBoxLayout()
        groups.setSpacing(theme.space(10))
        left, right = QVBoxLayout(), QVBoxLayout()
        for side in (left, right):
            side.setSpacing(theme.space(5))
            groups.addLayout(side, 1)
        for side, group in ((left, GROUPS[0]), (left, GROUPS[1]), (right, GROUPS[2])):
            side.addLayout(_group(getattr(texts.window, group[0]), group[1], texts, theme))
        left.addStretch(1)
        right.addStretch(1)
        column.addLayout(groups)
        bottom = QHBoxLayout()
        hint = QLabel(texts.window.help_hint.format(key=shown(Shortcut.HELP)))
        hint.setProperty("variant", "muted")
        bottom.addWidget(hint, 1)
        buttons = QDialogButtonBox()
        buttons.addButton(texts.window.close, QDialogButtonBox.ButtonRole.RejectRole)
        buttons.rejected.connect(self.reject)
        bottom.addWidget(buttons)
        column.addLayout(bottom)


def _group(title: str, shortcuts: tuple[Shortcut, ...], texts: Texts, theme: Theme) -> QGridLayout:
    grid = QGridLayout()
    grid.setHorizontalSpacing(theme.space(8))
    grid.setVerticalSpacing(theme.space(2))
    grid.setColumnStretch(0, 1)
    head = QLabel(title)
    head.setFont(theme.font(weight=QFont.Weight.DemiBold))
    grid.addWidget(head, 0, 0, 1, 2)
    for row, shortcut in enumerate(shortcuts, start=1):
        grid.addWidget(QLabel(getattr(texts.window, shortcut.value)), row, 0)
        key = QLabel(shown(shortcut))
        key.setProperty("variant", "muted")
        key.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        grid.addWidget(key, row, 1)
    return grid
