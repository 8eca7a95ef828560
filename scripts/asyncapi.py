#!/usr/bin/env python
"""The AsyncAPI 3 document of the protocol, made from the message types.

    scripts/asyncapi.py > asyncapi.json

It describes the server: what it receives, what it replies, and what it sends by itself. PROTOCOL.md says what the
frames mean; this says how they look, for tools.
"""

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias, get_args

import msgspec
from frame_examples import examples

from answerback.protocol.codec import encode
from answerback.protocol.errors import ERRORS
from answerback.protocol.frames import (
    VISIBLE,
    AttachmentPiece,
    Budget,
    CancelMessage,
    ClientFrame,
    Conversation,
    ConversationChanged,
    Conversations,
    Error,
    GetAttachment,
    GetBudget,
    GetHistory,
    GoAway,
    Hello,
    History,
    ListConversations,
    MessageAccepted,
    MessageAsked,
    MessageDelta,
    MessageProgress,
    MessageResponse,
    MessageStarted,
    Ping,
    Pong,
    PutPiece,
    RenewToken,
    SendMessage,
    ServerFrame,
    TokenRenewed,
    UpdateConversation,
    UploadState,
    Watch,
    Watching,
    Welcome,
)
from answerback.protocol.limits import MAX_FRAME_BYTES, MAX_ID_LENGTH, MAX_MESSAGE_BYTES, PROTOCOL_VERSION, SUBPROTOCOL

Json: TypeAlias = dict[str, Any]
Frame: TypeAlias = type[msgspec.Struct]

VERSION: Final = "3.0.0"
"""Of the AsyncAPI specification."""

CHANNEL: Final = "connection"
CLIENT_FRAMES: Final[Sequence[Frame]] = get_args(ClientFrame)
SERVER_FRAMES: Final[Sequence[Frame]] = get_args(ServerFrame)

REPLIES: Final[Mapping[Frame, Sequence[Frame]]] = MappingProxyType(
    {
        Hello: (MessageStarted, MessageProgress, MessageDelta, MessageResponse, Error, Welcome),
        SendMessage: (MessageAccepted, MessageStarted, MessageProgress, MessageDelta, MessageResponse, Error),
        CancelMessage: (MessageResponse, Error),
        Watch: (MessageAsked, MessageStarted, MessageProgress, MessageDelta, MessageResponse, Error, Watching),
        ListConversations: (Conversations, Error),
        GetHistory: (History, Error),
        UpdateConversation: (Conversation, Error),
        PutPiece: (UploadState, Error),
        GetAttachment: (AttachmentPiece, Error),
        RenewToken: (TokenRenewed, Error),
        GetBudget: (Budget, Error),
        Ping: (Pong,),
    }
)
"""What answers each frame of a client."""

UNASKED: Final[Sequence[Frame]] = (
    *(MessageAsked, MessageStarted, MessageProgress, MessageDelta, MessageResponse),
    *(ConversationChanged, GoAway, Error),
)
"""What also comes when it falls due: answers, on whatever connection is the session's address by then, and what others
asked in a conversation that is watched; changes of the list that is watched;
that the server leaves; the loss of the session to a newer connection; a message that is no frame."""


def document() -> Json:
    """The whole document."""
    frames = (*CLIENT_FRAMES, *SERVER_FRAMES)
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Answerback",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": (
                "Many apps hold WebSockets to one backend and ask questions of a language model; every app gets "
                "exactly the answer to its own request. PROTOCOL.md is the authority: it says what the frames mean."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": {CHANNEL: _channel(frames)},
        "operations": _operations(),
        "components": {
            "schemas": _schemas(frames),
            "messages": _messages(frames),
            "securitySchemes": _security_schemes(),
        },
    }


def text() -> str:
    """The document as it is kept in the repository."""
    return json.dumps(document(), ensure_ascii=False, indent=2) + "\n"


def tag(frame: Frame) -> str:
    """The `action` of a kind of frame, which is also its name in the document."""
    return str(frame.__struct_config__.tag)


# --- where and how to connect -------------------------------------------------------------------------------


def _servers() -> Json:
    return {
        "local": {
            "host": "127.0.0.1:8765",
            "protocol": "ws",
            "description": "A gateway on this machine that asks for no token.",
        },
        "remote": {
            "host": "{host}",
            "protocol": "wss",
            "description": "A server with a certificate. It asks for a token, in one of three places.",
            "variables": {"host": {"description": "Name and port of the server.", "default": "gateway.example"}},
            "security": [_ref(f"components/securitySchemes/{name}") for name in _security_schemes()],
        },
    }


