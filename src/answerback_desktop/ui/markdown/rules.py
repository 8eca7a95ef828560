"""The parser of answers: CommonMark and GitHub's additions by markdown-it-py, with rules for what models write besides.

Emphasis beside Korean, Japanese and Chinese letters, math, bare links, a few harmless tags, footnotes, folded
reasoning, and code in lists whose lines lost their indent. While an answer streams, its last paragraph is read as if
what is open in it were closed, so that half a sign is never seen. No Qt.
"""

import re
import unicodedata
from typing import Any, Final

from markdown_it import MarkdownIt
from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Delimiter, Scanned
from markdown_it.token import Token

STYLES: Final = {
    **{"b": "bold", "strong": "bold", "i": "italic", "em": "italic", "u": "underline", "ins": "underline"},
    **{"s": "strike", "del": "strike", "sub": "sub", "sup": "sup", "kbd": "kbd", "mark": "mark"},
}
"""What the tags do that are more than letters."""
_VOID: Final = ("br", "p", "div", "span", "center", "font", "small", "details", "summary")
_TAG: Final = re.compile(rf"<(/?)({'|'.join((*STYLES, *_VOID))})\b[^<>\n]{{0,200}}>", re.IGNORECASE)
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_HALF_TAG: Final = re.compile(r"</?([a-zA-Z]{0,7})(?:\s[^<>]{0,100})?/?\Z|<!-{0,2}\Z")
_HALF_ENTITY: Final = re.compile(r"&#?\w{0,8}\Z")
_HALF_LINK: Final = re.compile(r"!?\[(\^?)([^\[\]\n]*)(\](?:\([^()\n]*(?:\([^()\n]*\)?)?)?)?\Z")
_FOOTNOTE: Final = re.compile(r"\[\^([^\]\s]{1,40})\]")
_TEXT_END: Final = re.compile(r"[\n!$&*<>\[\\\]_`~]|(?<![A-Za-z0-9/_\-.@])(?:https?://|www\.)", re.IGNORECASE)
_BARE_LINK: Final = re.compile(r"(?:https?://|www\.)[^\s<>`\u3000-\u303f\uff00-\uff0f\uff1a-\uff20]+", re.IGNORECASE)
_LONGEST_OPEN: Final = 600
"""Emphasis that has been open for so many letters is more likely a sign by itself: it is not closed early."""
_LONGEST_MATH: Final = 2_000
_NO_MATH: Final = re.compile(
    r"[^\W\d_]{2,}[\s,]+[^\W\d_]{2,}"  # "$5, or some 10$": words
    r"|\A\$\d[\d.,]*\s+[^\W\d_]{2,}"  # "$5 and 10$": a price
    r"|[-+*/=,:(]\$|\$[A-Z_{(]\Z"  # "$a+$b", "$HOME/bin:$PATH": variables
)

_MATH_BLOCK: Final = re.compile(r"\$\$|\\\[|\\begin\{((?:align|gather|equation|alignat|multline|eqnarray)\*?)\}")
_FOLD: Final = re.compile(r"<(think|thinking|reasoning|reflection|details)(?:\s[^<>\n]*)?>", re.IGNORECASE)
_FOLD_END: Final = re.compile(r"</(?:think|thinking|reasoning|reflection)>\s*\Z", re.IGNORECASE)
_SUMMARY: Final = re.compile(r"\s*<summary[^<>]*>(.*?)(?:</summary>|\Z)", re.IGNORECASE | re.DOTALL)
_NEXT_ITEM: Final = re.compile(r"(?:[-*+]|\d{1,9}[.)])[ \t]")


def is_cjk(letter: str) -> bool:
    """Whether it is a letter or a sign of Korean, Japanese or Chinese."""
    code = ord(letter)
    if code < 0x1100 or 0x1F000 <= code < 0x20000:  # emoji are wide, too
        return False
    is_jamo = code < 0x1200 or 0xD7B0 <= code < 0xD800
    return is_jamo or (code >= 0x2E80 and unicodedata.east_asian_width(letter) in "WFH")


def _is_punctuation(letter: str) -> bool:
    return isMdAsciiPunct(ord(letter)) or isPunctChar(letter)


