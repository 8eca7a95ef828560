"""The server as several gateways on one database behind a load balancer: they die, freeze, are cut off, and stop."""

import asyncio
import json
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from answerback.core.request import Record
from answerback.gateway.app import shut_down
from answerback.gateway.fleet import Fleet, FleetQueue, FleetSender
from answerback.gateway.settings import GatewaySettings
from answerback.gateway.sockets import Sockets
from answerback.ports import Unavailable
from answerback.stores.database import StoreError, StoreInUse
from answerback.stores.fleet import FleetStore
from answerback.stores.migrations import lock_key
from answerback.stores.nodes import LOST_MS, Nodes
from answerback.tasks import Tasks
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.gateway import SLOTS, START_AGAIN_S, CountingQueue, Gateway
from answerback_proof.simulation.network import Link, Network, WatchedSender
from answerback_proof.simulation.postgres import RemoteConnection, SimulatedPostgres
from answerback_proof.simulation.process import current
from answerback_proof.simulation.server import SWEEP_S, Clocks, Parts, Server

SETTINGS: Final = GatewaySettings(data_dir=Path(), drain_s=20.0, grace_s=10.0)
LASTS_S: Final = (0.2, 30.0)
"""How long a gateway is frozen or cut off: some of them so long that it is taken for dead."""

SILENT_S: Final = LOST_MS / 1000 - 2
"""A gateway that was out of reach for so long may be taken for dead though it holds its lock."""

BACK_S: Final = 4.0
"""How long it may take until a gateway says again that it lives: it may wait for a connection that began before."""

FORGOTTEN_S: Final = 25.0
"""After so long the server ends the sessions of a gateway that it hears nothing of."""

NOTICED_S: Final = 1.0
"""How soon the load balancer sees that a gateway does not answer."""

SCHEMA: Final = "answerback"
_LISTEN_AGAIN_S: Final = 0.2
_NAME_FREE_S: Final = 30.0


class SimulatedNotices:
    """gateway.fleet.Notices, which get lost and come late, and the session that holds the lock of the name."""

    def __init__(self, node: "Node", postgres: SimulatedPostgres) -> None:
        self._node = node
        self._postgres = postgres
        self._key = lock_key(f"{SCHEMA} node {node.name}")
        self._process = current()
        self._on_notice: Callable[[str, Sequence[Any]], None] = lambda _, __: None
        self._arrives_at: dict[str, float] = {}
        self._tasks = Tasks()
        self.listening_since: float | None = None
        self.passed = 0

    async def start(self, on_notice: Callable[[str, Sequence[Any]], None]) -> None:
        self._on_notice = on_notice
        until = self._node.loop.time() + _NAME_FREE_S
        while not self._listen():
            if self._node.loop.time() > until:
                raise StoreInUse(f"another gateway is called {self._node.name}")
            await asyncio.sleep(_LISTEN_AGAIN_S)
        self._tasks.start(self._keep_listening(), name="listener")

    async def stop(self) -> None:
        await self._tasks.settle(grace_s=0)
        self.lost()

    async def _keep_listening(self) -> None:
        while True:
            await asyncio.sleep(_LISTEN_AGAIN_S)
            if self.listening_since is None:
                self._listen()

    def _listen(self) -> bool:
        if self._postgres.is_down or self._node.is_cut or self._key in self._postgres.locks:
            return False
        self._postgres.locks[self._key] = self
        self.listening_since = self._node.loop.time()
        return True

    def lost(self) -> None:
        """The session is over."""
        self.listening_since = None
        if self._postgres.locks.get(self._key) is self:
            del self._postgres.locks[self._key]

    def send(self, node: str, /, *words: Any) -> None:
        network, injector = self._node.network, self._node.injector
        # A client that never asks again would wait for ever for a frame that was lost.
        may_be_lost = injector.faults.probes or words[0] != "frame"
        if self._node.is_cut or (may_be_lost and injector.occurs(FaultKind.LOST_NOTICE)):
            return
        is_late = injector.occurs(FaultKind.LATE_NOTICE)
        late_s = injector.pause_s("late notice by", 2.0) if is_late else 0.0
        at = self._arrives_at[node] = max(self._arrives_at.get(node, 0.0), network.due_at("notice") + late_s)
        network.call_at(at, self._arrive, lock_key(f"{SCHEMA} node {node}"), json.dumps(words))

    def _arrive(self, key: int, text: str) -> None:
        other = self._postgres.locks.get(key)
        if other is not None and not other._node.is_cut and other._process is not None:
            heard = partial(other._on_notice, self._node.name, json.loads(text))
            other._process.call(partial(other._process.context().run, heard))


