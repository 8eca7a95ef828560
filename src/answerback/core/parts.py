"""Parts of an answer: labels on stretches of its one append-only text.

The content of an answer is all that a model has said: text, thoughts, calls of tools. A mark says where a part of it
begins and of what kind it is, and the part reaches to the next mark. Offsets and lengths count all of it, so a resume
in the middle of a part needs nothing else. Content without marks is text.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

TEXT: Final = "text"
KINDS: Final = frozenset({"reasoning", "tool", "result", "citation", "status"})
"""What a model may say besides text. A client gets the kinds that its question names."""

MAX_PARTS: Final = 200
"""Parts of one answer. The last one is text: whatever a model says before, its answer has a place."""

MAX_NAME_LENGTH: Final = 64


class Mark(NamedTuple):
    """A part begins at code point `offset`: of a tool `name` is the tool's."""

    offset: int
    kind: str
    name: str | None = None


class Content(NamedTuple):
    """What one attempt's model said, with the marks of its parts. The first mark, if there is one, is at offset 0."""

    text: str
    marks: tuple[Mark, ...] = ()


NOTHING: Final = Content("")


class Stretch(NamedTuple):
    """The code points `start` to `end` of a part: its number, its mark."""

    part: int
    mark: Mark
    start: int
    end: int


def stretches(marks: Sequence[Mark], start: int, end: int) -> list[Stretch]:
    """What of each part is between `start` and `end`, in order. An answer without marks has none."""
    ends = [*(mark.offset for mark in marks[1:]), end]
    return [
        Stretch(part, mark, max(start, mark.offset), min(end, until))
        for part, (mark, until) in enumerate(zip(marks, ends, strict=False))
        if mark.offset < end and until > start
    ]


def visible(content: Content) -> str:
    """The text for a person: what clients without parts are shown, and the model as its own earlier answer."""
    text, marks = content
    if not marks:
        return text
    found = stretches(marks, 0, len(text))
    return "".join(text[one.start : one.end] for one in found if one.mark.kind == TEXT)
