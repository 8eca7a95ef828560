"""The rate window: a calendar minute (the mission's "10 requests a minute")."""

from typing import Final

WINDOW_MS: Final = 60_000


def window_of(now_ms: int) -> int:
    """The number of the minute that `now_ms` lies in."""
    return now_ms // WINDOW_MS


def retry_after_ms(now_ms: int) -> int:
    """Milliseconds until the next window opens: at least 1, at most a minute."""
    return WINDOW_MS - now_ms % WINDOW_MS
