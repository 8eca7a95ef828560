"""The store in a PostgreSQL database, for those who have one.

    event loop --- writes --> one connection, which also holds the lock: BEGIN, all queued operations, COMMIT
        |
        +--------- reads ---> two connections

The lock is a session-level advisory lock on the very connection that writes: who has lost the lock cannot write.
Operations that wait are sent together, in pipeline mode: a batch costs a few network round trips, whatever its size.
"""

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.numeric import Int8Dumper

from answerback.clock import epoch_ms
from answerback.core.request import RequestKey
from answerback.ports import Unavailable
from answerback.stores.errors import StoreError, StoreInUse
from answerback.stores.jobs import Job, fail
from answerback.stores.migrations import Migration, migrate, shipped
from answerback.stores.postgres_writer import BatchConnection
from answerback.stores.query import Operation, Query, Read, Result, Write, to_psycopg
from answerback.stores.request_operations import load
from answerback.stores.store import SqlStore
from answerback.stores.writer_state import WriterState

T = TypeVar("T")

CAUSES: Final[Mapping[type[psycopg.Error], str]] = MappingProxyType(
    {
        errors.DiskFull: "PostgreSQL's disk is full",
        errors.ReadOnlySqlTransaction: "PostgreSQL is read-only; this is not the primary server, or it is in recovery",
        errors.QueryCanceled: "PostgreSQL took too long",
        errors.LockNotAvailable: "a table is locked by another program",
        errors.DeadlockDetected: "a table is locked by another program",
        psycopg.OperationalError: "PostgreSQL cannot be reached",
        psycopg.InterfaceError: "the connection to PostgreSQL was lost",
    }
)
"""States of the world, not mistakes of ours; of the classes of an error the most specific one counts."""

_DEFAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "connect_timeout": "3",
        "application_name": "answerback",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
)
"""A server that vanished is noticed in about ten seconds; a URL may set other values. `connect` sets the same on the
server, whose default is two hours: a machine that lost its power would hold the lock for so long.
"""

_STATEMENT_TIMEOUT_MS: Final = 10_000
_READERS: Final = 2
_POOLER_TRIES: Final = 3


def cause_of(error: BaseException) -> str | None:
    """What happened, for the operator; None if the error is not one of the database's environment."""
    return next((CAUSES[kind] for kind in type(error).__mro__ if kind in CAUSES), None)


class _LockHeld(Unavailable):
    """Another session has the lock: a second gateway, or a dead one that the server has not noticed yet."""


class _Pooled(Unavailable):
    """What looks like a session of the server is lent by a pooler, a transaction at a time."""


class _UserWrite(NamedTuple):
    user_id: str | None
    operation: Write[Any]


