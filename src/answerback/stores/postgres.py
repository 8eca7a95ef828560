"""The store in a PostgreSQL database, for those who have one.

    writer's thread ──► one connection, which also holds the lock
    two readers' threads ──► a connection each

The lock is a session-level advisory lock on the very connection that writes: who has lost the lock cannot write. The
rows of a batch are sent together, in pipeline mode: they cost a network round trip, however many they are.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.numeric import Int8Dumper

from answerback.clock import epoch_ms
from answerback.ports import Unavailable
from answerback.stores.database import Database, StoreError, StoreInUse
from answerback.stores.migrations import Migration, apply, lock_key, shipped
from answerback.stores.statements import CREATE_COLLATION, Params, Row, to_psycopg
from answerback.stores.store import SqlStore
from answerback.stores.user_data import FLEET_DATA, USER_DATA, Part

log = logging.getLogger("answerback.store")

Connection: TypeAlias = psycopg.Connection[Row]

Prepare: TypeAlias = Callable[[Database, Callable[[], object]], None]
"""Brings more tables up to date; the second argument is called before one is changed."""

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

_TAKE_ALONE: Final = "SELECT pg_try_advisory_lock(%s)"
_SHARE: Final = "SELECT pg_try_advisory_lock_shared(%s)"
_STATEMENT_TIMEOUT_MS: Final = 10_000
LOCK_WAIT_S: Final = 2
"""How long a migration waits for a table."""
_UPGRADE_S: Final = 60.0
_THERE: Final = """
SELECT k.name FROM unnest(CAST(:tables AS text[])) AS k(name) WHERE to_regclass(k.name) IS NOT NULL"""
_POOLER_TRIES: Final = 3
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_OPEN_TIMEOUT_S: Final = 1.0
"""Enough for the server to notice that a gateway which was killed is gone."""


def cause_of(error: BaseException) -> str | None:
    """What happened, for the operator; None if the error is not one of the database's environment."""
    return next((CAUSES[kind] for kind in type(error).__mro__ if kind in CAUSES), None)


class _LockHeld(Unavailable):
    """Another session has the lock: a second gateway, or a dead one that the server has not noticed yet."""


class Pooled(Unavailable):
    """What looks like a session of the server is lent by a pooler, a transaction at a time."""


class PostgresDatabase:
    """A connection, as the stores use it."""

    cause_of = staticmethod(cause_of)
    BEGIN: ClassVar = "BEGIN"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, params: Params | None = None, /) -> psycopg.Cursor[Row]:
        return self._connection.execute(_translated(sql), params or None)

    def executemany(self, sql: str, rows: Sequence[Row], /) -> psycopg.Cursor[Row]:
        cursor = self._connection.cursor()
        cursor.executemany(_translated(sql), rows)
        return cursor

    def together(self) -> AbstractContextManager[Any]:
        return self._connection.pipeline()

    def commit(self) -> None:
        self._connection.commit()

    def clear_log(self) -> bool:
        return True  # the server's own, which it overwrites

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):  # else the lock lasts until the server notices that we are gone
            if not self._connection.closed:
                self._connection.rollback()
                self._connection.execute("SELECT pg_advisory_unlock_all()")
        self._connection.close()

    def is_undone(self, error: BaseException) -> bool:
        # Of a session that was ended the error comes first, and the end of the connection after it.
        ends = errors.AdminShutdown | errors.CrashShutdown | errors.DeadlockDetected
        return self._connection.closed or isinstance(error, ends)


