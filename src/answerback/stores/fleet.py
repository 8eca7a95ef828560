"""A store that several gateways write to at once, in one PostgreSQL database.

Nothing is kept in memory between two transactions. Each begins with a lock for every user that it is about, taken in
one order by everybody, so there is no deadlock, and what is decided about one user is decided by one at a time:

    gathered calls ──► BEGIN · lock users · read what is unfinished ──► decide ──► rows · COMMIT ──► the callers return
                       (one round trip)                                            (two round trips)

The numbers of requests are drawn under that lock and it is held to the COMMIT. So of one user they are committed in
their order, and once nothing earlier of an ordering key is unfinished, that stays so.

A request has a home: the gateway that is to run it, at first the one that accepted it. Only its home may claim it, and
only while nothing earlier of its ordering key is unfinished at another gateway, or was taken over. What it accepted
itself is in order in its queue.
"""

import asyncio
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from typing import Any, Final, Generic, TypeVar, cast

from msgspec.structs import replace as with_fields

from answerback.clock import epoch_ms
from answerback.core import request as changes
from answerback.core.admission import WINDOW_MS, admit_again, is_locked, window_of
from answerback.core.budget import (
    Budget,
    BudgetState,
    Entry,
    decode_budgets,
    encode_budgets,
    reserved,
    team_holder,
)
from answerback.core.parts import NOTHING, Content
from answerback.core.request import Busy, Change, Question, Record, RequestKey, Unknown
from answerback.core.transitions import State
from answerback.ports import Accepted, Admission, Bound, Connection, Quota, Superseded, Unavailable
from answerback.stores import statements as sql
from answerback.stores import writes
from answerback.stores.database import Connection as Thread
from answerback.stores.database import Database, Undone, once_more
from answerback.stores.encoding import decode_question, decode_record, encode_record
from answerback.stores.errors import StoreError
from answerback.stores.group_commit import own
from answerback.stores.migrations import lock_key, parse
from answerback.stores.postgres import PostgresStore
from answerback.stores.store import caps_row
from answerback.stores.writer_state import Tracked, WriterState
from answerback.stores.writes import Call, Rows

T = TypeVar("T")

BEHIND_MS: Final = 1_000
"""How soon a request is looked at again that waits for one of another gateway; a notice comes before, as a rule."""

MAX_USERS: Final = 200
"""Users of one transaction: the server has a place for so many locks."""

TAKEN_AT_ONCE: Final = 50
"""Users whose requests are taken over in one go."""

_MARK: Final = "fleet"
_TITLE_LENGTH: Final = 2_000
"""Code points of a question that its title can rest on."""

_LOCK: Final = "SELECT count(pg_advisory_xact_lock(k)) FROM unnest(CAST(:keys AS bigint[])) AS k"

_UNFINISHED: Final = f"""
SELECT n, user_id, record, record_schema, options, left(question, {_TITLE_LENGTH}), node FROM requests
WHERE ended_at_ms IS NULL AND user_id = ANY(CAST(:users AS text[])) ORDER BY n"""  # noqa: S608 - a number

_USERS: Final = """
SELECT user_id, per_minute, minute, accepted, accepted_before, team, caps FROM users
WHERE user_id = ANY(CAST(:users AS text[]))"""

_TEAMS: Final = "SELECT team, caps FROM teams WHERE team = ANY(CAST(:teams AS text[]))"

_COUNTERS: Final = f"{sql.SELECT_COUNTERS} WHERE holder = ANY(CAST(:holders AS text[]))"
_LIMIT: Final = "SELECT per_minute FROM users WHERE user_id = :user_id"

_RECORDS: Final = """
SELECT r.user_id, r.request_id, r.record, r.record_schema
FROM unnest(CAST(:users AS text[]), CAST(:requests AS text[])) AS k(user_id, request_id)
JOIN requests r ON r.user_id = k.user_id AND r.request_id = k.request_id AND r.forgotten IS NULL
WHERE r.ended_at_ms IS NOT NULL"""

_NUMBERS: Final = "SELECT nextval('request_n') FROM generate_series(1, CAST(:count AS integer))"

_COUNT: Final = "UPDATE users SET minute = ?, accepted = ?, accepted_before = ? WHERE user_id = ?"
_NOTED_BY: Final = "UPDATE requests SET noted_by = ? WHERE n = ?"
_HOME: Final = "UPDATE requests SET node = ?, noted_by = NULL WHERE n = ?"

