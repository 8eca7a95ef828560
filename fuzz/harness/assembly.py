"""Target `assembly`: frames about one request, in any order, from honest servers and from liars."""

from answerback.core.assembly import Assembly, Broken, Ended, Restarted, Text
from answerback.protocol.frames import MessageDelta, MessageResponse, MessageStarted, Status
from harness.reading import Script
from harness.truth import AnswerFrame, honest, truth

_MAX_BYTES = 64


def assembly(data: bytes) -> None:
    """It never raises; the text shown is the text held; an honest server's is a prefix of its one attempt's answer."""
    script = Script(data)
    streamed = bool(script.byte() & 1)
    held = Assembly(streamed=streamed, max_bytes=_MAX_BYTES)
    shown = ""
    is_honest = True
    attempt = 0
    while script:
        if script.byte() < 224:
            frame: AnswerFrame = honest(script, "a", streamed=streamed)
        else:
            frame = _lie(script)
            is_honest = False
        was_over = held.is_over
        events = held.receive(frame)
        assert not (was_over and events), "an event after the end"
        for event in events:
            match event:
                case Restarted():
                    shown = ""
                case Text():
                    assert event.offset == len(shown)
                    shown += event.delta
                    assert event.snapshot == shown
                case Ended():
                    assert event is events[-1]
                    assert event.text == shown
                    if event.response.status is Status.COMPLETED:
                        assert len(shown) == event.response.length
                case Broken():
                    assert event is events[-1]
                    assert not is_honest, event.detail
        assert held.text == shown
        assert held.length == len(shown)
        assert len(shown.encode()) <= _MAX_BYTES
        assert held.attempt >= attempt
        attempt = held.attempt
        if is_honest and shown:
            assert truth("a", attempt).startswith(shown)


def _lie(script: Script) -> AnswerFrame:
    attempt, number = script.byte() % 5, script.byte()
    match script.byte() % 3:
        case 0:
            return MessageStarted(request_id="a", attempt=attempt)
        case 1:
            return MessageDelta(
                request_id="a", attempt=attempt, offset=number, delta=script.block().decode("utf-8", "replace")
            )
        case _:
            status = script.pick(tuple(Status))
            text = script.pick((None, script.block().decode("utf-8", "replace")))
            length = script.pick((number, 2**53 - 1, len(text or "")))
            return MessageResponse(request_id="a", status=status, response=text, attempt=attempt, length=length)
