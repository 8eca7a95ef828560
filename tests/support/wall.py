"""The wall clock of a gateway and of a desktop app in the test's process, as a test sets it. It runs on from there."""

import time
from collections.abc import Callable
from functools import partial

import pytest

from answerback.clock import LeapingClock
from answerback.gateway import app as gateway_app
from answerback_desktop.viewmodels import connection

MID_MONTH_MS = 1_794_744_000_000
"""2026-11-15T12:00:00Z: no window of a budget and no day ends soon."""


def set_clock(monkeypatch: pytest.MonkeyPatch, at_ms: int = MID_MONTH_MS) -> Callable[[], int]:
    """Set it. Returns it, for a desktop app."""
    ahead_ns = at_ms * 1_000_000 - time.time_ns()

    def wall_ns() -> int:
        return time.time_ns() + ahead_ns

    def clock() -> int:
        return wall_ns() // 1_000_000

    monkeypatch.setattr(gateway_app, "LeapingClock", partial(LeapingClock, wall_ns=wall_ns))
    monkeypatch.setattr(connection, "epoch_ms", clock)
    return clock
