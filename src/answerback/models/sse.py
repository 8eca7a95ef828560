"""Server-sent events: bytes, split anywhere, to the data of events. Pure.

Source: the WHATWG HTML standard, section 9.2.6 "Interpreting an event stream". Only `data` is of interest here.
"""

from typing import Final

MAX_EVENT_BYTES: Final = 1024 * 1024
"""No chunk of an answer comes near this; a peer that sends more is not speaking the protocol."""

_BOM: Final = b"\xef\xbb\xbf"


class SseError(Exception):
    """The peer does not send server-sent events that can be read."""


class SseDecoder:
    """Feed it bytes as they come; it gives back the data of each event that they complete.

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
        events = [data for line in lines if (data := self._line(line)) is not None]
        if self._size + len(self._rest) > self._max_event_bytes:
            raise SseError(f"an event has more than {self._max_event_bytes} bytes")
        return events

    def close(self) -> list[bytes]:
        """The data of the event that has begun, if it has any."""
        if self._rest:
            self._line(self._rest)
        event = self._line(b"")
        return [] if event is None else [event]

    def _line(self, line: bytes) -> bytes | None:
        """Take one line; the data, if it ends an event that has any."""
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data) if data else None
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
        return None
