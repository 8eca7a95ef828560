"""Writes a conversation as Markdown or JSON. No I/O."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import msgspec

from answerback_desktop.records import Conversation, Turn

_NAME_LENGTH: Final = 60


class ExportFormat(StrEnum):
    """How a conversation is written to a file."""

    MARKDOWN = "markdown"
    JSON = "json"


_SUFFIX: Final = {ExportFormat.MARKDOWN: "md", ExportFormat.JSON: "json"}


def exported(conversation: Conversation, turns: Sequence[Turn], form: ExportFormat) -> str:
    """All turns, oldest first; ends with a line feed."""
    return _markdown(conversation, turns) if form is ExportFormat.MARKDOWN else _json(conversation, turns)


def file_name(conversation: Conversation, form: ExportFormat) -> str:
    """A name that every file system takes, from the title."""
    words = re.sub(r"[^\w .-]+", " ", conversation.title)
    stem = " ".join(words.split())[:_NAME_LENGTH].strip(" .") or "conversation"
    return f"{stem}.{_SUFFIX[form]}"


def _markdown(conversation: Conversation, turns: Sequence[Turn]) -> str:
    parts = [f"# {' '.join(conversation.title.split())}"]
    for turn in turns:
        asked = datetime.fromtimestamp(turn.asked_at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        quoted = "\n".join(f"> {line}".rstrip() for line in turn.question.splitlines())
        facts = ", ".join([asked, *([turn.model] if turn.model else []), *_ending(turn)])
        parts += [f"---\n\n{quoted}\n\n*{facts}*", *([turn.answer] if turn.answer else [])]
    return "\n\n".join(parts) + "\n"


def _ending(turn: Turn) -> list[str]:
    if turn.failure is not None:
        return [f"{turn.status.value}: {turn.failure.code.value}"]
    return [] if turn.status.value == "completed" else [turn.status.value]


def _json(conversation: Conversation, turns: Sequence[Turn]) -> str:
    data = {
        "conversationId": conversation.conversation_id,
        "title": conversation.title,
        "createdAt": _instant(conversation.created_at_ms),
        "updatedAt": _instant(conversation.updated_at_ms),
        "turns": [_turn(turn) for turn in turns],
    }
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n"


def _turn(turn: Turn) -> dict[str, object]:
    """Named as on the wire, so that a program which reads the history can read this."""
    facts: dict[str, object | None] = {
        "requestId": turn.request_id,
        "question": turn.question,
        "answer": turn.answer,
        "status": turn.status.value,
        "askedAt": _instant(turn.asked_at_ms),
        "answeredAt": None if turn.answered_at_ms is None else _instant(turn.answered_at_ms),
        "model": turn.model,
        "replaces": turn.replaces,
        "finishReason": turn.finish_reason,
        "errorCode": None if turn.failure is None else turn.failure.code.value,
        "usage": None
        if turn.tokens is None
        else {"inputTokens": turn.tokens.input, "outputTokens": turn.tokens.output},
    }
    return {name: value for name, value in facts.items() if value is not None}


def _instant(at_ms: int) -> str:
    """As the wire writes instants: ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
