"""What an answer is shown as: segments of prose, code, tables and folds, and how the parser's tokens become them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from markdown_it.token import Token

from answerback_desktop.ui.markdown.rules import STYLES, is_cjk

BREAK: Final = "\u2028"
"""A line break within a paragraph, as Qt writes it."""
BIDI: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
_BIDI_CODE: Final = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
_ADDRESS: Final = re.compile(
    r"(?:https?://)?(?:[^\s/@]*@)?((?:[\w-]+\.)+[^\W\d_]{2,24})(?::\d+)?(?:[/?#]|\Z)", re.IGNORECASE
)
_PAIRS: Final = {"strong": "bold", "em": "italic", "s": "strike"}
_EMAIL: Final = re.compile(
    r"(?<![\w.+/@-])[A-Za-z0-9][\w.+-]*@(?:[A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,24}(?![\w@])", re.ASCII
)
_CALLOUT: Final = re.compile(r"\[!([A-Za-z]+)\][+-]?[ \t]*")
_CALLOUTS: Final = {
    **dict.fromkeys(("tip", "hint", "success", "check", "done"), "T"),
    **dict.fromkeys(("important",), "I"),
    **dict.fromkeys(("warning", "attention", "question", "help"), "W"),
    **dict.fromkeys(("caution", "danger", "error", "bug", "failure"), "C"),
}
HOST_ENDINGS: Final = frozenset(
    {
        "com", "org", "net", "edu", "gov", "mil", "int", "io", "dev", "app", "ai", "co", "info", "biz", "xyz", "me",
        "kr", "jp", "cn", "uk", "de", "fr", "eu", "us", "example",
    }
)  # fmt: skip
"""Of host names in text without a scheme. `notes.md` and `main.py` are files."""
_MAX_DEPTH: Final = 24
"""Quotes or lists nested deeper than any text needs: what is in them is shown without more of them."""


class SegmentKind(StrEnum):
    """What a segment is. UNREAD: a stretch that was not near yet, so that nobody has parsed it."""

    PROSE = "prose"
    CODE = "code"
    TABLE = "table"
    FOLD = "fold"
    UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class Span:
    """A run of letters of one look. The text of math is its TeX, that of an image its description.

    `styles`: bold, italic, strike, underline, code, kbd, mark, sub, sup, footnote, math, display, image, warning,
    alert.
    """

    text: str
    styles: frozenset[str] = frozenset()
    href: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One paragraph of prose. `kind`: text, heading, math, rule.

    `path`: the containers it is in, from outside: `l` a list item, `q` a quote, a capital letter an alert. `marker`:
    what stands before the first paragraph of an item. `gap`: room above it, in the height of letters. `start`, `end`:
    where it is in the answer.
    """

    kind: str = "text"
    spans: tuple[Span, ...] = ()
    level: int = 0
    path: str = ""
    marker: str = ""
    gap: float = 0.65
    start: int = 0
    end: int = 0


