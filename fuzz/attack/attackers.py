"""Connections that send what `arsenal` makes, and begin again whenever the gateway has had enough of them."""

import asyncio
import base64
import os
import random
import socket
from collections import Counter
from typing import Final
from urllib.parse import urlsplit

from attack.arsenal import Arsenal

_ENDING_EVERY: Final = 400
"""Frames on a connection before its breach, in the mean."""

_VOLLEY: Final = 64
_TIMEOUT_S: Final = 0.5
_JUNK_HEADS: Final = (
    b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nUpgrade: websocket\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\nx",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 9_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: short\r\n\r\n",
    b"\r\n" * 40,
    b"",
)


class Attackers:
    """`count` connections at a time until `frames` frames were sent. `ends` counts how their connections ended."""

    def __init__(self, *, url: str, frames: int, count: int, seed: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._frames = frames
        self.count = count
        self._seed = seed
        self._arsenals = [Arsenal(random.Random(f"{seed} {number}")) for number in range(count)]
        self.ends: Counter[str] = Counter()

    @property
    def sent(self) -> Counter[str]:
        """Frames by kind."""
        return sum((arsenal.sent for arsenal in self._arsenals), Counter[str]())

    @property
    def total(self) -> int:
        """Frames so far."""
        return sum(arsenal.sent.total() for arsenal in self._arsenals)

    async def run(self) -> None:
        """Attack until every frame is sent."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self._attack(number))

    async def _attack(self, number: int) -> None:
        rng = random.Random(f"{self._seed} attacker {number}")
        share = self._frames // self.count
        arsenal = self._arsenals[number]
        while arsenal.sent.total() < share:
            if rng.random() < 0.1:
                await self._knock(rng)
            # Some come back as the same user and session, others are never seen again.
            name = f"attacker-{number}" if rng.random() < 0.5 else f"once-{number}-{rng.randrange(10**9)}"
            session = f"&sessionId=session-{number}" if rng.random() < 0.5 else ""
            try:
                await self._connection(f"/?userId={name}{session}", arsenal, rng)
            except (OSError, asyncio.IncompleteReadError) as exc:
                self.ends[f"cut by the gateway ({type(exc).__name__})"] += 1

    async def _knock(self, rng: random.Random) -> None:
        """An opening that is no upgrade request."""
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(rng.choice(_JUNK_HEADS))
            if rng.random() < 0.5:
                writer.write(rng.randbytes(100))
            async with asyncio.timeout(rng.random() * 0.2):
                while await reader.read(65_536):
                    pass
            self.ends["knocked, refused"] += 1
        except (TimeoutError, OSError):
            self.ends["knocked, left"] += 1
        finally:
            writer.transport.abort()

    async def _connection(self, path: str, arsenal: Arsenal, rng: random.Random) -> None:
        reader, writer = await self._open(path)
        is_deaf = rng.random() < 0.05
        reading = asyncio.create_task(_read_all(reader))
        if is_deaf:
            reading.cancel()
        remaining = rng.expovariate(1 / _ENDING_EVERY)
        try:
            while remaining > 0 and not reader.at_eof():
                before = arsenal.sent.total()
                writer.write(arsenal.volley(_VOLLEY))
                remaining -= arsenal.sent.total() - before
                async with asyncio.timeout(0.5 if is_deaf else 60):
                    await writer.drain()
            writer.write(arsenal.ending())
            if rng.random() < 0.7:
                async with asyncio.timeout(_TIMEOUT_S if not is_deaf else 0.1):
                    await asyncio.wait((reading,))
                self.ends["deaf" if is_deaf else "closed by the gateway"] += 1
            else:
                self.ends["left"] += 1
        except TimeoutError:
            self.ends["deaf" if is_deaf else "left a frame unfinished"] += 1
        finally:
            reading.cancel()
            writer.transport.abort()

    async def _open(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self._address)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(answer.partition(b"\r\n")[0].decode())
        return reader, writer


async def _read_all(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65_536):
            pass
    except OSError:
        pass