class _Inline(StateInline):
    """The state of one paragraph. `is_open`: it is the end of an answer that still streams."""

    is_open = False

    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:  # noqa: N802, N803 - the library's names
        """CommonMark's rule of what may open and close emphasis; a CJK letter beside the run counts as a space does.

        So do the markdown-cjk-friendly rules, which comrak, markdig and GitLab have taken.
        """
        marker, end = self.src[start], start
        while end < self.posMax and self.src[end] == marker:
            end += 1
        before = self.src[start - 1] if start else " "
        if start > 1 and (0xFE00 <= ord(before) <= 0xFE0E or ord(before) >= 0xE0100):
            before = self.src[start - 2]  # a variation selector is part of the letter before it
        after = self.src[end] if end < self.posMax else " "
        is_free_before = isWhiteSpace(ord(before)) or _is_punctuation(before)
        is_free_after = isWhiteSpace(ord(after)) or _is_punctuation(after)
        beside_cjk = is_cjk(before) or is_cjk(after)
        left = not isWhiteSpace(ord(after)) and (not _is_punctuation(after) or is_free_before or beside_cjk)
        right = not isWhiteSpace(ord(before)) and (not _is_punctuation(before) or is_free_after or beside_cjk)
        # A single `_` is part of a name in Korean, too: 파일_이름_수정.
        is_bold = end - start > 1
        can_open = left and (canSplitWord or not right or _is_punctuation(before) or (is_bold and is_cjk(before)))
        can_close = right and (canSplitWord or not left or _is_punctuation(after) or (is_bold and is_cjk(after)))
        return Scanned(can_open, can_close, end - start)


def _parse_inline(text: str, md: MarkdownIt, env: Any, *, is_open: bool) -> list[Token]:
    if is_open:
        text = re.sub(r"\A\[[ xX]?\]?\Z|(?<!\\)[*_~`$]+\Z|(?<!\\)\\\Z", "", text.rstrip()).rstrip()
    state = _Inline(text, md, env, [])
    state.is_open = is_open
    md.inline.tokenize(state)
    for rule in md.inline.ruler2.getRules(""):
        rule(state)
    return state.tokens


def _inline(state: StateCore) -> None:
    """Read the text of every block. The last one is open while the answer streams, if nothing but ends follow it.

    What was read by the update before is not read again: `known` has each text's tokens, and room for their spans.
    """
    known: dict[str, list[Any]] = state.env.get("known", {})
    now: dict[str, list[Any]] = {}
    last = next((n for n in range(len(state.tokens) - 1, -1, -1) if not _is_after_text(state.tokens[n])), -1)
    for number, token in enumerate(state.tokens):
        if token.type == "inline":
            is_open = number == last and bool(state.env.get("is_open"))
            read = None if is_open else now.get(token.content) or known.get(token.content)
            if read is None:
                read = [_parse_inline(token.content, state.md, state.env, is_open=is_open)]
            token.children, token.meta = read[0], {"read": read}
            if not is_open:
                now[token.content] = read
    state.env["known"] = now


def _is_after_text(token: Token) -> bool:
    """Whether it is an end, or a cell of a table that has not come yet."""
    return token.nesting < 0 or token.type == "td_open" or (token.type == "inline" and not token.content)


def _close_open(state: StateInline) -> None:
    """Emphasis that is open at the end of a streaming text is closed there."""
    if not getattr(state, "is_open", False):
        return
    matched_to = -1
    openers = []
    for number, one in enumerate(state.delimiters):
        matched_to = max(matched_to, one.end)
        if one.end < 0 and one.open and number > matched_to:
            openers.append(one)
    length = 0
    for one in reversed(openers):
        length += len(state.tokens[one.token].content) + sum(len(t.content) for t in state.tokens[one.token + 1 :][:40])
        if length > _LONGEST_OPEN:
            break
        one.end = len(state.delimiters)
        token = Token("text", "", 0, content=state.tokens[one.token].content)
        state.tokens.append(token)
        state.tokens_meta.append(None)
        state.delimiters.append(Delimiter(one.marker, one.length, len(state.tokens) - 1, -1, False, True))


# --- inline rules


def _text(state: StateInline, silent: bool) -> bool:
    """Letters up to what may mean something, a bare link too."""
    found = _TEXT_END.search(state.src, state.pos, state.posMax)
    end = found.start() if found else state.posMax
    if end == state.pos:
        return False
    if not silent:
        state.append_pending(state.src[state.pos : end])
    state.pos = end
    return True


