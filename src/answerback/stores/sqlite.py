"""The default store: one SQLite file.

    event loop --- writes --> writer thread: BEGIN, all queued operations, COMMIT (one fsync), results --> event loop
        |
        +--------- reads ---> reader thread, a connection of its own (WAL: readers and the writer do not wait)

A write's result reaches its caller only after the COMMIT that made it durable. Operations on different requests share
their statements (statement_batching.py). If an operation of a batch fails by itself, the batch is rolled back and its
operations are run again, each in a transaction of its own.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

from filelock import Timeout

from answerback.clock import epoch_ms
from answerback.core.request import RequestKey
from answerback.file_lock import process_lock
from answerback.ports import Unavailable
from answerback.stores.errors import StoreError, StoreInUse
from answerback.stores.jobs import Job, fail
from answerback.stores.migrations import Migration, migrate, shipped
from answerback.stores.query import Operation, Read, Result, Write
from answerback.stores.request_operations import load
from answerback.stores.sqlite_writer import BatchThread
from answerback.stores.statement_batching import UPDATE_FROM, NotBatchable, OperationChain, run_batched
from answerback.stores.store import SqlStore
from answerback.stores.writer_state import WriterState

T = TypeVar("T")

CAUSES: Final[Mapping[int, str]] = MappingProxyType(
    {
        sqlite3.SQLITE_BUSY: "the database file is locked by another program; close it",
        sqlite3.SQLITE_LOCKED: "the database file is locked by another program; close it",
        sqlite3.SQLITE_PROTOCOL: "the database file is locked by another program; close it",
        sqlite3.SQLITE_FULL: "the disk is full; free some space",
        sqlite3.SQLITE_IOERR: "the disk cannot be read or written; check it and its free space",
        sqlite3.SQLITE_READONLY: "the database file is read-only; make it and its folder writable",
        sqlite3.SQLITE_PERM: "access to the database file was refused; make it and its folder writable",
        sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened; check that its folder exists and is writable",
        sqlite3.SQLITE_NOMEM: "out of memory",
        sqlite3.SQLITE_CORRUPT: "the database file is damaged; stop the gateway and restore a copy",
        sqlite3.SQLITE_NOTADB: "the file is not an SQLite database; stop the gateway and restore a copy",
    }
)
"""Primary result codes of SQLite (sqlite.org/rescode.html) that are states of the world, not mistakes of ours."""


_HARMLESS: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CONSTRAINT})
"""After these a rolled back transaction certainly left nothing behind."""


def cause_of(error: BaseException) -> str | None:
    """What an operator can do about it; None if the error is not one of the database's environment."""
    return CAUSES.get(_primary_code(error))


def _primary_code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF


class _KeyedWrite(NamedTuple):
    key: RequestKey | None
    operation: Write[Any]


class SqliteStore(SqlStore):
    """A store in the file `path`. One process uses a file at a time; the lock is `<path>.lock`.

    `busy_timeout_s`: how long a write waits for another program that has locked the file, before Unavailable.
    `max_queued`: operations that may wait; more raise Unavailable at once.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 5.0, max_queued: int = 100_000) -> None:
        super().__init__()
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._max_queued = max_queued
        # In a file of its own: closing a database file would drop a lock on the file itself.
        self._lock = process_lock(path.with_name(path.name + ".lock"))
        self._opened: _Opened | None = None

    async def open(self) -> None:
        writer, reader = await asyncio.to_thread(self._open)
        self._opened = _Opened(
            writer=writer,
            reader=reader,
            writes=BatchThread("answerback-writer", writer.run, max_queued=self._max_queued),
            reads=BatchThread("answerback-reader", reader.run, max_queued=self._max_queued),
        )

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.writes.stop()
            await self._opened.reads.stop()
            self._opened.reader.close()
            self._opened.writer.close()
            self._lock.release()

    def _open(self) -> "tuple[_Writer, _Reader]":
        opened: list[_Writer | _Reader] = []
        try:
            os.stat(self._path.parent)  # the lock would make the folder, readable by everybody
            self._lock.acquire()
            # Conversations are private: SQLite gives its other files the mode of this one.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            connect_to = partial(connect, self._path, busy_timeout_s=self._busy_timeout_s)
            opened.append(writer := _Writer(connect_to))
            writer.open()
            opened.append(reader := _Reader(connect_to()))
        except BaseException as exc:
            for part in opened:
                part.close()
            self._lock.release()
            raise _cannot_open(self._path, exc) from exc
        return writer, reader

    async def _write(self, user_id: str | None, operation: Write[T], *, key: RequestKey | None = None) -> T:
        if self._opened is None:
            raise Unavailable("the store is not open")
        result: T = await self._opened.writes.submit(_KeyedWrite(key, operation))
        return result

    async def _read(self, operation: Read[T]) -> T:
        if self._opened is None:
            raise Unavailable("the store is not open")
        result: T = await self._opened.reads.submit(operation)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    writer: "_Writer"
    reader: "_Reader"
    writes: BatchThread[_KeyedWrite]
    reads: BatchThread[Read[Any]]


def _cannot_open(path: Path, error: BaseException) -> BaseException:
    if isinstance(error, Timeout):
        return StoreInUse(
            f"Another gateway uses {path}. Stop it, or give this one a data folder of its own with --data-dir."
        )
    if isinstance(error, OSError):
        return StoreError(
            f"{path} cannot be opened for writing ({error.strerror}). Make it and its folder writable for this user."
        )
    if isinstance(error, sqlite3.Error):
        return StoreError(f"{path} cannot be used: {cause_of(error) or error}.")
    return error


class _Reader:
    """The reading connection. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._connection.execute("PRAGMA query_only = 1")

    def close(self) -> None:
        self._connection.close()

    def run(self, jobs: Sequence[Job[Read[Any]]]) -> None:
        """Run reads; every job then has a value or an error."""
        for job in jobs:
            if job.future.cancelled():
                continue
            try:
                job.value = run(self._connection, job.work())
            except Exception as exc:
                job.error = unavailable(exc) or exc


