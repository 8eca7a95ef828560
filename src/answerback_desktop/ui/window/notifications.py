"""What tells the person that something happened: toasts over the chat, the tray icon, notifications of the desktop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QFont, QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QFrame, QMenu, QSizePolicy, QSystemTrayIcon, QToolButton, QVBoxLayout, QWidget

from answerback_desktop.engine.events import NoticeCode, NoticeRaised
from answerback_desktop.signin.provider import SignInFailure
from answerback_desktop.texts import Texts
from answerback_desktop.ui.parts import Appearance, button, label, row, set_icon, set_name
from answerback_desktop.ui.theme import Icon
from answerback_desktop.viewmodels import AppViewModel, Changes

SHOWN_MS: Final = 8_000
_MOST: Final = 3
_ICON_PX: Final = 64
_TITLE: Final = 60
_LASTING: Final = frozenset({NoticeCode.PRESET_WRONG, NoticeCode.UPDATE_NEEDED, NoticeCode.DELETED_ELSEWHERE})
"""Notices that stay until they are dismissed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toast:
    """One message. `action`: its button. `lasts`: it stays until it is dismissed."""

    text: str
    action: str = ""
    act: Callable[[], object] | None = None
    lasts: bool = False


class ToastStack(QWidget):
    """The messages that are shown now, the newest last, `lift()` above the bottom of `host`. The pointer keeps one."""

    def __init__(self, host: QWidget, appearance: Appearance, *, lift: Callable[[], int]) -> None:
        super().__init__(host)
        self._host = host
        self._appearance = appearance
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._bars: list[_Bar] = []
        self._lift = lift
        host.installEventFilter(self)
        self.hide()

    @property
    def toasts(self) -> list[Toast]:
        return [bar.toast for bar in self._bars]

    def set_appearance(self, appearance: Appearance) -> None:
        self._appearance = appearance
        self.place()

    def show_toast(self, toast: Toast) -> None:
        """Show it; the oldest goes if there are too many, an equal one is shown once."""
        for bar in self._bars:
            if bar.toast.text == toast.text:
                bar.close_bar()
                break
        while len(self._bars) >= _MOST:
            self._bars[0].close_bar()
        bar = _Bar(toast, self._appearance, self._forget)
        self._bars.append(bar)
        self._column.addWidget(bar)
        bar.show()
        self.show()
        self.raise_()
        self.place()

    def _forget(self, bar: "_Bar") -> None:
        if bar in self._bars:
            self._bars.remove(bar)
            self._column.removeWidget(bar)
            bar.hide()
            bar.deleteLater()
        self.setVisible(bool(self._bars))
        self.place()

    def place(self) -> None:
        """Move the toasts to where `lift` puts them."""
        if not self._bars:
            return
        space = self._appearance.theme.space
        width = min(space(140), self._host.width() - space(8))
        self._column.setSpacing(space(2))
        self.setFixedWidth(max(width, 160))
        gaps = self._column.spacing() * (len(self._bars) - 1)
        self.resize(self.width(), sum(bar.heightForWidth(self.width()) for bar in self._bars) + gaps)
        bottom = self._host.height() - space(4) - self._lift()
        self.move((self._host.width() - self.width()) // 2, max(0, bottom - self.height()))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        if watched is self._host and event.type() == QEvent.Type.Resize:
            self.place()
        return super().eventFilter(watched, event)


class _Bar(QFrame):
    """One message."""

    def __init__(self, toast: Toast, appearance: Appearance, forget: Callable[["_Bar"], None]) -> None:
        super().__init__()
        theme = appearance.theme
        self.toast = toast
        self._forget = forget
        self.setProperty("variant", "card")
        self.setAccessibleName(toast.text)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        dismiss = QToolButton()
        set_icon(dismiss, theme, Icon.CLOSE, theme.space(4))
        set_name(dismiss, appearance.texts.window.dismiss)
        dismiss.clicked.connect(self.close_bar)
        act = [button(toast.action, self._act, "quiet")] if toast.action and toast.act is not None else []
        line = row(label(toast.text), *act, dismiss, into=self)
        line.setStretch(0, 1)
        line.setContentsMargins(theme.space(4), theme.space(2), theme.space(2), theme.space(2))
        line.setSpacing(theme.space(2))
        self._timer = QTimer(self, singleShot=True, interval=SHOWN_MS)
        self._timer.timeout.connect(self.close_bar)
        if not toast.lasts:
            self._timer.start()

    def close_bar(self) -> None:
        self._timer.stop()
        self._forget(self)

    def enterEvent(self, event: QEvent) -> None:  # noqa: N802
        self._timer.stop()

    def leaveEvent(self, event: QEvent) -> None:  # noqa: N802
        if not self.toast.lasts:
            self._timer.start()

    def _act(self) -> None:
        self.close_bar()
        if self.toast.act is not None:
            self.toast.act()


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
    drawn = QPixmap(_ICON_PX, _ICON_PX)
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


class DesktopNotifier(QObject):
    """Signals: `reported(Toast)`: something for the window to show."""

    reported = Signal(object)

    def __init__(self, app: AppViewModel, tray: Tray, window: QWidget) -> None:
        super().__init__(window)
        self._app = app
        self._tray = tray
        self._window = window

    def apply(self, changes: Changes, texts: Texts) -> None:
        while self._app.notices:
            self.reported.emit(self._toast(self._app.notices.popleft(), texts))
        if changes.ended and self._app.settings.notifications and not self._window.isActiveWindow():
            self._notify(changes.ended, texts)

    def _toast(self, notice: NoticeRaised, texts: Texts) -> Toast:
        text, lasts = notice_text(notice, texts), notice.code in _LASTING
        if notice.code is not NoticeCode.DELETED_ELSEWHERE:
            return Toast(text=text, lasts=lasts)
        conversation_id = str(notice.facts["conversation_id"])
        undo = lambda: self._app.commands.undo_delete(conversation_id)  # noqa: E731
        return Toast(text=text, lasts=lasts, action=texts.window.undo, act=undo)

    def _notify(self, ended: Sequence[str], texts: Texts) -> None:
        """Show the title only: anybody near the screen can read a notification."""
        words = texts.window
        for conversation in self._app.conversations:
            turns = [turn for request_id in ended if (turn := conversation.turn(request_id)) is not None]
            if turns:
                text = words.notify_answered if turns[-1].record.failure is None else words.notify_failed
                title = conversation.title or words.untitled
                self._tray.notify(text.format(title=title), conversation.conversation_id)


def notice_text(notice: NoticeRaised, texts: Texts) -> str:
    """The sentence of a notice."""
    words = texts.status
    reason = str(notice.facts.get("reason", ""))
    if notice.code is NoticeCode.SIGN_IN_FAILED and reason in set(SignInFailure):
        return words.sign_in_failures[SignInFailure(reason)]
    facts = dict(notice.facts)
    if notice.code is NoticeCode.DELETED_ELSEWHERE:
        facts["title"] = short_title(str(facts["title"]), texts)
    return words.notices[notice.code].format_map(facts)


def short_title(title: str, texts: Texts) -> str:
    """As a message names a conversation."""
    title = title or texts.window.untitled
    return title if len(title) <= _TITLE else title[: _TITLE - 1] + "…"
