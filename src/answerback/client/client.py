"""The asyncio client: questions in, answers out, whatever happens to the connection in between."""

import asyncio
import logging
import random
import ssl as ssl_module
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, TypedDict, TypeVar, Unpack, overload

from answerback import __version__
from answerback.client import versions
from answerback.client.asking import AskOptions, question, timeouts
from answerback.client.calls import CallFrame
from answerback.client.driver import Driver
from answerback.client.effects import (
    AppEffect,
    Emit,
    Fail,
    FilesWanted,
    Reply,
    ReplyFailed,
    RoundTrip,
    Show,
    WatchFailed,
    WatchHeld,
)
from answerback.client.errors import (
    AnswerbackError,
    AnswerInvalid,
    MessageTooLarge,
    ProtocolViolation,
    RequestFailed,
    request_failed,
)
from answerback.client.events import Answer, Connecting, ConnectionState, Done, Event, Queued, Stopped
from answerback.client.exchange import Timeouts
from answerback.client.link import Address
from answerback.client.outbox import Outbox, PendingRequest
from answerback.client.paging import turns
from answerback.client.session import NO_FILES, Session
from answerback.client.stream import AnswerStream
from answerback.client.timing import Timing
from answerback.client.tokens import Token, TokenSource
from answerback.client.typed import asked_again, read_as, schema_of
from answerback.client.upload_queue import UploadQueue
from answerback.client.uploads import File, Source, fetch, files_of
from answerback.client.watching import AnswerWatch, ChangeWatch, WatchHub
from answerback.core.assembly import Started
from answerback.core.keys import normal_id
from answerback.protocol import frames
from answerback.protocol.errors import ErrorCode

log = logging.getLogger("answerback.client")

ReplyT = TypeVar("ReplyT")
ValueT = TypeVar("ValueT")
_STATES_KEPT = 100


class ClientOptions(TypedDict, total=False):
    """The arguments of `Client` besides the URL."""

    token: Token | None
    session: str | None
    user: str | None
    connect_timeout: float
    request_timeout: float | None
    offline_start: bool
    store: str | None
    outbox: Outbox | None
    on_state: Callable[[ConnectionState], None] | None
    ssl: ssl_module.SSLContext | None
    timing: Timing | None
    rng: random.Random | None


