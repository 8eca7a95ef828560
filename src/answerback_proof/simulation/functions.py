"""The server as many short processes: each message and each dispatched request has one, which may die at each await."""

import asyncio
from collections import Counter
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
from answerback_proof.simulation.injector import FaultInjector, Faults
from answerback_proof.simulation.network import ApiGatewayLink, Link, Network
from answerback_proof.simulation.process import Process
from answerback_proof.simulation.server import POLICY, RULES, SWEEP_S, Clocks, Parts
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

    async def inject_faults(self, injector: FaultInjector, faults: Faults) -> None:
        """Inject faults until the injector stops."""
        every_s = faults.redeliver_every_s
        while every_s and not injector.is_over:
            await asyncio.sleep(injector.pause_s("redelivery", every_s))
            running = sorted(self._runs)
            if running and injector.occurs(FaultKind.REDELIVERY, 1.0):
                self._dispatch_again(injector.stream("redelivery").choice(running))

    async def watch(self) -> None:
        """A message is hidden for as long as its lease lasts, and then dispatched again."""
        while True:
            await asyncio.sleep(WATCH_S)
            for key in sorted(key for key in self._runs if self._is_lost(key)):
                self._dispatch_again(key)

    def _dispatch_again(self, key: RequestKey) -> None:
        """As after a visibility timeout that is too short: a second worker gets what the first still runs."""
        run = asyncio.ensure_future(self._run(key))
        self._again.add(run)
        run.add_done_callback(self._again.discard)


class SimulatedFunctions:
    """server.Server as Lambda functions. The queue and the table of connections outlive every process."""

    def __init__(
        self, *, faults: Faults, injector: FaultInjector, clocks: Clocks, network: Network, make: Callable[..., Parts]
    ) -> None:
        self._network = network
        self._faults = faults
        self._injector = injector
        self._loop = asyncio.get_running_loop()
        self._alive: set[Process] = set()
        self._dead: list[Process] = []
        self.dispatched: Counter[RequestKey] = Counter()
        channel = FaultyChannel(injector, faults, "queue")
        self._clocks = clocks
        self._queue = FaultyQueue(
            self._run,
            channel=channel,
            clock=clocks.worker,
            visibility_s=POLICY.lease_ms / 1000,
            is_lost=self._is_lost,
        )
        connections = FaultyConnections(FaultyChannel(injector, faults, "connections"))
        self._parts = make(connections=connections, queue=self._queue, sender=network)
        self._background: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._background.append(self._loop.create_task(self._queue.watch()))
        if self._faults.janitor:
            self._background.append(self._loop.create_task(self._sweep()))

    def _is_lost(self, key: RequestKey) -> bool:
        store = self._parts.store
        assert isinstance(store, FaultyStore)
        record = store.records.get(key)
        return record is not None and record.state is State.RUNNING and self._clocks.worker() >= record.lease_until_ms

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self._parts.janitor.sweep()

    def dial(self, connection_id: str) -> Link:
        return ApiGatewayLink(connection_id, self._network, self)

    # --- network.Listener: API Gateway calls the functions

    def opened(self, link: ApiGatewayLink, request: Request) -> None:
        self._network.links[link.connection_id] = link
        url = urlsplit(request.path)
        upgrade = UpgradeRequest(method="GET", headers=request.headers.raw_items(), query=parse_qsl(url.query))
        handshake, now_ms = validate(upgrade, RULES), self._clocks.front()
        connection = Connection(
            connection_id=link.connection_id,
            session_id=handshake.session_id or own_session_id(link.connection_id),
            user_id=handshake.user_id,
            connected_at_ms=now_ms,
            last_activity_ms=now_ms,
        )
        self._invoke(FaultKind.FRONT_CRASH, self._faults.front_crash, self._connect(link, connection), link.refuse)

    async def _connect(self, link: ApiGatewayLink, connection: Connection) -> None:
        try:
            await self._parts.front.connect(connection)
        except Unavailable:
            link.refuse()
        else:
            link.accept()

    def received(self, link: ApiGatewayLink, data: bytes) -> None:
        for _ in range(1 + self._injector.occurs(FaultKind.DUPLICATED_MESSAGE, self._faults.duplicate)):
            self._network.call_at(self._network.due_at("invocation"), self._message, link, data)

    def _message(self, link: ApiGatewayLink, data: bytes) -> None:
        if link.server_open:
            self._network.watcher.heard(link.connection_id, data)
            work = self._parts.front.receive(link.connection_id, data)
            self._invoke(FaultKind.FRONT_CRASH, self._faults.front_crash, work)

    def closed(self, link: Link) -> None:
        connection_id = link.connection_id
        self._network.watcher.gone(connection_id)
        if self._network.links.pop(connection_id, None) is None:
            return
        if self._injector.occurs(FaultKind.LATE_DISCONNECT, self._faults.late_disconnect):
            self._loop.call_later(
                self._injector.pause_s("late $disconnect by", LATE_DISCONNECT_S), self._disconnect, connection_id
            )
        else:
            self._disconnect(connection_id)

    def _disconnect(self, connection_id: str) -> None:
        self._invoke(FaultKind.FRONT_CRASH, self._faults.front_crash, self._parts.front.disconnect(connection_id))

    async def inject_faults(self) -> None:
        await self._queue.inject_faults(self._injector, self._faults)

    async def _run(self, key: RequestKey) -> Done | Retry:
        self.dispatched[key] += 1
        work = self._parts.run(key)
        outcome: Done | Retry = await self._invoke(FaultKind.WORKER_CRASH, self._faults.worker_crash, work)
        return outcome

    def _invoke(
        self,
        fault: str,
        probability: float,
        work: Coroutine[Any, Any, Any],
        crashed: Callable[[], None] | None = None,
    ) -> "asyncio.Task[Any]":
        def died() -> None:
            self._injector.counts[fault] += 1
            self._injector.on_death(fault)
            self._dead.append(process)
            if crashed is not None:
                crashed()

        process = Process(died)
        fuse = self._injector.awaits_until(fault, probability)
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