class _Server:
    """The connector to a schema of a database.

    A server that restarts is waited for, for `reconnect_timeout_s`; for less when the store is opened. `prepare`: what
    several gateways need that share the schema; None: one has it for itself.
    """

    def __init__(self, url: str, schema: str, *, reconnect_timeout_s: float, prepare: Prepare | None) -> None:
        self._url = url
        self._schema = schema
        self._prepare = prepare
        self._timeout_s = min(reconnect_timeout_s, _OPEN_TIMEOUT_S)
        self._reconnect_timeout_s = reconnect_timeout_s
        self._is_prepared = False
        """Another gateway may upgrade the tables later. Migrations only add, so this one goes on when it reconnects."""

    def connect_writer(self) -> PostgresDatabase:
        database = self._connected(self._connect_locked)
        self._timeout_s = self._reconnect_timeout_s
        return database

    def connect_reader(self) -> PostgresDatabase:
        return self._connected(lambda: PostgresDatabase(connect(self._url, self._schema)))

    def _connect_locked(self) -> PostgresDatabase:
        connection = connect(self._url, self._schema)
        try:
            with contextlib.closing(connect(self._url, self._schema)) as other:
                check_session(connection, other)
            found = connection.execute(_TAKE_ALONE if self._prepare is None else _SHARE, [lock_key(self._schema)])
            if found.fetchone() != (True,):
                raise _LockHeld(f"another gateway holds the lock of schema {self._schema}")
            if self._prepare is None or not self._is_prepared:
                apply_migrations(connection, self._schema, shipped(), now_ms=epoch_ms(), prepare=self._prepare)
                self._is_prepared = True
            if self._prepare is not None:
                # What a gateway has locked that freezes in a transaction, the others need.
                connection.execute("SELECT set_config('idle_in_transaction_session_timeout', '3s', false)")
        except BaseException:
            connection.close()
            raise
        return PostgresDatabase(connection)

    def _connected(self, connect_once: Callable[[], PostgresDatabase]) -> PostgresDatabase:
        deadline = time.monotonic() + self._timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return connect_once()
            except (psycopg.Error, Unavailable) as exc:
                may_pass = isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError | Unavailable)
                if not may_pass or isinstance(exc, Pooled) or time.monotonic() + pause_s > deadline:
                    is_standby = isinstance(exc, errors.ReadOnlySqlTransaction)
                    raise Unavailable(CAUSES[errors.ReadOnlySqlTransaction] if is_standby else str(exc)) from exc
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class PostgresStore(SqlStore):
    """A store in the database of `url`, in tables of its own schema. One process uses a schema at a time.

    `reconnect_timeout_s`: how long an operation waits for a server that restarts, before Unavailable. `prepare`: see
    _Server.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "answerback",
        reconnect_timeout_s: float = 3.0,
        max_queued: int = 100_000,
        prepare: Prepare | None = None,
    ) -> None:
        server = _Server(url, schema, reconnect_timeout_s=reconnect_timeout_s, prepare=prepare)
        super().__init__(server, max_queued=max_queued)
        self._schema = schema

    async def open(self) -> None:
        try:
            await super().open()
        except Unavailable as exc:
            if _is_by(exc, Pooled):
                raise StoreError(
                    "The database is reached through a pooler that lends one session to many, so the lock of a gateway "
                    "would exclude nobody. Name the server itself in --database, or pool by session (PgBouncer: "
                    "pool_mode = session)."
                ) from exc
            if _is_by(exc, _LockHeld):
                raise StoreInUse(
                    f"Another gateway uses this database (schema {self._schema}). Stop it, or use another database."
                ) from exc
            why = (
                next(iter(str(exc).splitlines()), "") or type(exc).__name__
            )  # libpq adds questions on lines of their own
            raise StoreError(f"The database cannot be used: {why}. Check --database and the server.") from exc

    async def _user_data(self) -> Sequence[Part]:
        fleet: Any = {"tables": [part.table for part in FLEET_DATA]}
        there = {name for (name,) in await self._rows(_THERE, fleet)}
        return (*USER_DATA, *(part for part in FLEET_DATA if part.table in there))


def _is_by(error: BaseException | None, kind: type[Unavailable]) -> bool:
    """Whether that is why it is unavailable. A caller that passes an error on may make one of their own of it."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error is not None


def connect(url: str, schema: str) -> Connection:
    """A connection whose commits are durable and whose tables are those of `schema`.

    Raises: psycopg.Error.
    """
    given = conninfo_to_dict(url)
    connection = Connection.connect(make_conninfo("", **{**_DEFAULTS, **given}), autocommit=True)
    try:
        connection.adapters.register_dumper(int, Int8Dumper)
        connection.execute(
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
        connection.close()
        raise
    return connection


def reach(url: str, schema: str) -> Connection:
    """As `connect`. Raises: Unavailable."""
    try:
        return connect(url, schema)
    except psycopg.Error as exc:
        raise Unavailable(str(exc)) from exc


def check_session(connection: Connection, other: Connection) -> None:
    """Check that the connection has a session of the server to itself, for the lock belongs to the session.

    A pooler by transaction lends an idle session to the next that asks: the one that was used last, so that another
    connection gets it, or one after the other, so that this connection gets several. Raises: Pooled.
    """
    mine, others = ({_session(one) for _ in range(_POOLER_TRIES)} for one in (connection, other))
    if len(mine) > 1 or len(others) > 1 or mine & others:
        raise Pooled("a pooler lends the sessions of the database")


def _session(connection: Connection) -> int:
    """The process of the server that runs this."""
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    return int(row[0]) if row else 0


def apply_migrations(
    connection: Connection, schema: str, migrations: Sequence[Migration], *, now_ms: int, prepare: Prepare | None = None
) -> int:
    """Apply what is missing; of several processes that do so at once, one does and the others wait for it.

    Other gateways may use the tables meanwhile. Their transactions are waited for before a table is locked. A reader,
    or a gateway of an older version, may still be in the way of a table. Who waits for one keeps all others from it, so
    a migration waits for a moment only, and then begins again. Raises: psycopg.Error.
    """
    until = time.monotonic() + _UPGRADE_S
    while True:
        try:
            return _apply_once(connection, schema, migrations, now_ms=now_ms, prepare=prepare)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if time.monotonic() > until:
                raise
            log.warning("the tables are in use, and cannot be upgraded now; it is tried again")
        time.sleep(_LONGEST_PAUSE_S)


def _apply_once(
    connection: Connection, schema: str, migrations: Sequence[Migration], *, now_ms: int, prepare: Prepare | None
) -> int:
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")  # of a large database a migration takes its time
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [lock_key(f"migrations of {schema}")])
        # An upgrade that freezes in its transaction would stop all others.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = '3s'")
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_WAIT_S}s"])
        connection.execute(psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(psycopg.sql.Identifier(schema)))
        connection.execute(CREATE_COLLATION)
        database = PostgresDatabase(connection)
        # Who finds the tables up to date keeps nobody waiting: a gateway starts when another one has just died.
        take_alone = partial(connection.execute, "SELECT pg_advisory_xact_lock(%s)", [tables_key(schema)])
        count = apply(database, migrations, now_ms=now_ms, before=take_alone)
        if prepare is not None:
            prepare(database, take_alone)
        return count


@lru_cache(maxsize=4)
def tables_key(schema: str) -> int:
    """The lock that an upgrade of the tables has alone, and each transaction of a fleet has a share in."""
    return lock_key(f"tables of {schema}")


@lru_cache(maxsize=256)
def _translated(sql: str) -> bytes:
    return to_psycopg(sql).encode()  # bytes: psycopg's type for a text that is not a literal
