"""Simulated TCP connections with real WebSockets on them, and the sender that posts to those.

The app's end is that of the real client, which gets its connections from a `SimulatedLoop`.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from math import inf, nextafter
from typing import TYPE_CHECKING, Any, Final

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from answerback.core.request import RequestKey
from answerback.gateway.sockets import SocketSender
from answerback.ports import Gone, Sent, Slow
from answerback.protocol.codec import encode
from answerback.protocol.frames import ServerFrame
from answerback.protocol.limits import MAX_FRAME_BYTES
from answerback.testing.loop import VirtualLoop
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.injector import FaultInjector
from answerback_proof.simulation.process import Process, current

if TYPE_CHECKING:
    from answerback_proof.simulation.functions import SimulatedFunctions
    from answerback_proof.simulation.world import World

FOR_EVER_S: Final = 1_000_000.0
STALL_S: Final = 25.0
"""Longer than a lease: the caller goes on after its lease was lost."""


class ListeningSocket:
    """What a server gets that begins to listen; its own process and `protocol_factory` accept connections."""

    def __init__(self, protocol_factory: Callable[[], asyncio.Protocol], process: Process) -> None:
        self.protocol_factory = protocol_factory
        self.process = process
        self.is_open = True

    @property
    def sockets(self) -> "tuple[ListeningSocket]":
        """As of asyncio.Server: the one socket."""
        return (self,)

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 80

    def setsockopt(self, *_: int) -> None: ...

    def close(self) -> None:
        self.is_open = False


class SimulatedLoop(VirtualLoop):
    """An event loop on virtual time whose TCP connections are simulated. `dial` opens one to what listens."""

    dial: Callable[[], "Link"]

    def __init__(self) -> None:
        super().__init__()
        self.listening: list[ListeningSocket] = []
        """Of every process that began to listen, the newest last."""

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], *_: Any, **__: Any
    ) -> ListeningSocket:
        process = current()
        assert process is not None
        self.listening.append(ListeningSocket(protocol_factory, process))
        return self.listening[-1]

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], *_: Any, **__: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Open a connection to the server. Raises: ConnectionRefusedError: it is down."""
        link = self.dial()
        link.protocol = protocol_factory()
        link.protocol.connection_made(link)
        return link, link.protocol


class Link(asyncio.Transport):
    """One connection, and the transport of its app's end. The two ends may disagree about whether it is open.

    `closed` is called when the server learns that it is over. `opened_at`: when the upgrade request came, to the
    millisecond. `is_connected`: frames can be posted to it. `is_lost`: nothing passes any more, and nobody notices.
    `slow_until`: the app's end takes nothing before. `frozen_until`: nor does it send anything.
    """

    def __init__(self, connection_id: str, network: "Network", closed: Callable[["Link"], None]) -> None:
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
        self._network = network
        self._closed = closed
        self._up_at = 0.0
        self._down_at = 0.0

    # --- the app's end: asyncio.Transport

    def write(self, data: Any) -> None:
        self._up(self._arrive, bytes(data))

    def _up(self, act: Callable[..., object], *args: object) -> None:
        # Timers of one instant run in any order, and the bytes of a connection come in theirs.
        self._up_at = max(self._network.due_at("up"), nextafter(self._up_at, inf), self.frozen_until)
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

    def inject(self, data: bytes) -> None:
        """Let a message of the app's arrive, past its client."""
        raise NotImplementedError

    # --- the server's end

    def cut(self) -> None:
        """The server's end is gone, or takes it for gone; the app learns of it, unless the connection is lost."""
        self.drop()
        self._down(self._lost)

    def drop(self) -> None:
        """The server's end learns that the connection is over."""
        if self.server_open:
            self.server_open = self.is_connected = False
            self._closed(self)

    def _down(self, act: Callable[..., object], *args: object) -> None:
        self._down_at = max(self._network.due_at("down"), nextafter(self._down_at, inf))
        self._network.call_at(self._down_at, act, *args)

    # --- what comes through

    def _arrive(self, data: bytes) -> None:
        """Bytes of the app's come to the server."""
        raise NotImplementedError

    def _hung_up(self) -> None:
        if not self.is_lost:
            self.drop()

    def _lost(self) -> None:
        if self.client_open and not self.is_lost:
            self.client_open = False
            self.protocol.connection_lost(ConnectionResetError())


