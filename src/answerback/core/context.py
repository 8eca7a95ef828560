"""A conversation as the model and the person see it: which turns the model is shown, and the title."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from answerback.core.answer import clean
from answerback.core.budget import bound

TURN_OVERHEAD_TOKENS: Final = 8
"""What a message costs besides its text: its role, and the marks of the model's template."""

TOKENS_PER_BYTE: Final = 0.7
"""Of UTF-8 that is not ASCII. Measured with the embedded model's tokenizer: Russian 0.43, Chinese 0.61, Japanese 0.62,
Thai 0.64, Hangul 0.83 to 1.0. The tokenizers of newer models take 0.2 to 0.35 for Hangul."""

_BLANK: Final = re.compile(r"[\s\u200b\u2060\ufeff]*")
"""White space, for servers in JavaScript too, and what has no width."""
_PROSE: Final = b"abcdefghijklmnopqrstuvwxyz \n"
_ASCII: Final = bytes(range(128))

TITLE_LENGTH: Final = 60
"""Code points of a title that is made from a question."""


class Role(StrEnum):
    """The author of a message."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt."""

    role: Role
    text: str


def estimate_tokens(text: str, per_byte: float = TOKENS_PER_BYTE) -> int:
    """Tokens of `text`, guessed high: the model's tokenizer is not known here.

    Small Latin letters and spaces are prose, 3 to a token. A digit, a mark or a capital may be a token of its own.
    Other scripts cost `per_byte` for each byte of UTF-8.
    """
    if not text:
        return TURN_OVERHEAD_TOKENS
    data = text.encode("utf-8", "replace")
    foreign = len(data.translate(None, _ASCII))
    marks = len(data.translate(None, _PROSE)) - foreign
    prose = len(data) - marks - foreign
    return math.ceil(prose / 3 + marks + foreign * per_byte) + TURN_OVERHEAD_TOKENS


def told_schema(system: str | None, schema: Mapping[str, Any]) -> str:
    """The system text that asks a model for a typed answer in words."""
    asked = (
        "Answer with one JSON value and nothing else: no words before or after it, no fence. "
        f"It must be valid under this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"
    )
    return asked if system is None else f"{system}\n\n{asked}"


def is_blank(text: str) -> bool:
    """Whether nothing of `text` is left to read; models refuse blank messages."""
    return _BLANK.fullmatch(clean(text)) is not None


def choose(
    turns: Sequence[tuple[str, str]], question: str, *, budget_tokens: int, per_byte: float = TOKENS_PER_BYTE
) -> tuple[Message, ...]:
    """The newest whole turns (question, answer) that fit the budget together with `question`, oldest first.

    A turn whose question or answer is blank is left out: no model accepts it. The question is always there, even if it
    alone is over the budget. The model may then refuse it.
    """
    if not turns:
        return (Message(Role.USER, question),)
    remaining = budget_tokens - estimate_tokens(question, per_byte)
    chosen: list[tuple[str, str]] = []
    for asked, answered in reversed(turns):
        if is_blank(asked) or is_blank(answered):
            continue
        remaining -= estimate_tokens(asked, per_byte) + estimate_tokens(answered, per_byte)
        if remaining < 0:
            break
        chosen.append((asked, answered))
    chosen.reverse()
    return (*_messages(chosen), Message(Role.USER, question))


def within(messages: Sequence[Message], most_tokens: int) -> tuple[Message, ...]:
    """The newest turns and the question that no tokenizer makes more than `most_tokens` of; the question at least."""
    start, last = 0, len(messages) - 1
    while start < last and bound(*(message.text for message in messages[start:])) > most_tokens:
        start += 2
    return tuple(messages[start:])


def shortened(messages: Sequence[Message]) -> tuple[Message, ...]:
    """About the newer half of the turns, and the question; nothing but the question if there is one turn."""
    turns = len(messages) // 2
    return tuple(messages[2 * (turns - turns // 2) :])


def _messages(turns: Iterable[tuple[str, str]]) -> Iterable[Message]:
    for asked, answered in turns:
        yield Message(Role.USER, asked)
        yield Message(Role.ASSISTANT, answered)


def title_of(question: str) -> str:
    """A conversation's first title: the first line of its first question; a long one is cut at a word."""
    lines = question.lstrip()[: TITLE_LENGTH + 1].splitlines()
    line = lines[0] if lines else ""
    if len(line) <= TITLE_LENGTH:
        return line.rstrip()
    words = line[:TITLE_LENGTH].rpartition(" ")[0]
    return (words if len(words) >= TITLE_LENGTH / 2 else line[: TITLE_LENGTH - 1]).rstrip() + "…"
