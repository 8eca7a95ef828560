"""Equal statements of many operations as one statement with many rows, for SQLite.

To run a statement costs the driver far more than to write its row, and at each one the writer's thread gives the
interpreter away and has to get it back. So the operations of a batch run side by side: whenever several of them are at
the same statement, it runs once for all of them. Operations on one request still run one after the other.

That changes the order in which statements of different requests run, so only those in COMMUTING may take part: no two
requests touch the same row by them, or it does not matter which comes first. Whatever else turns up, and a row that was
there already, raises NotBatchable; the caller rolls back and runs the operations one by one.
"""

import itertools
import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from answerback.stores import statements as sql
from answerback.stores.query import Operation, Params, Query, Result

BATCHED: Final = frozenset(
    {
        sql.INSERT_REQUEST,
        sql.INSERT_TEXT,
        sql.UPDATE_RECORD,
        sql.END_REQUEST,
        sql.UPSERT_USAGE,
        sql.UPSERT_CONVERSATION,
        sql.INSERT_TURN,
    }
)
COMMUTING: Final = BATCHED | {sql.SELECT_LIMIT, sql.SELECT_REQUEST, sql.INSERT_USER, sql.RAISE_COUNTER}

COUNTED: Final = frozenset({sql.INSERT_REQUEST})
"""Statements whose operation asks how many rows changed: all have to change theirs."""

ROWS: Final = (64, 32, 16, 8, 4, 2, 1)
"""Rows of one statement; few different numbers, so that the prepared statements are few. 12 columns x 64 is below the
lowest limit of parameters that SQLite was ever built with."""

UPDATE_FROM: Final = (3, 33)
"""The version of SQLite that can update many rows from a list of values."""

_NUMBER: Final = attrgetter("number")
_UNKNOWN: Final = Result((), -1)
_ONE: Final = Result((), 1)
_PARAMETER: Final = re.compile(r":([a-z_]\w*)")
_VALUES: Final = re.compile(r"VALUES\s*(\([^)]*\))")

Execute = Callable[[str, Sequence[Any] | Mapping[str, Any]], sqlite3.Cursor]


class NotBatchable(Exception):
    """These operations cannot share statements: they have to run one by one."""


class OperationChain:
    """Operations on one request, one after the other. `number`: its place among the others of a batch."""

    __slots__ = ("_begin", "_operation", "_results", "number", "outcomes", "queries")

    def __init__(self, number: int) -> None:
        self.number = number
        self._begin: deque[Callable[[], Operation[Any]]] = deque()
        self._operation: Operation[Any] | None = None
        self._results: list[Result] = []
        self.queries: deque[Query] = deque()
        self.outcomes: deque[Any] = deque()

    def add(self, begin: Callable[[], Operation[Any]]) -> None:
        """One more operation, after the others; `begin` makes it when its turn comes."""
        self._begin.append(begin)

    def take(self, results: Iterable[Result]) -> None:
        """The results of the queries that were at the front."""
        self._results += results

    def advance(self) -> bool:
        """Go on until there are queries; false if all is done."""
        while not self.queries:
            try:
                if self._operation is not None:
                    results, self._results = self._results, []
                    self.queries.extend(self._operation.send(results))
                elif self._begin:
                    self._operation = self._begin.popleft()()
                    self.queries.extend(next(self._operation))
                else:
                    return False
            except StopIteration as stop:
                self.outcomes.append(stop.value)
                self._operation = None
        return True


def run_batched(execute: Execute, chains: Iterable[OperationChain]) -> None:
    """Run everything; the chains then have their outcomes. Raises: NotBatchable; whatever an operation raises."""
    at: dict[str, list[OperationChain]] = {}
    for chain in chains:
        if chain.advance():
            at.setdefault(chain.queries[0].sql, []).append(chain)
    while at:
        text = next(iter(at))
        group = at.pop(text)
        group.sort(key=_NUMBER)  # the rows come in the order of the calls, however many statements each had before
        _run_group(execute, text, group)
        for chain in group:
            if chain.advance():
                at.setdefault(chain.queries[0].sql, []).append(chain)


def _run_group(execute: Execute, text: str, group: Sequence[OperationChain]) -> None:
    """Run the statement that all of them are at, with the rows of all of them."""
    if text not in BATCHED:
        if text not in COMMUTING:
            raise NotBatchable
        for chain in group:
            cursor = execute(text, chain.queries.popleft().params)
            chain.take((Result(cursor.fetchall(), cursor.rowcount),))
        return
    statement = _statement(text)
    result = _ONE if text in COUNTED else _UNKNOWN
    rows = []
    for chain in group:
        queries = chain.queries
        while queries and queries[0].sql == text:
            rows.append(statement.values(queries.popleft().params))
            chain.take((result,))
    changed = 0
    start = 0
    for size in ROWS:
        while len(rows) - start >= size:
            chunk = rows[start : start + size]
            cursor = execute(statement.of(size), chunk[0] if size == 1 else tuple(itertools.chain.from_iterable(chunk)))
            changed += cursor.rowcount
            start += size
    if text in COUNTED and changed != len(rows):
        raise NotBatchable


class _Statement(NamedTuple):
    """One statement of BATCHED, by how many rows it has."""

    text: str
    values: Callable[[Params], tuple[Any, ...]]

    def of(self, rows: int) -> str:
        """The statement with `?` parameters for so many rows."""
        return _with_rows(self.text, rows)


@lru_cache(maxsize=len(BATCHED))
def _statement(text: str) -> _Statement:
    return _Statement(text, itemgetter(*_PARAMETER.findall(text)))


@lru_cache(maxsize=len(BATCHED) * len(ROWS))
def _with_rows(text: str, rows: int) -> str:
    if (found := _VALUES.search(text)) is not None:
        row = _PARAMETER.sub("?", found[1])
        return text[: found.start(1)] + ", ".join([row] * rows) + text[found.end(1) :]
    if rows == 1:
        return _PARAMETER.sub("?", text)
    numbers = itertools.count(1)
    update, names = _PARAMETER.subn(lambda _: f"v.column{next(numbers)}", text)
    changes, where, condition = update.partition("WHERE")
    row = f"({', '.join('?' * names)})"
    return f"{changes}FROM (VALUES {', '.join([row] * rows)}) AS v\n{where}{condition}"
