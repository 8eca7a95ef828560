"""Simulated TCP connections with real WebSockets on them, and the sender that posts to those.

The app's end is that of the real client, which gets its connections from a `SimulatedLoop`.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Protocol

from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from answerback.core.request import RequestKey
from answerback.ports import Gone, Sent, Slow
from answerback.protocol.codec import encode
from answerback.protocol.frames import ServerFrame
from answerback.testing.loop import VirtualLoop
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.injector import FaultInjector, Faults

FOR_EVER_S: Final = 1_000_000.0
STALL_S: Final = 25.0
"""Longer than a lease: the caller goes on after its lease was lost."""


class Listener(Protocol):
    """What happens to connections at the server's end."""

    def opened(self, link: "Link", request: Request) -> None:
        """An upgrade request has come; `link.accept` or `link.refuse` answers it."""

    def received(self, link: "Link", data: bytes) -> None:
        """A message has come."""

    def closed(self, link: "Link") -> None:
        """The connection is over, as the server sees it."""


class SimulatedLoop(VirtualLoop):
    """An event loop on virtual time whose TCP connections are simulated. `dial` opens one."""

    dial: Callable[[], "Link"]

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], *_: Any, **__: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Open a connection to the one server. Raises: ConnectionRefusedError: it is down."""
        link = self.dial()
        link.protocol = protocol_factory()
        link.protocol.connection_made(link)
        return link, link.protocol


class Link(asyncio.Transport):
    """One connection, and the transport of its app's end. The two ends may disagree about whether it is open.

    `opened_at`: when the upgrade request came, to the millisecond. `is_connected`: frames can be posted to it.
    `is_lost`: nothing passes any more, and nobody notices. `slow_until`: the app's end takes nothing before.
    `frozen_until`: nor does it send anything.
    """

    def __init__(self, connection_id: str, network: "Network", listener: Listener) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.protocol = asyncio.Protocol()
        self.client_open = True
        self.server_open = True
        self.opened_at = FOR_EVER_S
        self.is_connected = False
        self.is_lost = False
        self.slow_until = 0.0
        self.frozen_until = 0.0
        self.parked: list[tuple[RequestKey, int, int]] = []
        self._network = network
        self._listener = listener
        self._server = ServerProtocol()
        self._request: Request | None = None
        self._up_at = 0.0
        self._down_at = 0.0

    # --- the app's end: asyncio.Transport

    def write(self, data: Any) -> None:
        self._up(self._arrive, bytes(data))

    def _up(self, act: Callable[..., object], *args: object) -> None:
        self._up_at = max(self._network.due_at("up"), self._up_at, self.frozen_until)
        self._network.call_at(self._up_at, act, *args)

    def close(self) -> None:
        """Close the app's end, in whatever way: the server notices, unless the connection is lost."""
        if self.client_open:
            self.client_open = False
            self._network.call_at(self._network.loop.time(), self.protocol.connection_lost, None)
            self._up(self._hung_up)

    abort = close

    def kill(self) -> None:
        """The app's process is gone: nobody takes what comes. Who killed it lets the server notice."""
        self.client_open = False

    def is_closing(self) -> bool:
        return not self.client_open

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    # --- the server's end

    def accept(self) -> None:
        """Answer the upgrade request: it is a WebSocket."""
        if self._request is not None:
            self._answer(self._server.accept(self._request))
            self.is_connected = self.server_open

    def refuse(self) -> None:
        """Answer the upgrade request: not now."""
        if self._request is not None:
            self._answer(self._server.reject(503, "Try again later.\n"))

    def _answer(self, response: Response) -> None:
        self._request = None
        self._server.send_response(response)
        self._down(self._flush)

    def post(self, data: bytes, *, after_s: float, ordered: bool) -> None:
        """Send a message. `ordered`: after all that was sent before it."""
        if ordered:
            self._down(self._send, data, after_s=after_s)
        else:
            self._network.call_at(self._network.due_at("down") + after_s, self._send, data)

    def shut(self) -> None:
        """The server begins to close, after what was sent."""
        if self.is_connected:
            self.is_connected = False
            self._down(self._close)

    def cut(self) -> None:
        """The server's end is gone, or takes it for gone; the app learns of it, unless the connection is lost."""
        self.drop()
        self._down(self._lost)

    def drop(self) -> None:
        """The server's end learns that the connection is over."""
        if self.server_open:
            self.server_open = self.is_connected = False
            self._listener.closed(self)

    def _down(self, act: Callable[..., object], *args: object, after_s: float = 0.0) -> None:
        self._down_at = max(self._network.due_at("down") + after_s, self._down_at)
        self._network.call_at(self._down_at, act, *args)

    # --- what comes through

    def _arrive(self, data: bytes) -> None:
        if not self.server_open or self.is_lost:
            return
        self._server.receive_data(data)
        for event in self._server.events_received():
            match event:
                case Request():
                    self._request, self.opened_at = event, round(self._network.loop.time(), 3)
                    self._listener.opened(self, event)
                case Frame(opcode=Opcode.TEXT):
                    self._listener.received(self, bytes(event.data))
                case _:
                    pass  # pings are answered, and closing begins, in what there is to send now
        if self._server.writes:
            self._down(self._flush)

    def _hung_up(self) -> None:
        if not self.is_lost:
            self.drop()

    def _send(self, data: bytes) -> None:
        if self.server_open and self._server.state is State.OPEN:
            self._server.send_text(data)
            self._flush()

    def _close(self) -> None:
        if self.server_open and self._server.state is State.OPEN:
            self._server.send_close(1000)
            self._flush()

    def _flush(self) -> None:
        for data in self._server.data_to_send():
            if not data:
                self.drop()
                self._lost()
            elif self.client_open and not self.is_lost:
                self.protocol.data_received(data)

    def _lost(self) -> None:
        if self.client_open and not self.is_lost:
            self.client_open = False
            self.protocol.connection_lost(ConnectionResetError())


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
        self.loop = asyncio.get_running_loop()
        self.links: dict[str, Link] = {}
        self.posts = 0

    def due_at(self, concern: str) -> float:
        """When something arrives that is sent now."""
        return self.loop.time() + self._injector.latency_s(concern)

    def call_at(self, at: float, act: Callable[..., object], *args: object) -> None:
        """Do something outside of every process."""
        self.loop.call_at(at, act, *args, context=self._context)

    def _way_to(self, connection_id: str) -> Link | None:
        link = self.links.get(connection_id)
        return link if link is not None and link.is_connected else None

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        self.posts += 1
        await asyncio.sleep(self._injector.latency_s("post"))
        if self._injector.occurs(FaultKind.STALLED_POST, self._faults.stall):
            self._injector.on_death(FaultKind.STALLED_POST)
            await asyncio.sleep(STALL_S)
        link = self._way_to(connection_id)
        if link is None or self._injector.occurs(FaultKind.FALSE_GONE, self._faults.false_gone):
            return Gone()
        now = self.loop.time()
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
            is_late = self._injector.occurs(FaultKind.LATE_POST, self._faults.late)
            late_s = self._injector.pause_s("late by", 3.0) if is_late else 0.0
            link.post(data, after_s=late_s, ordered=not self._faults.split)
        return Sent()

    async def ready(self, connection_id: str) -> None:
        link = self._way_to(connection_id)
        if link is not None:
            await asyncio.sleep(max(0.05, link.slow_until - self.loop.time()))

    async def close(self, connection_id: str) -> None:
        link = self._way_to(connection_id)
        if link is not None:
            link.shut()

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        """Park the connection, which the gateway can do and API Gateway cannot."""
        link = self._way_to(connection_id)
        if not self._faults.parks:
            return False
        if link is not None:
            self._injector.counts[FaultKind.PARKED] += 1
            link.parked.append((key, attempt, offset))
            self.call_at(max(link.slow_until, self.loop.time()) + 0.01, self._drain, link)
        return True

    def _drain(self, link: Link) -> None:
        parked, link.parked = link.parked, []
        if link.is_connected:
            for key, attempt, offset in parked:
                self._unpark(link.connection_id, key, attempt, offset)