class PostgresStore(SqlStore):
    """A store in the database of `url`, in tables of its own schema. One process uses a schema at a time.

    `reconnect_timeout_s`: how long an operation waits for a server that restarts, before Unavailable. A connection
    through a pooler in transaction mode does not work: the lock belongs to the session.
    """

    def __init__(
        self, url: str, *, schema: str = "answerback", reconnect_timeout_s: float = 3.0, max_queued: int = 100_000
    ) -> None:
        super().__init__()
        self._url = url
        self._schema = schema
        self._lock_key = _key(schema)
        self._state = WriterState()
        self._writes = BatchConnection(
            self._connect_writer, self._run_writes, reconnect_timeout_s=reconnect_timeout_s, max_queued=max_queued
        )
        self._reads = [
            BatchConnection(self._connect, _run_reads, reconnect_timeout_s=reconnect_timeout_s, max_queued=max_queued)
            for _ in range(_READERS)
        ]
        self._next_reader = 0

    async def open(self) -> None:
        try:
            await self._writes.open()
            for reader in self._reads:
                await reader.open()
        except BaseException as exc:
            await self.close()
            if isinstance(exc.__cause__, _Pooled):
                raise StoreError(
                    "The database is reached through a pooler that lends one session to many, so the lock of a gateway "
                    "would exclude nobody. Name the server itself in --database, or pool by session (PgBouncer: "
                    "pool_mode = session)."
                ) from exc
            if isinstance(exc.__cause__, _LockHeld):
                raise StoreInUse(
                    f"Another gateway uses this database (schema {self._schema}). Stop it, or use another database."
                ) from exc
            if isinstance(exc, Unavailable):
                raise StoreError(f"The database cannot be used: {exc}. Check --database and the server.") from exc
            raise

    async def close(self) -> None:
        await self._writes.close()
        for reader in self._reads:
            await reader.close()

    async def _write(self, user_id: str | None, operation: Write[T], *, key: RequestKey | None = None) -> T:
        result: T = await self._writes.submit(_UserWrite(user_id, operation))
        return result

    async def _read(self, operation: Read[T]) -> T:
        self._next_reader = (self._next_reader + 1) % _READERS
        result: T = await self._reads[self._next_reader].submit(operation)
        return result

    # --- connections

    async def _connect(self) -> AsyncConnection[Any]:
        return await connect(self._url, self._schema)

    async def _connect_writer(self) -> AsyncConnection[Any]:
        """The connection that holds the lock, with a state as fresh as it is."""
        connection = await self._connect()
        try:
            await _check_session(connection, self._connect)
            row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", [self._lock_key])).fetchone()
            if row != (True,):
                raise _LockHeld(f"another gateway holds the lock of schema {self._schema}")
            await apply_migrations(connection, self._schema, shipped(), now_ms=epoch_ms())
            state = WriterState()
            await run(connection, load(state))
            self._state = state
            self._questions.clear()  # another gateway may have deleted users meanwhile
        except BaseException:
            await connection.close()
            raise
        return connection

    # --- batches

    async def _run_writes(
        self, connection: AsyncConnection[Any], jobs: Sequence[Job[_UserWrite]]
    ) -> Sequence[Job[_UserWrite]]:
        """Run jobs in transactions; returns those that had no effect because the connection was lost."""
        repeatable: list[Job[_UserWrite]] = []
        alone = 0

        def group(job: Job[_UserWrite]) -> int:
            nonlocal alone
            alone += job.work.user_id is None
            return -alone if job.work.user_id is None else alone

        for _, batch in groupby(jobs, key=group):
            repeatable += await self._run_batch(connection, list(batch))
        return repeatable

    async def _run_batch(
        self, connection: AsyncConnection[Any], jobs: Sequence[Job[_UserWrite]]
    ) -> Sequence[Job[_UserWrite]]:
        is_committing = False
        try:
            if await self._transact(connection, jobs):
                is_committing = True
                await connection.execute("COMMIT")
                self._state.commit()
        except Exception as exc:
            error = exc
        else:
            return ()
        self._state.rollback()
        try:
            if not connection.closed:
                await connection.rollback()
        except psycopg.Error:  # a FATAL error came, and only now the end of the connection
            await connection.close()
        is_lost = connection.closed
        if (why := cause_of(error)) is not None:
            # Whether a COMMIT that got no answer took effect is not known: begin again from what can be read.
            await connection.close()
            fail(jobs, why, error)
            return jobs if is_lost and not is_committing else ()
        if len(jobs) == 1:
            jobs[0].value, jobs[0].error = None, error
            return ()
        # One of them is at fault: its neighbours must not suffer.
        return [job for one in jobs for job in await self._run_batch(connection, [one])]

    async def _transact(self, connection: AsyncConnection[Any], jobs: Sequence[Job[_UserWrite]]) -> bool:
        """Run the jobs up to the COMMIT, those of one user in their order, those of different users side by side.

        Returns: whether there is anything to commit.
        """
        chains: dict[str | None, _Chain] = {}
        for job in jobs:
            chains.setdefault(job.work.user_id, _Chain()).jobs.append(job)
        waiting = [(chain, queries) for chain in chains.values() if (queries := chain.advance(self._state, ()))]
        if not waiting:
            return False
        begin = [Query("BEGIN", {})]
        while waiting:
            results = await send(connection, [*begin, *(query for _, queries in waiting for query in queries)])
            start, begin = len(begin), []
            still_waiting = []
            for chain, queries in waiting:
                end = start + len(queries)
                if more := chain.advance(self._state, results[start:end]):
                    still_waiting.append((chain, more))
                start = end
            waiting = still_waiting
        return True


class _Chain:
    """Operations of one user, one after the other."""

    __slots__ = ("jobs", "operation")

    def __init__(self) -> None:
        self.jobs: deque[Job[_UserWrite]] = deque()
        self.operation: Operation[Any] | None = None

    def advance(self, state: WriterState, results: Sequence[Result]) -> Sequence[Query]:
        """Go on with the results of the last round; the queries of the next one, none if the chain is done."""
        while self.jobs:
            try:
                if self.operation is None:
                    self.operation = self.jobs[0].work.operation(state)
                    queries = next(self.operation)
                else:
                    queries = self.operation.send(results)
            except StopIteration as stop:
                self.jobs.popleft().value = stop.value
                self.operation = None
            else:
                return queries
        return ()


