"""Counts down to an instant, whatever happens to the clock on the wall meanwhile."""

import math
import time
from datetime import datetime

from answerback.clock import epoch_ms


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