def _math(state: StateInline, silent: bool) -> bool:
    r"""`\(…\)`, `\[…\]`, `$$…$$`, and `$…$` by pandoc's rule, so that `$5 and $10` are prices."""
    src, start = state.src, state.pos
    opener = src[start : start + 2]
    closer = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}.get(opener)
    is_open = getattr(state, "is_open", False) and state.posMax - start < _LONGEST_MATH
    if closer is not None:
        end = src.find(closer, start + 2, state.posMax)
        tex, after = (src[start + 2 : end], end + 2) if end >= 0 else (src[start + 2 :], state.posMax)
        if end < 0 and not is_open and _is_cut_tex(line := tex.partition("\n")[0]):
            if not silent:
                state.pending += opener + line
            state.pos = start + 2 + len(line)
            return True
        if (end < 0 and not is_open) or not tex.strip():
            return False
    elif src[start] == "$":
        end = _dollar_end(src, start, state.posMax)
        tex, after = (src[start + 1 : end], end + 1) if end >= 0 else (src[start + 1 :], state.posMax)
        if end < 0 and not (is_open and re.match(r"[A-Za-z\\({\[|]", tex) and re.search(r"[\\^_={}]", tex)):
            return False
        if "`" in tex or (end < 0 and "\n" in tex):
            return False
    else:
        return False
    if len(tex) > _LONGEST_MATH:
        return False
    if not silent:
        token = state.push("math", "", 0)
        token.content = tex.strip() if end >= 0 else _whole_tex(tex)
        token.meta = {"is_display": opener in {"\\[", "$$"}}
    state.pos = after
    return True


def _is_cut_tex(text: str) -> bool:
    """Whether it is the beginning of a formula whose end never came: commands and signs, and no words."""
    return bool(re.search(r"\\[A-Za-z]|[\^_{}]", text)) and not re.search(
        r"[^\W\d_]{4,}", re.sub(r"\\[A-Za-z]+", "", text)
    )


def _dollar_end(src: str, start: int, limit: int) -> int:
    """Where the dollar is that closes the one at `start`; -1: it is no math."""
    before, first = src[start - 1 : start], src[start + 1 : start + 2]
    if not first or first.isspace() or first == "$" or (before.isascii() and before.isalnum()):
        return -1
    end = start
    while (end := src.find("$", end + 1, limit)) >= 0:
        if src[end - 1] != "\\":
            break
    if not 0 <= end <= start + _LONGEST_MATH or src[end - 1].isspace() or src[end + 1 : end + 2].isdigit():
        return -1
    tex = src[start + 1 : end]
    is_other = "**" in tex or ("\\" not in tex and _NO_MATH.search(src[start : end + 2]))
    return -1 if is_other else end


def _whole_tex(tex: str) -> str:
    """Half a formula as one that can be drawn: without its half command, its braces closed."""
    tex = re.sub(r"\\[A-Za-z]*\Z|[\\$^_&]+\Z", "", tex.strip()).rstrip()
    tex = re.sub(r"[\^_]\Z|\\(?:frac|sqrt|text|mathrm|mathbf|hat|vec|bar|left|begin)\s*(?:\{[^{}]*\}?)?\Z", "", tex)
    missing = len(re.findall(r"(?<!\\)\{", tex)) - len(re.findall(r"(?<!\\)\}", tex))
    return tex + "}" * max(0, min(missing, 20))


def _tag(state: StateInline, silent: bool) -> bool:
    """The few tags that are more than letters. One of a pair counts only where the other is, too."""
    src, start = state.src, state.pos
    if src[start] != "<":
        return False
    if found := _COMMENT.match(src, start, state.posMax):
        state.pos = found.end()
        return True
    found = _TAG.match(src, start, state.posMax)
    if found is None:
        half = _HALF_TAG.match(src, start) if getattr(state, "is_open", False) else None
        if half is None or not any(name.startswith((half[1] or "").lower()) for name in (*STYLES, *_VOID)):
            return False
        state.pos = state.posMax
        return True
    name = found[2].lower()
    if name in STYLES:
        rest = src[found.end() :] if not found[1] else src[:start]
        other = rf"</{name}\s*>" if not found[1] else rf"<{name}\b"
        if not re.search(other, rest, re.IGNORECASE) and not (getattr(state, "is_open", False) and len(name) > 1):
            return False
    if not silent:
        token = state.push("tag", "", 0)
        token.content, token.meta = name, {"is_end": bool(found[1])}
    state.pos = found.end()
    return True


def _footnote(state: StateInline, silent: bool) -> bool:
    found = _FOOTNOTE.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("footnote", "", 0).content = found[1]
    state.pos = found.end()
    return True


def _bare_link(state: StateInline, silent: bool) -> bool:
    """An address by itself, without the punctuation and the particle that follow it."""
    src, start = state.src, state.pos
    if state.linkLevel or src[start] not in "hHwW" or _TEXT_END.match(src, start) is None:
        return False
    found = _BARE_LINK.match(src, start, state.posMax)
    url = _trimmed(found[0].partition("](")[0]) if found else ""
    if len(url) < 8 or not re.search(r"\w\.\w|//\d|//\[|localhost", url):
        return False
    if not silent:
        state.push("link_open", "a", 1).attrs = {"href": url if "://" in url else f"https://{url}"}
        state.push("text", "", 0).content = url
        state.push("link_close", "a", -1)
    state.pos += len(url)
    return True


