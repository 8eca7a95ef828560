"""One transaction for all that was called meanwhile, in the store of several gateways.

Nothing is kept in memory between two of them. Each begins with a lock for every user that it is about, taken in one
order by everybody, so there is no deadlock, and what is decided about one user is decided by one at a time. A share in
the lock of the tables keeps an upgrade of them out until the COMMIT:

    gathered calls ──► BEGIN · lock users · read what is unfinished ──► decide ──► rows · COMMIT ──► the callers return
                       (one round trip)                                            (two round trips)

The numbers of requests are drawn under that lock and it is held to the COMMIT. So of one user they are committed in
their order, and once nothing earlier of an ordering key is unfinished, that stays so.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from answerback.core import request as changes
from answerback.core.admission import WINDOW_MS, window_of
from answerback.core.budget import (
    Entry,
    decode_budgets,
    reserved,
    team_holder,
)
from answerback.core.parts import NOTHING, Content
from answerback.core.request import SCHEMA, Question, Record, RequestKey
from answerback.ports import Unavailable
from answerback.stores import statements as sql
from answerback.stores.database import Connection as Thread
from answerback.stores.database import Database, StoreError, Undone, once_more
from answerback.stores.encoding import decode_question, decode_record, encode_record
from answerback.stores.group_commit import Call, Rows, own
from answerback.stores.migrations import lock_key
from answerback.stores.postgres import tables_key
from answerback.stores.writer_state import Tracked, WriterState

T = TypeVar("T")

MAX_USERS: Final = 200
"""Users of one transaction: the server has a place for so many locks."""

_TITLE_LENGTH: Final = 2_000
"""Code points of a question that its title can rest on."""

_LOCK_TEAMS: Final = "SELECT count(pg_advisory_xact_lock(k)) FROM unnest(CAST(:keys AS bigint[])) AS k"
# Before any table: while they are upgraded none is touched, and so none is waited for. See `postgres.tables_key`.
_LOCK_USERS: Final = _LOCK_TEAMS.replace("SELECT ", "SELECT pg_advisory_xact_lock_shared(CAST(:tables AS bigint)), ")

_UNFINISHED: Final = f"""
SELECT n, user_id, record, record_schema, options, left(question, {_TITLE_LENGTH}), node FROM requests
WHERE ended_at_ms IS NULL AND user_id = ANY(CAST(:users AS text[])) ORDER BY n"""  # noqa: S608 - a number

_USERS: Final = """
SELECT user_id, per_minute, minute, accepted, accepted_before, team, caps FROM users
WHERE user_id = ANY(CAST(:users AS text[]))"""

# A statement of its own, in the same round trip: joined to the one above it makes the plan of both slow.
_WATCHED: Final = "SELECT DISTINCT user_id FROM watchers WHERE user_id = ANY(CAST(:users AS text[]))"

_TEAMS: Final = "SELECT team, caps FROM teams WHERE team = ANY(CAST(:teams AS text[]))"

_COUNTERS: Final = f"{sql.SELECT_COUNTERS} WHERE holder = ANY(CAST(:holders AS text[]))"
_RECORDS: Final = """
SELECT r.user_id, r.request_id, r.record, r.record_schema
FROM unnest(CAST(:users AS text[]), CAST(:requests AS text[])) AS k(user_id, request_id)
JOIN requests r ON r.user_id = k.user_id AND r.request_id = k.request_id AND r.forgotten IS NULL
WHERE r.ended_at_ms IS NOT NULL"""

_NUMBERS: Final = "SELECT nextval('request_n') FROM generate_series(1, CAST(:count AS integer))"

_COUNT: Final = "UPDATE users SET minute = ?, accepted = ?, accepted_before = ? WHERE user_id = ?"
_NOTED_BY: Final = "UPDATE requests SET noted_by = ? WHERE n = ?"
_HOME: Final = "UPDATE requests SET node = ?, noted_by = NULL WHERE n = ?"


@dataclass(frozen=True, slots=True)
class Changed:
    """A request was changed whose home is another gateway."""

    node: str
    key: RequestKey


@dataclass(frozen=True, slots=True)
class Freed:
    """A request has ended, and others of its ordering key are at home at another gateway."""

    node: str
    ordering_key: str


class _Rows(Rows):
    """The rows of one gateway: the gateway that accepts a request is its home."""

    ACCEPT = sql.ACCEPT.replace("attachments)", "attachments, node, ordering_key)").replace("?)", "?, ?, ?)")

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node
        self.counts: dict[str, tuple[int, int, int]] = {}
        """Of users who were counted: see Transaction."""
        self.noted: list[int] = []
        """Numbers of requests of others that were changed."""
        self.taken: list[int] = []
        """Numbers of requests that are at home here from now on."""

    def more(self, database: Database) -> None:
        if self.counts:
            counts = ((*of_user, user) for user, of_user in sorted(self.counts.items()))
            database.executemany(_COUNT, list(counts))
        if self.taken:
            database.executemany(_HOME, [(self._node, n) for n in self.taken])
        if self.noted:
            database.executemany(_NOTED_BY, [(self._node, n) for n in self.noted])

    def accept(self, tracked: Tracked, question: Question, text: str) -> None:
        super().accept(tracked, question, text)
        self._accepts[-1] += (self._node, tracked.record.ordering_key)

    def refuse(self, tracked: Tracked, ending: changes.Ending, text: str) -> None:
        super().refuse(tracked, ending, text)
        self._accepts[-1] += (None, None)


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """A call that waits for a transaction. `accepts`: it may need a number."""

    decide: "Callable[[Transaction], T]"
    future: "asyncio.Future[T]"
    users: tuple[str, ...] = ()
    key: RequestKey | None = None
    accepts: bool = False
    teams: tuple[str, ...] = ()
    value: T | None = None
    error: Exception | None = None


class Transaction:
    """What one transaction knows of its users, and what it writes."""

    def __init__(
        self,
        database: Database,
        *,
        node: str,
        schema: str,
        taken: set[RequestKey],
        is_here: Callable[[RequestKey], bool],
        writes_schema: int,
    ) -> None:
        self.database = database
        self.node = node
        self.is_here = is_here
        self.writes_schema = writes_schema
        self.taken = taken
        """What was taken over: the queue may have put it behind later ones of its key."""
        self.state = WriterState()
        self.homes: dict[RequestKey, str | None] = {}
        self.effects: dict[Changed | Freed, None] = {}
        self.watched: set[str] = set()
        """Those of its users of whom somebody watches something."""
        self._schema = schema
        self._rows = _Rows(node)
        self._ended: dict[RequestKey, Record] = {}
        self._numbers: list[int] = []
        self._users: set[str] = set()
        self._unreadable: dict[str, StoreError] = {}
        self._minutes: dict[str, tuple[int, int, int]] = {}
        """Of users: a minute, how many were accepted in it, and in the one before."""

    def begin(self, users: Collection[str], keys: Sequence[RequestKey], accepts: int, teams: Collection[str]) -> None:
        """Lock the users, then the teams, and read what decisions about them need."""
        database, names = self.database, list(users)
        keys_of_users = sorted(lock_key(f"{self._schema} user {user}") for user in names)
        locks: Any = {"keys": keys_of_users, "tables": tables_key(self._schema)}
        of_users: Any = {"users": names}
        of_keys: Any = {"users": [key.user_id for key in keys], "requests": [key.request_id for key in keys]}
        ended = numbers = None
        with database.together():
            database.execute(database.BEGIN)
            database.execute(_LOCK_USERS, locks)
            if names:
                unfinished, known = database.execute(_UNFINISHED, of_users), database.execute(_USERS, of_users)
                watched = database.execute(_WATCHED, of_users)
            if keys:
                ended = database.execute(_RECORDS, of_keys)
            if accepts:
                numbers = database.execute(_NUMBERS, {"count": accepts})
        if not names:
            self._read_budgets(names, teams)
            return
        for n, user_id, text, record_schema, options, question, home in unfinished.fetchall():
            record = self._decode(user_id, text, record_schema)
            if record is not None:
                asked = decode_question(options, question, "")
                self.state.track(record.key, record, asked, n=n, width=0)
                self.homes[record.key] = home
        self.watched.update(user_id for (user_id,) in watched.fetchall())
        for user_id, per_minute, minute, accepted, before, team, caps in known.fetchall():
            self._users.add(user_id)
            self.state.budgets.add_user(user_id, team, caps)
            if per_minute is not None:
                self.state.limits[user_id] = per_minute
            if minute is not None:
                self._minutes[user_id] = minute, accepted, before
                self.state.count(user_id, minute * WINDOW_MS, accepted)
                self.state.count(user_id, (minute - 1) * WINDOW_MS, before)
        for user_id, request_id, text, record_schema in ended.fetchall() if ended else ():
            record = self._decode(user_id, text, record_schema)
            if record is not None:
                self._ended[RequestKey(user_id, request_id)] = record
        self._numbers = [n for (n,) in reversed(numbers.fetchall())] if numbers else []
        self._read_budgets(names, teams)

    def _read_budgets(self, users: Collection[str], claimed: Collection[str]) -> None:
        """What the counters say, if anybody here has a budget.

        Teams are locked behind all users, in one order: who waits for a team holds no user that its holder waits for.
        """
        budgets, database = self.state.budgets, self.database
        holds = [hold for one in self.state.tracked.values() if (hold := one.record.hold) is not None]
        teams = {*claimed, *budgets.teams.values(), *(hold.team for hold in holds if hold.team is not None)}
        if teams:
            named: Any = {"teams": sorted(teams)}
            keys: Any = {"keys": sorted(lock_key(f"{self._schema} team {team}") for team in teams)}
            with database.together():
                database.execute(_LOCK_TEAMS, keys)
                found = database.execute(_TEAMS, named)
            for team, caps in found.fetchall():
                budgets.keep(team_holder(team), decode_budgets(caps))
        if budgets.by_holder or holds:
            holders: Any = {"holders": [*users, *map(team_holder, teams)]}
            budgets.add_counters(database.execute(_COUNTERS, holders).fetchall())

    def _decode(self, user_id: str, text: str, record_schema: int) -> Record | None:
        try:
            return decode_record(text, record_schema)
        except StoreError as exc:
            self._unreadable[user_id] = exc
            return None

    def check(self, users: Collection[str]) -> None:
        """Raises: StoreError: a newer program has written of them, so nothing may be decided here."""
        for user in users:
            if user in self._unreadable:
                raise self._unreadable[user]

    # --- what is decided

    def ended(self, key: RequestKey) -> Record | None:
        """The record of a request that is not unfinished, if there is one."""
        return self._ended.get(key)

    def is_behind(self, ordering_key: str, n: int | None = None) -> bool:
        """Whether one of the key is unfinished that was accepted before number `n`, and the queue here does not order.

        It is at home elsewhere, was taken from there, or is at home here and not in the queue yet.
        """
        return any(
            one.record.ordering_key == ordering_key
            and (n is None or one.n < n)
            and (self.homes[key] != self.node or key in self.taken or not self.is_here(key))
            for key, one in self.state.tracked.items()
        )

    def accept(self, record: Record, question: Question, now_ms: int) -> None:
        tracked = self.state.track(record.key, record, question, n=self._numbers.pop(), width=0)
        self.homes[record.key] = self.node
        self.state.count(record.user_id, now_ms)
        minutes = _counted(self._minutes.get(record.user_id), window_of(now_ms))
        self._minutes[record.user_id] = self._rows.counts[record.user_id] = minutes
        if record.user_id not in self._users:
            self._rows.add_user(record.user_id, now_ms)
        self._rows.accept(tracked, question, encode_record(record))
        if record.hold is not None:
            entries = reserved(record.hold, record.user_id)
            self.state.budgets.post(entries)
            self._rows.charge(entries)

    def charge(self, entries: Collection[Entry]) -> None:
        """Write what was posted in the budgets."""
        self._rows.charge(entries)

    def put(self, tracked: Tracked, record: Record, content: Content = NOTHING) -> None:
        """Another record of an unfinished request, or its ending with its answer."""
        content.text.encode()
        record = record.lowered(max(self.writes_schema, tracked.record.schema))
        key, home, text = record.key, self.homes[record.key], encode_record(record)
        tracked.record = record
        if home is not None and home != self.node:
            self.effects[Changed(home, key)] = None
            self._rows.noted.append(tracked.n)
        if record.ending is None:
            self._rows.note(tracked, text)
            return
        self.taken.discard(key)
        self._rows.finish(tracked, record.ending, text, content)
        self.state.forget(tracked)
        self._ended[key] = record
        for other in self.state.tracked.values():
            home = self.homes[other.record.key]
            if other.record.ordering_key == record.ordering_key and home is not None and home != self.node:
                self.effects[Freed(home, record.ordering_key)] = None

    def refuse(self, record: Record) -> None:
        """A request that ends where it begins."""
        record = record.lowered(self.writes_schema)
        if record.ending is None:
            raise ValueError("a request without a question cannot be unfinished")
        ((n,),) = self.database.execute(_NUMBERS, {"count": 1}).fetchall()
        self._rows.refuse(Tracked(key=record.key, record=record, n=n), record.ending, encode_record(record))
        self._ended[record.key] = record

    def rewrite(self, record: Record) -> None:
        """Another record of a request that has ended."""
        self._ended[record.key] = record
        row: dict[str, sql.Value] = {"record": encode_record(record), "record_schema": record.schema}
        self.run(lambda database: database.execute(sql.UPDATE_RECORD, {**record.key._asdict(), **row}))

    def take(self, tracked: Tracked) -> None:
        """Make the request ours to run."""
        self.taken.add(tracked.key)
        self.homes[tracked.record.key] = self.node
        self._rows.taken.append(tracked.n)

    def run(self, function: Callable[[Database], T]) -> T:
        """A rare write, behind everything that was decided before it."""
        self.write()
        call = Call(function)
        call.run(self.database)
        return call.result()

    def write(self) -> None:
        """Write the rows of what was decided so far."""
        rows, self._rows = self._rows, _Rows(self.node)
        rows.run(self.database)
        if rows.has_taken:
            raise Unavailable("a number of a request was given out twice")


class FleetCommit:
    """The way of gathered calls to the database: one transaction at a time, for all that were called meanwhile."""

    tracked: Final[dict[RequestKey, Tracked]] = {}

    def __init__(
        self, *, node: str, schema: str, max_queued: int, on_effects: Callable[[Collection[Any]], None]
    ) -> None:
        self._node = node
        self._schema = schema
        self._max_queued = max_queued
        self._on_effects = on_effects
        self.is_here: Callable[[RequestKey], bool] = lambda _: True
        self.writes_schema = SCHEMA
        self._taken: set[RequestKey] = set()
        self.watched: set[str] = set()
        """Users of whom somebody watches something, as the last transaction about each has seen it."""
        self._connection: Thread | None = None
        self._jobs: list[_Job[Any]] = []
        self._is_busy = False
        self.last_write_failed = False

    def start(self, connection: Thread) -> None:
        """Begin, over a connection that `close` closes."""
        self._connection = connection

    async def open(self) -> None:
        """Connect. Raises: StoreError, Unavailable."""
        await self.call(bool)

    async def close(self) -> None:
        """Finish what was called before."""
        while self._jobs or self._is_busy:
            await asyncio.gather(self.call(bool), return_exceptions=True)
        if (connection := self._connection) is not None:
            self._connection = None
            await connection.close()

    async def call(self, function: Callable[[Database], T], note: object = None) -> T:
        """Do a rare write that is about no user in particular."""
        del note  # what is in memory elsewhere
        return await self.do(lambda transaction: transaction.run(function))

    async def alone(self, function: Callable[[Database], T]) -> T:
        """Do what is done outside of a transaction. Raises: Unavailable."""
        if self._connection is None:
            raise Unavailable("the store is not open")
        return await self._connection.read(function)

    async def do(
        self,
        decide: Callable[[Transaction], T],
        *,
        users: tuple[str, ...] = (),
        key: RequestKey | None = None,
        accepts: bool = False,
        teams: tuple[str, ...] = (),
    ) -> T:
        """What `decide` returns, when that is on the disk. It may be called twice: only its last call has an effect.

        Raises: Unavailable: whether it has an effect is not known. What `decide` raises: it has none.
        """

        def once() -> "asyncio.Future[T]":
            if self._connection is None:
                raise Unavailable("the store is not open")
            if len(self._jobs) >= self._max_queued:
                self.last_write_failed = True
                raise Unavailable("too many operations are waiting for the disk")
            loop = asyncio.get_running_loop()
            job = _Job(decide, loop.create_future(), users, key, accepts, teams)
            self._jobs.append(job)
            if len(self._jobs) == 1 and not self._is_busy:
                loop.call_soon(self._send)  # with whatever else is called in this turn of the loop
            return job.future

        return await once_more(once)

    def _send(self) -> None:
        jobs: list[_Job[Any]] = []
        users: set[str] = set()
        for job in self._jobs:
            if jobs and len(users | set(job.users)) > MAX_USERS:
                break
            users.update(job.users)
            jobs.append(job)
        del self._jobs[: len(jobs)]
        self._is_busy = True
        assert self._connection is not None
        self._connection.submit(partial(self._transact, jobs, users), partial(self._sent, jobs, users))

    def _transact(self, jobs: Sequence[_Job[Any]], users: Collection[str], database: Database) -> Transaction:
        """On the writer's thread. Raises: Undone: it has no effect. Unavailable: nobody knows."""
        transaction = Transaction(
            database,
            node=self._node,
            schema=self._schema,
            taken=self._taken,
            is_here=self.is_here,
            writes_schema=self.writes_schema,
        )
        keys = [job.key for job in jobs if job.key is not None]
        try:
            teams = {team for job in jobs for team in job.teams}
            transaction.begin(users, keys, sum(job.accepts for job in jobs), teams)
            for job in jobs:
                try:
                    transaction.check(job.users)
                    job.value, job.error = job.decide(transaction), None
                except Exception as exc:
                    if database.cause_of(exc) is not None or isinstance(exc, Unavailable):
                        raise
                    job.error = exc
            transaction.write()
        except Exception as exc:
            why = database.cause_of(exc) or str(exc) or "the store failed"
            raise (Undone if database.is_undone(exc) else Unavailable)(why) from exc
        try:
            database.commit()
        except Exception as exc:
            raise Unavailable(database.cause_of(exc) or "the store failed") from exc
        return transaction

    def _sent(
        self, jobs: Sequence[_Job[Any]], users: Collection[str], done: Transaction | None, error: Exception | None
    ) -> None:
        self._is_busy = False
        self.last_write_failed = error is not None
        if done is not None:
            self.watched.difference_update(users)
            self.watched.update(done.watched)
        for job in jobs:
            if job.future.done():  # its caller was cancelled; what it asked for happened all the same
                continue
            if error is not None:
                job.future.set_exception(own(error))
            elif job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.value)
        if done is not None and done.effects:
            self._on_effects(done.effects)
        if self._jobs:
            asyncio.get_running_loop().call_soon(self._send)


def _counted(counts: tuple[int, int, int] | None, minute: int) -> tuple[int, int, int]:
    """The counts of the newest minute and of the one before, with one more request in `minute`."""
    newest, now, before = counts or (minute, 0, 0)
    if minute > newest:
        return minute, 1, now if minute == newest + 1 else 0
    return newest, now + (minute == newest), before + (minute == newest - 1)


# --- decisions, on the writer's thread --------------------------------------------------------------------------
