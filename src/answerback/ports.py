"""What the service needs from the outside, in the domain's verbs. Each docstring states the guarantee.

A port stands here because a second implementation exists: SQLite, PostgreSQL and DynamoDB for the stores, a socket and
API Gateway for the sender, five kinds of model. One contract suite (tests/contract) runs against all of them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar

from answerback.core import defaults
from answerback.core.admission import Accepted, Admission, Blocked, Existing, Full, Limited, Quota
from answerback.core.budget import Budget, BudgetState, OverBudget, Period, Price
from answerback.core.context import TOKENS_PER_BYTE, Message
from answerback.core.parts import Content, Mark, visible
from answerback.core.request import Change, Question, Record, RequestKey, Watcher
from answerback.core.uploads import FileKey, NoRoom, Upload
from answerback.core.watching import Place
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Attachment, ServerFrame, Status

__all__ = [
    "Accepted",
    "Admission",
    "Blocked",
    "Bound",
    "Budget",
    "BudgetState",
    "Connection",
    "Connections",
    "DailyUsage",
    "Durability",
    "Existing",
    "File",
    "Files",
    "FinalModelError",
    "Finish",
    "Full",
    "Gone",
    "History",
    "Identity",
    "Limited",
    "Model",
    "ModelError",
    "ModelFault",
    "ModelLimits",
    "OverBudget",
    "Part",
    "Period",
    "Piece",
    "Place",
    "Price",
    "Prompt",
    "Queue",
    "Quota",
    "RecentTurns",
    "Requests",
    "Sender",
    "Sent",
    "Slow",
    "StoredConversation",
    "StoredTurn",
    "StoredUser",
    "Superseded",
    "T",
    "TokenRefused",
    "Tokens",
    "Unavailable",
    "Users",
    "Watcher",
    "Watching",
    "answer_timeouts_ms",
    "limits_of",
    "within",
]

T = TypeVar("T")


class Unavailable(Exception):
    """A store or queue cannot be reached or cannot write now. Whether the last write took effect is not known."""


# --- requests -----------------------------------------------------------------------------------------------


class Requests(Protocol):
    """The records that decide, with their questions and answers.

    Durable: what a call has returned survives `kill -9`. Every method may raise Unavailable; a change may then have
    happened or not, and repeating the call must be safe for the caller (the steps of core.request are).
    """

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        """Store a new request and count it against its user's calendar minute, in one transaction.

        `core.admission.admit` decides: first the id (Existing), then whether the user is Blocked, then the pending cap
        (Full), then the rate (Limited).
        """

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        """Read the record (None if absent), apply the pure `change`, write what it says; all or nothing, one at a time.

        `change` may be called more than once (a store with optimistic locking repeats it). When the step ends a request
        that was accepted, its text is stored in the same transaction, and the turn and its usage reach the history
        without further help: in this transaction, or later from a durable outbox record.
        """

    async def read(self, key: RequestKey) -> Record | None:
        """The record as last written."""

    async def question(self, key: RequestKey) -> Question | None:
        """What was asked; None for a refusal or an early cancellation."""

    async def answer(self, key: RequestKey) -> Content:
        """What is stored of an ended request's answer: its text, empty if it has none, and the marks of its parts."""

    async def unfinished(self) -> Sequence[Record]:
        """Every record that has not ended, in the order accepted."""

    async def unfinished_in(self, user_id: str, conversation_id: str) -> Sequence[Record]:
        """Those of a conversation, in the order accepted. One that was stored a moment ago may be missing."""

    async def purge(self, *, ended_before_ms: int, refused_before_ms: int) -> int:
        """Delete the records of requests that ended before then; history keeps their turns. Returns how many.

        Those that were never accepted (refusals, early cancellations) go if they ended before `refused_before_ms`.
        """


class Durability(Protocol):
    """Whether a store can write now. For operators."""

    @property
    def last_write_failed(self) -> bool:
        """Whether the last write, of whatever kind, ended with Unavailable."""

    async def probe(self, *, now_ms: int) -> None:
        """Write something small as durably as a request. Raises: Unavailable."""


