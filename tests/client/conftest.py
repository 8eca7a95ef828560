"""A gateway that does what a test's script says: real sockets, no clock."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Frame = dict[str, Any]

LIMITS = {
    "maxMessageBytes": 131072,
    "maxFrameBytes": 32768,
    "maxAnswerBytes": 262144,
    "requestsPerMinute": 10,
    "maxPending": 1000,
    "maxTokens": 1024,
    "idleTimeoutMs": 3600000,
    "answerTimeoutMs": 120000,
    "queueTimeoutMs": 600000,
}


def welcome(hello: Frame, *, model_info: Frame | None = None, features: tuple[str, ...] = (), **limits: int) -> Frame:
    return {
        "action": "welcome",
        "helloId": hello["helloId"],
        "connectionId": "c-1",
        "sessionId": "s-1",
        "userId": "user_001",
        "protocol": 1,
        "limits": {**LIMITS, **limits},
        "models": ["echo"],
        "features": features,
        "modelInfo": model_info or {},
    }


@dataclass(eq=False)
class Peer:
    """One connection as the server sees it."""

    socket: ServerConnection
    path: str
    headers: dict[str, str]
    greets: bool
    features: tuple[str, ...] = ()
    inbox: asyncio.Queue[Frame] = field(default_factory=asyncio.Queue)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    hellos: list[Frame] = field(default_factory=list)

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self.socket.send(json.dumps(frame))

    async def welcome(self, hello: Frame, *, model_info: Frame | None = None, **limits: int) -> None:
        await self.send(welcome(hello, model_info=model_info, features=self.features, **limits))

    async def cut(self) -> None:
        """Break the connection without a word."""
        self.socket.transport.abort()
        await self.closed.wait()

    async def accept(self, request_id: str, position: int = 0, conversation: str = "s-1") -> None:
        await self.send(
            {
                "action": "messageAccepted",
                "requestId": request_id,
                "conversationId": conversation,
                "position": position,
            }
        )

    async def start(self, request_id: str, attempt: int = 1) -> None:
        await self.send({"action": "messageStarted", "requestId": request_id, "attempt": attempt})

    async def say(self, request_id: str, offset: int, text: str, attempt: int = 1) -> None:
        frame = {"requestId": request_id, "attempt": attempt, "offset": offset, "delta": text}
        await self.send({"action": "messageDelta", **frame})

    async def end(self, request_id: str, length: int, *, attempt: int = 1, **more: Any) -> None:
        frame = {"status": "completed", "response": None, "attempt": attempt, "length": length, **more}
        await self.send({"action": "messageResponse", "requestId": request_id, **frame})

    async def hold(self, number: int, conversation: str | None = "c", turn: str | None = None) -> Frame:
        """Take the next frame, which must be a `watch`, and answer it."""
        watch = await self.get("watch")
        assert (watch["number"], watch.get("conversationId")) == (number, conversation)
        about = {"requestId": watch["requestId"], "conversationId": conversation, "number": number, "turn": turn}
        await self.send({"action": "watching", **{name: value for name, value in about.items() if value is not None}})
        return watch

    async def ask(self, request_id: str, conversation: str = "c") -> None:
        """Show a question that another session has asked."""
        frame = {"requestId": request_id, "conversationId": conversation, "question": f"{request_id}?"}
        await self.send({"action": "messageAsked", **frame, "model": "echo", "acceptedAt": "2026-01-01T00:00:00Z"})

    async def answer(self, request_id: str, text: str, attempt: int = 1) -> None:
        """The whole of an unstreamed answer."""
        await self.end(request_id, len(text), attempt=attempt, response=text)

    async def get(self, action: str) -> Frame:
        """The next frame, which must be this one; a `hello` that resumes nothing is answered elsewhere."""
        frame = await self.inbox.get()
        assert frame["action"] == action, frame
        return frame

    async def read(self) -> None:
        try:
            async for message in self.socket:
                frame = json.loads(message)
                if frame["action"] == "hello":
                    self.hellos.append(frame)
                    if self.greets and not frame.get("resume"):
                        await self.welcome(frame)
                        continue
                await self.inbox.put(frame)
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()


@dataclass(eq=False)
class ScriptedGateway:
    """`peers` gets every connection. `refuse`: HTTP statuses for the next handshakes. `features`: of `welcome`."""

    server: Server | None = None
    peers: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue)
    refuse: list[int] = field(default_factory=list)
    handshakes: list[Request] = field(default_factory=list)
    greets: bool = True
    features: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"ws://127.0.0.1:{next(iter(self.server.sockets)).getsockname()[1]}"

    async def peer(self) -> Peer:
        return await self.peers.get()

    async def handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        peer = Peer(
            socket=socket,
            path=socket.request.path,
            headers=dict(socket.request.headers.raw_items()),
            greets=self.greets,
            features=self.features,
        )
        await self.peers.put(peer)
        await peer.read()

    def check(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes.append(request)
        if self.refuse:
            return connection.respond(self.refuse.pop(0), "refused\n")
        return None


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    scripted = ScriptedGateway()
    async with serve(
        scripted.handle,
        "127.0.0.1",
        0,
        process_request=scripted.check,
        compression=None,
        max_size=2**20,
        ping_interval=None,
        close_timeout=0.2,
    ) as server:
        scripted.server = server
        yield scripted
        server.close(close_connections=True)
