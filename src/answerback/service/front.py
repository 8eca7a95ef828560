"""The front handles connections: one opens, sends a frame, or closes.

A new target or a cancellation of a running answer goes into the request's record, because the worker may be another
process. One in this process is told of it, too. An ended answer is served from the store.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeGuard, assert_never

from answerback import __version__
from answerback.core.budget import BudgetState, tightest
from answerback.core.instants import iso
from answerback.core.keys import normal_id
from answerback.core.request import Conflict, Ended, Pending, RequestKey, Unknown
from answerback.ports import (
    Bound,
    Connection,
    Connections,
    Superseded,
    TokenRefused,
    Tokens,
    Unavailable,
)
from answerback.protocol.codec import Data, FrameError, decode_client
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Budget,
    BudgetInfo,
    CancelMessage,
    ClientFrame,
    Error,
    GetAttachment,
    GetBudget,
    GetHistory,
    Hello,
    ListConversations,
    MessageProgress,
    Ping,
    Pong,
    PutPiece,
    RenewToken,
    SendMessage,
    ServerFrame,
    ServerInfo,
    TokenRenewed,
    UpdateConversation,
    Watch,
    Welcome,
)
from answerback.protocol.limits import PROTOCOL_VERSION
from answerback.service.delivery_sender import DeliverySender
from answerback.service.devices import Devices
from answerback.service.front_settings import FrontSettings
from answerback.service.history_pages import HistoryPages
from answerback.service.questions import ANONYMOUS, BLOCKED, Questions, user_of
from answerback.service.uploads import Uploads

log = logging.getLogger("answerback.front")

TOUCH_EVERY_MS: Final = 10_000
"""`lastActivity` is accurate to this. An idle limit of an hour needs no write for every frame."""

UNAVAILABLE_RETRY_MS: Final = 1_000

TOO_MANY_CONNECTIONS: Final = "This user has too many connections. Close one first."

NO_FILES: Final = "This server takes no files."
NO_WATCHING: Final = "This server shows nobody what another session asks."

FEATURES: Final = ("parts", "superseded", "format", "budgets")
"""What clients may use beyond the first edition of the protocol."""


async def nameless() -> None:
    """Nobody knows what the store is called."""
    return


async def _no_budgets(user_id: str, team: str | None, *, now_ms: int) -> Sequence[BudgetState]:
    return ()


class BudgetsOfUser(Protocol):
    """How the budgets stand that a user's questions are counted in. `team`: as the token has it."""

    async def __call__(self, user_id: str, team: str | None, *, now_ms: int) -> Sequence[BudgetState]: ...


