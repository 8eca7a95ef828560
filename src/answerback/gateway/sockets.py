"""Open sockets and the `Sender` over them: flow control, corking, parked deliveries.

A socket that cannot take more returns `Slow`, and keeps of each answer only where it stopped (`park`). When the peer
has read enough, the deliveries go on from there. So a peer that stops reading costs a bounded write buffer.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeAlias

from aiohttp import WSCloseCode, web

from answerback.core.request import RequestKey
from answerback.gateway.http import PING, PONG, Handler, frame
from answerback.ports import Gone, Sent, Slow
from answerback.protocol.codec import encode
from answerback.protocol.frames import ServerFrame
from answerback.tasks import Tasks

log = logging.getLogger("answerback.socket")

Unpark: TypeAlias = Callable[[str, RequestKey, int, int], Awaitable[None]]

CORK_BYTES: Final = 64 * 1024
"""Frames of one turn of the event loop are sent in one write, up to this size."""

CLOSE_TIMEOUT_S: Final = 3.0
"""How long the close handshake may take before the connection is cut."""

_SENT: Final = Sent()
_GONE: Final = Gone()
_SLOW: Final = Slow()


class TokenBucket:
    """`burst` tokens at first, refilled at `rate` a second; a rate of 0 means no limit. Times are monotonic seconds."""

    __slots__ = ("_burst", "_level", "_rate", "_updated", "users")

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._level = self._burst
        self._updated = now
        self.users = 0
        """Connections that share this bucket."""

    def take(self, *, now: float) -> float:
        """Take one token, on credit if need be; seconds to wait before the frame may be handled, 0 if none.

        Credit makes the waits of several connections that share the bucket add up, so that together they keep the rate.
        """
        if self._rate <= 0:
            return 0.0
        self._level = min(self._burst, self._level + (now - self._updated) * self._rate) - 1.0
        self._updated = now
        return 0.0 if self._level >= 0 else -self._level / self._rate


class Traffic:
    """Counts of everything that went through the sockets of a listener."""

    __slots__ = ("bytes_out", "frames_in", "frames_out", "gone", "parked", "slow", "throttled", "unparked")

    def __init__(self) -> None:
        self.frames_in = 0
        self.frames_out = 0
        self.bytes_out = 0
        self.slow = 0
        self.gone = 0
        self.parked = 0
        self.unparked = 0
        self.throttled = 0


class Socket:
    """One open WebSocket."""

    __slots__ = (
        "_closing",
        "_corked",
        "_corked_bytes",
        "_handler",
        "_loop",
        "_parked",
        "_room",
        "_stalled_since",
        "_tasks",
        "_traffic",
        "_transport",
        "_unpark",
        "_unparking",
        "_waiters",
        "_ws",
        "bucket",
        "connection_id",
        "in_flight",
        "is_reading",
        "ping_sent",
        "received_since_ping",
        "user_id",
    )

    def __init__(
        self,
        *,
        connection_id: str,
        user_id: str | None,
        ws: web.WebSocketResponse,
        handler: Handler,
        transport: asyncio.Transport,
        bucket: TokenBucket,
        unpark: Unpark,
        tasks: Tasks,
        traffic: Traffic,
    ) -> None:
        self.connection_id = connection_id
        self.user_id = user_id
        self.bucket = bucket
        self.in_flight = 0
        self.is_reading = True
        self.received_since_ping = True
        self.ping_sent = False
        self._ws = ws
        self._handler = handler
        self._transport = transport
        self._unpark = unpark
        self._tasks = tasks
        self._traffic = traffic
        self._loop = asyncio.get_running_loop()
        self._corked: list[bytes] = []
        self._corked_bytes = 0
        self._parked: dict[RequestKey, tuple[int, int]] = {}
        self._unparking = False
        self._waiters: list[asyncio.Future[None]] = []
        self._stalled_since: float | None = None
        self._closing: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        handler.on_pause = self._paused
        handler.on_resume = self._resumed
        handler.on_lost = self._wake

    # --- sending --------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether frames can still be sent."""
        return self._closing is None and not self._transport.is_closing()

    @property
    def is_clogged(self) -> bool:
        """Whether the peer has to read before more is sent."""
        return self._handler.writing_paused

    def send(self, payload: bytes) -> Sent | Gone | Slow:
        """Send one text message; it leaves with the others of this turn of the event loop."""
        traffic = self._traffic
        if self._closing is not None or self._transport.is_closing():
            traffic.gone += 1
            return _GONE
        if self._handler.writing_paused:
            traffic.slow += 1
            return _SLOW
        self._cork(frame(payload))
        traffic.frames_out += 1
        traffic.bytes_out += len(payload)
        return _SENT

    def pong(self, payload: bytes) -> None:
        if self.is_open:
            self._cork(frame(payload, PONG))

    def ping(self) -> None:
        """Ask whether the peer is there."""
        if self.is_open:
            self._cork(frame(b"", PING))

    def _cork(self, data: bytes) -> None:
        if not self._corked:
            self._loop.call_soon(self._flush)
        self._corked.append(data)
        self._corked_bytes += len(data)
        if self._corked_bytes >= CORK_BYTES:
            self._flush()

    def _flush(self) -> None:
        corked = self._corked
        if not corked:
            return
        data = corked[0] if len(corked) == 1 else b"".join(corked)
        corked.clear()
        self._corked_bytes = 0
        if not self._transport.is_closing():
            self._transport.write(data)

    # --- a peer that does not read --------------------------------------------------------------------------

    async def ready(self) -> None:
        """Return when the peer has read enough, or is gone."""
        while self.is_clogged and self.is_open:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def park(self, key: RequestKey, attempt: int, offset: int) -> None:
        """Remember where a delivery stopped."""
        self._traffic.parked += 1
        self._parked[key] = (attempt, offset)
        if not self.is_clogged:
            self._start_unparking()

    @property
    def parked(self) -> int:
        """Deliveries that wait for the peer to read."""
        return len(self._parked)

    def stalled_for_s(self, *, now: float) -> float:
        """Seconds since the peer last left room in the write buffer; 0 if there is room."""
        return 0.0 if self._stalled_since is None else now - self._stalled_since

    def _paused(self) -> None:
        self._stalled_since = self._loop.time()

    def _resumed(self) -> None:
        self._stalled_since = None
        self._wake()
        self._start_unparking()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _start_unparking(self) -> None:
        if self._parked and not self._unparking and self.is_open:
            self._unparking = True
            self._tasks.start(self._resume_deliveries(), name=f"unpark {self.connection_id}")

    async def _resume_deliveries(self) -> None:
        try:
            while self._parked and not self.is_clogged and self.is_open:
                key = next(iter(self._parked))
                attempt, offset = self._parked.pop(key)
                self._traffic.unparked += 1
                await self._unpark(self.connection_id, key, attempt, offset)
        finally:
            self._unparking = False

    # --- frames that are being handled ----------------------------------------------------------------------

    def handled(self) -> None:
        """A frame of this connection was handled."""
        self.in_flight -= 1
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def frame_handled(self) -> None:
        """Return when the next frame was handled. For the one reader."""
        self._room = self._loop.create_future()
        await self._room
        self._room = None

    # --- the end --------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str = "", *, last: bytes | None = None) -> asyncio.Task[None]:
        """Begin to close gracefully after what was sent; a peer that does not answer in time is cut.

        `last`: one more text message. It waits behind what the peer has not read yet, as nothing comes after it.
        Returns: what ends when the connection is closed.
        """
        if self._closing is None:
            if last is not None:
                self._cork(frame(last))
                self._traffic.frames_out += 1
                self._traffic.bytes_out += len(last)
            self._flush()
            self._closing = self._tasks.start(self._close(code, reason), name=f"close {self.connection_id}")
            self._wake()
        return self._closing

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._ws.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError, RuntimeError):
            self._transport.abort()

    def abort(self) -> None:
        self._transport.abort()

    async def released(self) -> None:
        """The reader has ended: wake the waiters, forget what was parked, wait for a close that is under way."""
        self._parked.clear()
        self._wake()
        if self._closing is not None:
            await asyncio.wait((self._closing,))
        # Breaks the cycle socket -> handler -> socket, so that a closed connection is freed at once.
        self._handler.on_pause = self._handler.on_resume = self._handler.on_lost = None


