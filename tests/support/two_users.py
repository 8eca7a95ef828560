"""Two users at one gateway: what the tests of isolation speak with."""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from answerback.auth import make_token
from answerback.gateway.app import Gateway

SECRET = "0123456789abcdef0123456789abcdef"
SESSION = "session-of-both"
Frame = dict[str, Any]


class Peer:
    """One connection of somebody."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.texts: list[str] = []
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for text in self.socket:
                async with self._news:
                    self.texts.append(str(text))
                    self._news.notify_all()
        except ConnectionClosed:
            pass

    async def say(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def until(self, action: str, **fields: Any) -> Frame:
        """The first frame of this kind with these fields."""
        wanted = {"action": action, **fields}.items()
        return await self.first(lambda frame: wanted <= frame.items())

    async def first(self, is_wanted: Callable[[Frame], bool]) -> Frame:
        """The first frame that is wanted."""
        found: list[Frame] = []

        def has_come() -> bool:
            found[:] = filter(is_wanted, map(json.loads, self.texts))
            return bool(found)

        async with self._news, asyncio.timeout(20):
            await self._news.wait_for(has_come)
        return found[0]

    async def count(self, number: int) -> None:
        """Wait until so many frames have come."""
        async with self._news, asyncio.timeout(20):
            await self._news.wait_for(lambda: len(self.texts) >= number)

    async def close(self) -> list[str]:
        """Everything that came, in order."""
        await self.socket.close()
        await self._reader
        return self.texts


@dataclass(slots=True)
class Site:
    """The gateway, and how anybody connects to it."""

    gateway: Gateway
    has_tokens: bool
    data_dir: Path
    peers: list[Peer] = field(default_factory=list)

    def token(self, user: str) -> str:
        return make_token(user_id=user, secret=SECRET, ttl_s=3600, now_s=int(time.time()))

    def headers(self, user: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user)}"} if self.has_tokens else {}

    async def join(self, user: str, session: str = SESSION) -> Peer:
        query = f"sessionId={session}" + ("" if self.has_tokens else f"&userId={user}")
        socket = await connect(
            f"{self.gateway.url}/?{query}", additional_headers=self.headers(user), compression=None, proxy=None
        )
        self.peers.append(Peer(socket))
        return self.peers[-1]


@dataclass(slots=True)
class Victim:
    """Ann: her connection, and an id of hers in every state."""

    peer: Peer
    connection_id: str
    requests: dict[str, str]
    conversations: dict[str, str]


def unlike(name: str) -> str:
    """An id that nobody has, as long as this one."""
    return str(uuid.uuid4())[: len(name)].ljust(len(name), "x")


def neutral(text: str, name: str) -> str:
    """A message without the id that it is about, and without times and connection ids."""
    text = text.replace(name, "ID")
    text = re.sub(r'"timing":\{[^}]*\}', '"timing":{}', text)
    text = re.sub(r'"connectionId":"[^"]*"', '"connectionId":""', text)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
