"""The server's history in our words. Whatever it says, nothing of it is trusted to be well-formed."""

from dataclasses import replace
from datetime import UTC, datetime

from answerback.client.errors import AnswerbackError
from answerback.core.answer import clean
from answerback.desktop.engine.outbox import code_of
from answerback.desktop.records import Failure, Tokens, Turn, TurnStatus
from answerback.desktop.settings import is_id
from answerback.desktop.store.history import Listed
from answerback.desktop.store.store import MAX_TITLE_LENGTH
from answerback.protocol.errors import ERRORS
from answerback.protocol.frames import ConversationSummary
from answerback.protocol.frames import Turn as HistoryTurn

_STATUS = {status.value: status for status in TurnStatus if status.is_over}


def listed(summary: ConversationSummary, *, now_ms: int) -> Listed | None:
    """A line of the server's list; None: its id cannot be one."""
    if not is_id(summary.conversation_id):
        return None
    return Listed(
        conversation_id=summary.conversation_id,
        title=" ".join(clean(summary.title).split())[:MAX_TITLE_LENGTH],
        turns=summary.turns,
        created_at_ms=epoch_ms(summary.created_at, now_ms),
        updated_at_ms=epoch_ms(summary.updated_at, now_ms),
        updated_at=clean(summary.updated_at),
    )


def turn_of(conversation_id: str, turn: HistoryTurn, *, now_ms: int) -> Turn | None:
    """A turn of the server's history; None: its id cannot be one."""
    if not is_id(turn.request_id):
        return None
    usage, code = turn.usage, turn.error_code
    status = _STATUS[turn.status.value]
    is_failed = status is TurnStatus.FAILED
    return Turn(
        request_id=turn.request_id,
        conversation_id=conversation_id,
        question=clean(turn.question),
        answer=clean(turn.answer),
        status=status,
        asked_at_ms=epoch_ms(turn.asked_at, now_ms),
        answered_at_ms=epoch_ms(turn.answered_at, now_ms),
        failure=Failure(code=code_of(code), is_retryable=code is None or ERRORS[code].retryable) if is_failed else None,
        model=None if turn.model is None else clean(turn.model),
        replaces=turn.replaces if turn.replaces is not None and is_id(turn.replaces) else None,
        tokens=None if usage is None else Tokens(input=usage.input_tokens, output=usage.output_tokens),
        is_synced=True,
    )


def in_order(turn: Turn, newer: Turn | None) -> Turn:
    """A turn with an instant that sorts it before `newer`, the next one of the server's history.

    The server's order counts, not its clock: two turns may be of one millisecond, and a clock may have been set back.
    """
    if newer is None or turn.order < newer.order:
        return turn
    return replace(turn, asked_at_ms=newer.asked_at_ms - (turn.request_id >= newer.request_id))


def epoch_ms(instant: str, now_ms: int) -> int:
    """ISO 8601 in UTC as epoch milliseconds; what is none, or not of our time, is now."""
    try:
        found = datetime.fromisoformat(instant)
        at_ms = int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return now_ms
    return at_ms if 0 <= at_ms <= now_ms + 366 * 24 * 3600 * 1000 else now_ms


def is_unknown(error: AnswerbackError) -> bool:
    """Whether the server says that it has no such conversation."""
    return error.code == "unknown_request"
