"""Answerback: many desktop apps, one LLM backend, and every answer goes home to the app that asked."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from answerback.client import (
        Answer,
        AnswerbackError,
        AnswerRestarted,
        AnswerStream,
        BlockingClient,
        CannotConnect,
        Client,
        Closed,
        Forbidden,
        MessageTooLarge,
        Overloaded,
        ProtocolViolation,
        RateLimited,
        RequestCancelled,
        RequestConflict,
        RequestFailed,
        RequestTimeout,
        SessionReplaced,
        StoreChanged,
        Unauthorized,
    )

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AnswerRestarted",
    "AnswerStream",
    "AnswerbackError",
    "BlockingClient",
    "CannotConnect",
    "Client",
    "Closed",
    "Forbidden",
    "MessageTooLarge",
    "Overloaded",
    "ProtocolViolation",
    "RateLimited",
    "RequestCancelled",
    "RequestConflict",
    "RequestFailed",
    "RequestTimeout",
    "SessionReplaced",
    "StoreChanged",
    "Unauthorized",
    "__version__",
]


def __getattr__(name: str) -> object:
    """The client is imported when it is first asked for, so that a server or a function need not load it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from answerback import client  # noqa: PLC0415

    value: object = getattr(client, name)
    globals()[name] = value
    return value
