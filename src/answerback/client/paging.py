"""Reading page by page: conversations, and a conversation's turns, which may come in pieces."""

from collections.abc import AsyncIterator, Awaitable, Callable

from msgspec.structs import replace

from answerback.client.errors import ProtocolViolation
from answerback.protocol.frames import History, Turn


async def turns(conversation_id: str, page: Callable[[str | None], Awaitable[History]]) -> AsyncIterator[Turn]:
    """Every turn, newest first, each whole. `page` gets the `before` of the page wanted.

    Raises: ProtocolViolation: pieces that do not fit together, or pages that never end.
    """
    joined: Turn | None = None
    before: str | None = None
    while True:
        history = await page(before)
        for turn in reversed(history.turns):
            joined = turn if joined is None else _joined(conversation_id, turn, joined)
            if joined.question_offset == 0 and joined.answer_offset == 0:
                yield joined
                joined = None
        if history.next is None:
            break
        if history.next == before:
            raise ProtocolViolation(conversation_id, "a history page follows itself")
        before = history.next
    if joined is not None:
        raise ProtocolViolation(conversation_id, "the beginning of a turn is missing")


def _joined(conversation_id: str, earlier: Turn, later: Turn) -> Turn:
    """Two neighbouring pieces of one turn; `later` has the end."""
    if earlier.request_id != later.request_id:
        raise ProtocolViolation(conversation_id, "the beginning of a turn is missing")
    question, question_offset = _text(
        conversation_id, earlier.question, earlier.question_offset, later.question, later.question_offset
    )
    answer, answer_offset = _text(
        conversation_id, earlier.answer, earlier.answer_offset, later.answer, later.answer_offset
    )
    parts = (*earlier.parts, *later.parts)
    if earlier.parts and later.parts and earlier.parts[-1].part == later.parts[0].part:
        whole = replace(earlier.parts[-1], end=later.parts[0].end)
        parts = (*earlier.parts[:-1], whole, *later.parts[1:])
    return replace(
        later,
        question=question,
        question_offset=question_offset,
        answer=answer,
        answer_offset=answer_offset,
        parts=parts,
    )


def _text(conversation_id: str, earlier: str, earlier_at: int, later: str, later_at: int) -> tuple[str, int]:
    if later_at == 0:
        return later, 0
    if earlier_at + len(earlier) != later_at:
        raise ProtocolViolation(conversation_id, "the pieces of a turn do not fit together")
    return earlier + later, earlier_at