async def connect(url: str, schema: str) -> AsyncConnection[Any]:
    """A connection whose commits are durable and whose tables are those of `schema`.

    Raises: psycopg.Error.
    """
    given = conninfo_to_dict(url)
    connection = await AsyncConnection.connect(make_conninfo("", **{**_DEFAULTS, **given}), autocommit=True)
    try:
        connection.adapters.register_dumper(int, Int8Dumper)
        await connection.execute(
            """SELECT set_config('search_path', quote_ident(%(schema)s), false),
                 set_config('statement_timeout', %(timeout)s, false),
                 set_config('synchronous_commit',
                   CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                   ELSE current_setting('synchronous_commit') END, false),
                 set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
                 set_config('tcp_keepalives_count', '3', false)""",
            {"schema": schema, "timeout": str(_STATEMENT_TIMEOUT_MS)},
        )
    except BaseException:
        await connection.close()
        raise
    return connection


async def _check_session(connection: AsyncConnection[Any], connect_other: Callable[[], Awaitable[Any]]) -> None:
    """Check that the connection has a session of the server to itself, for the lock belongs to the session.

    A pooler by transaction lends an idle session to whoever asks next: the one that was used last, so that another
    connection gets it, or one after the other, so that this connection gets several. Raises: _Pooled.
    """
    other = await connect_other()
    try:
        mine, others = [{await _session(one) for _ in range(_POOLER_TRIES)} for one in (connection, other)]
    finally:
        await other.close()
    if len(mine) > 1 or len(others) > 1 or mine & others:
        raise _Pooled("a pooler lends the sessions of the database")


async def _session(connection: AsyncConnection[Any]) -> int:
    """The process of the server that runs this."""
    row = await (await connection.execute("SELECT pg_backend_pid()", prepare=False)).fetchone()
    return int(row[0]) if row else 0


async def apply_migrations(
    connection: AsyncConnection[Any], schema: str, migrations: Sequence[Migration], *, now_ms: int
) -> int:
    """Apply what is missing; of several processes that do so at once, one does and the others wait for it."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_key(f"migrations of {schema}")])
        await connection.execute(
            psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(psycopg.sql.Identifier(schema))
        )
        await connection.execute("""CREATE COLLATION IF NOT EXISTS "binary" FROM "C" """)
        return await run(connection, migrate(migrations, now_ms=now_ms))


async def run(connection: AsyncConnection[Any], operation: Operation[T]) -> T:
    """Run an operation's queries, a round trip a round."""
    try:
        queries = next(operation)
        while True:
            queries = operation.send(await send(connection, queries))
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome


async def send(connection: AsyncConnection[Any], queries: Sequence[Query]) -> list[Result]:
    """Send queries together, in order, and collect their results."""
    if len(queries) == 1:
        cursors = [await connection.execute(_translated(queries[0].sql), queries[0].params or None)]
    else:
        async with connection.pipeline():
            cursors = [await connection.execute(_translated(sql), params or None) for sql, params in queries]
    return [
        Result(await cursor.fetchall() if cursor.description is not None else (), cursor.rowcount) for cursor in cursors
    ]


@lru_cache(maxsize=256)
def _translated(sql: str) -> bytes:
    return to_psycopg(sql).encode()  # bytes: psycopg's type for a text that is not a literal


async def _run_reads(connection: AsyncConnection[Any], jobs: Sequence[Job[Read[Any]]]) -> Sequence[Job[Read[Any]]]:
    """Run reads; returns those that the database cut off. Reading twice is harmless."""
    cut_off = []
    for job in jobs:
        if job.future.cancelled():
            continue
        try:
            job.value = await run(connection, job.work())
        except Exception as exc:
            job.error = exc
            if lost := unavailable(exc):
                job.error = lost
                await connection.close()
                cut_off.append(job)
    return cut_off


def unavailable(error: BaseException) -> Unavailable | None:
    """The port's error for one that the database's environment caused; None for a mistake of ours."""
    why = cause_of(error)
    if why is None:
        return None
    lost = Unavailable(why)
    lost.__cause__ = error
    return lost


def _key(name: str) -> int:
    """The number of an advisory lock: 63 bits of a digest."""
    return int.from_bytes(hashlib.sha256(f"answerback {name}".encode()).digest()[:8]) >> 1
