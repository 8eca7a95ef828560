"""What the simulation takes for another window of a session."""

from types import SimpleNamespace

import pytest

from answerback_proof.history import RunHistory
from answerback_proof.simulation import PROFILES
from answerback_proof.simulation.app import SimulatedApp
from answerback_proof.simulation.injector import FaultInjector
from answerback_proof.simulation.network import FOR_EVER_S


@pytest.mark.parametrize(("opened_at", "is_rival"), [(2.0, True), (0.999, True), (0.5, False), (FOR_EVER_S, False)])
async def test_a_window_is_told_of_one_that_connected_after_it(opened_at: float, *, is_rival: bool) -> None:
    """Two gateways count milliseconds each for itself, and it may have closed that connection, and opened another."""
    injector = FaultInjector(1, PROFILES["fleet"])
    app = SimulatedApp(0, history=RunHistory(), injector=injector, faults_s=1.0, trace=lambda _: None)
    app.windows = [app.new_window("window 0"), app.new_window("window 1")]
    window, other = app.windows
    window.links = [
        SimpleNamespace(connection_id=name, client_open=is_open, opened_at=at)  # type: ignore[misc]
        for name, is_open, at in (("told", False, 1.0), ("newest", True, 3.0))
    ]
    other.links = [SimpleNamespace(connection_id="other", client_open=True, opened_at=opened_at)]  # type: ignore[list-item]
    window.told_of_another("told")
    assert window.had_rival is is_rival
