"""Connects the engine's thread with the widgets: a timer that drains events and emits what changed."""

from collections.abc import Callable, Sequence
from typing import Final

from PySide6.QtCore import QObject, Qt, QTimer, Signal

from answerback_desktop.engine.events import Event
from answerback_desktop.viewmodels import AppViewModel

_BUSY_MS: Final = 33
_IDLE_MS: Final = 100
_HIDDEN_MS: Final = 250
_IDLE_AFTER: Final = 60
"""Empty polls before the timer slows down: two seconds."""


class Bridge(QObject):
    """Drains `drain` into `app` and emits `changed(Changes)`, 30 times a second while something happens.

    An idle app polls ten times a second, one whose window is hidden four times: new text is then never on screen later
    than that, and a laptop sleeps.
    """

    changed = Signal(object)

    def __init__(
        self, app: AppViewModel, drain: Callable[[], Sequence[Event]], *, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._app = app
        self._drain = drain
        self._empty = 0
        self._is_hidden = False
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.CoarseTimer)
        self._timer.timeout.connect(self.pump)

    @property
    def interval_ms(self) -> int:
        return self._timer.interval()

    def start(self) -> None:
        self._timer.start(_BUSY_MS)
        self.pump()

    def stop(self) -> None:
        self._timer.stop()

    def wake(self) -> None:
        """Poll fast again: what a person did should show at once."""
        self._empty = 0
        self._pace(_BUSY_MS)

    def set_hidden(self, is_hidden: bool) -> None:
        """Whether nobody can see the window."""
        self._is_hidden = is_hidden
        self.wake()

    def pump(self) -> None:
        events = self._drain()
        if not events:
            self._empty += 1
            if self._empty >= _IDLE_AFTER:
                self._pace(_HIDDEN_MS if self._is_hidden else _IDLE_MS)
            return
        self._empty = 0
        self._pace(_HIDDEN_MS if self._is_hidden else _BUSY_MS)
        self.changed.emit(self._app.apply(events))

    def _pace(self, interval_ms: int) -> None:
        if self._timer.isActive() and self._timer.interval() != interval_ms:
            self._timer.setInterval(interval_ms)
