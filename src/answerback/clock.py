"""The clocks of the composition roots. Everything else gets its clock as an argument."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

log = logging.getLogger("answerback.clock")

LEAP_MS: Final = 2_000
"""How much further than time itself the wall clock must have gone to have leapt. Corrections are far smaller."""

LOOK_MS: Final = 100
"""How long one look at the monotonic clock holds: what leaps farther than that is looked at again."""


def epoch_ms() -> int:
    """Milliseconds since the epoch, now."""
    return time.time_ns() // 1_000_000


class LeapingClock:
    """Milliseconds since the epoch, and how much of that was never lived through.

    A wall clock leaps ahead when somebody sets it, and when a machine wakes that was suspended: nothing ran meanwhile.
    Who measures a duration from an instant takes `leapt_since` that instant off.
    """

    def __init__(
        self, *, wall_ns: Callable[[], int] = time.time_ns, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic = monotonic
        self._ahead_ms = wall_ns() // 1_000_000 - int(monotonic() * 1000)
        self._looked_ms = 0
        self._leaps: deque[tuple[int, int]] = deque(maxlen=100)
        """Where each leap landed, and how far it went."""

    def __call__(self) -> int:
        now_ms = self._wall_ns() // 1_000_000
        if 0 <= now_ms - self._looked_ms < LOOK_MS:
            return now_ms
        self._looked_ms = now_ms
        leap_ms = now_ms - int(self._monotonic() * 1000) - self._ahead_ms
        if abs(leap_ms) > LEAP_MS:
            self._ahead_ms += leap_ms
            if leap_ms > 0:
                self._leaps.append((now_ms, leap_ms))
                log.warning("the clock has leapt ahead by %d s, which no deadline counts", leap_ms // 1000)
        return now_ms

    def leapt_since(self, at_ms: int) -> int:
        """Milliseconds that the clock has leapt ahead since `at_ms`."""
        return sum(leap_ms for landed_ms, leap_ms in self._leaps if landed_ms > at_ms) if self._leaps else 0
