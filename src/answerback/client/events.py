"""What the application sees: the answer, the events of a request, and the states of the connection."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from answerback.client.errors import AnswerbackError, Obstacle, RequestCancelled, RequestFailed, request_failed
from answerback.core.assembly import AnswerPart, Ended, PartStarted, PartText, Restarted, Started, Text
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status, Timing, Turn, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. `text` is, character for character, what the server has stored for `attempt`.

    `conversation_id`: where the turn is kept. `timing`: milliseconds on the server. `finish_reason`: `stop`, `length`
    (cut at a limit), `content_filter`, `tool_calls` or `other`. `parts`: what the model said of the kinds asked
    for, text too, in order; empty if that is text alone. `cost_micro_usd`: what a budget was charged.
    """

    text: str
    request_id: str
    status: Status
    attempt: int
    conversation_id: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage | None = None
    timing: Timing | None = None
    parts: tuple[AnswerPart, ...] = ()
    cost_micro_usd: int | None = None

    def __str__(self) -> str:
        return self.text


def answer_of(ended: Ended, conversation_id: str | None) -> Answer:
    """The answer that a terminal frame completes."""
    response = ended.response
    return Answer(
        text=ended.text,
        parts=ended.parts,
        request_id=response.request_id,
        status=response.status,
        attempt=response.attempt,
        conversation_id=conversation_id,
        finish_reason=response.finish_reason,
        model=response.model,
        usage=response.usage,
        timing=response.timing,
        cost_micro_usd=None if response.cost is None else response.cost.micro_usd,
    )


def outcome_of(ended: Ended, conversation_id: str | None) -> Answer | RequestCancelled | RequestFailed:
    """What a terminal frame means to the application: an answer, or an error with what there was until then."""
    answer, body = answer_of(ended, conversation_id), ended.response.error
    match answer.status:
        case Status.COMPLETED:
            return answer
        case Status.CANCELLED:
            return RequestCancelled(answer)
        case Status.FAILED if body is None:
            return request_failed(ErrorCode.INTERNAL, request_id=answer.request_id, answer=answer)
        case Status.FAILED:
            return request_failed(
                body.code,
                body.message,
                retryable=body.retryable,
                retry_after_ms=body.retry_after_ms,
                request_id=answer.request_id,
                answer=answer,
                reason=body.reason,
                resets_at=body.resets_at,
            )


def parts_of(turn: Turn) -> tuple[AnswerPart, ...]:
    """The parts of a whole turn's answer, as `Client.history(parts=True)` gives it; empty if it is text alone."""
    return tuple(AnswerPart(part.kind, part.name, turn.answer[part.start : part.end]) for part in turn.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The server has stored the request and will answer it. `position`: unfinished ones before it in its order."""

    position: int
    conversation_id: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """The server works on the answer, and the model has said nothing for `silent_s`. Comes every few seconds then."""

    silent_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploading:
    """The question's files are on their way: `sent_bytes` of `total_bytes` are at the server."""

    sent_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is whole. Always the last event; a request that ends otherwise raises instead."""

    answer: Answer


Event: TypeAlias = Uploading | Queued | Started | Restarted | Thinking | Text | PartStarted | PartText | Done


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Another app of the user has asked this in a watched conversation. The events of its answer follow.

    `is_cut`: `question` is only the beginning, for it is long; the history has all of it. `replaces`: the id of the
    request whose place it takes. `accepted_at`: ISO 8601, UTC.
    """

    request_id: str
    conversation_id: str
    question: str
    is_cut: bool = False
    model: str | None = None
    replaces: str | None = None
    accepted_at: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A watched answer has ended without being whole: it failed, or somebody stopped it."""

    error: AnswerbackError


@dataclass(frozen=True, slots=True)
class TurnsMissed:
    """More turns ended while the app was away, or did not read, than are kept for it. `Client.history` has them."""


WatchEvent: TypeAlias = TurnsMissed | Asked | Event | Failed


class Watched(NamedTuple):
    """Something that happened to a request in a watched conversation. The last of a request is `Done` or `Failed`."""

    request_id: str
    event: WatchEvent


@dataclass(frozen=True, slots=True)
class ChangesMissed:
    """Conversations may have changed without a word: read `Client.conversations` now."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """A connection is being opened. `attempt` counts from 1 since the last good one."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The server has answered. `models`: the names it offers, its default first."""

    connection_id: str
    user_id: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """No connection; the next try begins in `retry_in_s`. Requests are kept meanwhile.

    `obstacle`: what kept the last try from succeeding; None: it did not fail, the connection was lost.
    """

    retry_in_s: float
    reason: str
    obstacle: Obstacle | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The client will not connect again: it was closed, replaced or refused, as `error` says."""

    error: Exception


ConnectionState: TypeAlias = Connecting | Connected | Disconnected | Stopped
