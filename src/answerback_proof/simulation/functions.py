"""The server as many short processes: each message and each handed-out request has one, which may die at each await."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

from answerback.core.request import RequestKey, State
from answerback.ports import Connection, Unavailable
from answerback.service.worker import Done, Retry, Worker
from answerback.testing.queue import LaneQueue
from answerback_proof.simulation.faults import Dice, Faults
from answerback_proof.simulation.network import Link
from answerback_proof.simulation.process import Process
from answerback_proof.simulation.queue import StormyQueue
from answerback_proof.simulation.server import POLICY, SWEEP_S, Clocks, Parts
from answerback_proof.simulation.store import FaultyConnections, Wire

LATE_DISCONNECT_S: Final = 20.0


class SimulatedFunctions:
    """server.Server. The queue and the table of connections live on, whatever dies."""

    def __init__(self, *, faults: Faults, dice: Dice, clocks: Clocks, make: Callable[..., Parts]) -> None:
        self._faults = faults
        self._dice = dice
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, list[bytes]] = {}
        self._living: set[Process] = set()
        self._graves: list[Process] = []
        self.dispatched: Counter[RequestKey] = Counter()
        wire = Wire(dice, faults, "queue")
        self._clocks = clocks
        self._queue = StormyQueue(
            self._run,
            wire=wire,
            clock=clocks.worker,
            visibility_s=POLICY.lease_ms / 1000,
            is_lost=self._is_lost,
        )

        def queue(_: Worker) -> LaneQueue:
            return self._queue

        self._parts = make(connections=FaultyConnections(Wire(dice, faults, "connections")), queue=queue)
        self._background: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """See server.Server."""
        self._background.append(self._loop.create_task(self._queue.watch()))
        if self._faults.janitor:
            self._background.append(self._loop.create_task(self._sweep()))

    def _is_lost(self, key: RequestKey) -> bool:
        record = self._parts.store.records.get(key)
        return record is not None and record.state is State.RUNNING and self._clocks.worker() >= record.lease_until_ms

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self._parts.janitor.sweep()

    def connect(self, link: Link, connection: Connection) -> None:
        """See server.Server."""
        self._waiting[link.connection_id] = []
        self._invoke("front crash", self._faults.front_crash, self._connect(link, connection), self._refuse, link)

    async def _connect(self, link: Link, connection: Connection) -> None:
        try:
            await self._parts.front.connect(connection)
        except Unavailable:
            self._refuse(link)
            return
        link.is_connected = True
        for data in self._waiting.pop(link.connection_id, []):
            self.message(link, data)

    def _refuse(self, link: Link) -> None:
        if not link.is_connected:
            link.server_open = False
            self._loop.call_later(self._dice.latency_s("down"), link.reset)

    def message(self, link: Link, data: bytes) -> None:
        """See server.Server."""
        if not link.is_connected:
            self._waiting.setdefault(link.connection_id, []).append(data)
            return
        self._invoke("front crash", self._faults.front_crash, self._parts.front.receive(link.connection_id, data))

    def disconnect(self, connection_id: str) -> None:
        """See server.Server."""
        if self._dice.strikes("late $disconnect", self._faults.late_disconnect):
            self._loop.call_later(
                self._dice.pause_s("late $disconnect by", LATE_DISCONNECT_S), self._leave, connection_id
            )
        else:
            self._leave(connection_id)

    def _leave(self, connection_id: str) -> None:
        self._invoke("front crash", self._faults.front_crash, self._parts.front.disconnect(connection_id))

    def unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        """See server.Server: API Gateway parks nothing."""

    async def storm(self) -> None:
        """See server.Server."""
        await self._queue.storm(self._dice, self._faults)

    async def _run(self, key: RequestKey) -> Done | Retry:
        self.dispatched[key] += 1
        work = self._parts.worker.run(key)
        outcome: Done | Retry = await self._invoke("worker crash", self._faults.worker_crash, work)
        return outcome

    def _invoke(
        self,
        fault: str,
        probability: float,
        work: Coroutine[Any, Any, Any],
        crashed: Callable[..., object] | None = None,
        *args: object,
    ) -> "asyncio.Task[Any]":
        def died() -> None:
            self._dice.counts[fault] += 1
            self._dice.on_death(fault)
            self._graves.append(process)
            if crashed is not None:
                crashed(*args)

        process = Process(died)
        fuse = self._dice.fuse(fault, probability)
        if fuse is not None:
            process.light(fuse)
        task = process.spawn(work)
        self._living.add(process)
        task.add_done_callback(lambda _: self._living.discard(process))
        return task

    async def stop(self) -> None:
        """See server.Server."""
        for task in self._background:
            task.cancel()
        await self._queue.stop()
        for process in list(self._living):
            process.kill()
        await asyncio.sleep(0)
        for process in self._graves:
            process.bury()
