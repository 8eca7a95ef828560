"""How the stores' logic talks to a database without knowing which one it is.

An operation is a generator. It yields rounds of queries, is sent their results, and returns its outcome. SQLite's
driver runs the queries one after the other in a thread, PostgreSQL's sends a round in one network round trip. An
operation may be run again from the start if its transaction failed, so it must have no effects but its queries and what
it changes in the writer's state.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from answerback.stores.writer_state import WriterState

T = TypeVar("T")
Value: TypeAlias = str | int | None
Row: TypeAlias = tuple[Any, ...]
Params: TypeAlias = Mapping[str, Value]


class Query(NamedTuple):
    """One statement with `:name` parameters, and their values."""

    sql: str
    params: Params


class Result(NamedTuple):
    """What a query gave: its rows (none if it is not a SELECT), and how many rows it changed."""

    rows: Sequence[Row]
    changed: int


Operation: TypeAlias = Generator[Sequence[Query], Sequence[Result], T]
Read: TypeAlias = Callable[[], Operation[T]]
Write: TypeAlias = Callable[[WriterState], Operation[T]]

_TOKEN: Final = re.compile(
    r"""
      '(?:[^']|'')*'          # a string literal
    | "(?:[^"]|"")*"          # a quoted name
    | ::\w+                   # a cast
    | :(?P<name>[a-z_]\w*)    # a parameter
    | %                       # psycopg's own sign
    """,
    re.VERBOSE,
)


def names(sql: str) -> frozenset[str]:
    """The names of the statement's parameters."""
    return frozenset(match["name"] for match in _TOKEN.finditer(sql) if match["name"])


def to_psycopg(sql: str) -> str:
    """The statement with `%(name)s` for `:name`; literals, quoted names and `::casts` stay, `%` is doubled."""
    return _TOKEN.sub(_rewrite, sql)


def _rewrite(match: re.Match[str]) -> str:
    name = match.group("name")
    return f"%({name})s" if name else match.group().replace("%", "%%")
