"""The server as several gateways on one database behind a load balancer: they die, freeze, are cut off, and stop."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from answerback.core.request import Record, RequestKey
from answerback.gateway.app import shut_down
from answerback.gateway.fleet import Fleet, FleetQueue, FleetSender
from answerback.gateway.listener import Listener
from answerback.gateway.settings import GatewaySettings
from answerback.gateway.sockets import Sockets
from answerback.ports import Gone, Sent, Slow, Unavailable
from answerback.protocol.frames import ServerFrame
from answerback.service.attempt import Turn
from answerback.service.front import Front
from answerback.stores.database import StoreError, StoreInUse
from answerback.stores.fleet import FleetStore
from answerback.stores.migrations import lock_key
from answerback.stores.nodes import LOST_MS, Nodes
from answerback.tasks import Tasks
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.gateway import (
    CAPS,
    CRASH_AWAITS,
    DOWN_S,
    START_AGAIN_S,
    NamingValidator,
    WatchedFront,
)
from answerback_proof.simulation.injector import FaultInjector, Faults
from answerback_proof.simulation.network import GatewayLink, Link, Network, SimulatedLoop
from answerback_proof.simulation.postgres import RemoteConnection, SimulatedPostgres
from answerback_proof.simulation.process import Process, current, spawn_outside
from answerback_proof.simulation.server import SWEEP_S, Clocks, Parts

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
        network, injector, faults = self._node.network, self._node.injector, self._node.faults
        # A client that never asks again would wait for ever for a frame that was lost.
        may_be_lost = faults.probes or words[0] != "frame"
        if self._node.is_cut or (may_be_lost and injector.occurs(FaultKind.LOST_NOTICE, faults.lose_notice)):
            return
        is_late = injector.occurs(FaultKind.LATE_NOTICE, faults.late_notice)
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
        self._taken_from = node.taken_from

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


class CountingFleetQueue(FleetQueue):
    """The fleet's queue. It counts the turns that the front gets at once."""

    dispatched: Counter[RequestKey]

    def reserve(self, key: RequestKey, record: Record) -> Turn | bool:
        turn = super().reserve(key, record)
        if isinstance(turn, Turn):
            self.dispatched[key] += 1
        return turn


class WatchedFleetSender(FleetSender):
    """The fleet's sender. Its frames are watched, and some readers become slow."""

    def watch(self, node: "Node") -> None:
        self._of = node

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        node = self._of
        node.network.posts += 1
        link = node.network.links.get(connection_id)
        if link is not None and node.injector.occurs(FaultKind.SLOW_READER, node.faults.slow):
            link.slow_until = node.loop.time() + node.injector.pause_s("slow reader for", 2.0)
        outcome = await super().send(connection_id, frame)
        if isinstance(outcome, Sent):
            node.network.watcher.sent(connection_id, frame)
        return outcome

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        is_parked = super().park(connection_id, key, attempt, offset)
        self._of.injector.counts[FaultKind.PARKED] += is_parked
        return is_parked


