"""A database as the stores use it, and the threads that its connections live in."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from answerback.ports import Unavailable
from answerback.stores.statements import Params, Row

T = TypeVar("T")


class Cursor(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchall(self) -> list[Row]: ...


class Database(Protocol):
    """One connection. Any error that it raises may have ended it."""

    def execute(self, sql: str, params: Params | None = None, /) -> Cursor: ...

    def executemany(self, sql: str, rows: Sequence[Row], /) -> Cursor:
        """Run a statement with `?` for each row."""

    def together(self) -> AbstractContextManager[Any]:
        """What is run inside may be sent at once; the counts of rows are there after it."""

    def begin(self) -> None: ...

    def commit(self) -> None: ...

    def close(self) -> None:
        """Give up what was not committed. Raises nothing."""

    def cause_of(self, error: BaseException) -> str | None:
        """As Connector.cause_of."""

    @property
    def is_lost(self) -> bool:
        """Whether the server has ended the connection. What was not committed then had no effect."""


Done: TypeAlias = Callable[[Any, Exception | None], None]


class DatabaseThread:
    """A thread that runs work in order, and tells the event loop what came of it."""

    is_inline: Final = False

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], Any], done: Done) -> None:
        """Run `work` behind what was submitted before; `done` gets its value or its error."""
        self._queue.put((work, done))

    async def stop(self) -> None:
        """Return when everything that was submitted is done."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            work, done = job
            value, error = run(work)
            try:
                self._loop.call_soon_threadsafe(done, value, error)
            except RuntimeError:  # the loop was closed without `stop`: nobody waits any more
                return


def run(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """The value of `work`, or its error."""
    try:
        return work(), None
    except Exception as exc:
        return None, exc


class Inline:
    """Runs work at once, where it is submitted: for a database in memory, which nobody waits for."""

    is_inline: Final = True

    def submit(self, work: Callable[[], Any], done: Done) -> None:
        done(*run(work))

    async def stop(self) -> None:
        """Nothing is left to do."""


class Connector(Protocol):
    """Makes the connections of a store. To connect blocks."""

    def cause_of(self, error: BaseException) -> str | None:
        """What happened, for the operator; None if the error is not one of the database's environment."""

    def connect_writer(self) -> Database:
        """A connection that alone may write, with the tables up to date. Raises: Unavailable, StoreError."""

    def connect_reader(self) -> Database:
        """A connection to read. Raises: Unavailable, StoreError."""


class Reader:
    """A reading connection and its thread."""

    def __init__(self, connector: Connector, thread: "DatabaseThread | Inline") -> None:
        self._connector = connector
        self._thread = thread
        self._database: Database | None = None

    async def read(self, function: Callable[[Database], T]) -> T:
        """What `function` returns. Raises: Unavailable."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._thread.submit(partial(self._run, function), partial(_resolve, future))
        return await future

    def _run(self, function: Callable[[Database], T], *, is_repeated: bool = False) -> T:
        if self._database is None:
            self._database = self._connector.connect_reader()
        database = self._database
        try:
            return function(database)
        except Exception as exc:
            if (why := self._connector.cause_of(exc)) is None:
                raise
            if database.is_lost:
                self._close()
                if not is_repeated:  # it is noticed only now; to read twice is harmless
                    return self._run(function, is_repeated=True)
            raise Unavailable(why) from exc

    async def close(self) -> None:
        """Finish what was called before."""
        self._thread.submit(self._close, lambda *_: None)
        await self._thread.stop()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _resolve(future: "asyncio.Future[T]", value: T, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
