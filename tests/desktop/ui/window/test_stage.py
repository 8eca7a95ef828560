"""Which page a person needs, from the state of things."""

import pytest

from answerback_desktop.engine.events import (
    ConnectionChanged,
    ConnectionReason,
    ConnectionStatus,
    GatewayChanged,
    GatewayStatus,
    SignInChanged,
    SignInStatus,
)
from answerback_desktop.ui.window.stage import Stage, stage_of
from answerback_desktop.viewmodels import AppViewModel
from commands import NotedCommands

UNREACHABLE = ConnectionChanged(status=ConnectionStatus.OFFLINE, reason=ConnectionReason.UNREACHABLE)
LOST = ConnectionChanged(status=ConnectionStatus.OFFLINE, reason=ConnectionReason.LOST)
ONLINE = ConnectionChanged(status=ConnectionStatus.ONLINE)


@pytest.mark.parametrize(
    ("events", "stage"),
    [
        ([], Stage.CHAT),
        ([ONLINE], Stage.CHAT),
        ([LOST], Stage.CHAT),
        ([UNREACHABLE], Stage.UNREACHABLE),
        ([ConnectionChanged(status=ConnectionStatus.STOPPED, reason=ConnectionReason.BAD_URL)], Stage.UNREACHABLE),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.OFFERED)], Stage.OFFER),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.STARTING)], Stage.STARTING),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.FAILED)], Stage.START_FAILED),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.RUNNING)], Stage.CHAT),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.OFFERED), ONLINE], Stage.CHAT),
        ([ConnectionChanged(status=ConnectionStatus.SIGNED_OUT)], Stage.SIGN_IN),
        ([LOST, SignInChanged(status=SignInStatus.SIGNED_OUT)], Stage.SIGN_IN),
        ([LOST, SignInChanged(status=SignInStatus.WAITING_FOR_BROWSER)], Stage.BROWSER),
    ],
)
def test_the_stage(events, stage):
    app = AppViewModel(NotedCommands())
    app.apply(events)
    assert stage_of(app) is stage
