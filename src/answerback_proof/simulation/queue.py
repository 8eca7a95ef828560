"""SQS FIFO as a fake with faults."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from answerback.core.request import Record, RequestKey
from answerback.service.worker import Done, Retry
from answerback.testing.queue import LaneQueue
from answerback_proof.simulation.faults import Dice, Faults
from answerback_proof.simulation.store import Wire

WATCH_S: Final = 2.0


class StormyQueue(LaneQueue):
    """A queue behind a wire, that hands out again what may still be running. `is_lost`: a lease is over."""

    def __init__(
        self,
        run: Callable[[RequestKey], Awaitable[Done | Retry]],
        *,
        wire: Wire,
        clock: Callable[[], int],
        visibility_s: float,
        is_lost: Callable[[RequestKey], bool],
    ) -> None:
        super().__init__(run, clock=clock, visibility_s=visibility_s)
        self._wire = wire
        self._is_lost = is_lost
        self._again: set[asyncio.Future[Done | Retry]] = set()

    async def put(self, record: Record) -> None:
        """See ports.Queue."""
        await self._wire.call(partial(LaneQueue.put, self, record))

    async def storm(self, dice: Dice, faults: Faults) -> None:
        """Strike until the dice stop."""
        every_s = faults.redeliver_every_s
        while every_s and not dice.is_over:
            await asyncio.sleep(dice.pause_s("redelivery", every_s))
            running = sorted(self._runs)
            if running and dice.strikes("redelivery of a running request", 1.0):
                self._hand_out_again(dice.stream("redelivery").choice(running))

    async def watch(self) -> None:
        """A message is hidden for as long as its lease lasts, and then handed out again."""
        while True:
            await asyncio.sleep(WATCH_S)
            for key in sorted(key for key in self._runs if self._is_lost(key)):
                self._hand_out_again(key)

    def _hand_out_again(self, key: RequestKey) -> None:
        """As after a visibility time-out that came too early: a second worker gets what the first still runs."""
        run = asyncio.ensure_future(self._run(key))
        self._again.add(run)
        run.add_done_callback(self._again.discard)
