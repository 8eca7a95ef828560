"""Every frame of protocol version 1 as a frozen struct. `action` is the tag; wire names are camelCase.

A field without a default is always on the wire; a field with one is left out while it has it.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeGuard

from msgspec import Meta, Struct, field

from answerback.protocol.errors import ErrorCode
from answerback.protocol.limits import (
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    MAX_CLIENT_LENGTH,
    MAX_FILE_NAME_LENGTH,
    MAX_ID_LENGTH,
    MAX_PAGE,
    MAX_PARTS,
    MAX_RESUME_POINTS,
    MAX_TITLE_LENGTH,
    PIECE_BYTES,
)

# Visible: no white space, no controls, no surrogates, no invisible or direction-changing marks. Two ids that
# look the same to a person should be the same to us, as far as one pattern can say it. A plain `$` would let a line
# feed stand behind it; `$(?!\n)` is read alike by Python and by JSON Schema.
VISIBLE = (
    r"^[^\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\uffff]+$(?!\n)"
)
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH, pattern=VISIBLE)]
ClientWord: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_CLIENT_LENGTH, pattern=VISIBLE)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Page: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
MaxTokens: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
Sha256: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
FileSize: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_ATTACHMENT_BYTES)]
FileName: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_FILE_NAME_LENGTH,
        pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$(?!\n)",
    ),
]
MediaType: TypeAlias = Annotated[str, Meta(max_length=MAX_ID_LENGTH, pattern=r"^[a-z0-9.+-]+/[a-z0-9.+-]+$(?!\n)")]
UploadName: TypeAlias = Annotated[str, Meta(max_length=MAX_ID_LENGTH)]


_IS_VISIBLE: Final = re.compile(VISIBLE)


def is_id(value: object) -> TypeGuard[str]:
    """Whether this can name a user, session, conversation, request or model: 1 to 128 visible characters."""
    return isinstance(value, str) and len(value) <= MAX_ID_LENGTH and _IS_VISIBLE.match(value) is not None


class Status(StrEnum):
    """How a request ended. A reader takes a word of a later version as `failed`."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @classmethod
    def _missing_(cls, value: object) -> "Status":
        return cls.FAILED


