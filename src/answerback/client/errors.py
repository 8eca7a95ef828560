"""Everything that the client raises.

    AnswerbackError                 code, retryable
    ├── CannotConnect               url, reason, obstacle          (also a ConnectionError)
    ├── Unauthorized                is_missing: the server did not accept the token, or wants one
    ├── Forbidden                   detail: the server does not let this app in
    ├── SessionReplaced             another app uses the same session now
    ├── StoreChanged                store_id: the server has another store than the one named
    ├── Closed                      the client was closed
    ├── MessageTooLarge             size_bytes, limit_bytes
    ├── ProtocolViolation           request_id, detail
    ├── AnswerInvalid               answer, why: it is not of the type that was asked for
    ├── AnswerRestarted             request_id: text that was already given out is void
    ├── RequestTimeout              request_id, timeout_s, text, cause_code   (also a TimeoutError)
    ├── RequestCancelled            answer: what there was until then
    └── RequestFailed               message, retry_after_ms, answer, reason, resets_at
        ├── RateLimited             reason "budget": a budget has no room until resets_at
        ├── Overloaded
        ├── AttachmentMissing       a file of the question is not there to be sent
        └── RequestConflict

`retryable`: the same question, asked again, may succeed later. Facts are attributes; `str()` makes the sentence.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

from answerback.protocol.errors import ERRORS, ErrorCode

if TYPE_CHECKING:
    from answerback.client.events import Answer


class AnswerbackError(Exception):
    """Base of all. `code` is a word of the protocol's table, or the client's own."""

    code: str = "internal"
    retryable: bool = False


class Obstacle(StrEnum):
    """What kind of thing is in the way of a connection: for programs, beside the sentence for people."""

    REFUSED = "refused"
    """Nothing listens there."""
    NAME = "name"
    """The host's name cannot be looked up."""
    NETWORK = "network"
    """There is no way there, or it was cut while the connection was opened."""
    TIMEOUT = "timeout"
    CERTIFICATE = "certificate"
    """Nobody who is trusted here vouches for the certificate."""
    CERTIFICATE_UNFIT = "certificate-unfit"
    """The certificate is for another name, or its time is over: no authority would help."""
    NO_TLS = "no-tls"
    """`wss://` to a port that speaks `ws://`."""
    TLS_WANTED = "tls-wanted"
    """`ws://` to a port that speaks `wss://`."""
    TLS = "tls"
    """TLS cannot be agreed upon."""
    NOT_WEBSOCKET = "not-websocket"
    """Something else answers there, or at another path."""
    UPGRADE = "upgrade"
    """Something in between does not let WebSocket through."""
    PROXY = "proxy"
    """The proxy cannot be reached, or does not lead there."""
    PROXY_LOGIN = "proxy-login"
    """The proxy wants a user and a password."""
    SETUP = "setup"
    """The proxy or the file of authorities that this side names cannot be used."""
    REDIRECT = "redirect"
    SERVER = "server"
    """The server or something before it failed, or has no room now."""
    TOKEN = "token"  # noqa: S105 - the name of an obstacle
    """The app's own function could not get a token."""
    OTHER = "other"


class CannotConnect(AnswerbackError, ConnectionError):
    """There is no connection to be had at `url`. `reason` is a sentence, `obstacle` its kind."""

    code = "cannot_connect"
    retryable = True

    def __init__(self, url: str, reason: str, obstacle: Obstacle = Obstacle.OTHER) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason
        self.obstacle = obstacle

    def __str__(self) -> str:
        return f"Cannot connect to {self.url}: {self.reason}"


class Unauthorized(AnswerbackError):
    """The server did not accept the token, at a handshake or when it was renewed. `is_missing`: none was given."""

    code = ErrorCode.UNAUTHORIZED.value

    def __init__(self, *, is_missing: bool = False) -> None:
        super().__init__()
        self.is_missing = is_missing

    def __str__(self) -> str:
        if self.is_missing:
            return "The server wants a token, and none was given. Pass it as token=."
        return "The server did not accept the token. Get a fresh one and pass it as token=."


class Forbidden(AnswerbackError):
    """The server does not let this app in. `detail`: what it says about that, if anything."""

    code = ErrorCode.FORBIDDEN.value

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        said = f" ({self.detail})" if self.detail else ""
        return f"The server does not let this app in{said}. Ask its operator."


class SessionReplaced(AnswerbackError):
    """Another connection took this session over; this client stays away, so that the two do not fight."""

    code = ErrorCode.SESSION_REPLACED.value

    def __str__(self) -> str:
        return "Another app uses this session now. Give each running app a session of its own."


class StoreChanged(AnswerbackError):
    """The server has another store than the one that the client was told to expect; nothing was sent to it."""

    code = "store_changed"

    def __init__(self, store_id: str) -> None:
        super().__init__(store_id)
        self.store_id = store_id

    def __str__(self) -> str:
        return (
            "Another server answers at this address, or one with another store. It does not have what you asked before."
        )


class Closed(AnswerbackError):
    """The client was closed. Requests that were under way go on at the server."""

    code = "closed"

    def __str__(self) -> str:
        return "The client is closed. Make a new one."


