"""The client's outbox in the local store: a question and its ending are on disk before they are shown."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from answerback.client import (
    Answer,
    AnswerbackError,
    PendingRequest,
    RequestCancelled,
    RequestFailed,
    Usage,
)
from answerback_desktop.engine.export import instant_ms
from answerback_desktop.engine.parts import written
from answerback_desktop.records import Conversation, Failure, FailureCode, Times, Turn, TurnStatus
from answerback_desktop.store.store import AccountStore

_CODES: Final = frozenset(FailureCode)
_SOON_MS: Final = 60_000
"""A pause up to this is for what others have reserved of a budget: it is free again before the next window."""


class StoredOutbox:
    """Implements `answerback.client.Outbox`. It reports what it stored: `on_asked`, `on_ended`.

    `so_far` gives the turn as it is shown, `is_seen` whether the person looks at a conversation.
    """

    def __init__(
        self,
        store: AccountStore,
        *,
        clock: Callable[[], int],
        so_far: Callable[[str], Turn | None],
        is_seen: Callable[[str], bool],
        on_asked: Callable[[Turn, Conversation | None, Sequence[Turn]], None],
        on_ended: Callable[[Turn, Sequence[Turn]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._so_far = so_far
        self._is_seen = is_seen
        self._on_asked = on_asked
        self._on_ended = on_ended

    def load(self) -> Sequence[PendingRequest]:
        """Questions without an ending, in the order asked."""
        return self._store.load_outbox()

    def save(self, pending: PendingRequest) -> None:
        """A new question, or one that the server has taken. Raises: StoreError: it is not kept."""
        if pending.is_accepted:
            self._store.note_accepted(pending, TurnStatus.QUEUED)
        else:
            self._on_asked(*self._store.put_question(pending, now_ms=self._clock()))

    def ended(self, request_id: str, outcome: Answer | AnswerbackError) -> None:
        """The ending and the text, in one transaction. Raises: StoreError, after it was shown."""
        before = self._so_far(request_id) or self._store.turn(request_id)
        if before is None or before.status.is_over:
            return
        now_ms = self._clock()
        turn = ended(before, outcome, now_ms=now_ms)
        is_unread = turn.status is not TurnStatus.CANCELLED and not self._is_seen(turn.conversation_id)
        returned: Sequence[Turn] = ()
        try:
            turn, returned = self._store.end(turn, is_unread=is_unread, now_ms=now_ms)
        finally:
            self._on_ended(turn, returned)


def ended(turn: Turn, outcome: Answer | AnswerbackError, *, now_ms: int) -> Turn:
    """The turn with its ending."""
    over = replace(turn, position=None, answered_at_ms=now_ms, sent_percent=None)
    match outcome:
        case Answer():
            return _with_answer(replace(over, status=TurnStatus.COMPLETED), outcome)
        case RequestCancelled(answer=answer):
            return _with_answer(replace(over, status=TurnStatus.CANCELLED), answer)
        case RequestFailed():
            retry_at_ms = None if outcome.retry_after_ms is None else now_ms + outcome.retry_after_ms
            is_over_budget = outcome.reason == "budget" and outcome.retryable
            code = FailureCode.OVER_BUDGET if is_over_budget else code_of(outcome.code)
            opens_at = outcome.resets_at if is_over_budget and (outcome.retry_after_ms or 0) > _SOON_MS else None
            failure = Failure(
                code=code,
                is_retryable=outcome.retryable,
                retry_at_ms=retry_at_ms,
                opens_at_ms=None if opens_at is None else instant_ms(opens_at, now_ms),
            )
            failed = replace(over, status=TurnStatus.FAILED, failure=failure)
            return failed if outcome.answer is None else _with_answer(failed, outcome.answer)
        case _:  # RequestTimeout, MessageTooLarge, ProtocolViolation: made by the client; what is shown stays
            failure = Failure(code=code_of(outcome.code), is_retryable=outcome.retryable)
            return replace(over, status=TurnStatus.FAILED, failure=failure)


def code_of(code: str | None) -> FailureCode:
    """A word of the closed list."""
    return FailureCode(code) if code in _CODES else FailureCode.INTERNAL


def _with_answer(turn: Turn, answer: Answer) -> Turn:
    usage, timing = answer.usage, answer.timing
    return replace(
        turn,
        answer=written(answer.parts) if answer.parts else answer.text,
        attempt=answer.attempt,
        model=answer.model or turn.model,
        finish_reason=answer.finish_reason,
        tokens=None if usage is None else Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens),
        times=None
        if timing is None
        else Times(queued_ms=timing.queued_ms, first_text_ms=timing.first_text_ms, total_ms=timing.total_ms),
    )
