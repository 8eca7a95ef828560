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
from answerback_proof.simulation.network import GatewayLink, Link, Network, ServerEnd, WatchedSender
from answerback_proof.simulation.process import Process, spawn_outside
from answerback_proof.simulation.server import RULES, SWEEP_S, Clocks, Parts, Server

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest

CAPS: Final = Caps(write_buffer_bytes=1024, frames_per_second=20, frames_burst=40)
"""Small, so that slow readers and floods meet them."""

DOWN_S: Final = 2.0
"""Mean seconds between the death of a process and the next start."""

CRASH_AWAITS: Final = 40
"""A process that is to die does so within so many awaits, at any of them."""

START_AGAIN_S: Final = 1.0
SLOTS: Final = {"wordy": 1_000}


class CountingQueue(InProcessQueue):
    """The gateway's queue. It counts the turns that the front gets at once."""

    dispatched: Counter[RequestKey]

    def reserve(self, key: RequestKey, record: Record) -> Turn | bool:
        turn = super().reserve(key, record)
        if isinstance(turn, Turn):
            self.dispatched[key] += 1
        return turn


class NamingValidator(HandshakeValidator):
    """Gives a connection the name that its link has, and the token that its user would have."""

    def __init__(self, *, network: Network, clock: Callable[[], int]) -> None:
        super().__init__(rules=RULES, tokens=None, clock=clock)
        self._network = network
        self._token_s = network.injector.faults.token_s

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


class Gateway:
    """A gateway on the real listener, over simulated TCP: its processes, one after the other."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.network = server.network
        self.injector = server.injector
        self.loop = server.loop
        self.links: list[Link] = []
        self.process = Process()
        self._dead: list[Process] = []

    def start(self) -> None:
        self.process = Process(self.died)
        self.process.spawn(self.boot())

    async def boot(self) -> None:
        """What the process does."""
        queue, sockets = CountingQueue(slots=SLOTS, clock=self.server.clocks.worker), Sockets()
        sender = WatchedSender(sockets)
        parts = self.compose(queue, sender, connections=MemoryConnections())
        while True:
            try:
                await queue.recover(parts.store)
                break
            except Unavailable:
                await asyncio.sleep(START_AGAIN_S)
        await self.listen(parts, queue, sockets, tasks=Tasks(), clock=self.server.clocks.front)
        while self.injector.faults.janitor:
            await asyncio.sleep(SWEEP_S)
            await parts.janitor.sweep()

    def compose(self, queue: CountingQueue, sender: WatchedSender, **more: Any) -> Parts:
        """The service around the process's queue and sender."""
        queue.dispatched, sender.network = self.server.dispatched, self.network
        return self.server.make(queue=queue, local=queue, sender=sender, **more)

    async def listen(
        self, parts: Parts, queue: CountingQueue, sockets: Sockets, *, tasks: Tasks, clock: Callable[[], int]
    ) -> Listener:
        """Begin to work, and to take connections."""

        async def work(key: RequestKey, turn: Turn) -> None:
            self.server.dispatched[key] += 1
            await parts.worker.work(key, turn)

        queue.start(work)
        listener = Listener(
            front=cast("Front", WatchedFront(parts.front, self.network)),
            validator=NamingValidator(network=self.network, clock=clock),
            sockets=sockets,
            caps=CAPS,
            tasks=tasks,
        )
        await listener.start("localhost", 0)
        return listener

    @property
    def is_listening(self) -> bool:
        """Whether it takes connections, also if it does nothing with them."""
        listens = any(one.process is self.process and one.is_open for one in self.loop.listening)
        return listens and not self.process.is_dead

    def dial(self, connection_id: str) -> Link:
        listening = next(one for one in self.loop.listening if one.process is self.process)
        link = GatewayLink(connection_id, self.network, listening, closed=self._closed)
        self.links.append(link)
        return link

    def _closed(self, link: Link) -> None:
        self.links.remove(link)
        self.network.watcher.gone(link.connection_id)
        self.network.links.pop(link.connection_id, None)

    def crash(self) -> None:
        """Its process dies soon, at some await."""
        self.process.kill_after(self.injector.stream(FaultKind.PROCESS_CRASH).randrange(CRASH_AWAITS))
        self.network.call_at(self.loop.time() + 2.0, self.process.kill)

    def died(self) -> None:
        """Its process is dead; another one starts."""
        self.injector.on_death(FaultKind.PROCESS_CRASH)
        self.goes()

    def goes(self) -> None:
        """Its process is gone, dead or stopped; another one starts."""
        self._dead.append(self.process)
        for link in list(self.links):
            link.cut()
        spawn_outside(self._start_later())

    async def _start_later(self) -> None:
        await asyncio.sleep(self.injector.pause_s("restart", DOWN_S))
        self.start()

    def dispose(self) -> None:
        for process in self._dead:
            process.dispose()


class SimulatedGateway(Server):
    """The server as one gateway."""

    def __init__(self, network: Network, *, clocks: Clocks, make: Callable[..., Parts]) -> None:
        super().__init__(network, clocks=clocks, make=make)
        self._gateway = Gateway(self)

    def start(self) -> None:
        self._gateway.start()

    def dial(self, connection_id: str) -> Link:
        if not self._gateway.is_listening:
            raise ConnectionRefusedError
        return self._gateway.dial(connection_id)

    async def inject_faults(self) -> None:
        gateway = self._gateway
        await self.injector.often(FaultKind.PROCESS_CRASH, gateway.crash, when=lambda: not gateway.process.is_dead)

    async def stop(self) -> None:
        self._gateway.process.kill()
        await asyncio.sleep(0)
        self._gateway.dispose()
