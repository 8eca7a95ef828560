"""The default store: one SQLite file. Also in memory, for tests and simulations: the same store, run inline."""

import asyncio
import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar

from answerback.clock import epoch_ms
from answerback.core.parts import Content
from answerback.core.request import Record, RequestKey
from answerback.ports import Unavailable
from answerback.stores.database import StoreError, StoreInUse
from answerback.stores.encoding import content_of, decode_record
from answerback.stores.migrations import Migration, apply, shipped
from answerback.stores.store import SqlStore

D = TypeVar("D", bound="SqliteDatabase")

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


class FilesGone(Exception):
    """The database or its log was removed, or another file put in its place: what is written now would be lost."""

    WHAT: Final = "the database file or its log was removed or replaced; stop the gateway, and start it again"


def cause_of(error: BaseException) -> str | None:
    """What an operator can do about it; None if the error is not one of the database's environment."""
    if isinstance(error, FilesGone):
        return FilesGone.WHAT
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return CAUSES.get(code & 0xFF)


class SqliteDatabase(sqlite3.Connection):
    """A connection, as the stores use it. `files`: which must stay where they are, with the inode of each."""

    files: Sequence[tuple[str, int]] = ()
    on_gone: Callable[[], None] = staticmethod(lambda: None)
    cause_of = staticmethod(cause_of)
    together = contextlib.nullcontext
    BEGIN: ClassVar = "BEGIN IMMEDIATE"

    def commit(self) -> None:
        for path, inode in self.files:
            try:
                is_there = os.stat(path).st_ino == inode
            except FileNotFoundError:
                is_there = False
            if not is_there:
                self.on_gone()
                self.rollback()
                self.clear_log()  # of the log that this connection has: what was promised so far gets into the database
                raise FilesGone
        super().commit()

    def clear_log(self) -> bool:
        ((waits_ms,),) = self.execute("PRAGMA busy_timeout").fetchall()
        self.execute("PRAGMA busy_timeout = 100")  # all writes wait for this one
        try:
            ((is_busy, *_),) = self.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self.execute(f"PRAGMA busy_timeout = {waits_ms}")
        return not is_busy

    def is_undone(self, _: BaseException) -> bool:
        return False

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            super().close()  # SQLite then writes the log back into the file


class MemoryDatabase(SqliteDatabase):
    """A connection that is all there is of its database. It lives as long as somebody holds it."""

    def close(self) -> None:
        self.rollback()

    def __del__(self) -> None:
        super().close()  # Python 3.13 warns of one that nobody closes


class _File:
    """The connector to a file."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._is_migrated = False
        self._is_gone = False

    def connect_writer(self) -> SqliteDatabase:
        connection = self._connected(self._migrate)
        names = (str(self._path), f"{self._path}-wal")  # while a connection is open SQLite removes none of them
        connection.files = [(name, os.stat(name).st_ino) for name in names if os.path.exists(name)]
        connection.on_gone = self._gone
        return connection

    def connect_reader(self) -> SqliteDatabase:
        return self._connected(lambda connection: connection.execute("PRAGMA query_only = 1"))

    def _connected(self, prepare: Callable[[SqliteDatabase], object]) -> SqliteDatabase:
        if self._is_gone:
            raise Unavailable(FilesGone.WHAT)
        try:
            connection = connect(self._path, busy_timeout_s=self._busy_timeout_s)
            try:
                prepare(connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as exc:
            raise Unavailable(cause_of(exc) or str(exc)) from exc
        return connection

    def _gone(self) -> None:
        """Another connection would begin a log of its own, so there is none from here on."""
        self._is_gone = True

    def _migrate(self, connection: SqliteDatabase) -> None:
        if not self._is_migrated:
            apply_migrations(connection, shipped(), now_ms=epoch_ms())
            self._is_migrated = True


class SqliteStore(SqlStore):
    """A store in the file `path`. One process uses a file at a time.

    Two locks see to that. `<path>.lock` works everywhere, and can be removed. The lock of the file itself cannot, and
    Linux keeps it apart from the locks that SQLite takes on the file.

    `busy_timeout_s`: how long a write waits for another program that has locked the file, before Unavailable.
    `max_queued`: writes that may wait; more raise Unavailable at once.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 5.0, max_queued: int = 100_000) -> None:
        from answerback.file_lock import process_lock  # noqa: PLC0415 - what uses memory alone has no package for it

        super().__init__(_File(path, busy_timeout_s=busy_timeout_s), max_queued=max_queued)
        self._path = path = path.resolve()  # one file by two links is one file
        self._lock = process_lock(path.with_name(path.name + ".lock"))
        self._file: int | None = None
        """Open as long as the store is: to close it drops the locks that SQLite has on the file."""

    async def open(self) -> None:
        try:
            await asyncio.to_thread(self._take)
            await super().open()
        except BaseException as exc:
            self._release()
            raise _cannot_open(self._path, exc) from exc

    def _take(self) -> None:
        os.stat(self._path.parent)  # the lock would make the folder, readable by everybody
        self._lock.acquire()
        self._check_whole()
        # Conversations are private: SQLite gives its other files the mode of this one.
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        if sys.platform == "linux":
            import fcntl  # noqa: PLC0415 - not on Windows

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise TimeoutError from exc

    def _check_whole(self) -> None:
        """Raises: StoreError: the file is gone, and its log is there. SQLite would begin again without a word."""
        log = Path(f"{self._path}-wal")
        has_log = log.exists() and log.stat().st_size > 0
        if has_log and not (self._path.exists() and self._path.stat().st_size > 0):
            raise StoreError(
                f"{self._path} is missing or empty, and its log {log.name} is not: the database is damaged. Restore a "
                f"copy. To begin with an empty database, move {log.name} away."
            )

    async def close(self) -> None:
        await super().close()
        self._release()

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._lock.release()


