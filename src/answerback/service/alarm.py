"""A wake-up call for one waiting task: by a time, or by whoever sets it."""

import asyncio


class Alarm:
    """Like asyncio.Event with a time-out, for a single waiter; costs one future and one timer a wait."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter, now or at its next wait."""
        if not self._is_set:
            self._is_set = True
            self._wake()

    async def wait(self, delay_s: float) -> None:
        """Return when set, or after `delay_s` seconds; the alarm is off afterwards."""
        if not self._is_set and delay_s > 0:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(delay_s, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        self._is_set = False

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
