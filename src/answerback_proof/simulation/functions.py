"""The server as many short processes: each message and each dispatched request has one, which may die at each await."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from websockets.http11 import Request

from answerback.core.handshake import UpgradeRequest, own_session_id, validate
from answerback.core.request import Record, RequestKey
from answerback.core.transitions import State
from answerback.ports import Connection, Unavailable
from answerback.service.attempt import Done, Retry
from answerback.testing.queue import LaneQueue
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.network import ApiGatewayLink, Link, Network
from answerback_proof.simulation.process import Process
from answerback_proof.simulation.server import POLICY, RULES, SWEEP_S, Clocks, Parts, Server
from answerback_proof.simulation.store import FaultyChannel, FaultyConnections, FaultyStore

WATCH_S: Final = 2.0
LATE_DISCONNECT_S: Final = 20.0


class FaultyQueue(LaneQueue):
    """A queue behind a faulty channel that dispatches again what may still be running. `is_lost`: a lease is over."""

    def __init__(
        self,
        run: Callable[[RequestKey], Awaitable[Done | Retry]],
        *,
        channel: FaultyChannel,
        clock: Callable[[], int],
        visibility_s: float,
        is_lost: Callable[[RequestKey], bool],
    ) -> None:
        super().__init__(run, clock=clock, visibility_s=visibility_s)
        self._channel = channel
        self._is_lost = is_lost
        self._again: set[asyncio.Future[Done | Retry]] = set()

    async def put(self, record: Record) -> None:
        await self._channel.call(partial(LaneQueue.put, self, record))

    @property
    def running(self) -> list[RequestKey]:
        """What workers have now."""
        return sorted(self._runs)

    async def watch(self) -> None:
        """A message is hidden for as long as its lease lasts, and then dispatched again."""
        while True:
            await asyncio.sleep(WATCH_S)
            for key in sorted(key for key in self._runs if self._is_lost(key)):
                self.dispatch_again(key)

    def dispatch_again(self, key: RequestKey) -> None:
        """As after a visibility timeout that is too short: a second worker gets what the first still runs."""
        run = asyncio.ensure_future(self._run(key))
        self._again.add(run)
        run.add_done_callback(self._again.discard)


class SimulatedFunctions(Server):
    """The server as Lambda functions. The queue and the table of connections outlive every process."""

    def __init__(self, network: Network, *, clocks: Clocks, make: Callable[..., Parts]) -> None:
        super().__init__(network, clocks=clocks, make=make)
        self._alive: set[Process] = set()
        self._dead: list[Process] = []
        self._background: list[asyncio.Task[None]] = []
        self._queue = FaultyQueue(
            self._run,
            channel=FaultyChannel(self.injector, "queue"),
            clock=clocks.worker,
            visibility_s=POLICY.lease_ms / 1000,
            is_lost=self._is_lost,
        )
        connections = FaultyConnections(FaultyChannel(self.injector, "connections"))
        self._parts = make(connections=connections, queue=self._queue, sender=network)

    def start(self) -> None:
        self._background.append(self.loop.create_task(self._queue.watch()))
        if self.injector.faults.janitor:
            self._background.append(self.loop.create_task(self._sweep()))

    def _is_lost(self, key: RequestKey) -> bool:
        store = self._parts.store
        assert isinstance(store, FaultyStore)
        record = store.records.get(key)
        return record is not None and record.state is State.RUNNING and self.clocks.worker() >= record.lease_until_ms

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self._parts.janitor.sweep()

    def dial(self, connection_id: str) -> Link:
        return ApiGatewayLink(connection_id, self.network, self)

    # --- API Gateway calls the functions

    def opened(self, link: ApiGatewayLink, request: Request) -> None:
        """An upgrade request has come; `link.accept` or `link.refuse` answers it."""
        self.network.links[link.connection_id] = link
        url = urlsplit(request.path)
        upgrade = UpgradeRequest(method="GET", headers=request.headers.raw_items(), query=parse_qsl(url.query))
        handshake, now_ms = validate(upgrade, RULES), self.clocks.front()
        connection = Connection(
            connection_id=link.connection_id,
            session_id=handshake.session_id or own_session_id(link.connection_id),
            user_id=handshake.user_id,
            connected_at_ms=now_ms,
            last_activity_ms=now_ms,
        )
        self._invoke(FaultKind.FRONT_CRASH, self._connect(link, connection), link.refuse)

    async def _connect(self, link: ApiGatewayLink, connection: Connection) -> None:
        try:
            await self._parts.front.connect(connection)
        except Unavailable:
            link.refuse()
        else:
            link.accept()

    def received(self, link: ApiGatewayLink, data: bytes) -> None:
        for _ in range(1 + self.injector.occurs(FaultKind.DUPLICATED_MESSAGE)):
            self.network.call_at(self.network.due_at("invocation"), self._message, link, data)

    def _message(self, link: ApiGatewayLink, data: bytes) -> None:
        if link.server_open:
            self.network.watcher.heard(link.connection_id, data)
            work = self._parts.front.receive(link.connection_id, data)
            self._invoke(FaultKind.FRONT_CRASH, work)

    def closed(self, link: Link) -> None:
        connection_id = link.connection_id
        self.network.watcher.gone(connection_id)
        if self.network.links.pop(connection_id, None) is None:
            return
        if self.injector.occurs(FaultKind.LATE_DISCONNECT):
            late_s = self.injector.pause_s("late $disconnect by", LATE_DISCONNECT_S)
            self.loop.call_later(late_s, self._disconnect, connection_id)
        else:
            self._disconnect(connection_id)

    def _disconnect(self, connection_id: str) -> None:
        self._invoke(FaultKind.FRONT_CRASH, self._parts.front.disconnect(connection_id))

    async def inject_faults(self) -> None:
        queue, rng = self._queue, self.injector.stream("redelivery")

        def redeliver() -> None:
            queue.dispatch_again(rng.choice(queue.running))

        await self.injector.often(FaultKind.REDELIVERY, redeliver, concern="redelivery", when=lambda: queue.running)

    async def _run(self, key: RequestKey) -> Done | Retry:
        self.dispatched[key] += 1
        outcome: Done | Retry = await self._invoke(FaultKind.WORKER_CRASH, self._parts.run(key))
        return outcome

    def _invoke(
        self, fault: str, work: Coroutine[Any, Any, Any], crashed: Callable[[], None] | None = None
    ) -> "asyncio.Task[Any]":
        def died() -> None:
            self.injector.counts[fault] += 1
            self.injector.on_death(fault)
            self._dead.append(process)
            if crashed is not None:
                crashed()

        process = Process(died)
        fuse = self.injector.awaits_until(fault)
        if fuse is not None:
            process.kill_after(fuse)
        task = process.spawn(work)
        self._alive.add(process)
        task.add_done_callback(lambda _: self._alive.discard(process))
        return task

    async def stop(self) -> None:
        for task in self._background:
            task.cancel()
        await self._queue.stop()
        for process in list(self._alive):
            process.kill()
        await asyncio.sleep(0)
        for process in self._dead:
            process.dispose()
