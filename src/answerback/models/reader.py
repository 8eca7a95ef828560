"""Reads an answer out of the documents of a model's server: its text, why it ended, and two counts.

Each of the four is read by itself, and nothing else is looked at, so that an odd document costs nothing but what it
does not say. Only an explicit error, or an end that never comes, fails an answer. The end is final: from there on
nothing that comes, or fails to come, costs more than the counts.
"""

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from answerback.core.finish import token_count
from answerback.model_guard import checked_finish
from answerback.models.errors import error_in
from answerback.ports import Finish, ModelError, Piece, Prompt
from answerback.protocol.errors import ErrorCode

USAGE_TIMEOUT_S: Final = 5.0
"""The counts may come after the end of the answer; it is not held back for longer than this because of them."""

DRAIN_TIMEOUT_S: Final = 0.25
"""After the counts: a connection that is read to its end serves the next answer."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")


COUNTS: Final = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


@dataclass(slots=True, kw_only=True)
class Found:
    """What one document says. `whole`: the text up to now, for servers that do not stream. `is_odd`: in part unread."""

    text: str = ""
    whole: str = ""
    reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    is_odd: bool = False

    def learn(self, later: "Found") -> None:
        """Keep the first reason and the last counts."""
        self.reason = self.reason or later.reason
        for name in COUNTS:
            if (count := getattr(later, name)) is not None:
                setattr(self, name, count)


async def read_answer(
    documents: AsyncGenerator[Any, None],
    find: Callable[[Any], Found],
    prompt: Prompt,
    *,
    note_odd: Callable[[], None] = lambda: None,
    usage_timeout_s: float | None = None,
) -> AsyncGenerator[Piece, None]:
    """The text as it comes, then one Finish. Closes `documents`.

    Raises: ModelError: by `find`; `model_failed`: the documents end before the answer does, or it ended in failure.
    """
    joiner = _Joiner()
    has_text = False
    told = Found()
    async with aclosing(documents):
        async for document in documents:
            found = find(document)
            told.learn(found)
            text = found.text or ("" if has_text else found.whole)
            if joiner.is_needed or not text.isascii():
                text, is_damaged = joiner.add(text, is_end=found.reason is not None)
                found.is_odd = found.is_odd or is_damaged
            if found.is_odd:
                note_odd()
            if text:
                has_text = True
                yield text
            if told.reason is not None:
                break
        else:
            raise ModelError(ErrorCode.MODEL_FAILED, "the stream ended before the answer did")
        finish = checked_finish(Finish(reason=told.reason), prompt)
        with suppress(Exception):
            async with asyncio.timeout(USAGE_TIMEOUT_S if usage_timeout_s is None else usage_timeout_s) as limit:
                async for document in documents:
                    told.learn(find(document))
                    if told.input_tokens is not None and told.output_tokens is not None:
                        drained_at = asyncio.get_running_loop().time() + DRAIN_TIMEOUT_S
                        limit.reschedule(min(drained_at, limit.when() or drained_at))
    yield replace(finish, **{name: getattr(told, name) for name in COUNTS})


def chat_completion(document: Any) -> Found:
    """A document of the OpenAI chat completions protocol: a chunk of a stream, or a whole completion.

    Text for the person is the content of the message, its parts of type `text`, and what the model says when it
    refuses; thoughts are not. Raises: ModelError: it is an error.
    """
    if (error := error_in(document)) is not None:
        raise error
    if not isinstance(document, dict):
        return Found(is_odd=True)
    choices = document.get("choices")
    # One answer is asked for; some servers send chunks without any.
    choice = _first(choices)
    message = choice.get("message")
    found = Found(text=_said(choice.get("delta")), reason=_reason(choice.get("finish_reason")))
    if message:
        found.whole = _said(message)
    elif not found.text:
        found.text = _text(choice.get("text"))
    usage = document.get("usage") or choice.get("usage")
    if isinstance(usage, dict):
        found.input_tokens, found.output_tokens = total(usage, "prompt_tokens"), total(usage, "completion_tokens")
        found.cached_tokens = total(usage.get("prompt_tokens_details"), "cached_tokens")
        found.reasoning_tokens = total(usage.get("completion_tokens_details"), "reasoning_tokens")
    found.is_odd = bool(choices) and not choice
    return found


def total(usage: object, *names: str) -> int | None:
    """The sum of the counts that can be read; None if there is none."""
    if not isinstance(usage, Mapping):
        return None
    counts = [count for name in names if (count := token_count(usage.get(name))) is not None]
    return token_count(sum(counts)) if counts else None


def _first(choices: Any) -> dict[str, Any]:
    for choice in choices if isinstance(choices, list) else [choices]:
        index = choice.get("index") if isinstance(choice, dict) else 1
        if not (isinstance(index, int) and index > 0):
            return cast("dict[str, Any]", choice)
    return {}


def _said(message: Any) -> str:
    if isinstance(message, dict):
        return _text(message.get("content")) or _text(message.get("refusal"))
    return _text(message)


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


class _Joiner:
    """Joins characters that are cut between two documents: halves of a surrogate pair, bytes of a UTF-8 sequence.

    What never gets its other half is dropped, or as bytes shown as U+FFFD. `is_needed`: a half is held, so that the
    next text has to pass here even if it is plain.
    """

    def __init__(self) -> None:
        self._high = ""
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self.is_needed = False

    def add(self, text: str, *, is_end: bool) -> tuple[str, bool]:
        """The text that is whole now, and whether something in it was not."""
        if not self.is_needed and not _SURROGATE.search(text):
            return text, False
        text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), self._high + text)
        self._high = text[-1:] if not is_end and "\ud800" <= text[-1:] <= "\udbff" else ""
        if self._high:
            text = text[:-1]
        whole = _LONE.sub("", text)
        joined = self._bytes.decode(whole.encode("utf-8", "surrogateescape"), is_end)
        self.is_needed = bool(self._high or self._bytes.getstate()[0])
        return joined, len(whole) < len(text) or joined.count("\ufffd") > whole.count("\ufffd")
