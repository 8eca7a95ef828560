"""The two pieces of RFC 6455 framing that aiohttp leaves to its user.

Outwards: a frame as one bytes object, so that several can leave in one write. Inwards: a server must refuse a frame
that is not masked (section 5.1), which aiohttp's reader accepts.
"""

import struct
from typing import Final

TEXT: Final = 0x1
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4

REFUSED: Final = b"\xff\xff"
"""The start of a frame with every reserved bit set: aiohttp's reader answers it with close code 1002."""


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One whole, unmasked frame (section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", _FIN | opcode, 126, size) + payload
    return struct.pack("!BBQ", _FIN | opcode, 127, size) + payload


class MaskGuard:
    """Follows the frame headers in a stream of bytes, however it is cut, and stops it at the first unmasked frame."""

    __slots__ = ("_held", "_refused", "_skip")

    def __init__(self) -> None:
        self._held = b""
        self._skip = 0
        self._refused = False

    def feed(self, data: bytes) -> bytes:
        """What of the bytes so far may go to the reader. A header that is not whole is held back.

        In place of an unmasked frame comes REFUSED, and after it nothing.
        """
        if self._refused:
            return b""
        if self._held:
            data = self._held + data
            self._held = b""
        size = len(data)
        at = self._skip
        while at < size:
            left = size - at
            second = data[at + 1] if left >= 2 else _MASKED
            if not second & _MASKED:
                self._refused = True
                return data[:at] + REFUSED
            length = second & 0x7F
            need = 2 if length < 126 else 4 if length == 126 else 10
            if left < need:
                self._held = data[at:]
                self._skip = 0
                return data[:at]
            if need > 2:
                length = int.from_bytes(data[at + 2 : at + need])
            at += need + _MASK_BYTES + length
        self._skip = at - size
        return data


class HeadWatch:
    """Notices bytes that a client sends after its upgrade request without waiting for the answer."""

    __slots__ = ("_ended", "_last", "too_early")

    def __init__(self) -> None:
        self._last = b""
        self._ended = False
        self.too_early = False

    def check(self, data: bytes) -> None:
        """Look at the next piece of the connection's bytes."""
        if self._ended:
            self.too_early = self.too_early or bool(data)
            return
        data = self._last + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._last = data[-3:]
            return
        self._ended = True
        self._last = b""
        self.too_early = end + 4 < len(data)