def _trimmed(url: str) -> str:
    for at, letter in enumerate(url):
        # A particle follows Latin letters without a space (`https://example.kr에서`).
        if at > 8 and is_cjk(letter) and url[at - 1] not in "/=?&%#-_+." and not is_cjk(url[at - 1]):
            url = url[:at]
            break
    while url:
        opener = {")": "(", "]": "[", "}": "{"}.get(url[-1], "")
        if url[-1] in ".,;:!?'\"*_~\u201d\u2019([{" or (opener and url.count(url[-1]) > url.count(opener)):
            url = url[:-1]
        else:
            break
    return url


def _half_written(state: StateInline, silent: bool) -> bool:
    """At the end of a streaming text: a link, an image, a footnote, code or an entity that has only begun."""
    src, start = state.src, state.pos
    if silent or not getattr(state, "is_open", False):
        return False
    if src[start] == "`":
        run = len(src) - start - len(src[start:].lstrip("`"))
        body = src[start + run :]
        if re.search(rf"(?<!`)`{{{run}}}(?!`)", body):
            return False
        if body:
            state.push("code_inline", "code", 0).content = body.replace("\n", " ").removeprefix(" ")
    elif src[start] == "&" and _HALF_ENTITY.match(src, start):
        pass
    elif src[start] in "![" and (half := _HALF_LINK.match(src, start)):
        is_label = src[start] == "[" and not half[1]
        if is_label and half[3] is None and len(half[2]) > 200:
            return False
        if is_label and half[3] in {"]", None} and state.level == 0:
            if not half[2]:
                state.pos = state.posMax
                return True
            if half[3] == "]":  # it may be a reference, or a word in brackets
                return False
            state.pos += 1
            return True
        if is_label:
            state.pos, state.posMax = start + 1, start + 1 + len(half[2])
            state.md.inline.tokenize(state)
            state.posMax = len(src)
    else:
        return False
    state.pos = state.posMax
    return True


