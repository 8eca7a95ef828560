"""Decisions read from a fuzzer's bytes: every input means something, and a small change of it a small change."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Script:
    """A cursor over the input. What is past its end is zero, or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """0 to 255."""
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def pick(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[self.byte() % len(choices)]

    def block(self) -> bytes:
        """Bytes up to the next 0xff, which is in no UTF-8 text; the 0xff is skipped."""
        end = self._data.find(b"\xff", self._at)
        block = self._data[self._at : end if end >= 0 else len(self._data)]
        self._at += len(block) + 1
        return block

    def rest(self) -> bytes:
        """All that is left."""
        rest = self._data[self._at :]
        self._at = len(self._data)
        return rest


def cut(data: bytes, sizes: bytes) -> list[bytes]:
    """`data` in pieces of the given sizes, repeated (0: what is left); no piece is empty."""
    if not sizes:
        return [data] if data else []
    pieces = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)] or len(data)
        pieces.append(data[at : at + size])
        at += size
        turn += 1
    return pieces
