"""What a model says besides its answer, as Markdown around it: thoughts and calls are folded, sources are listed."""

import json
import re
from collections.abc import Iterable
from typing import Final

from answerback.client import AnswerPart, PartStarted, PartText, Text

WANTED: Final = ("citation", "reasoning", "result", "status", "tool")
"""The kinds that this app asks for."""

_BEGIN: Final = {
    "reasoning": "<think>\n",
    "tool": "<details part><summary>{name}</summary>\n\n```json\n",
    "result": "<details part><summary>{name} →</summary>\n\n```\n",
    "status": "<details part><summary>",
}
_END: Final = {
    "reasoning": "\n</think>\n\n",
    "tool": "\n```\n\n</details>\n\n",
    "result": "\n```\n\n</details>\n\n",
    "status": "</summary></details>\n\n",
}


class Writer:
    """Writes an answer down while it comes: append-only, as the answer is."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._kind = "text"
        self.length = 0
        self._end = ""

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, event: Text | PartStarted | PartText) -> str:
        """What is new with this event. Sources are not: they are listed when the answer is whole."""
        match event:
            case Text():
                return self.write("text", None, event.delta)
            case PartStarted(_, kind, name):
                return self.write(kind, name, "", is_new=True)
            case PartText(kind=kind, name=name):
                return self.write(kind, name, event.delta)

    def write(self, kind: str, name: str | None, delta: str, *, is_new: bool = False) -> str:
        """Go on with the last part, or begin the next one. Returns what is new."""
        if kind not in _BEGIN and kind != "text":
            return ""
        written = ""
        if kind != self._kind or is_new:
            written = _END.get(self._kind, "")
            if kind != "text":
                is_line_open = self.length > 0 and self._kind == "text"
                written += ("\n\n" if is_line_open else "") + _BEGIN[kind].format(name=_plain(name or kind))
            self._kind = kind
        written += delta if kind == "text" else _harmless(kind, written[-2:] if written else self._end, delta)
        self._end = (self._end + written)[-2:]
        self._pieces.append(written)
        self.length += len(written)
        return written


def written(parts: Iterable[AnswerPart]) -> str:
    """A whole answer."""
    writer, sources = Writer(), dict[str, None]()
    for kind, name, text in parts:
        if kind == "citation":
            sources[_source(text)] = None
        else:
            writer.write(kind, name, text, is_new=kind != "text")
    writer.write("text", None, "")
    listed = "".join(f"\n- {source}" for source in sources if source)
    return f"{writer.text}\n{listed}\n" if listed else writer.text


def _harmless(kind: str, before: str, text: str) -> str:
    """Text that does not end its fold, behind what was written `before`."""
    if kind == "status":  # a line of letters
        return re.sub(r"[\s<>]", " ", text)
    ending, mark = (r"</", "<\u200b/") if kind == "reasoning" else (r"``(?=`)", "``\u200b")
    before = before[-len(mark) + 2 :] if before.endswith(("<", "`")) else ""
    return re.sub(ending, mark, before + text)[len(before) :]


def _plain(name: str) -> str:
    return "".join(letter for letter in name if letter.isprintable() and letter not in "<>&")


def _source(text: str) -> str:
    """A source as a link or a quotation, '' if nothing can be read."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(told, dict):
        return ""
    title, url, quoted = (" ".join(str(told.get(key) or "").split()) for key in ("title", "url", "text"))
    label = (title or url or quoted).replace("[", "(").replace("]", ")")
    is_link = url.startswith(("https://", "http://")) and not set(url) & set("()<> \\")
    return f"[{label}]({url})" if is_link else label
