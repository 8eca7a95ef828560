"""A WebSocket client for load: whole text frames, nothing more, at about 2 µs of CPU each.

Not for applications: it has no fragments outwards, no back-pressure and no reconnecting. What it does not understand
ends the connection with a clear reason, so that a server is never measured by answers that were not read.
"""

import asyncio
import base64
import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from typing import Final, cast
from urllib.parse import urlsplit

from answerback.outbound import tls_context

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_FIN: Final = 0x80
_MASKED: Final = 0x80
_CONTINUATION: Final = 0x0
TEXT: Final = 0x1
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_MAX_HEAD_BYTES: Final = 16 * 1024
_NORMAL_CLOSURE: Final = struct.pack("!H", 1000)


class LoadConnectionError(ConnectionError):
    """The server cannot be reached, refused the upgrade, or broke off; the text says which."""


class Masker:
    """Frames with one key for all of a connection: a server has the same work with it, the client has less."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def frame(self, payload: bytes, opcode: int = TEXT) -> bytes:
        """One whole masked frame (RFC 6455, section 5.2)."""
        size = len(payload)
        if size < 126:
            head = bytes((_FIN | opcode, _MASKED | size))
        elif size < 65_536:
            head = struct.pack("!BBH", _FIN | opcode, _MASKED | 126, size)
        else:
            head = struct.pack("!BBQ", _FIN | opcode, _MASKED | 127, size)
        return head + self._key + _xor(payload, self._key)


class FrameReader:
    """The frames in a stream of bytes, however it is cut: (opcode, payload), fragments joined.

    `masked`: the stream is a client's, not a server's.
    """

    def __init__(self, *, masked: bool = False) -> None:
        self._masked = _MASKED if masked else 0
        self._held = b""
        self._fragments: list[bytes] = []

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that these bytes complete. Raises: LoadConnectionError: this side may not send that."""
        if self._held:
            data = self._held + data
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            if second & _MASKED != self._masked:
                raise LoadConnectionError("the server masks its frames, or the client does not")
            size = second & 0x7F
            start = at + 2
            if size == 126:
                start = at + 4
                size = int.from_bytes(data[at + 2 : start])
            elif size == 127:
                start = at + 10
                size = int.from_bytes(data[at + 2 : start])
            key = start
            if self._masked:
                start += 4
            if end < start + size:
                break
            payload = data[start : start + size]
            self._take(first, _xor(payload, data[key:start]) if self._masked else payload, frames)
            at = start + size
        self._held = data[at:]
        return frames

    def _take(self, first: int, payload: bytes, frames: list[tuple[int, bytes]]) -> None:
        opcode = first & 0x0F
        if first & 0x70:
            raise LoadConnectionError("the server uses an extension that was not agreed on")
        if opcode >= _CLOSE or (first & _FIN and opcode != _CONTINUATION):
            frames.append((opcode, payload))
            return
        if (opcode == _CONTINUATION) != bool(self._fragments):
            raise LoadConnectionError("the server sends fragments in a wrong order")
        self._fragments.append(payload)
        if first & _FIN:
            frames.append((TEXT, b"".join(self._fragments)))
            self._fragments = []


class LoadConnection(asyncio.Protocol):
    """One open socket. `on_text` gets each message; `on_close` the reason, once, when the connection ends."""

    def __init__(self, *, head: bytes, accept: bytes) -> None:
        self._head = head
        self._accept = accept
        self._masker = Masker(os.urandom(4))
        self._reader = FrameReader()
        self._response = b""
        self._transport: asyncio.Transport | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_open = False
        self._ended: str | None = None
        self._on_close: Callable[[str], None] = _ignore
        self.on_text: Callable[[bytes], None] = _ignore

    async def opened(self) -> None:
        """Wait for the end of the handshake. Raises: LoadConnectionError."""
        await self._opened

    @property
    def on_close(self) -> Callable[[str], None]:
        """Called with the reason; at once if the connection has ended already."""
        return self._on_close

    @on_close.setter
    def on_close(self, notify: Callable[[str], None]) -> None:
        self._on_close = notify
        if self._ended is not None:
            notify(self._ended)

    def send(self, text: bytes) -> None:
        """Send one message. Raises: LoadConnectionError: the connection is not open."""
        if not self._is_open or self._transport is None:
            raise LoadConnectionError("the connection is not open")
        self._transport.write(self._masker.frame(text))

    def close(self) -> None:
        """Close gracefully; `on_close` is not called."""
        self._on_close = _ignore
        if self._transport is not None and not self._transport.is_closing():
            if self._is_open:
                self._transport.write(self._masker.frame(_NORMAL_CLOSURE, _CLOSE))
            self._transport.close()
        self._is_open = False

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        try:
            if not self._is_open:
                data = self._upgrade(data)
            for opcode, payload in self._reader.feed(data):
                self._take(opcode, payload)
        except LoadConnectionError as exc:
            self._end(str(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._end("the server closed the connection")

    def _upgrade(self, data: bytes) -> bytes:
        """Read the answer to the upgrade request; what follows it."""
        self._response += data
        head, found, rest = self._response.partition(b"\r\n\r\n")
        if not found:
            if len(self._response) > _MAX_HEAD_BYTES:
                raise LoadConnectionError("the server's answer to the upgrade request does not end")
            return b""
        status = head.partition(b"\r\n")[0].decode("latin-1")
        if status.split(" ")[1:2] != ["101"]:
            reason = rest.decode("utf-8", "replace").strip()
            raise LoadConnectionError(f"the server refused the connection ({status}{': ' if reason else ''}{reason})")
        if self._accept not in head:
            raise LoadConnectionError("the server's Sec-WebSocket-Accept is wrong")
        self._response = b""
        self._is_open = True
        if not self._opened.done():
            self._opened.set_result(None)
        return rest

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self.on_text(payload)
        elif opcode == _PING and self._transport is not None:
            self._transport.write(self._masker.frame(payload, _PONG))
        elif opcode == _CLOSE:
            code = int.from_bytes(payload[:2])
            reason = payload[2:].decode("utf-8", "replace")
            raise LoadConnectionError(f"the server closed the connection ({code}{': ' if reason else ''}{reason})")
        elif opcode != _PONG:
            raise LoadConnectionError("the server sent a frame that is not text")

    def _end(self, reason: str) -> None:
        self._is_open = False
        if not self._opened.done():
            self._opened.set_exception(LoadConnectionError(reason))
        if self._transport is not None:
            self._transport.close()
        if self._ended is None:
            self._ended = reason
            self._on_close(reason)


async def open_connection(url: str, *, headers: Mapping[str, str] | None = None) -> LoadConnection:
    """Connect to a `ws://` or `wss://` URL. Raises: LoadConnectionError."""
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise LoadConnectionError(f"{url} is not a ws:// or wss:// URL")
    key = base64.b64encode(os.urandom(16))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key.decode()}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: LoadConnection(head=head, accept=accept),
            parts.hostname,
            parts.port or (443 if secure else 80),
            ssl=tls_context() if secure else None,
        )
    except OSError as exc:
        raise LoadConnectionError(f"nothing answers at {url} ({exc.strerror or type(exc).__name__})") from exc
    try:
        await connection.opened()
    except BaseException:
        connection.close()
        raise
    return connection


def _xor(payload: bytes, key: bytes) -> bytes:
    """Masked or unmasked (RFC 6455, section 5.3)."""
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


def _ignore(_: object) -> None:
    """The default callback."""
