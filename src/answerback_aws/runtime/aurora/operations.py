"""What is read and written in Aurora beside what all SQL stores share, each within a call of `Statements`.

The tables are the same as in the other SQL stores, `requests` is used differently: a turn comes here when it has ended,
perhaps twice, and its row shows that it has come. The record itself is on DynamoDB. What a row used is counted at once.
A row of the Data API has at most 64 KB, so texts are read in pieces.
"""

import re
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from itertools import groupby
from typing import Final

from answerback.core.context import title_of
from answerback.core.instants import day_of
from answerback.ports import DailyUsage, StoredConversation, StoredTurn
from answerback.protocol.frames import Status
from answerback.stores import statements as sql
from answerback.stores.encoding import conversation_of, encode_attachments, encode_marks, turn_of
from answerback.stores.migrations import lock_key
from answerback.stores.statements import Params, Row, Value
from answerback.stores.store import NO_BOUND, sum_usage
from answerback.stores.user_data import REQUESTS, USER_DATA, line_of
from answerback_aws.runtime.aurora.data_api import DataApi, Statements
from answerback_aws.runtime.dynamodb.turns import PendingTurn

PIECE_LENGTH: Final = 1_400
"""Code points of the question, of the answer and of its marks in one row: each needs at most 12 bytes in JSON, so a row
has less than 64 KB with all that is told of the turn and its files."""

RESPONSE_BYTES: Final = 900 * 1024
"""Of turns read in one call, of the 1 MiB that a response may have. The longest turn has less."""

_ROW_BYTES: Final = 2_400
"""What a row of a turn has at most besides its text: three ids and a model of 128 four-byte characters, numbers."""

_USAGE_PAGE: Final = 500
_PAGE: Final = 500
_ON_DYNAMODB: Final = ("system", "options", "record")
"""Columns that are empty here."""

LOCK_TIMEOUT: Final = "4s"
"""Less than any caller waits for a statement. One that waits on when its caller has left would get the lock for nobody
and keep it until the Data API ends the idle transaction after three minutes; one such a minute, and nobody gets it."""

LOCK_TIMEOUT_SQL: Final = f"(SELECT set_config('lock_timeout', '{LOCK_TIMEOUT}', true)) IS NOT NULL"
"""A condition that is always true, and is met before the statement's locks are."""

_LOCK: Final = """
SELECT CAST(pg_advisory_xact_lock(k.lock_key) AS text)
FROM (VALUES {keys}) AS k (lock_key) WHERE {has_timeout}"""

# Questions end in any order: the first one that was asked is when the user came.
_UPSERT_USERS: Final = """
INSERT INTO users (user_id, created_at_ms) VALUES {rows}
ON CONFLICT (user_id) DO UPDATE SET created_at_ms = excluded.created_at_ms
WHERE users.created_at_ms > excluded.created_at_ms"""

# An id that is used again after its record was purged on DynamoDB, though its receipt is still here.
_FREE_IDS: Final = """
UPDATE requests SET forgotten = 1 WHERE forgotten IS NULL AND EXISTS (
  SELECT 1 FROM (VALUES {rows}) AS v (user_id, request_id, n)
  WHERE v.user_id = requests.user_id AND v.request_id = requests.request_id AND v.n > requests.n
)"""

_INSERT_RECEIPTS: Final = """
INSERT INTO requests (record, record_schema, counted, n, user_id, request_id, accepted_at_ms, ended_at_ms, replaces,
  status, model, error_code)
VALUES {rows}
ON CONFLICT (user_id, request_id) WHERE forgotten IS NULL DO NOTHING
RETURNING user_id, request_id"""

_KEEP_TURN: Final = """
UPDATE requests SET conversation_id = :conversation_id, question = :question, answer = :answer, marks = :marks,
  input_tokens = :input_tokens, output_tokens = :output_tokens, attachments = :attachments
WHERE user_id = :user_id AND request_id = :request_id AND forgotten IS NULL"""

_SELECT_DELETED: Final = """
SELECT user_id, conversation_id, deleted_at_ms FROM conversations
WHERE deleted_at_ms IS NOT NULL AND (user_id, conversation_id) IN ({pairs})"""

