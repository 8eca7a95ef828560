import itertools
import struct

from hypothesis import given
from hypothesis import strategies as st

from answerback.gateway.http import REFUSED, TOO_LARGE, FrameGuard, HeadWatch, frame

payloads = st.one_of(st.binary(max_size=10), st.sampled_from([125, 126, 127, 65_535, 65_536]).map(bytes))


def client_frame(payload: bytes, *, masked: bool = True) -> bytes:
    bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((0x81, bit | size))
    elif size < 65_536:
        head = struct.pack("!BBH", 0x81, bit | 126, size)
    else:
        head = struct.pack("!BBQ", 0x81, bit | 127, size)
    return head + (b"mask" if masked else b"") + payload


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(payloads, max_size=5), st.lists(st.integers(0, 200_000), max_size=8))
def test_masked_frames_pass_whole_however_they_are_cut(messages: list[bytes], places: list[int]) -> None:
    data = b"".join(map(client_frame, messages))
    guard = FrameGuard(1 << 20)
    assert b"".join(guard.feed(piece) for piece in cut(data, places)) == data


@given(st.lists(payloads, max_size=3), payloads, st.lists(st.integers(0, 200_000), max_size=8))
def test_an_unmasked_frame_is_replaced_by_one_that_the_reader_refuses(
    before: list[bytes], bad: bytes, places: list[int]
) -> None:
    good = b"".join(map(client_frame, before))
    data = good + client_frame(bad, masked=False) + client_frame(b"after")
    guard = FrameGuard(1 << 20)
    assert b"".join(guard.feed(piece) for piece in cut(data, places)) == good + REFUSED


fragments = st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=6)
"""The fragments of a message: their lengths, and whether a ping stands behind each."""


@given(st.lists(fragments, max_size=5), st.integers(0, 100), st.lists(st.integers(0, 2_000), max_size=8))
def test_a_message_has_the_limit_to_the_byte_however_it_is_cut(
    messages: list[list[tuple[int, bool]]], limit: int, places: list[int]
) -> None:
    sent, wanted, is_too_large = b"", b"", False
    for message in messages:
        size = 0
        for number, (length, has_ping) in enumerate(message):
            head = (0x01 if number == 0 else 0x00) | (0x80 if number == len(message) - 1 else 0)
            data = bytes((head, 0x80 | length)) + b"mask" + b"x" * length
            size += length
            sent += data
            if not is_too_large and size > limit:
                is_too_large = True
                wanted += bytes((0x8A, 0x80 | len(TOO_LARGE))) + bytes(4) + TOO_LARGE
            elif not is_too_large:
                wanted += data
            if has_ping:
                sent += b"\x89\x81maskp"
                wanted += b"\x89\x81maskp"
    guard = FrameGuard(limit)
    assert b"".join(guard.feed(piece) for piece in cut(sent, places)) == wanted
    assert is_too_large or guard.unfinished_bytes == 0


@given(st.integers(1, 300), st.integers(0, 300))
def test_what_has_come_of_a_message_is_counted(first: int, second: int) -> None:
    whole = client_frame(b"x" * (first + second))
    head = len(whole) - first - second
    guard = FrameGuard(1 << 20)
    guard.feed(whole[: head + first])
    assert guard.unfinished_bytes == (first if second else 0)
    guard.feed(whole[head + first :])
    assert guard.unfinished_bytes == 0
    guard.feed(b"\x01" + whole[1:])
    guard.feed(b"\x89\x81maskp")
    assert guard.unfinished_bytes == first + second
    guard.feed(b"\x80\x80mask")
    assert guard.unfinished_bytes == 0


@given(st.lists(st.integers(0, 60), max_size=4))
def test_bytes_after_the_head_of_the_upgrade_request_are_noticed(places: list[int]) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    persistent, hasty = HeadWatch(), HeadWatch()
    for piece in cut(head, places):
        persistent.check(piece)
    for piece in cut(head + b"\x81", places):
        hasty.check(piece)
    assert not persistent.too_early
    assert hasty.too_early


def test_frames_out_have_the_shortest_length_form() -> None:
    assert frame(b"hi") == b"\x81\x02hi"
    assert frame(bytes(126))[:4] == b"\x81\x7e\x00\x7e"
    assert frame(bytes(65_536))[:10] == b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"
