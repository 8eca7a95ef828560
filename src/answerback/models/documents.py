"""The body of a model server's response: bytes, split anywhere, to the JSON documents in it. Pure.

It is read by its first byte and not by its label: server-sent events up to `[DONE]`, or JSON, whole or a line each.
"""

import json
import re
from typing import Any, Final

import msgspec

from answerback.models.sse import SseDecoder, SseError
from answerback.ports import ModelError
from answerback.protocol.errors import ErrorCode

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Of a response that is JSON."""

_BLANK: Final = b" \t\r\n\xef\xbb\xbf"
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]|[^"\[\]{}]+', re.DOTALL)
_MAX_DEPTH: Final = 32
"""What is read lies at most 6 deep. Python's decoders give up at several hundred."""
_UNREADABLE: Final = object()


class DocumentDecoder:
    """Feed it bytes as they come; it gives back the documents that they complete. `close` gives back what is left.

    `is_over`: the server has said that nothing more comes. `unread` counts what is no document. `start`: the first
    bytes, to name a body that holds none. Raises: ModelError: an event or a body is larger than any answer.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.unread = 0
        self.start = b""
        self._events: SseDecoder | None = None
        self._buffer = b""
        self._tried = 0

    def feed(self, data: bytes) -> list[Any]:
        """The documents that are now complete, in order."""
        self.start = (self.start + data[:100])[:100]
        if self._events is None:
            self._buffer += data
            content = self._buffer.lstrip(_BLANK)
            if not content:
                return []
            if content[:1] in b"{[":
                return self._json(is_end=False)
            self._events, data = SseDecoder(), self._buffer
        try:
            return self._read(self._events.feed(data))
        except SseError as exc:
            raise ModelError(ErrorCode.MODEL_FAILED, str(exc)) from exc

    def close(self) -> list[Any]:
        """The documents that the body's end has cut off from what marks their end."""
        return self._json(is_end=True) if self._events is None else self._read(self._events.close())

    def _read(self, events: list[bytes]) -> list[Any]:
        documents = []
        for event in events:
            if self.is_over or not (event := event.strip()):
                continue
            if event == b"[DONE]":
                self.is_over = True
            elif (document := decode(event)) is _UNREADABLE:
                self.unread += 1
            else:
                documents.append(document)
        return documents

    def _json(self, *, is_end: bool) -> list[Any]:
        buffer = self._buffer.strip(_BLANK)
        if len(buffer) > MAX_BODY_BYTES:
            raise ModelError(ErrorCode.MODEL_FAILED, f"an answer of more than {MAX_BODY_BYTES} bytes")
        # Tried when it may be whole, and twice as long as at the last try, so that many small pieces cost little.
        if not buffer or not (is_end or (buffer[-1:] in b"}]" and len(buffer) >= 2 * self._tried)):
            return []
        self._tried = len(buffer)
        found = [decode(buffer)]
        if found[0] is _UNREADABLE:
            found = [decode(line) for line in buffer.splitlines() if line.strip()]
            if not is_end and _UNREADABLE in found:
                return []
        self._buffer, self._tried = b"", 0
        documents = [one for one in found if one is not _UNREADABLE]
        self.unread += len(found) - len(documents)
        return documents


def decode(data: bytes) -> Any:
    """One JSON document. What cannot be read strictly is read leniently: a parser must not fail over what nobody reads.

    Bytes that are no UTF-8 come as Python's surrogate escapes, so that halves of a character can be joined.
    """
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        text = data.decode("utf-8", "surrogateescape")
    for prepare in (str, _shallow):
        try:
            return json.loads(prepare(text), strict=False, parse_int=_whole)
        except (ValueError, RecursionError):
            pass
    return _UNREADABLE


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


def _shallow(text: str) -> str:
    """`text` with null for everything that is nested deeper than anything that is read."""
    depth, kept = 0, []
    for piece in _TOKEN.findall(text):
        depth += piece in ("[", "{")
        if depth <= _MAX_DEPTH:
            kept.append(piece)
        elif depth == _MAX_DEPTH + 1 and piece in ("[", "{"):
            kept.append("null")
        depth -= piece in ("]", "}")
    return "".join(kept)
