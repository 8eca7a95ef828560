"""Client-side assembly: tables of what each frame does; any faulty schedule ends, by resume, with the exact text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from answerback.core.answer import Answer, clean
from answerback.core.assembly import Assembly, Broken, Ended, Missing, PartStarted, PartText, Restarted, Started, Text
from answerback.core.delivery import Delivery, steady
from answerback.core.parts import Mark, stretches, visible
from answerback.core.request import DeliveryTarget
from answerback.core.request import Ending as RecordEnding
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import ErrorBody, MessageDelta, MessageResponse, MessageStarted, Status
from asking import record_of

RID = "r-1"


def begin(attempt=1):
    return MessageStarted(request_id=RID, attempt=attempt)


def delta(offset, text, attempt=1, **part):
    return MessageDelta(request_id=RID, attempt=attempt, offset=offset, delta=text, **part)


def think(offset, text, part=0, **more):
    return delta(offset, text, part=part, kind="reasoning", **more)


def tool(offset, text, part, name=None):
    return delta(offset, text, part=part, kind="tool", name=name)


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
            case PartStarted(part, kind, name):
                shown.append(f"{part}:{name or kind}")
            case PartText():
                shown.append(f"{event.part}+{event.delta}")
            case Ended(_, text, parts):
                shown.append(f"ended:{text}" if not parts else f"ended:{text}:{'|'.join(part.text for part in parts)}")
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
    "parts in order, and the text without them": (
        [think(0, "hm"), delta(2, "a", part=1), tool(3, "{}", 2, "now"), delta(5, "b", part=3), end(6)],
        [["started", "0:reasoning", "0+hm"], ["+a"], ["2:now", "2+{}"], ["+b"], ["ended:ab:hm|a|{}|b"]],
    ),
    "a part that goes on, and one that begins with an overlap": (
        [think(0, "hm"), think(1, "m, so"), think(2, ", so"), end(6)],
        [["started", "0:reasoning", "0+hm"], ["0+, so"], [], ["ended::hm, so"]],
    ),
    "two parts of one kind are two": (
        [tool(0, "1", 0, "s"), tool(1, "2", 1, "s"), end(2)],
        [["started", "0:s", "0+1"], ["1:s", "1+2"], ["ended::1|2"]],
    ),
    "a part is left out": ([delta(0, "a"), tool(1, "x", 2)], [["started", "+a"], ["broken"]]),
    "an answer that begins with its second part": ([tool(0, "x", 1)], [["started", "broken"]]),
    "text for a part before the last": (
        [delta(0, "a"), tool(1, "x", 1), delta(2, "b")],
        [["started", "+a"], ["1:tool", "1+x"], ["broken"]],
    ),
    "a part that changes its kind": (
        [think(0, "hm"), tool(2, "x", 0)],
        [["started", "0:reasoning", "0+hm"], ["broken"]],
    ),
    "a part that begins inside known text": ([delta(0, "ab"), tool(1, "bc", 1)], [["started", "+ab"], ["broken"]]),
    "known text of any part is dropped": (
        [think(0, "hm"), delta(2, "a", part=1), think(0, "hm"), delta(2, "a", part=1), end(3)],
        [["started", "0:reasoning", "0+hm"], ["+a"], [], [], ["ended:a:hm|a"]],
    ),
    "a newer attempt voids parts": (
        [think(0, "hm"), begin(2), delta(0, "a", attempt=2), end(1, attempt=2)],
        [["started", "0:reasoning", "0+hm"], ["restarted"], ["+a"], ["ended:a"]],
    ),
    "the whole response after a part that is no text": (
        [think(0, "a"), end(2, response="ab")],
        [["started", "0:reasoning", "0+a"], ["restarted", "+ab", "ended:ab"]],
    ),
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


said = st.lists(
    st.tuples(
        st.sampled_from(("text", "reasoning", "tool", "tool")), st.sampled_from((None, "s")), st.text(max_size=8)
    ),
    max_size=8,
)


@given(said, st.data())
def test_any_cut_loss_repeat_and_resume_ends_with_the_same_parts(said, data):
    """Frames as the server's own delivery cuts them, in pieces, lost, repeated, out of order; then it resumes."""
    answer = Answer(1, max_bytes=10_000)
    for kind, name, text in said:
        if kind == "text":
            answer.append(clean(text))
        else:
            answer.append_part(kind, name, clean(text), is_new=True)
    content = answer.content
    ending = end(len(content.text))

    def resumed(offset):
        target = DeliveryTarget(no=1, connection_id="c", generation=1, attempt=1, offset=offset)
        fields = {"status": Status.COMPLETED, "attempt": 1, "length": answer.length, "ended_at_ms": 1}
        record = record_of(RID, stream=True, parts=("tool",), ending=RecordEnding(**fields), target=target)
        delivery = Delivery(record, answer, steady(0.0), now=0.0)
        while (frame := delivery.next_frame(now=0.0)) is not None:
            delivery.sent(frame, now=0.0)
            yield frame

    whole = [frame for frame in resumed(0) if isinstance(frame, MessageDelta)]
    frames = [begin(), ending, *whole]
    for frame in whole:
        for start in range(1, len(frame.delta)):
            frames.append(replace(frame, offset=frame.offset + start, delta=frame.delta[start:], name=None))
            frames.append(replace(frame, delta=frame.delta[:start]))
    schedule = data.draw(st.lists(st.sampled_from(frames), max_size=20))
    assembly = Assembly(streamed=True)
    shown, endings = [], []

    def take(frame):
        for event in assembly.receive(frame):
            match event:
                case PartStarted(_, kind, name):
                    shown.append((kind, name, ""))
                case PartText():
                    kind, name, text = shown[-1]
                    shown[-1] = (kind, name, text + event.delta)
                    assert event.snapshot == shown[-1][2]
                case Text():
                    if not shown or shown[-1][0] != "text":
                        shown.append(("text", None, ""))
                    shown[-1] = ("text", None, shown[-1][2] + event.delta)
                    assert event.offset + len(event.delta) == len(event.snapshot)
                case Ended():
                    endings.append(event)
                case Broken() | Restarted():
                    raise AssertionError(event)

    for frame in schedule:
        take(frame)
    for frame in resumed(assembly.length):
        take(frame)
    expected = [
        (one.mark.kind, one.mark.name, content.text[one.start : one.end])
        for one in stretches(content.marks or (Mark(0, "text"),), 0, len(content.text))
    ]
    assert shown == expected
    (event,) = endings
    assert event.text == visible(content)
    assert list(event.parts) == (expected if content.marks else [])


@given(
    st.lists(
        st.tuples(
            *(st.integers(0, 3), st.integers(0, 6), st.text(max_size=5)),
            *(st.integers(0, 3), st.sampled_from(("text", "reasoning", "x"))),
        ),
        max_size=30,
    )
)
def test_a_server_that_says_anything_never_makes_it_raise_or_end_twice(says):
    assembly = Assembly(streamed=True)
    endings = 0
    for attempt, number, text, part, kind in says:
        piece = delta(number, text, attempt, part=part, kind=kind)
        for frame in (piece, end(number, attempt=attempt), begin(attempt)):
            endings += sum(isinstance(event, Ended) for event in assembly.receive(frame))
    assert endings <= 1
    assert assembly.length == len("".join(part.text for part in assembly.parts) or assembly.text)
