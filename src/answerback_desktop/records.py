"""The records of conversations and turns that the store, the engine and the view models share."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from msgspec import Struct

from answerback.client import Attachment, Usage


class TurnStatus(StrEnum):
    """Where a question is. The last three are final."""

    OUTBOX = "outbox"
    QUEUED = "queued"
    STREAMING = "streaming"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self in _OVER


_OVER: Final = frozenset({TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.CANCELLED})


class FailureCode(StrEnum):
    """Why a question failed. The protocol's codes, and `protocol_violation`: the server contradicted itself.

    `over_budget`: what is `rate_limited` because a budget has no room.
    """

    INVALID_FRAME = "invalid_frame"
    MESSAGE_TOO_LARGE = "message_too_large"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    USER_MISMATCH = "user_mismatch"
    SESSION_REPLACED = "session_replaced"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    REQUEST_CONFLICT = "request_conflict"
    UNKNOWN_REQUEST = "unknown_request"
    MODEL_UNAVAILABLE = "model_unavailable"
    MODEL_THROTTLED = "model_throttled"
    MODEL_FAILED = "model_failed"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"
    ATTACHMENT_MISSING = "attachment_missing"
    OVER_BUDGET = "over_budget"
    PROTOCOL_VIOLATION = "protocol_violation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a turn failed. `is_retryable`: the same question may succeed later, not before `retry_at_ms` (epoch).

    `opens_at_ms`: when the budget that had no room opens again.
    """

    code: FailureCode
    is_retryable: bool
    retry_at_ms: int | None = None
    opens_at_ms: int | None = None


class Times(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Milliseconds at the server: in the queue, from acceptance to the first text, from acceptance to the end.

    Written to exported files as the wire writes it.
    """

    queued_ms: int
    first_text_ms: int | None = None
    total_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and what came of it, so far.

    `answer` belongs to `attempt`. `position`: unfinished requests before it, while it is queued. `asked_at_ms` is epoch
    and orders the turns of a conversation, those that are not over last (`order`). `replaces`: the turn whose place
    this one takes. `is_synced`: the server's history has it. `superseded_by`: the turn that took its place, or the
    place of a turn before it; such turns are earlier versions. `attachments`: the files that were asked with.
    `sent_percent`: how much of them is at the server, while they are brought there. `is_elsewhere`: another device has
    asked it, and its answer still comes.
    """

    request_id: str
    conversation_id: str
    question: str
    asked_at_ms: int
    status: TurnStatus = TurnStatus.OUTBOX
    answer: str = ""
    attempt: int = 0
    position: int | None = None
    failure: Failure | None = None
    model: str | None = None
    replaces: str | None = None
    finish_reason: str | None = None
    tokens: Usage | None = None
    times: Times | None = None
    answered_at_ms: int | None = None
    is_synced: bool = False
    superseded_by: str | None = None
    attachments: tuple[Attachment, ...] = ()
    sent_percent: int | None = None
    is_elsewhere: bool = False

    @property
    def order(self) -> tuple[bool, int, str]:
        """Sorts the turns of one conversation."""
        return (not self.status.is_over, self.asked_at_ms, self.request_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One line of the list. Times are epoch milliseconds. `unread`: answers that ended and were not looked at.

    `is_missing`: the server had it and lost it together with most others; the person has not said yet what to do.
    """

    conversation_id: str
    title: str
    created_at_ms: int
    updated_at_ms: int
    unread: int = 0
    is_missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a person has said of a conversation. It is kept in this app only.

    `model`, `system` None: those of the settings; an empty `system`: none at all.
    """

    is_pinned: bool = False
    is_archived: bool = False
    tags: tuple[str, ...] = ()
    model: str | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The owner of local data. `server_url`: as in the settings. `user` None: unknown before the first connection.

    `is_kept`: data of another server, or a copy: it is read and exported, and nothing is asked in it.
    """

    key: str
    server_url: str
    user: str | None
    is_kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHistory:
    """Conversations of this user at this address that are kept beside those of the present server.

    `name`: of the file. `is_copy`: made before something was deleted because the server did not have it any more.
    """

    name: str
    conversations: int
    changed_at_ms: int
    is_copy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A place that a search found. `request_id` None: the title. `excerpt` is plain text on one line; the found words
    are its stretches `marks`.
    """

    conversation_id: str
    request_id: str | None
    excerpt: str
    marks: tuple[tuple[int, int], ...]