class SimulatedFleetStore(FleetStore):
    """The fleet's store over the simulated server."""

    def __init__(self, postgres: SimulatedPostgres, node: "Node") -> None:
        super().__init__("", node=node.name, schema=SCHEMA)
        self._connection = partial(RemoteConnection, postgres, node)
        self._taken_from = node.server.taken_from

    async def take_over(self, nodes: Collection[str], **more: Any) -> Sequence[Record]:
        try:
            records = await super().take_over(nodes, **more)
        except Unavailable:
            self._taken_from(nodes)
            raise
        if records:
            self._taken_from(nodes)
        return records

    def _start(self, writer: str | None = None, reader: str | None = None) -> None:
        del writer, reader
        self._group.start(self._connection())
        self._readers = [self._connection()]


class CountingFleetQueue(CountingQueue, FleetQueue):
    """The fleet's queue. It counts the turns that the front gets at once."""


class WatchedFleetSender(WatchedSender, FleetSender):
    """The fleet's sender. Its frames are watched, and some readers become slow."""


class Node(Gateway):
    """One gateway of the fleet, and what is wrong with it now."""

    server: "SimulatedFleet"

    def __init__(self, name: str, server: "SimulatedFleet") -> None:
        super().__init__(server)
        self.name = name
        faults = self.injector.faults
        skew_ms = self.injector.stream(f"skew of {name}").randint(-faults.skew_ms, faults.skew_ms)
        self.injector.counts[FaultKind.CLOCK_SKEW] += skew_ms != 0
        self._clock = Clocks(skew_ms).worker
        self._starts = 0
        self.is_cut = False
        self.wrong_since = 0.0
        self._wrong_until = 0.0
        self._is_stopping = False
        self._notices: SimulatedNotices | None = None
        self._stop: Callable[[], asyncio.Task[None]] = lambda: asyncio.ensure_future(asyncio.sleep(0))

    # --- life

    def start(self) -> None:
        self._starts += 1
        self._is_stopping = False
        super().start()

    async def boot(self) -> None:
        postgres = self.server.postgres
        while True:
            store, self._notices = SimulatedFleetStore(postgres, self), SimulatedNotices(self, postgres)
            connect = partial(RemoteConnection, postgres, self)
            nodes = Nodes(connect, SCHEMA, node=self.name, incarnation=str(self._starts), clock=self._clock)
            fleet = Fleet(store, nodes=nodes, notices=self._notices, facts=dict, monotonic=self.loop.time)
            try:
                await store.open()
                await fleet.start()
                await self._serve(store, fleet)
            except (StoreError, Unavailable):
                self._notices.lost()
                await asyncio.sleep(START_AGAIN_S)

    async def _serve(self, store: SimulatedFleetStore, fleet: Fleet) -> None:
        clock, sockets, tasks = fleet.clock(self._clock), Sockets(), Tasks()
        queue = cast("CountingFleetQueue", fleet.queue(slots=SLOTS, clock=clock, kind=CountingFleetQueue))
        sender = cast("WatchedFleetSender", fleet.sender(sockets, kind=WatchedFleetSender))
        clocks = Clocks(front=clock)
        parts = self.compose(queue, sender, store=store, connections=fleet.connections, clocks=clocks)
        await queue.recover(store)

        async def close_user(_: str) -> None:
            raise AssertionError("no user is blocked here")

        def outdated() -> None:
            raise AssertionError("all gateways are of one version here")

        fleet.join(
            worker=parts.worker, close_user=close_user, close_replaced=parts.front.replaced, on_outdated=outdated
        )
        listener = await self.listen(parts, queue, sockets, tasks=tasks, clock=clock)

        async def stop() -> None:
            began = self.loop.time()
            await shut_down(listener, queue, tasks, fleet, settings=SETTINGS, skip_grace=asyncio.Event())
            if parts.worker.running and self.loop.time() - began >= SETTINGS.grace_s:
                self.injector.on_death(FaultKind.TERMINATE)  # what had not ended by then is begun again
            await fleet.leave()
            await store.close()
            self.server.trace(f"gateway {self.name} has stopped")
            self._is_stopping = True
            self.process.kill()

        self._stop = lambda: self.process.spawn(stop())
        self.server.trace(f"gateway {self.name} listens")
        while True:
            await asyncio.sleep(SWEEP_S)
            if self.injector.faults.janitor:
                await parts.janitor.sweep(leads=await fleet.leads("janitor", for_s=3 * SWEEP_S))

    def died(self) -> None:
        if not self._is_stopping:
            self.server.trace(f"gateway {self.name} dies")
            self.injector.on_death(FaultKind.PROCESS_CRASH)
        if self._notices is not None:
            self.network.call_at(self.loop.time() + 0.05, self._notices.lost)
        self.goes()

    # --- as the load balancer sees it

    @property
    def is_ready(self) -> bool:
        """Whether the load balancer sends new connections to it."""
        is_wrong = self.is_cut or self.process.is_frozen
        return self.is_listening and not (is_wrong and self.loop.time() - self.wrong_since > NOTICED_S)

    def dial(self, connection_id: str) -> Link:
        return super().dial(f"{connection_id}@{self.name}")

    # --- faults

    @property
    def is_whole(self) -> bool:
        return self.is_listening and not self.is_cut and not self.process.is_frozen

    @property
    def may_seem_dead(self) -> bool:
        """Whether others may take it for dead, though its process lives."""
        now = self.loop.time()
        if not (self.is_cut or self.process.is_frozen or now < self._wrong_until):
            return False
        has_lock = self._notices is not None and self._notices.listening_since is not None
        return not has_lock or now - self.wrong_since > SILENT_S

    def stop(self) -> None:
        self.server.trace(f"gateway {self.name} is asked to stop")
        self._stop()

    async def freeze(self) -> None:
        await self._suffer(FaultKind.FREEZE, self.process.freeze, self.process.thaw)

    async def cut_off(self) -> None:
        await self._suffer(FaultKind.DATABASE_CUT, partial(setattr, self, "is_cut", True), self._heal)

    async def _suffer(self, fault: FaultKind, begin: Callable[[], None], end: Callable[[], None]) -> None:
        lasts_s = self.injector.stream(f"{fault} for").uniform(*LASTS_S)
        self.server.trace(f"{fault}: {self.name}, for {lasts_s:.1f} s")
        if self.loop.time() >= self._wrong_until:  # else it has not been heard since the last time
            self.wrong_since = self.loop.time()
        notices = self._notices
        begin()
        await asyncio.sleep(min(lasts_s, FORGOTTEN_S))
        if lasts_s > FORGOTTEN_S:
            if self.is_cut and notices is not None:
                notices.lost()
            await asyncio.sleep(lasts_s - FORGOTTEN_S)
        end()
        self._wrong_until = self.loop.time() + BACK_S
        self.server.trace(f"{fault}: {self.name}, no more")

    def _heal(self) -> None:
        self.is_cut = False


