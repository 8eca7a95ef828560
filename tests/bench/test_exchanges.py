"""The compact history of a load test finds each thing that must never happen, and nothing else."""

import pytest

from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Error,
    ErrorBody,
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    MessageStarted,
    Pong,
    ServerFrame,
    Status,
)
from answerback_proof.load.load import Exchanges


def two_questions() -> Exchanges:
    exchanges = Exchanges()
    exchanges.asked(1, "a", expected="one two", due_at=0.0)
    exchanges.asked(2, "b", expected="three", due_at=0.0)
    return exchanges


def delta(offset: int, text: str, *, attempt: int = 1) -> MessageDelta:
    return MessageDelta(request_id="a", attempt=attempt, offset=offset, delta=text)


def ending(response: str | None, *, length: int = 7, status: Status = Status.COMPLETED) -> MessageResponse:
    error = ErrorBody(code=ErrorCode.MODEL_FAILED, message="", retryable=True)
    return MessageResponse(
        request_id="a",
        status=status,
        response=response,
        attempt=1,
        length=length,
        error=error if status is Status.FAILED else None,
    )


CASES: dict[str, tuple[list[ServerFrame], tuple[int, int, int]]] = {
    "whole": ([ending("one two")], (0, 0, 0)),
    "streamed": ([delta(0, "one "), delta(4, "two"), ending(None)], (0, 0, 0)),
    "a new attempt": (
        [delta(0, "on"), delta(0, "one ", attempt=2), delta(4, "two", attempt=2), ending(None)],
        (0, 0, 0),
    ),
    "an old attempt": (
        [delta(0, "one ", attempt=2), delta(0, "x"), delta(4, "two", attempt=2), ending(None)],
        (0, 0, 0),
    ),
    "another's text": ([ending("three", length=5)], (1, 0, 0)),
    "a missing piece": ([delta(0, "one "), ending(None)], (0, 1, 0)),
    "a gap": ([delta(0, "one"), delta(4, "two"), ending(None)], (0, 2, 0)),
    "a piece twice": ([delta(0, "one "), delta(0, "one "), delta(4, "two"), ending(None)], (0, 0, 1)),
    "other words": ([ending("one tvo")], (0, 1, 0)),
    "a second ending": ([ending("one two"), ending("one two")], (0, 0, 1)),
    "text after the ending": ([ending("one two"), delta(7, "!")], (0, 0, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_counted(name: str) -> None:
    frames, want = CASES[name]
    exchanges = two_questions()
    for frame in frames:
        exchanges.received(1, frame, now=1.0)
    assert exchanges.counts == want
    assert len(exchanges.examples) == sum(want)


@pytest.mark.parametrize(
    "frame",
    [
        MessageAccepted(request_id="a", conversation_id="c", position=0),
        MessageStarted(request_id="a", attempt=1),
        delta(0, "one "),
        ending("one two"),
        Error(code=ErrorCode.REQUEST_CONFLICT, message="", request_id="a"),
    ],
)
def test_any_frame_that_comes_to_another_app_is_misrouted(frame: ServerFrame) -> None:
    exchanges = two_questions()
    assert exchanges.received(2, frame, now=1.0) is None
    assert exchanges.counts == (1, 0, 0)
    assert exchanges.pending == 2


def test_a_frame_about_a_request_that_nobody_made() -> None:
    exchanges = Exchanges()
    exchanges.received(1, ending("one two"), now=1.0)
    assert exchanges.counts == (1, 0, 0)


def test_what_has_no_ending_is_lost() -> None:
    exchanges = two_questions()
    exchanges.received(1, ending("one two"), now=1.0)
    exchanges.close()
    assert exchanges.counts == (0, 1, 0)


def test_failures_are_counted_by_code_and_are_endings() -> None:
    exchanges = two_questions()
    exchange = exchanges.received(1, ending(None, status=Status.FAILED), now=2.0)
    refusal = exchanges.received(2, Error(code=ErrorCode.REQUEST_CONFLICT, message="", request_id="b"), now=2.0)
    assert exchange is not None
    assert refusal is not None
    assert exchanges.failures == {"model_failed": 1, "request_conflict": 1}
    exchanges.close()
    assert exchanges.violations == []


def test_instants_and_gaps() -> None:
    exchanges = Exchanges()
    exchanges.asked(1, "a", expected=None, due_at=1.0)
    exchanges.received(1, MessageAccepted(request_id="a", conversation_id="c", position=0), now=2.0)
    exchanges.received(1, delta(0, "one "), now=3.0)
    exchanges.received(1, delta(4, "two"), now=3.5)
    exchange = exchanges.received(1, ending(None), now=4.0)
    assert exchange is not None
    assert (exchange.due_at, exchange.accepted_at, exchange.first_text_at, exchange.ended_at) == (1.0, 2.0, 3.0, 4.0)
    assert list(exchanges.gaps_s) == [0.5]


def test_other_frames_are_of_no_account() -> None:
    exchanges = Exchanges()
    exchanges.received(1, Pong(), now=1.0)
    exchanges.received(1, None, now=1.0)
    assert exchanges.frames == 2
    assert exchanges.violations == []