# Home of nobody: a gateway had the database for itself when it was accepted.
_UNFINISHED_OF: Final = """
SELECT user_id, request_id, node FROM requests
WHERE ended_at_ms IS NULL AND (node = ANY(CAST(:nodes AS text[])) OR node IS NULL) ORDER BY n"""

_CHANGED: Final = """
SELECT r.record, r.record_schema, r.node
FROM unnest(CAST(:users AS text[]), CAST(:requests AS text[])) AS k(user_id, request_id)
JOIN requests r ON r.user_id = k.user_id AND r.request_id = k.request_id AND r.forgotten IS NULL
WHERE r.node IS DISTINCT FROM CAST(:node AS text) OR r.noted_by IS NOT NULL"""

_BIND: Final = """
INSERT INTO sessions (user_id, session_id, generation, connected_at_ms, connection_id)
VALUES (:user_id, :session_id, :now_ms, :connected_at_ms, :connection_id)
ON CONFLICT (user_id, session_id) DO UPDATE SET
  generation = CASE WHEN sessions.connection_id = excluded.connection_id THEN sessions.generation
    ELSE GREATEST(sessions.generation + 1, excluded.generation) END,
  replaced = CASE WHEN sessions.connection_id = excluded.connection_id THEN NULL ELSE sessions.connection_id END,
  connection_id = excluded.connection_id, connected_at_ms = excluded.connected_at_ms
WHERE sessions.connection_id = excluded.connection_id
  OR sessions.connected_at_ms + CAST(:margin_ms AS bigint) <= excluded.connected_at_ms
RETURNING generation, replaced"""

_REPLACED: Final = """
SELECT k.connection_id
FROM unnest(CAST(:users AS text[]), CAST(:sessions AS text[]), CAST(:connections AS text[]))
  AS k(user_id, session_id, connection_id)
JOIN sessions s ON s.user_id = k.user_id AND s.session_id = k.session_id AND s.connection_id <> k.connection_id"""

