"""Positions: numbers that order a user's requests by acceptance."""

from typing import Final

_PER_MS: Final = 1024
"""2**53 is reached in the year 2248."""


class Positions:
    """Gives out rising numbers, made from the time: no counter has to be written.

    In one process in the order of the calls, also within a millisecond or when the clock goes back; between processes
    as well as their clocks agree. Whoever uses a position makes sure by a condition that it is free.
    """

    def __init__(self) -> None:
        self._last = 0

    def next(self, at_ms: int) -> int:
        """A number above all before."""
        self._last = max(self._last + 1, at_ms * _PER_MS)
        return self._last
