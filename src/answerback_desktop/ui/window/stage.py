"""Whether the window shows the chat, or first a page that says what is missing. No Qt in here."""

from enum import StrEnum

from answerback_desktop.engine.events import ConnectionReason, ConnectionStatus, GatewayStatus, SignInStatus
from answerback_desktop.viewmodels import AppViewModel

__all__ = ["Stage", "stage_of"]


class Stage(StrEnum):
    """What has to be done before the app is of use; CHAT: nothing."""

    CHAT = "chat"
    OFFER = "offer"
    """Nobody answers on this machine: start a gateway, or connect to another."""
    STARTING = "starting"
    START_FAILED = "start-failed"
    UNREACHABLE = "unreachable"
    """Nobody answers at an address elsewhere."""
    SIGN_IN = "sign-in"
    BROWSER = "browser"


def stage_of(app: AppViewModel) -> Stage:
    """From the state of the connection, the sign-in and the gateway. Online is always the chat."""
    if app.connection.is_online:
        return Stage.CHAT
    if app.sign_in.status is SignInStatus.WAITING_FOR_BROWSER:
        return Stage.BROWSER
    if app.connection.status is ConnectionStatus.SIGNED_OUT or app.sign_in.status is SignInStatus.SIGNED_OUT:
        return Stage.SIGN_IN
    match app.gateway.status:
        case GatewayStatus.OFFERED:
            return Stage.OFFER
        case GatewayStatus.STARTING:
            return Stage.STARTING
        case GatewayStatus.FAILED:
            return Stage.START_FAILED
        case GatewayStatus.RUNNING:
            return Stage.CHAT  # being connected to
        case _:
            is_nowhere = app.connection.reason in (ConnectionReason.UNREACHABLE, ConnectionReason.BAD_URL)
            return Stage.UNREACHABLE if is_nowhere else Stage.CHAT
