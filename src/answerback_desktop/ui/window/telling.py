"""Notices in the window, and notifications of the desktop for a person who is elsewhere."""

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

from answerback_desktop.engine.events import NoticeCode, NoticeRaised
from answerback_desktop.signin.errors import SignInFailure
from answerback_desktop.texts import Texts
from answerback_desktop.ui.tray import Tray
from answerback_desktop.ui.window.toast import Toast
from answerback_desktop.viewmodels import AppViewModel, Changes

__all__ = ["Teller", "notice_text"]


class Teller(QObject):
    """Signals: `told(Toast)`: something for the window to show."""

    told = Signal(object)

    def __init__(self, app: AppViewModel, tray: Tray, texts: Texts, window: QWidget) -> None:
        super().__init__(window)
        self._app = app
        self._tray = tray
        self._texts = texts
        self._window = window

    def set_texts(self, texts: Texts) -> None:
        """Another language."""
        self._texts = texts

    def apply(self, changes: Changes) -> None:
        """Tell what is new."""
        while self._app.notices:
            self.told.emit(Toast(text=notice_text(self._app.notices.popleft(), self._texts)))
        if changes.ended and self._app.settings.notifications and not self._window.isActiveWindow():
            self._notify(changes.ended)

    def _notify(self, ended: tuple[str, ...]) -> None:
        """The title only: a notification is seen by whoever looks at the screen."""
        words = self._texts.window
        for conversation in self._app.conversations:
            turns = [turn for request_id in ended if (turn := conversation.turn(request_id)) is not None]
            if turns:
                text = words.notify_answered if turns[-1].failure is None else words.notify_failed
                title = conversation.title or words.untitled
                self._tray.notify(text.format(title=title), conversation.conversation_id)


def notice_text(notice: NoticeRaised, texts: Texts) -> str:
    """The sentence of a notice."""
    words = texts.status
    reason = str(notice.facts.get("reason", ""))
    if notice.code is NoticeCode.SIGN_IN_FAILED and reason in set(SignInFailure):
        return words.sign_in_failures[SignInFailure(reason)]
    return words.notices[notice.code].format_map(notice.facts)
