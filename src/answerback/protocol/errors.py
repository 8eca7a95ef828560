"""The closed list of error codes: what each means, whose fault it is, and whether trying again can help."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class ErrorCode(StrEnum):
    """Every `code` that a client can meet, in a `messageResponse` or an `error` frame.

    The list is closed for writers. A reader takes a code of a later version as `internal`, on the wire and in a store:
    an ending that it does not drop says itself whether trying again can help.
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
    ATTACHMENT_MISSING = "attachment_missing"
    MODEL_UNAVAILABLE = "model_unavailable"
    MODEL_THROTTLED = "model_throttled"
    MODEL_FAILED = "model_failed"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"

    @classmethod
    def _missing_(cls, value: object) -> "ErrorCode":
        return cls.INTERNAL


class Fault(StrEnum):
    """Who can repair it."""

    CLIENT = "client"
    LIMIT = "limit"
    MODEL = "model"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """One row of the table. `retryable`: the same question, under a new request id, may succeed later."""

    fault: Fault
    retryable: bool
    message: str


ERRORS: Final[Mapping[ErrorCode, ErrorInfo]] = MappingProxyType(
    {
        ErrorCode.INVALID_FRAME: ErrorInfo(
            Fault.CLIENT, False, "The frame is not valid. Correct it and send it again."
        ),
        ErrorCode.MESSAGE_TOO_LARGE: ErrorInfo(
            Fault.CLIENT, False, "The message is larger than the limit. Shorten it and send it again."
        ),
        ErrorCode.UNAUTHORIZED: ErrorInfo(
            Fault.CLIENT, False, "The token is missing, expired or not accepted. Send renewToken or reconnect."
        ),
        ErrorCode.FORBIDDEN: ErrorInfo(Fault.CLIENT, False, "This is not allowed here. Ask the operator."),
        ErrorCode.USER_MISMATCH: ErrorInfo(
            Fault.CLIENT, False, "userId differs from this connection's user. Use one connection for each user."
        ),
        ErrorCode.SESSION_REPLACED: ErrorInfo(
            Fault.CLIENT, False, "A newer connection took this session over. Do not reconnect with it."
        ),
        ErrorCode.RATE_LIMITED: ErrorInfo(
            Fault.LIMIT, True, "Too many requests in this minute. Wait for as long as the error says, then ask again."
        ),
        ErrorCode.OVERLOADED: ErrorInfo(
            Fault.LIMIT, True, "Too many unfinished requests. Wait for an answer, then try again."
        ),
        ErrorCode.REQUEST_CONFLICT: ErrorInfo(
            Fault.CLIENT, False, "This requestId was used for something else. Use a new one for each question."
        ),
        ErrorCode.UNKNOWN_REQUEST: ErrorInfo(
            Fault.CLIENT, False, "No such request is known. If it was never accepted, send it again."
        ),
        ErrorCode.ATTACHMENT_MISSING: ErrorInfo(
            Fault.CLIENT, False, "An attachment is not here. Upload it, then send the same frame again."
        ),
        ErrorCode.MODEL_UNAVAILABLE: ErrorInfo(
            Fault.MODEL, True, "The model cannot be reached. Try again later or choose another model."
        ),
        ErrorCode.MODEL_THROTTLED: ErrorInfo(Fault.MODEL, True, "The model is at its limit. Try again after a pause."),
        ErrorCode.MODEL_FAILED: ErrorInfo(Fault.MODEL, True, "The model broke off its answer. Try again."),
        ErrorCode.TIMEOUT: ErrorInfo(
            Fault.SERVER, True, "The answer was not complete within the server's time limit. Try again."
        ),
        ErrorCode.UNAVAILABLE: ErrorInfo(
            Fault.SERVER, True, "The server cannot store requests now. Send the same frame again after a pause."
        ),
        ErrorCode.INTERNAL: ErrorInfo(
            Fault.SERVER, True, "The server failed. Try again; the operator finds the cause in the log."
        ),
    }
)
