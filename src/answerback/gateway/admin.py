"""The admin port: health, metrics, live requests, and the management API of API Gateway.

On loopback only. Everything but `/healthz` needs the admin key. `/@connections/{id}` speaks as API Gateway does:
`boto3.client("apigatewaymanagementapi", endpoint_url="http://127.0.0.1:8766", aws_access_key_id=KEY, ...)` works.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import WSCloseCode, web

import answerback
from answerback.core.handshake import Hosts
from answerback.core.request import Ended, Pending, Record, RequestKey
from answerback.gateway.adminkey import AdminKey
from answerback.gateway.canceller import Canceller
from answerback.gateway.health import Health
from answerback.gateway.http import Server
from answerback.gateway.metrics import CONTENT_TYPE, Metrics, QueueState
from answerback.gateway.sockets import Sockets
from answerback.gateway.useradmin import BadRequest, UserAdmin
from answerback.ports import Connections, Gone, Requests, Sent, Slow, Unavailable
from answerback.service.history_pages import iso

log = logging.getLogger("answerback.admin")

MAX_POST_BYTES: Final = 128 * 1024
"""API Gateway's limit of `PostToConnection`."""

MAX_DISCARDED_BYTES: Final = 16 * 1024 * 1024
MAX_LISTED: Final = 1_000
MAX_CONNECTIONS: Final = 64
REQUEST_TIMEOUT_S: Final = 30.0
HOST: Final = "127.0.0.1"


class _Failure(Exception):
    """An answer of the management API that is an error, in its form."""

    def __init__(self, status: int, kind: str, text: str) -> None:
        super().__init__(status, kind, text)
        self.status = status
        self.kind = kind
        self.text = text


