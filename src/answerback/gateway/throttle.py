"""A token bucket: how many frames a user may send, in bursts and in the long run."""


class TokenBucket:
    """`burst` tokens at first, refilled at `rate` a second; a rate of 0 means no limit. Times are monotonic seconds."""

    __slots__ = ("_burst", "_level", "_rate", "_updated", "users")

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._level = self._burst
        self._updated = now
        self.users = 0
        """Connections that share this bucket."""

    def take(self, *, now: float) -> float:
        """Take one token, on credit if need be; seconds to wait before the frame may be handled, 0 if none.

        Credit makes the waits of several connections that share the bucket add up, so that together they keep the rate.
        """
        if self._rate <= 0:
            return 0.0
        self._level = min(self._burst, self._level + (now - self._updated) * self._rate) - 1.0
        self._updated = now
        return 0.0 if self._level >= 0 else -self._level / self._rate
