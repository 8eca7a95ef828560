"""What is read and written in Aurora, as operations (stores/query.py), beside those that all SQL stores share.

The tables are the same as in the other SQL stores, two are used differently: `requests` has a receipt for each turn
that was written, so that the record of a turn may come twice; `counters` is not used. Pieces of text are shorter, as
the Data API returns rows of at most 64 KB, ids and escapes included.
"""

import hashlib
from collections.abc import Collection, Sequence
from typing import Final

from answerback.core.context import title_of
from answerback.core.instants import day_of
from answerback.ports import DailyUsage, StoredConversation, StoredTurn
from answerback.protocol.frames import Status
from answerback.stores import history_operations as history
from answerback.stores import statements as sql
from answerback.stores import user_operations as users
from answerback.stores.encoding import ANSWER, QUESTION, pieces
from answerback.stores.query import Operation, Params, Query, Value
from answerback.stores.writer_state import WriterState
from answerback_aws.runtime.dynamodb.turns import PendingTurn

PIECE_LENGTH: Final = 5_000
"""Code points of a text in one row: escaped for JSON each needs at most 12 bytes, so a row has less than 64 KB."""

RESPONSE_BYTES: Final = 900 * 1024
"""Of turns read in one call, of the 1 MiB that a response may have. The longest turn has half of it."""

_ROW_BYTES: Final = 1_800
"""What a row of a turn has at most besides its text: two ids and a model of 128 four-byte characters, numbers."""

_USAGE_PAGE: Final = 500

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

# A receipt of an id that was used again after its first record was purged replaces the first one's.
_INSERT_RECEIPTS: Final = """
INSERT INTO requests (record_schema, record, user_id, request_id, seq, conversation_id, accepted_at_ms, ended_at_ms)
VALUES {rows}
ON CONFLICT (user_id, request_id) DO UPDATE SET seq = excluded.seq, conversation_id = excluded.conversation_id,
  accepted_at_ms = excluded.accepted_at_ms, ended_at_ms = excluded.ended_at_ms
WHERE requests.seq < excluded.seq
RETURNING user_id, request_id"""

_SELECT_DELETED: Final = """
SELECT user_id, conversation_id, deleted_at_ms FROM conversations
WHERE deleted_at_ms IS NOT NULL AND (user_id, conversation_id) IN ({pairs})"""

_SELECT_OLD_DELETED: Final = """
SELECT user_id, conversation_id FROM conversations
WHERE deleted_at_ms < :before_ms ORDER BY deleted_at_ms, user_id, conversation_id LIMIT :limit"""

_SELECT_DELETED_BEFORE: Final = """
SELECT 1 FROM conversations
WHERE user_id = :user_id AND conversation_id = :conversation_id AND deleted_at_ms < :before_ms"""

_SELECT_SIZES: Final = """
SELECT t.position, CAST(COALESCE(SUM(octet_length(CAST(to_json(x.text) AS text))), 0) AS bigint), COUNT(*)
FROM (
  SELECT user_id, request_id, position FROM turns
  WHERE user_id = :user_id AND conversation_id = :conversation_id AND superseded_by IS NULL AND position < :before
    AND NOT EXISTS (
      SELECT 1 FROM conversations c
      WHERE c.user_id = :user_id AND c.conversation_id = :conversation_id AND c.deleted_at_ms IS NOT NULL
    )
  ORDER BY position DESC, request_id DESC LIMIT :limit
) AS t LEFT JOIN texts x
  ON x.user_id = t.user_id AND x.request_id = t.request_id AND x.position = t.position
  AND x.role IN ('question', 'answer')
GROUP BY t.position ORDER BY t.position DESC"""

_SELECT_USAGE_PAGE: Final = """
SELECT user_id, day, requests, input_tokens, output_tokens FROM usage
WHERE (day, user_id) > (CAST(:after_day AS text), CAST(:after_user AS text)) AND day >= :since_day
ORDER BY day, user_id LIMIT :limit"""


def lock_users(user_ids: Collection[str]) -> Operation[None]:
    """Keep others from changing what is stored of these users until the transaction ends, in one order everywhere.

    A caller that has to wait for longer than LOCK_TIMEOUT gets the error that another transaction was in the way.
    """
    keys: dict[str, Value] = {f"k{n}": key for n, key in enumerate(sorted(set(map(_lock_key, user_ids))))}
    values = ", ".join(f"(CAST(:{name} AS bigint))" for name in keys)
    yield [Query(_LOCK.format(keys=values, has_timeout=LOCK_TIMEOUT_SQL), keys)]


