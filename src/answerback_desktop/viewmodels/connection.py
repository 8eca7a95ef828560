"""The state of the connection to the server, for widgets."""

from collections.abc import Mapping

from answerback.client import BudgetInfo, ModelInfo
from answerback_desktop.engine.events import (
    BudgetRead,
    ConnectionChanged,
    ConnectionReason,
    ConnectionStatus,
    Limits,
    RoundTripMeasured,
)
from answerback_desktop.viewmodels.countdown import Countdown


class ConnectionViewModel:
    """Read it; only `AppViewModel` changes it."""

    def __init__(self) -> None:
        self._state = ConnectionChanged(status=ConnectionStatus.CONNECTING)
        self._countdown: Countdown | None = None
        self._models: tuple[str, ...] = ()
        self._limits: Limits | None = None
        self._model_info: Mapping[str, ModelInfo] = {}
        self.server_url = ""
        self.round_trip_ms: float | None = None
        self.budget: BudgetInfo | None = None
        """As it was last told; None: the user has none."""

    @property
    def status(self) -> ConnectionStatus:
        """Connecting, online, offline, signed out or stopped."""
        return self._state.status

    @property
    def reason(self) -> ConnectionReason:
        return self._state.reason

    @property
    def detail(self) -> str:
        """What the client says about the reason, in English."""
        return self._state.detail

    @property
    def is_online(self) -> bool:
        """Whether questions leave at once."""
        return self._state.status is ConnectionStatus.ONLINE

    @property
    def retry_at_ms(self) -> int | None:
        """While offline: the epoch instant of the next try."""
        return self._state.retry_at_ms

    @property
    def retry_in_s(self) -> int | None:
        """Whole seconds until the next try, for a countdown; None: none is planned."""
        return None if self._countdown is None else self._countdown.left_s

    @property
    def user(self) -> str | None:
        """Whom the server takes us for, once it has said so."""
        return self._state.user

    @property
    def models(self) -> tuple[str, ...]:
        """The server's models, its default first; the last ones known while offline."""
        return self._models

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

    @property
    def limits(self) -> Limits | None:
        """What the server allows, as far as it has said so."""
        return self._limits

    # --- by the app -----------------------------------------------------------------------------------------

    def take(self, event: ConnectionChanged | RoundTripMeasured | BudgetRead) -> None:
        if isinstance(event, BudgetRead):
            self.budget = event.budget
            return
        if isinstance(event, RoundTripMeasured):
            self.round_trip_ms = event.round_trip_ms
            return
        self._state = event
        self._countdown = None if event.retry_at_ms is None else Countdown(event.retry_at_ms)
        if event.models:
            self._models, self._model_info = event.models, event.model_info
        self._limits = event.limits or self._limits
        if event.status is not ConnectionStatus.ONLINE:
            self.round_trip_ms = None

    def forget(self) -> None:
        """Forget what the old server said: the account has changed."""
        self._state = ConnectionChanged(status=ConnectionStatus.CONNECTING)
        self._models = ()
        self._model_info = {}
        self._limits = None
        self.round_trip_ms = None
        self.budget = None
