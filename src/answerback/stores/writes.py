"""What a batch of writes does in the database, in one transaction, on the writer's thread."""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from answerback.core.budget import Entry
from answerback.core.instants import day_of
from answerback.core.parts import Content
from answerback.core.request import Change, Ending, Question, RequestKey
from answerback.core.transitions import State
from answerback.core.uploads import (
    DAY_MS,
    MAX_DAILY_BYTES,
    MAX_OPEN,
    SWEEP_MARGIN_MS,
    UNFINISHED_MS,
    YOUNG_MS,
    FileKey,
    Upload,
)
from answerback.ports import StoredConversation
from answerback.stores import statements as sql
from answerback.stores.book import rows_of
from answerback.stores.database import Database
from answerback.stores.encoding import (
    conversation_of,
    decode_record,
    encode_attachments,
    encode_marks,
    encode_options,
    encode_record,
)
from answerback.stores.user_data import Part
from answerback.stores.writer_state import Tracked

T = TypeVar("T")

STEP: Final = 200
"""Records or conversations that one transaction purges, so that others are not kept waiting."""

_DAY_MS: Final = 86_400_000

_ACCEPTED: Final = attrgetter("user_id", "request_id", "accepted_at_ms", "schema")

Function: TypeAlias = Callable[[Database], T]


class Rows:
    """The three kinds of write about requests: each kind is one statement that is run for many rows.

    Accepts come first and endings last. Nothing else about a request is written between its own.
    """

    ACCEPT: ClassVar = sql.ACCEPT
    more: ClassVar[Callable[[Any, Database], None] | None] = None
    """What a kind of store sends with them. No bound method is kept: it would be a cycle for each batch."""

    def __init__(self) -> None:
        self._users: list[tuple[str, int]] = []
        self._accepted: list[Tracked] = []
        self._accepts: list[sql.Row] = []
        self._notes: dict[int, sql.Row] = {}
        self._finishes: list[sql.Row] = []
        self._ended: list[Tracked] = []
        self._touches: dict[tuple[str, str], tuple[str, str, str, int, int]] = {}
        self._charges: list[tuple[Entry, Tracked | None]] = []

    def add_user(self, user_id: str, now_ms: int) -> None:
        """A user who may be new."""
        self._users.append((user_id, now_ms))

    def accept(self, tracked: Tracked, question: Question, text: str) -> None:
        """A new request. `text`: its record."""
        self._accepted.append(tracked)
        texts = (tracked.record.conversation_id, encode_options(question), question.system, question.message)
        files = encode_attachments(question.attachments) if question.attachments else None
        self._accepts.append((tracked.n, *_ACCEPTED(tracked.record), text, None, *texts, files))

    def refuse(self, tracked: Tracked, ending: Ending, text: str) -> None:
        """A refusal or an early cancellation: it ends where it begins, and has no question."""
        self._accepted.append(tracked)
        row = (*_ACCEPTED(tracked.record), text, ending.ended_at_ms)
        self._accepts.append((tracked.n, *row, None, None, None, None, None))

    def note(self, tracked: Tracked, text: str) -> None:
        """Another record of an unfinished request."""
        self._notes[tracked.n] = (tracked.record.schema, text, tracked.n)

    def finish(self, tracked: Tracked, ending: Ending, record_text: str, content: Content) -> None:
        """The ending of a request, its answer, and the conversation that it belongs to."""
        self._ended.append(tracked)
        code = ending.error_code and ending.error_code.value
        how = (ending.ended_at_ms, tracked.replaces, ending.status.value, ending.model, code)
        used = (ending.input_tokens, ending.output_tokens)
        answer = (content.text, encode_marks(content.marks))
        self._finishes.append((*how, *used, tracked.record.schema, record_text, *answer, tracked.n))
        pair, at_ms = _pair(tracked), ending.ended_at_ms
        _, _, title, created_at_ms, last_ms = self._touches.get(
            pair, (*pair, tracked.title, tracked.record.accepted_at_ms, at_ms)
        )
        self._touches[pair] = (*pair, title, created_at_ms, max(last_ms, at_ms))

    def charge(self, entries: Iterable[Entry], tracked: Tracked | None = None) -> None:
        """Change counters of budgets. `tracked`: only if this new request is stored."""
        self._charges += [(entry, tracked) for entry in entries]

    @property
    def has_taken(self) -> bool:
        """Whether an id, or a number, turned out to be taken."""
        return any(tracked.is_taken for tracked in self._accepted)

    def run(self, database: Database) -> None:
        with database.together():
            if self._users:
                database.executemany(sql.INSERT_USER, self._users)
            if self._accepts:
                accepted = database.executemany(self.ACCEPT, self._accepts)
            if self._notes:
                database.executemany(sql.NOTE, list(self._notes.values()))
            if self._finishes:
                database.executemany(sql.FINISH, self._finishes)
                touched = database.executemany(sql.TOUCH, list(self._touches.values()))
            if self.more is not None:
                self.more(database)
        if self._accepts and accepted.rowcount != len(self._accepts):
            for tracked in self._accepted:
                tracked.is_taken = not database.execute(sql.SELECT_NUMBER, {"n": tracked.n}).fetchall()
        if self._charges:
            stored = [entry for entry, new in self._charges if new is None or not new.is_taken]
            database.executemany(sql.CHARGE, rows_of(stored))
        if self._finishes:
            if touched.rowcount != len(self._touches):
                self._end_in_deleted(database)
            for tracked in self._ended:
                if tracked.replaces is not None and tracked.record.state is State.COMPLETED:
                    where = {**_conversation(*_pair(tracked)), "request_id": tracked.record.request_id}
                    database.execute(sql.SUPERSEDE, {**where, "replaces": tracked.replaces, "n": tracked.n})

    def _end_in_deleted(self, database: Database) -> None:
        """Some of the conversations are deleted: what was asked before that is not kept in them.

        What was asked after it starts the conversation again.
        """
        deleted = {}
        for pair in self._touches:
            rows = database.execute(sql.SELECT_DELETED_AT, _conversation(*pair)).fetchall()
            if rows and rows[0][0] is not None:
                deleted[pair] = rows[0][0]
        for tracked in self._ended:
            if tracked.record.accepted_at_ms <= deleted.get(_pair(tracked), -1):
                database.execute(sql.UNLINK, {"n": tracked.n})
        for pair, at_ms in deleted.items():
            new = [one for one in self._ended if _pair(one) == pair and one.record.accepted_at_ms > at_ms]
            if new:
                erase(database, *pair, deleted_at_ms=at_ms)
                row = (*pair, new[0].title, new[0].record.accepted_at_ms, self._touches[pair][-1])
                database.executemany(sql.TOUCH, [row])


