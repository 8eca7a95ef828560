"""The admin port: health, metrics, live requests, users, a console, and the management API of API Gateway.

On loopback, and on another address if the operator names one. Everything but `/healthz` and the console's page, which
has nothing to hide, needs the admin key. The key of the metrics opens `/metrics` alone.
`/@connections/{id}` speaks as API Gateway does:
`boto3.client("apigatewaymanagementapi", endpoint_url="http://127.0.0.1:8766", aws_access_key_id=KEY, ...)` works.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias, TypeVar, cast

import msgspec
from aiohttp import WSCloseCode, web

import answerback
from answerback.core import defaults
from answerback.core.budget import Budget, Period, Unit, shown, team_holder
from answerback.core.camel import camel, row_as_json
from answerback.core.handshake import Hosts
from answerback.core.instants import iso
from answerback.core.keys import normal_id
from answerback.core.request import Ended, Pending, Record, RequestKey
from answerback.gateway.admin_key import AdminKey
from answerback.gateway.canceller import Canceller
from answerback.gateway.console import Console, page_response
from answerback.gateway.health import Health, health_response
from answerback.gateway.http import Server, json_response
from answerback.gateway.metrics import CONTENT_TYPE, Metrics
from answerback.gateway.queue import InProcessQueue
from answerback.gateway.reload import Reloaded
from answerback.gateway.sockets import Sockets
from answerback.ports import Connections, Gone, Requests, Sent, Slow, StoredUser, Unavailable, Users
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Error, is_id
from answerback.protocol.limits import MAX_ID_LENGTH
from answerback.service.questions import BLOCKED

log = logging.getLogger("answerback.admin")

BodyT = TypeVar("BodyT")

_Handler: TypeAlias = Callable[..., Awaitable[web.StreamResponse]]
"""Called with the request and the variable parts of its path by name."""

MAX_POST_BYTES: Final = 128 * 1024
"""API Gateway's limit of `PostToConnection`."""

MAX_DISCARDED_BYTES: Final = 16 * 1024 * 1024
MAX_LISTED: Final = 1_000
MAX_PER_MINUTE: Final = 1_000_000_000
MAX_CONNECTIONS: Final = 64
REQUEST_TIMEOUT_S: Final = 30.0
HOST: Final = "127.0.0.1"

_LIMIT_WORDS: Final = {None: "default", 0: "off"}
_IS_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(eq=False)
class _Failure(Exception):
    """An answer of the admin port that is an error, in the form of API Gateway's management API."""

    status: int
    kind: str
    text: str


# --- bodies -------------------------------------------------------------------------------------------------


class _LimitBody(msgspec.Struct, rename="camel"):
    """`per_minute`: None for the server's default, 0 for no limit."""

    per_minute: Annotated[int, msgspec.Meta(ge=0, le=MAX_PER_MINUTE)] | None


class _TeamBody(msgspec.Struct):
    team: str | None