# --- conversations and users --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTurn:
    """One question and its ending. `position` orders the turns of a user by acceptance.

    `answer` is all its content, in which `marks` say where the parts are. `superseded_by`: the request that took its
    place, or the place of a turn before it.
    """

    position: int
    request_id: str
    question: str
    answer: str
    status: Status
    accepted_at_ms: int
    ended_at_ms: int
    model: str | None = None
    replaces: str | None = None
    error_code: ErrorCode | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    superseded_by: str | None = None
    attachments: tuple[Attachment, ...] = ()
    marks: tuple[Mark, ...] = ()

    @property
    def visible(self) -> str:
        """The text of the answer."""
        return visible(Content(self.answer, self.marks))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConversation:
    """A conversation's row. `updated_at_ms` is when its last turn ended or it was renamed."""

    conversation_id: str
    title: str
    turns: int
    created_at_ms: int
    updated_at_ms: int
    deleted: bool = False


class RecentTurns(Protocol):
    """The newest turns of each conversation, the context for the model. May raise Unavailable."""

    async def recent_turns(
        self, user_id: str, conversation_id: str, *, limit: int, before_request: str | None = None
    ) -> Sequence[StoredTurn]:
        """The last completed turns for the model's context, oldest first; none of or after `before_request`."""


class History(RecentTurns, Protocol):
    """Questions and answers by conversation. Every id is a name inside the user. May raise Unavailable.

    A turn that was replaced by a completed one (`replaces`), and the turns between the two, are superseded: they are
    kept but no longer shown.
    """

    async def turns(
        self, user_id: str, conversation_id: str, *, before: int | None, limit: int, superseded: bool = False
    ) -> Sequence[StoredTurn]:
        """Turns with a position below `before`, whatever their status, newest first; with `superseded` those too."""

    async def conversations(
        self, user_id: str, *, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredConversation]:
        """Not deleted ones, last updated first; `before` is (updated_at_ms, conversation_id) of the last one seen."""

    async def update_conversation(
        self, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
    ) -> StoredConversation | None:
        """Rename, delete or restore; None if the user has no such conversation."""

    async def delete_expired(self, *, now_ms: int, keep_days: int) -> int:
        """Delete the conversations that were not used for longer than they are kept. Returns how many.

        A conversation's own days count, else its user's, else `keep_days`. It counts as deleted since it was last used,
        so `purge_deleted` erases it as soon as that is long enough ago, too.
        """

    async def purge_deleted(self, *, before_ms: int) -> int:
        """Erase the conversations that were deleted before then, for good. Returns how many."""


class Files(Protocol):
    """The files that users send with their questions, in pieces. Every method may raise Unavailable."""

    async def upload(self, key: FileKey) -> Upload | None:
        """How far the file has come."""

    async def begin(self, key: FileKey, name: str, *, now_ms: int) -> Upload | NoRoom:
        """Begin an upload, or return the one that there is.

        `core.uploads.giving_way` decides; the upload that gives way is discarded in the same transaction.
        """

    async def put(self, key: FileKey, name: str, number: int, data: bytes, *, now_ms: int) -> None:
        """Keep a piece, if the upload has this name and is unfinished. The first data of a piece stay."""

    async def complete(self, key: FileKey, name: str, *, content: str, now_ms: int) -> None:
        """The file is whole, or is young again: it may be named by questions from now on."""

    async def discard(self, key: FileKey, name: str) -> None:
        """Forget an unfinished upload: together its pieces are another file."""

    async def examine(self, key: FileKey) -> str | None:
        """`core.uploads.examine` of what is there of the file, done where it does not hold up the event loop."""

    async def read_file(self, key: FileKey) -> bytes | None:
        """All pieces that are there, in their order; None: there is no upload."""

    async def read_range(self, key: FileKey, offset: int, count: int) -> bytes | None:
        """Bytes of a whole file from `offset` on, fewer than `count` only at its end; None: it is not here whole."""

    async def purge_files(self, *, now_ms: int) -> int:
        """Delete what was not finished in time, and files that no question can name and no turn names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUser:
    """A user. `per_minute` and `keep_days` None: the server's default holds."""

    user_id: str
    per_minute: int | None
    created_at_ms: int
    last_request_at_ms: int | None
    conversations: int
    turns: int
    blocked: bool = False
    team: str | None = None
    keep_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyUsage:
    """What a user used on one day (UTC, `YYYY-MM-DD`). `model`: with that one; None: with all, or nobody knows."""

    user_id: str
    day: str
    requests: int
    input_tokens: int
    output_tokens: int
    model: str | None = None


