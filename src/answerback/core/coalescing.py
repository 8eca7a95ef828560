"""When to send the text that has come since the last frame."""

from collections.abc import Callable
from typing import Final, TypeAlias

Interval: TypeAlias = Callable[[float], float]
"""Seconds between two frames of an answer that has been streaming for so many seconds."""

GATEWAY_INTERVAL_S: Final = 0.040
"""Below what a reader can tell apart; turns bursts of tokens into one frame (Ably rolls up by 40 ms too)."""


def steady(interval_s: float = GATEWAY_INTERVAL_S) -> Interval:
    """The same pause all along: frames cost little where we run the socket ourselves."""

    def interval(elapsed_s: float) -> float:
        return interval_s

    return interval


def growing(shortest_s: float = 0.040, longest_s: float = 1.0, share: float = 0.1) -> Interval:
    """A pause that grows with the answer's age: where each post is billed, a long answer costs few of them."""

    def interval(elapsed_s: float) -> float:
        return min(longest_s, max(shortest_s, elapsed_s * share))

    return interval
