"""Client-side assembly: tables of what each frame does; any faulty schedule ends, by resume, with the exact text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.core.assembly import Assembly, Broken, Ended, Missing, Restarted, Started, Text
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import ErrorBody, MessageDelta, MessageResponse, MessageStarted, Status

RID = "r-1"


def begin(attempt=1):
    return MessageStarted(request_id=RID, attempt=attempt)


def delta(offset, text, attempt=1):
    return MessageDelta(request_id=RID, attempt=attempt, offset=offset, delta=text)


def end(length, *, attempt=1, status=Status.COMPLETED, response=None):
    error = None
    if status is Status.FAILED:
        error = ErrorBody(code=ErrorCode.MODEL_FAILED, message="It broke off.", retryable=True)
    return MessageResponse(
        request_id=RID, status=status, response=response, attempt=attempt, length=length, error=error
    )


def kinds(events):
    """Events in short: `+text`, `ended:text`, or the name."""
    shown = []
    for event in events:
        match event:
            case Text():
                shown.append(f"+{event.delta}")
            case Ended(_, text):
                shown.append(f"ended:{text}")
            case _:
                shown.append(type(event).__name__.lower())
    return shown


def play(assembly, *frames):
    return [kinds(assembly.receive(frame)) for frame in frames]


TRANSCRIPTS = {
    "in order": (
        [begin(), delta(0, "ab"), delta(2, "c"), end(3)],
        [["started"], ["+ab"], ["+c"], ["ended:abc"]],
    ),
    "a delta says that it has started": ([delta(0, "a"), begin()], [["started", "+a"], []]),
    "an empty delta says nothing": ([delta(0, "")], [["started"]]),
    "an empty answer": ([begin(), end(0)], [["started"], ["ended:"]]),
    "a duplicate is dropped": ([delta(0, "ab"), delta(0, "ab"), end(2)], [["started", "+ab"], [], ["ended:ab"]]),
    "an overlap gives its new part": (
        [delta(0, "abc"), delta(1, "bcde"), end(5)],
        [["started", "+abc"], ["+de"], ["ended:abcde"]],
    ),
    "a piece from the middle is dropped": ([delta(0, "abc"), delta(1, "b")], [["started", "+abc"], []]),
    "a gap asks for a resume and keeps nothing": (
        [delta(0, "a"), delta(3, "d"), delta(1, "bc"), end(4)],
        [["started", "+a"], ["missing"], ["+bc"], ["missing"]],
    ),
    "an overlap with other text starts over": (
        [delta(0, "abc"), delta(1, "xyz"), delta(0, "axyz"), end(4)],
        [["started", "+abc"], ["restarted", "missing"], ["+axyz"], ["ended:axyz"]],
    ),
    "an older attempt is dropped": (
        [delta(0, "new", attempt=2), delta(0, "old", attempt=1), begin(1), end(3, attempt=1), end(3, attempt=2)],
        [["started", "+new"], [], [], [], ["ended:new"]],
    ),
    "a newer attempt starts over": (
        [delta(0, "old"), begin(2), delta(0, "new", attempt=2), end(3, attempt=2)],
        [["started", "+old"], ["restarted"], ["+new"], ["ended:new"]],
    ),
    "a newer attempt says so even before any text": ([begin(1), begin(2)], [["started"], ["restarted"]]),
    "a newer attempt seen in its middle": (
        [delta(0, "old"), delta(2, "w", attempt=2)],
        [["started", "+old"], ["restarted", "missing"]],
    ),
    "an ending is held until the text is whole": (
        [delta(0, "a"), end(3), delta(1, "bc")],
        [["started", "+a"], ["missing"], ["+bc", "ended:abc"]],
    ),
    "a held ending of an older attempt is void": (
        [delta(0, "a"), end(3), delta(0, "xyz", attempt=2), end(3, attempt=2)],
        [["started", "+a"], ["missing"], ["restarted", "+xyz"], ["ended:xyz"]],
    ),
    "text beyond the ending starts over": (
        [delta(0, "abcd"), end(2), delta(0, "ab")],
        [["started", "+abcd"], ["restarted", "missing"], ["+ab", "ended:ab"]],
    ),
    "text beyond a held ending starts over": (
        [end(2), delta(0, "abc"), delta(0, "ab")],
        [["missing"], ["started", "+abc", "restarted", "missing"], ["+ab", "ended:ab"]],
    ),
    "a partial text of a failed answer": (
        [delta(0, "ab"), end(2, status=Status.FAILED)],
        [["started", "+ab"], ["ended:ab"]],
    ),
    "the ending of a higher attempt without text voids what was shown": (
        [delta(0, "ab"), end(0, attempt=2, status=Status.FAILED)],
        [["started", "+ab"], ["restarted", "ended:"]],
    ),
    "a refusal": ([end(0, status=Status.FAILED)], [["ended:"]]),
    "the whole response": ([end(2, response="ab")], [["+ab", "ended:ab"]]),
    "the whole response after a part of it": (
        [delta(0, "a"), end(2, response="ab")],
        [["started", "+a"], ["+b", "ended:ab"]],
    ),
    "the whole response in other words": (
        [delta(0, "x"), end(2, response="ab")],
        [["started", "+x"], ["restarted", "+ab", "ended:ab"]],
    ),
    "a response that contradicts its length": ([end(3, response="ab")], [["broken"]]),
    "nothing after the ending": (
        [delta(0, "a"), end(1), end(1), delta(1, "b"), delta(0, "z", attempt=9), end(0, attempt=9)],
        [["started", "+a"], ["ended:a"], [], [], [], []],
    ),
    "nothing after a contradiction": ([end(3, response="ab"), end(2, response="ab")], [["broken"], []]),
    "offsets count code points": (
        [delta(0, "가\U0001f600"), delta(2, "é"), end(3)],
        [["started", "+가\U0001f600"], ["+é"], ["ended:가\U0001f600é"]],
    ),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_streamed(name):
    frames, expected = TRANSCRIPTS[name]
    assert play(Assembly(streamed=True), *frames) == expected


def test_an_unstreamed_answer_that_failed_sends_no_text_whatever_its_length():
    assembly = Assembly(streamed=False)
    assert play(assembly, end(120, status=Status.CANCELLED)) == [["ended:"]]


def test_an_unstreamed_question_may_be_attached_to_a_streamed_answer():
    assembly = Assembly(streamed=False)
    assert play(assembly, end(2), delta(0, "ab")) == [["missing"], ["started", "+ab", "ended:ab"]]


def test_an_answer_over_the_limit_is_refused_and_not_shown():
    assembly = Assembly(streamed=True, max_bytes=4)
    assert play(assembly, delta(0, "가"), delta(1, "나"), delta(1, "x")) == [["started", "+가"], ["broken"], []]


@pytest.mark.parametrize("frame", [end(5), end(5, response="abcde")])
def test_an_ending_over_the_limit_is_refused(frame):
    assembly = Assembly(streamed=True, max_bytes=4)
    assert play(assembly, frame) == [["broken"]]


def test_text_given_out_outlives_a_restart():
    assembly = Assembly(streamed=True)
    (_, first) = assembly.receive(delta(0, "ab"))
    (second,) = assembly.receive(delta(2, "cd"))
    assembly.receive(delta(0, "xy", attempt=2))
    assert (second.delta, second.snapshot) == ("cd", "abcd")
    joined = first.joined(second)
    assert (joined.offset, joined.delta, joined.snapshot) == (0, "abcd", "abcd")
    assert second.joined(first) is None


def test_the_resume_point_is_what_was_shown():
    assembly = Assembly(streamed=True)
    play(assembly, delta(0, "ab", attempt=3), delta(5, "zz", attempt=3))
    assert (assembly.attempt, assembly.length, assembly.text) == (3, 2, "ab")


pieces = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=8), min_size=1, max_size=8)


@given(pieces, st.data())
def test_any_faulty_schedule_with_resume_ends_with_the_exact_text_and_one_ending(parts, data):
    """Drop, repeat, reorder and re-cut the frames of one answer; then resume from the assembly's own point."""
    text = "".join(parts)
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=6))})
    frames = [delta(i, text[i:j]) for i in cuts for j in cuts if j > i]
    frames += [begin(), end(len(text)), delta(0, "stale text of an older attempt", attempt=0)]
    schedule = data.draw(st.lists(st.sampled_from(frames), max_size=20))
    assembly = Assembly(streamed=True)
    shown, endings = "", []

    def take(frame):
        nonlocal shown
        for event in assembly.receive(frame):
            match event:
                case Text():
                    shown += event.delta
                    assert event.snapshot == shown
                    assert text.startswith(shown)
                case Restarted():
                    raise AssertionError("one attempt with one text never starts over")
                case Ended(_, whole):
                    endings.append(whole)
                case Started() | Missing():
                    pass
                case Broken():
                    raise AssertionError(event)

    for frame in schedule:
        take(frame)
    take(delta(assembly.length, text[assembly.length :]))
    take(end(len(text)))
    for frame in schedule:
        take(frame)
    assert endings == [text]
    assert shown == text


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.text(max_size=5)), max_size=30))
def test_a_server_that_says_anything_never_makes_it_raise_or_end_twice(says):
    assembly = Assembly(streamed=True)
    endings = 0
    for attempt, number, text in says:
        for frame in (delta(number, text, attempt), end(number, attempt=attempt), begin(attempt)):
            endings += sum(isinstance(event, Ended) for event in assembly.receive(frame))
    assert endings <= 1
    assert assembly.length == len(assembly.text)
