"""Instants as text. Inside the program an instant is a whole number of milliseconds since the epoch."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeAlias

LeaptSince: TypeAlias = Callable[[int], int]
"""By how many milliseconds the clock has leapt ahead since an instant, without that time having passed."""


LAST_MS: Final = 253_402_300_799_000


def no_leaps(_: int) -> int:
    """`LeaptSince` of a clock that is not watched."""
    return 0


def iso(epoch_ms: int, timespec: str = "milliseconds") -> str:
    """ISO 8601 in UTC, with milliseconds on the wire, in the log and in exports. `timespec`: as datetime has it.

    Beyond the year 9999, for a token that never expires, it is the last instant that can be written.
    """
    second, milliseconds = divmod(min(epoch_ms, LAST_MS), 1000)
    if timespec == "milliseconds":
        return f"{_second(second, 'seconds')}.{milliseconds:03}Z"
    return _second(second, timespec) + "Z"


@lru_cache(maxsize=64)
def _second(epoch_s: int, timespec: str) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).replace(tzinfo=None).isoformat(timespec=timespec)


def day_of(epoch_ms: int) -> str:
    """The UTC day that usage is counted under: `YYYY-MM-DD`."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d")
