"""A database as the stores use it: its connections, each in a thread of its own, and their errors in our terms."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar, Final, Protocol, TypeAlias, TypeVar

from answerback.ports import Unavailable
from answerback.stores.statements import Params, Row

T = TypeVar("T")


class StoreError(Exception):
    """The store cannot be opened, or holds what this program cannot read. The text says what the operator has to do."""


class StoreInUse(StoreError):
    """Another process has the store; it alone may write."""


class Undone(Unavailable):
    """The server ended the connection or the transaction: the work certainly had no effect, and may be tried again."""


class Cursor(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchall(self) -> list[Row]: ...


class Database(Protocol):
    """One connection."""

    BEGIN: ClassVar[str]
    """The statement that begins a transaction to write in."""

    def execute(self, sql: str, params: Params = ..., /) -> Cursor: ...

    def executemany(self, sql: str, rows: Sequence[Row], /) -> Cursor:
        """Run a statement with `?` for each row."""

    def together(self) -> AbstractContextManager[Any]:
        """What is run inside may be sent at once; the counts of rows are there after it."""

    def commit(self) -> None: ...

    def clear_log(self) -> bool:
        """Take what was deleted out of the log that the database keeps beside it. False: not now, somebody reads it."""

    def close(self) -> None:
        """Give up what was not committed. Raises nothing."""

    def cause_of(self, error: BaseException) -> str | None:
        """What happened, for the operator; None if the error is not one of the database's environment."""

    def is_undone(self, error: BaseException) -> bool:
        """Whether the server has ended the connection, or this transaction so that others go on: it had no effect."""


class Connector(Protocol):
    """Makes the connections of a store. Its methods block. Raises: Unavailable, StoreError."""

    def connect_writer(self) -> Database:
        """A connection that alone may write, with the tables up to date."""

    def connect_reader(self) -> Database:
        """A connection to read."""


Done: TypeAlias = Callable[[Any, Exception | None], None]


class Connection:
    """A connection, made when it is needed, and the thread that alone uses it. After Unavailable the next one is made.

    Without a `name` there is no thread: work is done where it is submitted, for a database in memory.
    """

    def __init__(self, connect: Callable[[], Database], name: str | None) -> None:
        self._connect = connect
        self._database: Database | None = None
        self.waiting = 0
        """Reads that are not done."""
        self._queue: queue.SimpleQueue[tuple[Callable[[Database], Any], Done] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.is_inline: Final = name is None
        """Whether work is done where it is submitted."""
        if name is not None:
            self._thread = threading.Thread(
                target=self._work, args=(asyncio.get_running_loop(),), name=name, daemon=True
            )
            self._thread.start()

    def submit(self, work: Callable[[Database], Any], done: Done) -> None:
        """Run `work` behind what was submitted before; `done` gets its value or its error, on the event loop."""
        if self._thread is None:
            done(*self._run(work))
        else:
            self._queue.put((work, done))

    async def read(self, function: Callable[[Database], T]) -> T:
        """What `function` returns. Raises: Unavailable."""

        def once() -> "asyncio.Future[T]":
            future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            self.waiting += 1
            self.submit(partial(in_our_terms, function), partial(self._read, future))
            return future

        return await once_more(once)  # that a connection is lost is only noticed by using it

    def _read(self, future: "asyncio.Future[T]", value: T, error: Exception | None) -> None:
        self.waiting -= 1
        if not future.done():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    async def close(self) -> None:
        """Finish what was submitted, then disconnect."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._queue.get()) is not None:
            work, done = job
            try:
                loop.call_soon_threadsafe(done, *self._run(work))
            except RuntimeError:  # the loop was closed without `close`: nobody waits any more
                return

    def _run(self, work: Callable[[Database], T]) -> tuple[T | None, Exception | None]:
        try:
            if self._database is None:
                self._database = self._connect()
            return work(self._database), None
        except Exception as exc:
            if isinstance(exc, Unavailable):
                self._disconnect()
            return None, exc


def in_our_terms(function: Callable[[Database], T], database: Database) -> T:
    """What `function` returns. Raises: Unavailable, for an error of the database's environment."""
    try:
        return function(database)
    except Exception as exc:
        if (why := database.cause_of(exc)) is None:
            raise
        raise (Undone if database.is_undone(exc) else Unavailable)(why) from exc


async def once_more(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns; it is called again if its first call certainly had no effect."""
    try:
        return await attempt()
    except Undone:
        return await attempt()