class Admin:
    """Answers the requests of the admin port."""

    def __init__(
        self,
        *,
        key: AdminKey,
        sockets: Sockets,
        connections: Connections,
        requests: Requests,
        users: UserAdmin,
        canceller: Canceller,
        health: Health,
        metrics: Metrics,
        queue: Callable[[], QueueState],
    ) -> None:
        self._key = key
        self._sockets = sockets
        self._connections = connections
        self._requests = requests
        self._users = users
        self._canceller = canceller
        self._health = health
        self._metrics = metrics
        self._queue = queue
        self._hosts = Hosts.of(HOST, ())
        self._server: asyncio.Server | None = None
        self._http: Server | None = None

    async def start(self, port: int) -> int:
        """Listen on loopback; the port. Raises: OSError: it cannot be bound."""
        self._http = Server(self.answer, max_connections=MAX_CONNECTIONS, handshake_timeout_s=REQUEST_TIMEOUT_S)
        self._server = await asyncio.get_running_loop().create_server(self._http, HOST, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._server is not None and self._http is not None:
            self._server.close()
            await self._http.shutdown(timeout=1.0)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._answer(request)
        except _Failure as failure:
            return _json(failure.status, {"message": failure.text}, {"x-amzn-ErrorType": failure.kind})
        except Unavailable as exc:
            log.warning("the store is unavailable: %s", exc)
            return _json(503, {"message": "The store is unavailable now. Try again after a pause."})

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # A web page can neither forge Origin nor, after DNS rebinding, hide its name in Host.
        if not self._hosts.accept(request.headers.get("Host")) or "Origin" in request.headers:
            raise _Failure(403, "ForbiddenException", "The admin port is not for web pages.")
        match (request.method, *(unquote(part) for part in request.rel_url.raw_path.split("/")[1:])):
            case ("GET" | "HEAD", "healthz"):
                return await self._tell_health()
            case _ if not self._key.opens(request.headers.get("Authorization")):
                raise _Failure(
                    403, "ForbiddenException", "Show the admin key: it is in the file admin.key of the data folder."
                )
            case ("GET", "metrics"):
                return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})
            case ("GET", "@connections", connection_id):
                return await self._get_connection(connection_id)
            case ("POST", "@connections", connection_id):
                return await self._post_to_connection(connection_id, request)
            case ("DELETE", "@connections", connection_id):
                return self._delete_connection(connection_id)
            case ("GET", "requests"):
                return await self._list_requests()
            case ("DELETE", "requests", user_id, request_id):
                return await self._cancel_request(RequestKey(user_id, request_id))
            case (_, "users" | "usage", *_) as route:
                return await self._answer_users(route, request)
            case _:
                raise _nothing_here()

    async def _answer_users(self, route: Sequence[str], request: web.BaseRequest) -> web.Response:
        """What `answerback users` asks while this gateway holds the store."""
        users = self._users
        try:
            match route:
                case ("GET", "users"):
                    found: dict[str, Any] | None = await users.list(request.query)
                case ("GET", "users", user_id):
                    found = await users.show(user_id)
                case ("DELETE", "users", user_id):
                    found = await users.delete(user_id)
                case ("PUT", "users", user_id, "limit"):
                    found = await users.set_limit(user_id, await _body(request))
                case ("GET", "usage"):
                    found = await users.usage(request.query)
                case _:
                    raise _nothing_here()
        except BadRequest as exc:
            raise _Failure(400, "BadRequestException", str(exc)) from None
        if found is None:
            raise _Failure(404, "NotFoundException", "There is no such user.")
        return _json(200, found)

    async def _tell_health(self) -> web.Response:
        queue = self._queue()
        facts = {
            "version": answerback.__version__,
            "connections": len(self._sockets),
            "queueDepth": queue.depth,
            "running": queue.running,
        }
        if await self._health.is_good():
            return _json(200, {"status": "ok", **facts})
        return _json(503, {"status": "unavailable", **facts})

    # --- the management API

    async def _get_connection(self, connection_id: str) -> web.Response:
        connection = await self._connections.get(connection_id)
        socket = self._sockets.get(connection_id)
        if connection is None or socket is None or not socket.is_open:
            raise _gone()
        return _json(
            200,
            {
                "connectedAt": iso(connection.connected_at_ms),
                "identity": {"sourceIp": connection.source_ip, "userAgent": connection.user_agent},
                "lastActiveAt": iso(connection.last_activity_ms),
            },
        )

    async def _post_to_connection(self, connection_id: str, request: web.BaseRequest) -> web.Response:
        data = await _body(request)
        if len(data) > MAX_POST_BYTES:
            raise _Failure(413, "PayloadTooLargeException", f"The data may have {MAX_POST_BYTES} bytes.")
        try:
            data.decode()
        except UnicodeDecodeError:
            raise _Failure(400, "BadRequestException", "The data must be text in UTF-8.") from None
        socket = self._sockets.get(connection_id)
        match Gone() if socket is None else socket.send(data):
            case Sent():
                return web.Response(status=200)
            case Slow():
                raise _Failure(429, "LimitExceededException", "The client does not read. Try again after a pause.")
            case Gone():
                raise _gone()

    def _delete_connection(self, connection_id: str) -> web.Response:
        socket = self._sockets.get(connection_id)
        if socket is None or not socket.is_open:
            raise _gone()
        socket.close(WSCloseCode.OK, "Connection Closed Normally")
        return web.Response(status=204)

    # --- live requests

    async def _list_requests(self) -> web.Response:
        records = await self._requests.unfinished()
        return _json(200, {"total": len(records), "requests": [_shown(record) for record in records[:MAX_LISTED]]})

    async def _cancel_request(self, key: RequestKey) -> web.Response:
        record = await self._requests.read(key)
        if record is None:
            raise _Failure(404, "NotFoundException", "There is no such request. GET /requests lists the live ones.")
        match await self._canceller.cancel(record):
            case Pending(record=record):
                return _json(202, _shown(record))
            case Ended(record=record):
                return _json(200, _shown(record))
            case _:
                raise _Failure(409, "ConflictException", "The request has changed. Look again with GET /requests.")


def _nothing_here() -> _Failure:
    return _Failure(
        404,
        "NotFoundException",
        "There are /healthz, /metrics, /requests, /requests/USER/REQUEST, /users, /users/USER, /users/USER/limit, "
        "/usage and /@connections/ID.",
    )


def _gone() -> _Failure:
    return _Failure(410, "GoneException", "There is no connection with this id any more.")


def _json(status: int, content: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=json.dumps(content).encode(), content_type="application/json", headers=headers
    )


async def _body(request: web.BaseRequest) -> bytes:
    """The body up to a byte too much. The rest is read too: who is still sending would not see our answer."""
    kept = bytearray()
    discarded = 0
    async for chunk in request.content.iter_any():
        if len(kept) <= MAX_POST_BYTES:
            kept += chunk
        else:
            discarded += len(chunk)
            if discarded > MAX_DISCARDED_BYTES:
                break
    return bytes(kept)


def _shown(record: Record) -> dict[str, Any]:
    """A record without what was asked and answered."""
    return {
        "userId": record.user_id,
        "requestId": record.request_id,
        "sessionId": record.session_id,
        "conversationId": record.conversation_id,
        "model": record.model,
        "state": record.state.value,
        "attempt": record.attempt,
        "cancelRequested": record.cancel_requested,
        "acceptedAt": iso(record.accepted_at_ms),
        "startedAt": None if record.started_at_ms is None else iso(record.started_at_ms),
        "connectionId": None if record.wish is None else record.wish.connection_id,
    }
