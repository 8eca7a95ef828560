"""Apps without an SDK that ask, and watch what others ask: what they were shown, put together as PROTOCOL.md says."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect


@dataclass
class App:
    """One socket, and what came over it by request."""

    socket: ClientConnection
    texts: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    endings: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0

    async def send(self, action: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"action": action, **fields}, ensure_ascii=False))

    async def ask(self, request_id: str, message: str, **more: Any) -> None:
        await self.send(
            "sendMessage",
            **{"requestId": request_id, "message": message, "conversationId": "c", "stream": True, **more},
        )

    async def watch(self, conversation: str | None = "c", **more: Any) -> dict[str, Any]:
        """Watch, with what is there of each unfinished request; the `watching`, or the error."""
        self.number += 1
        points = [
            {"requestId": name, "attempt": self.attempts.get(name, 0), "offset": len(self.texts.get(name, ""))}
            for name in self.asked
            if name not in self.endings
        ]
        name = f"watch-{self.number}"
        where = {} if conversation is None else {"conversationId": conversation, "resume": points}
        await self.send("watch", requestId=name, number=self.number, **where, **more)
        await self.until(lambda: any(frame.get("requestId") == name for frame in self.others))
        return next(frame for frame in self.others if frame.get("requestId") == name)

    async def until(self, is_there: Callable[[], bool]) -> None:
        """Read until that is so."""
        while not is_there():
            self.take(json.loads(await self.socket.recv()))

    async def ended(self, *request_ids: str) -> None:
        await self.until(lambda: set(request_ids) <= set(self.endings))

    def take(self, frame: dict[str, Any]) -> None:
        """One frame. Raises: AssertionError: it contradicts what came before, or leaves a gap."""
        action, name = frame["action"], frame.get("requestId")
        if action == "messageAsked":
            self.asked[name] = frame
        elif action == "messageStarted":
            self._begin(name, frame["attempt"])
        elif action == "messageDelta":
            self._begin(name, frame["attempt"])
            if frame["attempt"] == self.attempts[name]:
                text, offset = self.texts.get(name, ""), frame["offset"]
                assert offset <= len(text), f"a gap in {name}"
                known = text[offset : offset + len(frame["delta"])]
                assert frame["delta"].startswith(known), f"another text of {name}"
                self.texts[name] = text[:offset] + frame["delta"] + text[offset + len(frame["delta"]) :]
        elif action == "messageResponse":
            assert self.endings.setdefault(name, frame) == frame, "two endings"
        else:
            self.others.append(frame)

    def _begin(self, name: str, attempt: int) -> None:
        if attempt > self.attempts.get(name, 0):
            self.attempts[name], self.texts[name] = attempt, ""

    def moved_to(self, socket: ClientConnection) -> "App":
        """The same app on another connection: it knows what it has, and counts again."""
        return App(socket, self.texts, self.attempts, self.asked, self.endings)


@asynccontextmanager
async def app(url: str, session: str, *, user: str = "kim", **options: Any) -> AsyncIterator[App]:
    """An app on a connection of its own."""
    async with connect(f"{url}/?userId={user}&sessionId={session}", max_size=None, **options) as socket:
        yield App(socket)
