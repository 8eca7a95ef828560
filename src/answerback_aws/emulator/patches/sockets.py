"""API Gateway WebSocket: the data plane as AWS's behaves where the emulator's is kinder or simpler.

Frames of one connection run beside each other, failures look as they do on AWS, and limits hold: 128 KB a message, no
binary frames, idle time and life of a connection, the time that a function may take. Frames of one post may have 32 KB.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from itertools import count
from typing import Any, Final

from answerback.clock import epoch_ms
from answerback_aws.emulator.patches import Moved, private, replace
from answerback_aws.emulator.patches.functions import BROKEN, called

_MODULE: Final = "services.apigateway"
_MAX_MESSAGE_BYTES: Final = 128 * 1024
_MAX_FRAME_BYTES: Final = 32 * 1024
_NOT_FOR_CLIENTS: Final = frozenset({"$connect", "$disconnect"})
_LATE_S: Final = 0.1
"""What an unruly post is late by: the next one overtakes it."""

Message = dict[str, Any]


class _Socket:
    """One connection: between the server and the emulator's code for it."""

    def __init__(self, receive: Any, send: Any, *, idle_timeout_s: float, connection_limit_s: float) -> None:
        self._receive = receive
        self._send = send
        self._idle_timeout_s = idle_timeout_s
        self._ends_at = time.monotonic() + connection_limit_s
        self._active_at = time.monotonic()
        self._accepted = False
        self._closed = False
        self.connected_at_ms = epoch_ms()
        self.refusal: tuple[int, Message] | None = None
        self.protocol: str | None = None
        self.unauthorized: Message | None = None
        self.calls: set[asyncio.Task[Any]] = set()

    async def receive(self) -> Message:
        """The next message; one that closes it when a limit is passed."""
        if not self._accepted:
            return dict(await self._receive())
        while True:
            end = min(self._ends_at, self._active_at + self._idle_timeout_s)
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    message: Message = await self._receive()
            except TimeoutError:
                if time.monotonic() >= min(self._ends_at, self._active_at + self._idle_timeout_s):
                    return await self._end(1001, "Going away")
                continue
            if message["type"] != "websocket.receive":
                return message
            self._active_at = time.monotonic()
            if message.get("text") is None:
                return await self._end(1003, "Binary frames are not supported")
            if len(message["text"].encode()) > _MAX_MESSAGE_BYTES:
                return await self._end(1009, "Message too large")
            return message

    async def send(self, message: Message) -> None:
        """What the emulator sends, put right."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._accepted = True
            if self.protocol is not None:
                message = {**message, "subprotocol": self.protocol}
        elif kind == "websocket.close":
            if self._closed:
                return
            self._closed = True
            if not self._accepted and self.refusal is not None:
                await self._refuse(*self.refusal)
                return
        elif kind.startswith("websocket.http.response.") and self.unauthorized is not None:
            if kind.endswith(".start"):
                await self._refuse(401, self.unauthorized)
            return
        elif kind == "websocket.send":
            if self._closed:
                return
            self._active_at = time.monotonic()
        await self._send(message)

    async def _refuse(self, status: int, body: Message) -> None:
        headers = [(b"content-type", b"application/json")]
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": json.dumps(body).encode()})

    async def _end(self, code: int, reason: str) -> Message:
        await self.send({"type": "websocket.close", "code": code, "reason": reason})
        return {"type": "websocket.disconnect", "code": code, "reason": reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times in seconds. `concurrency`: calls of one integration at the same time.

    `idle_timeout_s`, `connection_limit_s`: when an idle, or any, connection is closed. `integration_timeout_s`: when a
    function is given up, which runs on. `unruly_posts`: of three posts to a connection one is delivered late, after the
    next one, and one twice; AWS promises neither order nor once.
    """

    concurrency: int = 4
    idle_timeout_s: float = 600
    connection_limit_s: float = 7200
    integration_timeout_s: float = 29
    unruly_posts: bool = False


def patch(limits: Limits) -> None:
    """Apply. Raises: Moved."""
    plane = _DataPlane(limits)
    for name in (
        "_ws_connections",
        "_stages",
        "_api_owner",
        "_refuse_ws_handshake",
        "_invoke_request_authorizer_lambda",
    ):
        private(_MODULE, name)
    private(_MODULE, "_extract_lambda_ref_from_integration_uri")
    private("core.concurrency", "run_reentrant")
    replace(_MODULE, "_invoke_request_authorizer_lambda", plane.authorizer)
    plane.handle_was = replace(_MODULE, "handle_websocket", plane.handle)
    plane.invoke_was = replace(_MODULE, "_invoke_ws_lambda", plane.invoke)
    plane.context_was = replace(_MODULE, "_ws_request_context", plane.context)
    plane.select_was = replace(_MODULE, "_evaluate_route_selection", plane.select)
    plane.connections_was = replace(_MODULE, "handle_connections_api", plane.connections)


