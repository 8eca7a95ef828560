"""The protocol as an AsyncAPI 3 document, made from the message types. `docs/generate.py` writes it."""

import json
from typing import Any, get_args

import msgspec

from answerback import __version__
from answerback.protocol import PROTOCOL_VERSION, SUBPROTOCOL, ClientFrame, ServerFrame
from answerback.protocol.frames import VISIBLE
from answerback.protocol.limits import MAX_ID_LENGTH

_CHANNEL = {"$ref": "#/channels/socket"}


def document() -> str:
    """It, as JSON text."""
    clients, servers = get_args(ClientFrame), get_args(ServerFrame)
    _, schemas = msgspec.json.schema_components((*clients, *servers), ref_template="#/components/schemas/{name}")
    found = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Answerback",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": (
                "Many apps, one language model, and every answer goes home to the app that asked. "
                f"PROTOCOL.md is the authority; this is its list of messages, of answerback {__version__}."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:8765", "protocol": "ws", "description": "`answerback serve`"}},
        "channels": {
            "socket": {
                "address": "/",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in map(_tag, clients + servers)},
                "bindings": {"ws": {"method": "GET", "query": _query(), "headers": _headers()}},
            }
        },
        "operations": {
            "fromClient": _operation("receive", clients),
            "fromServer": _operation("send", servers),
        },
        "components": {
            "messages": {_tag(frame): _message(frame) for frame in clients + servers},
            "schemas": {name: _plain(schema) for name, schema in sorted(schemas.items())},
        },
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _tag(frame: Any) -> str:
    return str(frame.__struct_config__.tag)


def _operation(action: str, frames: tuple[Any, ...]) -> dict[str, Any]:
    messages = [{"$ref": f"#/channels/socket/messages/{_tag(frame)}"} for frame in frames]
    return {"action": action, "channel": _CHANNEL, "messages": messages}


def _message(frame: Any) -> dict[str, Any]:
    message = {"summary": _first_line(frame.__doc__), "payload": {"$ref": f"#/components/schemas/{frame.__name__}"}}
    if "request_id" in frame.__struct_fields__:
        message["correlationId"] = {"location": "$message.payload#/requestId"}
    return message


def _first_line(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _plain(schema: Any) -> Any:
    """Without `default: null`: a field that is not there is left out, never null."""
    if isinstance(schema, dict):
        kept = {name: _plain(value) for name, value in schema.items() if not (name == "default" and value is None)}
        if "description" in kept and isinstance(kept["description"], str):
            kept["description"] = " ".join(kept["description"].split())
        return kept
    return [_plain(item) for item in schema] if isinstance(schema, list) else schema


def _query() -> dict[str, Any]:
    identifier = {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH, "pattern": VISIBLE}
    return {
        "type": "object",
        "properties": {"sessionId": identifier, "userId": identifier, "token": {"type": "string"}},
    }


def _headers() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "Authorization": {"type": "string", "pattern": "^[Bb]earer "},
            "Sec-WebSocket-Protocol": {"type": "string", "description": f"{SUBPROTOCOL}, bearer.TOKEN"},
        },
    }
