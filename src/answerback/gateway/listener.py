"""The WebSocket listener: it upgrades connections, reads them, and notices dead peers by pings.

Frames of one connection go to the front in the order they came, each in a task of its own, because the durable accept
of one must not delay the next. Three things bound that: frames in flight per connection, frames per second and user,
and a full write buffer of a peer that does not read. Over a bound the gateway stops reading, and TCP slows the peer.
"""

import asyncio
import contextlib
import itertools
import logging
import socket as sockets_of_os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import WSCloseCode, WSMsgType, web

from answerback.core.handshake import HandshakeError
from answerback.gateway.health import health_response
from answerback.gateway.http import TOO_LARGE, Handler, Server, drop_tracebacks
from answerback.gateway.settings import Caps
from answerback.gateway.sockets import Socket, Sockets, TokenBucket
from answerback.gateway.upgrade import HandshakeValidator, error_response
from answerback.ports import Connection, Unavailable
from answerback.protocol.codec import FrameError, decode_client, encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Error, GoAway, SendMessage
from answerback.protocol.limits import SUBPROTOCOL
from answerback.service.front import TOO_MANY_CONNECTIONS, Front
from answerback.tasks import Tasks

log = logging.getLogger("answerback.listener")

MAX_IN_FLIGHT: Final = 64
"""Frames of one connection that are handled at the same time."""

SPARE_CONNECTIONS: Final = 256
"""TCP connections beyond the cap that still get an answer, which says why they are refused."""

HEALTH_PATH: Final = "/healthz"
READY_PATH: Final = "/readyz"
"""As HEALTH_PATH, and not of a gateway that stops: it needs its grace, but no new sockets. Both are not for web pages
alone, and under any `Host`: what checks a machine's health calls it by its address."""

STOPPING_RETRY_MS: Final = 5_000
"""After that an app asks again, of the gateway that is started next."""

DRAIN_CHECK_S: Final = 0.05

PING_GROUPS: Final = 30
"""The sockets are pinged in so many groups, so that thousands of pings are not sent at once."""

NOTSENT_LOWAT_BYTES: Final = 64 * 1024
"""Unsent bytes that the kernel keeps for a socket; without it a peer that does not read costs megabytes there."""


