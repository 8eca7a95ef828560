"""Pages of a history, over turns of every awkward size: each is one frame, and together they are the whole."""

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from answerback.core.parts import MAX_NAME_LENGTH, MAX_PARTS, TEXT, Mark
from answerback.ports import StoredTurn
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Error, GetHistory, History, Status, Turn, Usage
from answerback.protocol.limits import MAX_FRAME_BYTES
from answerback.service.history_pages import PAGE_BYTES, TURN_BYTES, HistoryPages
from answerback.testing import run_virtual

LONGEST_ID = "\\" * 128
"""Each of its characters takes two bytes in JSON."""


def stored(question: str, answer: str, **more: Any) -> StoredTurn:
    fields = {"status": Status.COMPLETED, "accepted_at_ms": 1, "ended_at_ms": 2, "model": LONGEST_ID}
    return StoredTurn(position=7, request_id=LONGEST_ID, question=question, answer=answer, **(fields | more))


def pages(turn: StoredTurn, *, parts: bool = False) -> list[Turn]:
    """The turn as its pages have it, the last part first."""

    async def turns(
        user: str, conversation: str, *, before: int | None, limit: int, superseded: bool
    ) -> Sequence[StoredTurn]:
        return [turn] if before is None or turn.position < before else []

    async def main() -> list[Turn]:
        subject = HistoryPages(history=SimpleNamespace(turns=turns), clock=lambda: 0)  # type: ignore[arg-type]
        found: list[Turn] = []
        place: str | None = None
        while len(found) < 100:
            asked = GetHistory(request_id=LONGEST_ID, conversation_id=LONGEST_ID, before=place, parts=parts)
            frame = await subject.answer("kim", asked)
            assert isinstance(frame, History)
            assert len(encode(frame)) <= MAX_FRAME_BYTES
            found += frame.turns
            place = frame.next
            assert place is None or place.endswith(":p") is parts
            if place is None:
                return found
        raise AssertionError("the pages do not end")

    return run_virtual(main())


@pytest.mark.parametrize("sign", ["a", "\\", "가", "😀"])
@pytest.mark.parametrize("answer_bytes", [0, 1, PAGE_BYTES - 2 * TURN_BYTES, PAGE_BYTES - TURN_BYTES, PAGE_BYTES])
@pytest.mark.parametrize("question_bytes", [1, PAGE_BYTES - TURN_BYTES, PAGE_BYTES, 3 * PAGE_BYTES])
def test_every_page_of_a_turn_is_a_frame_and_together_they_are_the_turn(
    sign: str, answer_bytes: int, question_bytes: int
) -> None:
    size = len(encode(GetHistory(request_id=sign, conversation_id="c"))) - len(
        encode(GetHistory(request_id="", conversation_id="c"))
    )
    turn = stored(sign * (question_bytes // size or 1), sign * (answer_bytes // size))
    found = pages(turn)
    assert "".join(part.question for part in reversed(found)) == turn.question
    assert "".join(part.answer for part in reversed(found)) == turn.answer
    for later, earlier in pairwise(found):
        assert earlier.answer_offset + len(earlier.answer) == later.answer_offset
        assert earlier.question_offset + len(earlier.question) == later.question_offset


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({}, None),
        ({"input_tokens": 3}, None),
        ({"input_tokens": 3, "output_tokens": 0}, Usage(input_tokens=3, output_tokens=0)),
    ],
)
def test_a_turn_has_usage_where_both_counts_are_known(counts: dict[str, int], usage: Usage | None) -> None:
    (turn,) = pages(stored("q", "a", **counts))
    assert turn.usage == usage


LONGEST_NAME = "\\" * MAX_NAME_LENGTH


@pytest.mark.parametrize("length", [1, 40, 900])
@pytest.mark.parametrize("count", [1, 2, MAX_PARTS])
@pytest.mark.parametrize("sign", ["a", "\\", "😀"])
def test_every_page_of_a_turn_with_parts_is_a_frame_and_together_they_are_its_parts(
    sign: str, count: int, length: int
) -> None:
    marks = tuple(Mark(n * length, (TEXT, "tool")[n % 2], LONGEST_NAME if n % 2 else None) for n in range(count))
    turn = stored("q" * 40_000, sign * length * count, marks=marks)
    found = pages(turn, parts=True)
    assert "".join(one.answer for one in reversed(found)) == turn.answer
    assert "".join(one.question for one in reversed(found)) == turn.question
    said: dict[int, str] = {}
    for one in reversed(found):
        assert "".join(one.answer[part.start - one.answer_offset :][: part.end - part.start] for part in one.parts) == (
            one.answer
        )
        for part in one.parts:
            assert (part.kind, part.name) == marks[part.part][1:]
            assert one.answer_offset <= part.start < part.end <= one.answer_offset + len(one.answer)
            text = one.answer[part.start - one.answer_offset : part.end - one.answer_offset]
            said[part.part] = said.get(part.part, "") + text
    assert said == dict.fromkeys(range(count), sign * length)
    shown = pages(turn)
    assert "".join(one.answer for one in reversed(shown)) == turn.visible == sign * length * ((count + 1) // 2)
    assert not any(one.parts for one in shown)


@pytest.mark.parametrize(("before", "parts"), [("8:p", False), ("8", True), ("7:1:1", True), ("7:1:1:p", False)])
def test_a_page_with_parts_goes_on_with_parts(before: str, parts: bool) -> None:
    async def main() -> None:
        subject = HistoryPages(history=SimpleNamespace(), clock=lambda: 0)  # type: ignore[arg-type]
        frame = GetHistory(request_id="r", conversation_id="c", before=before, parts=parts)
        answer = await subject.answer("kim", frame)
        assert isinstance(answer, Error)
        assert answer.code is ErrorCode.INVALID_FRAME

    run_virtual(main())
