"""Reads an answer out of the documents of a model's server: what it says, why it ended, and the counts.

Each of these is read by itself, and nothing else is looked at, so that an odd document costs nothing but what it
does not say. Only an explicit error, or an end that never comes, fails an answer. The end is final: from there on
nothing that comes, or fails to come, costs more than the counts.
"""

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

import msgspec

from answerback.core.finish import token_count
from answerback.model_guard import checked_finish
from answerback.models.errors import ErrorDetails, error_in, error_of
from answerback.ports import Finish, ModelError, Part, Piece, Prompt
from answerback.protocol.errors import ErrorCode

USAGE_TIMEOUT_S: Final = 5.0
"""The counts may come after the end of the answer; it is not held back for longer than this because of them."""

DRAIN_TIMEOUT_S: Final = 0.25
"""After the counts: a connection that is read to its end serves the next answer."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class CallPiece(NamedTuple):
    """A piece of the call of a tool: which of the calls, the tool's name if it is told now, more of the arguments."""

    which: int | str
    name: str
    arguments: str


class Found(msgspec.Struct, kw_only=True):
    """What one document says. `is_whole`: that is all up to now, of a server that does not stream. `counts`: those of
    Finish that can be read. `is_odd`: in part unread. `aside`: a document with no part of an answer; as the last one
    it says why there is no end.
    """

    text: str = ""
    thoughts: str = ""
    calls: Sequence[CallPiece] = ()
    citations: Sequence[dict[str, str]] = ()
    is_whole: bool = False
    reason: str | None = None
    counts: dict[str, int] = {}
    is_odd: bool = False
    aside: Any = None

    def learn(self, later: "Found") -> None:
        """Keep the first reason and the last counts."""
        self.reason = self.reason or later.reason
        self.counts.update(later.counts)


async def read_answer(
    documents: AsyncGenerator[Any, None],
    find: Callable[[Any], Found],
    prompt: Prompt,
    *,
    note_odd: Callable[[], None] = lambda: None,
    usage_timeout_s: float | None = None,
) -> AsyncGenerator[Piece, None]:
    """The text as it comes, thoughts, calls and sources in between, then one Finish. Closes `documents`.

    Raises: ModelError: by `find`; `model_failed`: the documents end before the answer does, or it ended in failure.
    """
    pieces_of = _Pieces()
    so_far = Found()
    aside: Any = None
    async with aclosing(documents):
        async for document in documents:
            found = find(document)
            so_far.learn(found)
            aside = found.aside
            for piece in pieces_of.found(found):
                yield piece
            if found.is_odd:
                note_odd()
            if so_far.reason is not None:
                break
        else:
            if aside is not None:
                raise error_of(ErrorDetails.of(aside))
            raise ModelError(ErrorCode.MODEL_FAILED, "the stream ended before the answer did")
        finish = checked_finish(Finish(reason=so_far.reason), prompt)
        with suppress(Exception):
            async with asyncio.timeout(USAGE_TIMEOUT_S if usage_timeout_s is None else usage_timeout_s) as limit:
                async for document in documents:
                    so_far.learn(later := find(document))
                    if later.text:
                        note_odd()
                    if so_far.counts.keys() >= {"input_tokens", "output_tokens"}:
                        drained_at = asyncio.get_running_loop().time() + DRAIN_TIMEOUT_S
                        limit.reschedule(min(drained_at, limit.when() or drained_at))
    yield replace(finish, **cast("dict[str, Any]", so_far.counts))