class Node:
    """One gateway: its processes, one after the other, and what is wrong with it now."""

    def __init__(
        self,
        name: str,
        *,
        postgres: SimulatedPostgres,
        faults: Faults,
        injector: FaultInjector,
        network: Network,
        make: Callable[..., Parts],
        dispatched: Counter[RequestKey],
        trace: Callable[[str], None],
        taken_from: Callable[[Collection[str]], None],
    ) -> None:
        self.name = name
        self.taken_from = taken_from
        self.faults = faults
        self.injector = injector
        self.network = network
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        self.loop = loop
        self._postgres = postgres
        self._make = make
        self._dispatched = dispatched
        self._trace = trace
        skew_ms = injector.stream(f"skew of {name}").randint(-faults.skew_ms, faults.skew_ms)
        injector.counts[FaultKind.CLOCK_SKEW] += skew_ms != 0
        self._clock = Clocks(skew_ms).worker
        self._starts = 0
        self.is_cut = False
        self.wrong_since = 0.0
        self._wrong_until = 0.0
        self._is_stopping = False
        self._notices: SimulatedNotices | None = None
        self._stop: Callable[[], asyncio.Task[None]] = lambda: asyncio.ensure_future(asyncio.sleep(0))
        self.links: list[Link] = []
        self.process = Process()
        self.dead: list[Process] = []

    # --- life

    def start(self) -> None:
        self._starts += 1
        self._is_stopping = False
        self.process = Process(self._died)
        self.process.spawn(self._boot())

    async def _boot(self) -> None:
        while True:
            store, self._notices = SimulatedFleetStore(self._postgres, self), SimulatedNotices(self, self._postgres)
            connect = partial(RemoteConnection, self._postgres, self)
            incarnation = str(self._starts)
            nodes = Nodes(connect, SCHEMA, node=self.name, incarnation=incarnation, clock=self._clock)
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
        queue = cast("CountingFleetQueue", fleet.queue(slots={"wordy": 1_000}, clock=clock, kind=CountingFleetQueue))
        queue.dispatched = self._dispatched
        sender = cast("WatchedFleetSender", fleet.sender(sockets, kind=WatchedFleetSender))
        sender.watch(self)
        parts = self._make(
            store=store,
            connections=fleet.connections,
            queue=queue,
            local=queue,
            sender=sender,
            clocks=Clocks(front=clock),
        )

        async def work(key: RequestKey, turn: Turn) -> None:
            self._dispatched[key] += 1
            await parts.worker.work(key, turn)

        async def close_user(_: str) -> None:
            raise AssertionError("no user is blocked here")

        await queue.recover(store)

        def outdated() -> None:
            raise AssertionError("all gateways are of one version here")

        fleet.join(
            worker=parts.worker, close_user=close_user, close_replaced=parts.front.replaced, on_outdated=outdated
        )
        queue.start(work)
        listener = Listener(
            front=cast("Front", WatchedFront(parts.front, self.network)),
            validator=NamingValidator(network=self.network, token_s=self.faults.token_s, clock=clock),
            sockets=sockets,
            caps=CAPS,
            tasks=tasks,
        )
        await listener.start("localhost", 0)

        async def stop() -> None:
            began = self.loop.time()
            await shut_down(listener, queue, tasks, fleet, settings=SETTINGS, skip_grace=asyncio.Event())
            if parts.worker.running and self.loop.time() - began >= SETTINGS.grace_s:
                self.injector.on_death(FaultKind.TERMINATE)  # what had not ended by then is begun again
            await fleet.leave()
            await store.close()
            self._trace(f"gateway {self.name} has stopped")
            self._is_stopping = True
            self.process.kill()

        self._stop = lambda: self.process.spawn(stop())
        self._trace(f"gateway {self.name} listens")
        while True:
            await asyncio.sleep(SWEEP_S)
            if self.faults.janitor:
                await parts.janitor.sweep(leads=await fleet.leads("janitor", for_s=3 * SWEEP_S))

    def _died(self) -> None:
        if not self._is_stopping:
            self._trace(f"gateway {self.name} dies")
            self.injector.on_death(FaultKind.PROCESS_CRASH)
        self.dead.append(self.process)
        for link in list(self.links):
            link.cut()
        if self._notices is not None:
            self.network.call_at(self.loop.time() + 0.05, self._notices.lost)
        spawn_outside(self._start_later())

    async def _start_later(self) -> None:
        await asyncio.sleep(self.injector.pause_s("restart", DOWN_S))
        self.start()

    # --- as the load balancer sees it

    @property
    def is_listening(self) -> bool:
        """Whether it takes connections, also if it does nothing with them."""
        return (
            any(one.process is self.process and one.is_open for one in self.loop.listening) and not self.process.is_dead
        )

    @property
    def is_ready(self) -> bool:
        """Whether the load balancer sends new connections to it."""
        is_wrong = self.is_cut or self.process.is_frozen
        return self.is_listening and not (is_wrong and self.loop.time() - self.wrong_since > NOTICED_S)

    def dial(self, connection_id: str) -> Link:
        listening = next(one for one in self.loop.listening if one.process is self.process)
        link = GatewayLink(f"{connection_id}@{self.name}", self.network, listening, closed=self._closed)
        self.links.append(link)
        return link

    def _closed(self, link: Link) -> None:
        self.links.remove(link)
        self.network.watcher.gone(link.connection_id)
        self.network.links.pop(link.connection_id, None)

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

    def crash(self) -> None:
        self.process.kill_after(self.injector.stream(FaultKind.PROCESS_CRASH).randrange(CRASH_AWAITS))
        process = self.process
        self.network.call_at(self.loop.time() + 2.0, process.kill)

    def stop(self) -> None:
        self._trace(f"gateway {self.name} is asked to stop")
        self._stop()

    async def freeze(self) -> None:
        await self._suffer(FaultKind.FREEZE, self.process.freeze, self.process.thaw)

    async def cut_off(self) -> None:
        await self._suffer(FaultKind.DATABASE_CUT, partial(setattr, self, "is_cut", True), self._heal)

    async def _suffer(self, fault: FaultKind, begin: Callable[[], None], end: Callable[[], None]) -> None:
        lasts_s = self.injector.stream(f"{fault} for").uniform(*LASTS_S)
        self._trace(f"{fault}: {self.name}, for {lasts_s:.1f} s")
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
        self._trace(f"{fault}: {self.name}, no more")

    def _heal(self) -> None:
        self.is_cut = False


