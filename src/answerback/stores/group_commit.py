"""Group commit: what is decided in memory meanwhile is written in one transaction, by one thread.

    decide ──► state (memory) and batch ──► writer's thread: BEGIN · rows · COMMIT ──► the callers return
                          ▲                                                       │
                          └── the next batch gathers while this one is written ◄──┘

The state is ahead of the disk, answers never are: a call returns after the COMMIT that has its write and all that it
rests on. Batches are written in order. When one fails the state is thrown away, with all that was decided upon it, and
is read again.
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from answerback.core.request import RequestKey
from answerback.ports import Unavailable
from answerback.stores import statements as sql
from answerback.stores.database import Connection, Database, Undone, in_our_terms, once_more
from answerback.stores.writer_state import Tracked, WriterState
from answerback.stores.writes import Call, Rows

T = TypeVar("T")


class Batch:
    """What gathers for one transaction, and those who wait for its COMMIT."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: list[asyncio.Future[None]] = []
        self.accepted: list[Tracked] = []
        self.ended: list[Tracked] = []
        self._steps: list[Rows | Call[Any]] = []

    def rows(self) -> Rows:
        """Where rows are put that come now: behind every rare write so far."""
        if not self._steps or not isinstance(last := self._steps[-1], Rows):
            self._steps.append(last := Rows())
        return last

    def call(self, function: Callable[[Database], T]) -> Call[T]:
        """Add a rare write, behind everything so far."""
        call = Call(function)
        self._steps.append(call)
        return call

    def write(self, database: Database) -> None:
        """Write everything in order and commit. Raises: Undone: it has no effect. Unavailable: nobody knows."""
        try:
            if self._steps:
                database.begin()
                for step in self._steps:
                    step.run(database)
        except Exception as exc:
            why = database.cause_of(exc) or "the store failed"
            raise (Undone if database.is_undone(exc) else Unavailable)(why) from exc
        try:
            database.commit()
        except Exception as exc:  # whether it took effect, and what a failing disk has kept, is not known
            raise Unavailable(database.cause_of(exc) or "the store failed") from exc


class GroupCommit:
    """The state of a store and the way from it to the disk. `max_queued`: writes that may wait."""

    def __init__(self, *, max_queued: int) -> None:
        self._max_queued = max_queued
        self._connection: Connection | None = None
        self._state: WriterState | None = None
        self._loading: asyncio.Future[Exception | None] | None = None
        self.batch = Batch(1)
        self._written = 0
        self._is_busy = False
        self.last_write_failed = False

    def start(self, connection: Connection) -> None:
        """Begin, over a connection that `close` closes."""
        self._connection = connection

    async def open(self) -> None:
        """Connect and read the state. Raises: StoreError, Unavailable."""
        if (error := await self._load()) is not None:
            raise error

    async def close(self) -> None:
        """Finish what was called before."""
        while self.batch.waiting or self._is_busy:
            await asyncio.gather(self.commit(), return_exceptions=True)
        if (connection := self._connection) is not None:
            self._connection, self._state = None, None
            await connection.close()

    # --- the state

    @property
    def tracked(self) -> Mapping[RequestKey, Tracked]:
        """The requests in memory; none while the state has to be read again."""
        return {} if self._state is None else self._state.tracked

    async def state(self) -> WriterState:
        """The state, to decide upon. Between this and `commit` nothing else may be awaited.

        Raises: Unavailable: it cannot be read now, or too much is waiting.
        """
        while (state := self._state) is None:
            if (error := await self._load()) is not None:
                self.last_write_failed = True
                raise own(error)
        if len(self.batch.waiting) >= self._max_queued:
            self.last_write_failed = True
            raise Unavailable("too many operations are waiting for the disk")
        return state

    async def _load(self) -> Exception | None:
        """Read the state, once for all who want it. Returns why it cannot be read."""
        if (loading := self._loading) is None:
            connection = self._opened()
            loading = self._loading = asyncio.get_running_loop().create_future()
            connection.submit(partial(in_our_terms, _load), partial(self._loaded, loading))
        if not loading.done():
            await asyncio.wait([loading])  # whoever is cancelled here stops nobody else
        return loading.result()

    def _loaded(
        self, loading: "asyncio.Future[Exception | None]", state: WriterState | None, error: Exception | None
    ) -> None:
        self._state, self._loading = state, None
        loading.set_result(error)

    # --- the batch

    async def call(self, function: Callable[[Database], T], note: Callable[[WriterState], object] = bool) -> T:
        """Do a rare write, and return what it returned when that is on the disk. `note` changes the state."""

        async def decide() -> T:
            note(await self.state())
            call = self.batch.call(function)
            await self.commit()
            return call.result()

        return await once_more(decide)

    async def alone(self, function: Callable[[Database], T]) -> T:
        """Do what is done outside of a transaction, behind what is being written. Raises: Unavailable."""
        return await self._opened().read(function)

    async def written(self, tracked: Tracked) -> None:
        """Return when the newest record of a request is on the disk. Raises: as `commit`."""
        if tracked.written_in > self._written:
            await self.commit()

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._is_busy and not self.batch.waiting

    def _opened(self) -> Connection:
        if self._connection is None:
            raise Unavailable("the store is not open")
        return self._connection

    def commit(self) -> "asyncio.Future[None]":
        """Commit everything that was decided so far.

        The future raises Unavailable: it may be on the disk or not. Undone: it is not.
        """
        loop, connection = asyncio.get_running_loop(), self._opened()
        future: asyncio.Future[None] = loop.create_future()
        self.batch.waiting.append(future)
        if connection.is_inline:
            self._send()
        elif len(self.batch.waiting) == 1 and not self._is_busy:
            loop.call_soon(self._send)  # with whatever else is decided in this turn of the loop
        return future

    def _send(self) -> None:
        batch, self.batch = self.batch, Batch(self.batch.number + 1)
        self._is_busy = True
        self._opened().submit(batch.write, partial(self._sent, batch))

    def _sent(self, batch: Batch, _: None, error: Exception | None) -> None:
        """A batch is on the disk, or has failed. Wake its callers, and go on with the next one."""
        self._is_busy = False
        self.last_write_failed = error is not None
        if error is None:
            self._written = batch.number
            self._settle(batch)
            _notify(batch, None)
            if self.batch.waiting:  # callers that wake now may have more for it
                asyncio.get_running_loop().call_soon(self._send)
            return
        self._state = None
        gathered, self.batch = self.batch, Batch(self.batch.number + 1)
        _notify(batch, error)
        _notify(gathered, Undone(str(error)))

    def _settle(self, batch: Batch) -> None:
        state = self._state
        assert state is not None
        for tracked in batch.accepted:
            tracked.is_stored = True
            if tracked.is_taken:
                state.forget(tracked)
                state.book.take_back(tracked.record)
                if tracked.counted_at_ms is not None:
                    state.count(tracked.record.user_id, tracked.counted_at_ms, -1)
        for tracked in batch.ended:
            state.forget(tracked)


def _load(database: Database) -> WriterState:
    database.execute(sql.NAME_STORE, {"value": str(uuid.uuid4())})
    return WriterState.load(database)


def _notify(batch: Batch, error: Exception | None) -> None:
    for future in batch.waiting:
        if future.done():  # its caller was cancelled; what it asked for happened all the same
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(own(error))


def own(error: Exception) -> Unavailable:
    """An Unavailable for one that waits: a shared one would collect the tracebacks of all."""
    mine = (Undone if isinstance(error, Undone) else Unavailable)(str(error))
    mine.__cause__ = error
    return mine
