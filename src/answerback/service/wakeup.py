"""A wake-up call for one waiting task: by a time, or by whoever sets it."""

import asyncio


class Alarm:
    """Like asyncio.Event with a time-out, for a single waiter; costs one future a wait.

    The timer is kept from wait to wait: most are ended by `set`, and to make and cancel a timer each time would cost as
    much as a frame of text. `close` it in the end.
    """

    __slots__ = ("_deadline", "_is_set", "_loop", "_timer", "_timer_at", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def set(self) -> None:
        """Wake the waiter, now or at its next wait."""
        if not self._is_set:
            self._is_set = True
            self._wake()

    async def wait(self, delay_s: float) -> None:
        """Return when set, or after `delay_s` seconds; the alarm is off afterwards."""
        if not self._is_set and delay_s > 0:
            self._deadline = self._loop.time() + delay_s
            if self._timer is None or self._deadline < self._timer_at:
                self._start()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_set = False

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self.close()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._rung)

    def _rung(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._timer_at < self._deadline:  # it was left from an earlier wait
            self._start()
        else:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
