"""An answer is an append-only text, with marks where its parts begin.

Lengths and offsets count Unicode code points, limits count encoded bytes.
"""

import re
from bisect import bisect_right
from operator import itemgetter
from typing import Final

import msgspec

from answerback.core.parts import MAX_PARTS, TEXT, Content, Mark

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_WORST_ESCAPE: Final = 6
"""Bytes that JSON may need for one code point: \\u001f. UTF-8 alone needs at most 4."""
_GATHER: Final = 4_096
"""Code points that are gathered before they are cleaned and measured."""

_encode: Final = msgspec.json.Encoder().encode


def clean(text: str) -> str:
    """Without U+0000 (PostgreSQL refuses it) and lone surrogates (UTF-8 refuses them)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _UNSTORABLE.sub("", text)
    return text.replace("\0", "")


def encoded_size(text: str) -> int:
    """Bytes of `text` inside a JSON string, escapes included, quotes not. `text` must be clean."""
    return len(_encode(text)) - 2


def cut(text: str, start: int, max_bytes: int) -> int:
    """The largest end for which text[start:end] needs at most `max_bytes` encoded bytes.

    At least one code point is taken if there is one, so that a loop of cuts ends.
    """
    length = len(text)
    if (length - start) * _WORST_ESCAPE <= max_bytes:
        return length
    low = min(length, start + max(1, max_bytes // _WORST_ESCAPE))
    high = min(length, start + max(1, max_bytes))
    while low < high:
        middle = (low + high + 1) // 2
        if encoded_size(text[start:middle]) <= max_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def cut_back(text: str, end: int, max_bytes: int) -> int:
    """The smallest start for which text[start:end] needs at most `max_bytes` encoded bytes, `end` if none fits."""
    if end * _WORST_ESCAPE <= max_bytes:
        return 0
    low, high = max(0, end - max(0, max_bytes)), end
    while low < high:
        middle = (low + high) // 2
        if encoded_size(text[middle:end]) <= max_bytes:
            high = middle
        else:
            low = middle + 1
    return low


def _fit(piece: str, room: int) -> str:
    """As much of the start of `piece` as fits in `room` encoded bytes."""
    if encoded_size(piece) <= room:
        return piece
    kept = piece[: cut(piece, 0, room)] if room > 0 else ""
    return kept if encoded_size(kept) <= room else ""  # cut() takes one code point even without room


class Answer:
    """The text of one attempt. It only grows, until it is full.

    `max_bytes` bounds the encoded text. What does not fit is dropped, `is_full` becomes true, and the text stays a
    prefix of the model's. `text` and `length` are of all its content, `marks` say where its parts begin. Parts that are
    no text have at most half of the bytes, so that there is room for the answer itself.
    """

    __slots__ = (
        "_counted",
        "_gathered",
        "_gathered_length",
        "_label",
        "_label_waits",
        "_other_room",
        "_pieces",
        "_text",
        "_uncounted",
        "attempt",
        "is_full",
        "length",
        "marks",
        "max_bytes",
    )

    def __init__(self, attempt: int, *, max_bytes: int) -> None:
        self.attempt = attempt
        self.max_bytes = max_bytes
        self.length = 0
        self.is_full = False
        self.marks: list[Mark] = []
        self._text = ""
        self._pieces: list[str] = []
        self._counted = 0
        self._uncounted = 0
        self._gathered: list[str] = []
        self._gathered_length = 0
        self._label: tuple[str, str | None] | None = None
        self._label_waits = False
        self._other_room = max_bytes // 2

    def gather(self, piece: str) -> bool:
        """Add a piece of a text that nobody reads before it is whole: pieces are cleaned and measured together.

        `settle` adds what is left. Until then `length` and `text` lack it. Returns whether no more fits.
        """
        self._gathered.append(piece)
        self._gathered_length += len(piece)
        if self._gathered_length > _GATHER:
            self.settle()
        return self.is_full

    def settle(self) -> None:
        """Append what was gathered."""
        if self._gathered:
            gathered = "".join(self._gathered)
            self._gathered.clear()
            self._gathered_length = 0
            self.append(gathered)

    def append(self, piece: str) -> int:
        """Add the model's next piece. Returns how many code points were kept."""
        if self.is_full:
            return 0
        piece = clean(piece)
        # Far from the limit the worst case decides; only near it are bytes counted.
        if self._counted + (self._uncounted + len(piece)) * _WORST_ESCAPE > self.max_bytes:
            piece = self._fitting(piece)
        if piece:
            if self.marks and self.marks[-1].kind != TEXT:
                self.marks.append(Mark(self.length, TEXT))
                self._label = None
            self._pieces.append(piece)
            self._uncounted += len(piece)
            self.length += len(piece)
        return len(piece)

    def append_part(self, kind: str, name: str | None, piece: str, *, is_new: bool) -> int:
        """Add a piece of a part that is no text. Returns how many code points were kept.

        It goes on with the last part if that is of the same kind, unless it has another name or is new. A part begins
        with its first code point: a label waits for it, and one that never gets any is no part. What is too much is
        dropped, and does not end the answer.
        """
        if self.is_full:
            return 0
        if is_new or self._label is None or self._label[0] != kind or name not in (None, self._label[1]):
            self._label, self._label_waits = (kind, name), True
        piece = clean(piece)
        if self._label_waits and len(self.marks) >= MAX_PARTS - 1:
            return 0
        self._count()
        kept = _fit(piece, min(self._other_room, self.max_bytes - self._counted))
        size = encoded_size(kept)
        # A part that was cut does not go on behind the gap.
        self._other_room = self._other_room - size if kept == piece else 0
        if not kept:
            return 0
        if self._label_waits:
            if self.length and not self.marks:
                self.marks.append(Mark(0, TEXT))
            self.marks.append(Mark(self.length, *self._label))
            self._label_waits = False
        self._pieces.append(kept)
        self._counted += size
        self.length += len(kept)
        return len(kept)

    def _fitting(self, piece: str) -> str:
        """What of `piece` still fits."""
        self._count()
        kept = _fit(piece, self.max_bytes - self._counted)
        self.is_full = kept != piece
        return kept

    def _count(self) -> None:
        if self._uncounted:
            self._counted += encoded_size(self.text[self.length - self._uncounted :])
            self._uncounted = 0

    @classmethod
    def stored(cls, attempt: int, content: Content) -> "Answer":
        """A finished text, as it was stored."""
        answer = cls(attempt, max_bytes=0)
        answer._text = content.text
        answer.marks.extend(content.marks)
        answer.length = len(content.text)
        answer.is_full = True
        return answer

    @property
    def content(self) -> Content:
        return Content(self.text, tuple(self.marks))

    def part_at(self, offset: int) -> tuple[int, Mark, int]:
        """The part that has the code point at `offset`: its number, its mark, and where the next one begins."""
        part = bisect_right(self.marks, offset, key=itemgetter(0)) - 1
        following = self.marks[part + 1].offset if part + 1 < len(self.marks) else self.length
        return part, self.marks[part], following

    @property
    def text(self) -> str:
        if self._pieces:
            self._text = self._text + "".join(self._pieces)
            self._pieces.clear()
        return self._text