class Users(Protocol):
    """Users, their limits and what they used. For operators; may raise Unavailable."""

    async def users(self, *, after: str | None = None, limit: int = 100) -> Sequence[StoredUser]:
        """By user id, ascending."""

    async def user(self, user_id: str) -> StoredUser | None:
        """One user."""

    async def set_limit(self, user_id: str, per_minute: int | None, *, now_ms: int) -> None:
        """Override the rate limit (None: back to the default; 0: no limit). Creates the user if there is none."""

    async def set_blocked(self, user_id: str, *, blocked: bool, now_ms: int) -> None:
        """Lock the user out, or let them in again; their own limit stays. Creates the user if there is none."""

    async def set_retention(
        self, user_id: str, keep_days: int | None, *, now_ms: int, conversation_id: str | None = None
    ) -> bool:
        """Keep the user's conversations, or the one, for so many days after its last turn (None: what holds else).

        Creates the user if there is none. Returns false if there is no such conversation.
        """

    async def set_budget(self, holder: str, period: Period, budget: Budget | None, *, now_ms: int) -> None:
        """Set what a user or a team (`core.budget.team_holder`) may use in each `period`; None: no budget."""

    async def set_team(self, user_id: str, team: str | None, *, now_ms: int) -> None:
        """Put the user into a team; None: into none. Creates the user if there is none."""

    async def budgets(self, holder: str, *, now_ms: int) -> Sequence[BudgetState]:
        """The budgets of a user or a team, and how they stand."""

    async def teams(self) -> Sequence[str]:
        """The teams that have a budget, ascending."""

    async def usage(
        self, user_id: str | None, *, since_day: str | None = None, by_model: bool = False
    ) -> Sequence[DailyUsage]:
        """By day and user, ascending; all users if `user_id` is None. `by_model`: a row for each model."""

    def export(self, user_id: str) -> AsyncIterator[bytes]:
        """Everything that is stored about the user and that `delete_user` erases, each thing a line of JSON."""

    async def delete_user(self, user_id: str) -> bool:
        """Erase everything about the user, for good. Returns false if there was nothing."""


# --- connections and sessions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One open socket. `user_id` None: not known yet (no auth, and no frame has named it).

    `generation` None: the connection is not its session's address yet; that comes with its first frame.
    `team`: of the user, if the token has it. Instants are epoch milliseconds. `token_expires_at_ms` None: no token, or
    one that does not expire.
    """

    connection_id: str
    session_id: str
    connected_at_ms: int
    last_activity_ms: int
    user_id: str | None = None
    authenticated: bool = False
    token_expires_at_ms: int | None = None
    generation: int | None = None
    team: str | None = None
    source_ip: str = ""
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class Bound:
    """The connection is now its session's address. `replaced`: the connection that was."""

    connection: Connection
    replaced: str | None


@dataclass(frozen=True, slots=True)
class Superseded:
    """A newer connection has the session, or the connection is gone."""


class Connections(Protocol):
    """Open connections, and which one is the address of each (user, session). May raise Unavailable."""

    async def add(self, connection: Connection) -> None:
        """Save a new connection."""

    async def get(self, connection_id: str) -> Connection | None:
        """The connection, if it is open."""

    async def bind(self, connection_id: str, user_id: str) -> Bound | Superseded:
        """Make it the address of (user_id, its session), with a generation higher than any before.

        The newer `connected_at_ms` wins; of equal ones the one that is bound later, and the other is never bound
        again. Binding the address again changes nothing: the first user stays.
        """

    async def touch(self, connection_id: str, *, now_ms: int) -> None:
        """Note a sign of life."""

    async def renew(self, connection_id: str, *, token_expires_at_ms: int | None) -> None:
        """Note the expiry of a fresh token."""

    async def remove(self, connection_id: str) -> None:
        """Forget the connection. Never touches a newer binding of its session."""

    async def idle(self, *, since_ms: int) -> Sequence[Connection]:
        """Connections with no sign of life since then."""