class _DataPlane:
    """The functions that take the place of the emulator's."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._socket: ContextVar[_Socket] = ContextVar("socket")
        self._free: dict[str, asyncio.Semaphore] = {}
        self._posts = count()
        self._late: set[asyncio.Task[Any]] = set()
        self.handle_was: Callable[..., Awaitable[None]]
        self.invoke_was: Callable[..., Awaitable[Any]]
        self.context_was: Callable[..., Message]
        self.select_was: Callable[[str, str], str]
        self.connections_was: Callable[..., Awaitable[tuple[int, Mapping[str, str], bytes]]]

    async def handle(self, scope: Any, receive: Any, send: Any, api_id: str, path_override: str | None = None) -> None:
        """One connection, from the handshake to `$disconnect`."""
        limits = self._limits
        socket = _Socket(
            receive, send, idle_timeout_s=limits.idle_timeout_s, connection_limit_s=limits.connection_limit_s
        )
        self._socket.set(socket)
        if not self._has_stage(api_id, path_override or scope.get("path", "")):
            await receive()
            await private(_MODULE, "_refuse_ws_handshake")(scope, send, 403, "Forbidden", "", "")
            return
        try:
            await self.handle_was(scope, socket.receive, socket.send, api_id, path_override=path_override)
        finally:
            await asyncio.gather(*socket.calls, return_exceptions=True)

    async def invoke(self, *call: Any, **named: Any) -> Any:
        """Call the route's function. A frame's call is not waited for: AWS starts the next one beside it."""
        (_, _, _, route, _, connection_id, kind, message_id, *_) = call
        socket = self._socket.get()
        if kind == "MESSAGE":
            task = asyncio.create_task(self._message(route["target"], connection_id, message_id, call, named))
            socket.calls.add(task)
            task.add_done_callback(socket.calls.discard)
            return None
        running, is_late = await self._call(socket, call, named)
        answer: Any = {"statusCode": 504} if is_late else await running
        if kind == "CONNECT":
            status = int((answer or BROKEN).get("statusCode", 200))
            headers = {str(name).lower(): value for name, value in ((answer or {}).get("headers") or {}).items()}
            socket.protocol = headers.get("sec-websocket-protocol")
            what = "Endpoint request timed out" if is_late else "Internal server error"
            socket.refusal = (status, _failure(what, connection_id, message_id))
        return answer

    async def _message(self, target: str, connection_id: str, message_id: str, call: Any, named: Any) -> None:
        async def send_error(what: str) -> None:
            connection = private(_MODULE, "_ws_connections").get(connection_id)
            if connection is not None:
                await connection["outbox"].put(json.dumps(_failure(what, connection_id, message_id)))

        async with self._free.setdefault(target, asyncio.Semaphore(self._limits.concurrency)):
            running, is_late = await self._call(self._socket.get(), call, named)
            if is_late:
                await send_error("Endpoint request timed out")
            answer = await running
        # A body is dropped: no route has a response. Only a failure is reported.
        if answer is BROKEN and not is_late:
            await send_error("Internal server error")

    async def _call(self, socket: _Socket, call: Any, named: Any) -> tuple["asyncio.Task[Any]", bool]:
        """The call of a function, and whether API Gateway has given it up; the function runs on."""
        running = asyncio.ensure_future(self.invoke_was(*call, **named))
        done, _ = await asyncio.wait([running], timeout=self._limits.integration_timeout_s)
        if not done:
            socket.calls.add(running)
            running.add_done_callback(socket.calls.discard)
        return running, not done

    async def authorizer(self, authorizer: Any, event: Message, _account: str, _region: str) -> Any:
        """The answer of a function that authorizes; None if it failed, which is 500, or 401 if it says so."""
        arn = private(_MODULE, "_extract_lambda_ref_from_integration_uri")(authorizer["authorizerUri"])
        done = await private("core.concurrency", "run_reentrant")(called, arn, event)
        answer = done.get("body")
        if not done.get("error"):
            return answer if isinstance(answer, dict) else None
        if isinstance(answer, dict) and answer.get("errorMessage") == "Unauthorized":
            asked = event["requestContext"]
            failure = _failure("Unauthorized", asked["connectionId"], asked["requestId"])
            self._socket.get().unauthorized = failure
        return None

    def context(self, *call: Any) -> Message:
        """The request context: connected when it connected, and one request id."""
        made = self.context_was(*call)
        return {
            **made,
            "connectedAt": self._socket.get().connected_at_ms,
            "extendedRequestId": made["requestId"],
            "messageDirection": "IN",
        }

    def select(self, expression: str, payload: str) -> str:
        """The route key of a frame; a client cannot name the two that are API Gateway's own."""
        try:
            key = self.select_was(expression, payload)
        except RecursionError:  # nested so deep that it cannot be read
            return "$default"
        return "$default" if key in _NOT_FOR_CLIENTS else key

    async def connections(self, method: str, *call: Any) -> tuple[int, Mapping[str, str], bytes]:
        """The management API: frames of at most 32 KB, and `GetConnection` in AWS's words."""
        (_, _, _, body, _) = call
        if method == "POST" and len(body) > _MAX_FRAME_BYTES:
            too_large = {"Content-Type": "application/json", "x-amzn-ErrorType": "PayloadTooLargeException"}
            return 413, too_large, json.dumps({"message": "Frame too large"}).encode()
        if method == "POST" and self._limits.unruly_posts:
            return await self._post(*call)
        status, headers, answer = await self.connections_was(method, *call)
        if method == "GET" and status == 200:
            found = json.loads(answer)
            answer = json.dumps(
                {
                    "connectedAt": _instant(found["ConnectedAt"]),
                    "identity": found["Identity"],
                    "lastActiveAt": _instant(found["LastActiveAt"]),
                }
            ).encode()
        return status, headers, answer

    async def _post(self, *call: Any) -> tuple[int, Mapping[str, str], bytes]:
        """A post that is taken at once, and delivered in the order, and as often, as it happens to be."""

        async def later() -> None:
            await asyncio.sleep(_LATE_S)
            await self.connections_was("POST", *call)

        (_, _, connection_id, _, _) = call
        match next(self._posts) % 3:
            case 1 if connection_id in private(_MODULE, "_ws_connections"):
                task = asyncio.create_task(later())
                self._late.add(task)
                task.add_done_callback(self._late.discard)
                return 200, {"Content-Type": "application/json"}, b""
            case 2:
                await self.connections_was("POST", *call)
        return await self.connections_was("POST", *call)

    def _has_stage(self, api_id: str, path: str) -> bool:
        owner = private(_MODULE, "_api_owner")(api_id)
        if owner is None:
            return True  # the emulator refuses it itself
        _, account, region = owner
        return path.lstrip("/").partition("/")[0] in private(_MODULE, "_stages").get_scoped(account, region, api_id, {})