class _Limit(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    unit: Unit


class _BudgetBody(msgspec.Struct):
    period: Period
    budget: _Limit | None


class _RetentionBody(msgspec.Struct, rename="camel", omit_defaults=True):
    """`keep_days`: None for what holds else. `conversation_id`: of this one alone."""

    keep_days: Annotated[int, msgspec.Meta(ge=1, le=defaults.KEEP_FOREVER_DAYS)] | None
    conversation_id: str | None = None


class _BlockedBody(msgspec.Struct, rename="camel"):
    blocked: bool


# --- the port -----------------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class Admin:
    """Answers the requests of the admin port. `clock`: epoch milliseconds."""

    key: AdminKey
    metrics_key: AdminKey
    sockets: Sockets
    connections: Connections
    requests: Requests
    users: Users
    canceller: Canceller
    health: Health
    metrics: Metrics
    queue: InProcessQueue
    console: Console
    reload: Callable[[], Reloaded]
    clock: Callable[[], int]
    host: str | None = None

    def __post_init__(self) -> None:
        self._hosts = Hosts.of(self.host or HOST, ())
        self._router = web.UrlDispatcher()
        routes: tuple[tuple[str, str, _Handler], ...] = (
            ("GET", "/healthz", self._get_health),
            ("HEAD", "/healthz", self._get_health),
            ("GET", "/console", self._get_console),
            ("GET", "/overview", self._get_overview),
            ("GET", "/metrics", self._get_metrics),
            ("GET", "/@connections/{connection_id:[^/]*}", self._get_connection),
            ("POST", "/@connections/{connection_id:[^/]*}", self._post_to_connection),
            ("DELETE", "/@connections/{connection_id:[^/]*}", self._delete_connection),
            ("GET", "/requests", self._list_requests),
            ("DELETE", "/requests/{user_id:[^/]*}/{request_id:[^/]*}", self._cancel_request),
            ("GET", "/users", self._list_users),
            ("GET", "/users/{user_id:[^/]*}", self._get_user),
            ("DELETE", "/users/{user_id:[^/]*}", self._delete_user),
            ("GET", "/users/{user_id:[^/]*}/export", self._export_user),
            ("PUT", "/users/{user_id:[^/]*}/limit", self._set_limit),
            ("PUT", "/users/{user_id:[^/]*}/blocked", self._set_blocked),
            ("PUT", "/users/{user_id:[^/]*}/team", self._set_team),
            ("GET", "/budgets/{holder:[^/]*}", self._get_budgets),
            ("PUT", "/budgets/{holder:[^/]*}", self._set_budget),
            ("GET", "/teams", self._list_teams),
            ("PUT", "/users/{user_id:[^/]*}/retention", self._set_retention),
            ("GET", "/usage", self._list_usage),
            ("POST", "/reload", self._reload),
        )
        for method, path, handler in routes:
            self._router.add_route(method, path, handler)
        self._servers: list[asyncio.Server] = []
        self._http: Server | None = None

    async def start(self, port: int) -> int:
        """Listen; the port. Raises: OSError: it cannot be bound."""
        self._http = Server(self.answer, max_connections=MAX_CONNECTIONS, handshake_timeout_s=REQUEST_TIMEOUT_S)
        hosts = [HOST] if self.host is None else ["0.0.0.0"] if self.host == "0.0.0.0" else [HOST, self.host]  # noqa: S104
        for host in dict.fromkeys(hosts):
            server = await asyncio.get_running_loop().create_server(self._http, host, port)
            self._servers.append(server)
            port = int(server.sockets[0].getsockname()[1])
        return port

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        for server in self._servers:
            server.close()
        if self._http is not None:
            await self._http.shutdown(timeout=1.0)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except _Failure as failure:
            return json_response(failure.status, {"message": failure.text}, {"x-amzn-ErrorType": failure.kind})
        except Unavailable as exc:
            log.warning("the store is unavailable: %s", exc)
            return json_response(503, {"message": "The store is unavailable now. Try again after a pause."})

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # A web page can neither forge Origin nor, after DNS rebinding, hide its name in Host.
        host = request.headers.get("Host")
        if not self._hosts.accept(host) or request.headers.get("Origin") not in (None, f"http://{host}"):
            raise _Failure(403, "ForbiddenException", "The admin port is not for web pages but its own console.")
        # The router reads the method and the path, which a BaseRequest has, too.
        match = await self._router.resolve(cast("web.Request", request))
        handler = cast("_Handler", match.handler)
        if handler not in (self._get_health, self._get_console) and not self._opens(request, handler):
            raise _Failure(
                403, "ForbiddenException", "Show the admin key: it is in the file admin.key of the data folder."
            )
        if match.http_exception is not None:
            raise _Failure(
                404,
                "NotFoundException",
                "There are /console, /healthz, /metrics, /overview, /requests, /requests/USER/REQUEST, /users, "
                "/users/USER, /users/USER/export, /users/USER/limit, /users/USER/blocked, /users/USER/retention, "
                "/users/USER/team, /budgets/HOLDER, /teams, /usage, /reload and /@connections/ID.",
            )
        # No id begins with a space. A browser sends one before `.` and `..`, which it would fold into the path.
        return await handler(request, **{name: part.removeprefix(" ") for name, part in match.items()})

    def _opens(self, request: web.BaseRequest, handler: _Handler) -> bool:
        shown = request.headers.get("Authorization")
        return self.key.opens(shown) or (handler == self._get_metrics and self.metrics_key.opens(shown))

    async def _get_health(self, request: web.BaseRequest) -> web.Response:
        is_good = await self.health.is_good()
        if self.host is not None and not self.key.opens(request.headers.get("Authorization")):
            return health_response(is_good=is_good)
        body = {
            "status": "ok" if is_good else "unavailable",
            "version": answerback.__version__,
            "connections": len(self.sockets),
            "queueDepth": self.queue.depth,
            "running": self.queue.running,
        }
        return json_response(200 if is_good else 503, body)

    async def _get_console(self, _: web.BaseRequest) -> web.Response:
        return page_response()

    async def _get_overview(self, _: web.BaseRequest) -> web.Response:
        return json_response(200, self.console.overview(is_healthy=await self.health.is_good()))

    async def _get_metrics(self, _: web.BaseRequest) -> web.Response:
        return web.Response(body=self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _reload(self, _: web.BaseRequest) -> web.Response:
        return json_response(200, self.reload())

    # --- the management API

    async def _get_connection(self, _: web.BaseRequest, connection_id: str) -> web.Response:
        connection = await self.connections.get(connection_id)
        socket = self.sockets.get(connection_id)
        if connection is None or socket is None or not socket.is_open:
            raise _gone()
        body = {
            "connectedAt": iso(connection.connected_at_ms),
            "identity": {"sourceIp": connection.source_ip, "userAgent": connection.user_agent},
            "lastActiveAt": iso(connection.last_activity_ms),
        }
        return json_response(200, body)

    async def _post_to_connection(self, request: web.BaseRequest, connection_id: str) -> web.Response:
        data = await _body(request)
        if len(data) > MAX_POST_BYTES:
            raise _Failure(413, "PayloadTooLargeException", f"The data may have {MAX_POST_BYTES} bytes.")
        try:
            data.decode()
        except UnicodeDecodeError:
            raise _bad_request("The data must be text in UTF-8.") from None
        socket = self.sockets.get(connection_id)
        match Gone() if socket is None else socket.send(data):
            case Sent():
                return web.Response(status=200)
            case Slow():
                raise _Failure(429, "LimitExceededException", "The client does not read. Try again after a pause.")
            case Gone():
                raise _gone()

    async def _delete_connection(self, request: web.BaseRequest, connection_id: str) -> web.Response:
        socket = self.sockets.get(connection_id)
        if socket is None or not socket.is_open:
            raise _gone()
        _note(request, "a connection was closed", connectionId=connection_id)
        socket.close(WSCloseCode.OK, "Connection Closed Normally")
        return web.Response(status=204)

    # --- live requests

    async def _list_requests(self, _: web.BaseRequest) -> web.Response:
        records = await self.requests.unfinished()
        shown = [_request_body(record) for record in records[:MAX_LISTED]]
        return json_response(200, {"total": len(records), "requests": shown})

    async def _cancel_request(self, request: web.BaseRequest, user_id: str, request_id: str) -> web.Response:
        record = await self.requests.read(RequestKey(normal_id(user_id), request_id))
        if record is None:
            raise _Failure(404, "NotFoundException", "There is no such request. GET /requests lists the live ones.")
        _note(request, "a request was cancelled", userId=user_id, requestId=request_id)
        match await self.canceller.cancel(record):
            case Pending(record=record):
                return json_response(202, _request_body(record))
            case Ended(record=record):
                return json_response(200, _request_body(record))
            case _:
                raise _Failure(409, "ConflictException", "The request has changed. Look again with GET /requests.")

    # --- users: what `answerback users` asks while this gateway holds the store

    async def _list_users(self, request: web.BaseRequest) -> web.Response:
        """`?after=ID&limit=N&with=budgets`"""
        limit = request.query.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= MAX_LISTED):
            raise _bad_request(f"limit must be a whole number from 1 to {MAX_LISTED}.")
        found = await self.users.users(after=request.query.get("after"), limit=int(limit))
        return json_response(200, {"users": [await self._user_body(request, user) for user in found]})

    async def _get_user(self, request: web.BaseRequest, user_id: str) -> web.Response:
        """`?with=budgets`"""
        user = await self.users.user(user_id)
        if user is None:
            raise _no_user()
        return json_response(200, await self._user_body(request, user))

    async def _user_body(self, request: web.BaseRequest, user: StoredUser) -> dict[str, Any]:
        body = row_as_json(user)
        if request.query.get("with") == "budgets" and (budgets := await self._budgets(user.user_id)):
            body["budgets"] = budgets
        return body

    async def _export_user(self, request: web.BaseRequest, user_id: str) -> web.StreamResponse:
        """Send a line of JSON for each thing that is stored. What is cut off in the middle was not all of it."""
        lines = self.users.export(user_id)
        first = await anext(lines, None)
        if first is None:
            raise _no_user()
        _note(request, "a user's data were exported", userId=user_id)
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(request)
        try:
            await response.write(first)
            async for line in lines:
                await response.write(line)
            await response.write_eof()
        except Unavailable as exc:
            log.warning("the store is unavailable: %s", exc)
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _delete_user(self, request: web.BaseRequest, user_id: str) -> web.Response:
        _note(request, "a user is to be erased", userId=user_id)
        # No app may wait for ever for an answer that is erased.
        await self.canceller.end_sessions(normal_id(user_id))
        if not await self.users.delete_user(user_id):
            raise _no_user()
        return json_response(200, {"userId": user_id, "deleted": True})

    async def _set_limit(self, request: web.BaseRequest, user_id: str) -> web.Response:
        _check_user(user_id)
        how = 'Send {"perMinute": N}: a whole number, 0 for no limit, null for the default.'
        per_minute = (await _read(request, _LimitBody, how)).per_minute
        await self.users.set_limit(user_id, per_minute, now_ms=self.clock())
        _note(request, f"a rate limit was set to {_LIMIT_WORDS.get(per_minute, per_minute)}", userId=user_id)
        return json_response(200, {"userId": user_id, "perMinute": per_minute})

    async def _set_blocked(self, request: web.BaseRequest, user_id: str) -> web.Response:
        _check_user(user_id)
        blocked = (await _read(request, _BlockedBody, 'Send {"blocked": true} or {"blocked": false}.')).blocked
        await self.users.set_blocked(user_id, blocked=blocked, now_ms=self.clock())
        _note(request, f"a user was {'blocked' if blocked else 'unblocked'}", userId=user_id)
        if blocked:
            await self.canceller.end_sessions(normal_id(user_id), why=Error(code=ErrorCode.FORBIDDEN, message=BLOCKED))
        return json_response(200, {"userId": user_id, "blocked": blocked})

    async def _set_retention(self, request: web.BaseRequest, user_id: str) -> web.Response:
        _check_user(user_id)
        how = 'Send {"keepDays": N}, null for the default, and perhaps "conversationId".'
        kept = await _read(request, _RetentionBody, how)
        if not await self.users.set_retention(
            user_id, kept.keep_days, now_ms=self.clock(), conversation_id=kept.conversation_id
        ):
            raise _Failure(404, "NotFoundException", "There is no such conversation.")
        about = {} if kept.conversation_id is None else {"conversationId": kept.conversation_id}
        _note(request, f"a retention was set to {kept.keep_days or 'default'} days", userId=user_id, **about)
        return json_response(200, {"userId": user_id, "keepDays": kept.keep_days, **about})

    async def _set_team(self, request: web.BaseRequest, user_id: str) -> web.Response:
        how = f'Send {{"team": NAME}} or null. A name has 1 to {MAX_ID_LENGTH} visible characters.'
        team = (await _read(request, _TeamBody, how)).team
        if not is_id(user_id) or (team is not None and not is_id(team)):
            raise _bad_request(how)
        await self.users.set_team(user_id, team, now_ms=self.clock())
        _note(request, f"a team was set to {team}", userId=user_id)
        return json_response(200, {"userId": user_id, "team": team})

    async def _set_budget(self, request: web.BaseRequest, holder: str) -> web.Response:
        """`holder`: a user's id, or `team NAME`."""
        if not is_id(holder.removeprefix(team_holder(""))):
            raise _bad_request(f"A user id or a team's name is 1 to {MAX_ID_LENGTH} visible characters.")
        how = 'Send {"period": "day"|"month", "budget": {"limit": N, "unit": "tokens"|"microUsd"}}, or null for none.'
        body = await _read(request, _BudgetBody, how)
        budget = None if body.budget is None else Budget(body.budget.limit, body.budget.unit, body.period)
        await self.users.set_budget(holder, body.period, budget, now_ms=self.clock())
        told = "none" if budget is None else shown(budget.limit, budget.unit)
        _note(request, f"the budget of a {body.period} was set to {told}", holder=holder)
        return await self._get_budgets(request, holder)

    async def _get_budgets(self, _: web.BaseRequest, holder: str) -> web.Response:
        return json_response(200, {"holder": holder, "budgets": await self._budgets(holder)})

    async def _budgets(self, holder: str) -> list[dict[str, object]]:
        return [
            {**budget._asdict(), **counter._asdict(), "opensAtMs": opens_at_ms}
            for budget, counter, opens_at_ms in await self.users.budgets(holder, now_ms=self.clock())
        ]

    async def _list_teams(self, _: web.BaseRequest) -> web.Response:
        return json_response(200, {"teams": list(await self.users.teams())})

    async def _list_usage(self, request: web.BaseRequest) -> web.Response:
        """`?user=ID&since=YYYY-MM-DD&by=model`"""
        since = request.query.get("since")
        if since is not None and not _IS_DAY.fullmatch(since):
            raise _bad_request("since must be a day, YYYY-MM-DD.")
        by_model = request.query.get("by") == "model"
        found = await self.users.usage(request.query.get("user"), since_day=since, by_model=by_model)
        return json_response(200, {"usage": [row_as_json(day) for day in found]})


def _request_body(record: Record) -> dict[str, Any]:
    """A record without what was asked and answered."""
    names = ("user_id", "request_id", "session_id", "conversation_id", "model", "state", "attempt", "cancel_requested")
    return {
        **{camel(name): getattr(record, name) for name in names},
        "acceptedAt": iso(record.accepted_at_ms),
        "startedAt": None if record.started_at_ms is None else iso(record.started_at_ms),
        "connectionId": None if record.target is None else record.target.connection_id,
    }


def _note(request: web.BaseRequest, text: str, **about: str) -> None:
    """Log what an operator did."""
    log.info("operator: %s", text, extra={**about, "remote": request.remote})


def _bad_request(text: str) -> _Failure:
    return _Failure(400, "BadRequestException", text)


def _no_user() -> _Failure:
    return _Failure(404, "NotFoundException", "There is no such user.")


def _gone() -> _Failure:
    return _Failure(410, "GoneException", "There is no connection with this id any more.")


def _check_user(user_id: str) -> None:
    if not is_id(user_id):
        raise _bad_request(f"A user id is 1 to {MAX_ID_LENGTH} visible characters.")


async def _read(request: web.BaseRequest, kind: type[BodyT], how: str) -> BodyT:
    """The body as what it has to be. `how` tells who has sent something else."""
    try:
        return msgspec.json.decode(await _body(request), type=kind)
    except (msgspec.MsgspecError, RecursionError):
        raise _bad_request(how) from None


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
