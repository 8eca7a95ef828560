"""A sender that keeps what was sent, and connections that can be slow or gone."""

import asyncio
from collections import defaultdict

from answerback.core.request import RequestKey
from answerback.ports import Gone, Sent, Slow
from answerback.protocol.frames import ServerFrame


class ScriptedSender:
    """ports.Sender without a network. A connection is open from `open` until `drop` or `close`."""

    def __init__(self, *, parks: bool = True) -> None:
        self.frames: dict[str, list[ServerFrame]] = defaultdict(list)
        self.closed: set[str] = set()
        self.slow: set[str] = set()
        self.parked: list[tuple[str, RequestKey, int, int]] = []
        self._open: set[str] = set()
        self._parks = parks
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()

    def open(self, connection_id: str) -> None:
        """From now on frames reach it."""
        self._open.add(connection_id)

    def drop(self, connection_id: str) -> None:
        """The network is gone under it."""
        self._open.discard(connection_id)
        self._drained.set()

    def drain(self, connection_id: str) -> None:
        """A slow connection reads again."""
        self.slow.discard(connection_id)
        self._drained.set()

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        if connection_id not in self._open:
            return Gone()
        if connection_id in self.slow:
            return Slow()
        self.frames[connection_id].append(frame)
        self._arrived.set()
        return Sent()

    async def ready(self, connection_id: str) -> None:
        while connection_id in self._open and connection_id in self.slow:
            self._drained.clear()
            await self._drained.wait()

    async def close(self, connection_id: str) -> None:
        self.closed.add(connection_id)
        self.drop(connection_id)

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        if self._parks:
            self.parked.append((connection_id, key, attempt, offset))
        return self._parks

    async def arrival(self) -> None:
        """Wait for the next frame on any connection."""
        self._arrived.clear()
        await self._arrived.wait()
