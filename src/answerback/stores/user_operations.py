"""Reading and changing users (`ports.Users`) as operations, which query.py explains."""

from collections.abc import Sequence

from answerback.ports import DailyUsage, StoredUser
from answerback.stores import statements as sql
from answerback.stores.query import Operation, Query, Row
from answerback.stores.writer_state import WriterState


def users(*, after: str | None, limit: int) -> Operation[Sequence[StoredUser]]:
    """List users by id."""
    (found,) = yield [Query(sql.SELECT_USERS, {"after": after or "", "limit": limit})]
    return [_user(row) for row in found.rows]


def user(user_id: str) -> Operation[StoredUser | None]:
    """Read one user."""
    (found,) = yield [Query(sql.SELECT_USER, {"user_id": user_id})]
    return _user(found.rows[0]) if found.rows else None


def set_limit(state: WriterState, user_id: str, per_minute: int | None, *, now_ms: int) -> Operation[None]:
    """Set a user's own rate limit."""
    yield [Query(sql.SET_LIMIT, {"user_id": user_id, "per_minute": per_minute, "created_at_ms": now_ms})]
    state.know_user(user_id, per_minute)


def usage(user_id: str | None, *, since_day: str | None) -> Operation[Sequence[DailyUsage]]:
    """Read the usage by day of one user or of all."""
    since = {"since_day": since_day or ""}
    if user_id is None:
        (found,) = yield [Query(sql.SELECT_USAGE, since)]
    else:
        (found,) = yield [Query(sql.SELECT_USER_USAGE, {**since, "user_id": user_id})]
    return daily(found.rows)


def daily(rows: Sequence[Row]) -> list[DailyUsage]:
    """What SELECT_USAGE found."""
    return [
        DailyUsage(user_id=owner, day=day, requests=requests, input_tokens=tokens_in, output_tokens=tokens_out)
        for owner, day, requests, tokens_in, tokens_out in rows
    ]


def delete_user(state: WriterState, user_id: str) -> Operation[bool]:
    """Delete everything of a user."""
    results = yield [Query(statement, {"user_id": user_id}) for statement in sql.DELETE_USER]
    state.forget_user(user_id)
    return any(result.changed for result in results)


def _user(row: Row) -> StoredUser:
    user_id, per_minute, created_at_ms, last_ended, last_unfinished, conversations, turns = row
    return StoredUser(
        user_id=user_id,
        per_minute=per_minute,
        created_at_ms=created_at_ms,
        last_request_at_ms=max((at for at in (last_ended, last_unfinished) if at is not None), default=None),
        conversations=conversations,
        turns=turns,
    )
