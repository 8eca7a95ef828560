"""The state of the connection to the server, for widgets."""

import math
import time
from collections.abc import Mapping
from datetime import datetime

from answerback.client import BudgetInfo, ModelInfo, ServerLimits
from answerback.clock import epoch_ms
from answerback_desktop.engine.events import (
    BudgetRead,
    ConnectionChanged,
    ConnectionReason,
    ConnectionStatus,
    RoundTripMeasured,
)


class Countdown:
    """To the epoch instant `at_ms`, as it was when the countdown began; at most `longest_ms` then."""

    def __init__(self, at_ms: int, *, longest_ms: int | None = None) -> None:
        left_ms = max(0, at_ms - epoch_ms())
        if longest_ms is not None:
            left_ms = min(left_ms, max(0, longest_ms))
        self._at_s = time.monotonic() + left_ms / 1000

    @property
    def left_s(self) -> int:
        """Whole seconds, rounded up."""
        return max(0, math.ceil(self._at_s - time.monotonic()))


def local_time(at_ms: int) -> str:
    """An instant that is days away, for a person: `2026-12-01 09:00`."""
    return f"{datetime.fromtimestamp(at_ms / 1000):%Y-%m-%d %H:%M}"


class ConnectionViewModel:
    """Read it; only `AppViewModel` changes it. `state`: the whole of it, as the engine said last.

    `models`: the server's, its default first; `limits`: what it allows. While offline, the last ones known. `budget`:
    as it was last told; None: the user has none.
    """

    def __init__(self) -> None:
        self.server_url = ""
        self.forget()

    def forget(self) -> None:
        """Forget what the old server said: the account has changed."""
        self.state = ConnectionChanged(status=ConnectionStatus.CONNECTING)
        self._countdown: Countdown | None = None
        self._model_info: Mapping[str, ModelInfo] = {}
        self.models: tuple[str, ...] = ()
        self.limits: ServerLimits | None = None
        self.round_trip_ms: float | None = None
        self.budget: BudgetInfo | None = None

    @property
    def status(self) -> ConnectionStatus:
        """Connecting, online, offline, signed out or stopped."""
        return self.state.status

    @property
    def reason(self) -> ConnectionReason:
        return self.state.reason

    @property
    def is_online(self) -> bool:
        """Whether questions leave at once."""
        return self.status is ConnectionStatus.ONLINE

    @property
    def retry_in_s(self) -> int | None:
        """Whole seconds until the next try, for a countdown; None: none is planned."""
        return None if self._countdown is None else self._countdown.left_s

    def info_of(self, model: str) -> ModelInfo:
        """What the server has said of a model."""
        return self._model_info.get(model, ModelInfo())

    def title_of(self, model: str) -> str:
        """Its name for people."""
        return self.info_of(model).title or model

    @property
    def titles(self) -> Mapping[str, str]:
        """The models that have another name for people."""
        return {name: info.title for name, info in self._model_info.items() if info.title}

    # --- by the app -----------------------------------------------------------------------------------------

    def take(self, event: ConnectionChanged | RoundTripMeasured | BudgetRead) -> None:
        if isinstance(event, BudgetRead):
            self.budget = event.budget
            return
        if isinstance(event, RoundTripMeasured):
            self.round_trip_ms = event.round_trip_ms
            return
        self.state = event
        self._countdown = None if event.retry_at_ms is None else Countdown(event.retry_at_ms)
        if event.models:
            self.models, self._model_info = event.models, event.model_info
        self.limits = event.limits or self.limits
        if event.status is not ConnectionStatus.ONLINE:
            self.round_trip_ms = None
