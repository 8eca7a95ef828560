"""Print the transcript of PROTOCOL.md, section 15: a real run of the front, the worker and the store, on virtual time.

    python scripts/transcript.py

An app asks two questions. It loses its connection in the middle of the streamed answer, comes back in the same
session, says how far it got, and the text goes on with the next character.
"""

import asyncio
from collections.abc import Iterable

from answerback.ports import Finish, Prompt
from answerback.protocol.codec import decode_client, encode
from answerback.protocol.frames import CancelMessage, ClientFrame, Hello, MessageDelta, ResumePoint, SendMessage
from answerback.testing import Backend, ScriptedModel, run_virtual
from answerback.testing.backend import Line, Peer

ANSWER = ("A WebSocket is ", "one connection ", "that stays open, ", "for both sides to speak.")
FIRST = "6b1f0e0a-7c0f-4b0e-9a53-0d6d7c1f2a11"
SECOND = "d5a4c7de-2f5b-4c36-8a0b-6f0b1d0c9e22"
THIRD = "f0a2b9c4-51d7-4f0e-b7a8-2f9c3e4d5a33"


def main() -> None:
    """Run it and print what went over the wire."""
    print("\n".join(run_virtual(_run())))


async def _run() -> list[str]:
    backend = Backend(model=ScriptedModel(_script, name="demo"))
    lines: list[str] = []

    lines.append("# One app connects: GET /?sessionId=desk&userId=user_001")
    peer = await backend.connect("L0S9aeCap5sA92b=", session="desk", user="user_001")
    told = _Told(peer, lines)
    await told.say(Hello(hello_id="h1"))

    lines.append("# The two-frame client's question: one frame out, the answer whole in one frame back.")
    await told.say(SendMessage(request_id=FIRST, user_id="user_001", message="Say hello."))
    await backend.queue.idle()
    told.heard()

    lines.append("# A streamed question in a conversation.")
    await told.say(SendMessage(request_id=SECOND, message="What is a WebSocket?", conversation_id="intro", stream=True))
    await asyncio.sleep(0.15)
    told.heard()
    had = sum(len(frame.delta) for frame in peer.frames if isinstance(frame, MessageDelta))

    lines.append(f"# The connection is lost after {had} code points. The model goes on.")
    await peer.leave()
    await asyncio.sleep(0.1)

    lines.append("# The app connects again with the same sessionId and says what it has.")
    again = await backend.connect("Mz3kQcCgoAMCJxA=", session="desk", user="user_001")
    told = _Told(again, lines)
    await told.say(Hello(hello_id="h2", resume=(ResumePoint(request_id=SECOND, attempt=1, offset=had),)))
    await backend.queue.idle()
    told.heard()

    lines.append("# The same request id once more: the stored answer from its start, no second run of the model.")
    await told.say(SendMessage(request_id=SECOND, message="What is a WebSocket?", conversation_id="intro", stream=True))

    lines.append("# A question that is cancelled while the model works on it.")
    await told.say(SendMessage(request_id=THIRD, message="Once more?", conversation_id="intro"))
    await asyncio.sleep(0.05)
    await told.say(CancelMessage(request_id=THIRD))
    await backend.queue.idle()
    told.heard()

    lines.append("# A frame that is none. The connection lives.")
    await told.say('{"action":"sendMesage"}')
    return lines


def _script(prompt: Prompt) -> Iterable[Line]:
    """A short answer, or one in four pieces, 100 ms apart."""
    if prompt.messages[-1].text == "Say hello.":
        return ("Hello.", Finish(input_tokens=3, output_tokens=2))
    pieces: list[Line] = []
    for piece in ANSWER:
        pieces += [piece, 0.1]
    return (*pieces, Finish(input_tokens=6, output_tokens=16))


class _Told:
    """Writes down what one peer says and hears."""

    def __init__(self, peer: Peer, lines: list[str]) -> None:
        self._peer = peer
        self._lines = lines
        self._heard = 0

    async def say(self, frame: ClientFrame | str) -> None:
        """Send, then note everything that came back at once."""
        text = frame if isinstance(frame, str) else encode(frame).decode()
        if not isinstance(frame, str):
            assert decode_client(text) == frame
        self._lines.append(f"-> {text}")
        await self._peer.say(text)
        self.heard()

    def heard(self) -> None:
        """Note what came since the last time."""
        new = self._peer.frames[self._heard :]
        self._heard += len(new)
        self._lines += [f"<- {encode(frame).decode()}" for frame in new]


if __name__ == "__main__":
    main()