class _Object(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A JSON object inside a frame."""


class _Frame(Struct, frozen=True, rename="camel", omit_defaults=True, tag_field="action"):
    """A whole text message."""


# --- client -> server ---------------------------------------------------------------------------------------


class ResumePoint(_Object, frozen=True, kw_only=True):
    """What a client holds of one accepted request: `offset` code points of `attempt`."""

    request_id: Id
    attempt: Count
    offset: Count


class ClientInfo(_Object, frozen=True, kw_only=True):
    """Which program a client is. For the operator."""

    name: ClientWord
    version: ClientWord


class Hello(_Frame, frozen=True, kw_only=True, tag="hello"):
    """Ask for everything that the named requests still owe; answered by it and then by `welcome`."""

    hello_id: Id
    resume: Annotated[tuple[ResumePoint, ...], Meta(max_length=MAX_RESUME_POINTS)] = ()
    client: ClientInfo | None = None


class Attachment(_Object, frozen=True, kw_only=True):
    """A file that goes with a question: `size` bytes with this hash, uploaded before, and what its sender calls it."""

    sha256: Sha256
    size: FileSize = field(name="bytes")
    media_type: MediaType
    name: FileName


class Format(_Object, frozen=True, kw_only=True):
    """What the answer's text is to be: a JSON value that is valid under `schema`, a JSON Schema."""

    type: Literal["json_schema"] = field()
    json_schema: dict[str, Any] = field(name="schema")


class SendMessage(_Frame, frozen=True, kw_only=True, tag="sendMessage"):
    """One question. `timestamp` is opaque: it is neither read nor kept.

    `parts`: the kinds of parts that the client takes beside text. A list, the empty one too, asks for signs of life.
    `traceparent`: of W3C Trace Context; what is not well-formed counts as none.
    """

    request_id: Id
    message: Annotated[str, Meta(min_length=1)]
    user_id: Id | None = None
    conversation_id: Id | None = None
    stream: bool = False
    model: Id | None = None
    system: str | None = None
    max_tokens: MaxTokens | None = None
    replaces: Id | None = None
    parts: Annotated[tuple[Id, ...], Meta(max_length=MAX_PARTS)] | None = None
    attachments: Annotated[tuple[Attachment, ...], Meta(max_length=MAX_ATTACHMENTS)] = ()
    format: Format | None = None
    timestamp: Any = None
    traceparent: Any = None


class CancelMessage(_Frame, frozen=True, kw_only=True, tag="cancelMessage"):
    """Stop a request; answered by its `messageResponse`, whatever the ending turned out to be.

    `conversation_id`: of a request that another session has asked and that this one watches.
    """

    request_id: Id
    conversation_id: Id | None = None


class Watch(_Frame, frozen=True, kw_only=True, tag="watch"):
    """From now on show every answer of a conversation; without one, changes of the list. Answered by `watching`.

    `number`: higher than that of each earlier one in this connection. `off`: no longer. `resume`: unfinished requests
    of the conversation that the client was shown before, and what it has of each.
    """

    request_id: Id
    conversation_id: Id | None = None
    number: Count
    off: bool = False
    resume: Annotated[tuple[ResumePoint, ...], Meta(max_length=MAX_RESUME_POINTS)] = ()


class ListConversations(_Frame, frozen=True, kw_only=True, tag="listConversations"):
    """A page of the user's conversations, last used first. `before` is the `next` of the page before."""

    request_id: Id
    before: Page | None = None
    limit: Limit | None = None


class GetHistory(_Frame, frozen=True, kw_only=True, tag="getHistory"):
    """A page of a conversation's turns, newest page first, oldest turn first within a page.

    `superseded`: those too whose place a later one took. `parts`: answers with all of their parts.
    """

    request_id: Id
    conversation_id: Id
    before: Page | None = None
    limit: Limit | None = None
    superseded: bool = False
    parts: bool = False


class UpdateConversation(_Frame, frozen=True, kw_only=True, tag="updateConversation"):
    """Rename, delete (`deleted` true) or restore (`deleted` false) a conversation."""

    request_id: Id
    conversation_id: Id
    title: Annotated[str, Meta(min_length=1, max_length=MAX_TITLE_LENGTH)] | None = None
    deleted: bool | None = None


class RenewToken(_Frame, frozen=True, kw_only=True, tag="renewToken"):
    """Give the connection a fresh token of the same user."""

    request_id: Id
    token: Annotated[str, Meta(min_length=1)]


class GetBudget(_Frame, frozen=True, kw_only=True, tag="getBudget"):
    """Ask how the user's budget stands; answered by `budget`."""

    request_id: Id


class PutPiece(_Frame, frozen=True, kw_only=True, tag="putPiece"):
    """A piece of a file, in base64; without `data` only the question how far it has come.

    `upload`: the name of the upload as the server has told it, empty before that.
    """

    request_id: Id
    sha256: Sha256
    size: FileSize = field(name="bytes")
    offset: Count = 0
    upload: UploadName = ""
    data: Annotated[bytes, Meta(max_length=PIECE_BYTES)] = b""


class GetAttachment(_Frame, frozen=True, kw_only=True, tag="getAttachment"):
    """Ask for a file of the user, from byte `offset` on; answered by `attachment`, as often as it is asked."""

    request_id: Id
    sha256: Sha256
    size: FileSize = field(name="bytes")
    offset: Count = 0


class Ping(_Frame, frozen=True, kw_only=True, tag="ping"):
    """Sign of life from the app; refreshes `lastActivity`."""


ClientFrame: TypeAlias = (
    Hello
    | SendMessage
    | CancelMessage
    | Watch
    | ListConversations
    | GetHistory
    | UpdateConversation
    | PutPiece
    | GetAttachment
    | RenewToken
    | GetBudget
    | Ping
)

# --- server -> client ---------------------------------------------------------------------------------------


class ErrorBody(_Object, frozen=True, kw_only=True):
    """Why a request failed. `message` is for a person, `code` for a program.

    `reason` `budget`: a budget has no room; it has again at `resets_at` (ISO 8601) at the latest, if that is told.
    """

    code: ErrorCode
    message: str
    retryable: bool
    retry_after_ms: Count | None = None
    reason: str | None = None
    resets_at: str | None = None


class Usage(_Object, frozen=True, kw_only=True):
    """Tokens as the model counted them. `cached_tokens`: of the input. `reasoning_tokens`: of the output."""

    input_tokens: Count
    output_tokens: Count
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class Cost(_Object, frozen=True, kw_only=True):
    """What the answer was charged, in micro-dollars, with the attempts that were lost."""

    micro_usd: Count


class BudgetInfo(_Object, frozen=True, kw_only=True):
    """How the user's budget stands: of several the one with the least share left. `unit`: `tokens` or `microUsd`.

    `used` is what was spent and what is `reserved` for questions that run or wait. Times are ISO 8601, UTC.
    """

    unit: str
    limit: Count
    used: Count
    reserved: Count
    resets_at: str


class Timing(_Object, frozen=True, kw_only=True):
    """Milliseconds spent on the server: waiting in the queue, until the first text, in all since acceptance."""

    queued_ms: Count
    first_text_ms: Count | None = None
    total_ms: Count


class ServerLimits(_Object, frozen=True, kw_only=True):
    """What this server allows. Sizes in bytes, times in milliseconds, `requests_per_minute` 0 = no limit.

    `progress_ms`: an answer that is worked on gives a sign at least so often, if its question has `parts`.
    """

    max_message_bytes: Count
    max_frame_bytes: Count
    max_answer_bytes: Count
    requests_per_minute: Count
    max_pending: Count
    max_tokens: Count
    idle_timeout_ms: Count
    answer_timeout_ms: Count
    queue_timeout_ms: Count
    max_connection_ms: Count | None = None
    progress_ms: Count | None = None
    piece_bytes: Count | None = None
    max_attachment_bytes: Count | None = None


class ServerInfo(_Object, frozen=True, kw_only=True):
    """Which server this is. `least_client`: clients of a lower version should be updated."""

    version: str
    store_id: str | None = None
    least_client: str | None = None


class ModelInfo(_Object, frozen=True, kw_only=True):
    """What a client may want to know of a model. `languages`: the only ones it knows. `demo`: it is for trying out.
    `attachments`: the kinds of files that it takes (`text`, `image`, `document`). `parts`: the kinds of parts that it
    gives, as far as the operator has said.
    `format`: whether it keeps to a JSON Schema by itself; to another one the schema is told in words.
    `priced`: whether it has a price; a budget in money refuses another one.
    """

    title: str | None = None
    languages: tuple[str, ...] = ()
    demo: bool = False
    answer_timeout_ms: Count | None = None
    max_tokens: Count | None = None
    attachments: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    format: bool = False
    priced: bool = False


class Welcome(_Frame, frozen=True, kw_only=True, tag="welcome"):
    """The last frame of the answer to `hello`."""

    hello_id: Id
    connection_id: str
    session_id: str
    user_id: str
    protocol: int
    limits: ServerLimits
    models: tuple[str, ...]
    features: tuple[str, ...] = ()
    server: ServerInfo | None = None
    model_info: dict[str, ModelInfo] = {}
    budget: BudgetInfo | None = None


class MessageAccepted(_Frame, frozen=True, kw_only=True, tag="messageAccepted"):
    """The request is stored and will end. `position` counts the unfinished requests before it in its order."""

    request_id: str
    conversation_id: str
    position: Count


class MessageStarted(_Frame, frozen=True, kw_only=True, tag="messageStarted"):
    """The model works on the request; text of an older attempt is void."""

    request_id: str
    attempt: Count


class MessageProgress(_Frame, frozen=True, kw_only=True, tag="messageProgress"):
    """A sign of life: the request is worked on (`attempt` 0: it waits its turn), though no text has come for a while.

    `silent_ms`: since the model last said anything. A hint that is not stored and may be lost.
    """

    request_id: str
    attempt: Count
    silent_ms: Count


class GoAway(_Frame, frozen=True, kw_only=True, tag="goAway"):
    """The server is about to leave, in `deadline_ms` at the latest: open another connection, then leave this one."""

    deadline_ms: Count
    message: str | None = None


class MessageDelta(_Frame, frozen=True, kw_only=True, tag="messageDelta"):
    """Text of the answer from code point `offset` of `attempt` on.

    All of it belongs to one part, number `part`. `name` comes with the first code point of a part that has one.
    """

    request_id: str
    attempt: Count
    offset: Count
    delta: str
    part: Count = 0
    kind: str = "text"
    name: str | None = None


class MessageResponse(_Frame, frozen=True, kw_only=True, tag="messageResponse"):
    """The one ending of a request. `length` is the code points of the whole text of `attempt`."""

    request_id: str
    status: Status
    response: str | None
    attempt: Count
    length: Count
    finish_reason: str | None = None
    error: ErrorBody | None = None
    usage: Usage | None = None
    model: str | None = None
    timing: Timing | None = None
    cost: Cost | None = None


class Watching(_Frame, frozen=True, kw_only=True, tag="watching"):
    """Answer to `watch`: it holds. `turn`: the request of the newest turn in the conversation's history."""

    request_id: str
    conversation_id: str | None = None
    number: Count
    turn: str | None = None


class MessageAsked(_Frame, frozen=True, kw_only=True, tag="messageAsked"):
    """Another session has asked this in a conversation that this one watches. The frames of the answer follow.

    `question_length`: code points of the whole question, if `question` is only its beginning.
    """

    request_id: str
    conversation_id: str
    question: str
    question_length: Count | None = None
    model: str
    replaces: str | None = None
    accepted_at: str


class ConversationChanged(_Frame, frozen=True, kw_only=True, tag="conversationChanged"):
    """A conversation of the user is new, or not as it was. A hint that is not stored and may be lost."""

    conversation_id: str
    title: str | None = None
    turns: Count | None = None
    updated_at: str
    deleted: bool = False


class ConversationSummary(_Object, frozen=True, kw_only=True):
    """One conversation in a list. Times are ISO 8601, UTC."""

    conversation_id: str
    title: str
    turns: Count
    created_at: str
    updated_at: str


class TurnPart(_Object, frozen=True, kw_only=True):
    """Code points `start` to `end` of an answer are of part number `part`. `kind` and `name` as in `messageDelta`."""

    part: Count
    kind: str
    name: str | None = None
    start: Count = field(name="from")
    end: Count = field(name="to")


class Turn(_Object, frozen=True, kw_only=True):
    """One question and what came of it.

    A turn too long for a frame comes in pieces, its end first: an offset above 0 says that the text before it
    follows on the next page, as a turn of the same `request_id`. `parts`: of an answer that is not text alone, if the
    page was asked for with them.
    """

    request_id: str
    question: str
    question_offset: Count = 0
    answer: str
    answer_offset: Count = 0
    status: Status
    asked_at: str
    answered_at: str
    model: str | None = None
    replaces: str | None = None
    superseded_by: str | None = None
    error_code: ErrorCode | None = None
    usage: Usage | None = None
    attachments: tuple[Attachment, ...] = ()
    parts: tuple[TurnPart, ...] = ()


class Conversations(_Frame, frozen=True, kw_only=True, tag="conversations"):
    """Answer to `listConversations`; `next` is the `before` of the next page, absent on the last."""

    request_id: str
    conversations: tuple[ConversationSummary, ...]
    next: str | None = None


class History(_Frame, frozen=True, kw_only=True, tag="history"):
    """Answer to `getHistory`; `next` is the `before` of the next (older) page, absent on the last."""

    request_id: str
    conversation_id: str
    turns: tuple[Turn, ...]
    next: str | None = None


class Conversation(_Frame, frozen=True, kw_only=True, tag="conversation"):
    """Answer to `updateConversation`: how the conversation now is."""

    request_id: str
    conversation_id: str
    title: str
    deleted: bool


class UploadState(_Frame, frozen=True, kw_only=True, tag="uploadState"):
    """Answer to `putPiece`: the first byte that is missing of the upload, and whether the file is there, whole.

    A client that knew another `upload` begins again at `offset`: what it brought before is gone.
    """

    request_id: str
    sha256: str
    size: Count = field(name="bytes")
    upload: str
    offset: Count
    complete: bool


class AttachmentPiece(_Frame, frozen=True, kw_only=True, tag="attachment"):
    """Answer to `getAttachment`: bytes of the file from `offset` on, in base64, as many as a frame takes."""

    request_id: str
    sha256: str
    size: Count = field(name="bytes")
    offset: Count
    data: bytes


class TokenRenewed(_Frame, frozen=True, kw_only=True, tag="tokenRenewed"):
    """The fresh token counts from now on. `expires_at` is ISO 8601, absent if it never expires."""

    request_id: str
    expires_at: str | None = None


class Budget(_Frame, frozen=True, kw_only=True, tag="budget"):
    """Answer to `getBudget`; without `budget` the user has none."""

    request_id: str
    budget: BudgetInfo | None = None


class Pong(_Frame, frozen=True, kw_only=True, tag="pong"):
    """Answer to `ping`."""


class Error(_Frame, frozen=True, kw_only=True, tag="error"):
    """Neither the ending of an accepted request nor the refusal of a new one. Never a terminal event."""

    code: ErrorCode
    message: str
    request_id: str | None = None
    retry_after_ms: Count | None = None


ServerFrame: TypeAlias = (
    Welcome
    | MessageAccepted
    | MessageStarted
    | MessageProgress
    | MessageDelta
    | MessageResponse
    | Watching
    | MessageAsked
    | ConversationChanged
    | Conversations
    | History
    | Conversation
    | UploadState
    | AttachmentPiece
    | TokenRenewed
    | Budget
    | Pong
    | GoAway
    | Error
)
