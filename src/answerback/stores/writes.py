"""Rare writes: functions that run in a batch, in their place between its rows, on the writer's thread."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from answerback.core.instants import day_of
from answerback.core.request import Change, RequestKey
from answerback.core.uploads import (
    DAY_MS,
    SWEEP_MARGIN_MS,
    UNFINISHED_MS,
    YOUNG_MS,
    FileKey,
    NoRoom,
    Upload,
    giving_way,
)
from answerback.ports import StoredConversation
from answerback.stores import statements as sql
from answerback.stores.database import Database
from answerback.stores.encoding import conversation_of, decode_record, encode_record
from answerback.stores.user_data import Part

T = TypeVar("T")

STEP: Final = 200
"""Records or conversations that one transaction purges, so that others are not kept waiting."""

_DAY_MS: Final = 86_400_000


def change(database: Database, key: RequestKey, step_of: Change[T]) -> tuple[T] | None:
    """Change the record of a request that has ended. Returns None if its row is gone, else the outcome."""
    found = database.execute(sql.SELECT_RECORD, key._asdict()).fetchall()
    if not found:
        return None
    step = step_of(decode_record(*found[0]))
    if (record := step.record) is not None:
        row: dict[str, sql.Value] = {"record": encode_record(record), "record_schema": record.schema}
        database.execute(sql.UPDATE_RECORD, {**key._asdict(), **row})
    return (step.outcome,)


def purge(database: Database, *, before_ms: int, select: str) -> int:
    """Forget up to STEP of the oldest records that `select` finds, and delete the rows that no turn needs.

    What they used is counted first. Returns how many records.
    """
    rows = database.execute(select, {"before_ms": before_ms, "limit": STEP}).fetchall()
    if rows:
        database.execute(sql.KEEP_LAST_NUMBER)
        used = sql.SELECT_USED.format(condition=f"n IN ({', '.join(str(n) for (n,) in rows)})")
        for user_id, day, model, *numbers in database.execute(used).fetchall():
            counts = zip(("requests", "input_tokens", "output_tokens", "last_accepted_at_ms"), numbers, strict=True)
            row = {"user_id": user_id, "day": day_named(day), **dict(counts)}
            database.execute(sql.COUNT_USAGE, row)
            del row["last_accepted_at_ms"]
            database.execute(sql.COUNT_MODEL_USAGE, {**row, "model": model})
        database.executemany(sql.DELETE_OUTSIDE, rows)
        database.executemany(sql.FORGET, rows)
    return len(rows)


def expire(database: Database, *, rows: Sequence[sql.Row]) -> int:
    """Delete these conversations, unless they were used since. Returns how many."""
    names = ("user_id", "conversation_id", "updated_at_ms")
    return sum(database.execute(sql.EXPIRE, dict(zip(names, row, strict=True))).rowcount for row in rows)


def purge_deleted(database: Database, *, before_ms: int) -> int:
    """Erase up to STEP conversations that were deleted before then. Returns how many."""
    old = database.execute(sql.SELECT_OLD_DELETED, {"before_ms": before_ms, "limit": STEP}).fetchall()
    database.execute(sql.KEEP_LAST_NUMBER)
    for user_id, conversation_id, deleted_at_ms in old:
        erase(database, user_id, conversation_id, deleted_at_ms=deleted_at_ms)
    return len(old)


def erase(database: Database, user_id: str, conversation_id: str, *, deleted_at_ms: int) -> None:
    """Erase a conversation as it was when it was deleted."""
    for statement in sql.ERASE_CONVERSATION:
        database.execute(statement, {**conversation_named(user_id, conversation_id), "deleted_at_ms": deleted_at_ms})


def update_conversation(
    database: Database, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
) -> StoredConversation | None:
    """Rename a conversation, delete or restore it."""
    where = conversation_named(user_id, conversation_id)
    if deleted is not None:
        database.execute(sql.DELETE_CONVERSATION, {**where, "deleted_at_ms": now_ms if deleted else None})
    if title is not None:
        database.execute(sql.RENAME_CONVERSATION, {**where, "title": title, "now_ms": now_ms})
    rows = database.execute(sql.SELECT_CONVERSATION, where).fetchall()
    return conversation_of(rows[0]) if rows else None


def delete_user(database: Database, user_id: str, *, parts: Sequence[Part]) -> bool:
    """Delete every row of the user. Returns whether there was any."""
    database.execute(sql.KEEP_LAST_NUMBER)
    counts = [
        database.execute(statement, {"user_id": user_id}).rowcount for part in parts for statement in part.erasing()
    ]
    return any(counts)


# --- files -----------------------------------------------------------------------------------------------------


def upload(database: Database, key: FileKey) -> Upload | None:
    """How far a file has come."""
    found = database.execute(sql.SELECT_UPLOAD, file_named(key)).fetchall()
    if not found:
        return None
    name, begun_at_ms, completed_at_ms, content = found[0]
    have: list[sql.Row] = []
    if completed_at_ms is None:
        have = database.execute(sql.SELECT_HAVE, {"upload": name}).fetchall()
    return Upload(
        name=name,
        begun_at_ms=begun_at_ms,
        completed_at_ms=completed_at_ms,
        content=content or "",
        have=frozenset(number for (number,) in have),
    )


def begin_upload(database: Database, key: FileKey, name: str, now_ms: int) -> Upload | NoRoom:
    """Begin an upload, if there is none and the user may."""
    known = upload(database, key)
    if known is not None:
        return known
    today: dict[str, sql.Value] = {"user_id": key.user_id, "day": now_ms // DAY_MS, "bytes": key.size}
    touched: dict[str, int] = dict(database.execute(sql.SELECT_OPEN_UPLOADS, {"user_id": key.user_id}).fetchall())
    begun_bytes = sum(count for (count,) in database.execute(sql.SELECT_BEGUN, today).fetchall())
    leaving = giving_way(touched, begun_bytes=begun_bytes, size=key.size, now_ms=now_ms)
    if isinstance(leaving, NoRoom):
        return leaving
    if leaving is not None:
        forget_upload(database, key.user_id, leaving)
    database.execute(sql.COUNT_BEGUN, today)
    database.execute(sql.BEGIN_UPLOAD, {**file_named(key), "upload": name, "begun_at_ms": now_ms})
    return upload(database, key) or Upload(name=name, begun_at_ms=now_ms)


def put_piece(database: Database, piece: Mapping[str, Any]) -> None:
    """Keep a piece, and note that the upload is alive."""
    database.execute(sql.PUT_PIECE, piece)
    database.execute(sql.TOUCH_UPLOAD, piece)


def forget_upload(database: Database, user_id: str, name: str) -> None:
    """Delete an unfinished upload of the user, with its pieces."""
    named: sql.Params = {"user_id": user_id, "upload": name}
    if database.execute(sql.FORGET_UPLOAD, named).rowcount:
        database.execute(sql.FORGET_ITS_PIECES, named)


def forget_uploads(database: Database, now_ms: int) -> int:
    """Delete all that is too old. Returns how many."""
    old: sql.Params = {
        "begun_before_ms": now_ms - UNFINISHED_MS,
        "completed_before_ms": now_ms - YOUNG_MS - SWEEP_MARGIN_MS,
    }
    count = database.execute(sql.FORGET_UPLOADS, old).rowcount
    database.execute(sql.FORGET_PIECES)
    return count


def file_named(key: FileKey) -> dict[str, sql.Value]:
    """The columns that name a file."""
    return {"user_id": key.user_id, "sha256": key.sha256, "bytes": key.size}


def day_named(number: str) -> str:
    """The day that has this number since the epoch."""
    return day_of(int(number) * _DAY_MS)


def conversation_named(user_id: str, conversation_id: str) -> dict[str, sql.Value]:
    """The columns that name a conversation."""
    return {"user_id": user_id, "conversation_id": conversation_id}