class Front:
    """Handles the frames of every connection. Its methods raise nothing but CancelledError.

    `store_id`: names the store, for clients that keep what is in it; None: nobody knows now. `has_room`: whether a user
    whom the first frame of a connection names may have one more. `budgets_of_user`: how the budgets stand that a user's
    questions are counted in.
    """

    def __init__(
        self,
        *,
        settings: FrontSettings,
        questions: Questions,
        connections: Connections,
        history_pages: HistoryPages,
        delivery_sender: DeliverySender,
        tokens: Tokens | None,
        clock: Callable[[], int],
        is_blocked: Callable[[str], Awaitable[bool]],
        store_id: Callable[[], Awaitable[str | None]] = nameless,
        budgets_of_user: BudgetsOfUser = _no_budgets,
        has_room: Callable[[str, str], bool] = lambda _, __: True,
        uploads: Uploads | None = None,
        devices: Devices | None = None,
    ) -> None:
        self._settings = settings
        self._uploads = uploads
        self._model_info = settings.model_info(takes_files=uploads is not None)
        self._features = FEATURES if uploads is None else (*FEATURES, "attachments")
        self._features = self._features if devices is None else (*self._features, "watch")
        self._devices = devices
        self._questions = questions
        self._connections = connections
        self._history_pages = history_pages
        self._delivery_sender = delivery_sender
        self._tokens = tokens
        self._clock = clock
        self._is_blocked = is_blocked
        self._store_id = store_id
        self._budgets_of_user = budgets_of_user
        self._has_room = has_room
        self._binding: dict[str, asyncio.Future[None]] = {}
        """Connections that become their session's address now."""
        self.greeted: set[str] = set()
        """Open connections that have said `hello`: their clients know more than two frames."""

    # --- the life of a connection

    async def connect(self, connection: Connection) -> None:
        """A socket was opened. Nothing may be sent on it from here. Raises: Unavailable: refuse the socket."""
        await self._connections.add(connection)

    async def disconnect(self, connection_id: str) -> None:
        """The socket is closed. That cancels no request: only an explicit cancellation does."""
        self.greeted.discard(connection_id)
        try:
            await self._connections.remove(connection_id)
        except Unavailable:
            log.warning("a closed connection could not be removed; the janitor will", extra=_of(connection_id))

    async def receive(self, connection_id: str, data: Data) -> Coroutine[Any, Any, None] | None:
        """One whole text message has arrived.

        Returns None, or the run of a request that was accepted to run in this process at once: the message is handled,
        and the caller's task is to await that.
        """
        frame: ClientFrame | FrameError
        try:
            frame = decode_client(data)
        except FrameError as exc:
            # The traceback holds this call, and this call would hold the traceback: a cycle for each broken message.
            frame = exc.with_traceback(None)
            frame.__context__ = None
        try:
            if connection_id in self._binding:
                await self._bound(connection_id)  # else this frame would overtake those that came before it
            connection = await self._connections.get(connection_id)
            if connection is None:
                return None
            now_ms = self._clock()
            if now_ms - connection.last_activity_ms >= TOUCH_EVERY_MS:
                await self._connections.touch(connection_id, now_ms=now_ms)
            # `hello` binds again: the connection that took the session over may be dead, and this one unaware of it.
            if isinstance(frame, Hello) or (connection.generation is None and not isinstance(frame, Ping)):
                if connection.user_id is None and _names_nobody(frame):
                    await self._delivery_sender.error(
                        connection_id, frame.code, detail=frame.detail, request_id=frame.request_id
                    )
                    return None
                connection = await self._bind(connection, frame)
                if connection is None:
                    return None
            if isinstance(frame, FrameError):
                await self._refuse_frame(connection, frame)
            elif isinstance(frame, SendMessage):
                return await self._questions.ask(connection, frame, now_ms)
            else:
                await self._handle(connection, frame)
        except Unavailable as exc:
            log.warning("the store is unavailable: %s", exc, extra=_of(connection_id))
            await self._delivery_sender.error(
                connection_id,
                ErrorCode.UNAVAILABLE,
                request_id=_request_id(frame),
                retry_after_ms=UNAVAILABLE_RETRY_MS,
            )
        except Exception:
            log.exception("a frame could not be handled", extra=_of(connection_id))
            await self._delivery_sender.error(connection_id, ErrorCode.INTERNAL, request_id=_request_id(frame))
        return None

    async def unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        """A slow connection takes frames again: serve what was parked with it."""
        try:
            connection = await self._connections.get(connection_id)
            if connection is not None:
                await self._questions.serve_parked(key, connection, attempt, offset)
        except Unavailable:
            log.warning("a parked answer could not be read; the client will ask for it", extra=_of(connection_id))

    async def _bind(self, connection: Connection, frame: ClientFrame | FrameError) -> Connection | None:
        """Make the connection its session's address with its first frame. None: it must not, and is closed."""
        named = frame.user_id if isinstance(frame, SendMessage | FrameError) else None
        await self._bound(connection.connection_id)
        done = self._binding[connection.connection_id] = asyncio.get_running_loop().create_future()
        try:
            bound = await self._bind_once(connection, None if named is None else normal_id(named))
            if bound is not None and connection.generation is None:
                _log_app(bound, frame)
            return bound
        finally:
            del self._binding[connection.connection_id]
            done.set_result(None)

    async def _bound(self, connection_id: str) -> None:
        """Return when no frame binds the connection."""
        while (binding := self._binding.get(connection_id)) is not None:
            await asyncio.wait((binding,))

    async def _bind_once(self, connection: Connection, named_user: str | None) -> Connection | None:
        user_id = connection.user_id or named_user or ANONYMOUS
        if await self._is_blocked(user_id):
            log.info("a blocked user is sent away", extra=_of(connection.connection_id) | {"userId": user_id})
            await self._delivery_sender.close(connection.connection_id, ErrorCode.FORBIDDEN, detail=BLOCKED)
            return None
        if (
            connection.user_id is None
            and named_user is not None
            and not self._has_room(connection.connection_id, named_user)
        ):
            await self._delivery_sender.close(
                connection.connection_id, ErrorCode.OVERLOADED, detail=TOO_MANY_CONNECTIONS
            )
            return None
        match await self._connections.bind(connection.connection_id, user_id):
            case Superseded():
                await self.replaced(connection.connection_id)
                return None
            case Bound(connection=bound, replaced=replaced):
                if replaced is not None:
                    await self.replaced(replaced)
                return bound

    async def replaced(self, connection_id: str) -> None:
        """Another connection is the address of its session now: say so, and close it.

        It may be dead or not read. Neither the connection that took its place nor the fleet waits for that.
        """
        await self._delivery_sender.close(connection_id, ErrorCode.SESSION_REPLACED)

    # --- frames

    async def _handle(
        self,
        connection: Connection,
        frame: Hello
        | CancelMessage
        | Ping
        | RenewToken
        | GetBudget
        | ListConversations
        | GetHistory
        | UpdateConversation
        | PutPiece
        | GetAttachment
        | Watch,
    ) -> None:
        match frame:
            case Hello():
                await self._hello(connection, frame)
            case CancelMessage(conversation_id=str(conversation_id)) if self._devices is not None:
                await self._devices.stop(connection, frame, conversation_id)
            case CancelMessage():
                await self._questions.cancel(connection, frame)
            case Ping():
                await self._delivery_sender.reply(connection.connection_id, Pong())
            case RenewToken():
                await self._renew_token(connection, frame)
            case (
                ListConversations()
                | GetHistory()
                | UpdateConversation()
                | PutPiece()
                | GetAttachment()
                | GetBudget()
                | Watch()
            ):
                if self._questions.is_expired(connection):
                    await self._delivery_sender.error(
                        connection.connection_id, ErrorCode.UNAUTHORIZED, request_id=frame.request_id
                    )
                    return
                await self._delivery_sender.reply(connection.connection_id, await self._answer(connection, frame))
            case _:
                assert_never(frame)

    async def _answer(
        self,
        connection: Connection,
        frame: ListConversations | GetHistory | UpdateConversation | PutPiece | GetAttachment | GetBudget | Watch,
    ) -> ServerFrame:
        """What answers a frame that is answered by one frame."""
        match frame:
            case GetBudget():
                return Budget(request_id=frame.request_id, budget=await self._budget(connection))
            case PutPiece() | GetAttachment() if self._uploads is not None:
                return await self._uploads.answer(user_of(connection), frame)
            case Watch() if self._devices is not None:
                return await self._devices.watch(connection, frame)
            case PutPiece() | GetAttachment() | Watch():
                why = NO_WATCHING if isinstance(frame, Watch) else NO_FILES
                return Error(code=ErrorCode.FORBIDDEN, message=why, request_id=frame.request_id)
            case _:
                return await self._history_pages.answer(user_of(connection), frame)

    async def _hello(self, connection: Connection, frame: Hello) -> None:
        """Send or retarget everything named, then `welcome` as the last frame (rule: no acknowledgements)."""
        self.greeted.add(connection.connection_id)
        user_id = user_of(connection)
        for point in frame.resume:
            key = RequestKey(user_id, point.request_id)
            match await self._questions.retarget(connection, key, attempt=point.attempt, offset=point.offset):
                case Pending(record=record):
                    if record.parts is not None:
                        # Perhaps nobody works on it who could give a sign: it waits, or its worker is dead and the
                        # lease is not over. The record says that it will have an ending.
                        waited_ms = max(0, self._clock() - record.accepted_at_ms)
                        sign = MessageProgress(request_id=point.request_id, attempt=0, silent_ms=waited_ms)
                        await self._delivery_sender.reply(connection.connection_id, sign)
                case Ended(record=record):
                    await self._questions.serve(record, connection, point.attempt, point.offset)
                case Conflict():
                    await self._delivery_sender.error(
                        connection.connection_id, ErrorCode.REQUEST_CONFLICT, request_id=point.request_id
                    )
                case Unknown():
                    await self._delivery_sender.error(
                        connection.connection_id, ErrorCode.UNKNOWN_REQUEST, request_id=point.request_id
                    )
        await self._delivery_sender.reply(
            connection.connection_id,
            Welcome(
                hello_id=frame.hello_id,
                connection_id=connection.connection_id,
                session_id=connection.session_id,
                user_id=user_id,
                protocol=PROTOCOL_VERSION,
                limits=self._settings.limits(takes_files=self._uploads is not None),
                models=tuple(self._settings.models),
                features=self._features,
                server=ServerInfo(
                    version=__version__, store_id=await self._store_id(), least_client=self._settings.least_client
                ),
                model_info=self._model_info,
                budget=await self._budget(connection),
            ),
        )

    async def _budget(self, connection: Connection) -> BudgetInfo | None:
        """How the user's budget stands, if there is one."""
        found = await self._budgets_of_user(user_of(connection), connection.team, now_ms=self._clock())
        state = tightest(found)
        if state is None:
            return None
        return BudgetInfo(
            unit=state.budget.unit.value,
            limit=state.budget.limit,
            used=state.counter.used,
            reserved=state.counter.reserved,
            resets_at=iso(state.opens_at_ms),
        )

    async def _renew_token(self, connection: Connection, frame: RenewToken) -> None:
        expires_at_ms: int | None = None
        if self._tokens is not None:
            try:
                identity = await self._tokens.identify(frame.token)
            except TokenRefused as exc:
                log.info("a renewed token was refused: %s", exc, extra=_of(connection.connection_id))
                await self._delivery_sender.error(
                    connection.connection_id, ErrorCode.UNAUTHORIZED, request_id=frame.request_id
                )
                return
            if identity.user_id != connection.user_id:
                await self._delivery_sender.error(
                    connection.connection_id, ErrorCode.USER_MISMATCH, request_id=frame.request_id
                )
                return
            expires_at_ms = identity.expires_at_ms
            await self._connections.renew(connection.connection_id, token_expires_at_ms=expires_at_ms)
        await self._delivery_sender.reply(
            connection.connection_id,
            TokenRenewed(request_id=frame.request_id, expires_at=None if expires_at_ms is None else iso(expires_at_ms)),
        )

    async def _refuse_frame(self, connection: Connection, broken: FrameError) -> None:
        """A broken question under a readable id is a refused request; anything else broken is an `error`."""
        if broken.action == "sendMessage" and broken.request_id is not None:
            refusal_record = self._questions.refusal_record(connection, broken.request_id)
            await self._questions.refuse(connection, refusal_record, broken.code, broken.detail)
        else:
            await self._delivery_sender.error(
                connection.connection_id, broken.code, detail=broken.detail, request_id=broken.request_id
            )


def _names_nobody(frame: ClientFrame | FrameError) -> TypeGuard[FrameError]:
    """Whether a broken frame leaves the connection's user open. A broken question without a name is anonymous."""
    return isinstance(frame, FrameError) and frame.user_id is None and frame.action != "sendMessage"


def _log_app(connection: Connection, frame: ClientFrame | FrameError) -> None:
    """Say which app has connected, if its first frame tells."""
    if isinstance(frame, Hello) and (app := frame.client) is not None:
        about = {"userId": user_of(connection), "client": f"{app.name}/{app.version}"}
        log.info("an app has connected", extra={**_of(connection.connection_id), **about})


def _request_id(frame: ClientFrame | FrameError) -> str | None:
    return None if isinstance(frame, Hello | Ping) else frame.request_id


def _of(connection_id: str) -> dict[str, str]:
    return {"connectionId": connection_id}
