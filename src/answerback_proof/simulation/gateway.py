"""The server as one process, with the gateway's own queue: when it dies all of it dies, and a new one starts."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import parse_qsl, urlsplit

from websockets.http11 import Request

from answerback.core.request import Record, RequestKey
from answerback.gateway.listener import MAX_IN_FLIGHT
from answerback.gateway.queue import InProcessQueue
from answerback.gateway.upgrade import HandshakeValidator
from answerback.ports import Unavailable
from answerback.service.attempt import Turn
from answerback.stores.connections import MemoryConnections
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.injector import FaultInjector, Faults
from answerback_proof.simulation.network import Link
from answerback_proof.simulation.process import Process, spawn_outside
from answerback_proof.simulation.server import RULES, SWEEP_S, Clocks, Parts

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest

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

    def reserve(self, key: RequestKey, record: Record) -> Turn | bool:
        turn = super().reserve(key, record)
        if isinstance(turn, Turn):
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
        self._validator = HandshakeValidator(rules=RULES, tokens=None, clock=clocks.front)
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
        self._validator = HandshakeValidator(rules=RULES, tokens=None, clock=self._clocks.front)
        self._parts = parts
        while self._faults.janitor:
            await asyncio.sleep(SWEEP_S)
            await parts.janitor.sweep()

    def connect(self, link: Link, request: Request) -> None:
        if self._parts is None:
            link.refuse()
            return
        self._links[link.connection_id] = link
        inbound = self._inbound[link.connection_id] = asyncio.Queue()
        self._process.spawn(self._serve(self._parts, link, request, inbound))

    async def _serve(self, parts: Parts, link: Link, request: Request, inbound: "asyncio.Queue[bytes | None]") -> None:
        """One connection, as the listener serves it: messages are handled at the same time, up to a number of them."""
        url = urlsplit(request.path)
        upgrade = SimpleNamespace(
            method="GET", headers=dict(request.headers.raw_items()), query=dict(parse_qsl(url.query)), remote=""
        )
        connection = await self._validator.validate(cast("BaseRequest", upgrade))
        token_s = self._faults.token_s
        expires_at_ms = connection.last_activity_ms + int(token_s * 1000) if token_s else None
        link.accept()
        await parts.front.connect(
            replace(
                connection,
                connection_id=link.connection_id,
                authenticated=bool(token_s),
                token_expires_at_ms=expires_at_ms,
            )
        )
        places = asyncio.Semaphore(MAX_IN_FLIGHT)
        while (data := await inbound.get()) is not None:
            await places.acquire()
            self._process.spawn(self._handle(parts, link, data, places))
        await parts.front.disconnect(link.connection_id)

    async def _handle(self, parts: Parts, link: Link, data: bytes, places: asyncio.Semaphore) -> None:
        """One message. If that begins a request, this task then runs it."""
        try:
            run = await parts.front.receive(link.connection_id, data)
        finally:
            places.release()
        if run is not None:
            await run

    def message(self, link: Link, data: bytes) -> None:
        if link.connection_id in self._inbound:
            self._inbound[link.connection_id].put_nowait(data)

    def disconnect(self, connection_id: str) -> None:
        self._links.pop(connection_id, None)
        if inbound := self._inbound.pop(connection_id, None):
            inbound.put_nowait(None)

    def unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        if self._parts is not None:
            self._process.spawn(self._parts.front.unpark(connection_id, key, attempt, offset))

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