class Client:
    """One app: its session at one server.

        async with Client("ws://127.0.0.1:8765") as app:
            answer = await app.ask("What is a WebSocket?")
            print(answer.text)

    Args:
        url: `ws://` or `wss://`; a path (an API Gateway stage) is kept.
        token: a bearer token, or a function (plain or async) that returns a fresh one; it is called for every connect
            and shortly before the last one expires.
        session: the app's session id. Give a running app one of its own and keep it: answers that come while the app
            is unavailable are waiting under it. Default: a new one.
        user: who asks, where the server has no authentication.
        connect_timeout: seconds for the first connection. Later losses heal silently.
        request_timeout: seconds that each question may take in all, unless it says otherwise itself. Default: no such
            limit; a question is given up when nothing was heard of it for 30 s (see `ask` and `stream`).
        offline_start: do not wait for the first connection, and do not fail without one: questions are kept.
        store: the `store_id` of the `server` that earlier questions were asked, "" if there is none yet. A server with
            another one stops the client with StoreChanged, and nothing is sent to it. Default: any will do.
        outbox: keeps unfinished questions across runs of the app; see `Outbox` and `restored`.
        on_state: called with every `ConnectionState`.
        ssl: for a server whose certificate the system does not know.

    Raises, when entered: CannotConnect, Unauthorized, Forbidden. An instance is used once, within one event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        session: str | None = None,
        user: str | None = None,
        connect_timeout: float = 10.0,
        request_timeout: float | None = None,
        offline_start: bool = False,
        store: str | None = None,
        outbox: Outbox | None = None,
        on_state: Callable[[ConnectionState], None] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        timing: Timing | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.session_id = session or uuid.uuid4().hex
        self._timing = timing or Timing()
        self._connect_timeout_s = connect_timeout
        self._request_timeout_s = request_timeout
        self._outbox = outbox
        self._listener = on_state
        client = frames.ClientInfo(name="answerback-python", version=__version__)
        tokens = TokenSource(token)
        self._session = Session(timing=self._timing, client=client, store=store, can_renew=tokens.can_renew)
        self._streams: dict[str, AnswerStream] = {}
        self._replies: dict[str, asyncio.Future[object]] = {}
        self._state: ConnectionState = Connecting(1)
        self._state_queues: list[tuple[deque[ConnectionState], asyncio.Event]] = []
        self._restored: tuple[AnswerStream, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._driver = Driver(
            address=Address(url=url, session=self.session_id, user=user),
            session=self._session,
            tokens=tokens,
            timing=self._timing,
            ssl_context=ssl,
            must_connect=not offline_start,
            rng=rng or random.Random(),  # noqa: S311 - jitter, not secrets
            on_effect=self._on_effect,
            on_state=self._on_state,
        )
        self._watches = WatchHub(
            self._session, self._driver, timeout_s=self._timing.call_timeout_s, check=self._check_loop
        )
        self._uploads = UploadQueue(self._session, self._driver, put=self._put, show=self._show)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connect; what `async with` does. Raises: CannotConnect, Unauthorized, Forbidden."""
        self._loop = asyncio.get_running_loop()
        self._restored = tuple(self._resume(pending) for pending in (self._outbox.load() if self._outbox else ()))
        try:
            await self._driver.start(self._connect_timeout_s)
        except BaseException:
            await self._driver.close()
            raise

    async def aclose(self) -> None:
        """Close the connection. Questions under way raise Closed here and go on at the server."""
        if self._loop in (None, asyncio.get_running_loop()):
            await self._driver.close()
            await self._uploads.close()
        elif not isinstance(self._state, Stopped):
            self._check_loop()

    # --- asking -----------------------------------------------------------------------------------------

    @overload
    async def ask(
        self, message: str, *, type: type[ValueT], repair: int = 0, **options: Unpack[AskOptions]
    ) -> ValueT: ...

    @overload
    async def ask(self, message: str, **options: Unpack[AskOptions]) -> Answer: ...

    async def ask(
        self,
        message: str,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        model: str | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        replaces: str | None = None,
        attachments: Sequence[Source] = (),
        request_id: str | None = None,
        schema: Mapping[str, Any] | None = None,
        type: type[ValueT] | None = None,
        repair: int = 0,
    ) -> Answer | ValueT:
        """Ask and wait for the whole answer, at most 32 KB of it.

        Args:
            timeout: seconds in all; then the server stops it. Default: `request_timeout`, else 30 s without a sign of
                life. A model that thinks gives signs; a server that knows none has 30 s in all.
            conversation: its id; with one, earlier turns are context. Without, the question stands alone.
            replaces: the id of an earlier request of the conversation that this one regenerates or edits.
            attachments: files to show the model, as paths or `File`s: at most 8, of 4 MB each. What its model cannot
                read is refused before it is sent; see `model_info`.
            request_id: your own unique id; asking again under it gets the same answer, never a second one.
            schema: a JSON Schema that the model is to keep to; nobody checks that it did.
            type: what to return instead: a msgspec Struct, a dataclass, a pydantic model, or another type that msgspec
                knows. The model is given its schema, and the answer is checked here.
            repair: how often to ask again, under a new id, when the answer is not of the type. Each costs an answer.
        Raises: RequestTimeout, RequestFailed (RateLimited, Overloaded, …), RequestCancelled, MessageTooLarge,
            AttachmentMissing, AnswerInvalid, SessionReplaced, Closed. Raises at once: OSError, ValueError: a file
            cannot be read, or is too large. Cancelling the task stops the request at the server.
        """
        total_s = self._request_timeout_s if timeout is None else timeout
        files = files_of(attachments)
        asked, invalid = message, None
        while True:
            try:
                frame = question(
                    asked,
                    files,
                    limits=self._session.limits,
                    stream=False,
                    conversation=conversation,
                    model=model,
                    system=system,
                    max_tokens=max_tokens,
                    replaces=replaces,
                    request_id=request_id,
                    schema=schema if type is None else schema_of(type),
                )
            except MessageTooLarge as exc:
                if invalid is None:
                    raise
                raise invalid from exc  # what was answered and paid for is not lost
            asked_at = self._driver.now
            limit = self._timeouts(frame) if total_s is None else Timeouts(total_s=total_s)
            async with self._begin(frame, limit, files) as stream:
                answer = await stream.answer
            if type is None:
                return answer
            try:
                return read_as(type, answer.text)
            except ValueError as exc:
                invalid = AnswerInvalid(answer, str(exc))
                if repair <= 0:
                    raise invalid from exc
            repair -= 1
            if total_s is not None:
                total_s -= self._driver.now - asked_at
            asked, request_id = asked_again(message, answer.text, invalid.why), None
            replaces = answer.request_id if conversation is not None else None

    def stream(
        self,
        message: str,
        *,
        timeout: float | None = None,
        total_timeout: float | None = None,
        conversation: str | None = None,
        model: str | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        replaces: str | None = None,
        attachments: Sequence[Source] = (),
        request_id: str | None = None,
        schema: Mapping[str, Any] | None = None,
        parts: Collection[str] = (),
    ) -> AnswerStream:
        """Ask, and read the answer while it comes: `async for piece in app.stream(…)`.

        Args:
            timeout: seconds without text or sign of life that are allowed once the answer has started (default 30); no
                connection is no silence.
            total_timeout: seconds in all (default: `request_timeout`, else a little more than the server's own limits).
            schema: a JSON Schema that the model is to keep to; nobody checks that it did.
            parts: kinds of what a model says besides text, such as `reasoning`, `tool` and `citation`, that `events()`
                and `Answer.parts` are to have.
        The other arguments and the errors are those of `ask`; they are raised while reading. Raises at once:
        MessageTooLarge, SessionReplaced, Closed, OSError, ValueError.
        """
        files = files_of(attachments)
        frame = question(
            message,
            files,
            limits=self._session.limits,
            stream=True,
            conversation=conversation,
            model=model,
            system=system,
            max_tokens=max_tokens,
            replaces=replaces,
            request_id=request_id,
            schema=schema,
            parts=parts,
        )
        return self._begin(frame, self._timeouts(frame, timeout, total_timeout), files)

    def cancel(self, request_id: str, *, conversation: str | None = None) -> None:
        """Stop a question; see `AnswerStream.cancel`. `conversation`: of one that another app of the user has asked.

        Raises: RequestFailed: the server does not let one app stop what another has asked.
        """
        self._check_loop()
        self._driver.carry_out(self._session.cancel(request_id, conversation, now=self._driver.now))

    @property
    def restored(self) -> tuple[AnswerStream, ...]:
        """The answers to questions of an earlier run, from the outbox, in the order asked."""
        return self._restored

    def pending(self) -> list[PendingRequest]:
        """Every question without an ending, in the order asked."""
        return [self._uploads.with_paths(pending) for pending in self._session.export()]

    # --- other apps of the user -------------------------------------------------------------------------

    def watch(self, conversation: str, *, after: str | None = None) -> AnswerWatch:
        """Show what other apps of the user ask in a conversation, and the answers while they come; see `AnswerWatch`.

        `after`: the request id of the newest turn that the app has; the turns after it come, too, at most 32 of them.
        Default: none that had ended before the watch began.
        Raises, when it begins: RequestFailed: the server does not know this; RequestTimeout, SessionReplaced, Closed.
        """
        return AnswerWatch(self._watches, normal_id(conversation), after)

    def changes(self) -> ChangeWatch:
        """Tell when other apps of the user begin, rename or delete conversations or ask in them; see `ChangeWatch`."""
        return ChangeWatch(self._watches)

    # --- conversations ----------------------------------------------------------------------------------

    async def conversations(self) -> AsyncIterator[frames.ConversationSummary]:
        """The user's conversations, last used first."""
        before: str | None = None
        while True:
            request_id = _id()
            page = await self._call(
                request_id, frames.ListConversations(request_id=request_id, before=before), frames.Conversations
            )
            for summary in page.conversations:
                yield summary
            if page.next is None:
                return
            if page.next == before:
                raise ProtocolViolation(request_id, "a page of conversations follows itself")
            before = page.next

    async def history(
        self, conversation: str, *, superseded: bool = False, parts: bool = False
    ) -> AsyncIterator[frames.Turn]:
        """A conversation's turns, newest first, each whole.

        `superseded`: also those whose place a later one took, which have `superseded_by`. A server that does not know
        this gives the others only. `parts`: answers with all of their parts, which `parts_of` tells apart.
        """

        async def page(before: str | None) -> frames.History:
            frame = frames.GetHistory(
                request_id=_id(), conversation_id=conversation, before=before, superseded=superseded, parts=parts
            )
            return await self._call(frame.request_id, frame, frames.History)

        async for turn in turns(conversation, page):
            yield turn

    async def attachment(self, named: frames.Attachment, *, progress: Callable[[int], None] = lambda _: None) -> File:
        """A file of an earlier question, as a turn of `history` names it, checked by its hash.

        `progress` is called with the bytes that have arrived. A lost connection only costs time.
        Raises: AttachmentMissing: the server does not keep it any more. RequestTimeout, RequestFailed, Closed.
        """

        async def get(frame: frames.GetAttachment) -> frames.AttachmentPiece:
            return await self._call(frame.request_id, frame, frames.AttachmentPiece)

        try:
            return await fetch(named, get, progress=progress)
        except RequestFailed as error:
            if error.code == ErrorCode.INVALID_FRAME and not self._session.takes_files:  # it does not know the action
                raise request_failed(ErrorCode.FORBIDDEN, NO_FILES) from error
            raise

    async def rename(self, conversation: str, title: str) -> frames.Conversation:
        """Give a conversation a title of at most 200 characters."""
        return await self._update(
            frames.UpdateConversation(request_id=_id(), conversation_id=conversation, title=title)
        )

    async def delete(self, conversation: str) -> frames.Conversation:
        """Delete a conversation; `restore` brings it back."""
        return await self._update(
            frames.UpdateConversation(request_id=_id(), conversation_id=conversation, deleted=True)
        )

    async def restore(self, conversation: str) -> frames.Conversation:
        """Bring a deleted conversation back."""
        return await self._update(
            frames.UpdateConversation(request_id=_id(), conversation_id=conversation, deleted=False)
        )

    async def budget(self) -> frames.BudgetInfo | None:
        """How the user's budget stands now; None: there is none, or the server knows no budgets."""
        if "budgets" not in self._session.features:
            return None
        frame = frames.GetBudget(request_id=_id())
        return (await self._call(frame.request_id, frame, frames.Budget)).budget

    # --- the connection ---------------------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """The connection's state now."""
        return self._state

    @property
    def limits(self) -> frames.ServerLimits | None:
        """What the server allows, once it has said so."""
        return self._session.limits

    @property
    def server(self) -> frames.ServerInfo | None:
        """Which server this is, once it has said so; an old one never does."""
        return self._session.server

    @property
    def wanted_version(self) -> str | None:
        """The least version of this package that the server likes to see, if this one is lower."""
        return versions.wanted(self._session.server)

    def model_info(self, name: str | None = None) -> frames.ModelInfo:
        """What the server has said of a model (None: its default), once the client is connected."""
        return self._session.model_info(name)

    async def states(self) -> AsyncIterator[ConnectionState]:
        """The state now and each one after it, until `Stopped`. A slow reader misses the oldest."""
        queue: deque[ConnectionState] = deque([self._state], maxlen=_STATES_KEPT)
        news = asyncio.Event()
        self._state_queues.append((queue, news))
        try:
            while True:
                while queue:
                    state = queue.popleft()
                    yield state
                    if isinstance(state, Stopped):
                        return
                news.clear()
                await news.wait()
        finally:
            self._state_queues.remove((queue, news))

    async def ping(self) -> float:
        """The round trip to the server and back, in seconds. Raises: RequestTimeout, Closed, SessionReplaced."""
        return await self._call(_id(), frames.Ping(), float)

    def reconnect_now(self) -> None:
        """The network changed or came back: try at once instead of waiting."""
        self._check_loop()
        self._driver.reconnect_now()

    # --- inside -----------------------------------------------------------------------------------------

    def _timeouts(
        self, frame: frames.SendMessage, silence_s: float | None = None, total_s: float | None = None
    ) -> Timeouts:
        total_s = self._request_timeout_s if total_s is None else total_s
        return timeouts(frame, self._session, self._timing, silence_s=silence_s, total_s=total_s)

    def _begin(self, frame: frames.SendMessage, limit: Timeouts, files: Sequence[File]) -> AnswerStream:
        self._check_loop()
        effects = self._session.ask(frame, limit, now=self._driver.now)
        stream = self._new_stream(frame.request_id)
        paths = tuple(file.path for file in files)
        if files:
            self._uploads.add(frame.request_id, paths, files)
        if self._outbox is not None:
            try:
                self._outbox.save(PendingRequest(frame=frame, paths=paths))
            except BaseException:
                self._abandon(frame.request_id)
                raise
        self._driver.carry_out(effects)
        return stream

    def _resume(self, pending: PendingRequest) -> AnswerStream:
        stream = self._new_stream(pending.frame.request_id)
        limit = replace(self._timeouts(pending.frame), from_call=False)  # the app may start offline
        effects = self._session.restore(pending, limit, now=self._driver.now)
        if pending.frame.attachments:
            self._uploads.add(pending.frame.request_id, pending.paths)
        self._driver.carry_out(effects)
        return stream

    def _new_stream(self, request_id: str) -> AnswerStream:
        stream = AnswerStream(request_id, cancel=self.cancel, abandon=self._abandon)
        self._streams[request_id] = stream
        return stream

    def _abandon(self, request_id: str) -> None:
        self._driver.carry_out(self._session.abandon(request_id, now=self._driver.now))

    async def _update(self, frame: frames.UpdateConversation) -> frames.Conversation:
        return await self._call(frame.request_id, frame, frames.Conversation)

    def _check_loop(self) -> None:
        """Raises: RuntimeError: not open, or another event loop, in which nothing of this client runs."""
        if self._loop is None:
            raise RuntimeError("the client is not open; use it as `async with Client(…) as app:`")
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("the client was opened in another event loop; open a new Client in this one")

    async def _call(self, request_id: str, frame: CallFrame | frames.Ping, kind: type[ReplyT]) -> ReplyT:
        self._check_loop()
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        timeout_s = self._timing.call_timeout_s
        effects = self._session.call(request_id, frame, timeout_s=timeout_s, now=self._driver.now)
        self._replies[request_id] = future
        self._driver.carry_out(effects)
        try:
            reply = await future
        finally:
            self._replies.pop(request_id, None)
            self._session.drop_call(request_id)
        if not isinstance(reply, kind):
            raise ProtocolViolation(request_id, "the answer is of another kind")
        return reply

    async def _put(self, piece: frames.PutPiece) -> frames.UploadState:
        return await self._call(piece.request_id, piece, frames.UploadState)

    def _show(self, request_id: str, event: Event) -> None:
        if (stream := self._streams.get(request_id)) is not None:
            stream.push(event)

    def _note_accepted(self, request_id: str) -> None:
        pending = self._session.exported(request_id)
        if self._outbox is None or pending is None:
            return
        try:
            self._outbox.save(self._uploads.with_paths(pending))
        except Exception:
            log.exception("the outbox could not note that %s was accepted", request_id)

    def _on_effect(self, effect: AppEffect) -> None:
        match effect:
            case Show() | WatchHeld() | WatchFailed():
                self._watches.on_effect(effect)
            case FilesWanted(request_id):
                self._uploads.start(request_id)
            case Emit(request_id, event):
                if isinstance(event, Queued | Started):
                    self._uploads.accepted(request_id)
                    self._note_accepted(request_id)
                if isinstance(event, Done):
                    self._end(request_id, event.answer)
                else:
                    self._show(request_id, event)
            case Fail(request_id, error, is_final):
                self._end(request_id, error, is_final=is_final)
            case Reply(request_id, frame):
                self._settle(request_id, frame)
            case RoundTrip(request_id, seconds):
                self._settle(request_id, seconds)
            case ReplyFailed(request_id, error):
                future = self._replies.get(request_id)
                if future is not None and not future.done():
                    future.set_exception(error)

    def _end(self, request_id: str, outcome: Answer | AnswerbackError, *, is_final: bool = True) -> None:
        """Show an ending, stored if it is final (rule: an ending is stored and shown together)."""
        if self._outbox is not None and is_final:
            try:
                self._outbox.ended(request_id, outcome)
            except Exception:
                log.exception("the outbox could not keep the ending of %s; it is shown all the same", request_id)
        self._uploads.drop(request_id)
        stream = self._streams.pop(request_id, None)
        if stream is None:
            return
        if isinstance(outcome, Answer):
            stream.push(Done(outcome))
        else:
            stream.fail(outcome)

    def _settle(self, request_id: str, value: object) -> None:
        future = self._replies.get(request_id)
        if future is not None and not future.done():
            future.set_result(value)

    def _on_state(self, state: ConnectionState) -> None:
        self._state = state
        for queue, news in self._state_queues:
            queue.append(state)
            news.set()
        if self._listener is not None:
            try:
                self._listener(state)
            except Exception:
                log.exception("on_state failed")


def _id() -> str:
    return str(uuid.uuid4())
