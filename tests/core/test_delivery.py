"""A cursor on an answer: what goes out, when, and after which fault."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from answerback.core.answer import Answer, clean, cut, cut_back, encoded_size
from answerback.core.delivery import MAX_TEXT_BYTES, PROGRESS_S, SLOW_RETRY_S, Delivery, growing, response_frame, steady
from answerback.core.parts import KINDS, MAX_PARTS, Content, Mark, stretches, visible
from answerback.core.parts import TEXT as PLAIN
from answerback.core.request import DeliveryTarget, Ending, Record
from answerback.core.transitions import State
from answerback.protocol.codec import encode
from answerback.protocol.frames import (
    MessageDelta,
    MessageProgress,
    MessageResponse,
    MessageStarted,
    Pong,
    Status,
    Usage,
)
from answerback.protocol.limits import MAX_ANSWER_BYTES, MAX_FRAME_BYTES
from asking import record_of

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


def record(
    *, stream: bool = True, target: DeliveryTarget | None = None, parts: tuple[str, ...] | None = None
) -> Record:
    return record_of(
        "나" * 128,
        "가" * 128,
        model="다" * 128,
        state=State.RUNNING,
        attempt=1,
        stream=stream,
        parts=parts,
        target=target or DeliveryTarget(no=1, connection_id="c1", generation=1),
    )


def ended(before: Record, answer: Answer, target: DeliveryTarget | None = None) -> Record:
    ending = Ending(
        status=Status.COMPLETED, attempt=answer.attempt, length=answer.length, ended_at_ms=9, model=before.model
    )
    return replace(before, state=State.COMPLETED, ending=ending, target=target or before.target)


def drain(delivery: Delivery, now: float) -> list[object]:
    out: list[object] = []
    while (frame := delivery.next_frame(now=now)) is not None:
        out.append(frame)
        delivery.sent(frame, now=now)
    return out


def test_the_first_text_goes_at_once_and_then_on_a_timer() -> None:
    answer = Answer(1, max_bytes=1000)
    delivery = Delivery(record(), answer, steady(0.04), now=0.0)
    assert [type(f) for f in drain(delivery, 0.0)] == [MessageStarted]
    assert delivery.due_at() is None
    answer.append("one ")
    assert [f.delta for f in drain(delivery, 0.1)] == ["one "]  # type: ignore[attr-defined]
    answer.append("two ")
    assert delivery.next_frame(now=0.11) is None
    assert delivery.due_at() == pytest.approx(0.14)
    answer.append("three")
    assert [f.delta for f in drain(delivery, 0.14)] == ["two three"]  # type: ignore[attr-defined]


def test_an_ending_flushes_the_rest_at_once_and_is_sent_once() -> None:
    answer = Answer(1, max_bytes=1000)
    delivery = Delivery(record(), answer, steady(10.0), now=0.0)
    answer.append("one ")
    drain(delivery, 0.0)
    answer.append("two")
    delivery.ended(ended(record(), answer))
    frames = drain(delivery, 0.0)
    assert [type(f) for f in frames] == [MessageDelta, MessageResponse]
    assert delivery.is_done
    assert drain(delivery, 99.0) == []


def test_each_target_is_applied_once() -> None:
    answer = Answer(2, max_bytes=1000)
    answer.append("0123456789")
    delivery = Delivery(record(), answer, steady(), now=0.0)
    drain(delivery, 0.0)
    again = DeliveryTarget(no=2, connection_id="c2", generation=2, attempt=2, offset=7)
    assert delivery.retarget(again)
    assert (delivery.connection_id, delivery.offset) == ("c2", 7)
    assert [f.delta for f in drain(delivery, 0.0)] == ["789"]  # type: ignore[attr-defined]
    assert not delivery.retarget(again)
    assert delivery.offset == 10


@pytest.mark.parametrize(("attempt", "offset"), [(1, 3), (2, 11), (0, 0), (3, 10)])
def test_another_attempt_or_an_offset_past_the_end_means_from_the_start(attempt: int, offset: int) -> None:
    answer = Answer(2, max_bytes=1000)
    answer.append("0123456789")
    delivery = Delivery(record(), answer, steady(), now=0.0)
    delivery.retarget(DeliveryTarget(no=5, connection_id="c2", generation=2, attempt=attempt, offset=offset))
    assert delivery.offset == 0


def test_a_slow_connection_gets_one_bigger_piece_later_and_a_gone_one_nothing() -> None:
    answer = Answer(1, max_bytes=1000)
    delivery = Delivery(record(), answer, steady(0.0), now=0.0)
    drain(delivery, 0.0)
    answer.append("a")
    assert delivery.next_frame(now=1.0) is not None
    delivery.slow(now=1.0)
    answer.append("b")
    assert delivery.next_frame(now=1.0) is None
    assert delivery.due_at() == 1.0 + SLOW_RETRY_S
    assert [f.delta for f in drain(delivery, 1.0 + SLOW_RETRY_S)] == ["ab"]  # type: ignore[attr-defined]
    delivery.gone()
    answer.append("c")
    assert (delivery.next_frame(now=9.0), delivery.due_at(), delivery.is_done) == (None, None, True)


@pytest.mark.parametrize("stream", [True, False])
def test_a_delivery_that_has_sent_nothing_for_a_while_gives_a_sign_of_life(stream: bool) -> None:
    asked = record(stream=stream, parts=())
    answer = Answer(1, max_bytes=1000)
    delivery = Delivery(asked, answer, steady(), now=0.0)
    assert [type(f) for f in drain(delivery, 0.0)] == [MessageStarted] * stream
    for at in (PROGRESS_S, 2 * PROGRESS_S):
        assert delivery.due_at() == at
        assert delivery.next_frame(now=at - 0.01) is None
        assert drain(delivery, at) == [
            MessageProgress(request_id=asked.request_id, attempt=1, silent_ms=round(at * 1000))
        ]
    delivery.spoke(now=20.0)  # of what is not shown
    (sign,) = drain(delivery, 3 * PROGRESS_S)
    assert sign == MessageProgress(request_id=asked.request_id, attempt=1, silent_ms=4000)
    assert delivery.text_due_at() is None, "a sign that is not due yet holds no text back"
    answer.append("text")
    assert [type(f) for f in drain(delivery, 25.0)] == [MessageDelta] * stream
    assert delivery.due_at() == (25.0 if stream else 3 * PROGRESS_S) + PROGRESS_S
    delivery.ended(ended(asked, answer))
    assert [type(f) for f in drain(delivery, 99.0)] == [MessageResponse]
    assert (delivery.due_at(), drain(delivery, 999.0)) == (None, [])


def test_a_target_never_puts_a_sign_off() -> None:
    """Else a client that asks every few seconds whether its answer lives would never hear from its worker."""
    asked = record(stream=False, parts=())
    delivery = Delivery(asked, Answer(1, max_bytes=1000), steady(), now=0.0)
    signs = []
    for second in range(1, 41):
        assert delivery.retarget(DeliveryTarget(no=second + 1, connection_id="c1", generation=1, attempt=1))
        signs += [second] * len(drain(delivery, float(second)))
    assert signs == [8, 16, 24, 32, 40]


def test_a_later_attempt_gives_a_sign_at_once() -> None:
    """Its client has heard nothing since the last worker died."""
    asked = record(stream=False, parts=())
    (sign,) = drain(Delivery(asked, Answer(2, max_bytes=1000), steady(), now=100.0), 100.0)
    assert sign == MessageProgress(request_id=asked.request_id, attempt=2, silent_ms=0)


def test_a_client_that_does_not_take_signs_gets_none() -> None:
    for stream in (True, False):
        delivery = Delivery(record(stream=stream), Answer(1, max_bytes=1000), steady(), now=0.0)
        drain(delivery, 0.0)
        assert (delivery.due_at(), drain(delivery, 1000.0)) == (None, [])


def test_a_slow_connection_gets_the_sign_when_the_next_is_due_and_one_that_is_gone_none() -> None:
    delivery = Delivery(record(stream=False, parts=()), Answer(1, max_bytes=1000), steady(), now=0.0)
    assert delivery.next_frame(now=PROGRESS_S) is not None
    delivery.slow(now=PROGRESS_S)
    assert delivery.due_at() == 2 * PROGRESS_S
    assert drain(delivery, 2 * PROGRESS_S - 1) == []
    delivery.gone()
    assert (delivery.due_at(), drain(delivery, 99.0)) == (None, [])


def test_unstreamed_only_the_ending_goes_out_with_the_whole_text() -> None:
    answer = Answer(1, max_bytes=1000)
    plain = record(stream=False)
    delivery = Delivery(plain, answer, steady(), now=0.0)
    answer.append("all of it")
    assert (drain(delivery, 0.0), delivery.due_at()) == ([], None)
    delivery.ended(ended(plain, answer))
    (frame,) = drain(delivery, 0.0)
    assert isinstance(frame, MessageResponse)
    assert frame.response == "all of it"


def test_the_counts_of_later_editions_go_to_whoever_takes_parts() -> None:
    counts = {"input_tokens": 9, "output_tokens": 7, "cached_tokens": 4, "reasoning_tokens": 5}
    ending = Ending(status=Status.COMPLETED, attempt=1, length=0, ended_at_ms=9, **counts)
    first, later = (replace(record(parts=parts), ending=ending) for parts in (None, ()))
    assert response_frame(first, "").usage == Usage(input_tokens=9, output_tokens=7)
    assert response_frame(later, "").usage == Usage(**counts)


def test_a_frame_that_is_no_delivery_frame_is_our_own_mistake() -> None:
    delivery = Delivery(record(), Answer(1, max_bytes=10), steady(), now=0.0)
    with pytest.raises(ValueError, match="Pong"):
        delivery.sent(Pong(), now=0.0)


@given(st.lists(TEXT, max_size=8), st.booleans())
def test_frames_never_exceed_the_limit_and_join_to_the_text(pieces: list[str], stream: bool) -> None:
    asked = record(stream=stream)
    answer = Answer(1, max_bytes=MAX_ANSWER_BYTES if stream else MAX_TEXT_BYTES)
    delivery = Delivery(asked, answer, steady(0.0), now=0.0)
    frames: list[object] = []
    for piece in pieces:
        answer.append(piece * 3000)
        frames += drain(delivery, 1.0)
    delivery.ended(ended(asked, answer))
    frames += drain(delivery, 2.0)
    assert all(len(encode(f)) <= MAX_FRAME_BYTES for f in frames)  # type: ignore[arg-type]
    said = "".join(piece * 3000 for piece in pieces)
    assert said.startswith(answer.text)
    assert answer.is_full or answer.text == said
    last = frames[-1]
    assert isinstance(last, MessageResponse)
    assert last.length == len(answer.text)
    if stream:
        assert "".join(f.delta for f in frames if isinstance(f, MessageDelta)) == answer.text
    else:
        assert last.response == answer.text


@given(TEXT, st.integers(0, 50), st.integers(1, 400))
def test_a_cut_is_the_largest_that_fits(text: str, start: int, max_bytes: int) -> None:
    start = min(start, len(text))
    end = cut(text, start, max_bytes)
    if start < len(text):
        assert end > start, "a loop of cuts would never end"
    assert encoded_size(text[start:end]) <= max_bytes or end == start + 1
    if end < len(text) and end > start + 1:
        assert encoded_size(text[start : end + 1]) > max_bytes


@given(TEXT, st.integers(0, 400))
def test_a_cut_from_the_end_is_the_largest_that_fits(text: str, max_bytes: int) -> None:
    start = cut_back(text, len(text), max_bytes)
    assert encoded_size(text[start:]) <= max_bytes
    if start > 0:
        assert encoded_size(text[start - 1 :]) > max_bytes


@given(st.lists(st.text(), max_size=10))
@example(["a\0b", "\ud800c"])
def test_an_answer_has_no_nul_and_no_lone_surrogate_and_counts_what_it_keeps(pieces: list[str]) -> None:
    answer = Answer(1, max_bytes=200)
    kept = sum(answer.append(piece) for piece in pieces)
    assert kept == answer.length == len(answer.text)
    assert encoded_size(answer.text) <= 200
    assert clean("".join(pieces)).startswith(answer.text)
    assert Answer.stored(1, answer.content).content == answer.content


def test_pauses_grow_with_the_answer_where_posts_cost() -> None:
    interval = growing()
    assert [interval(t) for t in (0.0, 0.2, 5.0, 60.0)] == [0.04, 0.04, 0.5, 1.0]
    assert steady()(99.0) == 0.04


# --- parts ------------------------------------------------------------------------------------------------------

SAID = st.lists(
    st.tuples(
        st.sampled_from((PLAIN, PLAIN, *sorted(KINDS))),
        st.text(max_size=12) | st.just("x" * 40),
        st.sampled_from((None, "search", "나" * 64)),
        st.booleans(),
    ),
    max_size=30,
)


def say(answer: Answer, said: list[tuple[str, str, str | None, bool]]) -> None:
    for kind, text, name, is_new in said:
        if kind == PLAIN:
            answer.append(text)
        else:
            answer.append_part(kind, name, text, is_new=is_new)


def listed(content: Content) -> list[tuple[str, str | None, str]]:
    return [
        (one.mark.kind, one.mark.name, content.text[one.start : one.end])
        for one in stretches(content.marks, 0, len(content.text))
    ]


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        # A label waits for its first code point, and one that never gets any is no part.
        ([("tool", "", "search", True), ("text", "a", None, False)], []),
        (
            [("tool", "", "search", True), ("tool", "{}", None, False)],
            [("tool", "search", "{}")],
        ),
        # Text joins text, whatever was dropped or empty in between.
        ([("text", "a", None, False), ("status", "", None, True), ("text", "b", None, False)], []),
        # Two calls of one tool are two parts; what goes on is one.
        (
            [("tool", "1", "s", True), ("tool", "2", "s", False), ("tool", "3", "s", True), ("tool", "4", None, False)],
            [("tool", "s", "12"), ("tool", "s", "34")],
        ),
        # Nothing is added to an older part.
        (
            [("tool", "1", "s", True), ("text", "a", None, False), ("tool", "2", "s", False)],
            [("tool", "s", "1"), ("text", None, "a"), ("tool", "s", "2")],
        ),
        (
            [("text", "a", None, False), ("reasoning", "h", None, True), ("tool", "{", "s", True)],
            [("text", None, "a"), ("reasoning", None, "h"), ("tool", "s", "{")],
        ),
    ],
)
def test_a_part_begins_with_its_first_code_point(said: list, parts: list) -> None:  # type: ignore[type-arg]
    answer = Answer(1, max_bytes=1000)
    say(answer, said)
    assert listed(answer.content) == parts


@given(SAID, st.integers(0, 400))
def test_marks_rise_and_the_text_is_what_it_is_without_the_other_parts(said: list, max_bytes: int) -> None:  # type: ignore[type-arg]
    answer, alone = Answer(1, max_bytes=max_bytes), Answer(1, max_bytes=max_bytes)
    say(answer, said)
    say(alone, [one for one in said if one[0] == PLAIN])
    text, marks = answer.content
    offsets = [mark.offset for mark in marks]
    assert offsets == sorted(set(offsets))
    assert not marks or offsets[0] == 0
    assert not marks or offsets[-1] < len(text)
    assert all(not (one.kind == other.kind == PLAIN) for one, other in pairwise(marks))
    assert len(text) == answer.length
    assert encoded_size(text) <= max_bytes
    others = "".join(part for kind, _, part in listed(answer.content) if kind != PLAIN)
    assert encoded_size(others) <= max_bytes // 2
    assert alone.text.startswith(visible(answer.content))
    if not answer.is_full:
        assert visible(answer.content) == alone.text


def test_what_is_no_text_leaves_room_for_the_answer() -> None:
    answer = Answer(1, max_bytes=100)
    assert answer.append_part("reasoning", None, "h" * 80, is_new=True) == 50
    assert answer.append_part("tool", "s", "{}", is_new=True) == 0
    assert answer.append("a" * 50) == 50
    assert not answer.is_full
    many = Answer(1, max_bytes=100_000)
    for _ in range(300):
        many.append_part("tool", "s", "x", is_new=True)
    many.append("the answer")
    many.append_part("tool", "s", "x", is_new=True)
    many.append(", whole")
    assert len(many.marks) == MAX_PARTS
    assert many.marks[-1].kind == PLAIN
    assert visible(many.content) == "the answer, whole"


@given(SAID, st.integers(0, 200))
def test_a_resume_anywhere_brings_the_same_parts(said: list, offset: int) -> None:  # type: ignore[type-arg]
    answer = Answer(1, max_bytes=100_000)
    say(answer, said)
    target = DeliveryTarget(no=1, connection_id="c", generation=1, attempt=1, offset=min(offset, answer.length))
    done = ended(record(parts=tuple(KINDS)), answer, target)
    delivery = Delivery(done, answer, steady(1.0), now=0.0)
    at = target.offset
    marks = answer.marks or [Mark(0, PLAIN)]
    for frame in drain(delivery, 0.0):
        if not isinstance(frame, MessageDelta):
            continue
        assert frame.offset == at
        at += len(frame.delta)
        mark = marks[frame.part]
        following = [one.offset for one in marks if one.offset > frame.offset]
        assert mark.offset <= frame.offset
        assert at <= min(following, default=answer.length)
        assert frame.kind == mark.kind
        assert frame.name == (mark.name if mark.offset == frame.offset else None)
        assert len(encode(frame)) <= MAX_FRAME_BYTES
    assert at == answer.length


def test_a_pause_begins_with_the_frame_that_reaches_the_end() -> None:
    answer = Answer(1, max_bytes=1000)
    delivery = Delivery(record(parts=("tool",)), answer, steady(1.0), now=0.0)
    drain(delivery, 0.0)
    for number in range(20):
        answer.append_part("tool", f"t{number}", "x", is_new=True)
    assert len(drain(delivery, 5.0)) == 20
    answer.append_part("tool", "late", "x", is_new=True)
    assert delivery.next_frame(now=5.9) is None
    assert delivery.due_at() == 6.0
    # What comes while a frame is on its way does not shorten the pause.
    frame = delivery.next_frame(now=6.0)
    answer.append("more")
    assert frame is not None
    delivery.sent(frame, now=6.0)
    assert delivery.next_frame(now=6.5) is None


def test_text_alone_has_no_marks_and_its_frames_are_as_ever() -> None:
    answer = Answer(1, max_bytes=1000)
    answer.append("one")
    delivery = Delivery(ended(record(parts=tuple(KINDS)), answer), answer, steady(1.0), now=0.0)
    (_, delta, _) = drain(delivery, 0.0)
    assert answer.content == Content("one")
    assert encode(delta) == (
        f'{{"action":"messageDelta","requestId":"{"나" * 128}","attempt":1,"offset":0,"delta":"one"}}'.encode()
    )