_SELECT_SIZES: Final = """
SELECT n, octet_length(CAST(to_json(COALESCE(question, '')) AS text))
    + octet_length(CAST(to_json(COALESCE(answer, '')) AS text))
    + octet_length(CAST(to_json(COALESCE(marks, '')) AS text)),
  1 + GREATEST(length(question), length(answer), length(marks), 0) / {length}
FROM requests WHERE {turns} ORDER BY n DESC LIMIT :limit"""

_SELECT_PIECES: Final = """
SELECT {columns}, substr(question, 1 + p.piece * {length}, {length}), substr(answer, 1 + p.piece * {length}, {length}),
  substr(marks, 1 + p.piece * {length}, {length})
FROM requests CROSS JOIN LATERAL
  generate_series(0, GREATEST(length(question), length(answer), length(marks), 0) / {length}) AS p (piece)
WHERE {turns} AND n >= :since ORDER BY n DESC, p.piece"""

_FORGET: Final = """
UPDATE requests SET forgotten = 1 WHERE (user_id, request_id, n) IN (
  SELECT user_id, request_id, n FROM requests
  WHERE ended_at_ms < :before_ms AND forgotten IS NULL ORDER BY ended_at_ms LIMIT :limit
) AND forgotten IS NULL"""

_DELETE_FORGOTTEN: Final = "DELETE FROM requests WHERE forgotten IS NOT NULL AND conversation_id IS NULL"

_SELECT_USAGE_PAGE: Final = """
SELECT user_id, day, {model}, requests, input_tokens, output_tokens FROM {table}
WHERE (day, user_id, {model}) > (CAST(:after_day AS text), CAST(:after_user AS text), CAST(:after_model AS text))
  AND day >= :since_day AND {users}
ORDER BY day, user_id, {model} LIMIT :limit"""


def _named(text: str, *names: str) -> str:
    """A statement with `:name` for each `?`."""
    given = iter(names)
    return re.sub(r"\?", lambda _: f":{next(given)}", text)


_TOUCH: Final = _named(sql.TOUCH, "user_id", "conversation_id", "title", "created_at_ms", "updated_at_ms")


async def lock_users(statements: Statements, user_ids: Collection[str]) -> None:
    """Keep others from changing what is stored of these users until the transaction ends, in one order everywhere.

    A caller that has to wait for longer than LOCK_TIMEOUT gets the error that another transaction was in the way.
    """
    keys: dict[str, Value] = {
        f"k{n}": key for n, key in enumerate(sorted({lock_key(f"user {user_id}") for user_id in user_ids}))
    }
    values = ", ".join(f"(CAST(:{name} AS bigint))" for name in keys)
    await statements.execute(_LOCK.format(keys=values, has_timeout=LOCK_TIMEOUT_SQL), keys)


# --- writing turns ------------------------------------------------------------------------------------------


async def write_turns(statements: Statements, entries: Sequence[PendingTurn]) -> int:
    """Write the turns and what they used; returns how many were not there yet. The caller has locked the users.

    Twice is the same as once: a turn that has its receipt is left alone. A user's turns may come in any order, best in
    the one accepted. Each (user, request id) occurs once.
    """
    entries = sorted(entries, key=lambda entry: (entry.user_id, entry.turn.position, entry.turn.request_id))
    first: dict[str, int] = {}
    for entry in entries:
        first[entry.user_id] = min(first.get(entry.user_id, entry.turn.accepted_at_ms), entry.turn.accepted_at_ms)
    users: list[Params] = [{"user_id": user_id, "created_at_ms": at_ms} for user_id, at_ms in first.items()]
    await statements.execute(*_many(_UPSERT_USERS, "rows", users))
    ids: list[Params] = [{**_id(entry), "n": entry.turn.position} for entry in entries]
    await statements.execute(*_many(_FREE_IDS, "rows", ids, casts={"n": "bigint"}))
    receipts = await statements.execute(
        *_many(_INSERT_RECEIPTS, "rows", [_receipt(entry) for entry in entries], before="'', 0, 1, ")
    )
    is_new = set(receipts.rows)
    entries = [entry for entry in entries if (entry.user_id, entry.turn.request_id) in is_new]
    if not entries:
        return 0
    deleted = await _deleted_at_ms(statements, sorted(set(map(_pair_of, entries))))
    revived = {
        _pair_of(entry) for entry in entries if entry.turn.accepted_at_ms > deleted.get(_pair_of(entry), NO_BOUND)
    }
    kept = [entry for entry in entries if _is_kept(entry, deleted.get(_pair_of(entry)), _pair_of(entry) in revived)]
    for pair in sorted(revived):
        await _erase(statements, *pair, deleted_at_ms=deleted[pair])
    used = [_used(entry) for entry in entries]
    await statements.execute_many(sql.COUNT_USAGE, used)
    of_models = [
        {"model": entry.turn.model or "", **{name: row[name] for name in row if name != "last_accepted_at_ms"}}
        for entry, row in zip(entries, used, strict=True)
    ]
    await statements.execute_many(sql.COUNT_MODEL_USAGE, of_models)
    if kept:
        await statements.execute_many(_TOUCH, [_conversation(entry) for entry in kept])
        await statements.execute_many(_KEEP_TURN, [_texts(entry) for entry in kept])
    for entry in kept:
        if entry.turn.replaces is not None and entry.turn.status is Status.COMPLETED:
            where = {**_pair(*_pair_of(entry)), "request_id": entry.turn.request_id}
            await statements.execute(
                sql.SUPERSEDE, {**where, "replaces": entry.turn.replaces, "n": entry.turn.position}
            )
    return len(entries)


