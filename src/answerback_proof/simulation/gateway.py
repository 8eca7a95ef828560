"""The server as one process, with the gateway's own queue: when it dies all of it dies, and a new one starts."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from answerback.core.request import Record, RequestKey
from answerback.gateway.listener import Listener
from answerback.gateway.queue import InProcessQueue
from answerback.gateway.settings import Caps
from answerback.gateway.sockets import Sockets
from answerback.gateway.upgrade import HandshakeValidator
from answerback.ports import Connection, Unavailable
from answerback.service.attempt import Turn
from answerback.service.front import Front
from answerback.stores.connections import MemoryConnections
from answerback.tasks import Tasks
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.injector import FaultInjector, Faults
from answerback_proof.simulation.network import GatewayLink, Link, Network, ServerEnd, SimulatedLoop, WatchedSender
from answerback_proof.simulation.process import Process, spawn_outside
from answerback_proof.simulation.server import RULES, SWEEP_S, Clocks, Parts

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest

CAPS: Final = Caps(write_buffer_bytes=1024, frames_per_second=20, frames_burst=40)
"""Small, so that slow readers and floods meet them."""

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


class NamingValidator(HandshakeValidator):
    """Gives a connection the name that its link has, and the token that its user would have."""

    def __init__(self, *, network: Network, token_s: float, clock: Callable[[], int]) -> None:
        super().__init__(rules=RULES, tokens=None, clock=clock)
        self._network = network
        self._token_s = token_s

    async def validate(self, request: "BaseRequest") -> Connection:
        connection = await super().validate(request)
        end = request.transport
        assert isinstance(end, ServerEnd)
        link = end.link
        link.upgraded()
        self._network.links[link.connection_id] = link
        expires_at_ms = connection.last_activity_ms + int(self._token_s * 1000) if self._token_s else None
        return replace(
            connection,
            connection_id=link.connection_id,
            authenticated=bool(self._token_s),
            token_expires_at_ms=expires_at_ms,
        )


class WatchedFront:
    """The front as the listener uses it. What comes is watched."""

    def __init__(self, front: Front, network: Network) -> None:
        self._front = front
        self._network = network
        self.connect, self.disconnect, self.unpark = front.connect, front.disconnect, front.unpark
        self.greeted = front.greeted

    async def receive(self, connection_id: str, data: str) -> Coroutine[Any, Any, None] | None:
        self._network.watcher.heard(connection_id, data.encode())
        return await self._front.receive(connection_id, data)


class SimulatedGateway:
    """server.Server as a gateway process: the real listener, over simulated TCP.

    `make` composes front, worker and janitor around connections, a sender and a queue.
    """

    def __init__(
        self, *, faults: Faults, injector: FaultInjector, clocks: Clocks, network: Network, make: Callable[..., Parts]
    ) -> None:
        self._faults = faults
        self._injector = injector
        self._clocks = clocks
        self._network = network
        self._make = make
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        self._loop = loop
        self._links: list[Link] = []
        self._process = Process()
        self._dead: list[Process] = []
        self.dispatched: Counter[RequestKey] = Counter()

    def start(self) -> None:
        self._process = Process(self._died)
        self._process.spawn(self._boot())

    async def _boot(self) -> None:
        queue, sockets = CountingQueue(self.dispatched, clock=self._clocks.worker), Sockets()
        sender = WatchedSender(sockets, self._network, self._injector, self._faults)
        parts = self._make(connections=MemoryConnections(), queue=queue, local=queue, sender=sender)
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
        listener = Listener(
            front=cast("Front", WatchedFront(parts.front, self._network)),
            validator=NamingValidator(network=self._network, token_s=self._faults.token_s, clock=self._clocks.front),
            sockets=sockets,
            caps=CAPS,
            tasks=Tasks(),
        )
        await listener.start("localhost", 0)
        while self._faults.janitor:
            await asyncio.sleep(SWEEP_S)
            await parts.janitor.sweep()

    def dial(self, connection_id: str) -> Link:
        if not self._loop.listening or self._loop.listening[-1].process.is_dead:
            raise ConnectionRefusedError
        link = GatewayLink(connection_id, self._network, self._loop.listening[-1], closed=self._closed)
        self._links.append(link)
        return link

    def _closed(self, link: Link) -> None:
        self._links.remove(link)
        self._network.watcher.gone(link.connection_id)
        self._network.links.pop(link.connection_id, None)

    async def inject_faults(self) -> None:
        injector, every_s = self._injector, self._faults.process_crash_every_s
        while every_s:
            await asyncio.sleep(injector.pause_s(FaultKind.PROCESS_CRASH, every_s))
            if self._process.is_dead or not injector.occurs(FaultKind.PROCESS_CRASH, 1.0):
                if injector.is_over:
                    return
                continue
            self._process.kill_after(injector.stream(FaultKind.PROCESS_CRASH).randrange(CRASH_AWAITS))
            self._loop.call_later(2.0, self._process.kill)

    def _died(self) -> None:
        self._injector.on_death(FaultKind.PROCESS_CRASH)
        self._dead.append(self._process)
        for link in list(self._links):
            link.cut()
        spawn_outside(self._start_later())

    async def _start_later(self) -> None:
        await asyncio.sleep(self._injector.pause_s("restart", DOWN_S))
        self.start()

    async def stop(self) -> None:
        self._process.kill()
        await asyncio.sleep(0)
        for process in self._dead:
            process.dispose()
