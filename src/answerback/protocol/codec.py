"""Bytes <-> typed frames.

`FrameError` is the only exception that input can cause here. Its sentences are made from the table below, never
from a library's exception text, so they may be sent to the peer.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, TypeAlias

import msgspec

from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import ClientFrame, SendMessage, ServerFrame, UpdateConversation, is_id
from answerback.protocol.limits import (
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    MAX_CLIENT_LENGTH,
    MAX_FILE_NAME_LENGTH,
    MAX_ID_LENGTH,
    MAX_MESSAGE_BYTES,
    MAX_PAGE,
    MAX_PARTS,
    MAX_RESUME_POINTS,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    MAX_TITLE_LENGTH,
    PIECE_BYTES,
)

Data: TypeAlias = bytes | bytearray | memoryview | str

_ID_RULE: Final = f"a string of 1 to {MAX_ID_LENGTH} visible characters"
_CLIENT_RULE: Final = f"a string of 1 to {MAX_CLIENT_LENGTH} visible characters"
_HAS_NUL: Final = "The text has the character U+0000. Remove it and send the message again."
_RULES: Final = {
    **dict.fromkeys(("requestId", "helloId", "userId", "conversationId", "model", "replaces"), _ID_RULE),
    **dict.fromkeys(("stream", "deleted", "off"), "true or false"),
    **dict.fromkeys(("number", "attempt", "offset"), "a whole number, 0 or more"),
    **dict.fromkeys(("name", "version"), _CLIENT_RULE),
    "before": "the `next` of the page before",
    "message": "a string that is not empty",
    "system": "a string",
    "maxTokens": "a whole number, 1 or more",
    "limit": f"a whole number from 1 to {MAX_PAGE}",
    "title": f"a string of 1 to {MAX_TITLE_LENGTH} characters",
    "token": "a string that is not empty",
    "resume": f"a list of at most {MAX_RESUME_POINTS} objects with requestId, attempt and offset",
    "client": f"an object with name and version, each {_CLIENT_RULE}",
    "parts": f"a list of at most {MAX_PARTS} names",
    "attachments": (
        f"a list of at most {MAX_ATTACHMENTS} objects with sha256, bytes, mediaType and name "
        f"(1 to {MAX_FILE_NAME_LENGTH} characters)"
    ),
    "format": "an object with type json_schema and schema, a JSON Schema",
    "sha256": "64 small hexadecimal digits",
    "bytes": f"a whole number from 1 to {MAX_ATTACHMENT_BYTES}",
    "upload": "the `upload` of the last uploadState",
    "data": f"at most {PIECE_BYTES} bytes in base64",
}
_UNNEEDED: Final = frozenset({"usage", "timing", "model", "finishReason", "modelInfo", "server", "features"})
"""Of the server's frames: members that tell more and change nothing."""
_CLIENT_ACTIONS: Final = tuple(str(frame.__struct_config__.tag) for frame in getattr(ClientFrame, "__args__", ()))
_MISSING: Final = re.compile(r"missing required field `(\w+)`")
_PATH: Final = re.compile(r"at `\$\.(\w+)")

_encoder: Final = msgspec.json.Encoder()

encode: Final[Callable[[ClientFrame | ServerFrame], bytes]] = _encoder.encode
"""The frame as UTF-8 JSON. Lone surrogates must have been removed before (`core.answer.clean`)."""

_client: Final[msgspec.json.Decoder[ClientFrame]] = msgspec.json.Decoder(ClientFrame)
_server: Final[msgspec.json.Decoder[ServerFrame]] = msgspec.json.Decoder(ServerFrame)
_anything: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder()


@dataclass(eq=False)
class FrameError(Exception):
    """A message that is not a frame of this protocol. The connection can go on.

    `detail`: a sentence that may be sent to the peer. `action`, `request_id` and `user_id`: of the broken one, as
    far as they could be read.
    """

    code: ErrorCode
    detail: str
    _: KW_ONLY
    action: str | None = None
    request_id: str | None = None
    user_id: str | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def pieces_of(frame: bytes, size: int) -> Iterator[str]:
    """The text of an encoded frame in pieces of at most `size` bytes, cut between code points."""
    start = 0
    while start < len(frame):
        end = start + size
        while end < len(frame) and frame[end] & 0xC0 == 0x80:
            end -= 1
        yield frame[start:end].decode()
        start = end


def decode_client(data: Data) -> ClientFrame:
    """Read one message of a client.

    Raises: FrameError: `message_too_large` or `invalid_frame`, with a sentence for the peer.
    """
    size = len(data)  # of text in code points, which have 4 bytes at most
    if size > MAX_MESSAGE_BYTES // 4 and _size_of(data) > MAX_MESSAGE_BYTES:
        raise FrameError(ErrorCode.MESSAGE_TOO_LARGE, f"A message may have {MAX_MESSAGE_BYTES} bytes. Shorten it.")
    broken: FrameError | None = None
    try:
        frame = _client.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        try:
            frame = msgspec.convert(_without_nulls(data), ClientFrame)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            broken = _explain(data, exc)
    if broken is not None:  # raised out here it does not hold the library's error, with all its frames
        raise broken
    if isinstance(frame, SendMessage) and (why := _unspeakable(frame)):
        raise FrameError(
            ErrorCode.INVALID_FRAME, why, action="sendMessage", request_id=frame.request_id, user_id=frame.user_id
        )
    if isinstance(frame, UpdateConversation) and "\0" in (frame.title or ""):
        raise FrameError(ErrorCode.INVALID_FRAME, _HAS_NUL, action="updateConversation", request_id=frame.request_id)
    return frame


