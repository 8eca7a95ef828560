"""Colours for code, by Pygments: which token of which line has which of the theme's colours. No Qt."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pygments import lexers  # type: ignore[import-untyped]
from pygments.token import Token  # type: ignore[import-untyped]
from pygments.util import ClassNotFound  # type: ignore[import-untyped]

MAX_CHARACTERS: Final = 60_000
"""Code past this length stays plain: Pygments reads about 1 MB/s, and the interface must not wait for it."""

_COLOURS: Final = (
    (Token.Comment, "comment"),
    (Token.Keyword.Type, "type"),
    (Token.Keyword, "keyword"),
    (Token.Operator.Word, "keyword"),
    (Token.Name.Function, "function"),
    (Token.Name.Class, "type"),
    (Token.Name.Builtin, "type"),
    (Token.Name.Exception, "type"),
    (Token.Name.Decorator, "decorator"),
    (Token.Name.Attribute, "function"),
    (Token.Name.Tag, "keyword"),
    (Token.Name.Variable, "decorator"),
    (Token.Literal.String, "string"),
    (Token.Literal.Number, "number"),
    (Token.Generic.Deleted, "deleted"),
    (Token.Generic.Inserted, "inserted"),
    (Token.Generic.Heading, "keyword"),
    (Token.Generic.Subheading, "keyword"),
)
"""Token type to the name of a `CodeColours` field; the first row that contains the token counts."""


@dataclass(frozen=True, slots=True)
class Span:
    """`length` characters of a line from `start` on have this colour, a field of `CodeColours`."""

    start: int
    length: int
    colour: str


class Highlighter:
    """The spans of one code block that grows.

    Each line is read once: a growing block is read on from the last line at which its grammar was surely at its base,
    and the whole of it once more at its end (`is_whole`), which puts right what only later lines decide.
    """

    def __init__(self, language: str) -> None:
        self._lexer = _lexer(language)
        self._lines: list[tuple[Span, ...]] = []
        self._code = ""
        self._from_line = 0  # the first line to read again, and where it begins
        self._from_at = 0
        self._is_whole = False

    @property
    def lines(self) -> list[tuple[Span, ...]]:
        """The spans line by line."""
        return self._lines

    def update(self, code: str, *, is_whole: bool) -> int:
        """Take the code so far. Returns the first line whose spans may have changed."""
        if self._lexer is None or len(code) > MAX_CHARACTERS or (code == self._code and is_whole == self._is_whole):
            return len(self._lines)
        if not code.startswith(self._code) or is_whole:
            self._lines, self._from_line, self._from_at = [], 0, 0
        self._code, self._is_whole = code, is_whole
        first = self._from_line
        del self._lines[first:]
        self._lines.extend(self._read(code[self._from_at :]))
        self._set_mark(code)
        return first

    def _read(self, code: str) -> Iterator[tuple[Span, ...]]:
        spans: list[Span] = []
        column = 0
        for _, token, value in self._lexer.get_tokens_unprocessed(code):
            colour = next((colour for parent, colour in _COLOURS if token in parent), None)
            for number, part in enumerate(value.split("\n")):
                if number:
                    yield tuple(spans)
                    spans, column = [], 0
                if part and colour is not None:
                    spans.append(Span(column, len(part), colour))
                column += len(part)
        yield tuple(spans)

    def _set_mark(self, code: str) -> None:
        """Move the mark to the last empty line that no string or comment goes across, if it is far behind."""
        at = code.rfind("\n\n", self._from_at)
        if at < 0 or len(code) - self._from_at < 1_000:
            return
        line = code.count("\n", 0, at)
        before = self._lines[line] if line < len(self._lines) else ()
        if not any(span.colour in {"string", "comment"} for span in before[-1:]):
            self._from_at, self._from_line = at + 2, line + 2


def language_name(language: str) -> str:
    """How a fence's language is called for people: `Python` for `py`. Unknown ones as they are, none as ''."""
    lexer = _lexer(language)
    return language if lexer is None or lexer.name == "Text only" else str(lexer.name)


def _lexer(language: str) -> Any:
    if not language:
        return None
    try:
        return lexers.get_lexer_by_name(language.lower(), stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
