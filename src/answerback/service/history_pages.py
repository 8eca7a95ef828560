"""Conversations and history in pages.

No page is larger than a frame. A turn longer than a page comes in pieces, its end first.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from answerback.core.answer import cut_back, encoded_size
from answerback.core.instants import iso
from answerback.core.parts import Content, Mark, stretches
from answerback.ports import History, StoredConversation, StoredTurn
from answerback.protocol import frames
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.limits import MAX_FRAME_BYTES

DEFAULT_LIMIT: Final = 50
PAGE_BYTES: Final = MAX_FRAME_BYTES - 2_048
"""Room for items; the rest is for the frame's own fields."""

TURN_BYTES: Final = 2_048
"""The most that a turn needs besides its texts: two ids and a model of 128 four-byte characters, times, usage."""

SUPERSEDED_BYTES: Final = 640
"""The most that the id of the turn that took its place adds."""

PART_BYTES: Final = 96
"""The most that a part needs besides its name."""

_MAX_POSITION: Final = 2**63 - 1
"""The largest integer of the stores; a position must leave room for the one after it."""

_BAD_PAGE: Final = '"before" must be the `next` of the page before, unchanged.'

_WITH_PARTS: Final = ":p"

Request = frames.ListConversations | frames.GetHistory | frames.UpdateConversation
Changed = Callable[[str, StoredConversation], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page of history ends: before turn `position`, or inside it before these ends of its texts.

    `has_parts`: the ends count all of an answer, and not its visible text.
    """

    position: int
    ends: tuple[int, int] | None = None
    has_parts: bool = False

    @classmethod
    def parse(cls, text: str, *, has_parts: bool) -> "_Place":
        """Raises: ValueError."""
        bare = text.removesuffix(_WITH_PARTS)
        numbers = [int(part) for part in bare.split(":") if part.isascii() and part.isdigit()]
        if len(numbers) not in (1, 3) or len(bare.split(":")) != len(numbers):
            raise ValueError(text)
        if any(number >= _MAX_POSITION for number in numbers) or (bare != text) is not has_parts:
            raise ValueError(text)
        return cls(numbers[0], (numbers[1], numbers[2]) if len(numbers) == 3 else None, has_parts)

    def __str__(self) -> str:
        return ":".join(map(str, (self.position, *(self.ends or ())))) + _WITH_PARTS * self.has_parts


class HistoryPages:
    """Answers the three frames about conversations. `changed` is told of one that a user has. Raises: Unavailable."""

    def __init__(self, *, history: History, clock: Callable[[], int], changed: Changed | None = None) -> None:
        self._history = history
        self._clock = clock
        self._changed = changed

    async def answer(
        self, user_id: str, frame: Request
    ) -> frames.Conversations | frames.History | frames.Conversation | frames.Error:
        """The one frame that answers `frame` of this user."""
        match frame:
            case frames.ListConversations():
                return await self._conversations(user_id, frame)
            case frames.GetHistory():
                return await self._turns(user_id, frame)
            case frames.UpdateConversation():
                return await self._update(user_id, frame)
            case _:
                assert_never(frame)

    async def _conversations(
        self, user_id: str, frame: frames.ListConversations
    ) -> frames.Conversations | frames.Error:
        before: tuple[int, str] | None = None
        if frame.before is not None:
            updated, colon, conversation_id = frame.before.partition(":")
            # U+0000 is in no id, and PostgreSQL does not take it.
            if not (colon and updated.isascii() and updated.isdigit() and len(updated) < 19) or "\0" in conversation_id:
                return frames.Error(code=ErrorCode.INVALID_FRAME, message=_BAD_PAGE, request_id=frame.request_id)
            before = (int(updated), conversation_id)
        limit = frame.limit or DEFAULT_LIMIT
        found = await self._history.conversations(user_id, before=before, limit=limit + 1)
        page: list[frames.ConversationSummary] = []
        room = PAGE_BYTES
        for stored in found[:limit]:
            item = _summary(stored)
            room -= len(encode(frames.Conversations(request_id="", conversations=(item,))))
            if room < 0:
                break
            page.append(item)
        last = found[len(page) - 1] if page and len(page) < len(found) else None
        return frames.Conversations(
            request_id=frame.request_id,
            conversations=tuple(page),
            next=None if last is None else f"{last.updated_at_ms}:{last.conversation_id}",
        )

    async def _turns(self, user_id: str, frame: frames.GetHistory) -> frames.History | frames.Error:
        try:
            place = None if frame.before is None else _Place.parse(frame.before, has_parts=frame.parts)
        except ValueError:
            return frames.Error(code=ErrorCode.INVALID_FRAME, message=_BAD_PAGE, request_id=frame.request_id)
        limit = frame.limit or DEFAULT_LIMIT
        before = None if place is None else place.position + (place.ends is not None)
        found = await self._history.turns(
            user_id, frame.conversation_id, before=before, limit=limit + 1, superseded=frame.superseded
        )
        page: list[frames.Turn] = []
        room = PAGE_BYTES
        following: _Place | None = None
        for stored in found[:limit]:
            inside = place is not None and place.position == stored.position
            ends = place.ends if place is not None and inside else None
            answer, marks = (stored.answer, stored.marks) if frame.parts else (stored.visible, ())
            question_end, answer_end = ends or (len(stored.question), len(answer))
            question, answer = stored.question[:question_end], answer[:answer_end]
            left = room - TURN_BYTES - SUPERSEDED_BYTES * (stored.superseded_by is not None)
            left -= sum(len(msgspec.json.encode(one)) + 1 for one in stored.attachments)
            answer_from, left = _answer_from(answer, marks, left)
            question_from = cut_back(question, len(question), left) if answer_from == 0 else len(question)
            left -= encoded_size(question[question_from:])
            is_whole = left >= 0 and question_from == answer_from == 0
            if is_whole or not page:
                page.append(_turn(stored, question, question_from, Content(answer, marks), answer_from))
                room = left
                ends = None if is_whole else (question_from, answer_from)
                following = _Place(stored.position, ends, frame.parts)
            if not is_whole:
                break
        is_last = len(page) == len(found) and (following is None or following.ends is None)
        return frames.History(
            request_id=frame.request_id,
            conversation_id=frame.conversation_id,
            turns=tuple(reversed(page)),
            next=None if is_last or following is None else str(following),
        )

    async def _update(self, user_id: str, frame: frames.UpdateConversation) -> frames.Conversation | frames.Error:
        stored = await self._history.update_conversation(
            user_id, frame.conversation_id, title=frame.title, deleted=frame.deleted, now_ms=self._clock()
        )
        if stored is None:
            return frames.Error(
                code=ErrorCode.UNKNOWN_REQUEST,
                message="You have no such conversation. It exists once its first answer has ended.",
                request_id=frame.request_id,
            )
        if self._changed is not None:
            await self._changed(user_id, stored)
        return frames.Conversation(
            request_id=frame.request_id,
            conversation_id=stored.conversation_id,
            title=stored.title,
            deleted=stored.deleted,
        )


def _summary(stored: StoredConversation) -> frames.ConversationSummary:
    return frames.ConversationSummary(
        conversation_id=stored.conversation_id,
        title=stored.title,
        turns=stored.turns,
        created_at=iso(stored.created_at_ms),
        updated_at=iso(stored.updated_at_ms),
    )


def _answer_from(answer: str, marks: Sequence[Mark], room: int) -> tuple[int, int]:
    """From where on `answer` fits with the labels of its parts, and the bytes that are then left."""
    if not marks:
        start = cut_back(answer, len(answer), room)
        return start, room - encoded_size(answer[start:])
    for one in reversed(stretches(marks, 0, len(answer))):
        left = room - PART_BYTES - encoded_size(one.mark.name or "")
        start = one.start + cut_back(answer[one.start : one.end], one.end - one.start, left)
        if start == one.end:
            return start, room
        room = left - encoded_size(answer[start : one.end])
        if start > one.start:
            return start, room
    return 0, room


def _turn(stored: StoredTurn, question: str, question_offset: int, answer: Content, answer_offset: int) -> frames.Turn:
    return frames.Turn(
        request_id=stored.request_id,
        question=question[question_offset:],
        question_offset=question_offset,
        answer=answer.text[answer_offset:],
        answer_offset=answer_offset,
        parts=tuple(
            frames.TurnPart(part=one.part, kind=one.mark.kind, name=one.mark.name, start=one.start, end=one.end)
            for one in stretches(answer.marks, answer_offset, len(answer.text))
        ),
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
            else frames.Usage(input_tokens=stored.input_tokens, output_tokens=stored.output_tokens)
        ),
    )
