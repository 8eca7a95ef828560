"""SQS FIFO as a fake with faults."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from answerback.core.request import Record, RequestKey
from answerback.service.worker import Done, Retry
from answerback.testing.queue import LaneQueue
from answerback_proof.faults import FaultKind
from answerback_proof.simulation.faults import FaultInjector, Faults
from answerback_proof.simulation.store import FaultyChannel

WATCH_S: Final = 2.0


class FaultyQueue(LaneQueue):
    """A queue behind a channel, that hands out again what may still be running. `is_lost`: a lease is over."""

    def __init__(
        self,
        run: Callable[[RequestKey], Awaitable[Done | Retry]],
        *,
        channel: FaultyChannel,
        clock: Callable[[], int],
        visibility_s: float,
        is_lost: Callable[[RequestKey], bool],
    ) -> None:
        super().__init__(run, clock=clock, visibility_s=visibility_s)
        self._channel = channel
        self._is_lost = is_lost
        self._again: set[asyncio.Future[Done | Retry]] = set()

    async def put(self, record: Record) -> None:
        """See ports.Queue."""
        await self._channel.call(partial(LaneQueue.put, self, record))

    async def inject_faults(self, injector: FaultInjector, faults: Faults) -> None:
        """Inject faults until the injector stops."""
        every_s = faults.redeliver_every_s
        while every_s and not injector.is_over:
            await asyncio.sleep(injector.pause_s("redelivery", every_s))
            running = sorted(self._runs)
            if running and injector.occurs(FaultKind.REDELIVERY, 1.0):
                self._dispatch_again(injector.stream("redelivery").choice(running))

    async def watch(self) -> None:
        """A message is hidden for as long as its lease lasts, and then dispatched again."""
        while True:
            await asyncio.sleep(WATCH_S)
            for key in sorted(key for key in self._runs if self._is_lost(key)):
                self._dispatch_again(key)

    def _dispatch_again(self, key: RequestKey) -> None:
        """As after a visibility timeout that is too short: a second worker gets what the first still runs."""
        run = asyncio.ensure_future(self._run(key))
        self._again.add(run)
        run.add_done_callback(self._again.discard)
