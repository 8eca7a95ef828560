"""Target `sse`: server-sent events from a model's server, cut anywhere."""

import re

from answerback.models.documents import SseDecoder, SseError
from harness.reading import Script, cut

_LIMIT = 40


def sse(data: bytes) -> None:
    """Any cut gives the events that the standard's grammar gives for the whole; a limit is kept."""
    script = Script(data)
    sizes = script.block()
    stream = script.rest()
    decoder = SseDecoder()
    got = [event for piece in cut(stream, sizes) for event in decoder.feed(piece)]
    assert got == _reference(stream)

    limited = SseDecoder(max_event_bytes=_LIMIT)
    told = []
    try:
        for piece in cut(stream, b"\x01"):
            told += limited.feed(piece)
    except SseError:
        assert len(stream) > _LIMIT
    else:
        assert told == got
    assert got[: len(told)] == told
    assert all(len(event) <= _LIMIT for event in told)


def _reference(stream: bytes) -> list[bytes]:
    """The grammar of the standard (section 9.2.5) as patterns over the whole stream."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines = [line for line, end in re.findall(rb"([^\r\n]*)(\r\n|\r|\n|\Z)", stream) if end]
    events: list[bytes] = []
    data: list[bytes] = []
    for line in lines:
        if not line and data:
            events.append(b"\n".join(data))
        if not line:
            data = []
        elif found := re.fullmatch(rb"data(?:: ?(.*))?", line, re.DOTALL):
            data.append(found[1] or b"")
    return events
