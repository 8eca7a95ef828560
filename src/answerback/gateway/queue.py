"""The gateway's queue: in this process, rebuilt from the store at start.

It keeps no promise of its own across a crash: the records are the truth, and `restore` puts every unfinished one back
in the order accepted. Within a process it hands a request out until its worker says `Done`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from answerback.core.request import Record, RequestKey
from answerback.gateway.lanes import Lanes
from answerback.service.worker import Done, Retry
from answerback.tasks import Tasks

log = logging.getLogger("answerback.queue")

FIRST_BACK_OFF_S: Final = 1.0
LONGEST_BACK_OFF_S: Final = 30.0


class InProcessQueue:
    """`ports.Queue` over asyncio tasks. `slots`: concurrent runs for each model name. `clock`: epoch milliseconds."""

    def __init__(self, *, slots: Mapping[str, int], clock: Callable[[], int]) -> None:
        self._lanes = Lanes(slots)
        self._clock = clock
        self._run: Callable[[RequestKey], Awaitable[Done | Retry]] | None = None
        self._tasks = Tasks()
        self._timers: dict[RequestKey, asyncio.TimerHandle] = {}
        self._failures: dict[RequestKey, int] = {}

    @property
    def depth(self) -> int:
        """Requests that wait: in a lane, or for a retry."""
        return len(self._lanes) - self._lanes.running

    @property
    def running(self) -> int:
        """Requests that a worker runs now."""
        return self._lanes.running

    def __contains__(self, key: object) -> bool:
        """Whether the queue has this request: it waits or runs."""
        return key in self._lanes

    async def put(self, record: Record) -> None:
        """Queue a request; one that is queued or running already is left where it is."""
        if self._lanes.put(record.key, record.ordering_key, record.model):
            self._hand_out()

    async def forget(self, key: RequestKey) -> None:
        """Drop a request that waits; one that runs goes on, and one that waits for a retry comes to its end then."""
        if self._lanes.drop(key):
            self._hand_out()

    def restore(self, records: Iterable[Record]) -> None:
        """Queue every unfinished request of the store, given in the order accepted. Call it before `start`."""
        for record in records:
            self._lanes.put(record.key, record.ordering_key, record.model)

    def start(self, run: Callable[[RequestKey], Awaitable[Done | Retry]]) -> None:
        """Hand requests out to `run` from now on."""
        self._run = run
        self._hand_out()

    async def stop(self, *, grace_s: float) -> None:
        """Hand out nothing more, give the running ones `grace_s` to end, then cancel the rest and wait for them."""
        self._run = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._tasks.settle(grace_s=grace_s)

    def hurry(self) -> None:
        """Cut the grace of a stop short."""
        self._tasks.cancel()

    def _hand_out(self) -> None:
        run = self._run
        while run is not None and (key := self._lanes.take()) is not None:
            self._tasks.start(self._work(run, key), name="worker")

    async def _work(self, run: Callable[[RequestKey], Awaitable[Done | Retry]], key: RequestKey) -> None:
        try:
            outcome = await run(key)
        except asyncio.CancelledError:
            # Only a stop cancels: the record stays unfinished, and the next start takes it up.
            self._lanes.hold(key)
            raise
        except Exception:
            outcome = Retry(self._clock() + self._back_off_ms(key))
            log.exception("a worker failed; the request is tried again", extra=_of(key))
        else:
            self._failures.pop(key, None)
        match outcome:
            case Done():
                self._lanes.done(key)
            case Retry(at_ms=at_ms):
                self._lanes.hold(key)
                self._release_at(key, at_ms)
        self._hand_out()

    def _back_off_ms(self, key: RequestKey) -> int:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return int(min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2 ** min(failures, 10)) * 1000)

    def _release_at(self, key: RequestKey, at_ms: int) -> None:
        if self._run is None:
            return
        delay_s = max(0, at_ms - self._clock()) / 1000
        self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self._release, key)

    def _release(self, key: RequestKey) -> None:
        del self._timers[key]
        self._lanes.release(key)
        self._hand_out()


def _of(key: RequestKey) -> dict[str, str]:
    return {"userId": key.user_id, "requestId": key.request_id}