class Call(Generic[T]):
    """A rare write: a function, with the effect of all or nothing. Its error is its caller's alone."""

    def __init__(self, function: Function[T]) -> None:
        self._function = function
        self._value: T | None = None
        self._error: Exception | None = None

    def run(self, database: Database) -> None:
        database.execute("SAVEPOINT rare")
        try:
            self._value = self._function(database)
        except Exception as exc:
            if database.cause_of(exc) is not None:
                raise
            self._error = exc
            database.execute("ROLLBACK TO SAVEPOINT rare")
        database.execute("RELEASE SAVEPOINT rare")

    def result(self) -> T:
        """What the function returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value] # it has run


# --- rare writes ------------------------------------------------------------------------------------------------


def change(database: Database, key: RequestKey, step_of: Change[T]) -> tuple[T] | None:
    """Change the record of a request that has ended. Returns None if its row is gone, else the outcome."""
    found = database.execute(sql.SELECT_RECORD, _id(key)).fetchall()
    if not found:
        return None
    step = step_of(decode_record(*found[0]))
    if (record := step.record) is not None:
        row: dict[str, sql.Value] = {"record": encode_record(record), "record_schema": record.schema}
        database.execute(sql.UPDATE_RECORD, {**_id(key), **row})
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
        database.execute(statement, {**_conversation(user_id, conversation_id), "deleted_at_ms": deleted_at_ms})


def update_conversation(
    database: Database, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
) -> StoredConversation | None:
    """Rename a conversation, delete or restore it."""
    where = _conversation(user_id, conversation_id)
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


def begin_upload(database: Database, key: FileKey, name: str, now_ms: int) -> Upload | None:
    """Begin an upload, if there is none and the user may."""
    known = upload(database, key)
    if known is not None:
        return known
    since: sql.Params = {"user_id": key.user_id, "since_ms": now_ms - DAY_MS}
    ((begun_bytes, unfinished),) = database.execute(sql.SELECT_BEGUN, since).fetchall()
    if unfinished >= MAX_OPEN or begun_bytes + key.size > MAX_DAILY_BYTES:
        return None
    database.execute(sql.BEGIN_UPLOAD, {**file_named(key), "upload": name, "begun_at_ms": now_ms})
    return upload(database, key)


def forget_uploads(database: Database, *, name: str = "", now_ms: int = 0) -> int:
    """Delete the unfinished upload with this name, and by `now_ms` all that is too old. Returns how many."""
    completed_before_ms = now_ms - YOUNG_MS - SWEEP_MARGIN_MS
    old: sql.Params = {
        "upload": name,
        "begun_before_ms": now_ms - UNFINISHED_MS,
        "completed_before_ms": completed_before_ms,
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


def _id(key: RequestKey) -> dict[str, sql.Value]:
    return {"user_id": key.user_id, "request_id": key.request_id}


def _conversation(user_id: str, conversation_id: str) -> dict[str, sql.Value]:
    return {"user_id": user_id, "conversation_id": conversation_id}


def _pair(tracked: Tracked) -> tuple[str, str]:
    return tracked.record.user_id, tracked.record.conversation_id
