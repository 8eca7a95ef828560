"""The table of the gateways that share a database: each says twice a second that it lives, and sees who else does."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from statistics import median_low
from typing import Any, Final, TypeVar

from answerback.clock import epoch_ms
from answerback.stores import statements as sql
from answerback.stores.database import Connection as Thread
from answerback.stores.database import Database
from answerback.stores.migrations import lock_key
from answerback.stores.postgres import PostgresDatabase, reach

T = TypeVar("T")

STALE_MS: Final = 1_000
"""A gateway whose lock is free and whose beat is older than this is dead. It would have given two. A process that lives
has lost its lock only if its connection broke, and takes it again 0.2 s later."""

LOST_MS: Final = 20_000
"""One whose beat is older than this is dead, whatever its lock says: its machine may have vanished."""

FORGET_MS: Final = 86_400_000

_NOW: Final = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"

_BEAT: Final = f"""
INSERT INTO nodes (node, incarnation, state, started_at_ms, beat_at_ms, reads_schema, version, facts)
VALUES (:node, :incarnation, :state, {_NOW}, {_NOW}, :reads_schema, :version, :facts)
ON CONFLICT (node) DO UPDATE SET beat_at_ms = excluded.beat_at_ms, state = excluded.state,
  reads_schema = excluded.reads_schema, version = excluded.version, facts = excluded.facts,
  started_at_ms = CASE WHEN nodes.incarnation = excluded.incarnation THEN nodes.started_at_ms
    ELSE excluded.started_at_ms END, incarnation = excluded.incarnation
RETURNING beat_at_ms"""  # noqa: S608 - a constant

_AGREED: Final = "record_schema"
_READS_LESS: Final = f"""
SELECT 1 FROM nodes WHERE reads_schema < :schema AND state <> 'gone'
  AND (beat_at_ms > {_NOW} - {STALE_MS} OR NOT node = ANY(CAST(:dead AS text[])))"""  # noqa: S608

_NODES: Final = f"""
SELECT n.node, n.state, {_NOW} - n.beat_at_ms, n.version, n.facts, n.started_at_ms, n.beat_at_ms, EXISTS (
    SELECT 1 FROM leases l WHERE l.name = 'janitor' AND l.holder = n.node AND l.until_ms > {_NOW}
  ) FROM nodes n ORDER BY n.node"""  # noqa: S608

_LOCKED: Final = """
SELECT (CAST(classid AS bigint) << 32) + CAST(objid AS bigint) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

# Also one that died and never came back, under a name that was its machine's: nobody waits for it any more.
_FORGET: Final = f"""
DELETE FROM nodes WHERE beat_at_ms < {_NOW} - {FORGET_MS} AND (state = 'gone' OR NOT EXISTS (
  SELECT 1 FROM requests r WHERE r.node = nodes.node AND r.ended_at_ms IS NULL))"""  # noqa: S608 - constants

