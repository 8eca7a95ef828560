"""Connections with two ends, and the sender that posts to them."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Final

from answerback.core.request import RequestKey
from answerback.ports import Gone, Sent, Slow
from answerback.protocol.codec import encode
from answerback.protocol.frames import ServerFrame
from answerback_proof.faults import FaultKind
from answerback_proof.simulation.faults import FaultInjector, Faults

STALL_S: Final = 25.0
"""Longer than a lease: the caller goes on after its lease was lost."""


class Link:
    """One connection: two ends that may disagree about whether it is open. `is_connected`: `$connect` has returned."""

    __slots__ = (
        "broken",
        "client_open",
        "connection_id",
        "deliver",
        "down_at",
        "is_connected",
        "parked",
        "server_open",
        "slow_until",
        "up_at",
    )

    def __init__(self, connection_id: str, deliver: Callable[[bytes], None], broken: Callable[[], None]) -> None:
        self.connection_id = connection_id
        self.server_open = True
        self.client_open = True
        self.is_connected = False
        self.deliver = deliver
        self.broken = broken
        self.slow_until = 0.0
        self.down_at = 0.0
        self.up_at = 0.0
        self.parked: list[tuple[RequestKey, int, int]] = []

    def reset(self) -> None:
        """The server closes its end. The client learns of it, unless its own end is closed."""
        if self.client_open:
            self.broken()


class Network:
    """ports.Sender over links with latency, loss, duplication and reordering.

    `watch` sees every frame that was taken for a connection. `unpark` is called for what a connection was owed.
    """

    def __init__(
        self,
        injector: FaultInjector,
        faults: Faults,
        *,
        watch: Callable[[str, ServerFrame], None],
        unpark: Callable[[str, RequestKey, int, int], None],
    ) -> None:
        self._injector = injector
        self._faults = faults
        self._watch = watch
        self._unpark = unpark
        self._context = Context()  # what arrives there is done by nobody here
        self._loop = asyncio.get_running_loop()
        self.links: dict[str, Link] = {}
        self.posts = 0

    def _way_to(self, connection_id: str) -> Link | None:
        link = self.links.get(connection_id)
        return link if link is not None and link.server_open and link.is_connected else None

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        self.posts += 1
        await asyncio.sleep(self._injector.latency_s("post"))
        if self._injector.occurs(FaultKind.STALLED_POST, self._faults.stall):
            self._injector.on_death(FaultKind.STALLED_POST)
            await asyncio.sleep(STALL_S)
        link = self._way_to(connection_id)
        if link is None or self._injector.occurs(FaultKind.FALSE_GONE, self._faults.false_gone):
            return Gone()
        now = self._loop.time()
        if now < link.slow_until:
            return Slow()
        if self._injector.occurs(FaultKind.SLOW_READER, self._faults.slow):
            link.slow_until = now + self._injector.pause_s("slow reader for", 2.0)
            return Slow()
        self._watch(connection_id, frame)
        if self._injector.occurs(FaultKind.LOST_POST, self._faults.lose):
            return Sent()
        data = encode(frame)
        for _ in range(1 + self._injector.occurs(FaultKind.DUPLICATED_POST, self._faults.duplicate)):
            self._down(link, data)
        return Sent()

    def _down(self, link: Link, data: bytes) -> None:
        at = self._loop.time() + self._injector.latency_s("down")
        if self._injector.occurs(FaultKind.LATE_POST, self._faults.late):
            at += self._injector.pause_s("late by", 3.0)
        if not self._faults.split:
            at = max(at, link.down_at)
        link.down_at = max(at, link.down_at)
        self._loop.call_at(at, _deliver, link, data, context=self._context)

    async def ready(self, connection_id: str) -> None:
        link = self._way_to(connection_id)
        if link is not None:
            await asyncio.sleep(max(0.05, link.slow_until - self._loop.time()))

    async def close(self, connection_id: str) -> None:
        link = self._way_to(connection_id)
        if link is not None:
            link.server_open = False
            at = max(self._loop.time() + self._injector.latency_s("down"), link.down_at)
            self._loop.call_at(at, link.reset, context=self._context)

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        """Park the connection, which the gateway can do and API Gateway cannot."""
        link = self._way_to(connection_id)
        if not self._faults.parks:
            return False
        if link is not None:
            self._injector.counts[FaultKind.PARKED] += 1
            link.parked.append((key, attempt, offset))
            self._loop.call_at(max(link.slow_until, self._loop.time()) + 0.01, self._drain, link, context=self._context)
        return True

    def _drain(self, link: Link) -> None:
        parked, link.parked = link.parked, []
        if link.server_open:
            for key, attempt, offset in parked:
                self._unpark(link.connection_id, key, attempt, offset)


def _deliver(link: Link, data: bytes) -> None:
    if link.client_open:
        link.deliver(data)
