"""Names that leave the process: the ordering key of a request, the fingerprint of its payload.

Both are SHA-256 over length-prefixed parts, so that no choice of ids makes two different things equal, and no user's
text stands in a queue's message id.
"""

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import Final

import msgspec
from msgspec.structs import astuple

from answerback.protocol.frames import SendMessage

_sorted: Final = msgspec.json.Encoder(order="deterministic")
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def normal_id(text: str) -> str:
    """The id of a user or conversation as it is compared: in NFC, so that what looks alike is alike.

    A request id is the client's own and is never changed.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def digest(*parts: str | None) -> str:
    """Hexadecimal SHA-256 of the parts. None differs from the empty string."""
    prefixed = []
    for part in parts:
        if part is None:
            prefixed.append(b"-;")
        else:
            data = part.encode()
            prefixed.append(b"%d:%b" % (len(data), data))
    return hashlib.sha256(b"".join(prefixed)).hexdigest()


@lru_cache(maxsize=8192)
def ordering_key(user_id: str, conversation_id: str | None) -> str:
    """Requests with one key run one at a time, in order: the key of the user's conversation, else of the user."""
    return digest("order", user_id, conversation_id)


def kinds(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds of parts of a question as they are kept: in one order, each once."""
    return tuple(sorted(set(parts)))


def traceparent(given: object) -> str | None:
    """The name of the span that a question belongs to, if it is one."""
    return given if isinstance(given, str) and _TRACEPARENT.fullmatch(given) else None


def fingerprint(frame: SendMessage) -> str:
    """What makes a repeated request id the same request. `timestamp`, `traceparent` and `stream` do not belong to it.

    A later field follows as (name, value), and only if it has something to say: the digests of frames without it stay,
    and so a question that is repeated over an upgrade is the same question.
    """
    max_tokens = None if frame.max_tokens is None else str(frame.max_tokens)
    later: list[str] = []
    if frame.parts:
        later += ("parts", "\n".join(kinds(frame.parts)))
    if frame.attachments:
        later += ("attachments", *(part for one in frame.attachments for part in map(str, astuple(one))))
    if frame.format is not None:
        later += ("format", _sorted.encode(frame.format).decode())
    return digest(
        "payload", frame.message, frame.conversation_id, frame.model, frame.system, max_tokens, frame.replaces, *later
    )
