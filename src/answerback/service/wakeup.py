"""Wakes the worker of a running request: at a time, or because its record has changed."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from answerback.core.request import RequestKey


class Notifier:
    """Notifies the worker of a running request, if it is in this process, that the record has changed.

    No guarantee rests on it: where front and worker are different processes nobody listens, and the worker sees a new
    target or a cancellation when it polls the record or renews its lease.
    """

    def __init__(self) -> None:
        self._listeners: dict[RequestKey, Callable[[], None]] = {}

    def notify(self, key: RequestKey) -> None:
        """Call the listener of this request, if there is one."""
        if listener := self._listeners.get(key):
            listener()

    @contextmanager
    def listening(self, key: RequestKey, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` for every `notify` of this request while the block runs."""
        self._listeners[key] = listener
        try:
            yield
        finally:
            if self._listeners.get(key) is listener:
                del self._listeners[key]


class WakeUpTimer:
    """Like asyncio.Event with a time-out, for a single waiter. A wait costs one future.

    The loop's timer is kept from wait to wait: most waits are ended by `set`, and a timer made and cancelled for each
    of them would cost as much as a frame of text. `close` cancels it.
    """

    __slots__ = ("_deadline", "_handle", "_handle_at", "_is_set", "_loop", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = 0.0

    def set(self) -> None:
        """Wake the waiter, now or at its next wait."""
        if not self._is_set:
            self._is_set = True
            self._wake()

    async def wait(self, delay_s: float) -> None:
        """Return when set, or after `delay_s` seconds; it is not set afterwards."""
        if not self._is_set and delay_s > 0:
            self._deadline = self._loop.time() + delay_s
            if self._handle is None or self._deadline < self._handle_at:
                self._schedule()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_set = False

    def close(self) -> None:
        """Cancel the loop's timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self) -> None:
        self.close()
        self._handle_at = self._deadline
        self._handle = self._loop.call_at(self._deadline, self._expired)

    def _expired(self) -> None:
        self._handle = None
        if self._waiter is None:
            return
        if self._handle_at < self._deadline:  # it was left from an earlier wait
            self._schedule()
        else:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
