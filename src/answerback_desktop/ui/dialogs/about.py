"""What this is, which version, under which licences."""

from collections.abc import Iterable
from pathlib import Path

import PySide6
from PySide6.QtCore import Qt, QUrl, qVersion
from PySide6.QtGui import QDesktopServices, QFont
from PySide6.QtWidgets import QDialogButtonBox, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from answerback import __version__
from answerback_desktop.texts import Texts
from answerback_desktop.ui.dialogs.fields import Dialog
from answerback_desktop.ui.parts import label
from answerback_desktop.ui.shortcuts import GROUPS, Shortcut, shown
from answerback_desktop.ui.theme import Icon, Theme, pixmap

QT_SOURCE_URL = "https://code.qt.io/"


class AboutDialog(Dialog):
    """Version, licences, and where the log is."""

    def __init__(self, texts: Texts, theme: Theme, log_path: Path, parent: QWidget) -> None:
        super().__init__(parent, texts.window.about)
        words = texts.window
        column = QVBoxLayout(self)
        column.setContentsMargins(*[theme.space(6)] * 4)
        column.setSpacing(theme.space(3))
        mark = QLabel()
        mark.setPixmap(pixmap(Icon.CHAT, theme.colours.accent, theme.space(10), scale=self.devicePixelRatioF()))
        column.addWidget(mark)
        column.addWidget(label(words.about_title, "title"))
        qt = words.about_qt.format(qt=qVersion(), pyside=PySide6.__version__)
        for text, variant in (
            (words.about_version.format(version=__version__), "muted"),
            (words.about_what, ""),
            (words.about_licence, ""),
            (qt, ""),
            (words.about_others, "muted"),
            (f"{words.about_log}: {log_path}", "muted"),
        ):
            line = label(text, variant, can_copy=True)
            line.setMinimumWidth(theme.space(100))
            column.addWidget(line)
        buttons = QDialogButtonBox()
        source = buttons.addButton(words.about_qt_source, QDialogButtonBox.ButtonRole.ActionRole)
        source.setProperty("variant", "quiet")
        source.clicked.connect(lambda: QDesktopServices.openUrl(QUrl(QT_SOURCE_URL)))
        close = buttons.addButton(words.close, QDialogButtonBox.ButtonRole.RejectRole)
        close.setDefault(True)
        close.setFocus()
        buttons.rejected.connect(self.reject)
        column.addSpacing(theme.space(2))
        column.addWidget(buttons)


class HelpDialog(Dialog):
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
        for side, (name, group) in zip((left, left, right), GROUPS.items(), strict=True):
            side.addLayout(_group(texts.window.shortcut_groups[name], group, texts, theme))
        left.addStretch(1)
        right.addStretch(1)
        column.addLayout(groups)
        bottom = QHBoxLayout()
        bottom.addWidget(label(texts.window.help_hint.format(key=shown(Shortcut.HELP)), "muted"), 1)
        buttons = QDialogButtonBox()
        buttons.addButton(texts.window.close, QDialogButtonBox.ButtonRole.RejectRole)
        buttons.rejected.connect(self.reject)
        bottom.addWidget(buttons)
        column.addLayout(bottom)


def _group(title: str, shortcuts: Iterable[Shortcut], texts: Texts, theme: Theme) -> QGridLayout:
    grid = QGridLayout()
    grid.setHorizontalSpacing(theme.space(8))
    grid.setVerticalSpacing(theme.space(2))
    grid.setColumnStretch(0, 1)
    head = QLabel(title)
    head.setFont(theme.font(weight=QFont.Weight.DemiBold))
    grid.addWidget(head, 0, 0, 1, 2)
    for row, shortcut in enumerate(shortcuts, start=1):
        grid.addWidget(QLabel(texts.window.shortcuts[shortcut]), row, 0)
        key = QLabel(shown(shortcut))
        key.setProperty("variant", "muted")
        key.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        grid.addWidget(key, row, 1)
    return grid
