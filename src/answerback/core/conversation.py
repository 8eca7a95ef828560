"""What a conversation is called."""

from typing import Final

TITLE_LENGTH: Final = 60
"""Code points of a title that is made from a question."""


def title_of(question: str) -> str:
    """A conversation's first title: the start of the first line of its first question."""
    lines = question.lstrip()[:TITLE_LENGTH].splitlines()
    return lines[0].rstrip() if lines else ""
