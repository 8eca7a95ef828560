"""An answer is an append-only text. Lengths and offsets count Unicode code points, limits count encoded bytes."""

import re
from typing import Final

import msgspec

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_WORST_ESCAPE: Final = 6
"""Bytes that JSON may need for one code point: \\u001f. UTF-8 alone needs at most 4."""
_GATHER: Final = 4_096
"""Code points that are gathered before they are cleaned and measured."""

_encode: Final = msgspec.json.Encoder().encode


def clean(text: str) -> str:
    """Without U+0000 (PostgreSQL refuses it) and lone surrogates (UTF-8 refuses them)."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("", text)


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


class Answer:
    """The text of one attempt. It only grows, until it is full.

    `max_bytes` bounds the encoded text. What does not fit is dropped, `is_full` becomes true, and the text stays a
    prefix of the model's.
    """

    __slots__ = (
        "_counted",
        "_gathered",
        "_gathered_length",
        "_parts",
        "_text",
        "_uncounted",
        "attempt",
        "is_full",
        "length",
        "max_bytes",
    )

    def __init__(self, attempt: int, *, max_bytes: int) -> None:
        self.attempt = attempt
        self.max_bytes = max_bytes
        self.length = 0
        self.is_full = False
        self._text = ""
        self._parts: list[str] = []
        self._counted = 0
        self._uncounted = 0
        self._gathered: list[str] = []
        self._gathered_length = 0

    def gather(self, piece: str) -> None:
        """Add a piece of a text that nobody reads before it is whole: pieces are cleaned and measured together.

        `settle` adds what is left. Until then `length` and `text` lack it.
        """
        self._gathered.append(piece)
        self._gathered_length += len(piece)
        if self._gathered_length > _GATHER:
            self.settle()

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
            self._parts.append(piece)
            self._uncounted += len(piece)
            self.length += len(piece)
        return len(piece)

    def _fitting(self, piece: str) -> str:
        """The part of `piece` that still fits."""
        if self._uncounted:
            self._counted += encoded_size(self.text[self.length - self._uncounted :])
            self._uncounted = 0
        room = self.max_bytes - self._counted
        if encoded_size(piece) <= room:
            return piece
        self.is_full = True
        fitting = piece[: cut(piece, 0, room)] if room > 0 else ""
        return fitting if encoded_size(fitting) <= room else ""  # cut() takes one code point even without room

    @classmethod
    def stored(cls, attempt: int, text: str) -> "Answer":
        """A finished text, as it was stored."""
        answer = cls(attempt, max_bytes=0)
        answer._text = text
        answer.length = len(text)
        answer.is_full = True
        return answer

    @property
    def text(self) -> str:
        if self._parts:
            self._text = self._text + "".join(self._parts)
            self._parts.clear()
        return self._text
