"""The body of a model server's response: bytes, split anywhere, to the JSON documents in it. Pure.

It is read by its first byte and not by its label: server-sent events up to `[DONE]`, or JSON documents in a row.
"""

import json
import re
from typing import Any, Final

import msgspec

from answerback.ports import ModelError
from answerback.protocol.errors import ErrorCode

MAX_EVENT_BYTES: Final = 1024 * 1024
"""No chunk of an answer comes near this; a peer that sends more is not speaking the protocol."""

_BOM: Final = b"\xef\xbb\xbf"


class SseError(Exception):
    """The peer does not send server-sent events that can be read."""


class SseDecoder:
    """Server-sent events (WHATWG HTML standard, section 9.2.6), of which only `data` is of interest here.

    Feed it bytes as they come; it gives back the data of each event that they complete.
    `close` gives back the event that the stream's end cuts off, which the standard drops: it may be whole but for the
    blank line, and whether it is only its reader can tell.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._at_start = True
        self._after_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that are now complete, in order. Raises: SseError: an event is too large."""
        buffer = self._rest + chunk if self._rest else chunk
        if self._at_start:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self._rest = buffer
                return []
            buffer = buffer.removeprefix(_BOM)
            self._at_start = False
        if self._after_return and buffer:
            buffer = buffer.removeprefix(b"\n")
            self._after_return = False
        if b"\r" in buffer:
            # A carriage return ends the line at once; if a line feed follows in the next chunk, it belongs to it.
            self._after_return = buffer.endswith(b"\r")
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = buffer.split(b"\n")
        self._rest = lines.pop()
        events = self._read(lines)
        if self._size + len(self._rest) > self._max_event_bytes:
            raise SseError(f"an event has more than {self._max_event_bytes} bytes")
        return events

    def close(self) -> list[bytes]:
        """The data of the event that has begun, if it has any."""
        return self._read([self._rest, b""] if self._rest else [b""])

    def _read(self, lines: list[bytes]) -> list[bytes]:
        """Take lines; the data of the events that they end, if these have any."""
        events = []
        for line in lines:
            if line:
                field, _, value = line.partition(b":")
                if field == b"data":
                    value = value.removeprefix(b" ")
                    self._data.append(value)
                    self._size += len(value) + 1
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        return events


MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Of a response that is JSON."""

_START: Final = 16
"""Enough to know HTML, or a compressed body. More could be an answer, which is not logged."""
_BLANK: Final = b" \t\r\n\xef\xbb\xbf"
_STRUCTURE: Final = re.compile(rb'["\\\\{}\[\]]')
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]|[^"\[\]{}]+', re.DOTALL)
_BACKSLASH: Final = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')
_MAX_DEPTH: Final = 32
"""What is read lies at most 6 deep. Python's decoders give up at several hundred."""
_UNREADABLE: Final = object()
_strict: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder()


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
        self._is_json = False
        self._buffer = b""
        self._scanned = self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> list[Any]:
        """The documents that are now complete, in order."""
        if len(self.start) < _START:
            self.start = (self.start + data[:_START])[:_START]
        if self._is_json:
            self._buffer += data
            return self._json()
        if self._events is None:
            self._buffer += data
            if not (content := self._buffer.lstrip(_BLANK)):
                return []
            if content[:1] in b"{[":
                self._is_json = True
                return self._json()
            self._events, data = SseDecoder(), self._buffer
        try:
            return self._read(self._events.feed(data))
        except SseError as exc:
            raise ModelError(ErrorCode.MODEL_FAILED, str(exc)) from exc

    def close(self) -> list[Any]:
        """The documents that the body's end has cut off from what marks their end."""
        if self._events is not None:
            return self._read(self._events.close())
        self.unread += self._depth > 0
        return []

    def _read(self, events: list[bytes]) -> list[Any]:
        documents = []
        for event in events:
            # Some proxies put the prefix before what has it already.
            if self.is_over or not (event := event.removeprefix(b"data:").strip()):
                continue
            if event == b"[DONE]":
                self.is_over = True
            elif (document := decode(event)) is _UNREADABLE:
                self.unread += 1
            else:
                documents += document if isinstance(document, list) else [document]
        return documents

    def _json(self) -> list[Any]:
        """Cut the buffer where brackets close, outside of strings."""
        found, start = [], 0
        while mark := _STRUCTURE.search(self._buffer, self._scanned):
            self._scanned = mark.end()
            match mark[0]:
                case b"\\":
                    self._scanned += self._in_string
                case b'"':
                    self._in_string = not self._in_string and self._depth > 0
                case b"{" | b"[" if not self._in_string:
                    start = start if self._depth else mark.start()
                    self._depth += 1
                case b"}" | b"]" if not self._in_string and self._depth:
                    self._depth -= 1
                    if not self._depth:
                        found.append(self._buffer[start : mark.end()])
                        start = mark.end()
        # An escape may reach past the end; between two documents there is nothing to keep.
        self._scanned = max(self._scanned, len(self._buffer)) - start if self._depth else 0
        self._buffer = self._buffer[start:] if self._depth else b""
        if len(self._buffer) > MAX_BODY_BYTES:
            raise ModelError(ErrorCode.MODEL_FAILED, f"an answer of more than {MAX_BODY_BYTES} bytes")
        return self._read(found)


def decode(data: bytes) -> Any:
    """One JSON document. What cannot be read strictly is read leniently: a parser must not fail over what nobody reads.

    Bytes that are no UTF-8 come as Python's surrogate escapes, so that halves of a character can be joined.
    """
    try:
        return _strict.decode(data)
    except (ValueError, RecursionError):
        text = data.decode("utf-8", "surrogateescape")
    for prepare in (str, _escaped, _shallow):
        try:
            return json.loads(prepare(text), strict=False, parse_int=_whole)
        except (ValueError, RecursionError):
            pass
    return _UNREADABLE


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


def _escaped(text: str) -> str:
    """`text` with a second backslash for each that begins no escape of JSON."""
    return _BACKSLASH.sub(lambda found: found[0] if found[1] else r"\\", text)


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
