"""Reading and changing the history (`ports.History`) as operations, which query.py explains."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from answerback.ports import StoredConversation, StoredTurn
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status
from answerback.stores import statements as sql
from answerback.stores.encoding import ANSWER, QUESTION
from answerback.stores.query import Operation, Params, Query, Row
from answerback.stores.writer_state import WriterState

NO_BOUND: Final = 2**62
"""Above every position and every time; one statement then serves the first page as well."""

_AFTER_ANY_ID: Final = "\U0010ffff" * 2


def recent_turns(
    user_id: str, conversation_id: str, *, limit: int, before_request: str | None
) -> Operation[Sequence[StoredTurn]]:
    """Read the last completed turns, oldest first."""
    where = {"user_id": user_id, "conversation_id": conversation_id}
    before = None
    if before_request is not None:
        (found,) = yield [Query(sql.SELECT_POSITION, {**where, "request_id": before_request})]
        before = found.rows[0][0]
    (found,) = yield [
        Query(sql.SELECT_RECENT_TURNS, {**where, "before": NO_BOUND if before is None else before, "limit": limit})
    ]
    return _turns(found.rows)[::-1]


def turns(user_id: str, conversation_id: str, *, before: int | None, limit: int) -> Operation[Sequence[StoredTurn]]:
    """Read a page of turns."""
    page: Params = {
        "user_id": user_id,
        "conversation_id": conversation_id,
        "before": NO_BOUND if before is None else before,
        "limit": limit,
    }
    (found,) = yield [Query(sql.SELECT_TURNS, page)]
    return _turns(found.rows)


def turns_between(bounds: Params) -> Operation[Sequence[StoredTurn]]:
    """As `turns`, with a position of at least `since`."""
    (found,) = yield [Query(sql.SELECT_TURNS_BETWEEN, bounds)]
    return _turns(found.rows)


def conversations(
    user_id: str, *, before: tuple[int, str] | None, limit: int
) -> Operation[Sequence[StoredConversation]]:
    """Read a page of conversations, the latest first."""
    before_ms, before_id = (NO_BOUND, _AFTER_ANY_ID) if before is None else before
    page: Params = {"user_id": user_id, "before_ms": before_ms, "before_id": before_id, "limit": limit}
    (found,) = yield [Query(sql.SELECT_CONVERSATIONS, page)]
    return [_conversation(row) for row in found.rows]


def update_conversation(
    state: WriterState, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
) -> Operation[StoredConversation | None]:
    """Rename a conversation, or delete or restore it."""
    where = {"user_id": user_id, "conversation_id": conversation_id}
    queries = []
    was_deleted = (user_id, conversation_id) in state.deleted
    is_change = deleted is not None and deleted != was_deleted
    deleted_at_ms = now_ms if deleted else None
    if is_change:
        queries.append(Query(sql.DELETE_CONVERSATION, {**where, "deleted_at_ms": deleted_at_ms}))
    if title is not None:
        queries.append(Query(sql.RENAME_CONVERSATION, {**where, "title": title, "now_ms": now_ms}))
    queries.append(Query(sql.SELECT_CONVERSATION, where))
    *_, found = yield queries
    if not found.rows:
        return None
    if is_change:
        state.delete_conversation(user_id, conversation_id, deleted_at_ms)
    return _conversation(found.rows[0])


def purge_deleted(state: WriterState, *, before_ms: int, limit: int) -> Operation[int]:
    """Erase up to `limit` conversations that were deleted before then; returns how many."""
    old = [pair for pair, at_ms in state.deleted.items() if at_ms < before_ms][:limit]
    if old:
        yield [query for pair in old for query in erase(*pair)]
    for pair in old:
        state.delete_conversation(*pair, None)
    return len(old)


def erase(user_id: str, conversation_id: str) -> list[Query]:
    """Delete a conversation with its turns for good."""
    where = {"user_id": user_id, "conversation_id": conversation_id}
    return [Query(statement, where) for statement in sql.ERASE_CONVERSATION]


def _turns(rows: Sequence[Row]) -> list[StoredTurn]:
    """One turn from its rows, each of which brings one piece of its texts."""
    return [_turn(list(group)) for _, group in groupby(rows, key=lambda row: (row[0], row[1]))]


def _turn(rows: Sequence[Row]) -> StoredTurn:
    position, request_id, status, accepted_at_ms, ended_at_ms, model, replaces, code, input_tokens, output_tokens = (
        rows[0][:10]
    )
    return StoredTurn(
        position=position,
        request_id=request_id,
        question="".join(text for *_, role, text in rows if role == QUESTION),
        answer="".join(text for *_, role, text in rows if role == ANSWER),
        status=Status(status),
        accepted_at_ms=accepted_at_ms,
        ended_at_ms=ended_at_ms,
        model=model,
        replaces=replaces,
        error_code=None if code is None else ErrorCode(code),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )


def _conversation(row: Row) -> StoredConversation:
    conversation_id, title, created_at_ms, updated_at_ms, deleted_at_ms, count = row
    return StoredConversation(
        conversation_id=conversation_id,
        title=title,
        turns=count,
        created_at_ms=created_at_ms,
        updated_at_ms=updated_at_ms,
        deleted=deleted_at_ms is not None,
    )
