"""Turns the client's connection states into the app's."""

from collections.abc import Callable
from typing import Final

from answerback.client import (
    CannotConnect,
    Closed,
    Connected,
    Connecting,
    ConnectionState,
    Disconnected,
    Forbidden,
    ModelInfo,
    Obstacle,
    ServerLimits,
    SessionReplaced,
    Stopped,
    Unauthorized,
)
from answerback_desktop.engine.events import OBSTACLES, ConnectionChanged, ConnectionReason, ConnectionStatus

_FINAL: Final = {
    Unauthorized: (ConnectionStatus.SIGNED_OUT, ConnectionReason.TOKEN_REFUSED),
    Forbidden: (ConnectionStatus.STOPPED, ConnectionReason.FORBIDDEN),
    SessionReplaced: (ConnectionStatus.STOPPED, ConnectionReason.SESSION_REPLACED),
    Closed: (ConnectionStatus.STOPPED, ConnectionReason.CLOSED),
}


class ConnectionTracker:
    """Remembers what the states do not say: whether there was a connection before, and why there is no token."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._was_online = False
        self._reason = ConnectionReason.NONE
        self._detail = ""
        self.is_token_missing = False

    def changed(
        self, state: ConnectionState, limits: ServerLimits | None, model_info: Callable[[str], ModelInfo]
    ) -> ConnectionChanged:
        match state:
            case Connected(user_id=user, models=models):
                self._was_online = True
                self.is_token_missing = False
                self._reason, self._detail = ConnectionReason.NONE, ""
                return ConnectionChanged(
                    status=ConnectionStatus.ONLINE,
                    user=user,
                    models=models,
                    model_info={name: model_info(name) for name in models},
                    limits=limits,
                )
            case Connecting():
                return ConnectionChanged(status=ConnectionStatus.CONNECTING, reason=self._reason, detail=self._detail)
            case Disconnected(retry_in_s=pause_s):
                self._reason, self._detail = self._why(state.obstacle), state.reason
                self._was_online = False
                return ConnectionChanged(
                    status=ConnectionStatus.OFFLINE,
                    reason=self._reason,
                    detail=self._detail,
                    retry_at_ms=self._clock() + int(pause_s * 1000),
                )
            case Stopped(error):
                status, reason = _FINAL.get(type(error), _FINAL[Closed])
                if isinstance(error, Unauthorized) and error.is_missing:
                    reason = ConnectionReason.SIGN_IN_NEEDED
                elif isinstance(error, CannotConnect):
                    reason = OBSTACLES[error.obstacle]
                return ConnectionChanged(status=status, reason=reason, detail=str(error))

    def _why(self, obstacle: Obstacle | None) -> ConnectionReason:
        if self.is_token_missing:
            return ConnectionReason.SIGN_IN_UNREACHABLE
        if obstacle is not None:
            return OBSTACLES[obstacle]
        return ConnectionReason.LOST if self._was_online else ConnectionReason.UNREACHABLE
