"""Server-sent events: any split of the bytes gives the same events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.models.documents import SseDecoder, SseError


def decode(*chunks: bytes) -> list[str]:
    decoder = SseDecoder()
    return [event.decode("utf-8", "replace") for chunk in chunks for event in decoder.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a\n\n", [" a"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data: a\r\ndata: b\r\n\r\n", ["a\nb"]),
        (b"data\n\n", [""]),
        (b"data: a:b\n\n", ["a:b"]),
        (b": ping\n\ndata: a\n: pong\n\n", ["a"]),
        (b"event: message\nid: 1\nretry: 5\ndata: a\n\n", ["a"]),
        (b"event: message\n\n", []),
        (b"\n\n\ndata: a\n\n\n", ["a"]),
        ("data: 한\u2028글\x85\x0b\n\n".encode(), ["한\u2028글\x85\x0b"]),
        (b"data: a\n\ndata: cut off", ["a"]),
        (b"data: a\n\ndata: cut off\n", ["a"]),
        (b"data: \xff\n\n", ["�"]),
        (b"", []),
    ],
)
def test_streams(stream: bytes, events: list[str]) -> None:
    assert decode(stream) == events
    for position in range(len(stream) + 1):
        assert decode(stream[:position], stream[position:]) == events
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == events


_LINES = st.lists(
    st.tuples(
        st.sampled_from([b"data: ", b"data:", b"data", b": ", b"event: ", b"", b"\xef\xbb\xbf"]),
        st.binary(max_size=8),
        st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n"]),
    ).map(b"".join),
    max_size=12,
).map(b"".join)


@given(_LINES, st.lists(st.integers(0, 300), max_size=8))
def test_any_split_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(edges)]
    assert decode(*chunks) == decode(stream)


@pytest.mark.parametrize(
    ("stream", "rest"),
    [
        (b"data: a\n\ndata: cut", [b"cut"]),
        (b"data: a\ndata: b\n", [b"a\nb"]),
        (b"data: a\n\n", []),
        (b"data: a\n\nevent: cut", []),
        (b"", []),
    ],
)
def test_closing_gives_the_event_that_has_begun(stream: bytes, rest: list[bytes]) -> None:
    decoder = SseDecoder()
    decoder.feed(stream)
    assert decoder.close() == rest


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1))
def test_what_was_written_is_read(texts: list[str]) -> None:
    assert decode(*(f"data: {text}\r\n\r\n".encode() for text in texts)) == texts


@pytest.mark.parametrize("line", [b"data: 123456789", b"data: 12345\ndata: 6789\n", b"no end of line at all"])
def test_an_endless_event_is_refused(line: bytes) -> None:
    decoder = SseDecoder(max_event_bytes=8)
    with pytest.raises(SseError):
        decoder.feed(line)


def test_the_limit_is_for_one_event() -> None:
    decoder = SseDecoder(max_event_bytes=16)
    for _ in range(10):
        assert decoder.feed(b"data: 12345\n\n") == [b"12345"]