class Sockets:
    """The open sockets by connection id."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._by_id: dict[str, Socket] = {}
        self._per_user: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Socket]:
        return iter(tuple(self._by_id.values()))

    def get(self, connection_id: str) -> Socket | None:
        return self._by_id.get(connection_id)

    def of_user(self, user_id: str) -> int:
        """How many open sockets a user has."""
        return self._per_user.get(user_id, 0)

    def add(self, socket: Socket) -> None:
        self._by_id[socket.connection_id] = socket
        if socket.user_id is not None:
            self.name(socket, socket.user_id)

    def name(self, socket: Socket, user_id: str) -> None:
        """Count a socket for the user whom its first frame has named."""
        socket.user_id = user_id
        self._per_user[user_id] = self.of_user(user_id) + 1

    def remove(self, socket: Socket) -> None:
        if self._by_id.pop(socket.connection_id, None) is None or socket.user_id is None:
            return
        remaining = self.of_user(socket.user_id) - 1
        if remaining > 0:
            self._per_user[socket.user_id] = remaining
        else:
            self._per_user.pop(socket.user_id, None)


class SocketSender:
    """`ports.Sender` over the open sockets."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._by_id = sockets._by_id

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        socket = self._by_id.get(connection_id)
        if socket is None:
            self._sockets.traffic.gone += 1
            return _GONE
        return socket.send(encode(frame))

    async def ready(self, connection_id: str) -> None:
        """Return when the peer has read enough, or is gone."""
        socket = self._sockets.get(connection_id)
        if socket is not None:
            await socket.ready()

    async def close(self, connection_id: str, last: ServerFrame | None = None) -> None:
        """Begin to close with 1000 after what was sent, as API Gateway does; does not wait for the peer."""
        socket = self._sockets.get(connection_id)
        if socket is not None:
            socket.close(WSCloseCode.OK, last=None if last is None else encode(last))

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        """Keep where a delivery stopped; the front is called when the peer has read enough."""
        socket = self._sockets.get(connection_id)
        if socket is None or not socket.is_open:
            return False
        socket.park(key, attempt, offset)
        return True
