"""A conversation as the model and the person see it: which turns the model is shown, and the title."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

CHARACTERS_PER_TOKEN: Final = 3
"""A cautious guess for text of any language: the model's tokenizer is not known here."""

TURN_OVERHEAD_TOKENS: Final = 8


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


def estimate_tokens(text: str) -> int:
    """Tokens of `text`, guessed high."""
    return len(text) // CHARACTERS_PER_TOKEN + TURN_OVERHEAD_TOKENS


def choose(turns: Sequence[tuple[str, str]], question: str, *, budget_tokens: int) -> tuple[Message, ...]:
    """The newest whole turns (question, answer) that fit the budget together with `question`, oldest first.

    The question is always there, even if it alone is over the budget. The model may then refuse it.
    """
    remaining = budget_tokens - estimate_tokens(question)
    chosen: list[tuple[str, str]] = []
    for asked, answered in reversed(turns):
        remaining -= estimate_tokens(asked) + estimate_tokens(answered)
        if remaining < 0:
            break
        chosen.append((asked, answered))
    chosen.reverse()
    return (*_messages(chosen), Message(Role.USER, question))


def _messages(turns: Iterable[tuple[str, str]]) -> Iterable[Message]:
    for asked, answered in turns:
        yield Message(Role.USER, asked)
        yield Message(Role.ASSISTANT, answered)


def title_of(question: str) -> str:
    """A conversation's first title: the start of the first line of its first question."""
    lines = question.lstrip()[:TITLE_LENGTH].splitlines()
    return lines[0].rstrip() if lines else ""