def lock_key(name: str) -> int:
    """The number of an advisory lock: 63 bits of a digest."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1


def _lock_key(user_id: str) -> int:
    return lock_key(f"answerback user {user_id}")


# --- writing turns ------------------------------------------------------------------------------------------


def write_turns(entries: Sequence[PendingTurn]) -> Operation[int]:
    """Write the turns and what they used; returns how many were not there yet. The caller has locked the users.

    Twice is the same as once: a turn that has its receipt is left alone. A user's turns may come in any order, best in
    the one accepted. Each (user, request id) occurs once.
    """
    entries = sorted(entries, key=lambda entry: (entry.user_id, entry.turn.position, entry.turn.request_id))
    first: dict[str, int] = {}
    for entry in entries:
        first[entry.user_id] = min(first.get(entry.user_id, entry.turn.accepted_at_ms), entry.turn.accepted_at_ms)
    _, receipts = yield [
        _many(_UPSERT_USERS, "rows", [{"user_id": user, "created_at_ms": at_ms} for user, at_ms in first.items()]),
        _many(_INSERT_RECEIPTS, "rows", [_receipt(entry) for entry in entries], before="0, '', "),
    ]
    is_new = set(receipts.rows)
    entries = [entry for entry in entries if (entry.user_id, entry.turn.request_id) in is_new]
    if not entries:
        return 0
    pairs = sorted(set(map(_pair_of, entries)))
    (found,) = yield [_many(_SELECT_DELETED, "pairs", [_pair(*pair) for pair in pairs])]
    deleted = {(user_id, conversation_id): at_ms for user_id, conversation_id, at_ms in found.rows}
    revived = {
        _pair_of(entry)
        for entry in entries
        if entry.turn.accepted_at_ms > deleted.get(_pair_of(entry), history.NO_BOUND)
    }
    kept = [entry for entry in entries if _is_kept(entry, deleted.get(_pair_of(entry)), _pair_of(entry) in revived)]
    yield [
        *(query for pair in sorted(revived) for query in history.erase(*pair)),
        *(query for entry in kept for query in _texts(entry)),
        *_usage(entries),
        *(Query(sql.UPSERT_CONVERSATION, _conversation(entry)) for entry in kept),
        *(Query(sql.INSERT_TURN, _turn(entry)) for entry in kept),
        *(query for entry in kept for query in _superseding(entry)),
    ]
    return len(entries)


def _is_kept(entry: PendingTurn, deleted_at_ms: int | None, is_revived: bool) -> bool:
    """Asked after a deletion: the conversation starts again. Asked before it: kept if it was there to be deleted."""
    if deleted_at_ms is None or entry.turn.accepted_at_ms > deleted_at_ms:
        return True
    return not is_revived and entry.turn.ended_at_ms <= deleted_at_ms


def _pair_of(entry: PendingTurn) -> tuple[str, str]:
    return entry.user_id, entry.conversation_id


def _many(text: str, place: str, rows: Sequence[Params], *, before: str = "") -> Query:
    """One statement with a list of rows, each beginning with `before`: the Data API has no array parameters."""
    listed = ", ".join(f"({before}{', '.join(f':{name}_{n}' for name in row)})" for n, row in enumerate(rows))
    return Query(
        text.format(**{place: listed}),
        {f"{name}_{n}": value for n, row in enumerate(rows) for name, value in row.items()},
    )


def _receipt(entry: PendingTurn) -> Params:
    turn = entry.turn
    return {
        "user_id": entry.user_id,
        "request_id": turn.request_id,
        "seq": turn.position,
        "conversation_id": entry.conversation_id,
        "accepted_at_ms": turn.accepted_at_ms,
        "ended_at_ms": turn.ended_at_ms,
    }


def _pair(user_id: str, conversation_id: str) -> dict[str, Value]:
    return {"user_id": user_id, "conversation_id": conversation_id}


def _texts(entry: PendingTurn) -> list[Query]:
    where: dict[str, Value] = {
        "user_id": entry.user_id,
        "request_id": entry.turn.request_id,
        "position": entry.turn.position,
    }
    return [
        Query(sql.INSERT_TEXT, {**where, "role": role, "piece": number, "text": piece})
        for role, text in ((QUESTION, entry.turn.question), (ANSWER, entry.turn.answer))
        for number, piece in pieces(text, PIECE_LENGTH)
    ]


def _usage(entries: Sequence[PendingTurn]) -> list[Query]:
    used: list[Params] = [
        {
            "user_id": entry.user_id,
            "day": day_of(entry.turn.ended_at_ms),
            "input_tokens": entry.turn.input_tokens or 0,
            "output_tokens": entry.turn.output_tokens or 0,
            "accepted_at_ms": entry.turn.accepted_at_ms,
        }
        for entry in entries
    ]
    return [Query(sql.UPSERT_USAGE, one) for one in used]


def _conversation(entry: PendingTurn) -> Params:
    return {
        **_pair(entry.user_id, entry.conversation_id),
        "title": title_of(entry.turn.question),
        "created_at_ms": entry.turn.accepted_at_ms,
        "updated_at_ms": entry.turn.ended_at_ms,
    }


def _turn(entry: PendingTurn) -> Params:
    turn = entry.turn
    return {
        **_pair(entry.user_id, entry.conversation_id),
        "position": turn.position,
        "request_id": turn.request_id,
        "status": turn.status.value,
        "accepted_at_ms": turn.accepted_at_ms,
        "ended_at_ms": turn.ended_at_ms,
        "model": turn.model,
        "replaces": turn.replaces,
        "error_code": None if turn.error_code is None else turn.error_code.value,
        "input_tokens": turn.input_tokens,
        "output_tokens": turn.output_tokens,
    }


def _superseding(entry: PendingTurn) -> list[Query]:
    turn = entry.turn
    if turn.replaces is None or turn.status is not Status.COMPLETED:
        return []
    replaced: Params = {
        **_pair(entry.user_id, entry.conversation_id),
        "request_id": turn.request_id,
        "replaces": turn.replaces,
        "position": turn.position,
    }
    return [Query(sql.SUPERSEDE, replaced)]


# --- conversations ------------------------------------------------------------------------------------------


def turns(user_id: str, conversation_id: str, *, before: int | None, limit: int) -> Operation[Sequence[StoredTurn]]:
    """Read a page of turns: first their lengths, then as many texts at a time as fit a response."""
    where: dict[str, Value] = _pair(user_id, conversation_id)
    (sizes,) = yield [
        Query(_SELECT_SIZES, {**where, "before": history.NO_BOUND if before is None else before, "limit": limit})
    ]
    found: list[StoredTurn] = []
    for newest, oldest in _pages([(position, size + rows * _ROW_BYTES) for position, size, rows in sizes.rows]):
        bounds: Params = {**where, "before": newest + 1, "since": oldest, "limit": limit - len(found)}
        found += yield from history.turns_between(bounds)
    return found


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


def update_conversation(
    user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
) -> Operation[tuple[StoredConversation, int | None] | None]:
    """Rename or delete a conversation; also returns when it was deleted. The caller has locked the user."""
    (found,) = yield [_many(_SELECT_DELETED, "pairs", [_pair(user_id, conversation_id)])]
    state = WriterState()
    if found.rows:
        state.delete_conversation(user_id, conversation_id, found.rows[0][2])
    updated = yield from history.update_conversation(
        state, user_id, conversation_id, title=title, deleted=deleted, now_ms=now_ms
    )
    return None if updated is None else (updated, state.deleted.get((user_id, conversation_id)))


def old_deleted(*, before_ms: int, limit: int) -> Operation[Sequence[tuple[str, str]]]:
    """(user, conversation) of up to `limit` conversations that were deleted before then."""
    (found,) = yield [Query(_SELECT_OLD_DELETED, {"before_ms": before_ms, "limit": limit})]
    return [(user_id, conversation_id) for user_id, conversation_id in found.rows]


def erase_deleted(user_id: str, conversation_id: str, *, before_ms: int) -> Operation[bool]:
    """Erase a conversation unless it was restored, or started again. The caller has locked the user."""
    (found,) = yield [Query(_SELECT_DELETED_BEFORE, {**_pair(user_id, conversation_id), "before_ms": before_ms})]
    if found.rows:
        yield history.erase(user_id, conversation_id)
    return bool(found.rows)


# --- users --------------------------------------------------------------------------------------------------


def usage(user_id: str | None, *, since_day: str | None) -> Operation[Sequence[DailyUsage]]:
    """Usage by day, read a page at a time."""
    if user_id is not None:
        return (yield from users.usage(user_id, since_day=since_day))
    found: list[DailyUsage] = []
    after_day = after_user = ""
    while True:
        page: Params = {
            "after_day": after_day,
            "after_user": after_user,
            "since_day": since_day or "",
            "limit": _USAGE_PAGE,
        }
        (rows,) = yield [Query(_SELECT_USAGE_PAGE, page)]
        found += users.daily(rows.rows)
        if len(rows.rows) < _USAGE_PAGE:
            return found
        after_day, after_user = found[-1].day, found[-1].user_id


def delete_user(user_id: str) -> Operation[bool]:
    """Delete every row of the user; whether there was any. The caller has locked the user."""
    results = yield [Query(statement, {"user_id": user_id}) for statement in sql.DELETE_USER]
    return any(result.changed for result in results)
