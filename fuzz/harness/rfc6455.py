"""A reader of client frames by RFC 6455, slow and simple: what the gateway's is compared with.

In one place it follows aiohttp's reader and not the letter: after fragments without a byte, a whole message of its own
is let pass, where section 5.4 wants a continuation. No message is mistaken for another by that.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Received:
    """What a server must have understood: whole text messages, and whether it may go on reading."""

    messages: list[str] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    ended: str | None = None


def read(stream: bytes, *, max_bytes: int) -> Received:
    """Everything up to the end of the stream, the peer's close, or the first breach."""
    parsed = Received()
    opened = 0
    message = b""
    at = 0
    while len(stream) - at >= 2:
        first, second = stream[at], stream[at + 1]
        opcode, is_final, length = first & 15, bool(first & 0x80), second & 0x7F
        parsed.ended = _breach(first, second, opened=opened, has_text=bool(message))
        wide = {126: 2, 127: 8}.get(length, 0)
        if parsed.ended or len(stream) - at < 2 + wide:
            break
        if wide:
            length = int.from_bytes(stream[at + 2 : at + 2 + wide])
        if opcode < 8 and length + len(message) > max_bytes:
            parsed.ended = "too large"
            break
        start = at + 2 + wide + 4
        if len(stream) < start + length:
            break
        key = stream[start - 4 : start]
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(stream[start : start + length]))
        at = start + length
        if opcode == 9:
            parsed.pings.append(payload)
        elif opcode == 8:
            parsed.ended = "close"
        elif opcode < 8 and not is_final:
            opened = opcode or opened
            message += payload
        elif opcode < 8:
            parsed.ended = _take(parsed, opcode or opened, message + payload)
            opened = opened if opcode else 0
            message = b""
        if parsed.ended:
            break
    return parsed


def _take(parsed: Received, opcode: int, payload: bytes) -> str | None:
    if opcode == 2:
        return "binary"
    try:
        parsed.messages.append(payload.decode())
    except UnicodeDecodeError:
        return "bad UTF-8"
    return None


def _breach(first: int, second: int, *, opened: int, has_text: bool) -> str | None:
    opcode, is_final, length = first & 15, first & 0x80, second & 0x7F
    if first & 0x70 or opcode in {*range(3, 8), *range(11, 16)}:
        return "reserved"
    if not second & 0x80:
        return "unmasked"
    if opcode >= 8 and (not is_final or length > 125):
        return "control frame"
    if opcode in (1, 2) and (has_text or (opened and not is_final)):
        return "inside another message"
    return "continuation of nothing" if opcode == 0 and not opened else None
