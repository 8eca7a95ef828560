"""A store that several gateways write to at once, in one PostgreSQL database.

A request has a home: the gateway that is to run it, at first the one that accepted it. Only its home may claim it, and
only while nothing earlier of its ordering key is unfinished at another gateway, or was taken over. What it accepted
itself is in order in its queue. Each write is a transaction of `fleet_commit`.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar, cast

from msgspec.structs import replace as with_fields

from answerback.clock import epoch_ms
from answerback.core import request as changes
from answerback.core.admission import admit_again, is_locked
from answerback.core.budget import Budget, BudgetState, encode_budgets
from answerback.core.request import SCHEMA, Busy, Change, Question, Record, RequestKey, Unknown
from answerback.core.transitions import State
from answerback.core.watching import MOST_WATCHED, placed
from answerback.ports import Accepted, Admission, Bound, Connection, Place, Quota, Superseded, Watcher
from answerback.stores import statements as sql
from answerback.stores import writes
from answerback.stores.database import Database, StoreError
from answerback.stores.encoding import decode_record, encode_record
from answerback.stores.fleet_commit import MAX_USERS, Changed, FleetCommit, Freed, Transaction
from answerback.stores.gathered import Gathered
from answerback.stores.migrations import parse
from answerback.stores.nodes import read_agreed
from answerback.stores.postgres import PostgresStore
from answerback.stores.store import caps_row
from answerback.stores.writer_state import WriterState

T = TypeVar("T")

Standing: TypeAlias = tuple[int | None, str | None, str | None]
"""What the operator has set for a user: the limit a minute, the team, the budgets."""

BEHIND_MS: Final = 1_000
"""How soon a request is looked at again that waits for one of another gateway; a notice comes before, as a rule."""

NO_BEATS: Final[Mapping[str, int]] = MappingProxyType({})

TAKEN_AT_ONCE: Final = 50
"""Users whose requests are taken over in one go."""

_MARK: Final = "fleet"
OUTDATED: Final = "A newer program has served this database as one of several gateways. Upgrade this one."

_NEWEST_UNFINISHED: Final = "SELECT COALESCE(MAX(record_schema), 0) FROM requests WHERE ended_at_ms IS NULL"

_STANDING: Final = "SELECT user_id, per_minute, team, caps FROM users WHERE user_id = ANY(CAST(:users AS text[]))"

# Home of nobody: a gateway had the database for itself when it was accepted.
_UNFINISHED_OF: Final = """
SELECT user_id, request_id, node FROM requests
WHERE ended_at_ms IS NULL AND (node = ANY(CAST(:nodes AS text[])) OR node IS NULL) ORDER BY n"""

_BEATS: Final = "SELECT node, beat_at_ms FROM nodes WHERE node = ANY(CAST(:nodes AS text[]))"

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

_OPEN: Final = """
SELECT connection_id FROM sessions
WHERE user_id = :user_id AND connection_id = ANY(CAST(:connections AS text[]))"""

_WATCHERS: Final = """
SELECT session_id, connection_id, generation, number, is_off, until_ms FROM watchers
WHERE user_id = :user_id AND conversation_id = :conversation_id ORDER BY until_ms, generation, number"""

_ALL_WATCHERS: Final = """
SELECT conversation_id, session_id, connection_id, generation, number, is_off, until_ms FROM watchers
WHERE user_id = :user_id AND conversation_id = ANY(CAST(:conversations AS text[])) AND until_ms > :now_ms
ORDER BY until_ms, generation, number"""

_WATCHED: Final = """
SELECT count(DISTINCT conversation_id) FROM watchers
WHERE user_id = :user_id AND conversation_id <> :conversation_id AND until_ms > :now_ms"""

_LEAVE: Final = """
DELETE FROM watchers WHERE user_id = :user_id AND (conversation_id = :conversation_id OR until_ms <= :now_ms)"""
_LEAVE_ALL: Final = "DELETE FROM watchers WHERE user_id = :user_id AND connection_id = :connection_id"
_FORGET_WATCHERS: Final = "DELETE FROM watchers WHERE until_ms <= :now_ms"
_WATCH: Final = """
INSERT INTO watchers (session_id, connection_id, generation, number, is_off, until_ms, user_id, conversation_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""

_UNBIND: Final = """
DELETE FROM sessions WHERE user_id = :user_id AND session_id = :session_id AND connection_id = :connection_id"""


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
        self._accepting: Counter[RequestKey] = Counter()
        self.on_effects: Callable[[Collection[Changed | Freed]], None] = lambda _: None
        self._fleet = FleetCommit(node=node, schema=schema, max_queued=max_queued, on_effects=self._notify)
        self._group = self._fleet  # type: ignore[assignment] # it does what is asked of it here
        self._standing = Gathered(self._read_standing, most=MAX_USERS)
        self._bind = Gathered(self._bind_all, most=MAX_USERS)
        self._unbind = Gathered(self._unbind_all, most=MAX_USERS)

    def _notify(self, effects: Collection[Changed | Freed]) -> None:
        self.on_effects(effects)

    def order_by(self, is_here: Callable[[RequestKey], bool]) -> None:
        """A queue puts the requests of this gateway in order. `is_here`: whether it has a request; for any thread."""
        self._fleet.is_here = is_here

    def write_schema(self, schema: int) -> None:
        """Write no newer version of the record's form from now on."""
        self._fleet.writes_schema = schema

    async def store_id(self) -> str:
        if self._store_id is None:  # `prepare` has named the store
            rows = await self._rows(sql.SELECT_MARK, {"name": "store_id"})
            self._store_id = str(rows[0][0])
        return self._store_id

    # --- requests

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        for text in (question.message, question.system or "", question.replaces or ""):
            text.encode()
        encode_record(record).encode()
        key = record.key
        self.mine.add(key)  # also if nobody learns whether it was stored
        self._accepting[key] += 1
        try:
            admission, is_home = await self._fleet.do(
                partial(_accept, record=record, question=question, quota=quota, now_ms=now_ms),
                users=(key.user_id,),
                key=key,
                accepts=True,
                teams=() if quota.team is None else (quota.team,),
            )
        finally:
            self._accepting[key] -= 1
            if not self._accepting[key]:
                del self._accepting[key]
        if not is_home:
            self.let_go(key)
        return admission

    def let_go(self, key: RequestKey) -> None:
        """A request has ended, or is at home elsewhere. One that is being accepted was not seen yet."""
        if key not in self._accepting:
            self.mine.discard(key)

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        outcome, has_ended = await self._fleet.do(
            partial(_change, key=key, change=change, now_ms=self.clock()), users=(key.user_id,), key=key
        )
        if has_ended:
            self.let_go(key)
        return cast("T", outcome)

    async def take_over(
        self, nodes: Collection[str], *, is_alive: Callable[[str], bool], beats: Mapping[str, int] = NO_BEATS
    ) -> Sequence[Record]:
        """Make this gateway the home of the unfinished requests of `nodes`, and of those that have no home.

        Returns them with all else of their ordering keys that is at home here, in the order accepted. An answer leads
        nowhere whose target is a connection that `is_alive` denies. Of its own requests it takes those that are not in
        its queue. `beats`: the last that was seen of gateways taken for dead. One that has given another since lives:
        this gateway may have been frozen meanwhile. Raises: Unavailable: some may have been taken; the next call with
        the own name returns them.
        """
        rows = await self._rows(_UNFINISHED_OF, {"nodes": list(nodes)})  # type: ignore[dict-item]
        left = [
            user for user, name, home in rows if home != self.node or not self._fleet.is_here(RequestKey(user, name))
        ]
        users = tuple(dict.fromkeys(left))
        take = partial(_take_over, nodes=frozenset(nodes), beats=beats, is_alive=is_alive)
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
                    self.let_go(record.key)
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
        return await self._fleet.do(
            lambda transaction: transaction.state.budgets.states(holder, now_ms), **_about(holder)
        )

    async def budgets_of_user(self, user_id: str, team: str | None, *, now_ms: int) -> Sequence[BudgetState]:
        return await self._fleet.do(
            lambda transaction: transaction.state.budgets.states_of_user(user_id, team, now_ms),
            users=(user_id,),
            teams=() if team is None else (team,),
        )

    async def _forget_counters(self, before_ms: int) -> None:
        await self._group.call(lambda database: database.execute(sql.FORGET_COUNTERS, {"before_ms": before_ms}))

    async def is_blocked(self, user_id: str) -> bool:
        per_minute, _, _ = await self._standing(user_id)
        return is_locked(per_minute)

    async def _read_standing(self, users: Sequence[str]) -> Sequence[Standing]:
        """What the operator has set for each of the users."""
        rows = await self._rows(_STANDING, {"users": list(set(users))})  # type: ignore[dict-item]
        found: dict[str, Standing] = {user_id: (limit, team, caps) for user_id, limit, team, caps in rows}
        return [found.get(user, (None, None, None)) for user in users]

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
        row: sql.Params = {
            "user_id": user_id,
            "session_id": connection.session_id,
            "connection_id": connection.connection_id,
            "connected_at_ms": connection.connected_at_ms,
            "now_ms": self.clock(),
            "margin_ms": 0 if connection.generation is None else 1,
        }
        rows = await self._bind(row)
        if not rows:
            return Superseded()
        ((generation, replaced),) = rows
        return Bound(replace(connection, user_id=user_id, generation=generation), replaced)

    async def _bind_all(self, rows: Sequence[sql.Params]) -> Sequence[Sequence[sql.Row]]:
        def write(database: Database) -> list[list[sql.Row]]:
            with database.together():
                bound = [database.execute(_BIND, row) for row in rows]
            return [cursor.fetchall() for cursor in bound]

        return await self._fleet.do(lambda transaction: transaction.run(write), users=_users_of(rows))

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
        await self._unbind(
            {
                "user_id": connection.user_id,
                "session_id": connection.session_id,
                "connection_id": connection.connection_id,
            }
        )

    async def _unbind_all(self, rows: Sequence[sql.Params]) -> Sequence[None]:
        def decide(transaction: Transaction) -> None:
            def write(database: Database) -> None:
                with database.together():
                    for row in rows:
                        database.execute(_UNBIND, row)
                        if row["user_id"] in transaction.watched:
                            database.execute(_LEAVE_ALL, row)

            transaction.run(write)

        # Under the user's lock: else two gateways between which many apps move wait for each other's rows.
        await self._fleet.do(decide, users=_users_of(rows))
        return [None] * len(rows)

    # --- who watches: under the lock of their user, like the requests of which they are shown the answers

    @property
    def watched(self) -> Container[str]:
        return self._fleet.watched

    async def watch(
        self, user_id: str, conversation_id: str | None, watcher: Watcher, *, now_ms: int, most: int
    ) -> Place:
        watch = partial(_watch, user_id=user_id, conversation_id=conversation_id or "", most=most)
        return await self._fleet.do(partial(watch, watcher=watcher, now_ms=now_ms), users=(user_id,))

    async def watchers(
        self, user_id: str, *conversations: str | None, now_ms: int
    ) -> Mapping[str | None, Sequence[Watcher]]:
        names = [name or "" for name in conversations]
        place: Any = {"user_id": user_id, "now_ms": now_ms, "conversations": names}
        found = await self._rows(_ALL_WATCHERS, place)
        return {name: [_watcher(row[1:]) for row in found if row[0] == (name or "")] for name in conversations}

    async def purge(self, *, ended_before_ms: int, refused_before_ms: int) -> int:
        now: sql.Params = {"now_ms": self.clock()}
        await self._group.call(lambda database: database.execute(_FORGET_WATCHERS, now))
        return await super().purge(ended_before_ms=ended_before_ms, refused_before_ms=refused_before_ms)


def _users_of(rows: Sequence[sql.Params]) -> tuple[str, ...]:
    return tuple({str(row["user_id"]) for row in rows})


def _about(holder: str) -> Any:
    """Whom a call is about: the user or the team that a holder of budgets is."""
    _, is_team, name = holder.rpartition(" ")
    return {"teams": (name,)} if is_team else {"users": (name,), "accepts": True}  # for what is known of the user


def _accept(
    transaction: Transaction, *, record: Record, question: Question, quota: Quota, now_ms: int
) -> tuple[Admission, bool]:
    """The outcome, and whether the request is at home here: another frame with its id may have been accepted."""
    admission = _admit(transaction, record=record, question=question, quota=quota, now_ms=now_ms)
    is_home = record.key in transaction.state.tracked and transaction.homes[record.key] == transaction.node
    return admission, is_home


def _admit(transaction: Transaction, *, record: Record, question: Question, quota: Quota, now_ms: int) -> Admission:
    state, key = transaction.state, record.key
    if (known := state.tracked.get(key)) is not None:
        return admit_again(known.record, position=state.position(known.record.ordering_key, known.n))
    if (ended := transaction.ended(key)) is not None:
        return admit_again(ended, position=0)
    admission = state.admit(record, question, quota, now_ms)
    if isinstance(admission, Accepted):
        if admission.hold is not None:
            record = with_fields(record, hold=admission.hold)
        record = record.lowered(transaction.writes_schema)
        admission = with_fields(admission, hold=record.hold)
        if record.attempt and transaction.is_behind(record.ordering_key):
            record, admission = changes.not_begun(record), with_fields(admission, is_behind=True)
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
        step = state.budgets.charged(step)
        transaction.charge(step.charge)
    assert step.record is not None
    transaction.put(tracked, step.record, step.content)
    return step.outcome, step.record.ending is not None


def _watcher(row: sql.Row) -> Watcher:
    session_id, connection_id, generation, number, is_off, until_ms = row
    return Watcher(
        session_id=session_id,
        connection_id=connection_id,
        generation=generation,
        number=number,
        off=bool(is_off),
        until_ms=until_ms,
    )


def _watch(
    transaction: Transaction, *, user_id: str, conversation_id: str, watcher: Watcher, now_ms: int, most: int
) -> Place:
    place: dict[str, sql.Value] = {"user_id": user_id, "conversation_id": conversation_id}

    def write(database: Database) -> Place:
        known = [_watcher(row) for row in database.execute(_WATCHERS, place).fetchall()]
        ((others,),) = database.execute(_WATCHED, {**place, "now_ms": now_ms}).fetchall()
        if not known and others >= MOST_WATCHED:
            return Place.FULL
        found = placed(known, watcher, now_ms=now_ms, most=most)
        if found is Place.FULL:
            connections: Any = {"user_id": user_id, "connections": [one.connection_id for one in known]}
            there = {name for (name,) in database.execute(_OPEN, connections).fetchall()}
            known = [one for one in known if one.connection_id in there]
            found = placed(known, watcher, now_ms=now_ms, most=most)
        if isinstance(found, Place):
            return found
        database.execute(_LEAVE, {**place, "now_ms": now_ms})
        database.executemany(
            _WATCH,
            [
                (
                    *(one.session_id, one.connection_id, one.generation, one.number, int(one.off), one.until_ms),
                    *(user_id, conversation_id),
                )
                for one in found
            ],
        )
        return Place.KEPT

    outcome = transaction.run(write)
    if outcome is Place.KEPT:
        transaction.watched.add(user_id)
    return outcome


def _take_over(
    transaction: Transaction, *, nodes: Set[str], beats: Mapping[str, int], is_alive: Callable[[str], bool]
) -> list[tuple[int, Record]]:
    state, keys = transaction.state, set()
    if beats:
        of_nodes: Any = {"nodes": list(beats)}
        found = transaction.database.execute(_BEATS, of_nodes).fetchall()
        nodes -= {name for name, beat_at_ms in found if beat_at_ms != beats[name]}
    for tracked in list(state.tracked.values()):
        key, home = tracked.key, transaction.homes[tracked.key]
        if home is None or (home in nodes and not (home == transaction.node and transaction.is_here(key))):
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


def prepare(database: Database, before: Callable[[], object] = bool) -> None:
    """Bring the tables of a fleet up to date. The caller holds a transaction that keeps others from doing the same.

    `before`: called before a table is changed, if one is. Raises: StoreError: a newer program has been here.
    """
    folder = files("answerback.stores").joinpath("sql", "fleet")
    known = [parse(file.name, file.read_text(encoding="utf-8")) for file in sorted(folder.iterdir(), key=str)]
    found = database.execute(sql.SELECT_MARK, {"name": _MARK}).fetchall()
    version = int(found[0][0]) if found else 0
    if version > known[-1].version:
        raise StoreError(OUTDATED)
    if version < known[-1].version:
        before()
    for migration in known:
        if migration.version > version:
            for statement in migration.statements:
                database.execute(statement)
    ((unfinished,),) = database.execute(_NEWEST_UNFINISHED).fetchall()
    if max(unfinished, read_agreed(database)) > SCHEMA:
        raise StoreError(OUTDATED)
    database.execute(sql.PUT_MARK, {"name": _MARK, "value": str(known[-1].version)})
    database.execute(sql.NAME_STORE, {"value": str(uuid.uuid4())})
    # A gateway that had the database for itself has given out numbers, too.
    database.execute(_RAISE_NUMBERS)


_RAISE_NUMBERS: Final = """
SELECT setval('request_n', highest) FROM (
  SELECT GREATEST((SELECT COALESCE(MAX(n), 0) FROM requests),
    (SELECT COALESCE(MAX(CAST(value AS bigint)), 0) FROM marks WHERE name = 'n'), 1) AS highest
) AS given WHERE highest > (SELECT last_value FROM request_n)"""