# --- block rules


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _fence(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Fenced code. In a list its lines may have lost their indent, as models write it: only the next item ends it."""
    found = re.match(r"(`{3,})([^`]*)\Z|(~{3,})(.*)\Z", _line(state, start))
    if found is None or state.is_code_block(start):
        return False
    if silent:
        return True
    fence, indent = found[1] or found[3], state.sCount[start]
    line, is_closed = start + 1, False
    while line < end:
        text = _line(state, line).rstrip()
        is_outside = bool(text) and state.sCount[line] < state.blkIndent
        if is_outside and (state.sCount[line] < 0 or _NEXT_ITEM.match(text + " ")):
            break
        is_fence = len(text) >= len(fence) and text == fence[0] * len(text)
        if is_fence and state.sCount[line] - max(state.blkIndent, 0) < 4:
            is_closed = True
            break
        line += 1
    lines = [state.getLines(n, n + 1, min(indent, max(0, state.sCount[n])), True) for n in range(start + 1, line)]
    is_growing = not is_closed and state.env.get("is_open") and line == state.lineMax and state.src[-1] != "\n"
    if is_growing and lines and set(lines[-1].strip()) == {fence[0]}:
        lines.pop()  # half of the closing fence
    state.line = line + is_closed
    token = state.push("fence", "code", 0)
    token.info, token.markup, token.content = (found[2] or found[4] or "").strip(), fence, "".join(lines)
    token.map, token.meta = [start, state.line], {"is_closed": is_closed}
    return True


def _math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    first = _line(state, start)
    found = _MATH_BLOCK.match(first)
    if found is None or state.is_code_block(start):
        return False
    closer = {"$$": "$$", "\\[": "\\]"}.get(found[0], f"\\end{{{found[1]}}}")
    lines: list[str] = []
    line, is_closed = start, False
    while line < end and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent and not is_closed:
        body, mark, behind = (first[found.end() :] if line == start else _line(state, line)).partition(closer)
        if mark and behind.strip(" \t.,;"):
            return False  # text goes on behind it: it is in a paragraph
        lines.append(body)
        line, is_closed = line + 1, bool(mark)
    is_growing = bool(state.env.get("is_open")) and line >= state.lineMax and not state.src.endswith("\n\n")
    if not is_closed and not is_growing:
        return False
    if silent:
        return True
    tex = "\n".join(lines).strip()
    state.line = line
    token = state.push("math_block", "", 0)
    token.content = tex if is_closed else _whole_tex(tex)
    if found[1]:
        token.content = f"{found[0]}\n{token.content}\n{closer}"
    token.map, token.meta = [start, line], {"is_closed": is_closed}
    return True


def _fold(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """`<think>…</think>` and `<details>…</details>` that begin a line: their text is kept unread."""
    text = _line(state, start)
    if _FOLD_END.match(text):  # some models' thoughts have an end only
        state.line = state.line if silent else start + 1
        return True
    found = _FOLD.match(text)
    if found is None or state.level or state.sCount[start] >= 4:
        return False
    name = found[1].lower()
    marks = re.compile(rf"<(/?){name}(?:\s[^<>\n]*)?>", re.IGNORECASE)
    begin = state.bMarks[start] + state.tShift[start] + found.end()
    depth, stop, after = 1, state.eMarks[end - 1], state.eMarks[end - 1]
    for mark in marks.finditer(state.src, begin):
        depth += -1 if mark[1] else 1
        if not depth:
            stop, after = mark.start(), mark.end()
            break
    if silent:
        return True
    line = start
    while line + 1 < end and state.bMarks[line + 1] <= stop:
        line += 1
    content = state.src[begin:stop]
    if depth and state.env.get("is_open"):
        content = re.sub(r"</?\w{0,10}\Z", "", content)
    summary = _SUMMARY.match(content)
    token = state.push("fold", "", 0)
    token.content = content[summary.end() :] if summary else content
    token.info = re.sub(r"<[^<>]*>", "", summary[1]).strip() if summary else ""
    token.markup, token.map, token.meta = name, [start, line + 1], {"is_closed": not depth}
    begin += summary.end() if summary else 0
    token.meta["begin"] = state.src.count("\n", 0, begin), begin - state.src.rfind("\n", 0, begin) - 1
    state.line = line + 1
    if not depth and state.src[after : state.eMarks[line]].strip():  # the answer begins right behind the thoughts
        state.bMarks[line], state.tShift[line], state.line = after, 0, line
        state.sCount[line] = 0
        if line == start:  # a rule must leave the line: the rest of it is a paragraph
            paragraph = state.push("paragraph_open", "p", 1)
            inline = state.push("inline", "", 0)
            inline.content, inline.children = state.src[after : state.eMarks[line]].strip(), []
            paragraph.map = inline.map = [line, line + 1]
            state.push("paragraph_close", "p", -1)
            state.line = line + 1
    return True


def _note(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The text of a footnote: `[^1]: …`, to the next empty line."""
    found = re.match(r"\[\^([^\]\s]{1,40})\]:[ \t]*", _line(state, start))
    if found is None or state.is_code_block(start):
        return False
    if silent:
        return True
    line, parts = start + 1, [_line(state, start)[found.end() :]]
    while line < end and not state.isEmpty(line) and not _line(state, line).startswith("[^"):
        parts.append(_line(state, line))
        line += 1
    state.line = line
    token = state.push("paragraph_open", "p", 1)
    token.map, token.meta = [start, line], {"note": found[1]}
    token = state.push("inline", "", 0)
    token.content, token.map, token.children = "\n".join(parts).strip(), [start, line], []
    state.push("paragraph_close", "p", -1)
    return True


def parser() -> MarkdownIt:
    """What is read is text: no HTML, and links as they are written. Where they are shown they are checked."""
    md = MarkdownIt("commonmark", {"html": False, "maxNesting": 40, "tasklists": True, "alerts": True})
    md.enable(["table", "strikethrough"])
    ends: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    md.block.ruler.at("fence", _fence, ends)
    md.block.ruler.before("fence", "math_block", _math_block, ends)
    md.block.ruler.before("fence", "fold", _fold, ends)
    md.block.ruler.before("reference", "note", _note, ends)
    md.core.ruler.at("inline", _inline)
    md.disable("text_join")  # it changes tokens in place, which are kept; spans are joined anyway
    md.inline.ruler.at("text", _text)
    md.inline.ruler.before("escape", "math", _math)
    md.inline.ruler.before("escape", "half_written", _half_written)
    md.inline.ruler.before("escape", "bare_link", _bare_link)
    md.inline.ruler.before("link", "footnote", _footnote)
    md.inline.ruler.before("autolink", "tag", _tag)
    md.inline.ruler2.after("balance_pairs", "close_open", _close_open)
    md.validateLink = lambda url: True  # type: ignore[method-assign]
    md.normalizeLink = lambda url: url  # type: ignore[method-assign]
    md.normalizeLinkText = lambda link: link  # type: ignore[method-assign]
    return md
