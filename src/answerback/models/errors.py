"""What an error of a model's server means: one table for statuses and words, before an answer and inside its stream."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Final

from answerback.core.finish import plain_word
from answerback.ports import FinalModelError, ModelError, ModelFault
from answerback.protocol.errors import ErrorCode

_WORD_KEYS: Final = ("code", "type", "status", "status_code", "http_status", "error_type", "error_code")
_TEXT_KEYS: Final = (
    *("message", "msg", "detail", "error", "errors", "title", "reason"),
    *("error_message", "error_msg", "status_msg", "base_resp", "metadata", "raw"),
)
_FIELD_KEYS: Final = ("param", "loc")
_MAX_DEPTH: Final = 5

_PASSING: Final = (
    (402, "insufficient_quota|billing|payment|balance|credit"),
    (413, "context_length|context_window|context_size|prompt_too_long|too_many_tokens|string_above_max|too_large"),
    (429, "(rate|request)_?limit|throttl|too_many|resource_exhausted|quota|slow_down"),
    (503, "overload|unavailable|capacity|busy|server_error|internal|bad_gateway|not_ready|loading_model"),
    (504, "time_?out|timed_out|deadline"),
)
_FINAL: Final = (
    (401, "api_key|unauthenticated|unauthorized|authentication|credential"),
    (403, "permission|forbidden|access_denied"),
    (404, "not_found|no_such_model|unknown_model|invalid_model"),
    (400, "invalid|bad_request|unsupported|validation|unprocessable"),
)
"""The HTTP status that a word of an error stands for. `_FINAL` are not looked for in sentences."""

TOO_LONG: Final = re.compile(
    r"context[ _](length|window|size|shift)|maximum (context|prompt)|too many (input )?tokens|too long for"
    r"|reduce the length|(prompt|input|messages?|request|conversation|text)( is| are| was)? too (long|large)"
    r"|input length and .?max_tokens|exceeds? the (available|maximum|model).{0,40}\b(context|input|prompt)"
    r"|exceed.* context limit|(input|prompt) (tokens?|length) .*exceed|exceed\w* (the )?(max\w*|model) (token|length)"
    r"|maximum model length|range of input length|inputs`? (tokens \+|must have less)|超长|长度超|길이.{0,10}초과",
    re.IGNORECASE | re.DOTALL,
)
"""How servers say that a prompt does not fit."""
_ROOM: Final = re.compile(
    r"maximum context length is (\d+) .*?(?:\((?:about )?(\d+) (?:in the messages|of text input)|(\d+) input tokens)",
    re.IGNORECASE | re.DOTALL,
)
_SETUP: Final = re.compile(
    r"api[ _-]?(key|version)|(invalid|unknown|unsupported|no such|specified|load) model|not a valid model"
    r"|\bmodel\b.{0,80}\b(not (exist|found|available)|does ?n[o']t exist)|not support chat",
    re.IGNORECASE | re.DOTALL,
)
"""How servers say in a 400 that the key, the model's name or the URL is wrong."""
_LIMIT: Final = re.compile(
    r"(?:at most|maximum|limit of|less than|up to|no more than|<=|>|\[\d+,)[^\d]{0,40}(\d{2,6})\b", re.IGNORECASE
)
NO_SYSTEM: Final = re.compile(
    r"(system|developer)\W+(role|message|prompt|instruction)|roles?\b.{0,60}\bsystem"
    r"|roles must alternate|only user and assistant roles",
    re.IGNORECASE,
)
"""How servers say that a model's template knows no system text."""


def allowed_below(text: str, sent: int) -> int | None:
    """The largest value of a member, as the refusal of a larger one names it."""
    return max((number for found in _LIMIT.findall(text) if (number := int(found)) < sent), default=None)


