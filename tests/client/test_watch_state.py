"""What of the history is news to a watch, and how far back it has to be read for that."""

from collections.abc import Iterable

import pytest

from answerback.client.events import Asked
from answerback.client.paging import TurnPages
from answerback.client.watch_state import MAX_MISSED, PAGE, Followed, WatchState, frames_of
from answerback.core.assembly import Assembly
from answerback.protocol.frames import MessageDelta, Status, Turn, TurnPart


def turn(name: str, answered_at: str = "2", **more: object) -> Turn:
    fields = {"question": "Q?", "answer": "yes", "status": Status.COMPLETED, "asked_at": "1"} | more
    return Turn(request_id=name, answered_at=answered_at, **fields)


def state(found: Iterable[str], *, settled: Iterable[str] = (), is_done: bool = False) -> WatchState:
    """`found`: newest first. `is_done`: that is the whole history."""
    pages = TurnPages("c")
    pages.is_done = is_done
    return WatchState(
        conversation_id="c",
        known={},
        has_begun=True,
        floor="floor",
        pages=pages,
        found=[turn(name) for name in found],
        settled=frozenset(settled),
    )


def numbered(count: int) -> list[str]:
    return [f"t{number}" for number in range(count)]


def news(watch: WatchState) -> list[str]:
    return [one.request_id for one in watch.news()[0]]


def test_what_is_older_than_the_floor_or_was_settled_is_no_news() -> None:
    assert news(state(["b", "a", "floor", "old"])) == ["b", "a"]
    # An edit has taken the place of the floor: what was there when the history was last read is settled.
    assert news(state(["b", "a", "old", "older"], settled={"a", "old"})) == ["b", "a"]
    # All of the history is there, and nothing in it is the floor.
    assert news(state(["b", "a"], settled={"a"}, is_done=True)) == ["b", "a"]


def test_of_many_the_newest_are_news_and_that_more_may_be_missing_is_said() -> None:
    for count, is_done, has_more in (
        (MAX_MISSED, True, False),
        (MAX_MISSED + 1, True, True),
        (3, True, False),
        (3, False, True),
    ):
        watch = state(numbered(count), is_done=is_done)
        assert (news(watch), watch.news()[1]) == (numbered(count)[:MAX_MISSED], has_more)
    watch = state(numbered(3))
    watch.know("t2")
    assert (news(watch), watch.news()[1]) == (["t0", "t1"], False), "the oldest one is known, so nothing is missing"


@pytest.mark.parametrize(
    ("found", "settled", "is_done", "enough"),
    [
        (["a"], (), True, True),
        (["a"], (), False, False),
        (["a", "floor"], (), False, True),
        (numbered(PAGE), {"t9"}, False, True),
        (numbered(PAGE), (), False, False),
        (numbered(PAGE - 1), {"t0"}, False, False),
        (numbered(MAX_MISSED), (), False, False),
        (numbered(MAX_MISSED + 1), (), False, True),
    ],
)
def test_how_far_the_history_is_read(found: list[str], settled: Iterable[str], is_done: bool, enough: bool) -> None:
    assert state(found, settled=settled, is_done=is_done).has_found_enough() is enough


def test_the_history_is_read_as_far_as_an_answer_that_the_server_has_forgotten() -> None:
    asked = Asked(request_id="lost", conversation_id="c", question="Q?", model="m", accepted_at="1")
    followed = Followed(asked=asked, heard_at=0.0)
    for found in (["a", "floor"], ["a", "lost", "floor"]):
        for followed.is_lost in (False, True):
            watch = state(found)
            watch.answers["lost"] = followed
            assert watch.has_found_enough() is (not followed.is_lost or "lost" in found)


def test_a_part_without_text_is_no_frame() -> None:
    parts = (
        TurnPart(part=0, kind="text", start=0, end=3),
        TurnPart(part=1, kind="tool", start=3, end=3),
    )
    deltas = [
        one for one in frames_of(turn("a", parts=parts), Assembly(streamed=True)) if isinstance(one, MessageDelta)
    ]
    assert [one.delta for one in deltas] == ["yes"]
