"""The rate window: a calendar minute (the mission's "10 requests a minute")."""

from collections import Counter
from typing import Final

WINDOW_MS: Final = 60_000


def window_of(now_ms: int) -> int:
    """The number of the minute that `now_ms` lies in."""
    return now_ms // WINDOW_MS


def retry_after_ms(now_ms: int) -> int:
    """Milliseconds until the next window opens: at least 1, at most a minute."""
    return WINDOW_MS - now_ms % WINDOW_MS


class MinuteCounts:
    """How often each name was counted in the present minute. Forgets a minute when the next one is counted in."""

    __slots__ = ("_counts", "_window")

    def __init__(self) -> None:
        self._window = 0
        self._counts: Counter[str] = Counter()

    def count(self, name: str, now_ms: int) -> int:
        """Count once; how often that makes in this minute."""
        window = window_of(now_ms)
        if window != self._window:
            self._window = window
            self._counts.clear()
        self._counts[name] += 1
        return self._counts[name]