Row = tuple[tuple[Span, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of the answer that is shown by one view. `start`, `end`: where it is in the answer.

    `text`: of code, without its fences and the indentation of its list; of a fold, what is in it; of what is unread,
    all. `inner`: where the text of a fold begins in the answer. `title`: the language of code, the summary of a fold
    (`think`: a model's thoughts). `is_closed`: whether its end has come.
    """

    kind: SegmentKind
    start: int = 0
    end: int = 0
    path: str = ""
    text: str = ""
    title: str = ""
    inner: int = 0
    is_closed: bool = True
    parts: tuple[Part, ...] = ()
    rows: tuple[Row, ...] = ()
    aligns: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, str]:
        """The containers that it begins and ends in."""
        return (self.parts[0].path, self.parts[-1].path) if self.parts else (self.path, self.path)

    @property
    def size(self) -> tuple[int, int]:
        """About how many lines and letters it shows."""
        if self.kind is SegmentKind.PROSE:
            return len(self.parts), sum(len(span.text) for part in self.parts for span in part.spans)
        if self.kind is SegmentKind.TABLE:
            return len(self.rows), 0
        return self.text.count("\n") + 1, len(self.text)


@dataclass(slots=True, kw_only=True)
class ListPlace:
    """The list that a stretch of text goes on with: its sign, and the number of its next item.

    `line`: the last line of the text whose item counts.
    """

    sign: str = ""
    number: int = 0
    line: int = 0


def visible_code(code: str) -> str:
    """Code in which the signs that turn the direction of text are written out."""
    return _BIDI_CODE.sub(lambda sign: f"⟦U+{ord(sign[0]):04X}⟧", code)


def other_host(label: str, href: str) -> str:
    """The host that a link really leads to, if its text is the address of another; else ''."""
    said = _ADDRESS.match(label.strip())
    try:
        real = (urlsplit(href).hostname or "").lower().removeprefix("www.")
    except ValueError:
        return ""
    name = said[1].lower().removeprefix("www.") if said else ""
    is_name = bool(said) and ("://" in label or "/" in label or name.rpartition(".")[2] in HOST_ENDINGS)
    return real if real and is_name and real != name and not real.endswith(f".{name}") else ""


class Reader:
    """Makes segments and paragraphs of parsed text, in order. `lines`: where each of its lines begins in the answer.

    `is_apart`: whether the line before a place of the answer is empty. `goes_on`: the list whose next item the text
    begins with; it is brought to the item of its `line`. `path`: the containers that all of it is in.
    """

    def __init__(self, lines: list[int], is_apart: Callable[[int], bool], goes_on: ListPlace, path: str) -> None:
        self._lines, self._is_apart, self._goes_on, self._path = lines, is_apart, goes_on, path
        self._marker = ""
        self._begins_list = False
        self._is_titled = False  # the title of an alert was the last
        self._around: list[str] = []  # the paths outside of the container
        self._lists: list[tuple[str, int]] = []
        self._at = (0, 0)
        self._begins_quote = False

    def read(self, tokens: Sequence[Token]) -> Iterator[Segment | Part]:
        stream = iter(tokens)
        for token in stream:
            begin = _BEGINS.get(token.type)
            if begin is not None:
                begin(self, token)
            elif token.type in {"paragraph_open", "heading_open"}:
                yield from self._paragraph(token, next(stream))
            elif token.type == "alert_title_open":
                next(stream)
                alert = self._path[-1:]
                yield self._part(token, spans=(Span(alert, frozenset({"alert", "bold", alert})),))
                self._is_titled = True
            elif token.type == "math_block":
                yield self._part(token, kind="math", spans=(Span(token.content, frozenset({"math", "display"})),))
            elif token.type == "hr":
                yield self._part(token, kind="rule")
            elif token.type in {"fence", "code_block", "fold", "table_open"}:
                if self._marker:
                    yield self._part(token)
                yield self._segment(token, stream)
            elif token.type in {"list_item_close", "blockquote_close", "alert_close"}:
                if self._marker:
                    yield self._part(token)
                self._path, self._is_titled = self._around.pop(), False

    def _list(self, token: Token) -> None:
        start = token.attrGet("start")
        number = 1 if start is None else int(start)
        # Only the list that the text begins with can be the one that it goes on with.
        is_same = token.level == 0 and (token.map or [1])[0] == 0 and self._goes_on.sign == token.markup
        self._lists.append((token.markup, self._goes_on.number if is_same else number))
        self._begins_list = not is_same

    def _end_list(self, token: Token) -> None:
        self._lists.pop()

    def _item(self, token: Token) -> None:
        sign, number = self._lists[-1]
        self._lists[-1] = sign, number + 1
        if token.level == 1 and (token.map or [0])[0] <= self._goes_on.line:
            self._goes_on.sign, self._goes_on.number = sign, number
        self._marker = f"{number}{sign}" if sign in ".)" else "•"
        if token.meta and "checked" in token.meta:
            self._marker = "☑" if token.meta["checked"] else "☐"
        self._enter(token, "l")

    def _quote(self, token: Token) -> None:
        self._enter(token, "q")
        self._begins_quote = True

    def _alert(self, token: Token) -> None:
        self._enter(token, token.info[:1].upper())

    def _enter(self, token: Token, container: str) -> None:
        self._place(token)
        self._around.append(self._path)
        if len(self._path) < _MAX_DEPTH:
            self._path += container

    def _place(self, token: Token) -> tuple[int, int]:
        """Where it is in the answer. What has no lines of its own is where the one before it is."""
        self._begins_quote = False
        if token.map is not None:
            first, last = token.map
            self._at = self._lines[first], self._lines[last]
        return self._at

    def _paragraph(self, token: Token, inline: Token) -> Iterator[Part]:
        if self._begins_quote and (found := _CALLOUT.match(inline.content)):
            yield from self._callout(token, inline, found)
            return
        spans = _spans_in(inline)
        if token.meta and "note" in token.meta:
            path, self._path, self._marker = self._path, f"{self._path}l", f"{BIDI.sub('', token.meta['note'])}."
            yield self._part(token, spans=spans)
            self._path = path
        elif spans or self._marker:
            level = int(token.tag[1]) if token.type == "heading_open" else 0
            yield self._part(token, kind="heading" if level else "text", spans=spans, level=level)

    def _callout(self, token: Token, inline: Token, found: re.Match[str]) -> Iterator[Part]:
        """The first paragraph of a quote that is a callout as other programs than GitHub write it."""
        letter = _CALLOUTS.get(found[1].lower(), "N")
        self._path = self._path[:-1] + letter
        children = inline.children or []
        end = next((at for at, one in enumerate(children) if one.type in {"softbreak", "hardbreak"}), len(children))
        title = "".join(span.text for span in spans_of(children[:end]))[found.end() :].strip()
        yield self._part(token, spans=(Span(title or letter, frozenset({"alert", "bold", letter})),))
        self._is_titled = True
        if body := spans_of(children[end + 1 :]):
            yield self._part(token, spans=body)

    def _part(self, token: Token, *, kind: str = "text", spans: tuple[Span, ...] = (), level: int = 0) -> Part:
        start, end = self._place(token)
        gap = 0.65
        if level:
            gap = 1.3 if level < 3 else 1.05
        elif self._marker and not (self._begins_list and self._path.count("l") == 1):
            gap = 0.4 if self._is_apart(start) else 0.2
        elif self._is_titled:
            gap = 0.2
        marker, self._marker, self._begins_list, self._is_titled = self._marker, "", False, False
        return Part(kind=kind, spans=spans, level=level, path=self._path, marker=marker, gap=gap, start=start, end=end)

    def _segment(self, token: Token, stream: Iterator[Token]) -> Segment:
        start, end = self._place(token)
        if token.type == "table_open":
            rows, aligns = _rows(stream)
            return Segment(kind=SegmentKind.TABLE, start=start, end=end, path=self._path, rows=rows, aligns=aligns)
        is_fold = token.type == "fold"
        line, column = token.meta.get("begin", (0, 0))
        summary = BIDI.sub("", token.info) or ("" if token.markup == "details" else "think")
        return Segment(
            kind=SegmentKind.FOLD if is_fold else SegmentKind.CODE,
            start=start,
            end=end,
            path=self._path,
            text=token.content if is_fold else token.content.removesuffix("\n"),
            title=summary if is_fold else language_of(token.info),
            inner=self._lines[line] + column if is_fold else 0,
            is_closed=token.meta.get("is_closed", True),
        )


_BEGINS: Final[Mapping[str, Callable[[Reader, Token], None]]] = {
    "bullet_list_open": Reader._list,
    "ordered_list_open": Reader._list,
    "bullet_list_close": Reader._end_list,
    "ordered_list_close": Reader._end_list,
    "list_item_open": Reader._item,
    "blockquote_open": Reader._quote,
    "alert_open": Reader._alert,
}


def language_of(info: str) -> str:
    """The first word of a fence's info string."""
    words = info.split(maxsplit=1)
    return BIDI.sub("", words[0]).strip("{}.")[:40] if words else ""


def _rows(stream: Iterator[Token]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    rows: list[list[tuple[Span, ...]]] = []
    aligns: list[str] = []
    for token in stream:
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            rows.append([])
        elif token.type in {"th_open", "td_open"}:
            if token.type == "th_open":
                aligns.append(str(token.attrGet("style") or "").rpartition(":")[2])
            rows[-1].append(_spans_in(next(stream)))
    return tuple(tuple(row) for row in rows), tuple(aligns)


def _spans_in(inline: Token) -> tuple[Span, ...]:
    """The runs of a paragraph; those of one that has not changed are kept with its tokens."""
    read = inline.meta["read"] if inline.meta else [inline.children or []]
    if len(read) == 1:
        read.append(spans_of(read[0]))
    return tuple(read[1])


def spans_of(tokens: Sequence[Token]) -> tuple[Span, ...]:
    """The runs of one paragraph."""
    spans = _Spans()
    for token in tokens:
        spans.take(token)
    return tuple(spans.found)


class _Spans:
    def __init__(self) -> None:
        self.found: list[Span] = []
        self._styles: list[str] = []
        self._href = ""
        self._joins_from = 0  # runs before are of another link

    def take(self, token: Token) -> None:
        match token.type:
            case "text" | "text_special":
                self._letters(BIDI.sub("", token.content))
            case "code_inline":
                self._put(visible_code(token.content), "code")
            case "softbreak":
                before = self.found[-1].text[-1:] if self.found else ""
                # Chinese and Japanese have no spaces between words; Korean has.
                self._put("" if before and is_cjk(before) and not "가" <= before <= "힣" else " ")
            case "hardbreak":
                self._put(BREAK)
            case "link_open" | "link_close":
                self._link(token)
            case "image":
                self._put(" ".join(BIDI.sub("", token.content).split()) or "…", "image")
            case "math":
                self._joins_from = len(self.found)
                self._put(token.content, "math", *(["display"] if token.meta["is_display"] else []))
                self._joins_from = len(self.found)
            case "footnote":
                self._put(BIDI.sub("", token.content), "sup", "footnote")
            case "tag" if token.content == "br":
                self._put(BREAK)
            case "tag":
                self._switch(STYLES.get(token.content, ""), is_on=not token.meta["is_end"])
            case _:
                name, _, end = token.type.rpartition("_")
                self._switch(_PAIRS.get(name, ""), is_on=end == "open")

    def _letters(self, text: str) -> None:
        """Letters, in which an address of mail is a link."""
        at = 0
        if "@" in text and not self._href:
            for found in _EMAIL.finditer(text):
                self._put(text[at : found.start()])
                self._href = f"mailto:{found[0]}"
                self._put(found[0])
                self._href, at = "", found.end()
        self._put(text[at:])

    def _put(self, text: str, *more: str) -> None:
        look = frozenset((*self._styles, *more))
        if not text:
            return
        if len(self.found) > self._joins_from and (self.found[-1].styles, self.found[-1].href) == (look, self._href):
            text = self.found.pop().text + text
        self.found.append(Span(text, look, self._href))

    def _link(self, token: Token) -> None:
        host = ""
        if token.type == "link_close":
            host = other_host("".join(span.text for span in self.found[self._joins_from :]), self._href)
        self._href, self._joins_from = str(token.attrs.get("href", "")), len(self.found)
        if host:
            self._put(f" ({host})", "warning")

    def _switch(self, style: str, *, is_on: bool) -> None:
        if style and is_on:
            self._styles.append(style)
        elif style in self._styles:
            self._styles.remove(style)