class SimulatedFleet(Server):
    """The server as gateways a, b, c … of the real code, on one simulated PostgreSQL."""

    def __init__(
        self,
        network: Network,
        *,
        clocks: Clocks,
        make: Callable[..., Parts],
        postgres: SimulatedPostgres,
        trace: Callable[[str], None],
    ) -> None:
        super().__init__(network, clocks=clocks, make=make)
        self.postgres = postgres
        self.trace = trace
        self._nodes = [Node(name, self) for name in "abcdefgh"[: self.injector.faults.gateways]]
        self._tasks = Tasks()

    def start(self) -> None:
        for node in self._nodes:
            node.start()

    def dial(self, connection_id: str) -> Link:
        ready = [node for node in self._nodes if node.is_ready] or [n for n in self._nodes if n.is_listening]
        if not ready:
            raise ConnectionRefusedError
        return self.injector.stream("load balancer").choice(ready).dial(connection_id)

    def taken_from(self, names: Collection[str]) -> None:
        """The requests of these are run once more, by others."""
        for node in self._nodes:
            if node.name in names and node.may_seem_dead:
                self.injector.on_death(FaultKind.FREEZE)

    async def inject_faults(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for kind, act in (
                (FaultKind.PROCESS_CRASH, Node.crash),
                (FaultKind.TERMINATE, Node.stop),
                (FaultKind.FREEZE, self._freeze),
                (FaultKind.DATABASE_CUT, self._cut_off),
            ):
                disturb = partial(self._disturb_one, kind, act)
                tasks.create_task(self.injector.often(kind, disturb, when=self._whole))
            tasks.create_task(self.injector.often(FaultKind.POSTGRES, self._crash_database))

    def _whole(self) -> list[Node]:
        return [node for node in self._nodes if node.is_whole]

    def _disturb_one(self, kind: FaultKind, act: Callable[[Node], None]) -> None:
        act(self.injector.stream(f"node of {kind}").choice(self._whole()))

    def _freeze(self, node: Node) -> None:
        self._tasks.start(node.freeze(), name=f"freeze {node.name}")

    def _cut_off(self, node: Node) -> None:
        self._tasks.start(node.cut_off(), name=f"cut off {node.name}")

    async def _crash_database(self) -> None:
        self.trace("the database crashes")
        self.postgres.stop()
        await asyncio.sleep(self.injector.stream("database down for").uniform(0, 4))
        self.postgres.start()
        self.trace("the database is back")

    async def stop(self) -> None:
        self._tasks.cancel()
        for node in self._nodes:
            node.process.thaw()
            node.process.kill()
        await asyncio.sleep(0)
        for node in self._nodes:
            node.dispose()