_UNBIND: Final = """
DELETE FROM sessions WHERE user_id = :user_id AND session_id = :session_id AND connection_id = :connection_id"""


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
    """The rows of one gateway: whoever accepts a request is its home."""

    ACCEPT = sql.ACCEPT.replace("attachments)", "attachments, node, ordering_key)").replace("?)", "?, ?, ?)")

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node
        self.counts: dict[str, tuple[int, int, int]] = {}
        """Of users who were counted: see Transaction."""
        self.noted: list[int] = []
        """Numbers of requests of others that were changed."""

    def more(self, database: Database) -> None:
        if self.counts:
            counts = ((*of_user, user) for user, of_user in sorted(self.counts.items()))
            database.executemany(_COUNT, list(counts))
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

    def __init__(self, database: Database, *, node: str, schema: str, taken: set[RequestKey]) -> None:
        self.database = database
        self.node = node
        self.taken = taken
        """What was taken over: the queue may have put it behind later ones of its key."""
        self.state = WriterState()
        self.homes: dict[RequestKey, str | None] = {}
        self.effects: dict[Changed | Freed, None] = {}
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
        locks: Any = {"keys": sorted(lock_key(f"{self._schema} user {user}") for user in names)}
        of_users: Any = {"users": names}
        of_keys: Any = {"users": [key.user_id for key in keys], "requests": [key.request_id for key in keys]}
        ended = numbers = None
        if not names:
            database.begin()
            self._read_budgets(names, teams)
            return
        with database.together():
            database.begin()
            database.execute(_LOCK, locks)
            unfinished, known = database.execute(_UNFINISHED, of_users), database.execute(_USERS, of_users)
            if keys:
                ended = database.execute(_RECORDS, of_keys)
            if accepts:
                numbers = database.execute(_NUMBERS, {"count": accepts})
        for n, user_id, text, record_schema, options, question, home in unfinished.fetchall():
            record = self._decode(user_id, text, record_schema)
            if record is not None:
                asked = decode_question(options, question, "")
                self.state.track(record.key, record, asked, n=n, width=0).is_stored = True
                self.homes[record.key] = home
        for user_id, per_minute, minute, accepted, before, team, caps in known.fetchall():
            self._users.add(user_id)
            self.state.book.add_user(user_id, team, caps)
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
        book, database = self.state.book, self.database
        holds = [hold for one in self.state.tracked.values() if (hold := one.record.hold) is not None]
        teams = {*claimed, *book.teams.values(), *(hold.team for hold in holds if hold.team is not None)}
        if teams:
            named: Any = {"teams": sorted(teams)}
            keys: Any = {"keys": sorted(lock_key(f"{self._schema} team {team}") for team in teams)}
            with database.together():
                database.execute(_LOCK, keys)
                found = database.execute(_TEAMS, named)
            for team, caps in found.fetchall():
                book.keep(team_holder(team), decode_budgets(caps))
        if book.budgets or holds:
            holders: Any = {"holders": [*users, *map(team_holder, teams)]}
            book.add_counters(database.execute(_COUNTERS, holders).fetchall())

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
        """Whether one of the key is unfinished that was accepted before number `n`, elsewhere or taken from there."""
        return any(
            one.record.ordering_key == ordering_key
            and (n is None or one.n < n)
            and (self.homes[key] != self.node or key in self.taken)
            for key, one in self.state.tracked.items()
        )

    def accept(self, record: Record, question: Question, now_ms: int) -> None:
        tracked = self.state.track(record.key, record, question, n=self._numbers.pop(), width=0)
        self.homes[record.key] = self.node
        self.state.count(record.user_id, now_ms)
        minutes = _counted(self._minutes.get(record.user_id), window_of(now_ms))
        self._minutes[record.user_id] = self._rows.counts[record.user_id] = minutes
        if record.user_id not in self._users:
            self._users.add(record.user_id)
            self._rows.add_user(record.user_id, now_ms)
        self._rows.accept(tracked, question, encode_record(record))
        if record.hold is not None:
            entries = reserved(record.hold, record.user_id)
            self.state.book.post(entries)
            self._rows.charge(entries)

    def charge(self, entries: Collection[Entry]) -> None:
        """Write what was posted in the book."""
        self._rows.charge(entries)

    def put(self, tracked: Tracked, record: Record, content: Content = NOTHING) -> None:
        """Another record of an unfinished request, or its ending with its answer."""
        content.text.encode()
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
        if record.ending is None:
            raise ValueError("a request without a question cannot be unfinished")
        ((n,),) = self.database.execute(_NUMBERS, {"count": 1}).fetchall()
        self._rows.refuse(Tracked(record.key, record, n, None, "", None, 0), record.ending, encode_record(record))
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
        self.database.executemany(_HOME, [(self.node, tracked.n)])

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
        self._taken: set[RequestKey] = set()
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
        self._connection.submit(partial(self._transact, jobs, users), partial(self._sent, jobs))

    def _transact(self, jobs: Sequence[_Job[Any]], users: Collection[str], database: Database) -> Collection[Any]:
        """On the writer's thread. Raises: Undone: it has no effect. Unavailable: nobody knows."""
        transaction = Transaction(database, node=self._node, schema=self._schema, taken=self._taken)
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
            raise (Undone if database.is_lost(exc) else Unavailable)(why) from exc
        try:
            database.commit()
        except Exception as exc:
            raise Unavailable(database.cause_of(exc) or "the store failed") from exc
        return transaction.effects

    def _sent(self, jobs: Sequence[_Job[Any]], effects: Collection[Any] | None, error: Exception | None) -> None:
        self._is_busy = False
        self.last_write_failed = error is not None
        for job in jobs:
            if job.future.done():  # its caller was cancelled; what it asked for happened all the same
                continue
            if error is not None:
                job.future.set_exception(own(error))
            elif job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.value)
        if effects:
            self._on_effects(effects)
        if self._jobs:
            asyncio.get_running_loop().call_soon(self._send)


