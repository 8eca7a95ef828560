"""PostgreSQL as a fleet of gateways uses it: the fleet's own statements, on SQLite in memory.

What the statements say in PostgreSQL's words is translated. A transaction is one step of the simulation, so the locks
of users exclude nobody here; `tests/stores/test_fleet.py` has two stores on a real server for that.
"""

import asyncio
import json
import re
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

from answerback.core.request import Record
from answerback.ports import Unavailable
from answerback.stores.database import Connection, Database, Done, Undone
from answerback.stores.encoding import decode_record
from answerback.stores.fleet import prepare
from answerback.stores.sqlite import MemoryDatabase
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.process import current
from answerback_proof.simulation.store import WatchedStore

if TYPE_CHECKING:
    import sqlite3

    from answerback_proof.simulation.fleet import Node, SimulatedNotices

T = TypeVar("T")

CONNECT_S: Final = 3.0
"""How long a gateway tries to reach a database that it is cut off from."""

_WORDS: Final = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"^SELECT .*count\(pg_advisory_xact_lock\(k\)\).*", "SELECT 1"),
        (r"\bsetval\('request_n', highest\)", "raised(highest)"),
        (r"SELECT last_value FROM request_n", "SELECT last_value()"),
        (r"= ANY\(CAST\(:(\w+) AS text\[\]\)\)", r"IN (SELECT value FROM json_each(:\1))"),
        (
            r"FROM generate_series\(1, CAST\(:count AS integer\)\)",
            "FROM (WITH RECURSIVE g(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < :count) "
            "SELECT i FROM g WHERE :count > 0)",
        ),
        (r"\bleft\((\w+), (\d+)\)", r"substr(\1, 1, \2)"),
        (r"\bGREATEST\(", "max("),
        (r"IS DISTINCT FROM", "IS NOT"),
        (r"CAST\(extract\(epoch FROM clock_timestamp\(\)\) \* 1000 AS bigint\)", "now_ms()"),
        (r"(?s).*\bFROM pg_locks\b.*", "SELECT value FROM json_each(locked())"),
        (r"(?s)^(--.*\n)*(ALTER TABLE users SET|CREATE SEQUENCE).*", "SELECT 1"),
    )
)


@lru_cache(maxsize=512)
def _translated(statement: str) -> str:
    for pattern, words in _WORDS:
        statement = pattern.sub(words, statement.strip())
    return _UNNEST.sub(_unnested, statement)


_UNNEST: Final = re.compile(r"unnest\(((?:CAST\(:\w+ AS text\[\]\),? ?)+)\)\s+AS k\(([\w, ]+)\)")


def _unnested(found: "re.Match[str]") -> str:
    lists, columns = re.findall(r":\w+", found[1]), found[2].split(", ")
    values = ", ".join(f"e{place}.value AS {column}" for place, column in enumerate(columns))
    joined = " JOIN ".join(
        f"json_each({name}) AS e{place}" + (f" ON e{place}.key = e0.key" if place else "")
        for place, name in enumerate(lists)
    )
    return f"(SELECT {values} FROM {joined}) AS k"  # noqa: S608 - of our own words


class _FleetDatabase(MemoryDatabase):
    """The one connection. `ended` is called after each transaction."""

    ended: Callable[..., None]

    def execute(self, sql: str, params: Any = (), /) -> "sqlite3.Cursor":
        if isinstance(params, dict):
            params = {name: json.dumps(v) if isinstance(v, list) else v for name, v in params.items()}
        return super().execute(_translated(sql), params)

    def executemany(self, sql: str, rows: Any, /) -> "sqlite3.Cursor":
        return super().executemany(_translated(sql), rows)

    def commit(self) -> None:
        super().commit()
        self.ended(is_committed=True)

    def close(self) -> None:
        super().close()
        self.ended(is_committed=False)


class SimulatedPostgres(WatchedStore):
    """The server: what it holds, who has which lock of a session, and whether it is up."""

    def __init__(self, watch: Callable[[Record | None, Record], None], *, clock: Callable[[], int]) -> None:
        super().__init__(watch, kind=_FleetDatabase)
        self.is_down = False
        self.locks: dict[int, SimulatedNotices] = {}
        self.restarts = 0
        self._written: list[Record] = []
        assert isinstance(self._database, _FleetDatabase)
        self.database = self._database
        self.database.ended = self._ended
        numbers = count(1)
        for name, arguments, function in (
            ("nextval", 1, lambda _: next(numbers)),
            ("raised", 1, lambda highest: highest),
            ("last_value", 0, lambda: 2**62),
            ("now_ms", 0, clock),
            ("locked", 0, lambda: json.dumps(list(self.locks))),
            ("saw", 2, self._note),
        ):
            self.database.create_function(name, arguments, function)
        prepare(self.database)
        for event in ("INSERT", "UPDATE OF record"):
            self.database.execute(
                f"CREATE TEMP TRIGGER saw_{event[:6]} AFTER {event} ON requests WHEN NEW.forgotten IS NULL "
                "BEGIN SELECT saw(NEW.record, NEW.record_schema); END"
            )

    def _note(self, text: str, schema: int) -> None:
        self._written.append(decode_record(text, schema))

    def _ended(self, *, is_committed: bool) -> None:
        written, self._written = self._written, []
        for left, record in zip(reversed(range(len(written))), written if is_committed else (), strict=False):
            self.is_watched_whole = not left
            self._saw(record)

    def stop(self) -> None:
        """It crashes: every session is over, what was not committed has no effect."""
        self.is_down = True
        self.restarts += 1
        for notices in list(self.locks.values()):
            notices.lost()

    def start(self) -> None:
        self.is_down = False


class RemoteConnection(Connection):
    """A connection of a gateway to the simulated server: it takes time, and breaks."""

    def __init__(self, postgres: SimulatedPostgres, node: "Node") -> None:
        super().__init__(lambda: postgres.database, None)
        self.is_inline = False  # type: ignore[misc] # what is submitted comes later
        self._postgres = postgres
        self._node = node
        self._process = current()
        self._loop = asyncio.get_running_loop()
        self._arrives_at = 0.0
        self._returns_at = 0.0

    def submit(self, work: Callable[[Database], Any], done: Done) -> None:
        network = self._node.network
        if self._node.is_cut:
            self._return(partial(done, None, Unavailable("timed out")), after_s=CONNECT_S)
            return
        self._arrives_at = max(self._arrives_at, network.due_at("store"))
        restarts = self._postgres.restarts

        def arrive() -> None:
            occurs = self._node.injector.occurs
            value: Any = None
            error: Exception | None = None
            if self._postgres.restarts != restarts:
                error = Undone("the server was restarted")
            elif self._postgres.is_down or self._node.is_cut:
                error = Unavailable("the server cannot be reached")
            elif occurs(FaultKind.OUTAGE_BEFORE):
                error = Undone("outage")
            else:
                value, error = self._run(work)
                if error is None and occurs(FaultKind.OUTAGE_AFTER):
                    value, error = None, Unavailable("outage")
            self._return(partial(done, value, error))

        network.call_at(self._arrives_at, arrive)

    def _return(self, call: Callable[[], None], *, after_s: float = 0.0) -> None:
        self._returns_at = max(self._returns_at, self._node.network.due_at("store") + after_s)
        process = self._process
        assert process is not None
        run = partial(process.call, partial(process.context().run, call))
        self._node.network.call_at(self._returns_at, run)

    async def close(self) -> None:
        """The work that was submitted is on its way."""
