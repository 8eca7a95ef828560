"""A small conversation as typed frames: one example or more of every frame, for documents and for tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from answerback.core import defaults
from answerback.core.delivery import PROGRESS_S
from answerback.core.request import Policy
from answerback.protocol import frames
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.limits import (
    MAX_ANSWER_BYTES,
    MAX_ATTACHMENT_BYTES,
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    PIECE_BYTES,
    PROTOCOL_VERSION,
)

_HELLO_SHA256 = sha256(b"hello").hexdigest()


@dataclass(frozen=True, slots=True)
class Example:
    """One frame as it may be on the wire. `name` is unique among the examples."""

    name: str
    frame: frames.ClientFrame | frames.ServerFrame


def examples() -> Sequence[Example]:
    """Every example, those of the client first."""
    return (*_from_client(), *_from_server())


def _from_client() -> Sequence[Example]:
    return (
        Example("first frame of a connection", frames.Hello(hello_id="h1")),
        Example(
            "first frame of a program that says its name",
            frames.Hello(hello_id="h1", client=frames.ClientInfo(name="my-app", version="2.1.0")),
        ),
        Example(
            "after a reconnect",
            frames.Hello(hello_id="h2", resume=(frames.ResumePoint(request_id="q-2", attempt=1, offset=15),)),
        ),
        Example(
            "a question of a client that knows two frames",
            frames.SendMessage(
                request_id="6b1f0e0a-7c0f-4b0e-9a53-0d6d7c1f2a11",
                user_id="user_001",
                message="What is a WebSocket?",
                timestamp="2026-01-01T00:00:00Z",
            ),
        ),
        Example(
            "a question of a conversation, its answer in pieces",
            frames.SendMessage(
                request_id="q-2",
                message="And who speaks first?",
                conversation_id="intro",
                stream=True,
                model="local",
                system="Answer in one sentence.",
                max_tokens=200,
                parts=(),
            ),
        ),
        Example(
            "a question that takes the place of an earlier one",
            frames.SendMessage(
                request_id="q-3",
                message="And who speaks first, client or server?",
                conversation_id="intro",
                replaces="q-2",
            ),
        ),
        Example(
            "a question about a file",
            frames.SendMessage(
                request_id="q-4",
                message="What does it say?",
                attachments=(
                    frames.Attachment(sha256=_HELLO_SHA256, size=5, media_type="text/plain", name="hello.txt"),
                ),
            ),
        ),
        Example(
            "a question whose answer is to be JSON",
            frames.SendMessage(
                request_id="q-5",
                message="Where is the sea deepest?",
                format=frames.Format(
                    type="json_schema",
                    json_schema={"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
                ),
            ),
        ),
        Example("how far is it?", frames.PutPiece(request_id="piece-1", sha256=_HELLO_SHA256, size=5)),
        Example(
            "a piece of a file",
            frames.PutPiece(request_id="piece-2", sha256=_HELLO_SHA256, size=5, offset=0, upload="5f2c", data=b"hello"),
        ),
        Example(
            "a file of an earlier question", frames.GetAttachment(request_id="get-1", sha256=_HELLO_SHA256, size=5)
        ),
        Example("stop a request", frames.CancelMessage(request_id="q-2")),
        Example("stop what another device has asked", frames.CancelMessage(request_id="q-2", conversation_id="intro")),
        Example(
            "show me this conversation",
            frames.Watch(
                request_id="watch-1",
                conversation_id="intro",
                number=1,
                resume=(frames.ResumePoint(request_id="q-2", attempt=1, offset=15),),
            ),
        ),
        Example("no longer", frames.Watch(request_id="watch-2", conversation_id="intro", number=2, off=True)),
        Example("tell me when the list changes", frames.Watch(request_id="watch-3", number=3)),
        Example("conversations, first page", frames.ListConversations(request_id="list-1", limit=20)),
        Example(
            "conversations, next page", frames.ListConversations(request_id="list-2", before="1767225672250:intro")
        ),
        Example("newest turns of a conversation", frames.GetHistory(request_id="history-1", conversation_id="intro")),
        Example(
            "all turns, also those whose place another took",
            frames.GetHistory(request_id="history-2", conversation_id="intro", superseded=True),
        ),
        Example(
            "rename", frames.UpdateConversation(request_id="rename-1", conversation_id="intro", title="First questions")
        ),
        Example("delete", frames.UpdateConversation(request_id="delete-1", conversation_id="intro", deleted=True)),
        Example(
            "a fresh token",
            frames.RenewToken(request_id="renew-1", token="eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"),  # noqa: S106
        ),
        Example("how does the budget stand", frames.GetBudget(request_id="budget-1")),
        Example("sign of life", frames.Ping()),
    )


def _from_server() -> Sequence[Example]:
    usage = frames.Usage(input_tokens=14, output_tokens=11)
    return (
        Example(
            "welcome",
            frames.Welcome(
                hello_id="h1",
                connection_id="L0S9aeCap5sA92b=",
                session_id="desk",
                user_id="user_001",
                protocol=PROTOCOL_VERSION,
                limits=frames.ServerLimits(
                    max_message_bytes=MAX_MESSAGE_BYTES,
                    max_frame_bytes=MAX_FRAME_BYTES,
                    max_answer_bytes=MAX_ANSWER_BYTES,
                    requests_per_minute=defaults.RATE_LIMIT,
                    max_pending=1_000,
                    max_tokens=defaults.MAX_TOKENS,
                    idle_timeout_ms=defaults.IDLE_TIMEOUT_S * 1000,
                    answer_timeout_ms=Policy().answer_timeout_ms,
                    queue_timeout_ms=Policy().queue_timeout_ms,
                    progress_ms=round(PROGRESS_S * 1000),
                    piece_bytes=PIECE_BYTES,
                    max_attachment_bytes=MAX_ATTACHMENT_BYTES,
                ),
                models=("local", "thinker"),
                features=("parts", "attachments"),
                server=frames.ServerInfo(version="0.1.0"),
                model_info={
                    "local": frames.ModelInfo(languages=("en",), demo=True, attachments=("text",)),
                    "thinker": frames.ModelInfo(
                        answer_timeout_ms=600_000, max_tokens=16_384, attachments=("text", "image")
                    ),
                },
            ),
        ),
        Example("accepted", frames.MessageAccepted(request_id="q-2", conversation_id="intro", position=0)),
        Example("started", frames.MessageStarted(request_id="q-2", attempt=1)),
        Example("still thinking", frames.MessageProgress(request_id="q-2", attempt=1, silent_ms=16_000)),
        Example("leaves", frames.GoAway(deadline_ms=30_000)),
        Example("a piece", frames.MessageDelta(request_id="q-2", attempt=1, offset=15, delta="one connection ")),
        *_endings(usage),
        Example(
            "it is watched",
            frames.Watching(request_id="watch-1", conversation_id="intro", number=1, turn="q-1"),
        ),
        Example(
            "asked on another device",
            frames.MessageAsked(
                request_id="q-2",
                conversation_id="intro",
                question="And who speaks first?",
                model="local",
                accepted_at="2026-01-01T00:01:12.000Z",
            ),
        ),
        Example(
            "a conversation has changed",
            frames.ConversationChanged(
                conversation_id="intro",
                title="What is a WebSocket?",
                turns=2,
                updated_at="2026-01-01T00:01:12.250Z",
            ),
        ),
        Example(
            "a page of conversations",
            frames.Conversations(
                request_id="list-1",
                conversations=(
                    frames.ConversationSummary(
                        conversation_id="intro",
                        title="What is a WebSocket?",
                        turns=2,
                        created_at="2026-01-01T00:00:00.000Z",
                        updated_at="2026-01-01T00:01:12.250Z",
                    ),
                ),
                next="1767225672250:intro",
            ),
        ),
        Example("a page of turns", _history(usage)),
        Example(
            "a renamed conversation",
            frames.Conversation(request_id="rename-1", conversation_id="intro", title="First questions", deleted=False),
        ),
        Example(
            "a file is there",
            frames.UploadState(
                request_id="piece-2", sha256=_HELLO_SHA256, size=5, upload="5f2c", offset=5, complete=True
            ),
        ),
        Example(
            "bytes of a file",
            frames.AttachmentPiece(request_id="get-1", sha256=_HELLO_SHA256, size=5, offset=0, data=b"hello"),
        ),
        Example(
            "the fresh token counts", frames.TokenRenewed(request_id="renew-1", expires_at="2026-01-01T01:00:00.000Z")
        ),
        Example(
            "how a budget stands",
            frames.Budget(
                request_id="budget-1",
                budget=frames.BudgetInfo(
                    unit="microUsd",
                    limit=20_000_000,
                    used=3_120_400,
                    reserved=52_000,
                    resets_at="2026-02-01T00:00:00.000Z",
                ),
            ),
        ),
        Example("answer to ping", frames.Pong()),
        Example(
            "a frame that is none",
            frames.Error(code=ErrorCode.INVALID_FRAME, message='"message" must be a string that is not empty.'),
        ),
        Example(
            "a question that could not be stored",
            frames.Error(
                code=ErrorCode.UNAVAILABLE,
                message=ERRORS[ErrorCode.UNAVAILABLE].message,
                request_id="q-2",
                retry_after_ms=1_000,
            ),
        ),
    )


def _endings(usage: frames.Usage) -> Sequence[Example]:
    whole = "A connection that stays open, for both sides to speak."
    limited = ERRORS[ErrorCode.RATE_LIMITED]
    return (
        Example(
            "an answer whole in one frame",
            frames.MessageResponse(
                request_id="6b1f0e0a-7c0f-4b0e-9a53-0d6d7c1f2a11",
                status=frames.Status.COMPLETED,
                response=whole,
                attempt=1,
                length=len(whole),
                finish_reason="stop",
                usage=usage,
                model="local",
                timing=frames.Timing(queued_ms=3, first_text_ms=412, total_ms=690),
            ),
        ),
        Example(
            "the ending of an answer that came in pieces",
            frames.MessageResponse(
                request_id="q-2",
                status=frames.Status.COMPLETED,
                response=None,
                attempt=1,
                length=71,
                finish_reason="stop",
                usage=usage,
                model="local",
                timing=frames.Timing(queued_ms=0, first_text_ms=120, total_ms=400),
            ),
        ),
        Example(
            "a refused question",
            frames.MessageResponse(
                request_id="q-2",
                status=frames.Status.FAILED,
                response=None,
                attempt=1,
                length=0,
                error=frames.ErrorBody(
                    code=ErrorCode.RATE_LIMITED,
                    message=limited.message,
                    retryable=limited.retryable,
                    retry_after_ms=47_500,
                ),
                model="local",
                timing=frames.Timing(queued_ms=0, total_ms=0),
            ),
        ),
        Example(
            "a stopped request",
            frames.MessageResponse(
                request_id="q-2", status=frames.Status.CANCELLED, response=None, attempt=1, length=15
            ),
        ),
    )


def _history(usage: frames.Usage) -> frames.History:
    return frames.History(
        request_id="history-1",
        conversation_id="intro",
        turns=(
            frames.Turn(
                request_id="q-1",
                question="What is a WebSocket?",
                answer="A connection that stays open.",
                status=frames.Status.COMPLETED,
                asked_at="2026-01-01T00:00:00.000Z",
                answered_at="2026-01-01T00:00:00.690Z",
                model="local",
                usage=usage,
            ),
            frames.Turn(
                request_id="q-2",
                question="And who speaks first?",
                answer="",
                status=frames.Status.FAILED,
                asked_at="2026-01-01T00:01:12.000Z",
                answered_at="2026-01-01T00:01:12.250Z",
                model="local",
                error_code=ErrorCode.MODEL_UNAVAILABLE,
            ),
        ),
        next="7",
    )
