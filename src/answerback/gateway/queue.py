"""The gateway's queue: in this process, rebuilt from the store at start.

It keeps no promise of its own across a crash: the records are the truth, and `recover` queues every unfinished one
again in the order accepted. Within a process it dispatches a request until its worker returns `Done`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from answerback.core import request as changes
from answerback.core.request import Record, RequestKey
from answerback.gateway.scheduler import Scheduler
from answerback.ports import Requests
from answerback.service.worker import Done, Retry
from answerback.tasks import Tasks

log = logging.getLogger("answerback.queue")

FIRST_BACK_OFF_S: Final = 1.0
LONGEST_BACK_OFF_S: Final = 30.0


class InProcessQueue:
    """`ports.Queue` over asyncio tasks. `slots`: concurrent runs for each model name. `clock`: epoch milliseconds."""

    def __init__(self, *, slots: Mapping[str, int], clock: Callable[[], int]) -> None:
        self._scheduler = Scheduler(slots)
        self._clock = clock
        self._run: Callable[[RequestKey], Awaitable[Done | Retry]] | None = None
        self._tasks = Tasks()
        self._timers: dict[RequestKey, asyncio.TimerHandle] = {}
        self._failures: dict[RequestKey, int] = {}

    @property
    def depth(self) -> int:
        """Requests that wait: behind others, for a slot, or for a retry."""
        return len(self._scheduler) - self._scheduler.running

    @property
    def running(self) -> int:
        """Requests that a worker runs now."""
        return self._scheduler.running

    def __contains__(self, key: object) -> bool:
        """Whether the queue has this request: it waits or runs."""
        return key in self._scheduler

    async def put(self, record: Record) -> None:
        """Queue a request; one that is queued or running already is left where it is."""
        if self._scheduler.put(record.key, record.ordering_key, record.model):
            self._dispatch()

    async def forget(self, key: RequestKey) -> None:
        """Drop a request that waits; one that runs goes on, and one that waits for a retry comes to its end then."""
        if self._scheduler.drop(key):
            self._dispatch()

    def restore(self, records: Iterable[Record]) -> None:
        """Queue unfinished requests, given in the order accepted. Call it before `start`."""
        for record in records:
            self._scheduler.put(record.key, record.ordering_key, record.model)

    async def recover(self, requests: Requests) -> int:
        """Queue every unfinished request of the store; returns how many there are. Call it before `start`.

        The caller holds the store's lock: the workers that had leases are dead, and so are the connections that
        targets lead to. Raises: Unavailable.
        """
        records = await requests.unfinished()
        # All at once, so that a store with group commit needs few commits.
        await asyncio.gather(*(requests.change(record.key, changes.recover) for record in records))
        self.restore(records)
        return len(records)

    def start(self, run: Callable[[RequestKey], Awaitable[Done | Retry]]) -> None:
        """Dispatch requests to `run` from now on."""
        self._run = run
        self._dispatch()

    async def stop(self, *, grace_s: float) -> None:
        """Dispatch nothing more, give the running ones `grace_s` to end, then cancel the rest and wait for them."""
        self._run = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._tasks.settle(grace_s=grace_s)

    def skip_grace(self) -> None:
        """Cancel the running requests that a stop still waits for."""
        self._tasks.cancel()

    def _dispatch(self) -> None:
        run = self._run
        while run is not None and (key := self._scheduler.take()) is not None:
            self._tasks.start(self._work(run, key), name="worker")

    async def _work(self, run: Callable[[RequestKey], Awaitable[Done | Retry]], key: RequestKey) -> None:
        try:
            outcome = await run(key)
        except asyncio.CancelledError:
            # Only a stop cancels: the record stays unfinished, and the next start recovers it.
            self._scheduler.block(key)
            raise
        except Exception:
            outcome = Retry(self._clock() + self._back_off_ms(key))
            log.exception("a worker failed; the request is tried again", extra=_of(key))
        else:
            self._failures.pop(key, None)
        match outcome:
            case Done():
                self._scheduler.done(key)
            case Retry(at_ms=at_ms):
                self._scheduler.block(key)
                self._unblock_at(key, at_ms)
        self._dispatch()

    def _back_off_ms(self, key: RequestKey) -> int:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return int(min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2 ** min(failures, 10)) * 1000)

    def _unblock_at(self, key: RequestKey, at_ms: int) -> None:
        if self._run is None:
            return
        delay_s = max(0, at_ms - self._clock()) / 1000
        self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self._unblock, key)

    def _unblock(self, key: RequestKey) -> None:
        del self._timers[key]
        self._scheduler.unblock(key)
        self._dispatch()


def _of(key: RequestKey) -> dict[str, str]:
    return {"userId": key.user_id, "requestId": key.request_id}