class Listener:
    """Accepts sockets and reads them."""

    def __init__(
        self,
        *,
        front: Front,
        validator: HandshakeValidator,
        sockets: Sockets,
        caps: Caps,
        tasks: Tasks,
        health: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._front = front
        self._validator = validator
        self._sockets = sockets
        self._caps = caps
        self._tasks = tasks
        self._health = health
        self._buckets: dict[str, TokenBucket] = {}
        self._http: Server | None = None
        self._server: asyncio.Server | None = None
        self._is_leaving = False
        self._is_draining = False
        self._pinging = Tasks()
        self._groups: tuple[set[Socket], ...] = tuple(set() for _ in range(PING_GROUPS))
        self._opened = 0
        self._too_large = encode(
            Error(
                code=ErrorCode.MESSAGE_TOO_LARGE,
                message=f"A message may have {caps.message_bytes} bytes. Shorten it and send it again.",
            )
        )

    # --- life

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listen; the port (any free one if `port` is 0). Raises: OSError: the address cannot be bound."""
        loop = asyncio.get_running_loop()
        self._http = Server(
            self._serve,
            max_connections=self._caps.connections + SPARE_CONNECTIONS,
            handshake_timeout_s=self._caps.handshake_timeout_s,
        )
        options: dict[str, Any] = {"backlog": 1024, "ssl": tls}
        if tls is not None:
            options["ssl_handshake_timeout"] = self._caps.handshake_timeout_s
        self._server = await loop.create_server(self._http, host or None, port, **options)
        for listening in self._server.sockets:
            _limit_unsent(listening)
        self._pinging.start(self._ping_sockets(), name="ping the sockets")
        return int(self._server.sockets[0].getsockname()[1])

    async def drain(self, *, accept_s: float, within_s: float, skip_grace: asyncio.Event) -> None:
        """Let the apps move to other gateways. Returns when none is left, `within_s` is over, or `skip_grace` is set.

        `/readyz` says 503 at once. New sockets are taken for `accept_s` yet, until a load balancer has noticed. Then
        apps that speak more than two frames are told. Frames are read all the while, questions too.
        """
        self._is_leaving = True
        await _elapsed(accept_s, skip_grace)
        if self._server is not None:
            self._server.close()
        leave = encode(GoAway(deadline_ms=int(within_s * 1000)))
        for socket in self._sockets:
            if socket.connection_id in self._front.greeted:
                socket.send(leave)
        deadline = asyncio.get_running_loop().time() + within_s
        while len(self._sockets) and asyncio.get_running_loop().time() < deadline and not skip_grace.is_set():
            await _elapsed(DRAIN_CHECK_S, skip_grace)

    def stop_accepting(self) -> None:
        """No new sockets, and no new questions on the open ones: a client asks again what was not accepted."""
        self._is_leaving = self._is_draining = True
        if self._server is not None:
            self._server.close()

    async def close(self, *, grace_s: float) -> None:
        """Close every socket with 1001; what is not gone after `grace_s` is cut."""
        self.stop_accepting()
        await self._pinging.settle(grace_s=0)
        closing = [socket.close(WSCloseCode.GOING_AWAY, "the gateway stops; connect again") for socket in self._sockets]
        if closing:
            # aiohttp's shutdown drops whatever peers still send, their halves of the close handshake among it.
            await asyncio.wait(closing, timeout=grace_s)
        if self._http is not None:
            await self._http.shutdown(timeout=grace_s)

    # --- one connection

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._health is not None and request.path in (HEALTH_PATH, READY_PATH) and "Upgrade" not in request.headers:
            is_good = await self._health() and not (self._is_leaving and request.path == READY_PATH)
            response = health_response(is_good=is_good)
            response.force_close()
            return response
        try:
            async with asyncio.timeout(self._caps.handshake_timeout_s):
                connection = await self._validator.validate(request)
                handler = cast("Handler", request.protocol)
                self._check_caps(connection, handler)
                ws = web.WebSocketResponse(
                    protocols=(SUBPROTOCOL,),
                    autoclose=False,
                    autoping=False,
                    compress=False,
                    max_msg_size=self._caps.message_bytes + 1,  # aiohttp's own limit is the first length refused
                )
                handler.guard(self._caps.message_bytes)
                await _prepare(ws, request)
        except HandshakeError as error:
            return self._refused(error, request)
        except TimeoutError:
            return self._refused(HandshakeError(408, "The handshake took too long. Try again."), request)
        transport = request.transport
        if transport is None:
            return ws
        await self._live(connection, ws, handler, transport)
        return ws

    def _refused(self, error: HandshakeError, request: web.BaseRequest) -> web.Response:
        address = self._validator.address(request)
        about = {"remote": address} | ({} if address == request.remote else {"proxy": request.remote})
        log.info("a socket was refused with %s", error, extra=about)
        return error_response(error)

    def _check_caps(self, connection: Connection, handler: Handler) -> None:
        if handler.head.too_early:
            raise HandshakeError(400, "Wait for the answer to the upgrade request before you send frames.")
        if self._is_draining:
            raise HandshakeError(503, "The gateway stops. Try again after a pause.", {"Retry-After": "5"})
        if len(self._sockets) >= self._caps.connections:
            raise HandshakeError(
                503, "The gateway has no room for more connections. Try again later.", {"Retry-After": "30"}
            )
        user_id = connection.user_id
        if user_id is not None and self._is_full(user_id):
            raise HandshakeError(429, TOO_MANY_CONNECTIONS, {"Retry-After": "30"})

    def name(self, connection_id: str, user_id: str) -> bool:
        """Count a connection for the user whom its first frame names. False: the user has as many as there may be."""
        socket = self._sockets.get(connection_id)
        if socket is None or socket.user_id is not None:
            return True
        if self._is_full(user_id):
            return False
        self._release(socket)
        self._sockets.name(socket, user_id)
        socket.bucket = self._bucket(_bucket_name(connection_id, user_id))
        return True

    def _is_full(self, user_id: str) -> bool:
        return self._sockets.of_user(user_id) >= self._caps.connections_per_user

    async def _live(
        self, connection: Connection, ws: web.WebSocketResponse, handler: Handler, transport: asyncio.Transport
    ) -> None:
        """From the upgrade to the end of a connection."""
        high = self._caps.write_buffer_bytes
        transport.set_write_buffer_limits(high=high, low=high // 4)
        socket = Socket(
            connection_id=connection.connection_id,
            user_id=connection.user_id,
            ws=ws,
            handler=handler,
            transport=transport,
            bucket=self._bucket(_bucket_name(connection.connection_id, connection.user_id)),
            unpark=self._front.unpark,
            tasks=self._tasks,
            traffic=self._sockets.traffic,
        )
        group = self._groups[self._opened % PING_GROUPS]
        self._opened += 1
        group.add(socket)
        self._sockets.add(socket)
        context = {"connectionId": connection.connection_id, "userId": connection.user_id}
        log.debug("connected", extra=context)
        try:
            await self._front.connect(connection)
            await self._read(socket, ws)
        except Unavailable:
            log.warning("a connection could not be saved", exc_info=True, extra=context)
            socket.close(WSCloseCode.TRY_AGAIN_LATER, "connect again after a pause")
        finally:
            group.discard(socket)
            self._sockets.remove(socket)
            self._release(socket)
            # In a task of its own: aiohttp may cancel this one.
            leave = self._front.disconnect(connection.connection_id)
            self._tasks.start(leave, name=f"disconnect {connection.connection_id}")
            await socket.released()
            # aiohttp would do this after us, and keep the error of a lost connection with all that was not read.
            await ws.close()
            drop_tracebacks(ws.exception())
            log.debug("disconnected", extra=context)

    async def _read(self, socket: Socket, ws: web.WebSocketResponse) -> None:
        traffic = self._sockets.traffic
        while socket.is_open:
            message = await ws.receive()
            socket.received_since_ping = True
            match message.type:
                case WSMsgType.TEXT:
                    data: str = message.data
                    traffic.frames_in += 1
                    await self._throttle(socket)
                    if self._is_draining and (refusal := _refusal(data)) is not None:
                        socket.send(refusal)
                        continue
                    socket.in_flight += 1
                    self._tasks.start(self._handle(socket, data), name="frame")
                case WSMsgType.PING:
                    await self._throttle(socket)
                    socket.pong(message.data)
                case WSMsgType.PONG if message.data == TOO_LARGE:
                    socket.send(self._too_large)
                    socket.close(WSCloseCode.MESSAGE_TOO_BIG, "the message is too large")
                    return
                case WSMsgType.PONG:
                    await self._throttle(socket)
                case WSMsgType.BINARY:
                    socket.close(WSCloseCode.UNSUPPORTED_DATA, "send text, not binary")
                    return
                case WSMsgType.CLOSE:
                    # The peer's own code goes back (RFC 6455, section 5.5.1).
                    socket.close(_echoed(message.data))
                    return
                case _:
                    return

    async def _handle(self, socket: Socket, data: str) -> None:
        """Handle one message. If that begins a request, this task then runs it."""
        try:
            run = await self._front.receive(socket.connection_id, data)
        finally:
            socket.handled()
        if run is not None:
            await run

    async def _throttle(self, socket: Socket) -> None:
        """Wait while the user is over the rate, too much is in flight, or the peer does not read."""
        wait_s = socket.bucket.take(now=asyncio.get_running_loop().time())
        if wait_s == 0 and socket.in_flight < MAX_IN_FLIGHT and not socket.is_clogged:
            return
        socket.is_reading = False
        try:
            if wait_s > 0:
                self._sockets.traffic.throttled += 1
                await asyncio.sleep(wait_s)
            while socket.in_flight >= MAX_IN_FLIGHT:
                await socket.frame_handled()
            await socket.ready()
        finally:
            socket.is_reading = True

    # --- users

    def _bucket(self, name: str) -> TokenBucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = TokenBucket(
                rate=self._caps.frames_per_second,
                burst=self._caps.frames_burst,
                now=asyncio.get_running_loop().time(),
            )
            self._buckets[name] = bucket
        bucket.users += 1
        return bucket

    def _release(self, socket: Socket) -> None:
        socket.bucket.users -= 1
        if socket.bucket.users == 0:
            self._buckets.pop(_bucket_name(socket.connection_id, socket.user_id), None)

    # --- dead peers

    async def _ping_sockets(self) -> None:
        """Ping one group of sockets at a time, each once in an interval."""
        for group in itertools.cycle(self._groups):
            await asyncio.sleep(self._caps.ping_interval_s / PING_GROUPS)
            for socket in tuple(group):
                self._check_alive(socket)
            if self._http is not None:
                self._http.unfinished.cut_late()

    def _check_alive(self, socket: Socket) -> None:
        """Ping a socket, or cut it if its peer is dead."""
        now = asyncio.get_running_loop().time()
        if socket.stalled_for_s(now=now) > self._caps.write_stall_timeout_s:
            log.info("a peer that does not read was cut", extra={"connectionId": socket.connection_id})
            socket.abort()
        elif socket.is_clogged or not socket.is_reading:
            # Its pong may be behind what we do not read, our ping behind what it does not read.
            socket.ping_sent = False
        elif socket.ping_sent and not socket.received_since_ping:
            log.info("a dead peer was cut", extra={"connectionId": socket.connection_id})
            socket.abort()
        else:
            socket.received_since_ping = False
            socket.ping_sent = True
            socket.ping()


def _bucket_name(connection_id: str, user_id: str | None) -> str:
    return connection_id if user_id is None else "user " + user_id


async def _elapsed(seconds: float, skip_grace: asyncio.Event) -> None:
    """Return after `seconds`, or when `skip_grace` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await skip_grace.wait()


def _refusal(data: str) -> bytes | None:
    """What a gateway that stops answers to a new question. Everything else is handled until the sockets close."""
    try:
        frame = decode_client(data)
    except FrameError:
        return None
    if not isinstance(frame, SendMessage):
        return None
    return encode(
        Error(
            code=ErrorCode.UNAVAILABLE,
            message="The gateway stops. Send the same frame again after a pause.",
            request_id=frame.request_id,
            retry_after_ms=STOPPING_RETRY_MS,
        )
    )


async def _prepare(ws: web.WebSocketResponse, request: web.BaseRequest) -> None:
    """Answer the upgrade request. Raises: HandshakeError: aiohttp is stricter than our validator.

    Its own refusal repeats the peer's header, and fails where that is not text.
    """
    try:
        await ws.prepare(request)
    except (web.HTTPException, UnicodeError):
        raise HandshakeError(400, "This is not an opening handshake of WebSocket (RFC 6455, section 4.1).") from None


def _echoed(code: int) -> int:
    """The close code that answers the peer's (0: it sent none). aiohttp takes 1006, which must not be on the wire."""
    if code == WSCloseCode.ABNORMAL_CLOSURE:
        return WSCloseCode.PROTOCOL_ERROR
    return code or WSCloseCode.OK


def _limit_unsent(listening: Any) -> None:
    """Accepted sockets inherit this. Where the system does not know it, nothing is lost but memory."""
    option = getattr(sockets_of_os, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        listening.setsockopt(sockets_of_os.IPPROTO_TCP, option, NOTSENT_LOWAT_BYTES)
