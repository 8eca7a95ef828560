"""The same messages arrive however their bytes are cut: into fragments of WebSocket and into pieces of TCP."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answerback_proof.load.websocket import FrameReader, Masker
from harness.listener import check_frames, converse
from harness.memory import play

TEXT, PING, PONG, CONTINUATION = 0x1, 0x9, 0xA, 0x0
FIN = 0x80

messages = st.lists(
    st.text(st.characters(codec="utf-8"), max_size=40)
    | st.sampled_from([125, 126, 127, 65_535, 65_536, 131_072]).map(lambda size: "x" * size),
    max_size=5,
)
places = st.lists(st.integers(0, 20) | st.integers(0, 200_000), max_size=6)
keys = st.binary(min_size=4, max_size=4)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """Pieces, some of them empty."""
    edges = sorted((0, len(data), *(place % (len(data) + 1) for place in at)))
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def fragments(text: str, at: list[int], *, masker: Masker, between: list[bytes]) -> bytes:
    """One message: cut anywhere, also inside of a character, with pings between."""
    pieces = cut(text.encode(), at)
    frames = bytearray()
    for number, piece in enumerate(pieces):
        frame = bytearray(masker.frame(piece, CONTINUATION if number else TEXT))
        if number < len(pieces) - 1:
            frame[0] &= ~FIN
        frames += frame
        if number < len(pieces) - 1:
            frames += b"".join(masker.frame(ping, PING) for ping in between)
    return bytes(frames)


@settings(max_examples=100)
@given(
    texts=messages,
    inner=st.lists(places, min_size=5, max_size=5),
    outer=places,
    between=st.lists(st.binary(max_size=125), max_size=2),
    key=keys,
)
def test_any_split_gives_the_same_messages(
    texts: list[str], inner: list[list[int]], outer: list[int], between: list[bytes], key: bytes
) -> None:
    masker = Masker(key)
    stream = b"".join(
        fragments(text, at, masker=masker, between=between) for text, at in zip(texts, inner, strict=False)
    )
    pieces = [piece for piece in cut(stream, outer) if piece]
    received, written = play(lambda loop: converse(loop, pieces, message_bytes=131_072))
    assert received == texts
    check_frames(written)
    pings = sum(len(between) * len(at) for _, at in zip(texts, inner, strict=False))
    pongs = [payload for opcode, payload in FrameReader().feed(written) if opcode == PONG]
    assert len(pongs) == pings
    assert pongs == (between * pings)[:pings]


@pytest.mark.parametrize("size", [0, 125, 126, 127, 65_535, 65_536])
@given(key=keys)
@settings(max_examples=5)
def test_heads_that_come_one_byte_at_a_time(size: int, key: bytes) -> None:
    texts = ["first", "x" * size, "last"]
    stream = b"".join(Masker(key).frame(text.encode()) for text in texts)
    pieces = [piece for piece in cut(stream, [*range(40), *range(len(stream) - 40, len(stream))]) if piece]
    received, _ = play(lambda loop: converse(loop, pieces, message_bytes=131_072))
    assert received == texts