class FleetStore(PostgresStore):
    """The store of one gateway among several on one database. `node`: the gateway's name.

    `on_effects` is called with what was changed about requests of other gateways, after the COMMIT.
    """

    def __init__(
        self,
        url: str,
        *,
        node: str,
        schema: str = "answerback",
        reconnect_timeout_s: float = 3.0,
        max_queued: int = 100_000,
        clock: Callable[[], int] = epoch_ms,
    ) -> None:
        super().__init__(
            url, schema=schema, reconnect_timeout_s=reconnect_timeout_s, max_queued=max_queued, prepare=prepare
        )
        self.node = node
        self.schema = schema
        self.clock = clock
        self.mine: set[RequestKey] = set()
        """Unfinished requests that are at home here."""
        self.on_effects: Callable[[Collection[Changed | Freed]], None] = lambda _: None
        self._fleet = FleetCommit(node=node, schema=schema, max_queued=max_queued, on_effects=self._notify)
        self._group = self._fleet  # type: ignore[assignment] # it does what is asked of it here

    def _notify(self, effects: Collection[Changed | Freed]) -> None:
        self.on_effects(effects)

    async def store_id(self) -> str:
        rows = await self._rows(sql.SELECT_MARK, {"name": "store_id"})
        return str(rows[0][0])

    # --- requests

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        for text in (question.message, question.system or "", question.replaces or ""):
            text.encode()
        encode_record(record).encode()
        was_mine = record.key in self.mine
        self.mine.add(record.key)  # also if nobody learns whether it was stored
        admission = await self._fleet.do(
            partial(_accept, record=record, question=question, quota=quota, now_ms=now_ms),
            users=(record.user_id,),
            key=record.key,
            accepts=True,
            teams=() if quota.team is None else (quota.team,),
        )
        if not isinstance(admission, Accepted) and not was_mine:
            self.mine.discard(record.key)
        return admission

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        outcome, has_ended = await self._fleet.do(
            partial(_change, key=key, change=change, now_ms=self.clock()), users=(key.user_id,), key=key
        )
        if has_ended:
            self.mine.discard(key)
        return cast("T", outcome)

    async def take_over(
        self, nodes: Collection[str], *, is_alive: Callable[[str], bool], is_here: Callable[[RequestKey], bool]
    ) -> Sequence[Record]:
        """Make this gateway the home of the unfinished requests of `nodes`, and of those that have no home.

        Returns them with all else of their ordering keys that is at home here, in the order accepted. An answer leads
        nowhere whose target is a connection that `is_alive` denies. `is_here`: whether this gateway knows a request of
        its own. Raises: Unavailable: some may have been taken; the next call with the own name returns them.
        """
        rows = await self._rows(_UNFINISHED_OF, {"nodes": list(nodes)})  # type: ignore[dict-item]
        left = [user for user, name, home in rows if home != self.node or not is_here(RequestKey(user, name))]
        users = tuple(dict.fromkeys(left))
        take = partial(_take_over, nodes=frozenset(nodes), is_here=is_here, is_alive=is_alive)
        taken: list[tuple[int, Record]] = []
        for start in range(0, len(users), TAKEN_AT_ONCE):
            taken += await self._fleet.do(take, users=users[start : start + TAKEN_AT_ONCE])
        records = [record for _, record in sorted(taken, key=lambda one: one[0])]
        self.mine.update(record.key for record in records)
        return records

    async def changed(self, keys: Collection[RequestKey]) -> Sequence[Record]:
        """Those of our requests that another gateway has changed or taken over."""
        found: list[Record] = []
        if keys:
            of_keys: Any = {"users": [key.user_id for key in keys], "requests": [key.request_id for key in keys]}
            for text, schema, home in await self._rows(_CHANGED, {**of_keys, "node": self.node}):
                record = decode_record(text, schema)
                found.append(record)
                if home != self.node:
                    self.mine.discard(record.key)
        return found

    # --- users and conversations: under the lock of their user

    async def _write_of(self, user_id: str, function: Callable[[Database], T]) -> T:
        return await self._fleet.do(lambda transaction: transaction.run(function), users=(user_id,))

    async def _expire(self, rows: Sequence[sql.Row]) -> int:
        expire = partial(writes.expire, rows=rows)
        users = tuple({user_id for user_id, *_ in rows})
        return await self._fleet.do(lambda transaction: transaction.run(expire), users=users)

    async def _store_limit(self, user_id: str, now_ms: int, change: Callable[[WriterState], int | None]) -> None:
        def decide(transaction: Transaction) -> None:
            row: sql.Params = {"user_id": user_id, "created_at_ms": now_ms, "per_minute": change(transaction.state)}
            transaction.run(lambda database: database.execute(sql.SET_LIMIT, row))

        await self._fleet.do(decide, users=(user_id,))

    async def _store_caps(self, holder: str, now_ms: int, change: Callable[[WriterState], tuple[Budget, ...]]) -> None:
        def decide(transaction: Transaction) -> None:
            statement, row = caps_row(holder, now_ms)
            row["caps"] = encode_budgets(change(transaction.state))
            transaction.run(lambda database: database.execute(statement, row))

        await self._fleet.do(decide, **_about(holder))

    async def set_team(self, user_id: str, team: str | None, *, now_ms: int) -> None:
        row: sql.Params = {"user_id": user_id, "team": team, "created_at_ms": now_ms}
        await self._fleet.do(
            lambda transaction: transaction.run(lambda database: database.execute(sql.SET_TEAM, row)), users=(user_id,)
        )

    async def budgets(self, holder: str, *, now_ms: int) -> Sequence[BudgetState]:
        return await self._fleet.do(lambda transaction: transaction.state.book.states(holder, now_ms), **_about(holder))

    async def budgets_of_user(self, user_id: str, team: str | None, *, now_ms: int) -> Sequence[BudgetState]:
        return await self._fleet.do(
            lambda transaction: transaction.state.book.states_of_user(user_id, team, now_ms),
            users=(user_id,),
            teams=() if team is None else (team,),
        )

    async def _forget_counters(self, before_ms: int) -> None:
        await self._group.call(lambda database: database.execute(sql.FORGET_COUNTERS, {"before_ms": before_ms}))

    async def is_blocked(self, user_id: str) -> bool:
        rows = await self._rows(_LIMIT, {"user_id": user_id})
        return bool(rows) and is_locked(rows[0][0])

    async def delete_user(self, user_id: str) -> bool:
        parts = await self._user_data()

        def decide(transaction: Transaction) -> bool:
            for key in transaction.state.tracked:
                if (home := transaction.homes[key]) is not None and home != transaction.node:
                    transaction.effects[Changed(home, key)] = None
            if entries := transaction.state.settle_user(user_id):
                transaction.charge(entries)
            return transaction.run(partial(writes.delete_user, user_id=user_id, parts=parts))

        return await self._fleet.do(decide, users=(user_id,))

    # --- sessions

    async def bind(self, connection: Connection, user_id: str) -> Bound | Superseded:
        """Make the connection the address of its session, unless a newer one is (rule: the newer connection wins).

        Doing it again is success and changes nothing.
        """
        row: dict[str, sql.Value] = {
            "user_id": user_id,
            "session_id": connection.session_id,
            "connection_id": connection.connection_id,
            "connected_at_ms": connection.connected_at_ms,
            "now_ms": self.clock(),
            "margin_ms": 0 if connection.generation is None else 1,
        }
        rows = await self._fleet.do(
            lambda transaction: transaction.run(lambda database: database.execute(_BIND, row).fetchall()),
            users=(user_id,),
        )
        if not rows:
            return Superseded()
        ((generation, replaced),) = rows
        return Bound(replace(connection, user_id=user_id, generation=generation), replaced)

    async def replaced(self, connections: Sequence[Connection]) -> Sequence[str]:
        """Those of the connections that are not the address of their session any more. Raises: Unavailable."""
        bound = [one for one in connections if one.generation is not None]
        of_bound: Any = {
            "users": [one.user_id for one in bound],
            "sessions": [one.session_id for one in bound],
            "connections": [one.connection_id for one in bound],
        }
        return [name for (name,) in await self._rows(_REPLACED, of_bound)] if bound else []

    async def unbind(self, connection: Connection) -> None:
        """The connection is closed: its session has no address, unless another connection is that already."""
        row: dict[str, sql.Value] = {
            "user_id": connection.user_id,
            "session_id": connection.session_id,
            "connection_id": connection.connection_id,
        }
        # Under the user's lock: else two gateways between which many apps move wait for each other's rows.
        await self._fleet.do(
            lambda transaction: transaction.run(lambda database: database.execute(_UNBIND, row)),
            users=(connection.user_id or "",),
        )