class SimulatedFleet:
    """server.Server as gateways a, b, c … of the real code, on one simulated PostgreSQL."""

    def __init__(
        self,
        *,
        postgres: SimulatedPostgres,
        faults: Faults,
        injector: FaultInjector,
        network: Network,
        make: Callable[..., Parts],
        trace: Callable[[str], None],
    ) -> None:
        self._postgres = postgres
        self._faults = faults
        self._injector = injector
        self._trace = trace
        self.dispatched: Counter[RequestKey] = Counter()
        self._nodes = [
            Node(
                name,
                postgres=postgres,
                faults=faults,
                injector=injector,
                network=network,
                make=make,
                dispatched=self.dispatched,
                trace=trace,
                taken_from=self._taken_from,
            )
            for name in "abcdefgh"[: faults.gateways]
        ]
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        for node in self._nodes:
            node.start()

    def dial(self, connection_id: str) -> Link:
        ready = [node for node in self._nodes if node.is_ready] or [n for n in self._nodes if n.is_listening]
        if not ready:
            raise ConnectionRefusedError
        return self._injector.stream("load balancer").choice(ready).dial(connection_id)

    def _taken_from(self, names: Collection[str]) -> None:
        """The requests of these are run once more, by others."""
        for node in self._nodes:
            if node.name in names and node.may_seem_dead:
                self._injector.on_death(FaultKind.FREEZE)

    async def inject_faults(self) -> None:
        faults = self._faults
        async with asyncio.TaskGroup() as tasks:
            for kind, every_s, act in (
                (FaultKind.PROCESS_CRASH, faults.process_crash_every_s, Node.crash),
                (FaultKind.TERMINATE, faults.gateway_stop_every_s, Node.stop),
                (FaultKind.FREEZE, faults.gateway_freeze_every_s, Node.freeze),
                (FaultKind.DATABASE_CUT, faults.database_cut_every_s, Node.cut_off),
            ):
                if every_s:
                    tasks.create_task(self._disturb(kind, every_s, act))
            if faults.database_crash_every_s:
                tasks.create_task(self._crash_database())

    async def _disturb(self, kind: FaultKind, every_s: float, act: Callable[[Node], Any]) -> None:
        injector = self._injector
        while not injector.is_over:
            await asyncio.sleep(injector.pause_s(kind, every_s))
            whole = [node for node in self._nodes if node.is_whole]
            if whole and injector.occurs(kind, 1.0):
                doing = act(injector.stream(f"node of {kind}").choice(whole))
                if asyncio.iscoroutine(doing):
                    task = asyncio.create_task(doing)
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _crash_database(self) -> None:
        injector = self._injector
        while not injector.is_over:
            await asyncio.sleep(injector.pause_s(FaultKind.POSTGRES, self._faults.database_crash_every_s))
            if injector.occurs(FaultKind.POSTGRES, 1.0):
                self._trace("the database crashes")
                self._postgres.stop()
                await asyncio.sleep(injector.stream("database down for").uniform(0, 4))
                self._postgres.start()
                self._trace("the database is back")

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for node in self._nodes:
            node.process.thaw()
            node.process.kill()
        await asyncio.sleep(0)
        for node in self._nodes:
            for process in node.dead:
                process.dispose()
