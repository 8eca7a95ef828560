"""What is stored about a user: the one list that `users export` shows and `users delete` erases.

A table is in USER_DATA, in FLEET_DATA (a table of several gateways), or in NO_USER. A test walks the tables and columns
of every database, so a new one is decided about here. What DynamoDB has is said beside its tables.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from answerback.core.camel import camel

PAGE: Final = 100
"""Rows of an export that are in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rows of a user in one table.

    `is_theirs` finds them. `key` orders them, and is above `first`. `shown`: the columns of an export. `inner`: the
    others, which say nothing about the user. `rows`: conditions that meet each row once, and have an index. `stays`:
    what erasing leaves.
    """

    table: str
    key: str
    first: int | str = ""
    shown: tuple[str, ...]
    inner: tuple[str, ...] = ("user_id",)
    rows: tuple[str, ...] = ("1 = 1",)
    stays: str = "1 = 0"
    is_theirs: str = "user_id = :user_id"

    def erasing(self) -> tuple[str, ...]:
        """Statements that delete the rows of `:user_id`."""
        return tuple(
            f"DELETE FROM {self.table} WHERE {rows} AND NOT ({self.stays}) AND {self.is_theirs}"  # noqa: S608 - ours
            for rows in self.rows
        )

    def reading(self) -> tuple[str, ...]:
        """Statements that read the key and the shown columns of a page of rows of `:user_id` behind `:after`."""
        return tuple(
            f"SELECT {self.key}, {', '.join(self.shown)} FROM {self.table} "  # noqa: S608 - ours
            f"WHERE {self.is_theirs} AND {rows} AND {self.key} IN (SELECT {self.key} FROM {self.table} "
            f"WHERE {self.is_theirs} AND {rows} AND {self.key} > :after ORDER BY {self.key} LIMIT {PAGE}) "
            f"ORDER BY {self.key}"
            for rows in self.rows
        )


REQUESTS: Final = Part(
    table="requests",
    key="n",
    first=-1,
    shown=(
        *("request_id", "conversation_id", "accepted_at_ms", "ended_at_ms", "status", "model", "error_code"),
        *("input_tokens", "output_tokens", "replaces", "superseded_by", "system", "question", "answer"),
        *("marks", "options", "attachments", "record"),
    ),
    inner=("user_id", "n", "forgotten", "counted", "record_schema", "node", "ordering_key", "noted_by"),
    rows=("forgotten IS NULL", "conversation_id IS NOT NULL AND forgotten IS NOT NULL"),
)
USER_DATA: Final = (
    Part(
        table="users",
        key="user_id",
        shown=("per_minute", "keep_days", "team", "caps", "created_at_ms"),
        inner=("user_id", "minute", "accepted", "accepted_before"),
        stays="per_minute IS NOT NULL AND per_minute < 0",  # who is locked out stays so
    ),
    Part(
        table="conversations",
        key="conversation_id",
        shown=("conversation_id", "title", "created_at_ms", "updated_at_ms", "deleted_at_ms", "keep_days"),
    ),
    REQUESTS,
    Part(
        table="pieces",
        key="upload || '/' || CAST(piece AS text)",
        shown=("upload", "piece", "data"),
        inner=(),
        is_theirs="upload IN (SELECT upload FROM uploads WHERE user_id = :user_id)",
    ),
    Part(
        table="uploads",
        key="upload",
        shown=("upload", "sha256", "bytes", "content", "begun_at_ms", "touched_at_ms", "completed_at_ms"),
    ),
    Part(table="begun_uploads", key="CAST(day AS text)", shown=("day", "bytes")),
    Part(
        table="usage",
        key="day",
        shown=("day", "requests", "input_tokens", "output_tokens", "last_accepted_at_ms"),
    ),
    Part(
        table="model_usage",
        key="day || '/' || model",
        shown=("day", "model", "requests", "input_tokens", "output_tokens"),
    ),
    Part(
        table="budgets",
        key="period",
        shown=("period", "until_ms", "used", "reserved"),
        inner=("holder",),
        is_theirs="holder = :user_id",  # a team's counters have another holder
    ),
)
FLEET_DATA: Final = (
    Part(
        table="sessions",
        key="session_id",
        shown=("session_id", "connected_at_ms", "connection_id"),
        inner=("user_id", "generation", "replaced"),
    ),
    Part(
        table="watchers",
        key="conversation_id || '/' || session_id",
        shown=("conversation_id", "session_id", "connection_id", "until_ms"),
        inner=("user_id", "generation", "number", "is_off"),
    ),
)
NO_USER: Final[Mapping[str, str]] = MappingProxyType(
    {
        "marks": "numbers and the name of the store",
        "schema_migrations": "the version of the tables",
        "nodes": "the gateways",
        "teams": "what teams may use",
        "leases": "which gateway does what there is to do once",
    }
)

_JSON: Final = {"record", "options", "attachments", "marks"}


def line_of(table: str, row: Mapping[str, Any]) -> bytes:
    """A line of an export: where something is stored, and what. What is empty is left out. Bytes are in base64."""
    fields = {camel(name): json.loads(value) if name in _JSON and value else value for name, value in row.items()}
    fields = {name: b64encode(value).decode() if isinstance(value, bytes) else value for name, value in fields.items()}
    fields = {name: value for name, value in fields.items() if value not in (None, "")}
    return json.dumps({"table": table, **fields}, ensure_ascii=False).encode() + b"\n"
