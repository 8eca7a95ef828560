"""The ledger sees each thing that must never happen, and nothing else."""

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
from answerback_proof.load.ledger import Ledger, Verdicts


def ledger(*, expected: str | None = "one two") -> Ledger:
    book = Ledger(keep_texts=True)
    book.asked(1, "a", expected=expected, due_at=0.0)
    book.asked(2, "b", expected="three", due_at=0.0)
    return book


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


def counts(verdicts: Verdicts) -> tuple[int, int, int]:
    return verdicts.misrouted, verdicts.lost, verdicts.repeated


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
    "a missing piece": ([delta(0, "one "), ending(None)], (0, 2, 0)),
    "a gap": ([delta(0, "one"), delta(4, "two"), ending(None)], (0, 3, 0)),
    "a piece twice": ([delta(0, "one "), delta(0, "one "), delta(4, "two"), ending(None)], (0, 0, 3)),
    "other words": ([ending("one tvo")], (0, 1, 0)),
    "a second ending": ([ending("one two"), ending("one two")], (0, 0, 1)),
    "text after the ending": ([ending("one two"), delta(7, "!")], (0, 0, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_counted(name: str) -> None:
    frames, want = CASES[name]
    book = ledger()
    for frame in frames:
        book.received(1, frame, now=1.0)
    assert counts(book.verdicts) == want
    assert len(book.verdicts.examples) == sum(want)


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
    book = ledger()
    assert book.received(2, frame, now=1.0) is None
    assert counts(book.verdicts) == (1, 0, 0)
    assert book.pending == 2


def test_a_frame_about_a_request_that_nobody_made() -> None:
    book = Ledger()
    book.received(1, ending("one two"), now=1.0)
    assert counts(book.verdicts) == (1, 0, 0)


def test_what_has_no_ending_is_lost() -> None:
    book = ledger()
    book.received(1, ending("one two"), now=1.0)
    book.close()
    assert counts(book.verdicts) == (0, 1, 0)


def test_failures_are_counted_by_code_and_are_endings() -> None:
    book = ledger()
    entry = book.received(1, ending("", status=Status.FAILED), now=2.0)
    refusal = book.received(2, Error(code=ErrorCode.REQUEST_CONFLICT, message="", request_id="b"), now=2.0)
    assert entry is not None
    assert refusal is not None
    assert book.failures == {"model_failed": 1, "request_conflict": 1}
    book.close()
    assert book.verdicts.is_clean


def test_instants_and_gaps() -> None:
    gaps: list[float] = []
    book = Ledger(on_gap=gaps.append)
    book.asked(1, "a", expected=None, due_at=1.0)
    book.received(1, MessageAccepted(request_id="a", conversation_id="c", position=0), now=2.0)
    book.received(1, delta(0, "one "), now=3.0)
    book.received(1, delta(4, "two"), now=3.5)
    entry = book.received(1, ending(None), now=4.0)
    assert entry is not None
    assert (entry.due_at, entry.accepted_at, entry.first_text_at, entry.ended_at) == (1.0, 2.0, 3.0, 4.0)
    assert gaps == [0.5]


def test_other_frames_are_of_no_account() -> None:
    book = Ledger()
    book.received(1, Pong(), now=1.0)
    book.received(1, None, now=1.0)
    assert book.frames == 2
    assert book.verdicts.is_clean