async def _deleted_at_ms(statements: Statements, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    found = await statements.execute(*_many(_SELECT_DELETED, "pairs", [_pair(*pair) for pair in pairs]))
    return {(user_id, conversation_id): at_ms for user_id, conversation_id, at_ms in found.rows}


def _is_kept(entry: PendingTurn, deleted_at_ms: int | None, is_revived: bool) -> bool:
    """Asked after a deletion: the conversation starts again. Asked before it: kept if it was there to be deleted."""
    if deleted_at_ms is None or entry.turn.accepted_at_ms > deleted_at_ms:
        return True
    return not is_revived and entry.turn.ended_at_ms <= deleted_at_ms


def _pair_of(entry: PendingTurn) -> tuple[str, str]:
    return entry.user_id, entry.conversation_id


def _many(
    text: str, place: str, rows: Sequence[Params], *, before: str = "", casts: Params | None = None
) -> tuple[str, Params]:
    """One statement with a list of rows, each beginning with `before`: the Data API has no array parameters."""

    def one(name: str, number: int) -> str:
        value = f":{name}_{number}"
        return f"CAST({value} AS {casts[name]})" if casts and name in casts else value

    listed = ", ".join(f"({before}{', '.join(one(name, n) for name in row)})" for n, row in enumerate(rows))
    params = {f"{name}_{n}": value for n, row in enumerate(rows) for name, value in row.items()}
    return text.format(**{place: listed}), params


def _id(entry: PendingTurn) -> dict[str, Value]:
    return {"user_id": entry.user_id, "request_id": entry.turn.request_id}


def _receipt(entry: PendingTurn) -> Params:
    turn = entry.turn
    return {
        "n": turn.position,
        **_id(entry),
        "accepted_at_ms": turn.accepted_at_ms,
        "ended_at_ms": turn.ended_at_ms,
        "replaces": turn.replaces,
        "status": turn.status.value,
        "model": turn.model,
        "error_code": None if turn.error_code is None else turn.error_code.value,
    }


def _texts(entry: PendingTurn) -> Params:
    turn = entry.turn
    return {
        **_id(entry),
        "conversation_id": entry.conversation_id,
        "question": turn.question,
        "answer": turn.answer,
        "marks": encode_marks(turn.marks),
        "input_tokens": turn.input_tokens,
        "output_tokens": turn.output_tokens,
        "attachments": encode_attachments(turn.attachments),
    }


def _pair(user_id: str, conversation_id: str) -> dict[str, Value]:
    return {"user_id": user_id, "conversation_id": conversation_id}


def _used(entry: PendingTurn) -> Params:
    turn = entry.turn
    return {
        "user_id": entry.user_id,
        "day": day_of(turn.ended_at_ms),
        "requests": 1,
        "input_tokens": turn.input_tokens or 0,
        "output_tokens": turn.output_tokens or 0,
        "last_accepted_at_ms": turn.accepted_at_ms,
    }


def _conversation(entry: PendingTurn) -> Params:
    return {
        **_pair(entry.user_id, entry.conversation_id),
        "title": title_of(entry.turn.question),
        "created_at_ms": entry.turn.accepted_at_ms,
        "updated_at_ms": entry.turn.ended_at_ms,
    }


async def purge(statements: Statements, *, before_ms: int, limit: int) -> int:
    """Free the ids of up to `limit` turns that ended before then; returns how many. Their turns stay."""
    forgotten = await statements.execute(_FORGET, {"before_ms": before_ms, "limit": limit})
    if forgotten.changed:
        await statements.execute(_DELETE_FORGOTTEN)
    return forgotten.changed


# --- conversations ------------------------------------------------------------------------------------------


async def turns(
    statements: Statements,
    user_id: str,
    conversation_id: str,
    *,
    before: int | None,
    limit: int,
    superseded: bool = False,
) -> Sequence[StoredTurn]:
    """Read a page of turns."""
    where = _pair(user_id, conversation_id)
    which = sql.ALL_TURNS if superseded else sql.SHOWN
    rows = await _read(statements, sql.TURN, which, where, before=before, limit=limit)
    return [turn_of(row) for row in rows]


async def _read(
    statements: Statements, columns: str, turns: str, where: dict[str, Value], *, before: int | None, limit: int
) -> Sequence[Row]:
    """Read rows of `columns`, question, answer, marks: first their lengths, then as many at a time as fit a response.

    `columns` begins with `n` and `request_id`. `turns`: a condition with `where` and `:before` that finds them.
    """
    what = {"columns": columns, "length": PIECE_LENGTH, "turns": turns}
    page: Params = {**where, "before": NO_BOUND if before is None else before, "limit": limit}
    sizes = await statements.execute(_SELECT_SIZES.format_map(what), page)
    found: list[Row] = []
    for newest, oldest in _pages([(n, size + rows * _ROW_BYTES) for n, size, rows in sizes.rows]):
        bounds: Params = {**where, "before": newest + 1, "since": oldest}
        pieces = await statements.execute(_SELECT_PIECES.format_map(what), bounds)
        found += [_whole(list(rows)) for _, rows in groupby(pieces.rows, key=lambda row: row[:2])]
    return found


def _whole(rows: Sequence[Row]) -> Row:
    """A row of several, each of which has a piece of its texts."""
    *told, _, _, _ = rows[0]
    texts = ("".join(piece or "" for piece in pieces) for pieces in zip(*(row[-3:] for row in rows), strict=True))
    return (*told, *texts)


def _pages(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(newest, oldest) position of each response's turns, newest first."""
    pages: list[tuple[int, int]] = []
    room = 0
    for position, size in sizes:
        if size > room or not pages:
            pages.append((position, position))
            room = RESPONSE_BYTES
        else:
            pages[-1] = (pages[-1][0], position)
        room -= size
    return pages


async def update_conversation(
    statements: Statements, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
) -> tuple[StoredConversation, int | None] | None:
    """Rename or delete a conversation; also returns when it was deleted. The caller has locked the user."""
    where = _pair(user_id, conversation_id)
    if deleted is not None:
        await statements.execute(sql.DELETE_CONVERSATION, {**where, "deleted_at_ms": now_ms if deleted else None})
    if title is not None:
        await statements.execute(sql.RENAME_CONVERSATION, {**where, "title": title, "now_ms": now_ms})
    found = await statements.execute(sql.SELECT_CONVERSATION, where)
    return (conversation_of(found.rows[0]), found.rows[0][4]) if found.rows else None


async def expired(statements: Statements, *, now_ms: int, keep_days: int, limit: int) -> Sequence[tuple[str, str, int]]:
    """(user, conversation, last use) of up to `limit` conversations that were unused for longer than they are kept."""
    found = await statements.execute(sql.SELECT_EXPIRED, {"now_ms": now_ms, "keep_days": keep_days, "limit": limit})
    return [(user_id, conversation_id, used_at_ms) for user_id, conversation_id, used_at_ms in found.rows]


async def expire(statements: Statements, *, user_id: str, conversation_id: str, used_at_ms: int) -> int:
    """Delete a conversation as of its last use, unless that is another by now. Returns how many it were."""
    await lock_users(statements, [user_id])
    done = await statements.execute(sql.EXPIRE, {**_pair(user_id, conversation_id), "updated_at_ms": used_at_ms})
    return done.changed


async def old_deleted(statements: Statements, *, before_ms: int, limit: int) -> Sequence[tuple[str, str]]:
    """(user, conversation) of up to `limit` conversations that were deleted before then."""
    found = await statements.execute(sql.SELECT_OLD_DELETED, {"before_ms": before_ms, "limit": limit})
    return [(user_id, conversation_id) for user_id, conversation_id, _ in found.rows]


async def erase_deleted(statements: Statements, user_id: str, conversation_id: str, *, before_ms: int) -> bool:
    """Erase a conversation unless it was restored, or started again. The caller has locked the user."""
    found = await statements.execute(sql.SELECT_DELETED_AT, _pair(user_id, conversation_id))
    deleted_at_ms = found.rows[0][0] if found.rows else None
    if deleted_at_ms is None or deleted_at_ms >= before_ms:
        return False
    await _erase(statements, user_id, conversation_id, deleted_at_ms=deleted_at_ms)
    return True


async def _erase(statements: Statements, user_id: str, conversation_id: str, *, deleted_at_ms: int) -> None:
    where = {**_pair(user_id, conversation_id), "deleted_at_ms": deleted_at_ms}
    for statement in sql.ERASE_CONVERSATION:
        await statements.execute(statement, where)


# --- users --------------------------------------------------------------------------------------------------


async def usage(
    statements: Statements, user_id: str | None, *, since_day: str | None, by_model: bool = False
) -> Sequence[DailyUsage]:
    """Usage by day, read a page at a time."""
    rows: list[Row] = []
    after_day = after_user = after_model = ""
    select = _SELECT_USAGE_PAGE.format(
        users=sql.ALL_USERS if user_id is None else "user_id = :user_id",
        table="model_usage" if by_model else "usage",
        model="model" if by_model else "CAST('' AS text)",
    )
    page: dict[str, Value] = {"user_id": user_id, "since_day": since_day or "", "limit": _USAGE_PAGE}
    while True:
        after: Params = {"after_day": after_day, "after_user": after_user, "after_model": after_model}
        found = await statements.execute(select, {**page, **after})
        rows += found.rows
        if len(found.rows) < _USAGE_PAGE:
            return sum_usage(rows, since_day=since_day, by_model=by_model)
        after_user, after_day, after_model = rows[-1][:3]


async def export(api: DataApi, user_id: str) -> AsyncIterator[bytes]:
    """The lines of an export, a page at a time."""
    own: dict[str, Value] = {"user_id": user_id}
    conversations: list[str | None] = [None]  # in which a request is that its user has deleted
    for part in USER_DATA:
        for statement in () if part is REQUESTS else part.reading():
            page: dict[str, Value] = {**own, "after": part.first}
            while rows := (await api.read(partial(Statements.execute, sql=statement, params=page))).rows:
                for row in rows:
                    yield line_of(part.table, dict(zip(part.shown, row[1:], strict=True)))
                page["after"] = rows[-1][0]
                conversations += [row[0] for row in rows if part.key == "conversation_id"]
    texts = ("question", "answer", "marks")
    names = [name for name in REQUESTS.shown if name not in (*_ON_DYNAMODB, *texts)]
    for conversation_id in conversations:
        where = own if conversation_id is None else _pair(user_id, conversation_id)
        which = "conversation_id IS NULL" if conversation_id is None else "conversation_id = :conversation_id"
        which = f"user_id = :user_id AND {which} AND n < :before"
        read = partial(_read, columns=", ".join(["n", *names]), turns=which, where=where, limit=_PAGE)
        before: int | None = None
        while found := await api.read(partial(read, before=before)):
            for row in found:
                yield line_of(REQUESTS.table, dict(zip([*names, *texts], row[1:], strict=True)))
            before = found[-1][0]


async def delete_user(statements: Statements, user_id: str) -> bool:
    """Delete every row of the user; whether there was any. The caller has locked the user."""
    results = [
        await statements.execute(statement, {"user_id": user_id}) for part in USER_DATA for statement in part.erasing()
    ]
    return any(result.changed for result in results)