class MessageTooLarge(AnswerbackError):
    """The question is over the limit; it was not sent, or the way to the server refused it."""

    code = ErrorCode.MESSAGE_TOO_LARGE.value

    def __init__(self, size_bytes: int, limit_bytes: int | None) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        if self.limit_bytes is None:
            return f"The message has {self.size_bytes} bytes; the way to the server allows less. Shorten it."
        return f"The message has {self.size_bytes} bytes; {self.limit_bytes} are allowed. Shorten it."


class ProtocolViolation(AnswerbackError):
    """The server sent what the protocol does not allow; nothing of it was shown."""

    code = "protocol_violation"

    def __init__(self, request_id: str, detail: str) -> None:
        super().__init__(request_id, detail)
        self.request_id = request_id
        self.detail = detail

    def __str__(self) -> str:
        return f"The server broke the protocol ({self.detail}). Tell its operator; request {self.request_id}."


class AnswerInvalid(AnswerbackError):
    """The answer is whole, and not of the type that was asked for. `answer` has its text, `why` what is wrong."""

    code = "answer_invalid"
    retryable = True

    def __init__(self, answer: "Answer", why: str) -> None:
        super().__init__(answer.request_id, why)
        self.answer = answer
        self.why = why

    def __str__(self) -> str:
        return f"The answer is not of the type that was asked for: {self.why}"


class AnswerRestarted(AnswerbackError):
    """The answer restarted with other words after the text iterator had yielded the old ones."""

    code = "answer_restarted"
    retryable = True

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return "The answer was restarted with other words. Drop the text so far; read .events() or await .answer."


class RequestTimeout(AnswerbackError, TimeoutError):
    """The answer did not come in time; the client had the server stop it. `text`: what had come until then.

    `cause_code`: the server's last word about the request was that it could not take it then, and why: `unavailable`
    during an outage. None: it was only slow.
    """

    code = ErrorCode.TIMEOUT.value
    retryable = True

    def __init__(self, request_id: str, timeout_s: float, text: str = "", *, cause_code: str | None = None) -> None:
        super().__init__(request_id, timeout_s)
        self.request_id = request_id
        self.timeout_s = timeout_s
        self.text = text
        self.cause_code = cause_code

    def __str__(self) -> str:
        return "Request timeout"


class RequestCancelled(AnswerbackError):
    """The request was cancelled; `answer` has what there was until then."""

    code = "cancelled"

    def __init__(self, answer: "Answer") -> None:
        super().__init__(answer.request_id)
        self.answer = answer

    def __str__(self) -> str:
        return f"Request {self.answer.request_id} was cancelled."


class RequestFailed(AnswerbackError):
    """The server ended the request without a whole answer. `answer`, if any, has what there was until then.

    `reason` `budget`: a budget of the user has no room, until `resets_at` (ISO 8601) at the latest, if that is told.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool,
        retry_after_ms: int | None = None,
        request_id: str = "",
        answer: "Answer | None" = None,
        reason: str | None = None,
        resets_at: str | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.request_id = request_id
        self.answer = answer
        self.reason = reason
        self.resets_at = resets_at

    def __str__(self) -> str:
        wait = "" if self.retry_after_ms is None else f" Try again in {self.retry_after_ms / 1000:.1f} s."
        return f"{self.message}{wait} ({self.code})"


class RateLimited(RequestFailed):
    """The user's requests of this minute are used up; `retry_after_ms` says when the next minute begins.

    With the `reason` `budget` a budget is: what it may use of a day or a month.
    """


class Overloaded(RequestFailed):
    """The user has too many unfinished requests."""


class AttachmentMissing(RequestFailed):
    """A file of the question is not at the server, and not here to be sent. Attach it again under a new question."""

    @classmethod
    def of(cls, message: str) -> "AttachmentMissing":
        """One that was found here."""
        return cls(ErrorCode.ATTACHMENT_MISSING.value, message, retryable=False)


class RequestConflict(RequestFailed):
    """The request id was used before for something else."""


def is_retryable(code: ErrorCode) -> bool:
    """Whether a question that ended with this code may succeed when it is asked again later."""
    return ERRORS[code].retryable


_CLASSES = {
    ErrorCode.RATE_LIMITED: RateLimited,
    ErrorCode.OVERLOADED: Overloaded,
    ErrorCode.REQUEST_CONFLICT: RequestConflict,
    ErrorCode.ATTACHMENT_MISSING: AttachmentMissing,
}


def request_failed(
    code: ErrorCode,
    message: str | None = None,
    *,
    retryable: bool | None = None,
    retry_after_ms: int | None = None,
    request_id: str = "",
    answer: "Answer | None" = None,
    reason: str | None = None,
    resets_at: str | None = None,
) -> RequestFailed:
    """The error of the class that belongs to a code."""
    info = ERRORS[code]
    return _CLASSES.get(code, RequestFailed)(
        code.value,
        message or info.message,
        retryable=info.retryable if retryable is None else retryable,
        retry_after_ms=retry_after_ms,
        request_id=request_id,
        answer=answer,
        reason=reason,
        resets_at=resets_at,
    )
