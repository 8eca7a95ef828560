"""Reads an answer while it grows. All but its end stays as it is, and a widget that shows it is not touched.

The parser itself says where a block ends, so text is never parsed in pieces that are not blocks of it. Each update
parses what begins with the last block that is not surely over, or with the last item of a list.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from markdown_it.common.utils import normalizeReference
from markdown_it.token import Token

from answerback_desktop.ui.markdown.rules import parser
from answerback_desktop.ui.markdown.segments import ListPlace, Part, Reader, Segment, SegmentKind, language_of

SOFT_CHARACTERS: Final = 2_000
"""Prose this long is cut at the next paragraph: about 1 ms to lay out."""
HARD_CHARACTERS: Final = 8_000
"""A line twice as long is cut at this length, at the end of a word."""
CHUNK_CHARACTERS: Final = 4_000
"""Of a long answer so much is parsed at once, when it comes near: 2 ms."""

_PARSER: Final = parser()
_HALF_LINE: Final = re.compile(
    r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*"
    r"(?:[-*+]|\d{1,9}[.)]?|#{1,6}|`{1,2}|`{3,}[^`]*|~+.*|\$\$?|\\\[?|=+|-{2,}|[-*_][ \t][-*_ \t]*|>+"
    r"|\[[\^!][^\]\s]*\]?:?[+-]?|</?[a-z]{0,9}>?|\|?[ \t]*(?::?-+:?[-:| \t]*)?|\[[^\]\n]*\]:.*)?[ \t]*"
)
"""A last line that may yet become something else than letters. It is held back until it is more."""
_ROW: Final = re.compile(r"([ \t>]*)\|(.*)")
_RULER: Final = re.compile(r"[ \t>]*\|[-:| \t]*")
_DEFINITION: Final = re.compile(
    r"^ {0,3}\[([^\]\n^][^\]\n]{0,98})\]:[ \t]*<?(\S+?)>?(?:[ \t]+[\"'(].*[\"')])?[ \t]*$", re.MULTILINE
)
_LANDMARK: Final = re.compile(
    r"(?P<gap>\n[ \t]*\n)(?=[#\w*`\[])(?!\d{1,9}[.)]|[*+][ \t]|\[[^\]\n]*\]:)"
    r"|^(?P<prefix>[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)$"
    r"|^ {0,3}<(?P<fold>think|thinking|reasoning|reflection|details)\b[^<>\n]*>",
    re.MULTILINE | re.IGNORECASE,
)


def references_of(text: str) -> dict[str, dict[str, str]]:
    """The link definitions of an answer, which may stand after their links."""
    if "]:" not in text:
        return {}
    found = reversed(_DEFINITION.findall(text))
    return {normalizeReference(label): {"href": href, "title": ""} for label, href in found}


def chunks(text: str) -> Iterator[tuple[int, int]]:
    """Stretches of a long text that can be parsed by themselves: each ends at a gap outside of code and folds."""
    start, fence, is_quoted, folded_to = 0, "", False, 0
    for found in _LANDMARK.finditer(text):
        if found.start() < folded_to:
            continue
        if found["fold"] and (not fence or is_quoted):
            end = re.compile(rf"</{found['fold']}\s*>", re.IGNORECASE).search(text, found.end())
            folded_to = end.end() if end else len(text)
        elif found["fence"]:
            mark, is_bare = found["fence"], not (found["info"].strip() or found["prefix"].strip(" \t>"))
            in_quote = ">" in found["prefix"]
            if not fence or (is_quoted and not in_quote):
                fence, is_quoted = mark, in_quote
            elif is_bare and in_quote == is_quoted and mark[0] == fence[0] and len(mark) >= len(fence):
                fence = ""
        elif found["gap"] and (not fence or is_quoted):
            fence = ""
            if found.end() - start >= CHUNK_CHARACTERS:
                yield start, found.end()
                start = found.end()
    yield start, len(text)


class Splitter:
    """The `segments` of one growing text; those that have not changed are the same objects.

    `start`: where it begins in the answer; `path`: the containers it is in.
    """

    def __init__(self, *, start: int = 0, path: str = "") -> None:
        self.start, self._path = start, path
        self._references: dict[str, dict[str, str]] = {}
        self._begin()

    def _begin(self) -> None:
        self._text = ""
        self._is_over = False
        self._read = 0  # what is before is in `_final` and `_group`
        self._list = ListPlace()
        self._known: dict[str, list[Any]] = {}  # texts that the last update has read
        self._final: list[Segment] = []
        self._group: list[Part] = []
        self.segments: tuple[Segment, ...] = ()

    def update(self, text: str, *, is_over: bool, references: dict[str, dict[str, str]] | None = None) -> None:
        """Take the whole text as it is now. `is_over`: it grows no more. `references`: of the whole answer."""
        references = self._references if references is None else references
        if text == self._text and is_over == self._is_over and references == self._references:
            return
        if references != self._references or not text.startswith(self._text) or self._is_over:
            self._begin()
        self._text, self._is_over, self._references = text, is_over, references
        while (cut := self._long_line()) > self._read:
            self._parse(cut, is_open=False)
        tail = [] if self._read == len(text) else self._parse(len(text), is_open=not is_over)
        self._show(tail)

    def _long_line(self) -> int:
        """Where a line without an end is cut; where the reading stands if there is none."""
        limit = self._read + 2 * HARD_CHARACTERS
        is_fence = re.match(r"[ \t]*(?:```|~~~)", self._text[self._read : self._read + 80])
        if len(self._text) <= limit or is_fence or self._text.find("\n", self._read, limit) >= 0:
            return self._read
        at = self._read + HARD_CHARACTERS
        word = self._text.rfind(" ", at - 200, at)
        return word + 1 if word > self._read else at

    def _parse(self, end: int, *, is_open: bool) -> list[Segment | Part]:
        """Read on to `end`. What is over goes into `_final`; the rest is returned."""
        source = self._text[self._read : end]
        if is_open and (code := _open_fence(source)) is not None:
            return [replace(code, start=self.start + self._read, end=self.start + end, path=self._path)]
        shown, stable_lines = _healed(source) if is_open else (source, 0)
        env: dict[str, Any] = {"references": dict(self._references), "is_open": is_open, "known": self._known}
        tokens = _PARSER.parse(shown, env)
        if shown != source and (last := _last(tokens)) is not None and last.meta.get("is_closed") is False:
            shown, tokens = source, _PARSER.parse(source, env)  # code is shown as it is
        self._known = env.get("known", {})
        lines = [self.start + self._read]
        lines += (lines[0] + mark.end() for mark in re.finditer(r"\r\n?|\n", source))
        lines += [self.start + end] * 3
        line, is_item = _stable_until(tokens, stable_lines) if is_open else (0, False)
        place = ListPlace(sign=self._list.sign, number=self._list.number, line=line)
        found = list(Reader(lines, self._is_apart, place, self._path).read(tokens))
        if not is_open:
            self._read, self._list = end, ListPlace()
            self._add(found, self._final, self._group)
            return []
        if not line:
            return found
        self._read = lines[line] - self.start
        self._list = place if is_item else ListPlace()
        done = [leaf for leaf in found if leaf.start < lines[line]]
        self._add(done, self._final, self._group)
        return found[len(done) :]

    def _is_apart(self, place: int) -> bool:
        before = self._text[max(0, place - self.start - 40) : place - self.start]
        return re.search(r"\n[ \t>]*\r?\n\Z", before) is not None

    def _show(self, tail: list[Segment | Part]) -> None:
        segments, group = list(self._final), list(self._group)
        self._add(tail, segments, group)
        if group:
            segments.append(_prose(group))
        old = self.segments
        same = next(
            (n for n, one in enumerate(zip(old, segments, strict=False)) if one[0] != one[1]),
            min(len(old), len(segments)),
        )
        self.segments = (*old[:same], *segments[same:])
        self._final = list(self.segments[: len(self._final)])

    @staticmethod
    def _add(found: list[Segment | Part], segments: list[Segment], group: list[Part]) -> None:
        """Paragraphs are joined to prose of a length that is quickly laid out."""
        for leaf in found:
            if isinstance(leaf, Part):
                group.append(leaf)
            if group and (isinstance(leaf, Segment) or leaf.end - group[0].start > SOFT_CHARACTERS):
                segments.append(_prose(group))
                group.clear()
            if isinstance(leaf, Segment):
                segments.append(leaf)


def split(text: str, *, path: str = "") -> tuple[Segment, ...]:
    """The segments of a text that grows no more."""
    splitter = Splitter(path=path)
    splitter.update(text, is_over=True, references=references_of(text))
    return splitter.segments


def _prose(parts: list[Part]) -> Segment:
    return Segment(kind=SegmentKind.PROSE, start=parts[0].start, end=parts[-1].end, parts=tuple(parts))


def _healed(text: str) -> tuple[str, int]:
    """The text as it is parsed while it streams, and how many of its first lines will surely be read the same again.

    A last line that may become anything is left out. The head of a table is a table before its second line is there.
    """
    head, newline, last = text.rpartition("\n")
    stable = head.count("\n") + len(newline)
    if (
        last
        and _HALF_LINE.fullmatch(last)
        and not (last.lstrip(" \t>").startswith("|") and _ROW.match(head.rpartition("\n")[2]))
    ):
        text, last = head + newline, ""
    text = text.removesuffix("\r")
    lines = text.removesuffix("\n").split("\n")
    ruler = lines.pop() if len(lines) > 1 and _RULER.fullmatch(lines[-1]) and last else None
    row, before = _ROW.fullmatch(lines[-1]), _ROW.fullmatch(lines[-2]) if len(lines) > 1 else None
    if row is None or before is not None:
        return text, stable
    columns = max(1, len(re.findall(r"(?<!\\)\|", row[2].rstrip().removesuffix("|"))) + 1)
    closed = lines[-1] if ruler is not None or row[2].rstrip().endswith("|") else f"{lines[-1]} |"
    return "\n".join((*lines[:-1], closed, f"{row[1]}|{'---|' * columns}")) + "\n", min(stable, len(lines) - 1)


def _open_fence(text: str) -> Segment | None:
    """Code that still grows, without parsing it."""
    opening = re.match(r"(`{3,})([^`\n]*)\n|(~{3,})([^\n]*)\n", text)
    if opening is None or "\r" in text:
        return None
    fence, code = opening[1] or opening[3], text[opening.end() :]
    if re.search(rf"^ {{0,3}}{fence}{fence[0]}*[ \t]*$", code, re.MULTILINE):
        return None
    info = (opening[2] or opening[4] or "").strip()
    head, newline, last = code.rpartition("\n")
    if last.strip() and not last.strip().strip(fence[0]):
        code = head + newline
    return Segment(kind=SegmentKind.CODE, text=code.removesuffix("\n"), title=language_of(info), is_closed=False)


def _last(tokens: list[Token]) -> Token | None:
    """The last block, if it is code, math or a fold."""
    last = next((token for token in reversed(tokens) if token.nesting >= 0), None)
    return last if last is not None and last.type in {"fence", "fold"} else None


def _stable_until(tokens: list[Token], stable_lines: int) -> tuple[int, bool]:
    """The line with which the last block begins that is not over, and whether it is an item of a list."""
    line, is_item, end, list_line = 0, False, 0, 0
    for token in tokens:
        if token.map is None or token.nesting < 0:
            continue
        first = token.map[0]
        if token.level == 0 and token.type != "inline":
            is_sure = first + (token.type == "table_open") < stable_lines
            if token.type == "math_block" and not token.meta["is_closed"]:
                is_sure = False
            if is_sure and first >= end:
                line, is_item = first, False
            end, list_line = token.map[1], first
        elif token.type == "list_item_open" and token.level == 1 and list_line < first < stable_lines:
            line, is_item = first, True
    return line, is_item