def _about(holder: str) -> Any:
    """Whom a call is about: the user or the team that a holder of budgets is."""
    _, is_team, name = holder.rpartition(" ")
    return {"teams": (name,)} if is_team else {"users": (name,), "accepts": True}  # for what is known of the user


def _counted(counts: tuple[int, int, int] | None, minute: int) -> tuple[int, int, int]:
    """The counts of the newest minute and of the one before, with one more request in `minute`."""
    newest, now, before = counts or (minute, 0, 0)
    if minute > newest:
        return minute, 1, now if minute == newest + 1 else 0
    return newest, now + (minute == newest), before + (minute == newest - 1)


# --- decisions, on the writer's thread --------------------------------------------------------------------------


def _accept(transaction: Transaction, *, record: Record, question: Question, quota: Quota, now_ms: int) -> Admission:
    state, key = transaction.state, record.key
    if (known := state.tracked.get(key)) is not None:
        return admit_again(known.record, position=state.position(known.record.ordering_key, known.n))
    if (ended := transaction.ended(key)) is not None:
        return admit_again(ended, position=0)
    admission = state.admit(record, question, quota, now_ms)
    if isinstance(admission, Accepted):
        if admission.hold is not None:
            record = with_fields(record, hold=admission.hold)
        if record.attempt and transaction.is_behind(record.ordering_key):
            record, admission = changes.not_begun(record), replace(admission, is_behind=True)
        transaction.accept(record, question, now_ms)
    return admission


