"""Targets `client_frames` and `server_frames`: one message from a peer."""

import re

from answerback.core.keys import fingerprint
from answerback.protocol.codec import FrameError, decode_client, decode_server, encode
from answerback.protocol.frames import VISIBLE, Error, SendMessage
from answerback.protocol.limits import MAX_ID_LENGTH

_UNSTORED = frozenset({"timestamp", "traceparent", "token", "before"})
"""Fields that reach no store as they are; in all others U+0000 would be an error of PostgreSQL."""

_OWN_WORDS = re.compile(r"[ -~]{10,400}")
_FOREIGN_WORDS = re.compile(
    r"msgspec|missing required|malformed|truncated|Expected `|\$\.|byte \d|Traceback|line \d", re.IGNORECASE
)


def client_frames(data: bytes) -> None:
    """A frame comes back equal after encoding; anything else is a FrameError whose sentence is our own."""
    for form in (
        data,
        data.decode("utf-8", "replace"),
        data.decode("utf-16-le", "surrogatepass") if len(data) % 2 == 0 else "",
    ):
        try:
            frame = decode_client(form)
        except FrameError as exc:
            _check_told(exc)
            continue
        if isinstance(frame, SendMessage):
            assert len(fingerprint(frame)) == 64
        assert encode(decode_client(encode(frame))) == encode(frame)
        assert not any("\0" in str(getattr(frame, name)) for name in frame.__struct_fields__ if name not in _UNSTORED)


def server_frames(data: bytes) -> None:
    """The same for the client's side."""
    try:
        frame = decode_server(data)
    except FrameError as exc:
        _check_told(exc)
        return
    if frame is not None:
        assert decode_server(encode(frame)) == frame


def _check_told(error: FrameError) -> None:
    """What the peer is told can be sent, and has nothing in it of a library or of the message."""
    assert _OWN_WORDS.fullmatch(error.detail), error.detail
    assert not _FOREIGN_WORDS.search(error.detail), error.detail
    for name in (error.request_id, error.user_id):
        assert name is None or (len(name) <= MAX_ID_LENGTH and re.match(VISIBLE, name))
    encode(Error(code=error.code, message=error.detail, request_id=error.request_id))
