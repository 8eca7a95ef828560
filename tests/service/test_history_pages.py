"""Pages of a history, over turns of every awkward size: each is one frame, and together they are the whole."""

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from answerback.ports import StoredTurn
from answerback.protocol.codec import encode
from answerback.protocol.frames import GetHistory, History, Status, Turn, Usage
from answerback.protocol.limits import MAX_FRAME_BYTES
from answerback.service.history_pages import PAGE_BYTES, TURN_BYTES, HistoryPages
from answerback.testing import run_virtual

LONGEST_ID = "\\" * 128
"""Each of its characters takes two bytes in JSON."""


def stored(question: str, answer: str, **more: Any) -> StoredTurn:
    fields = {"status": Status.COMPLETED, "accepted_at_ms": 1, "ended_at_ms": 2, "model": LONGEST_ID}
    return StoredTurn(position=7, request_id=LONGEST_ID, question=question, answer=answer, **(fields | more))


def pages(turn: StoredTurn) -> list[Turn]:
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
            asked = GetHistory(request_id=LONGEST_ID, conversation_id=LONGEST_ID, before=place)
            frame = await subject.answer("kim", asked)
            assert isinstance(frame, History)
            assert len(encode(frame)) <= MAX_FRAME_BYTES
            found += frame.turns
            place = frame.next
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
