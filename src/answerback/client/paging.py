"""Reading page by page: conversations, and a conversation's turns, which may come in pieces."""

from collections.abc import AsyncIterator, Awaitable, Callable

from msgspec.structs import replace

from answerback.client.errors import ProtocolViolation
from answerback.protocol.frames import History, Turn


class TurnPages:
    """Reads a conversation's turns from its pages, newest first. Pure: its driver gets the pages.

    `before`: of the page wanted. `is_done`: there is no other one.
    """

    def __init__(self, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self.before: str | None = None
        self.is_done = False
        self._later: Turn | None = None

    def take(self, page: History) -> list[Turn]:
        """The turns that this page makes whole, newest first.

        Raises: ProtocolViolation: pieces that do not fit together, or pages that never end.
        """
        whole: list[Turn] = []
        for turn in reversed(page.turns):
            joined = turn if self._later is None else _joined(self.conversation_id, turn, self._later)
            is_whole = joined.question_offset == 0 and joined.answer_offset == 0
            self._later = None if is_whole else joined
            if is_whole:
                whole.append(joined)
        self.is_done = page.next is None
        if not self.is_done and page.next == self.before:
            raise ProtocolViolation(self.conversation_id, "a history page follows itself")
        self.before = page.next
        if self.is_done and self._later is not None:
            raise ProtocolViolation(self.conversation_id, "the beginning of a turn is missing")
        return whole


async def turns(conversation_id: str, page: Callable[[str | None], Awaitable[History]]) -> AsyncIterator[Turn]:
    """Every turn, newest first, each whole. `page` gets the `before` of the page wanted.

    Raises: ProtocolViolation: as `TurnPages.take`.
    """
    pages = TurnPages(conversation_id)
    while not pages.is_done:
        for turn in pages.take(await page(pages.before)):
            yield turn


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
