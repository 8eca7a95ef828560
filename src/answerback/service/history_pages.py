"""Conversations and history in pages.

No page is larger than a frame. A turn longer than a page comes in pieces, its end first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from answerback.core.answer import cut_back, encoded_size
from answerback.core.instants import iso
from answerback.ports import History, StoredConversation, StoredTurn
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Conversation,
    Conversations,
    ConversationSummary,
    Error,
    GetHistory,
    ListConversations,
    Turn,
    UpdateConversation,
    Usage,
)
from answerback.protocol.frames import History as HistoryFrame
from answerback.protocol.limits import MAX_FRAME_BYTES

DEFAULT_LIMIT: Final = 50
PAGE_BYTES: Final = MAX_FRAME_BYTES - 2_048
"""Room for items; the rest is for the frame's own fields."""

TURN_BYTES: Final = 2_048
"""The most that a turn needs besides its texts: two ids and a model of 128 four-byte characters, times, usage."""

SUPERSEDED_BYTES: Final = 640
"""The most that the id of the turn that took its place adds."""

_MAX_POSITION: Final = 2**63 - 1
"""The largest integer of the stores; a position must leave room for the one after it."""

_BAD_PAGE: Final = '"before" must be the `next` of the page before, unchanged.'

Request = ListConversations | GetHistory | UpdateConversation


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page of history ends: before turn `position`, or inside it before these ends of its texts."""

    position: int
    ends: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> "_Place":
        """Raises: ValueError."""
        numbers = [int(part) for part in text.split(":") if part.isascii() and part.isdigit()]
        if len(numbers) not in (1, 3) or len(text.split(":")) != len(numbers):
            raise ValueError(text)
        if any(number >= _MAX_POSITION for number in numbers):
            raise ValueError(text)
        return cls(numbers[0], (numbers[1], numbers[2]) if len(numbers) == 3 else None)

    def __str__(self) -> str:
        return ":".join(map(str, (self.position, *(self.ends or ()))))


class HistoryPages:
    """Answers the three frames about conversations. Raises: Unavailable."""

    def __init__(self, *, history: History, clock: Callable[[], int]) -> None:
        self._history = history
        self._clock = clock

    async def answer(self, user_id: str, frame: Request) -> Conversations | HistoryFrame | Conversation | Error:
        """The one frame that answers `frame` of this user."""
        match frame:
            case ListConversations():
                return await self._conversations(user_id, frame)
            case GetHistory():
                return await self._turns(user_id, frame)
            case UpdateConversation():
                return await self._update(user_id, frame)
            case _:
                assert_never(frame)

    async def _conversations(self, user_id: str, frame: ListConversations) -> Conversations | Error:
        before: tuple[int, str] | None = None
        if frame.before is not None:
            updated, colon, conversation_id = frame.before.partition(":")
            # U+0000 is in no id, and PostgreSQL does not take it.
            if not (colon and updated.isascii() and updated.isdigit() and len(updated) < 19) or "\0" in conversation_id:
                return Error(code=ErrorCode.INVALID_FRAME, message=_BAD_PAGE, request_id=frame.request_id)
            before = (int(updated), conversation_id)
        limit = frame.limit or DEFAULT_LIMIT
        found = await self._history.conversations(user_id, before=before, limit=limit + 1)
        page: list[ConversationSummary] = []
        room = PAGE_BYTES
        for stored in found[:limit]:
            item = _summary(stored)
            room -= len(encode(Conversations(request_id="", conversations=(item,))))
            if room < 0:
                break
            page.append(item)
        last = found[len(page) - 1] if page and len(page) < len(found) else None
        return Conversations(
            request_id=frame.request_id,
            conversations=tuple(page),
            next=None if last is None else f"{last.updated_at_ms}:{last.conversation_id}",
        )

    async def _turns(self, user_id: str, frame: GetHistory) -> HistoryFrame | Error:
        try:
            place = None if frame.before is None else _Place.parse(frame.before)
        except ValueError:
            return Error(code=ErrorCode.INVALID_FRAME, message=_BAD_PAGE, request_id=frame.request_id)
        limit = frame.limit or DEFAULT_LIMIT
        before = None if place is None else place.position + (place.ends is not None)
        found = await self._history.turns(
            user_id, frame.conversation_id, before=before, limit=limit + 1, superseded=frame.superseded
        )
        page: list[Turn] = []
        room = PAGE_BYTES
        following: _Place | None = None
        for stored in found[:limit]:
            inside = place is not None and place.position == stored.position
            ends = place.ends if place is not None and inside else None
            question_end, answer_end = ends or (len(stored.question), len(stored.answer))
            question, answer = stored.question[:question_end], stored.answer[:answer_end]
            facts = TURN_BYTES + SUPERSEDED_BYTES * (stored.superseded_by is not None)
            facts += sum(len(msgspec.json.encode(one)) + 1 for one in stored.attachments)
            size = encoded_size(question) + encoded_size(answer) + facts
            if size <= room:
                page.append(_turn(stored, question, 0, answer, 0))
                room -= size
                following = _Place(stored.position)
                continue
            if not page:
                answer_from = cut_back(answer, answer_end, room - facts)
                remaining = room - facts - encoded_size(answer[answer_from:])
                question_from = cut_back(question, question_end, remaining) if answer_from == 0 else question_end
                page.append(_turn(stored, question[question_from:], question_from, answer[answer_from:], answer_from))
                following = _Place(stored.position, (question_from, answer_from))
            break
        is_last = len(page) == len(found) and (following is None or following.ends is None)
        return HistoryFrame(
            request_id=frame.request_id,
            conversation_id=frame.conversation_id,
            turns=tuple(reversed(page)),
            next=None if is_last or following is None else str(following),
        )

    async def _update(self, user_id: str, frame: UpdateConversation) -> Conversation | Error:
        stored = await self._history.update_conversation(
            user_id, frame.conversation_id, title=frame.title, deleted=frame.deleted, now_ms=self._clock()
        )
        if stored is None:
            return Error(
                code=ErrorCode.UNKNOWN_REQUEST,
                message="You have no such conversation. It exists once its first answer has ended.",
                request_id=frame.request_id,
            )
        return Conversation(
            request_id=frame.request_id,
            conversation_id=stored.conversation_id,
            title=stored.title,
            deleted=stored.deleted,
        )


def _summary(stored: StoredConversation) -> ConversationSummary:
    return ConversationSummary(
        conversation_id=stored.conversation_id,
        title=stored.title,
        turns=stored.turns,
        created_at=iso(stored.created_at_ms),
        updated_at=iso(stored.updated_at_ms),
    )


def _turn(stored: StoredTurn, question: str, question_offset: int, answer: str, answer_offset: int) -> Turn:
    return Turn(
        request_id=stored.request_id,
        question=question,
        question_offset=question_offset,
        answer=answer,
        answer_offset=answer_offset,
        status=stored.status,
        asked_at=iso(stored.accepted_at_ms),
        answered_at=iso(stored.ended_at_ms),
        model=stored.model,
        replaces=stored.replaces,
        superseded_by=stored.superseded_by,
        error_code=stored.error_code,
        attachments=stored.attachments,
        usage=(
            None
            if stored.input_tokens is None or stored.output_tokens is None
            else Usage(input_tokens=stored.input_tokens, output_tokens=stored.output_tokens)
        ),
    )