def _change(transaction: Transaction, *, key: RequestKey, change: Change[T], now_ms: int) -> tuple[Any, bool]:
    """The outcome, and whether the request has ended."""
    state = transaction.state
    tracked = state.tracked.get(key)
    before = transaction.ended(key) if tracked is None else tracked.record
    step = change(before)
    if step.record is None:
        return step.outcome, before is None or before.ending is not None
    if tracked is None:
        (transaction.refuse if before is None else transaction.rewrite)(step.record)
        return step.outcome, True
    before, runs = tracked.record, step.record.ending is None
    if step.record.attempt > before.attempt:  # a claim, or an ending without one
        # Any gateway may end what waits. A claim that finds the attempts spent must not end what runs elsewhere.
        if transaction.homes[key] != transaction.node and (runs or before.state is State.RUNNING):
            return Unknown(), False
        # What has begun had its turn.
        is_first = before.attempt or not transaction.is_behind(before.ordering_key, tracked.n)
        if runs and not is_first:
            return Busy(now_ms + BEHIND_MS), False
    if step.charge:
        step = state.book.charged(step)
        transaction.charge(step.charge)
    assert step.record is not None
    transaction.put(tracked, step.record, step.content)
    return step.outcome, step.record.ending is not None


def _take_over(
    transaction: Transaction,
    *,
    nodes: Collection[str],
    is_here: Callable[[RequestKey], bool],
    is_alive: Callable[[str], bool],
) -> list[tuple[int, Record]]:
    state, keys = transaction.state, set()
    for tracked in list(state.tracked.values()):
        key, home = tracked.key, transaction.homes[tracked.key]
        if home is None or (home in nodes and not (home == transaction.node and is_here(key))):
            transaction.take(tracked)
            target = tracked.record.target
            step = changes.recover(tracked.record, keeps_target=target is not None and is_alive(target.connection_id))
            if step.record is not None:
                transaction.put(tracked, step.record)
            keys.add(tracked.record.ordering_key)
    return [
        (tracked.n, tracked.record)
        for tracked in state.tracked.values()
        if tracked.record.ordering_key in keys and transaction.homes[tracked.key] == transaction.node
    ]


# --- the tables of a fleet ---------------------------------------------------------------------------------------


def prepare(database: Database) -> None:
    """Bring the tables of a fleet up to date. The caller holds a transaction that keeps others from doing the same.

    Raises: StoreError: a newer program has been here.
    """
    folder = files("answerback.stores").joinpath("sql", "fleet")
    known = [parse(file.name, file.read_text(encoding="utf-8")) for file in sorted(folder.iterdir(), key=str)]
    found = database.execute(sql.SELECT_MARK, {"name": _MARK}).fetchall()
    version = int(found[0][0]) if found else 0
    if version > known[-1].version:
        raise StoreError("A newer program has served this database as one of several gateways. Upgrade this one.")
    for migration in known:
        if migration.version > version:
            for statement in migration.statements:
                database.execute(statement)
    database.execute(sql.PUT_MARK, {"name": _MARK, "value": str(known[-1].version)})
    database.execute(sql.NAME_STORE, {"value": str(uuid.uuid4())})
    # A gateway that had the database for itself has given out numbers, too.
    database.execute(_RAISE_NUMBERS)


_RAISE_NUMBERS: Final = """
SELECT setval('request_n', highest) FROM (
  SELECT GREATEST((SELECT COALESCE(MAX(n), 0) FROM requests),
    (SELECT COALESCE(MAX(CAST(value AS bigint)), 0) FROM marks WHERE name = 'n'), 1) AS highest
) AS given WHERE highest > (SELECT last_value FROM request_n)"""