def chat_completion(document: Any) -> Found:
    """A document of the OpenAI chat completions protocol: a chunk of a stream, or a whole completion.

    Text for the person is the content of the message, its parts of type `text`, and what the model says when it
    refuses. Raises: ModelError: it is an error.
    """
    if text := _plain(document):
        return Found(text=text)
    choices = document.get("choices") if isinstance(document, dict) else None
    choice = _first(choices)
    if (error := error_in(document, choice, choice.get("delta"), choice.get("message"))) is not None:
        raise error
    if not isinstance(document, dict):
        return Found(is_odd=True, aside=document)
    found = _said(choice.get("delta"))
    if not (found.text or found.thoughts or found.calls or found.citations):
        if message := choice.get("message"):
            found = _said(message)
            found.is_whole = True
        else:
            found.text = _text(choice.get("text"))
    found.reason = _reason(choice.get("finish_reason"))
    usage = document.get("usage") or choice.get("usage")
    if isinstance(usage, dict):
        found.counts = known(
            input_tokens=total(usage, "prompt_tokens"),
            output_tokens=total(usage, "completion_tokens"),
            cached_tokens=total(usage.get("prompt_tokens_details"), "cached_tokens"),
            reasoning_tokens=total(usage.get("completion_tokens_details"), "reasoning_tokens"),
        )
    found.is_odd = bool(choices) and not choice
    found.aside = None if "choices" in document or usage else document
    return found