def _failure(message: str, connection_id: str, request_id: str) -> Message:
    return {"message": message, "connectionId": connection_id, "requestId": request_id}


def _instant(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_FRAMES_MODULE: Final = "hypercorn.protocol.ws_stream"  # of the emulator's environment; reads its WebSockets
_BUFFER: Final = "WebsocketBuffer"


def patch_frames() -> None:
    """A frame of a client may have 32 KB, a fragment of a message too, or the connection ends. Raises: Moved."""
    module = import_module(_FRAMES_MODULE)
    if not hasattr(module, _BUFFER) or not hasattr(module, "FrameTooLargeError"):
        raise Moved(_FRAMES_MODULE, _BUFFER)
    made = getattr(module, _BUFFER)
    too_large = module.FrameTooLargeError

    class Frames:
        """Puts a message together of its frames, and minds the size of each."""

        def __init__(self, max_length: int) -> None:
            self._message = made(max_length)
            self._frame_bytes = 0
            self._is_over = False

        def extend(self, part: Any) -> None:
            if self._is_over:
                return  # the rest of it, which was on its way; behind it comes the client's closing frame
            self._frame_bytes += len(part.data.encode() if isinstance(part.data, str) else part.data)
            if self._frame_bytes > _MAX_FRAME_BYTES:
                self._is_over = True
                raise too_large  # the server closes with 1009
            if part.frame_finished:
                self._frame_bytes = 0
            self._message.extend(part)

        def clear(self) -> None:
            self._message.clear()

        def to_message(self) -> Any:
            if self._is_over:
                return {"type": "websocket.disconnect", "code": 1009, "reason": "Frame too large"}
            return self._message.to_message()

    setattr(module, _BUFFER, Frames)
