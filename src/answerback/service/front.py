"""The front handles connections: one opens, sends a frame, or closes.

It shares no memory with a worker. A new target or a cancellation of a running answer goes into the request's record. An
ended answer is served from the store.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeGuard, assert_never

from answerback.core import admission, defaults
from answerback.core import request as changes
from answerback.core.instants import iso
from answerback.core.keys import fingerprint, normal_id, ordering_key
from answerback.core.request import (
    Conflict,
    DeliveryTarget,
    Ended,
    Pending,
    Policy,
    Question,
    Record,
    RequestKey,
    Unknown,
)
from answerback.core.transitions import State
from answerback.ports import (
    Accepted,
    Bound,
    Connection,
    Connections,
    Existing,
    Full,
    Gone,
    Limited,
    Queue,
    Quota,
    Requests,
    Sender,
    Slow,
    Superseded,
    TokenRefused,
    Tokens,
    Unavailable,
)
from answerback.protocol.codec import Data, FrameError, decode_client
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import (
    CancelMessage,
    ClientFrame,
    Error,
    GetHistory,
    Hello,
    ListConversations,
    MessageAccepted,
    Ping,
    Pong,
    RenewToken,
    SendMessage,
    ServerFrame,
    ServerLimits,
    TokenRenewed,
    UpdateConversation,
    Welcome,
)
from answerback.protocol.limits import MAX_ANSWER_BYTES, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, PROTOCOL_VERSION
from answerback.service.delivery_sender import DeliverySender, FlushResult
from answerback.service.history_pages import HistoryPages
from answerback.service.observer import Observer
from answerback.service.wakeup import Notifier

log = logging.getLogger("answerback.front")

ANONYMOUS: Final = "anonymous"
TOUCH_EVERY_MS: Final = 10_000
"""`lastActivity` is accurate to this. An idle limit of an hour needs no write for every frame."""

UNAVAILABLE_RETRY_MS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontSettings:
    """`models`: what clients may ask for, the first is the default. Sizes in tokens, times in milliseconds.

    `queue_survives`: the queue keeps what was put (SQS), so a record notes that it was queued. A queue that is rebuilt
    from the store at start needs no such write. `refusals_per_minute`: refusals and early cancellations of one user
    that are stored. Beyond them the answer is an `error`, which ends nothing and stores nothing.
    """

    models: Sequence[str]
    quota: Quota
    policy: Policy = field(default_factory=Policy)
    max_tokens: int = defaults.MAX_TOKENS
    max_message_bytes: int = MAX_MESSAGE_BYTES
    lock_system: bool = False
    idle_timeout_ms: int = defaults.IDLE_TIMEOUT_S * 1000
    max_connection_ms: int | None = None
    queue_survives: bool = False
    refusals_per_minute: int = 100


class Front:
    """Handles the frames of every connection. Its methods raise nothing but CancelledError."""

    def __init__(
        self,
        *,
        settings: FrontSettings,
        requests: Requests,
        connections: Connections,
        sender: Sender,
        queue: Queue,
        delivery_sender: DeliverySender,
        history_pages: HistoryPages,
        tokens: Tokens | None,
        notifier: Notifier,
        observer: Observer,
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._requests = requests
        self._connections = connections
        self._sender = sender
        self._queue = queue
        self._delivery_sender = delivery_sender
        self._history_pages = history_pages
        self._tokens = tokens
        self._notifier = notifier
        self._observer = observer
        self._clock = clock
        self._refusals = admission.MinuteCounts()

    # --- the life of a connection

    async def connect(self, connection: Connection) -> None:
        """A socket was opened. Nothing may be sent on it from here. Raises: Unavailable: refuse the socket."""
        await self._connections.add(connection)

    async def disconnect(self, connection_id: str) -> None:
        """The socket is closed. That cancels no request: only an explicit cancellation does."""
        try:
            await self._connections.remove(connection_id)
        except Unavailable:
            log.warning("a closed connection could not be removed; the janitor will", extra=_of(connection_id))

    async def receive(self, connection_id: str, data: Data) -> None:
        """One whole text message has arrived."""
        frame: ClientFrame | FrameError
        try:
            frame = decode_client(data)
        except FrameError as exc:
            # The traceback holds this call, and this call would hold the traceback: a cycle for each broken message.
            frame = exc.with_traceback(None)
            frame.__context__ = None
        try:
            connection = await self._connections.get(connection_id)
            if connection is None:
                return
            now_ms = self._clock()
            if now_ms - connection.last_activity_ms >= TOUCH_EVERY_MS:
                await self._connections.touch(connection_id, now_ms=now_ms)
            # `hello` binds again: the connection that took the session over may be dead, and this one unaware of it.
            if isinstance(frame, Hello) or (connection.generation is None and not isinstance(frame, Ping)):
                named = frame.user_id if isinstance(frame, SendMessage | FrameError) else None
                if connection.user_id is None and _names_nobody(frame):
                    await self._error(connection_id, frame.code, detail=frame.detail, request_id=frame.request_id)
                    return
                bound = await self._bind(connection, None if named is None else normal_id(named))
                if bound is None:
                    return
                connection = bound
            if isinstance(frame, FrameError):
                await self._refuse_frame(connection, frame)
            else:
                await self._handle(connection, frame)
        except Unavailable as exc:
            log.warning("the store is unavailable: %s", exc, extra=_of(connection_id))
            await self._error(
                connection_id,
                ErrorCode.UNAVAILABLE,
                request_id=_request_id(frame),
                retry_after_ms=UNAVAILABLE_RETRY_MS,
            )
        except Exception:
            log.exception("a frame could not be handled", extra=_of(connection_id))
            await self._error(connection_id, ErrorCode.INTERNAL, request_id=_request_id(frame))

    async def unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        """A slow connection takes frames again: serve what was parked with it."""
        try:
            connection = await self._connections.get(connection_id)
            record = await self._requests.read(key)
            if connection is None or record is None or record.ending is None:
                return
            if (normal_id(record.user_id), record.session_id) == (connection.user_id, connection.session_id):
                await self._serve(record, connection, attempt, offset)
        except Unavailable:
            log.warning("a parked answer could not be read; the client will ask for it", extra=_of(connection_id))

    async def _bind(self, connection: Connection, named_user: str | None) -> Connection | None:
        """Make the connection its session's address with its first frame. None: the newer connection wins."""
        user_id = connection.user_id or named_user or ANONYMOUS
        match await self._connections.bind(connection.connection_id, user_id):
            case Superseded():
                await self._replaced(connection.connection_id)
                return None
            case Bound(connection=bound, replaced=replaced):
                if replaced is not None:
                    await self._replaced(replaced)
                return bound

    async def _replaced(self, connection_id: str) -> None:
        await self._error(connection_id, ErrorCode.SESSION_REPLACED)
        await self._sender.close(connection_id)

    # --- frames

    async def _handle(self, connection: Connection, frame: ClientFrame) -> None:
        match frame:
            case SendMessage():
                await self._send_message(connection, frame)
            case Hello():
                await self._hello(connection, frame)
            case CancelMessage():
                await self._cancel(connection, frame)
            case Ping():
                await self._send(connection, Pong())
            case RenewToken():
                await self._renew_token(connection, frame)
            case ListConversations() | GetHistory() | UpdateConversation():
                if self._is_expired(connection):
                    await self._error(connection.connection_id, ErrorCode.UNAUTHORIZED, request_id=frame.request_id)
                    return
                await self._send(connection, await self._history_pages.answer(_user(connection), frame))
            case _:
                assert_never(frame)

    async def _send_message(self, connection: Connection, frame: SendMessage) -> None:
        record, question = self._new_request(connection, frame)
        refusal = self._why_not(connection, frame)
        if refusal is not None:
            await self._refuse(connection, record, *refusal)
            return
        match await self._requests.accept(record, question, self._settings.quota, now_ms=record.accepted_at_ms):
            case Accepted(position=position):
                await self._enqueue(record)
                self._observer.accepted(record)
                await self._send_accepted(connection, record, position)
            case Existing(record=existing, position=position):
                await self._attach(connection, record, existing, position)
            case Limited(retry_after_ms=retry_after_ms):
                await self._refuse(connection, record, ErrorCode.RATE_LIMITED, None, retry_after_ms)
            case Full():
                await self._refuse(connection, record, ErrorCode.OVERLOADED)

    def _why_not(self, connection: Connection, frame: SendMessage) -> tuple[ErrorCode, str | None] | None:
        """The reasons to refuse a new request that need no store."""
        if frame.user_id is not None and normal_id(frame.user_id) != connection.user_id:
            return ErrorCode.USER_MISMATCH, None
        if self._is_expired(connection):
            return ErrorCode.UNAUTHORIZED, None
        if frame.model is not None and frame.model not in self._settings.models:
            return ErrorCode.FORBIDDEN, f"This model is not offered. Models: {', '.join(self._settings.models)}."
        if frame.system is not None and self._settings.lock_system:
            return ErrorCode.FORBIDDEN, 'The operator has set the system prompt. Leave "system" out.'
        if frame.replaces is not None and frame.conversation_id is None:
            return ErrorCode.INVALID_FRAME, '"replaces" needs the "conversationId" of the request that it replaces.'
        return None

    def _is_expired(self, connection: Connection) -> bool:
        """Whether the token has expired. Running answers go on, and nothing new starts until it is renewed."""
        return connection.token_expires_at_ms is not None and self._clock() >= connection.token_expires_at_ms

    def _new_request(self, connection: Connection, frame: SendMessage) -> tuple[Record, Question]:
        user_id = _user(connection)
        conversation_id = None if frame.conversation_id is None else normal_id(frame.conversation_id)
        asked = None if frame.max_tokens is None else min(frame.max_tokens, self._settings.max_tokens)
        question = Question(
            message=frame.message,
            model=frame.model or self._settings.models[0],
            system=frame.system,
            max_tokens=asked,
            replaces=frame.replaces,
        )
        record = Record(
            user_id=user_id,
            request_id=frame.request_id,
            session_id=connection.session_id,
            conversation_id=conversation_id or normal_id(connection.session_id),
            standalone=conversation_id is None,
            ordering_key=ordering_key(user_id, conversation_id),
            fingerprint=fingerprint(frame),
            model=question.model,
            stream=frame.stream,
            accepted_at_ms=self._clock(),
            queue_no=0 if self._settings.queue_survives else 1,
            target=_target(connection),
        )
        return record, question

    async def _enqueue(self, record: Record) -> None:
        """Put the request on the queue. `messageAccepted` may follow only after this."""
        if not self._settings.queue_survives:
            await self._queue.put(record)
        elif record.queue_no == 0:
            await self._queue.put(record)
            await self._requests.change(record.key, partial(changes.queued, queue_no=1))

    async def _attach(self, connection: Connection, new: Record, existing: Record, position: int) -> None:
        """Answer a repeated request id with its request, running or ended. It never runs a second time."""
        # The record of an early cancellation has no payload: it answers any.
        if existing.session_id != new.session_id or existing.fingerprint not in ("", new.fingerprint):
            await self._error(connection.connection_id, ErrorCode.REQUEST_CONFLICT, request_id=new.request_id)
            return
        self._observer.attached(existing)
        match await self._retarget(connection, new.key, attempt=0, offset=0):
            case Pending(record=record):
                if record.state is State.ACCEPTED:
                    await self._enqueue(record)
                await self._send_accepted(connection, record, position)
            case Ended(record=record):
                await self._serve(record, connection, 0, 0)
            case Conflict() | Unknown():
                await self._error(connection.connection_id, ErrorCode.REQUEST_CONFLICT, request_id=new.request_id)

    async def _hello(self, connection: Connection, frame: Hello) -> None:
        """Send or retarget everything named, then `welcome` as the last frame (rule: no acknowledgements)."""
        user_id = _user(connection)
        for point in frame.resume:
            key = RequestKey(user_id, point.request_id)
            match await self._retarget(connection, key, attempt=point.attempt, offset=point.offset):
                case Pending():
                    pass
                case Ended(record=record):
                    await self._serve(record, connection, point.attempt, point.offset)
                case Conflict():
                    await self._error(connection.connection_id, ErrorCode.REQUEST_CONFLICT, request_id=point.request_id)
                case Unknown():
                    await self._error(connection.connection_id, ErrorCode.UNKNOWN_REQUEST, request_id=point.request_id)
        await self._send(
            connection,
            Welcome(
                hello_id=frame.hello_id,
                connection_id=connection.connection_id,
                session_id=connection.session_id,
                user_id=user_id,
                protocol=PROTOCOL_VERSION,
                limits=self._limits(),
                models=tuple(self._settings.models),
            ),
        )

    async def _cancel(self, connection: Connection, frame: CancelMessage) -> None:
        now_ms = self._clock()
        refusal_record = self._refusal_record(connection, frame.request_id)
        if await self._requests.read(refusal_record.key) is None and not await self._may_keep(
            connection, frame.request_id
        ):
            return
        outcome = await self._requests.change(
            refusal_record.key, partial(changes.cancel, refusal_record=refusal_record, now_ms=now_ms)
        )
        match outcome:
            case Pending(record=record):
                # The answer to the cancellation is the request's ending: it goes to the connection that cancelled.
                if record.target is None or record.target.connection_id != connection.connection_id:
                    retargeted = await self._retarget(connection, record.key, attempt=0, offset=0)
                    if isinstance(retargeted, Ended):
                        await self._serve_ending(retargeted.record, connection)
                self._notifier.notify(record.key)
            case Ended(record=record, is_new=is_new):
                if is_new and record.ending is not None:
                    self._observer.ended(record, record.ending)
                await self._serve_ending(record, connection)
                if is_new:
                    await self._queue.forget(record.key)
            case Conflict():
                await self._error(connection.connection_id, ErrorCode.REQUEST_CONFLICT, request_id=frame.request_id)

    async def _renew_token(self, connection: Connection, frame: RenewToken) -> None:
        expires_at_ms: int | None = None
        if self._tokens is not None:
            try:
                identity = await self._tokens.identify(frame.token)
            except TokenRefused as exc:
                log.info("a renewed token was refused: %s", exc, extra=_of(connection.connection_id))
                await self._error(connection.connection_id, ErrorCode.UNAUTHORIZED, request_id=frame.request_id)
                return
            if identity.user_id != connection.user_id:
                await self._error(connection.connection_id, ErrorCode.USER_MISMATCH, request_id=frame.request_id)
                return
            expires_at_ms = identity.expires_at_ms
            await self._connections.renew(connection.connection_id, token_expires_at_ms=expires_at_ms)
        await self._send(
            connection,
            TokenRenewed(request_id=frame.request_id, expires_at=None if expires_at_ms is None else iso(expires_at_ms)),
        )

    # --- refusals

    async def _refuse_frame(self, connection: Connection, broken: FrameError) -> None:
        """A broken question under a readable id is a refused request; anything else broken is an `error`."""
        if broken.action == "sendMessage" and broken.request_id is not None:
            refusal_record = self._refusal_record(connection, broken.request_id)
            await self._refuse(connection, refusal_record, broken.code, broken.detail)
        else:
            await self._error(connection.connection_id, broken.code, detail=broken.detail, request_id=broken.request_id)

    async def _refuse(
        self,
        connection: Connection,
        new: Record,
        code: ErrorCode,
        detail: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        """Store the refusal and send it (rule: every answered id has a record). A known request shows its own state."""
        self._observer.refused(code)
        if not await self._may_keep(connection, new.request_id):
            return
        refuse = partial(
            changes.refuse,
            refusal_record=new,
            now_ms=self._clock(),
            code=code,
            detail=detail,
            retry_after_ms=retry_after_ms,
        )
        outcome = await self._requests.change(new.key, refuse)
        known = outcome.record
        if known.session_id != new.session_id or known.fingerprint not in ("", new.fingerprint):
            await self._error(connection.connection_id, ErrorCode.REQUEST_CONFLICT, request_id=new.request_id)
        elif isinstance(outcome, Ended):
            await self._serve(known, connection, 0, 0)
        else:
            await self._attach(connection, new, known, 0)

    async def _may_keep(self, connection: Connection, request_id: str) -> bool:
        """Whether one more record of something never accepted may be stored for this user. If not, send that.

        Without this limit a client could fill the disk with refusals as fast as it can send.
        """
        now_ms = self._clock()
        if self._refusals.count(_user(connection), now_ms) <= self._settings.refusals_per_minute:
            return True
        await self._error(
            connection.connection_id,
            ErrorCode.RATE_LIMITED,
            request_id=request_id,
            retry_after_ms=admission.retry_after_ms(now_ms),
        )
        return False

    def _refusal_record(self, connection: Connection, request_id: str) -> Record:
        user_id = _user(connection)
        return Record(
            user_id=user_id,
            request_id=request_id,
            session_id=connection.session_id,
            conversation_id=normal_id(connection.session_id),
            standalone=True,
            ordering_key=ordering_key(user_id, None),
            fingerprint="",
            model="",
            accepted_at_ms=self._clock(),
            target=_target(connection),
        )

    async def _error(
        self,
        connection_id: str,
        code: ErrorCode,
        *,
        detail: str | None = None,
        request_id: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        frame = Error(
            code=code,
            message=detail or ERRORS[code].message,
            request_id=request_id,
            retry_after_ms=retry_after_ms,
        )
        await self._send_to(connection_id, frame)

    # --- answers

    async def _retarget(
        self, connection: Connection, key: RequestKey, *, attempt: int, offset: int
    ) -> Pending | Ended | Conflict | Unknown:
        outcome = await self._requests.change(
            key,
            partial(
                changes.retarget,
                session_id=connection.session_id,
                connection_id=connection.connection_id,
                generation=connection.generation or 0,
                attempt=attempt,
                offset=offset,
            ),
        )
        if isinstance(outcome, Pending):
            self._notifier.notify(outcome.record.key)
        return outcome

    async def _serve(self, record: Record, connection: Connection, attempt: int, offset: int) -> None:
        """Send a stored ending. Wait for a slow connection that the sender cannot park; nothing is sent twice."""
        record = changes.aged(record, now_ms=self._clock())
        delivery = await self._delivery_sender.stored(record, _target(connection, attempt=attempt, offset=offset))
        while await self._delivery_sender.flush(delivery) is FlushResult.SLOW and not self._delivery_sender.park(
            delivery, record
        ):
            await self._sender.ready(connection.connection_id)
            delivery.ready()

    async def _serve_ending(self, record: Record, connection: Connection) -> None:
        """Send the terminal frame alone. A streaming client that lacks text asks for it."""
        ending = record.ending
        if ending is not None:
            await self._serve(record, connection, ending.attempt, ending.length)

    async def _send_accepted(self, connection: Connection, record: Record, position: int) -> None:
        await self._send(
            connection,
            MessageAccepted(request_id=record.request_id, conversation_id=record.conversation_id, position=position),
        )

    async def _send(self, connection: Connection, frame: ServerFrame) -> None:
        await self._send_to(connection.connection_id, frame)

    async def _send_to(self, connection_id: str, frame: ServerFrame) -> None:
        """Send a frame of the front's own. For a slow reader this waits, and so its next frames wait too."""
        while True:
            match await self._sender.send(connection_id, frame):
                case Slow():
                    self._observer.found_slow()
                    await self._sender.ready(connection_id)
                case Gone():
                    self._observer.found_gone()
                    return
                case _:
                    return

    def _limits(self) -> ServerLimits:
        settings = self._settings
        return ServerLimits(
            max_message_bytes=settings.max_message_bytes,
            max_frame_bytes=MAX_FRAME_BYTES,
            max_answer_bytes=MAX_ANSWER_BYTES,
            requests_per_minute=settings.quota.per_minute,
            max_pending=settings.quota.max_pending,
            max_tokens=settings.max_tokens,
            idle_timeout_ms=settings.idle_timeout_ms,
            answer_timeout_ms=settings.policy.answer_timeout_ms,
            queue_timeout_ms=settings.policy.queue_timeout_ms,
            max_connection_ms=settings.max_connection_ms,
        )


def _user(connection: Connection) -> str:
    return connection.user_id or ANONYMOUS


def _target(connection: Connection, *, attempt: int = 0, offset: int = 0) -> DeliveryTarget:
    return DeliveryTarget(
        no=1,
        connection_id=connection.connection_id,
        generation=connection.generation or 0,
        attempt=attempt,
        offset=offset,
    )


def _names_nobody(frame: ClientFrame | FrameError) -> TypeGuard[FrameError]:
    """Whether a broken frame leaves the connection's user open. A broken question without a name is anonymous."""
    return isinstance(frame, FrameError) and frame.user_id is None and frame.action != "sendMessage"


def _request_id(frame: ClientFrame | FrameError) -> str | None:
    return None if isinstance(frame, Hello | Ping) else frame.request_id


def _of(connection_id: str) -> dict[str, str]:
    return {"connectionId": connection_id}