class _Writer:
    """The writing connection and its state. Used by one thread at a time."""

    def __init__(self, connect_to: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect_to
        self._connection: sqlite3.Connection | None = None
        self._state: WriterState | None = None

    def open(self) -> None:
        """Bring the tables up to date and read the writer's state."""
        self._connection = self._connect()
        apply_migrations(self._connection, shipped(), now_ms=epoch_ms())
        self._state = self._load(self._connection)

    def close(self) -> None:
        """Close the connection; SQLite then writes the log back into the file."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def run(self, jobs: Sequence[Job[_KeyedWrite]]) -> None:
        """Run a batch; every job then has a value that is durable, or an error."""
        error = self._transact(jobs, may_batch=len(jobs) > 1 and sqlite3.sqlite_version_info >= UPDATE_FROM)
        if isinstance(error, NotBatchable):
            error = self._transact(jobs, may_batch=False)
        if error is None:
            return
        if (why := cause_of(error)) is not None:
            fail(jobs, why, error)
        elif len(jobs) == 1:
            jobs[0].value, jobs[0].error = None, error
        else:  # one of them is at fault: its neighbours must not suffer
            for job in jobs:
                self.run([job])

    def _transact(self, jobs: Sequence[Job[_KeyedWrite]], *, may_batch: bool) -> Exception | None:
        try:
            if self._connection is None:
                self._connection = self._connect()
            if self._state is None:
                self._state = self._load(self._connection)
            self._connection.execute("BEGIN IMMEDIATE")
            if may_batch and all(job.work.key for job in jobs):
                _run_batched(self._connection, self._state, jobs)
            else:
                for job in jobs:
                    job.value = run(self._connection, job.work.operation(self._state))
            self._connection.execute("COMMIT")
            self._state.commit()
        except Exception as exc:
            self._undo(exc)
            return exc
        return None

    def _undo(self, error: Exception) -> None:
        is_certain = True
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            is_certain = False
        if isinstance(error, sqlite3.Error) and _primary_code(error) not in _HARMLESS:
            is_certain = False
        if not is_certain:  # what a failing disk has kept is not known: begin again from what can be read
            self.close()
            self._state = None
        elif self._state is not None:
            self._state.rollback()

    @staticmethod
    def _load(connection: sqlite3.Connection) -> WriterState:
        state = WriterState()
        run(connection, load(state))
        return state


def connect(path: Path, *, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection in the mode that all of this relies on: every commit is on the disk when it returns."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, cached_statements=128
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def apply_migrations(connection: sqlite3.Connection, migrations: Sequence[Migration], *, now_ms: int) -> int:
    """Apply what is missing; of several processes that do so at once, one does and the others wait for it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        applied = run(connection, migrate(migrations, now_ms=now_ms))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return applied


def run(connection: sqlite3.Connection, operation: Operation[T]) -> T:
    """Run an operation's queries, one after the other."""
    execute = connection.execute
    try:
        queries = next(operation)
        while True:
            results = []
            for sql, params in queries:
                cursor = execute(sql, params)
                results.append(Result(cursor.fetchall(), cursor.rowcount))
            queries = operation.send(results)
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome


def _run_batched(connection: sqlite3.Connection, state: WriterState, jobs: Sequence[Job[_KeyedWrite]]) -> None:
    """Run the operations of different requests side by side."""
    chains: dict[RequestKey | None, OperationChain] = {}
    for job in jobs:
        key, operation = job.work
        if (chain := chains.get(key)) is None:
            chain = chains[key] = OperationChain(len(chains))
        chain.add(partial(operation, state))
    run_batched(connection.execute, chains.values())
    for job in jobs:
        job.value = chains[job.work.key].outcomes.popleft()


def unavailable(error: BaseException) -> Unavailable | None:
    """The port's error for one that the database's environment caused; None for a mistake of ours."""
    why = cause_of(error)
    if why is None:
        return None
    lost = Unavailable(why)
    lost.__cause__ = error
    return lost
