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
from answerback_desktop.settings import Language
from answerback_desktop.texts import texts_of
from answerback_desktop.ui.window.connection import detail_text
from answerback_desktop.ui.window.welcome import Screen, screen_of
from answerback_desktop.viewmodels import AppViewModel
from commands import NotedCommands

UNREACHABLE = ConnectionChanged(status=ConnectionStatus.OFFLINE, reason=ConnectionReason.UNREACHABLE)
LOST = ConnectionChanged(status=ConnectionStatus.OFFLINE, reason=ConnectionReason.LOST)
ONLINE = ConnectionChanged(status=ConnectionStatus.ONLINE)


@pytest.mark.parametrize(
    ("events", "screen"),
    [
        ([], Screen.CHAT),
        ([ONLINE], Screen.CHAT),
        ([LOST], Screen.CHAT),
        ([UNREACHABLE], Screen.UNREACHABLE),
        ([ConnectionChanged(status=ConnectionStatus.STOPPED, reason=ConnectionReason.BAD_URL)], Screen.UNREACHABLE),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.OFFERED)], Screen.OFFER),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.STARTING)], Screen.STARTING),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.FAILED)], Screen.START_FAILED),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.RUNNING)], Screen.CHAT),
        ([UNREACHABLE, GatewayChanged(status=GatewayStatus.OFFERED), ONLINE], Screen.CHAT),
        ([ConnectionChanged(status=ConnectionStatus.SIGNED_OUT)], Screen.SIGN_IN),
        ([LOST, SignInChanged(status=SignInStatus.SIGNED_OUT)], Screen.SIGN_IN),
        ([LOST, SignInChanged(status=SignInStatus.WAITING_FOR_BROWSER)], Screen.BROWSER),
    ],
)
def test_the_screen(events, screen):
    app = AppViewModel(NotedCommands())
    app.apply(events)
    assert screen_of(app) is screen


def test_the_details_are_korean_in_a_korean_app():
    detail = "the proxy 10.0.0.1:3128 of HTTPS_PROXY does not answer as an HTTP proxy"
    assert "프록시" in detail_text(detail, texts_of(Language.KOREAN, system_locale="C"))
    assert detail_text(detail, texts_of(Language.ENGLISH, system_locale="C")) == detail