_LEAD: Final = f"""
INSERT INTO leases (name, holder, until_ms) VALUES (:name, :holder, {_NOW} + :for_ms)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until_ms = excluded.until_ms
WHERE leases.holder = excluded.holder OR leases.until_ms < {_NOW} RETURNING 1"""  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A gateway of the fleet, as its last beat and its lock show it. `age_ms`: of the beat. `janitor`: it cleans up."""

    name: str
    state: str
    age_ms: int
    has_lock: bool
    version: str
    started_at_ms: int
    beat_at_ms: int = 0
    facts: Mapping[str, int]
    janitor: bool = False

    @property
    def is_dead(self) -> bool:
        """Whether it is gone without having said that it would go."""
        return self.state_now == "dead"

    @property
    def state_now(self) -> str:
        """`serving`, `standby`, `draining`, `gone` or `dead`."""
        return self.state_seen(is_dead=self.is_lost or self.may_be_dead)

    def state_seen(self, *, is_dead: bool) -> str:
        """The state by who knows whether it is silent for good. One that was leaving has left."""
        if not is_dead:
            return self.state
        return "gone" if self.state in ("gone", "draining") else "dead"

    @property
    def dead_in_ms(self) -> int | None:
        """Its lock is free: how soon it will be dead if no beat comes. None: it is there, or has gone."""
        return None if self.has_lock or self.state == "gone" else max(0, STALE_MS + 1 - self.age_ms)

    @property
    def is_lost(self) -> bool:
        """Whether it was silent for so long that it counts as dead."""
        return self.age_ms > LOST_MS

    @property
    def may_be_dead(self) -> bool:
        """Whether it is silent, and its lock is free."""
        return not self.has_lock and self.age_ms > STALE_MS


@dataclass(eq=False)
class Nodes:
    """The table, on a connection of its own, which `connect` makes. `clock`: this machine's, in epoch milliseconds.

    `offset_ms`: how far the database's clock is ahead of it.
    """

    connect: Callable[[], Thread]
    schema: str
    _: KW_ONLY
    node: str
    incarnation: str
    clock: Callable[[], int] = epoch_ms

    def __post_init__(self) -> None:
        self._thread: Thread | None = None
        self._offsets: deque[int] = deque(maxlen=15)
        self.offset_ms = 0

    async def beat(self, state: str, *, reads_schema: int, version: str, facts: Mapping[str, int]) -> Sequence[Node]:
        """Say that we live; the others. Raises: Unavailable."""
        row: dict[str, Any] = {
            "node": self.node,
            "incarnation": self.incarnation,
            "state": state,
            "reads_schema": reads_schema,
            "version": version,
            "facts": json.dumps(facts),
        }
        nodes, offset_ms = await self._run(partial(_beat, row=row, schema=self.schema, clock=self.clock))
        self._offsets.append(offset_ms)
        self.offset_ms = median_low(self._offsets)
        return [node for node in nodes if node.name != self.node]

    async def agree(self, schema: int, *, dead: Collection[str]) -> int:
        """The version of the record's form that may be written: `schema`, once all read it that are not `dead`.

        It never falls: what was written stays. So an older program cannot come back. Raises: Unavailable.
        """
        return await self._run(partial(_agree, schema=schema, dead=list(dead)))

    async def lead(self, name: str, *, for_s: float) -> bool:
        """Whether this gateway holds the lease of that name now. Raises: Unavailable."""
        row: dict[str, Any] = {"name": name, "holder": self.node, "for_ms": int(for_s * 1000)}
        return await self._run(lambda database: bool(database.execute(_LEAD, row).fetchall()))

    async def close(self) -> None:
        """Disconnect."""
        if self._thread is not None:
            await self._thread.close()
            self._thread = None

    async def _run(self, function: Callable[[Database], T]) -> T:
        if self._thread is None:
            self._thread = self.connect()
        return await self._thread.read(function)


def connect_nodes(url: str, schema: str) -> Thread:
    """A connection for `Nodes`, in a thread of its own."""
    return Thread(lambda: PostgresDatabase(reach(url, schema)), "answerback-nodes")


def list_nodes(database: Database, schema: str) -> list[Node]:
    """Every gateway that has been here."""
    locked = {key for (key,) in database.execute(_LOCKED).fetchall()}
    return [
        Node(
            name=name,
            state=state,
            age_ms=age_ms,
            has_lock=lock_key(f"{schema} node {name}") in locked,
            version=version,
            started_at_ms=started_at_ms,
            beat_at_ms=beat_at_ms,
            facts=json.loads(facts),
            janitor=bool(janitor),
        )
        for name, state, age_ms, version, facts, started_at_ms, beat_at_ms, janitor in database.execute(
            _NODES
        ).fetchall()
    ]


def _agree(database: Database, *, schema: int, dead: list[str]) -> int:
    agreed = read_agreed(database)
    reads_less: Any = {"schema": schema, "dead": dead}
    if agreed >= schema or database.execute(_READS_LESS, reads_less).fetchall():
        return agreed
    database.execute(sql.PUT_MARK, {"name": _AGREED, "value": str(schema)})
    return schema


def read_agreed(database: Database) -> int:
    """The newest version of the record's form that a gateway of the fleet may have written."""
    found = database.execute(sql.SELECT_MARK, {"name": _AGREED}).fetchall()
    return int(found[0][0]) if found else 1


def _beat(
    database: Database, *, row: Mapping[str, Any], schema: str, clock: Callable[[], int]
) -> tuple[list[Node], int]:
    before_ms, began = clock(), time.monotonic()
    ((now_ms,),) = database.execute(_BEAT, row).fetchall()
    after_ms = before_ms + math.ceil((time.monotonic() - began) * 1000)
    database.execute(_FORGET)
    return list_nodes(database, schema), offset_between(before_ms, now_ms, after_ms)


def offset_between(before_ms: int, now_ms: int, after_ms: int) -> int:
    """How far another clock is ahead at least that showed `now_ms` between two readings of this one; behind: < 0.

    Clocks that may be equal are equal. Else gateways of one machine would differ by what a busy answer took, and of two
    connections of a session that were opened soon after each other the older might win.
    """
    return max(0, now_ms - after_ms) + min(0, now_ms - before_ms)
