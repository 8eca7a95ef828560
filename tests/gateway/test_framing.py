import itertools
import struct

from hypothesis import given
from hypothesis import strategies as st

from answerback.gateway.http import REFUSED, HeadWatch, MaskGuard, frame

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
    guard = MaskGuard()
    assert b"".join(guard.feed(piece) for piece in cut(data, places)) == data


@given(st.lists(payloads, max_size=3), payloads, st.lists(st.integers(0, 200_000), max_size=8))
def test_an_unmasked_frame_is_replaced_by_one_that_the_reader_refuses(
    before: list[bytes], bad: bytes, places: list[int]
) -> None:
    good = b"".join(map(client_frame, before))
    data = good + client_frame(bad, masked=False) + client_frame(b"after")
    guard = MaskGuard()
    assert b"".join(guard.feed(piece) for piece in cut(data, places)) == good + REFUSED


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