def _security_schemes() -> Json:
    return {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The header `Authorization: Bearer TOKEN`. If it is there, the other two are not looked at.",
        },
        "subprotocol": {
            "type": "httpApiKey",
            "in": "header",
            "name": "Sec-WebSocket-Protocol",
            "description": f"`{SUBPROTOCOL}, bearer.TOKEN`, for clients that cannot set headers; only "
            f"`{SUBPROTOCOL}` is echoed.",
        },
        "query": {
            "type": "httpApiKey",
            "in": "query",
            "name": "token",
            "description": "The last resort: URLs end up in logs.",
        },
    }


def _channel(frames: Sequence[Frame]) -> Json:
    return {
        "address": "/",
        "title": "One connection",
        "description": (
            "Text messages in UTF-8, one JSON object each; `action` says which frame it is. At most "
            f"{MAX_MESSAGE_BYTES} bytes from a client, all fragments together, and {MAX_FRAME_BYTES} bytes to it. "
            "Unknown fields are ignored by both sides, unknown actions by clients."
        ),
        "messages": {tag(frame): _ref(f"components/messages/{tag(frame)}") for frame in frames},
        "bindings": {"ws": {"method": "GET", "query": _query(), "headers": _headers(), "bindingVersion": "0.1.0"}},
    }


def _query() -> Json:
    name = {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH, "pattern": VISIBLE}
    return {
        "type": "object",
        "properties": {
            "sessionId": {
                **name,
                "description": "The session to resume; without it the connection is one of its own.",
            },
            "userId": {**name, "description": "The user, where no token is asked for."},
            "token": {"type": "string", "description": "A bearer token. The header is better."},
        },
    }


def _headers() -> Json:
    return {
        "type": "object",
        "properties": {
            "Authorization": {"type": "string", "pattern": "^[Bb]earer .+$", "description": "The bearer token."},
            "Sec-WebSocket-Protocol": {
                "type": "string",
                "description": f"`{SUBPROTOCOL}` among what is offered, if anything is.",
            },
            "Origin": {"type": "string", "description": "Of a web page: must be on the operator's list."},
        },
    }


# --- operations ---------------------------------------------------------------------------------------------


def _operations() -> Json:
    operations: Json = {}
    for frame in CLIENT_FRAMES:
        operations[tag(frame)] = {
            "action": "receive",
            "channel": _ref(f"channels/{CHANNEL}"),
            "summary": _summary(frame),
            "messages": _in_channel((frame,)),
            "reply": {"channel": _ref(f"channels/{CHANNEL}"), "messages": _in_channel(REPLIES[frame])},
        }
    operations["deliver"] = {
        "action": "send",
        "channel": _ref(f"channels/{CHANNEL}"),
        "summary": "Answers as they fall due, and errors that no frame of the client asked for.",
        "messages": _in_channel(UNASKED),
    }
    return operations


def _in_channel(frames: Sequence[Frame]) -> list[Json]:
    return [_ref(f"channels/{CHANNEL}/messages/{tag(frame)}") for frame in frames]


# --- messages -----------------------------------------------------------------------------------------------


def _messages(frames: Sequence[Frame]) -> Json:
    return {tag(frame): _message(frame) for frame in frames}


def _message(frame: Frame) -> Json:
    message: Json = {
        "name": tag(frame),
        "title": frame.__name__,
        "summary": _summary(frame),
        "contentType": "application/json",
        "payload": _ref(f"components/schemas/{frame.__name__}"),
    }
    for field in ("requestId", "helloId"):
        if field in {known.encode_name for known in msgspec.structs.fields(frame)}:
            message["correlationId"] = {"location": f"$message.payload#/{field}"}
    message["examples"] = [
        {"name": example.name, "payload": json.loads(encode(example.frame))}
        for example in examples()
        if type(example.frame) is frame
    ]
    return message


def _schemas(frames: Sequence[Frame]) -> Json:
    _, schemas = msgspec.json.schema_components(frames, ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        if "description" in schema:  # a docstring: Python 3.13 takes its indentation away, older ones keep it
            schema["description"] = inspect.cleandoc(schema["description"])
    schemas["ErrorCode"]["x-codes"] = {
        code.value: {"whose": info.fault.value, "retryable": info.retryable, "message": info.message}
        for code, info in ERRORS.items()
    }
    return dict(sorted(schemas.items()))


def _summary(frame: Frame) -> str:
    return " ".join((frame.__doc__ or "").split("\n\n")[0].split())


def _ref(path: str) -> Json:
    return {"$ref": f"#/{path}"}


if __name__ == "__main__":
    sys.stdout.write(text())
