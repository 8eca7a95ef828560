"""What an honest server would say about a request, and how a fuzzer makes it say it out of order."""

from answerback.protocol.frames import MessageDelta, MessageResponse, MessageStarted, Status
from harness.reading import Script

IDS = ("a", "b", "c", "d")
AnswerFrame = MessageStarted | MessageDelta | MessageResponse


def truth(request_id: str, attempt: int) -> str:
    """The whole text of one attempt: unlike that of any other request and attempt at every place."""
    length = (attempt * 7 + ord(request_id)) % 23
    return "".join(f"{request_id}{attempt}\U0001f600{at}." for at in range(length))[:length]


def honest(script: Script, request_id: str, *, streamed: bool) -> AnswerFrame:
    """Any frame that an honest server may send about the request at some time."""
    attempt = 1 + script.byte() % 3
    text = truth(request_id, attempt)
    match script.byte() % 4:
        case 0:
            return MessageStarted(request_id=request_id, attempt=attempt)
        case 1 | 2:
            offset = script.byte() % (len(text) + 1)
            delta = text[offset : offset + script.byte() % 8]
            return MessageDelta(request_id=request_id, attempt=attempt, offset=offset, delta=delta)
        case _:
            status = script.pick((Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.CANCELLED))
            is_whole = status is Status.COMPLETED and not streamed
            return MessageResponse(
                request_id=request_id,
                status=status,
                response=text if is_whole else None,
                attempt=attempt,
                length=len(text),
            )