class ApiGatewayLink(Link):
    """A connection whose server's end is API Gateway, which speaks WebSocket for the functions behind it."""

    def __init__(self, connection_id: str, network: "Network", functions: "SimulatedFunctions") -> None:
        super().__init__(connection_id, network, functions.closed)
        self._functions = functions
        self._server = ServerProtocol()
        self._request: Request | None = None
        self._message = bytearray()

    def inject(self, data: bytes) -> None:
        self._network.call_at(self._network.due_at("up"), self._functions.received, self, data)

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

    def post(self, data: bytes, *, after_s: float) -> None:
        """Send a message. It may overtake others."""
        self._network.call_at(self._network.due_at("down") + after_s, self._send, data)

    def shut(self) -> None:
        """The server begins to close, after what was sent."""
        if self.is_connected:
            self.is_connected = False
            self._down(self._close)

    def _arrive(self, data: bytes) -> None:
        if not self.server_open or self.is_lost:
            return
        self._server.receive_data(data)
        for event in self._server.events_received():
            match event:
                case Request():
                    self._request, self.opened_at = event, round(self._network.loop.time(), 3)
                    self._functions.opened(self, event)
                case Frame(opcode=Opcode.TEXT | Opcode.CONT, data=part, fin=is_last):
                    if len(part) > MAX_FRAME_BYTES:
                        self._server.fail(CloseCode.MESSAGE_TOO_BIG)
                        continue
                    self._message += part
                    if is_last:
                        message, self._message = bytes(self._message), bytearray()
                        self._functions.received(self, message)
                case _:
                    pass  # pings are answered, and closing begins, in what there is to send now
        if self._server.writes:
            self._down(self._flush)

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


class GatewayLink(Link):
    """A connection whose server's end is a transport of the gateway: bytes in, bytes out, in order."""

    def __init__(
        self,
        connection_id: str,
        network: "Network",
        listening: ListeningSocket,
        *,
        closed: Callable[[Link], None],
    ) -> None:
        super().__init__(connection_id, network, closed)
        self._end = ServerEnd(self, network, listening)

    def inject(self, data: bytes) -> None:
        self.write(Frame(Opcode.TEXT, data).serialize(mask=True))

    def upgraded(self) -> None:
        self.opened_at = round(self._network.loop.time(), 3)
        self.is_connected = self.server_open

    def drop(self) -> None:
        super().drop()
        self._end.lost()

    def down(self, data: bytes) -> None:
        self._down(self._deliver, data)

    def _arrive(self, data: bytes) -> None:
        if self.server_open and not self.is_lost:
            self._end.received(data)

    def _deliver(self, data: bytes) -> None:
        if self.client_open and not self.is_lost:
            self.protocol.data_received(data)


class ServerEnd(asyncio.Transport):
    """The gateway's end of a connection. While the app takes nothing, what is written stays in a buffer."""

    def __init__(self, link: GatewayLink, network: "Network", listening: ListeningSocket) -> None:
        super().__init__()
        self.link = link
        self._network = network
        self._process = listening.process
        self._high = 64 * 1024
        self._unsent = bytearray()
        self._unread: list[bytes] = []
        self._is_reading = True
        self._is_clogged = False
        self._is_closing = False
        self._is_lost = False
        self._drains_at: float | None = None
        self._context = listening.process.context()
        self._protocol = self._context.run(listening.protocol_factory)
        self._context.run(self._protocol.connection_made, self)

    def _call(self, act: Callable[..., object], *args: object) -> None:
        """Call into the gateway, unless its process is dead."""
        self._process.call(partial(self._context.run, act, *args))

    # --- what the gateway does

    def write(self, data: Any) -> None:
        if not self._is_closing and not self._is_lost:
            self._unsent += data
            self._drain()

    def _drain(self) -> None:
        now, taken_at = self._network.loop.time(), self.link.slow_until
        if now < taken_at:
            if self._drains_at != taken_at:
                self._drains_at = taken_at
                self._network.call_at(taken_at, self._drain)
            if len(self._unsent) > self._high and not self._is_clogged:
                self._is_clogged = True
                self._protocol.pause_writing()
            return
        if self._unsent and not self._is_lost and not self._process.is_dead:
            self.link.down(bytes(self._unsent))
        self._unsent.clear()
        if self._is_closing:
            self.abort()
        elif self._is_clogged:
            self._is_clogged = False
            self._call(self._protocol.resume_writing)

    def close(self) -> None:
        self._is_closing = True
        self._drain()

    def abort(self) -> None:
        self._is_closing = True
        if not self._is_lost:
            self._network.call_at(self._network.loop.time(), self.link.cut)

    def is_closing(self) -> bool:
        return self._is_closing or self._is_lost

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 0

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self._network.call_at(self._network.loop.time(), self._read)

    def is_reading(self) -> bool:
        return self._is_reading

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40_000) if name == "peername" else default

    # --- what comes to it

    def received(self, data: bytes) -> None:
        self._unread.append(data)
        self._read()

    def _read(self) -> None:
        while self._unread and self._is_reading and not self._is_lost:
            self._call(self._protocol.data_received, self._unread.pop(0))

    def lost(self) -> None:
        """The connection is over, as this end sees it."""
        if not self._is_lost:
            self._is_lost = True
            self._network.call_at(self._network.loop.time(), self._call, self._protocol.connection_lost, None)


