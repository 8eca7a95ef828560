"""What this is, which version, under which licences."""

from pathlib import Path

import PySide6
from PySide6.QtCore import Qt, QUrl, qVersion
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QDialogButtonBox, QLabel, QVBoxLayout, QWidget

from answerback import __version__
from answerback_desktop.texts import Texts
from answerback_desktop.ui.dialogs.sheet import Sheet
from answerback_desktop.ui.theme import Icon, Theme, pixmap

__all__ = ["QT_SOURCE_URL", "AboutSheet"]

QT_SOURCE_URL = "https://code.qt.io/"


class AboutSheet(Sheet):
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
        title = QLabel(words.about_title)
        title.setProperty("variant", "title")
        column.addWidget(title)
        qt = words.about_qt.format(qt=qVersion(), pyside=PySide6.__version__)
        for text, is_muted in (
            (words.about_version.format(version=__version__), True),
            (words.about_what, False),
            (words.about_licence, False),
            (qt, False),
            (words.about_others, True),
            (f"{words.about_log}: {log_path}", True),
        ):
            label = QLabel(text)
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setWordWrap(True)
            label.setMinimumWidth(theme.space(100))
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            if is_muted:
                label.setProperty("variant", "muted")
            column.addWidget(label)
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
