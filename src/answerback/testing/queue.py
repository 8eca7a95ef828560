"""A FIFO queue in memory, like SQS FIFO: an ordered queue for each key, at least once, crashes, redelivery."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from answerback.core.request import Record, RequestKey
from answerback.service.attempt import Done, Retry


class LaneQueue:
    """ports.Queue. Dispatches requests to `run`, one at a time for each ordering key: its public name calls the ordered
    queue of a key a lane.

    A put under a key and number that were put before is dropped (de-duplication). `crash` kills the worker of a request
    in mid-run. The request is redelivered after `visibility_s`.
    """

    def __init__(
        self,
        run: Callable[[RequestKey], Awaitable[Done | Retry]],
        *,
        clock: Callable[[], int],
        visibility_s: float = 20.0,
    ) -> None:
        self._run = run
        self._clock = clock
        self._visibility_s = visibility_s
        self._ordered: dict[str, deque[RequestKey]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[RequestKey, asyncio.Task[Done | Retry]] = {}
        self._put_before: set[tuple[RequestKey, int]] = set()
        self.handed_out: list[RequestKey] = []

    async def put(self, record: Record) -> None:
        entry = (record.key, record.queue_no)
        if entry in self._put_before:
            return
        self._put_before.add(entry)
        waiting = self._ordered.setdefault(record.ordering_key, deque())
        waiting.append(record.key)
        if record.ordering_key not in self._tasks:
            task = asyncio.create_task(self._serve(record.ordering_key))
            self._tasks[record.ordering_key] = task

    async def forget(self, key: RequestKey) -> None:
        """Does nothing, as SQS cannot forget a message."""

    async def idle(self) -> None:
        """Wait until every ordered queue is empty."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def crash(self, key: RequestKey) -> bool:
        """Kill the worker that runs this request now; false if none does."""
        task = self._runs.get(key)
        return task is not None and task.cancel()

    async def stop(self) -> None:
        """Kill everything."""
        tasks = [*self._tasks.values(), *self._runs.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _serve(self, ordering_key: str) -> None:
        waiting = self._ordered[ordering_key]
        try:
            while waiting:
                key = waiting[0]
                self.handed_out.append(key)
                task = self._runs[key] = asyncio.ensure_future(self._run(key))
                await asyncio.wait([task])
                del self._runs[key]
                if task.cancelled():
                    await asyncio.sleep(self._visibility_s)
                    continue
                outcome = task.result()
                if isinstance(outcome, Retry):
                    await asyncio.sleep(max(0, outcome.at_ms - self._clock()) / 1000)
                    continue
                waiting.popleft()
        finally:
            del self._ordered[ordering_key]
            del self._tasks[ordering_key]
