"""Splits an answer into prose, code and tables while it grows. Pure text work; no Qt.

An answer is append-only, so all but its last segments stay as they are: a widget that shows one of those is never
touched again. The segments' texts joined are the answer, character for character.

What counts as a fence or a table is CommonMark's and GitHub's rule, read line by line. Prose is cut between paragraphs
once it is long enough to be slow to lay out, never inside a list.
"""

import re
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SOFT_CHARACTERS: Final = 2_000
"""Prose this long is cut at the next gap between paragraphs: about 1 ms to lay out."""
HARD_CHARACTERS: Final = 8_000
"""Prose without such a gap is cut at this length, at the end of a line or else of a word."""

_FENCE: Final = re.compile(r"(?P<prefix>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)(?P<fence>`{3,}|~{3,})(?P<info>.*)")
_ITEM: Final = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)")
_DELIMITER: Final = re.compile(r"[ \t]{0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_PIPE: Final = re.compile(r"(?<!\\)\|")


class SegmentKind(StrEnum):
    """What a segment is."""

    PROSE = "prose"
    CODE = "code"
    TABLE = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of the answer. `text`: exactly what the answer has there, fences and blank lines included.

    Of code: `language` is the first word of the info string, `is_closed` whether its closing fence has come. `indent`:
    columns that the lines are indented by because they stand in a list item.
    """

    kind: SegmentKind
    text: str
    language: str = ""
    indent: int = 0
    is_closed: bool = True

    @property
    def code(self) -> str:
        """The code between the fences, without the list's indentation."""
        lines = self.text.splitlines(keepends=True)[1:]
        if self.is_closed:
            while lines and not lines[-1].strip():
                lines.pop()
            lines = lines[:-1]
        return "".join(_dedented(line, self.indent) for line in lines).replace("\r\n", "\n").removesuffix("\n")

    @property
    def markdown(self) -> str:
        """Prose as markdown of its own: what goes on in a list item after its code is no code by its indentation."""
        if not self.indent:
            return self.text
        lines = self.text.splitlines(keepends=True)
        for number, line in enumerate(lines):
            if line.strip() and not line.startswith((" ", "\t")):
                break
            lines[number] = _dedented(line, self.indent)
        return "".join(lines)


@dataclass(slots=True, kw_only=True)
class _State:
    """Where the reading stands: the segment that is open, and what the lines before decide about the next."""

    start: int = 0
    kind: SegmentKind = SegmentKind.PROSE
    language: str = ""
    indent: int = 0
    fence: str = ""
    is_closed: bool = True
    is_in_list: bool = False
    after_blank: bool = True
    header_at: int | None = None  # where the line before begins, if it may be a table's head
    header_cells: int = 0


class Splitter:
    """The segments of one growing text."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._text = ""
        self._read = 0  # whole lines up to here are in `_state` and `_final`
        self._state = _State()
        self._final: list[Segment] = []
        self._segments: tuple[Segment, ...] = ()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of the text so far; none is empty."""
        return self._segments

    def update(self, text: str) -> int:
        """Take the whole text as it is now. Returns the index of the first segment that is new or changed.

        Text that goes on from the last one costs as much as what was added; any other is read from its start.
        """
        if text == self._text:
            return len(self._segments)
        if not text.startswith(self._text):
            self._begin()
        before = len(self._final)
        self._text = text
        while (end := text.find("\n", self._read)) >= 0:
            self._state = self._line(self._state, self._read, end + 1, self._final)
            self._read = end + 1
        open_ones: list[Segment] = []
        state = self._state
        if self._read < len(text):
            state = self._line(copy(state), self._read, len(text), open_ones)
        if state.start < len(text):
            open_ones.append(self._segment(state, len(text)))
        self._segments = (*self._final, *open_ones)
        return before

    def _line(self, state: _State, start: int, end: int, out: list[Segment]) -> _State:
        """The state after the line `start:end`; segments that it ends are put into `out`."""
        line = self._text[start:end].rstrip("\r\n")
        if state.fence:
            if _closes(line, state):
                state.fence, state.is_closed = "", True
            return state
        opening = _opening(line, state)
        if opening is not None:
            self._end(state, start, out)
            opening.start, opening.is_in_list = start, state.is_in_list or opening.indent > 0
            return opening
        is_row = state.kind is SegmentKind.TABLE and not state.after_blank and "|" in line
        if state.kind is not SegmentKind.PROSE and line.strip() and not is_row:
            state = self._new_prose(state, start, out)
        if state.header_at is not None and _is_delimiter(line, state.header_cells):
            self._end(state, state.header_at, out)
            return _State(start=state.header_at, kind=SegmentKind.TABLE, after_blank=False)
        return self._after_text(self._cut(state, start, line, out), start, end, line, out)

    def _new_prose(self, state: _State, start: int, out: list[Segment]) -> _State:
        self._end(state, start, out)
        goes_on = state.kind is SegmentKind.CODE and state.is_in_list
        return _State(start=start, is_in_list=goes_on, indent=state.indent if goes_on else 0)

    def _cut(self, state: _State, start: int, line: str, out: list[Segment]) -> _State:
        """Long prose is cut before this line, if it may be."""
        length = start - state.start
        if state.kind is not SegmentKind.PROSE or not line.strip() or length < SOFT_CHARACTERS:
            return state
        is_gap = state.after_blank and not line[:1].isspace() and not (state.is_in_list and _ITEM.match(line))
        if not is_gap and length < HARD_CHARACTERS:
            return state
        return self._new_prose(state, start, out)

    def _after_text(self, state: _State, start: int, end: int, line: str, out: list[Segment]) -> _State:
        """The state after an ordinary line."""
        if not line.strip():
            state.after_blank, state.header_at = True, None
            return state
        if state.kind is SegmentKind.TABLE:
            return state
        is_item = _ITEM.match(line) is not None
        goes_on = state.is_in_list and not (state.after_blank and not line[:1].isspace())
        state.is_in_list, state.after_blank = is_item or goes_on, False
        while end - state.start > 2 * HARD_CHARACTERS:  # a line without an end
            at = max(state.start, start) + HARD_CHARACTERS
            word = self._text.rfind(" ", at - 200, at)
            state = self._new_prose(state, word + 1 if word > state.start else at, out)
            state.after_blank = False
        cells = 0 if is_item else _cells(line)
        state.header_at, state.header_cells = max(start, state.start) if cells else None, cells
        return state

    def _end(self, state: _State, end: int, out: list[Segment]) -> None:
        if state.start < end:
            out.append(self._segment(state, end))

    def _segment(self, state: _State, end: int) -> Segment:
        return Segment(
            kind=state.kind,
            text=self._text[state.start : end],
            language=state.language,
            indent=state.indent,
            is_closed=state.is_closed,
        )


def split(text: str) -> tuple[Segment, ...]:
    """The segments of a text that grows no more."""
    splitter = Splitter()
    splitter.update(text)
    return splitter.segments


def _opening(line: str, state: _State) -> _State | None:
    found = _FENCE.fullmatch(line) if "```" in line or "~~~" in line else None
    if found is None:
        return None
    prefix, fence, info = found["prefix"].expandtabs(4), found["fence"], found["info"].strip()
    if fence[0] == "`" and "`" in info:
        return None  # inline code that begins a line
    if len(prefix) > 3 and not prefix.strip() and not state.is_in_list:
        return None  # code by indentation
    language = info.split(maxsplit=1)[0] if info else ""
    return _State(
        kind=SegmentKind.CODE, language=language.strip("{}.")[:40], indent=len(prefix), fence=fence, is_closed=False
    )


def _closes(line: str, state: _State) -> bool:
    bare = line.strip()
    return (
        len(bare) >= len(state.fence)
        and bare == state.fence[0] * len(bare)
        and len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip()) <= state.indent + 3
    )


def _cells(line: str) -> int:
    """How many cells the line would have as a table's head; 0: it cannot be one."""
    bare = line.strip()
    if "|" not in bare or line.startswith(("    ", "\t", ">")):
        return 0
    return len(_PIPE.split(bare.removeprefix("|").removesuffix("|")))


def _is_delimiter(line: str, cells: int) -> bool:
    return _DELIMITER.fullmatch(line) is not None and _cells(line if "|" in line else f"|{line}") == cells


def _dedented(line: str, columns: int) -> str:
    width = 0
    for number, character in enumerate(line):
        if width >= columns or character not in " \t":
            return line[number:]
        width += 4 if character == "\t" else 1
    return line.lstrip(" \t")
