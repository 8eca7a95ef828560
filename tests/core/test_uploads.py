"""What a file is by its bytes, which models take it, and what a budget reserves for it."""

import pytest

from answerback.core.uploads import (
    IMAGE_BOUND,
    YOUNG_MS,
    FileKey,
    Upload,
    bound_of,
    content_of,
    is_what_it_says,
    kind_of,
)
from answerback.protocol.frames import Attachment
from answerback.protocol.limits import PIECE_BYTES

WEBP = b"RIFF\x04\0\0\0WEBP"


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"\x89PNG\r\n\x1a\nx", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"%PDF-1.7", "application/pdf"),
        (WEBP, "image/webp"),
        (WEBP + b"VP8 ", "image/webp"),
        (WEBP[:11] + b"\xff", ""),
        (b"RIFF\x04\0\0\0WAVE", ""),
        (b"riff\x04\0\0\0WEBP", ""),
        (b"RIFF\x04\0\0\0 WEBP", ""),
        (b" %PDF-1.7", "text/plain"),
        (b"\x89PNG\n\x1a\n", ""),
        ("<html>안녕".encode(), "text/plain"),
        (b"a\0b", ""),
        ("안녕".encode("cp949"), ""),
    ],
)
def test_the_bytes_say_what_a_file_is(data: bytes, content: str) -> None:
    assert content_of(data) == content


@pytest.mark.parametrize(
    ("media_type", "kind", "bound"),
    [
        ("image/png", "image", IMAGE_BOUND),
        ("image/webp", "image", IMAGE_BOUND),
        ("application/pdf", "document", 2_000),
        ("text/html", "text", 1_000),
        ("image/svg+xml", "text", 1_000),
        ("application/x-ndjson", "text", 1_000),
        ("image/tiff", None, 1_000),
        ("application/octet-stream", None, 1_000),
    ],
)
def test_the_media_type_says_who_takes_a_file_and_what_it_costs_at_most(
    media_type: str, kind: str | None, bound: int
) -> None:
    assert kind_of(media_type) == kind
    assert bound_of(media_type, 1_000) == bound


@pytest.mark.parametrize(
    ("media_type", "content", "is_so"),
    [
        ("text/html", "text/plain", True),
        ("text/html", "image/png", False),
        ("image/png", "image/png", True),
        ("image/png", "image/jpeg", False),
        ("image/png", "text/plain", False),
        ("text/plain", "", False),
        ("image/tiff", "", False),
    ],
)
def test_a_file_has_to_be_what_its_sender_says(media_type: str, content: str, is_so: bool) -> None:
    named = Attachment(sha256="0" * 64, size=1, media_type=media_type, name="a")
    assert is_what_it_says(named, content) is is_so


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, PIECE_BYTES), (PIECE_BYTES, 1), (1, None), (PIECE_BYTES + 1, None), (2 * PIECE_BYTES, None)],
)
def test_a_piece_begins_on_the_grid_and_in_the_file(offset: int, length: int | None) -> None:
    key = FileKey("u", "0" * 64, PIECE_BYTES + 1)
    assert key.pieces == 2
    assert key.length_at(offset) == length
    assert FileKey("u", "0" * 64, PIECE_BYTES).length_at(PIECE_BYTES) is None


def test_a_file_may_be_named_while_it_is_young() -> None:
    assert not Upload(name="u", begun_at_ms=0).may_be_named(0)
    whole = Upload(name="u", begun_at_ms=0, completed_at_ms=5)
    assert whole.may_be_named(5 + YOUNG_MS - 1)
    assert not whole.may_be_named(5 + YOUNG_MS)
