"""A connection to PostgreSQL and a task that runs jobs over it, in batches: all that were queued meanwhile."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import psycopg
from psycopg import AsyncConnection

from answerback.ports import Unavailable
from answerback.stores.jobs import Job, deliver, fail

W = TypeVar("W")

_MAX_BATCH: Final = 500
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_OPEN_TIMEOUT_S: Final = 1.0
"""Enough for the server to notice that a gateway which was killed is gone."""


class BatchConnection(Generic[W]):
    """Runs jobs in order, and connects again by itself when the connection was lost.

    While that does not succeed, jobs wait for up to `reconnect_timeout_s` and then end with Unavailable. `run` returns
    the jobs that certainly had no effect because the connection was lost: they are run once more, over the next
    connection. That a connection is lost is only noticed by using it.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[AsyncConnection[Any]]],
        run: Callable[[AsyncConnection[Any], Sequence[Job[W]]], Awaitable[Sequence[Job[W]]]],
        *,
        reconnect_timeout_s: float,
        max_queued: int,
    ) -> None:
        self._connect = connect
        self._run = run
        self._reconnect_timeout_s = reconnect_timeout_s
        self._max_queued = max_queued
        self._jobs: deque[Job[W]] = deque()
        self._has_work = asyncio.Event()
        self._connection: AsyncConnection[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    async def open(self) -> None:
        """Connect and start. Raises: Unavailable: no connection could be made, or another gateway has the lock."""
        self._connection = await self._connected(min(self._reconnect_timeout_s, _OPEN_TIMEOUT_S))
        self._task = asyncio.get_running_loop().create_task(self._work(), name="answerback-postgres")

    async def close(self) -> None:
        """Finish the jobs that were submitted, then disconnect."""
        self._is_closing = True
        self._has_work.set()
        if self._task is not None:
            await self._task
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):  # else the lock lasts until the server notices that we are gone
                await self._connection.execute("SELECT pg_advisory_unlock_all()")
            await self._connection.close()

    def submit(self, work: W) -> "asyncio.Future[Any]":
        """Queue a job; the future has its value. Raises: Unavailable: it is closed, or far behind."""
        if self._is_closing or self._task is None:
            raise Unavailable("the store is not open")
        if len(self._jobs) >= self._max_queued:
            raise Unavailable("too many operations are waiting for PostgreSQL")
        job = Job(work, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._has_work.set()
        return job.future

    async def _work(self) -> None:
        while True:
            await self._has_work.wait()
            if not self._jobs:
                if self._is_closing:
                    return
                self._has_work.clear()
                continue
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await self._connected(self._reconnect_timeout_s)
            except Exception as exc:  # also a StoreError: a newer program has been here meanwhile
                self._fail(exc)
                continue
            batch = [self._jobs.popleft() for _ in range(min(len(self._jobs), _MAX_BATCH))]
            repeat: list[Job[W]] = []
            try:
                repeat += [job for job in await self._run(self._connection, batch) if not job.is_repeated]
            except Exception as exc:  # no runner lets one out; if one did, callers would wait for ever
                await self._connection.close()
                fail(batch, "the store failed", exc)
            again = set(repeat)
            deliver([job for job in batch if job not in again] if again else batch)
            for job in repeat:
                job.is_repeated, job.error = True, None
            self._jobs.extendleft(reversed(repeat))

    async def _connected(self, reconnect_timeout_s: float) -> AsyncConnection[Any]:
        clock = asyncio.get_running_loop().time
        deadline = clock() + reconnect_timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._connect()
            except (psycopg.Error, Unavailable) as exc:
                may_pass = isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError | Unavailable)
                if not may_pass or clock() + pause_s > deadline:
                    raise Unavailable(str(exc)) from exc
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _fail(self, error: Exception) -> None:
        failed, self._jobs = self._jobs, deque()
        fail(failed, str(error), error)
        deliver(failed)
