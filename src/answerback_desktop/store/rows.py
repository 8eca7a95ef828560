"""Turns and conversations as rows, and back."""

from collections.abc import Sequence
from typing import Any, Final

from answerback_desktop.records import Conversation, Failure, FailureCode, Times, Tokens, Turn, TurnStatus

TURN_COLUMNS: Final = (
    "request_id",
    "conversation_id",
    "question",
    "answer",
    "status",
    "is_over",
    "asked_at_ms",
    "answered_at_ms",
    "attempt",
    "failure",
    "is_retryable",
    "retry_at_ms",
    "model",
    "replaces",
    "finish_reason",
    "input_tokens",
    "output_tokens",
    "queued_ms",
    "first_text_ms",
    "total_ms",
    "is_synced",
)
SELECT_TURNS: Final = f"SELECT {', '.join(TURN_COLUMNS)} FROM turns "  # noqa: S608 - constants
SAVE_TURN: Final = (
    f"INSERT INTO turns ({', '.join(TURN_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in TURN_COLUMNS)}) "  # noqa: S608
    f"ON CONFLICT (request_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in TURN_COLUMNS)}"
)
SELECT_CONVERSATIONS: Final = "SELECT conversation_id, title, created_at_ms, updated_at_ms, unread FROM conversations "


def row_of(turn: Turn) -> dict[str, Any]:
    """A turn for `SAVE_TURN`."""
    failure, tokens, times = turn.failure, turn.tokens, turn.times
    return {
        "request_id": turn.request_id,
        "conversation_id": turn.conversation_id,
        "question": turn.question,
        "answer": turn.answer,
        "status": turn.status.value,
        "is_over": turn.status.is_over,
        "asked_at_ms": turn.asked_at_ms,
        "answered_at_ms": turn.answered_at_ms,
        "attempt": turn.attempt,
        "failure": None if failure is None else failure.code.value,
        "is_retryable": failure is not None and failure.is_retryable,
        "retry_at_ms": None if failure is None else failure.retry_at_ms,
        "model": turn.model,
        "replaces": turn.replaces,
        "finish_reason": turn.finish_reason,
        "input_tokens": None if tokens is None else tokens.input,
        "output_tokens": None if tokens is None else tokens.output,
        "queued_ms": None if times is None else times.queued_ms,
        "first_text_ms": None if times is None else times.first_text_ms,
        "total_ms": None if times is None else times.total_ms,
        "is_synced": turn.is_synced,
    }


def turn_of(row: Sequence[Any]) -> Turn:
    """A row of `SELECT_TURNS`."""
    found = dict(zip(TURN_COLUMNS, row, strict=True))
    failure = found["failure"]
    return Turn(
        request_id=found["request_id"],
        conversation_id=found["conversation_id"],
        question=found["question"],
        answer=found["answer"],
        status=TurnStatus(found["status"]),
        asked_at_ms=found["asked_at_ms"],
        answered_at_ms=found["answered_at_ms"],
        attempt=found["attempt"],
        failure=None
        if failure is None
        else Failure(
            code=FailureCode(failure), is_retryable=bool(found["is_retryable"]), retry_at_ms=found["retry_at_ms"]
        ),
        model=found["model"],
        replaces=found["replaces"],
        finish_reason=found["finish_reason"],
        tokens=None
        if found["input_tokens"] is None
        else Tokens(input=found["input_tokens"], output=found["output_tokens"]),
        times=None
        if found["total_ms"] is None
        else Times(queued_ms=found["queued_ms"], first_text_ms=found["first_text_ms"], total_ms=found["total_ms"]),
        is_synced=bool(found["is_synced"]),
    )


def conversation_of(row: Sequence[Any]) -> Conversation:
    """A row of `SELECT_CONVERSATIONS`."""
    conversation_id, title, created_at_ms, updated_at_ms, unread = row
    return Conversation(
        conversation_id=conversation_id,
        title=title,
        created_at_ms=created_at_ms,
        updated_at_ms=updated_at_ms,
        unread=unread,
    )