class Network:
    """ports.Sender over the links of API Gateway, with latency, loss, duplication and reordering.

    `links`: by the server's name of each connection that it knows.
    """

    def __init__(self, injector: FaultInjector, watcher: "World") -> None:
        self.watcher = watcher
        self.injector = injector
        self._context = Context()  # what arrives there is done by nobody here
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        self.loop = loop
        self.links: dict[str, Link] = {}
        self.posts = 0

    def due_at(self, concern: str) -> float:
        """When something arrives that is sent now."""
        return self.loop.time() + self.injector.latency_s(concern)

    def call_at(self, at: float, act: Callable[..., object], *args: object) -> None:
        """Do something outside of every process."""
        self.loop.call_at(at, act, *args, context=self._context)

    def _way_to(self, connection_id: str) -> ApiGatewayLink | None:
        link = self.links.get(connection_id)
        return link if isinstance(link, ApiGatewayLink) and link.is_connected else None

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        self.posts += 1
        await asyncio.sleep(self.injector.latency_s("post"))
        if self.injector.occurs(FaultKind.STALLED_POST):
            self.injector.on_death(FaultKind.STALLED_POST)
            await asyncio.sleep(STALL_S)
        link = self._way_to(connection_id)
        if link is None or self.injector.occurs(FaultKind.FALSE_GONE):
            return Gone()
        now = self.loop.time()
        if now < link.slow_until:
            return Slow()
        if self.injector.occurs(FaultKind.SLOW_READER):
            link.slow_until = now + self.injector.pause_s("slow reader for", 2.0)
            return Slow()
        self.watcher.sent(connection_id, frame)
        if self.injector.occurs(FaultKind.LOST_POST):
            return Sent()
        data = encode(frame)
        for _ in range(1 + self.injector.occurs(FaultKind.DUPLICATED_POST)):
            is_late = self.injector.occurs(FaultKind.LATE_POST)
            late_s = self.injector.pause_s("late by", 3.0) if is_late else 0.0
            link.post(data, after_s=late_s)
        return Sent()

    async def ready(self, connection_id: str) -> None:
        link = self._way_to(connection_id)
        if link is not None:
            await asyncio.sleep(max(0.05, link.slow_until - self.loop.time()))

    async def close(self, connection_id: str, last: ServerFrame | None = None) -> None:
        if last is not None:
            await self.send(connection_id, last)
        link = self._way_to(connection_id)
        if link is not None:
            link.shut()

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        """Refuse, as API Gateway does."""
        return False


class WatchedSender(SocketSender):
    """The gateway's sender. Its frames are watched, and some readers become slow."""

    network: Network

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        network = self.network
        network.posts += 1
        link = network.links.get(connection_id)
        if link is not None and network.injector.occurs(FaultKind.SLOW_READER):
            link.slow_until = network.loop.time() + network.injector.pause_s("slow reader for", 2.0)
        outcome = await super().send(connection_id, frame)
        if isinstance(outcome, Sent):
            network.watcher.sent(connection_id, frame)
        return outcome

    async def close(self, connection_id: str, last: ServerFrame | None = None) -> None:
        socket = self._sockets.get(connection_id)
        if last is not None and socket is not None and socket.is_open:
            self.network.watcher.sent(connection_id, last)
        await super().close(connection_id, last)

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        is_parked = super().park(connection_id, key, attempt, offset)
        self.network.injector.counts[FaultKind.PARKED] += is_parked
        return is_parked
