"""The tray icon and desktop notifications."""

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QFont, QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QMenu, QSystemTrayIcon

from answerback_desktop.texts import Texts

_SIZE = 64


class Tray(QObject):
    """An icon with a count and a menu, where the desktop has a tray; `is_there` says whether.

    Signals: `open_wanted(conversation_id)`: "" for just the window; `new_wanted()`; `quit_wanted()`.
    """

    open_wanted = Signal(str)
    new_wanted = Signal()
    quit_wanted = Signal()

    def __init__(self, texts: Texts, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._unread = 0
        self._notified = ""
        self._icon = QSystemTrayIcon(self)
        self._menu = QMenu()
        self._open = self._menu.addAction("")
        self._new = self._menu.addAction("")
        self._menu.addSeparator()
        self._quit = self._menu.addAction("")
        self._icon.setContextMenu(self._menu)
        self._icon.activated.connect(self._activated)
        self._icon.messageClicked.connect(self._message_clicked)
        self._open.triggered.connect(lambda: self.open_wanted.emit(""))
        self._new.triggered.connect(self.new_wanted)
        self._quit.triggered.connect(self.quit_wanted)
        self.set_texts(texts)
        self._draw()

    @property
    def is_there(self) -> bool:
        return QSystemTrayIcon.isSystemTrayAvailable()

    def set_texts(self, texts: Texts) -> None:
        self._texts = texts
        self._open.setText(texts.window.tray_open)
        self._new.setText(texts.window.new_conversation)
        self._quit.setText(texts.window.tray_quit)
        self._say()

    def set_shown(self, is_shown: bool) -> None:
        self._icon.setVisible(is_shown and self.is_there)

    def set_unread(self, count: int) -> None:
        """Answers that nobody has seen."""
        if count != self._unread:
            self._unread = count
            self._draw()
            self._say()

    def notify(self, text: str, conversation_id: str) -> None:
        """A message of the desktop; a click on it opens the conversation."""
        self._notified = conversation_id
        if self._icon.isVisible() and self._icon.supportsMessages():
            self._icon.showMessage("Answerback", text, self._icon.icon())

    def _draw(self) -> None:
        self._icon.setIcon(app_icon(is_marked=self._unread > 0))

    def _say(self) -> None:
        words = self._texts.window
        self._icon.setToolTip(words.tray_unread.format(count=self._unread) if self._unread else words.about_title)

    def _activated(self, reason: QSystemTrayIcon.ActivationReason) -> None:
        if reason in (QSystemTrayIcon.ActivationReason.Trigger, QSystemTrayIcon.ActivationReason.DoubleClick):
            self.open_wanted.emit("")

    def _message_clicked(self) -> None:
        self.open_wanted.emit(self._notified)


def app_icon(*, is_marked: bool = False) -> QIcon:
    """The app's own drawing: a speech bubble that sends an arrow back. `is_marked`: a dot says that there is news."""
    drawn = QPixmap(_SIZE, _SIZE)
    drawn.fill(Qt.GlobalColor.transparent)
    painter = QPainter(drawn)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor("#3355d1"))
    painter.drawRoundedRect(4, 4, 56, 56, 15, 15)
    painter.setPen(QColor("#ffffff"))
    font = QFont()
    font.setPixelSize(40)
    font.setWeight(QFont.Weight.Bold)
    painter.setFont(font)
    painter.drawText(drawn.rect().adjusted(0, -3, 0, -3), int(Qt.AlignmentFlag.AlignCenter), "a")
    if is_marked:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("#ffffff"))
        painter.drawEllipse(38, 0, 26, 26)
        painter.setBrush(QColor("#d92d20"))
        painter.drawEllipse(41, 3, 20, 20)
    painter.end()
    return QIcon(drawn)