class _Memory:
    """The connector to a database in memory, which has one connection."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    def connect_writer(self) -> MemoryDatabase:
        return self._database

    connect_reader = connect_writer


@lru_cache(maxsize=1)
def _empty() -> SqliteDatabase:
    """A database with the tables of this version, to be copied: to make them takes longer."""
    database = _connect(":memory:", MemoryDatabase)
    apply_migrations(database, shipped(), now_ms=0)
    return database


class MemoryStore(SqlStore):
    """A store that survives nothing, for tests and simulations. Its calls never wait, so each is atomic.

    `records` and `answers` are there to be looked at.
    """

    def __init__(self, kind: type[MemoryDatabase] = MemoryDatabase) -> None:
        self._database = _connect(":memory:", kind)
        _empty().backup(self._database)
        super().__init__(_Memory(self._database))
        self._start()

    async def open(self) -> None:
        """It is open from the beginning."""

    @property
    def records(self) -> Mapping[RequestKey, Record]:
        """Every record, in the order accepted."""
        rows = self._database.execute("SELECT record, record_schema FROM requests WHERE forgotten IS NULL ORDER BY n")
        return {record.key: record for record in (decode_record(*row) for row in rows)}

    @property
    def answers(self) -> Mapping[RequestKey, Content]:
        """The answer of every ended request that was accepted."""
        rows = self._database.execute(
            "SELECT user_id, request_id, answer, marks FROM requests "
            "WHERE answer IS NOT NULL AND forgotten IS NULL ORDER BY n"
        )
        return {RequestKey(user_id, request_id): content_of(*answer) for user_id, request_id, *answer in rows}


def _cannot_open(path: Path, error: BaseException) -> BaseException:
    if isinstance(error, TimeoutError):  # the lock's
        return StoreInUse(
            f"Another gateway uses {path}. Stop it, or give this one a data folder of its own with --data-dir."
        )
    if isinstance(error, OSError):
        return StoreError(
            f"{path} cannot be opened for writing ({error.strerror}). Make it and its folder writable for this user."
        )
    if isinstance(error, Unavailable):
        return StoreError(f"{path} cannot be used: {error}.")
    return error


def connect(path: Path, *, busy_timeout_s: float) -> SqliteDatabase:
    """A connection in the mode that all of this relies on: every commit is on the disk when it returns.

    What is deleted is overwritten, so that an erased text is nowhere in the file.
    """
    connection = _connect(path, SqliteDatabase, timeout=busy_timeout_s)
    try:
        for setting in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",
            "journal_size_limit = 67108864",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path | str, kind: type[D], **options: Any) -> D:
    """A connection without a transaction of its own accord, that any thread may use."""
    return sqlite3.connect(
        path, factory=kind, isolation_level=None, check_same_thread=False, cached_statements=128, **options
    )


def apply_migrations(database: SqliteDatabase, migrations: Sequence[Migration], *, now_ms: int) -> int:
    """Apply what is missing; of several processes that do so at once, one does and the others wait for it."""
    database.execute(database.BEGIN)
    try:
        applied = apply(database, migrations, now_ms=now_ms, dialect=_dialect)
        database.commit()
    except BaseException:
        database.rollback()
        raise
    return applied


def _dialect(statement: str) -> str:
    """A statement of a migration in SQLite's words: only an `integer PRIMARY KEY` is the number of the row itself."""
    return statement.replace("bigint PRIMARY KEY", "integer PRIMARY KEY").replace("string_agg(", "group_concat(")