def decode_server(data: Data) -> ServerFrame | None:
    """Read one message of a server; None for an `action` that this version does not know.

    What is not needed to go on, such as counts of tokens, is left out where it is wrong.
    Raises: FrameError: the message is not a frame, or a known one with wrong fields.
    """
    try:
        return _server.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        broken = _explain(data, exc)
        if isinstance(exc, msgspec.ValidationError):
            if "at `$.action`" in str(exc):
                return None
            if (frame := _without_unneeded(data, exc)) is not None:
                return frame
            if broken.action is not None:  # the table's sentences are for clients
                field = _MISSING.search(str(exc)) or _PATH.search(str(exc))
                broken.detail = f"{broken.action} has a wrong or no {field[1] if field else 'field'}."
        raise broken from None


def _without_unneeded(data: Data, exc: msgspec.ValidationError) -> ServerFrame | None:
    """The server's frame without the wrong members that are not needed; None: one that is needed is wrong."""
    try:
        loose = _anything.decode(data)
        while (path := _PATH.search(str(exc))) and path[1] in _UNNEEDED:
            del loose[path[1]]
            try:
                frame: ServerFrame = msgspec.convert(loose, ServerFrame)
                return frame
            except msgspec.ValidationError as again:
                exc = again
    except (msgspec.MsgspecError, RecursionError, ValueError, KeyError):
        pass
    return None


def _without_nulls(data: Data) -> Any:
    """The object, in which null means what leaving a member out means. Raises: as msgspec does."""
    loose = _anything.decode(data)
    return {name: value for name, value in loose.items() if value is not None} if isinstance(loose, dict) else loose


def _size_of(data: Data) -> int:
    return len(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)


def _unspeakable(frame: SendMessage) -> str | None:
    """PostgreSQL refuses U+0000, and an empty question has no answer."""
    if "\0" in frame.message or "\0" in (frame.system or ""):
        return _HAS_NUL
    if frame.format is not None and is_deep(frame.format.json_schema):
        return f'The schema of "format" may be {MAX_SCHEMA_DEPTH} levels deep. Use "$defs" and "$ref".'
    if frame.format is not None and len(_encoder.encode(frame.format.json_schema)) > MAX_SCHEMA_BYTES:
        return f'The schema of "format" may have {MAX_SCHEMA_BYTES} bytes. Shorten it, and its descriptions.'
    if not frame.message.strip():
        return '"message" is empty. Say something and send it again.'
    return None


def is_deep(schema: Any) -> bool:
    """Whether it is nested more deeply than a schema may be: where little stack is left, it could not be read."""
    level = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [value for values in inner for value in values]
    return any(isinstance(one, dict | list) for one in level)


def _explain(data: Data, exc: Exception) -> FrameError:
    """A sentence that says what to do, for a message that did not decode."""
    try:
        loose = _anything.decode(data)
    except RecursionError:
        return FrameError(ErrorCode.INVALID_FRAME, "The JSON is nested too deeply. Send a flat object.")
    except (msgspec.MsgspecError, ValueError):
        return _explain_text(data)
    if not isinstance(loose, dict):
        return FrameError(ErrorCode.INVALID_FRAME, "The message is not a JSON object. Send one object a message.")
    action = loose.get("action")
    if not isinstance(action, str):
        detail = f'The object has no "action" string. Actions: {", ".join(_CLIENT_ACTIONS)}.'
    elif action not in _CLIENT_ACTIONS:
        detail = f"This action is not known. Actions: {', '.join(_CLIENT_ACTIONS)}."
    elif missing := _MISSING.search(str(exc)):
        field = missing.group(1)
        detail = f'{action} needs "{field}": {_RULES.get(field, "see PROTOCOL.md")}.'
    elif path := _PATH.search(str(exc)):
        field = path.group(1)
        detail = f'"{field}" must be {_RULES.get(field, "as PROTOCOL.md says")}.'
    else:
        detail = f"{action} has a field of a wrong kind. See PROTOCOL.md."
    return _about(loose, detail)


def _explain_text(data: Data) -> FrameError:
    """What is not JSON to the strict decoder. Python's own lets lone surrogates pass, and so finds the request's id."""
    try:
        loose = json.loads(data if isinstance(data, str) else bytes(data))
    except (ValueError, RecursionError):
        loose = None
    detail = "The message is not valid JSON in UTF-8. Send one JSON object a message."
    if not isinstance(loose, dict):
        return FrameError(ErrorCode.INVALID_FRAME, detail)
    try:
        json.dumps(loose, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        detail = "A text has half of a character (a lone surrogate). Remove it and send the message again."
    return _about(loose, detail)


def _about(loose: dict[str, Any], detail: str) -> FrameError:
    """The error, with what can be read of whom it concerns."""
    action = loose.get("action")
    return FrameError(
        ErrorCode.INVALID_FRAME,
        detail,
        action=action if isinstance(action, str) else None,
        request_id=_id(loose.get("requestId")),
        user_id=_id(loose.get("userId")),
    )


def _id(value: object) -> str | None:
    return value if is_id(value) else None
