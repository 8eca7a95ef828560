"""A thread that runs jobs in batches: all that were queued while the last batch ran."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from answerback.ports import Unavailable
from answerback.stores.jobs import Job, deliver, fail

W = TypeVar("W")

_MAX_BATCH: Final = 1000


class BatchThread(Generic[W]):
    """Runs jobs in order. The event loop is woken once a batch, not once a job."""

    def __init__(self, name: str, run: Callable[[Sequence[Job[W]]], None], *, max_queued: int) -> None:
        self._run = run
        self._max_queued = max_queued
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job[W] | None] = queue.SimpleQueue()
        self._stopped = self._loop.create_future()
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: W) -> "asyncio.Future[Any]":
        """Queue a job; the future has its value. Raises: Unavailable: the thread is closing, or far behind."""
        if self._is_closing:
            raise Unavailable("the store is closed")
        if self._queue.qsize() >= self._max_queued:
            raise Unavailable("too many operations are waiting for the disk")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(Job(work, future))
        return future

    async def stop(self) -> None:
        """Return when all jobs that were submitted are done and the thread has ended."""
        if not self._is_closing:
            self._is_closing = True
            self._queue.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    def _work(self) -> None:
        is_closing = False
        while not is_closing:
            jobs: list[Job[W]] = []
            job = self._queue.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == _MAX_BATCH:
                    break
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
            is_closing = job is None
            if jobs:
                try:
                    self._run(jobs)
                except Exception as exc:  # no runner lets one out; if one did, callers would wait for ever
                    fail(jobs, "the store failed", exc)
                self._call(deliver, jobs)
        self._call(self._stopped.set_result, None)

    def _call(self, function: Callable[..., None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:  # the loop was closed without `stop`: nobody waits any more
            pass
