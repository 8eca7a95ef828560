"""What the simulation takes for another window of a session."""

from types import SimpleNamespace

import pytest

from answerback.client import Closed, Stopped
from answerback_proof.history import RunHistory
from answerback_proof.simulation import PROFILES
from answerback_proof.simulation.app import SimulatedApp
from answerback_proof.simulation.injector import FaultInjector


@pytest.mark.parametrize(("opened_at", "is_rival"), [(2.0, True), (0.999, True), (0.5, False)])
async def test_the_order_of_two_connections_that_come_together_is_up_to_the_server(
    opened_at: float, *, is_rival: bool
) -> None:
    """Two gateways count milliseconds each for itself, and the one that is bound later wins."""
    faults = PROFILES["fleet"]
    injector = FaultInjector(1, faults)
    app = SimulatedApp(0, history=RunHistory(), injector=injector, faults=faults, faults_s=1.0, trace=lambda _: None)
    app.windows = [app.new_window("window 0"), app.new_window("window 1")]
    window, other = app.windows
    window.links = [SimpleNamespace(client_open=True, opened_at=1.0)]  # type: ignore[list-item]
    other.links = [SimpleNamespace(client_open=True, opened_at=opened_at)]  # type: ignore[list-item]
    window.is_open = True
    window._state_changed(Stopped(Closed()))
    assert window.had_rival is is_rival