def _plain(document: Any) -> str:
    """The text of a chunk that says nothing else, as nearly all do. Empty: it has to be read member by member."""
    try:
        (choice,) = document["choices"]
        delta = choice["delta"]
        text = delta["content"]
        says_more = (
            choice.get("finish_reason") is not None
            or bool(choice.get("index"))
            or not delta.keys() <= {"content", "role"}
            or not choice.keys().isdisjoint(("error", "message", "usage"))
            or not document.keys().isdisjoint(("error", "type"))
            or bool(document.get("usage"))
            or document.get("object") == "error"
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return ""
    return text if isinstance(text, str) and not says_more else ""


def known(**counts: int | None) -> dict[str, int]:
    """The counts that there are."""
    return {name: count for name, count in counts.items() if count is not None}


def total(usage: object, *names: str) -> int | None:
    """The sum of the counts that can be read; None if there is none."""
    if not isinstance(usage, Mapping):
        return None
    counts = [count for name in names if (count := token_count(usage.get(name))) is not None]
    return token_count(sum(counts)) if counts else None


def _first(choices: Any) -> dict[str, Any]:
    """The choice of the one answer that is asked for; none, if the chunk has none of it."""
    for choice in _objects(choices if isinstance(choices, list) else [choices]):
        index = choice.get("index")
        if not index or not re.fullmatch(r"[1-9]\d*(\.0)?", str(index)):
            return choice
    return {}


def _said(message: Any) -> Found:
    if not isinstance(message, dict):
        return Found(text=_text(message))
    content, thoughts = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
    return Found(
        text=_text(content) or _text(message.get("refusal")),
        thoughts=thoughts if isinstance(thoughts, str) else _thoughts(content),
        calls=tuple(_call(number, call) for number, call in enumerate(_objects(message.get("tool_calls")))),
        citations=tuple(filter(None, map(_citation, _objects(message.get("annotations"))))),
    )


def _objects(listed: Any) -> list[dict[str, Any]]:
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _call(number: int, call: dict[str, Any]) -> CallPiece:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    which = next((one for one in (call.get("index"), call.get("id")) if isinstance(one, int | str)), number)
    return call_piece(which, function.get("name"), function.get("arguments"))


def call_piece(which: int | str, name: Any, arguments: Any) -> CallPiece:
    """A piece of a call as a server tells it. One that does not stream may send the arguments as an object."""
    if isinstance(arguments, dict):
        arguments = _json(arguments)
    return CallPiece(which, name if isinstance(name, str) else "", arguments if isinstance(arguments, str) else "")


def _citation(annotation: dict[str, Any]) -> dict[str, str]:
    fields = annotation.get("url_citation")
    return source(fields, url="url", title="title") if isinstance(fields, dict) else {}


def source(fields: Mapping[str, Any], **names: str) -> dict[str, str]:
    """A source as clients get it: `title`, `url`, `text`, as far as they are given under these names."""
    return {ours: said for ours, name in names.items() if isinstance(said := fields.get(name), str) and said}


def _thoughts(content: Any) -> str:
    """The thoughts among parts of a content."""
    return "".join(_text(one.get("thinking")) for one in _objects(content) if one.get("type") == "thinking")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _text(content: Any) -> str:
    """Text, or the texts among parts; a thought, a call or a picture is none."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(map(_text, content))
    if isinstance(content, dict) and content.get("type", "text") in ("text", "output_text", "refusal"):
        return _text(content.get("text") or content.get("value") or content.get("refusal"))
    return ""


def _reason(word: Any) -> str | None:
    """The word of an ending; some servers send an object for it, and some a word for "not yet"."""
    if isinstance(word, dict):
        word = word.get("type")
    return word if isinstance(word, str) and word.strip().lower() not in ("", "null", "none") else None


class _Pieces:
    """What documents say as pieces of an answer: in each thoughts come first, then text, calls and sources."""

    def __init__(self) -> None:
        self._text, self._thoughts, self._calls = _Joiner(), _Joiner(), _Calls()
        self._has_sources = False

    def found(self, found: Found) -> Iterator[Piece]:
        is_end = found.reason is not None
        # Of what is whole, that does not come again which has come in pieces.
        if (found.thoughts or is_end) and not (found.is_whole and self._thoughts.has_joined):
            thoughts, _ = self._thoughts.add(found.thoughts, is_end=is_end)
            if thoughts:
                yield Part("reasoning", thoughts)
        if (found.text or is_end) and not (found.is_whole and self._text.has_joined):
            text, is_damaged = self._text.add(found.text, is_end=is_end)
            found.is_odd = found.is_odd or is_damaged
            if text:
                yield text
        if found.calls and not (found.is_whole and self._calls.has_begun):
            yield from self._calls.add(found.calls)
        if not (found.is_whole and self._has_sources):
            for citation in found.citations:
                self._has_sources = True
                yield Part("citation", _json(citation), new=True)
        if is_end:
            yield from self._calls.rest()


class _Calls:
    """Puts calls of tools one after the other: what is said of a later one waits until the first is whole.

    That is at the end. A call without arguments says `{}`, for a part needs a text.
    """

    def __init__(self) -> None:
        self._names: dict[int | str, str] = {}
        self._held: dict[int | str, str] = {}
        self._first: int | str | None = None
        self._first_has_begun = False

    @property
    def has_begun(self) -> bool:
        return bool(self._names)

    def add(self, pieces: Sequence[CallPiece]) -> Iterator[Part]:
        for which, name, arguments in pieces:
            self._names[which] = self._names.get(which) or name
            if self._first is None:
                self._first = which
            if which != self._first:
                self._held[which] = self._held.get(which, "") + arguments
            elif arguments:
                yield Part("tool", arguments, self._names[which] or None, new=not self._first_has_begun)
                self._first_has_begun = True

    def rest(self) -> Iterator[Part]:
        """All that waits."""
        if self._first is not None and not self._first_has_begun:
            yield Part("tool", "{}", self._names[self._first] or None, new=True)
        for which, arguments in self._held.items():
            yield Part("tool", arguments or "{}", self._names[which] or None, new=True)


class _Joiner:
    """Joins characters that are cut between two documents: halves of a surrogate pair, bytes of a UTF-8 sequence.

    What never gets its other half is dropped, or as bytes shown as U+FFFD. `has_joined`: some text was whole.
    """

    def __init__(self) -> None:
        self._high = ""
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_needed = False  # a half is held, so that the next text may not pass as it is
        self.has_joined = False

    def add(self, text: str, *, is_end: bool) -> tuple[str, bool]:
        """The text that is whole now, and whether something in it was not."""
        if not self._is_needed and (text.isascii() or not _SURROGATE.search(text)):
            self.has_joined = self.has_joined or bool(text)
            return text, False
        text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), self._high + text)
        self._high = text[-1:] if not is_end and "\ud800" <= text[-1:] <= "\udbff" else ""
        if self._high:
            text = text[:-1]
        whole = _LONE.sub("", text)
        joined = self._bytes.decode(whole.encode("utf-8", "surrogateescape"), is_end)
        self._is_needed = bool(self._high or self._bytes.getstate()[0])
        self.has_joined = self.has_joined or bool(joined)
        return joined, len(whole) < len(text) or joined.count("\ufffd") > whole.count("\ufffd")
