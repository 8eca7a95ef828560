"""The server as one process, with the gateway's own queue: when it dies all of it dies, and a new one starts."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

from answerback.core.request import Record, RequestKey
from answerback.gateway.queue import InProcessQueue
from answerback.ports import Connection, Unavailable
from answerback.service.attempt import Turn
from answerback.stores.connections import MemoryConnections
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.injector import FaultInjector, Faults
from answerback_proof.simulation.network import Link
from answerback_proof.simulation.process import Process, spawn_outside
from answerback_proof.simulation.server import SWEEP_S, Clocks, Parts

DOWN_S: Final = 2.0
"""Mean seconds between the death of a process and the next start."""

CRASH_AWAITS: Final = 40
"""A process that is to die does so within so many awaits, at any of them."""

START_AGAIN_S: Final = 1.0


class CountingQueue(InProcessQueue):
    """The gateway's queue. It counts the turns that the front gets at once."""

    def __init__(self, dispatched: Counter[RequestKey], *, clock: Callable[[], int]) -> None:
        super().__init__(slots={"wordy": 1_000}, clock=clock)
        self._dispatched = dispatched

    def reserve(self, key: RequestKey, record: Record) -> Turn | None:
        turn = super().reserve(key, record)
        if turn is not None:
            self._dispatched[key] += 1
        return turn


class SimulatedGateway:
    """server.Server as a gateway process. `make` composes front, worker and janitor around connections and a queue."""

    def __init__(self, *, faults: Faults, injector: FaultInjector, clocks: Clocks, make: Callable[..., Parts]) -> None:
        self._faults = faults
        self._injector = injector
        self._clocks = clocks
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._links: dict[str, Link] = {}
        self._inbound: dict[str, asyncio.Queue[bytes | None]] = {}
        self._process = Process()
        self._dead: list[Process] = []
        self._parts: Parts | None = None
        self.dispatched: Counter[RequestKey] = Counter()

    def start(self) -> None:
        self._process = Process(self._died)
        self._process.spawn(self._boot())

    async def _boot(self) -> None:
        queue = CountingQueue(self.dispatched, clock=self._clocks.worker)
        parts = self._make(connections=MemoryConnections(), queue=queue, local=queue)
        while True:
            try:
                await queue.recover(parts.store)
                break
            except Unavailable:
                await asyncio.sleep(START_AGAIN_S)

        async def work(key: RequestKey, turn: Turn) -> None:
            self.dispatched[key] += 1
            await parts.worker.work(key, turn)

        queue.start(work)
        self._parts = parts
        while self._faults.janitor:
            await asyncio.sleep(SWEEP_S)
            await parts.janitor.sweep()

    def connect(self, link: Link, connection: Connection) -> None:
        if self._parts is None:
            link.refuse()
            return
        link.accept()
        self._links[link.connection_id] = link
        inbound = self._inbound[link.connection_id] = asyncio.Queue()
        self._process.spawn(self._serve(self._parts, link, connection, inbound))

    async def _serve(
        self, parts: Parts, link: Link, connection: Connection, inbound: "asyncio.Queue[bytes | None]"
    ) -> None:
        """One connection: its messages one after the other."""
        await parts.front.connect(connection)
        while (data := await inbound.get()) is not None:
            run = await parts.front.receive(link.connection_id, data)
            if run is not None:
                self._spawn(run)
        await parts.front.disconnect(link.connection_id)

    def message(self, link: Link, data: bytes) -> None:
        if link.connection_id in self._inbound:
            self._inbound[link.connection_id].put_nowait(data)

    def disconnect(self, connection_id: str) -> None:
        self._links.pop(connection_id, None)
        if inbound := self._inbound.pop(connection_id, None):
            inbound.put_nowait(None)

    def unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        if self._parts is not None:
            self._spawn(self._parts.front.unpark(connection_id, key, attempt, offset))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._process.spawn(work)

    async def inject_faults(self) -> None:
        injector, every_s = self._injector, self._faults.process_crash_every_s
        while every_s:
            await asyncio.sleep(injector.pause_s(FaultKind.PROCESS_CRASH, every_s))
            if self._parts is None or not injector.occurs(FaultKind.PROCESS_CRASH, 1.0):
                if injector.is_over:
                    return
                continue
            self._process.kill_after(injector.stream(FaultKind.PROCESS_CRASH).randrange(CRASH_AWAITS))
            self._loop.call_later(2.0, self._process.kill)

    def _died(self) -> None:
        self._parts = None
        self._injector.on_death(FaultKind.PROCESS_CRASH)
        self._dead.append(self._process)
        for link in list(self._links.values()):
            link.cut()
        self._links.clear()
        self._inbound.clear()
        spawn_outside(self._start_later())

    async def _start_later(self) -> None:
        await asyncio.sleep(self._injector.pause_s("restart", DOWN_S))
        self.start()

    async def stop(self) -> None:
        self._process.kill()
        await asyncio.sleep(0)
        for process in self._dead:
            process.dispose()
