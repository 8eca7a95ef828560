"""Conversations as files: what Markdown and JSON exports look like, and what they are read back as. No I/O."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from answerback.client import MAX_TITLE_LENGTH, Attachment, ErrorCode, Usage, clean, is_id, is_retryable
from answerback_desktop.records import (
    Conversation,
    Failure,
    FailureCode,
    Times,
    Traits,
    Turn,
    TurnStatus,
)

_NAME_LENGTH: Final = 60
_MARK: Final = re.compile(r"^<!-- answerback:(conversation|turn) (\{.*\}) -->$", re.MULTILINE)
_QUOTE: Final = re.compile(r"\s*\n((?:>.*(?:\n|\Z))+)")
_FACTS: Final = re.compile(r"\s*\n\*.*\*$", re.MULTILINE)


class ExportFormat(StrEnum):
    """How conversations are written to a file."""

    MARKDOWN = "markdown"
    JSON = "json"


_SUFFIX: Final = {ExportFormat.MARKDOWN: "md", ExportFormat.JSON: "json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One conversation with all that is kept of it. `turns`: oldest first."""

    conversation: Conversation
    turns: Sequence[Turn]
    traits: Traits = field(default_factory=Traits)


class _Part(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Named as on the wire, so that a program which reads the history can read this."""


class _TurnFacts(_Part, frozen=True, kw_only=True):
    """A turn but for its texts. `answer_length`: code points, in Markdown, where the answer follows."""

    request_id: str
    status: TurnStatus
    asked_at: str
    answered_at: str | None = None
    model: str | None = None
    replaces: str | None = None
    superseded_by: str | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    attachments: tuple[Attachment, ...] = ()
    usage: Usage | None = None
    timing: Times | None = None
    answer_length: int | None = None


class _Turn(_TurnFacts, frozen=True, kw_only=True):
    question: str
    answer: str


class _ConversationFacts(_Part, frozen=True, kw_only=True):
    conversation_id: str
    title: str
    created_at: str
    updated_at: str
    is_pinned: bool = msgspec.field(name="pinned", default=False)
    is_archived: bool = msgspec.field(name="archived", default=False)
    tags: tuple[str, ...] = ()
    model: str | None = None
    system: str | None = None


class _Conversation(_ConversationFacts, frozen=True, kw_only=True):
    turns: tuple[_Turn, ...]


class _File(_Part, frozen=True, kw_only=True):
    conversations: tuple[_Conversation, ...]


def exported(kept: Sequence[Kept], form: ExportFormat, *, is_all: bool = False) -> str:
    """The text of a file; it ends with a line feed. `is_all`: of many conversations, though there may be one."""
    if form is ExportFormat.MARKDOWN:
        return "\n\n".join(part for one in kept for part in _markdown(one)) + "\n"
    written = tuple(_written(one) for one in kept)
    data = _File(conversations=written) if is_all else written[0]
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n"


def file_name(title: str, form: ExportFormat) -> str:
    """A name that every file system takes."""
    words = re.sub(r"[^\w .-]+", " ", title)
    stem = " ".join(words.split())[:_NAME_LENGTH].strip(" .") or "conversation"
    return f"{stem}.{_SUFFIX[form]}"


def imported(text: str, *, now_ms: int) -> tuple[Kept, ...]:
    """What an export has, of either form. Raises: ValueError: it is none, or has nothing."""
    text = text.removeprefix("\ufeff")
    try:
        if text.lstrip().startswith("{"):
            is_file = "conversations" in msgspec.json.decode(text, type=dict[str, msgspec.Raw])
            found = (
                msgspec.json.decode(text, type=_File).conversations
                if is_file
                else (msgspec.json.decode(text, type=_Conversation),)
            )
        else:
            found = tuple(_read_markdown(text))
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc
    kept = tuple(_kept(one, now_ms) for one in found if is_id(one.conversation_id))
    if not kept:
        raise ValueError("no conversation")
    return kept


# --- writing ------------------------------------------------------------------------------------------------


def _markdown(kept: Kept) -> Iterable[str]:
    whole = _written(kept)
    yield _mark("conversation", msgspec.convert(whole, _ConversationFacts, from_attributes=True))
    yield f"# {' '.join(whole.title.split())}"
    for turn, written in zip(kept.turns, whole.turns, strict=True):
        facts = msgspec.convert(written, _TurnFacts, from_attributes=True)
        yield "---"
        yield _mark("turn", msgspec.structs.replace(facts, answer_length=len(turn.answer)))
        yield "\n".join(f"> {line}" if line else ">" for line in turn.question.split("\n"))
        asked = datetime.fromtimestamp(turn.asked_at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        told = ", ".join([asked, *([turn.model] if turn.model else []), *_ending(turn)])
        yield f"*{told}*"
        if turn.answer:
            yield turn.answer


def _mark(kind: str, facts: _Part) -> str:
    """A line that no reader shows. No string in it can end the comment."""
    data = msgspec.json.encode(facts).decode().replace(">", "\\u003e")
    return f"<!-- answerback:{kind} {data} -->"


def _ending(turn: Turn) -> list[str]:
    if turn.superseded_by is not None:
        return ["earlier version"]
    if turn.failure is not None:
        return [f"{turn.status.value}: {turn.failure.code.value}"]
    return [] if turn.status.value == "completed" else [turn.status.value]


def _written(kept: Kept) -> _Conversation:
    one = kept.conversation
    return _Conversation(
        conversation_id=one.conversation_id,
        title=one.title,
        created_at=_instant(one.created_at_ms),
        updated_at=_instant(one.updated_at_ms),
        turns=tuple(_turn(turn) for turn in kept.turns),
        **asdict(kept.traits),
    )


_SAME: Final = (
    *("request_id", "question", "answer", "status", "model", "replaces", "superseded_by", "finish_reason"),
    "attachments",
)
"""What a turn of the file has as it is here."""


def _turn(turn: Turn) -> _Turn:
    return _Turn(
        **{name: getattr(turn, name) for name in _SAME},
        asked_at=_instant(turn.asked_at_ms),
        answered_at=None if turn.answered_at_ms is None else _instant(turn.answered_at_ms),
        error_code=None if turn.failure is None else turn.failure.code.value,
        usage=turn.tokens,
        timing=turn.times,
    )


def _instant(at_ms: int) -> str:
    """As the wire writes instants: ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- reading ------------------------------------------------------------------------------------------------


def _read_markdown(text: str) -> Iterable[_Conversation]:
    """The marks say where a turn begins and how long its answer is, so an answer may hold anything, also such marks."""
    facts: _ConversationFacts | None = None
    turns: list[_Turn] = []
    at = 0
    while (mark := _MARK.search(text, at)) is not None:
        at = mark.end()
        if mark[1] == "conversation":
            if facts is not None:
                yield _with_turns(facts, turns)
            facts, turns = msgspec.json.decode(mark[2], type=_ConversationFacts), []
        else:
            turn, at = _read_turn(text, at, msgspec.json.decode(mark[2], type=_TurnFacts))
            turns.append(turn)
    if facts is not None:
        yield _with_turns(facts, turns)


def _with_turns(facts: _ConversationFacts, turns: list[_Turn]) -> _Conversation:
    return _Conversation(**msgspec.structs.asdict(facts), turns=tuple(turns))


def _read_turn(text: str, at: int, facts: _TurnFacts) -> tuple[_Turn, int]:
    """The turn whose mark ends at `at`, and where it ends."""
    question = ""
    if (quote := _QUOTE.match(text, at)) is not None:
        lines = quote[1].removesuffix("\n").split("\n")
        question, at = "\n".join(line[1:].removeprefix(" ") for line in lines), quote.end() - quote[1].endswith("\n")
    if (told := _FACTS.match(text, at)) is not None:
        at = told.end()
    start, length = at + 2, facts.answer_length or 0
    answer, end = text[start : start + length], start + length
    if not length:
        answer, end = "", at
    elif text[at:start] != "\n\n" or text[end : end + 1] not in ("\n", ""):  # a person has changed it
        following = re.compile(r"^(---\s+)?<!-- answerback:", re.MULTILINE).search(text, at)
        end = len(text) if following is None else following.start()
        answer = text[at:end].strip()
    return _Turn(**msgspec.structs.asdict(facts) | {"answer_length": None}, question=question, answer=answer), end


def _kept(written: _Conversation, now_ms: int) -> Kept:
    traits = Traits(
        is_pinned=written.is_pinned,
        is_archived=written.is_archived,
        tags=tuple(clean(tag) for tag in written.tags),
        model=None if written.model is None else clean(written.model),
        system=None if written.system is None else clean(written.system),
    )
    conversation = Conversation(
        conversation_id=written.conversation_id,
        title=" ".join(clean(written.title).split())[:MAX_TITLE_LENGTH],
        created_at_ms=instant_ms(written.created_at, now_ms),
        updated_at_ms=instant_ms(written.updated_at, now_ms),
    )
    turns = tuple(_turn_of(turn, conversation, now_ms) for turn in written.turns if is_id(turn.request_id))
    return Kept(conversation=conversation, turns=turns, traits=traits)


def _turn_of(turn: _Turn, conversation: Conversation, now_ms: int) -> Turn:
    """What had not ended when it was written has been given up since."""
    status = turn.status if turn.status.is_over else TurnStatus.CANCELLED
    code = FailureCode(turn.error_code) if turn.error_code in set(FailureCode) else FailureCode.INTERNAL
    return Turn(
        request_id=turn.request_id,
        conversation_id=conversation.conversation_id,
        question=clean(turn.question),
        answer=clean(turn.answer),
        status=status,
        asked_at_ms=instant_ms(turn.asked_at, now_ms),
        answered_at_ms=None if turn.answered_at is None else instant_ms(turn.answered_at, now_ms),
        failure=Failure(code=code, is_retryable=_is_retryable(code)) if status is TurnStatus.FAILED else None,
        model=None if turn.model is None else clean(turn.model),
        replaces=turn.replaces if turn.replaces is not None and is_id(turn.replaces) else None,
        superseded_by=turn.superseded_by if turn.superseded_by is not None and is_id(turn.superseded_by) else None,
        finish_reason=turn.finish_reason,
        attachments=turn.attachments,
        tokens=turn.usage,
        times=turn.timing,
    )


def _is_retryable(code: FailureCode) -> bool:
    return code is FailureCode.PROTOCOL_VIOLATION or is_retryable(ErrorCode(code.value))


def instant_ms(instant: str, now_ms: int) -> int:
    """ISO 8601 in UTC as epoch milliseconds; what is none, or not of our time, is now."""
    try:
        found = datetime.fromisoformat(instant)
        at_ms = int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return now_ms
    return at_ms if 0 <= at_ms <= now_ms + 366 * 24 * 3600 * 1000 else now_ms
