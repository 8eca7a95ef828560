"""What is copied from an answer: spans as Markdown again, and Markdown as HTML that loads nothing."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from markdown_it.token import Token

from answerback_desktop.ui.markdown.rules import STYLES, parser
from answerback_desktop.ui.markdown.segments import BIDI, BREAK, SegmentKind, Span
from answerback_desktop.ui.markdown.splitter import split

_BESIDE: Final = re.compile(r"\s*<(?:think|thinking|reasoning|reflection|details part)\b", re.IGNORECASE)
"""How a fold begins that is not the answer; folds of the answer's own are `details` alone."""
_FOLD_END: Final = re.compile(r"</\w+\s*>[ \t]*\n*")
_MARKS: Final = (("italic", "*"), ("bold", "**"), ("strike", "~~"))
_TAGS: Final = {"sub": "sub", "sup": "sup", "kbd": "kbd", "mark": "mark", "underline": "u"}


def markdown_of(spans: Iterable[Span]) -> str:
    """Letters of one paragraph as Markdown."""
    return "".join(_written(span) for span in spans if not span.styles & {"warning", "alert"})


def _written(span: Span) -> str:
    styles, text = span.styles, span.text.replace(BREAK, "<br>")
    if "math" in styles:
        return f"$${text}$$" if "display" in styles else f"${text}$"
    if "footnote" in styles:
        return f"[^{text}]"
    core = text.strip()
    if not core:
        return text
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    if "code" in styles:
        ticks = "`" * (1 + max((len(run) for run in re.findall("`+", core)), default=0))
        core = f"{ticks} {core} {ticks}" if len(ticks) > 1 else f"`{core}`"
    for style, mark in _MARKS:
        core = f"{mark}{core}{mark}" if style in styles else core
    for style, tag in _TAGS.items():
        core = f"<{tag}>{core}</{tag}>" if style in styles else core
    if span.href and span.href != core and "image" not in styles:
        core = f"[{core}]({span.href})"
    return before + core + after


def neutralised(markdown: str) -> str:
    """Without the signs that turn the direction of text, which are not seen; code is as it is."""
    if not BIDI.search(markdown):
        return markdown
    pieces, at = [], 0
    for segment in split(markdown):
        if segment.kind is SegmentKind.CODE:
            pieces += [BIDI.sub("", markdown[at : segment.start]), markdown[segment.start : segment.end]]
            at = segment.end
    return "".join((*pieces, BIDI.sub("", markdown[at:])))


def answer_of(markdown: str) -> str:
    """An answer as it is copied: without thoughts, calls of tools and what the model said of its doing."""
    pieces, at = [], 0
    for segment in split(markdown):
        if segment.kind is SegmentKind.FOLD and _BESIDE.match(markdown, segment.start):
            pieces.append(markdown[at : segment.start])
            end = _FOLD_END.match(markdown, segment.inner + len(segment.text)) if segment.is_closed else None
            at = end.end() if end else segment.end
    return neutralised("".join((*pieces, markdown[at:]))).strip("\n")


def html_of(markdown: str) -> str:
    """Rich text for other programs. Images are their descriptions, and only links to the web and to mail are links."""
    return str(_HTML.render(markdown))


def _tag(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    token = tokens[at]
    if token.content == "br":
        return "<br>"
    return f"<{'/' if token.meta['is_end'] else ''}{token.content}>" if token.content in STYLES else ""


def _math(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f"<code>{escape(tokens[at].content)}</code>"


def _link_open(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    href = str(tokens[at].attrs.get("href", ""))
    return f'<a href="{escape(href)}">' if re.match(r"https?://|mailto:", href) else "<a>"


def _letters(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return escape(tokens[at].content)


def _fold(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f"<blockquote>{html_of(tokens[at].content)}</blockquote>"


def _footnote(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f"<sup>{escape(tokens[at].content)}</sup>"


_HTML: Final = parser()
for _name, _rule in {
    **{"tag": _tag, "math": _math, "math_block": _math, "link_open": _link_open},
    **{"image": _letters, "fold": _fold, "footnote": _footnote, "text_special": _letters},
}.items():
    _HTML.add_render_rule(_name, _rule)
