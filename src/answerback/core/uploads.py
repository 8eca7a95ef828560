"""An upload is an append-only file in the other direction: pieces of a fixed grid, in any order, and a cursor.

It is named by its content, inside its user: repeated, resumed, or brought by two devices at once, it is one upload.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from answerback.protocol.frames import Attachment
from answerback.protocol.limits import PIECE_BYTES

DAY_MS: Final = 86_400_000

MAX_OPEN: Final = 16
"""Unfinished uploads of a user."""

IDLE_MS: Final = 30_000
"""One of so many that nothing has come for in so long gives way to a new one: its app is gone, or cancelled it."""

MAX_DAILY_BYTES: Final = 100 * 1024 * 1024
"""What a user may begin to upload on a day (UTC), by the sizes that were declared."""

UNFINISHED_MS: Final = DAY_MS
"""How long an unfinished upload is kept."""

YOUNG_MS: Final = 7 * DAY_MS
"""For so long after it was completed a file may be named by questions. It is kept longer than anything that names it,
so acceptance only reads whether it is there."""

SWEEP_MARGIN_MS: Final = 3_600_000
"""A question that was just accepted may not be visible yet."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """A file of a user. Its size belongs to its name: a lie about the size is another file."""

    user_id: str
    sha256: str
    size: int

    @property
    def pieces(self) -> int:
        """How many pieces it has."""
        return -(-self.size // PIECE_BYTES)

    def length_at(self, offset: int) -> int | None:
        """The length of the piece that begins at `offset`; None: none does."""
        return min(PIECE_BYTES, self.size - offset) if offset % PIECE_BYTES == 0 and offset < self.size else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One try at bringing a file. `name`: random. `have`: the numbers of its stored pieces. `content`: what the bytes
    of the whole file were found to be, a media type or `text/plain`, or empty."""

    name: str
    begun_at_ms: int
    completed_at_ms: int | None = None
    content: str = ""
    have: frozenset[int] = field(default_factory=frozenset)

    def offset(self, key: FileKey) -> int:
        """The first byte that is missing; the file's size if none is."""
        if self.completed_at_ms is not None:
            return key.size
        return min((number * PIECE_BYTES for number in range(key.pieces) if number not in self.have), default=key.size)

    def may_be_named(self, now_ms: int) -> bool:
        """Whether a question may name the file: it is whole, and young."""
        return self.completed_at_ms is not None and now_ms < self.completed_at_ms + YOUNG_MS


@dataclass(frozen=True, slots=True)
class NoRoom:
    """A user has begun too much. `wait_ms`: until there may be room for the file."""

    wait_ms: int


def giving_way(touched: Mapping[str, int], *, begun_bytes: int, size: int, now_ms: int) -> str | NoRoom | None:
    """Which of a user's unfinished uploads gives way to a new one of `size` bytes; None: none has to.

    `touched`: when something came last for each of them. `begun_bytes`: what the user has begun today.
    """
    if begun_bytes + size > MAX_DAILY_BYTES:
        return NoRoom(DAY_MS - now_ms % DAY_MS)
    if len(touched) < MAX_OPEN:
        return None
    idlest = min(touched, key=lambda one: (touched[one], one))
    idle_ms = now_ms - touched[idlest]
    return idlest if idle_ms >= IDLE_MS else NoRoom(IDLE_MS - idle_ms)


# --- what a file is --------------------------------------------------------------------------------------------

TEXT: Final = "text"
IMAGE: Final = "image"
DOCUMENT: Final = "document"
IMAGE_BOUND: Final = 8_192
"""Tokens of an image at most. Providers take some hundred to some thousand, by its size in pixels."""

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_TEXTS: Final = frozenset(
    f"application/{name}"
    for name in ("json", "xml", "yaml", "toml", "x-yaml", "sql", "javascript", "x-sh", "x-python", "x-ndjson")
)


def content_of(data: bytes) -> str:
    """What the bytes are: the media type of an image or PDF, `text/plain` for UTF-8 without U+0000, else empty."""
    for magic, media_type in _MAGIC:
        if data.startswith(magic):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    try:
        return "" if "\0" in data.decode() else "text/plain"
    except UnicodeDecodeError:
        return ""


def examine(key: FileKey, data: bytes) -> str | None:
    """What the bytes are; None: they are not the file of that name."""
    if len(data) != key.size or hashlib.sha256(data).hexdigest() != key.sha256:
        return None
    return content_of(data)


def kind_of(media_type: str) -> str | None:
    """The kind of files with this media type; None: no model takes such files."""
    if media_type in {"image/png", "image/jpeg", "image/gif", "image/webp"}:
        return IMAGE
    if media_type == "application/pdf":
        return DOCUMENT
    is_text = media_type.startswith("text/") or media_type in _TEXTS or media_type.endswith(("+json", "+xml"))
    return TEXT if is_text else None


def why_not_taken(attachments: Iterable[Attachment], kinds: Collection[str]) -> str | None:
    """Why a model that takes these kinds of files cannot be asked with them, by what they are said to be."""
    for one in attachments:
        if kind_of(one.media_type) not in kinds:
            return (
                f"This model takes no files of the type {one.media_type}. It takes: {', '.join(kinds)}. "
                "Choose another model, or leave the file out."
            )
    return None


def bound_of(media_type: str, size: int) -> int:
    """Tokens that a budget reserves for a file. A page of a document may be read as its text and as an image."""
    match kind_of(media_type):
        case "image":
            return IMAGE_BOUND
        case "document":
            return 2 * size
        case _:
            return size


def is_what_it_says(attachment: Attachment, content: str) -> bool:
    """Whether a file whose bytes are `content` can have the media type that its sender gave it."""
    if kind_of(attachment.media_type) == TEXT:
        return content == "text/plain"
    return content == attachment.media_type
