"""What the session asks of its driver. Effects are carried out in the order given."""

from dataclasses import dataclass
from typing import TypeAlias

from answerback.client.errors import AnswerbackError
from answerback.client.events import ChangesMissed, Event, Watched
from answerback.protocol import frames

ReplyFrame: TypeAlias = (
    frames.History
    | frames.Conversations
    | frames.Conversation
    | frames.UploadState
    | frames.AttachmentPiece
    | frames.TokenRenewed
    | frames.Budget
)
"""What a call is answered with."""


@dataclass(frozen=True, slots=True)
class Send:
    """Put this frame on the present connection."""

    frame: frames.ClientFrame


@dataclass(frozen=True, slots=True)
class Emit:
    """Something happened to a question. `Done` is its one ending."""

    request_id: str
    event: Event


@dataclass(frozen=True, slots=True)
class Fail:
    """A question ended with an error; its one ending.

    `is_final` false: only this client gives it up (closed, replaced); the server still owes the answer to the session.
    """

    request_id: str
    error: AnswerbackError
    is_final: bool = True


@dataclass(frozen=True, slots=True)
class FilesWanted:
    """Bring the files of a question to the server, then call `Session.brought`."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call (history, renewal of a token) was answered with."""

    request_id: str
    frame: ReplyFrame


@dataclass(frozen=True, slots=True)
class ReplyFailed:
    """A call has no answer."""

    request_id: str
    error: AnswerbackError


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A ping was answered after so many seconds."""

    request_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Show:
    """Something happened in a watched conversation; None: in the list of them."""

    conversation_id: str | None
    item: Watched | frames.ConversationChanged | ChangesMissed


@dataclass(frozen=True, slots=True)
class WatchHeld:
    """The server has answered a watch. `is_live` false: it has no room for one more, which then reads the history."""

    conversation_id: str | None
    is_live: bool


@dataclass(frozen=True, slots=True)
class WatchFailed:
    """A watch is over. The application did not end it."""

    conversation_id: str | None
    error: AnswerbackError


AppEffect: TypeAlias = Emit | Fail | FilesWanted | Reply | ReplyFailed | RoundTrip | Show | WatchHeld | WatchFailed
"""What concerns the application."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The present connection is the session's; an older one can be closed."""

    welcome: frames.Welcome


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The present connection is no good: drop it and open another."""

    reason: str


@dataclass(frozen=True, slots=True)
class Replace:
    """The present connection ends in `within_s` at the latest: open another one first, then leave this one."""

    within_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Close for good; never connect again."""

    error: AnswerbackError


@dataclass(frozen=True, slots=True)
class Note:
    """A message that is none of ours, or an error without a request: for the log."""

    detail: str


Effect: TypeAlias = Send | AppEffect | Ready | Reconnect | Replace | Stop | Note