def room_left(text: str) -> int | None:
    """How many tokens of answer fit behind the prompt, where the refusal of both together counts them."""
    found = _ROOM.search(text)
    return None if found is None else int(found[1]) - int(found[2] or found[3])


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What is read of an error's body. `words`: codes and types; `fields`: what it is about; `text`: sentences.

    Members that repeat the request (FastAPI's `input`) are not read.
    """

    words: str
    fields: str
    text: str

    @classmethod
    def of(cls, body: Any) -> "ErrorDetails":
        """Of a JSON document, or of text that is none."""
        found: dict[str, list[str]] = {"words": [], "fields": [], "text": []}
        for kind, value in _members(body, "text", _MAX_DEPTH):
            found[kind].append(value)
        return cls(*(" ".join(found[kind])[:2_000] for kind in ("words", "fields", "text")))

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.words[:100], self.text[:400])))


def error_of(
    details: ErrorDetails, *, status: int | None = None, headers: Mapping[str, str] | None = None, setup: str = ""
) -> ModelError:
    """The error of the closed list. `status`: the response's; None: inside a stream. `setup`: what to look at.

    4xx besides those named are about the form of the request: it would be refused again.
    """
    named = _status(details)
    is_length = named == 413 or TOO_LONG.search(details.text) is not None
    meant = status or named
    if named == 402 and meant == 429:
        meant = 402
    detail = f"HTTP {status}: {details}" if status else f"an error in the stream: {details}"
    retry_after_ms = retry_after_ms_of(headers or {})
    if meant == 413 or (is_length and (meant in (None, 400, 422) or (meant or 0) >= 500)):
        return FinalModelError(ErrorCode.MODEL_FAILED, detail, ModelFault.TOO_LONG)
    if meant == 429:
        return ModelError(ErrorCode.MODEL_THROTTLED, detail, retry_after_ms=retry_after_ms, transient=True)
    if meant is None:
        return ModelError(ErrorCode.MODEL_FAILED, detail)
    if meant in (408, 425) or meant >= 500:
        return ModelError(ErrorCode.MODEL_UNAVAILABLE, detail, retry_after_ms=retry_after_ms, transient=True)
    if meant in (401, 402, 403, 404, 405, 410) or meant < 400 or (meant == 400 and _SETUP.search(details.text)):
        return FinalModelError(ErrorCode.MODEL_UNAVAILABLE, f"{detail} {setup}".rstrip(), ModelFault.SETUP)
    return FinalModelError(ErrorCode.MODEL_FAILED, detail, ModelFault.REFUSED)


def error_in(document: Any, *parts: Any) -> ModelError | None:
    """The error that a document of a stream is, or has in one of these parts of it, in whatever spelling."""
    if not isinstance(document, dict):
        return None
    error = next((found for one in (document, *parts) if isinstance(one, dict) and (found := one.get("error"))), None)
    if not error and ("error" in (document.get("object"), document.get("type")) or _is_refusal(document)):
        error = document
    return error_of(ErrorDetails.of(error)) if error else None


def _is_refusal(document: Mapping[str, Any]) -> bool:
    """An error without a member that says so, but with a code; a sentence alone is none."""
    if "choices" in document or "id" in document:
        return False
    return (_status(replace(ErrorDetails.of(document), text="")) or 0) >= 400


def _members(value: Any, kind: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        yield kind, str(value)
    elif isinstance(value, list) and depth:
        for one in value[:8]:
            yield from _members(one, kind, depth - 1)
    elif isinstance(value, dict) and depth:
        plain = {plain_word(key): member for key, member in value.items()}
        for part, keys in (("words", _WORD_KEYS), ("fields", _FIELD_KEYS), ("text", _TEXT_KEYS)):
            for key in keys:
                yield from _members(plain.get(key), part, depth - 1)


def _status(details: ErrorDetails) -> int | None:
    """The status that an error names, by a number or a word; in its sentence only what passes by itself."""
    for number in re.findall(r"\b[345]\d\d\b", details.words):
        return int(number)
    return _word_status(details.words, (*_PASSING, *_FINAL)) or _word_status(details.text, _PASSING)


def _word_status(text: str, table: Iterable[tuple[int, str]]) -> int | None:
    plain = plain_word(text)
    return next((status for status, words in table if re.search(words, plain)), None)


def retry_after_ms_of(headers: Mapping[str, str]) -> int | None:
    """`Retry-After-Ms`, or `Retry-After` in seconds or as a date, which is compared with the server's own clock."""
    for name, unit_ms in (("retry-after-ms", 1), ("retry-after", 1000)):
        try:
            return int(float(headers[name]) * unit_ms)
        except (KeyError, ValueError, OverflowError):
            pass
    try:
        until, now = parsedate_to_datetime(headers["retry-after"]), parsedate_to_datetime(headers["date"])
        return int((until - now).total_seconds() * 1000)
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
