"""The client SDK: `Client` for asyncio, `BlockingClient` for everything else.

With them come the wire's types that their methods take and return, and the protocol's rules that an app has to follow
beside them: `is_id`, `clean`, `title_of`, `is_retryable`, `MAX_TITLE_LENGTH`.
"""

from answerback.client.blocking import BlockingAnswerStream, BlockingClient
from answerback.client.client import Client
from answerback.client.errors import (
    AnswerbackError,
    AnswerRestarted,
    CannotConnect,
    Closed,
    Forbidden,
    MessageTooLarge,
    Obstacle,
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
    is_retryable,
)
from answerback.client.events import (
    Answer,
    Connected,
    Connecting,
    ConnectionState,
    Disconnected,
    Done,
    Event,
    Queued,
    Restarted,
    Started,
    Stopped,
    Text,
    Thinking,
)
from answerback.client.outbox import Outbox, PendingRequest
from answerback.client.stream import AnswerStream
from answerback.client.timing import Timing
from answerback.client.tokens import Token
from answerback.core.answer import clean
from answerback.core.context import title_of
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    BudgetInfo,
    Conversation,
    ConversationSummary,
    ModelInfo,
    SendMessage,
    ServerInfo,
    ServerLimits,
    Status,
    Turn,
    Usage,
    is_id,
)
from answerback.protocol.limits import MAX_TITLE_LENGTH

__all__ = [
    "MAX_TITLE_LENGTH",
    "Answer",
    "AnswerRestarted",
    "AnswerStream",
    "AnswerbackError",
    "BlockingAnswerStream",
    "BlockingClient",
    "BudgetInfo",
    "CannotConnect",
    "Client",
    "Closed",
    "Connected",
    "Connecting",
    "ConnectionState",
    "Conversation",
    "ConversationSummary",
    "Disconnected",
    "Done",
    "ErrorCode",
    "Event",
    "Forbidden",
    "MessageTooLarge",
    "ModelInfo",
    "Obstacle",
    "Outbox",
    "Overloaded",
    "PendingRequest",
    "ProtocolViolation",
    "Queued",
    "RateLimited",
    "RequestCancelled",
    "RequestConflict",
    "RequestFailed",
    "RequestTimeout",
    "Restarted",
    "SendMessage",
    "ServerInfo",
    "ServerLimits",
    "SessionReplaced",
    "Started",
    "Status",
    "Stopped",
    "StoreChanged",
    "Text",
    "Thinking",
    "Timing",
    "Token",
    "Turn",
    "Unauthorized",
    "Usage",
    "clean",
    "is_id",
    "is_retryable",
    "title_of",
]