class Watching(Protocol):
    """Who watches which conversation of their user; conversation None: the list of them. May raise Unavailable.

    What `watch` has kept is seen by every call of `watchers` that begins later, in whatever process.
    """

    @property
    def watched(self) -> Container[str]:
        """Users of whom somebody may watch something: to look costs nothing, and most users have one device.

        It has everyone for whom `watch` kept something before this process accepted or changed a request of theirs.
        """

    async def watch(
        self, user_id: str, conversation_id: str | None, watcher: Watcher, *, now_ms: int, most: int
    ) -> Place:
        """Keep it in place of the one that its session had, as `core.watching.placed` says.

        Where all places are taken, those of closed connections are given away.
        """

    async def watchers(
        self, user_id: str, *conversations: str | None, now_ms: int
    ) -> Mapping[str | None, Sequence[Watcher]]:
        """Of each conversation those whose time is not over, also those that are `off`. One read for all of them."""


# --- sending and queueing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    """The frame is on its way. Not a proof of receipt: the client asks again for what it misses."""


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such connection any more."""


@dataclass(frozen=True, slots=True)
class Slow:
    """The connection cannot take more now; the frame was not sent."""


class Sender(Protocol):
    """Puts frames on connections. Frames of one awaited chain of calls arrive in order. Raises nothing."""

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        """Send one frame of at most 32 KB encoded."""

    async def ready(self, connection_id: str) -> None:
        """Return when it is worth trying again after Slow; at once if the connection is gone."""

    async def close(self, connection_id: str, last: ServerFrame | None = None) -> None:
        """Close the connection gracefully, after what was sent and after `last`.

        Who closes it may serve another connection: this never waits until the peer reads.
        """

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        """Promise to call `Front.unpark` with this when a slow connection can take more; false if not supported."""


class Queue(Protocol):
    """Dispatches each request to a worker: those of one ordering key one at a time, in the order put.

    At least once: a request is dispatched again if its worker does not return `Done`.
    """

    async def put(self, record: Record) -> None:
        """Put a request. Its queue id is made of the key and `record.queue_no`. May raise Unavailable."""

    async def forget(self, key: RequestKey) -> None:
        """A hint: a waiting request has ended and its ending was sent, so it need not be dispatched. May do nothing."""


# --- models -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that came with the question: UTF-8 text, an image or a PDF, as its media type says."""

    name: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model gets: an optional system text and the messages, the last one being the user's question.

    `attachments`: the files of the question. Those of earlier turns are told by name, in their text. `json_schema`:
    what the answer is to be valid under; None also where the system text says that already.
    """

    messages: tuple[Message, ...]
    system: str | None = None
    max_tokens: int = defaults.MAX_TOKENS
    user_id: str = ""
    conversation_id: str = ""
    request_id: str = ""
    attempt: int = 1
    attachments: tuple[File, ...] = ()
    json_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The last piece of a stream. `reason`: one of `core.finish.REASONS`, or a word that it maps to one of them.

    A word for a failure (`error`, `abort`) makes the answer one that broke off. Counts that cannot be are left out.
    `cached_tokens` are those of the input that came from a cache, `reasoning_tokens` those of the output that are
    thoughts.
    """

    reason: str = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a part that is no text. `kind`: one of `core.parts.KINDS`; others are shown to nobody.

    It goes on with the last part if that is of the same kind, unless it has another `name` (of a tool) or is `new`.
    A part that was followed by another one has ended: what a model calls side by side comes one after the other.
    """

    kind: str
    text: str
    name: str | None = None
    new: bool = False


Piece: TypeAlias = str | Part | Finish


class ModelFault(StrEnum):
    """Why a model cannot answer this question, ever, as the person who asked is told it."""

    SETUP = "The server is not set up right for this model. Tell its operator."
    TOO_LONG = "The question is too long for this model. Shorten it and ask again."
    BLANK = "The question is blank. Write something and ask again."
    REFUSED = "The model's server refuses this request, and would refuse it again. Tell the operator."


class ModelError(Exception):
    """The model cannot answer, or broke off. `detail` is for the operator's log, never for a client."""

    def __init__(
        self, code: ErrorCode, detail: str = "", *, retry_after_ms: int | None = None, transient: bool = False
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.transient = transient
        """Whether trying at once again, before any text has come, may help."""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class FinalModelError(ModelError):
    """Trying again does not help, and the client is told so: `retryable` false, and `fault` as the message."""

    def __init__(self, code: ErrorCode, detail: str, fault: ModelFault) -> None:
        super().__init__(code, detail)
        self.fault = fault


class Model(Protocol):
    """A language model, or a pipeline around one."""

    @property
    def name(self) -> str:
        """How clients and logs call it."""

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and answer may have together."""

    @property
    def concurrency(self) -> int:
        """Generations that may run at the same time. The users that wait get the next slot by turns."""

    def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """Text as it comes, parts in between, then one Finish. Closing the iterator (`aclose`) really stops the work.

        Raises: ModelError: with `model_unavailable`, `model_throttled` or `model_failed`.
        """

    async def close(self) -> None:
        """Release what the model holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What holds for one model instead of the server's settings; None: the setting holds.

    `tokens_per_byte`: what its tokenizer takes for a byte of UTF-8 that is not ASCII. `languages`: the only ones that
    it knows (BCP 47), empty if nobody has said. `demo`: it is for trying out. `title`: its name for people.
    `attachments`: the kinds of files that it takes besides text (`core.uploads`). `parts`: the kinds of parts that it
    is known to give besides text.
    `format`: whether it takes `Prompt.json_schema`; another one is told in its system text.
    `context_reserve`: tokens that a budget reserves for earlier turns. `price`: for budgets in money. `stops_billing`:
    an answer that is given up costs no more than what came.
    """

    answer_timeout_s: int | None = None
    max_tokens: int | None = None
    context_reserve: int | None = None
    price: Price | None = None
    stops_billing: bool = False
    tokens_per_byte: float = TOKENS_PER_BYTE
    languages: tuple[str, ...] = ()
    demo: bool = False
    title: str | None = None
    attachments: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    format: bool = False


def limits_of(model: Model) -> ModelLimits:
    """The model's own limits. A model may have them as an attribute `limits`; none has to."""
    limits = getattr(model, "limits", None)
    return limits if isinstance(limits, ModelLimits) else ModelLimits()


def within(limits: ModelLimits, context_tokens: int, *, max_tokens: int) -> ModelLimits:
    """The limits of a model where `max_tokens` is the setting: an answer gets at most half of the model's context."""
    most = context_tokens // 2
    return replace(limits, max_tokens=most) if most < (limits.max_tokens or max_tokens) else limits


def answer_timeouts_ms(limits: Mapping[str, ModelLimits]) -> dict[str, int]:
    """For a `Policy`: of the models that have a time-out of their own, by name."""
    return {name: own.answer_timeout_s * 1000 for name, own in limits.items() if own.answer_timeout_s is not None}


# --- tokens -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for, and until when.

    `expires_at_ms`: the instant from which the token is not accepted any more, leeway included (epoch milliseconds;
    None: it does not expire). `team`: whose budget counts for the user, if the operator lets the token say so.
    """

    user_id: str
    expires_at_ms: int | None
    team: str | None = None


class TokenRefused(Exception):
    """The token is not accepted. The text is for the operator's log, never for a client."""


class Tokens(Protocol):
    """Verifies bearer tokens."""

    async def identify(self, token: str) -> Identity:
        """The user of a token. Raises: TokenRefused; Unavailable: the keys cannot be fetched now."""
