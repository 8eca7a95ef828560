"""One account at work: its client, its store, the answers that come in, and the sync."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from answerback.client import (
    AnswerbackError,
    AnswerStream,
    Client,
    Closed,
    Connected,
    ConnectionState,
    Done,
    MessageTooLarge,
    PendingRequest,
    RequestCancelled,
    SessionReplaced,
    Timing,
)
from answerback.client.events import Answer
from answerback.client.tokens import Token
from answerback.core.answer import clean
from answerback.desktop.engine.commands import ExportFormat
from answerback.desktop.engine.events import (
    AccountOpened,
    ConnectionChanged,
    ConnectionReason,
    ConnectionStatus,
    ConversationsChanged,
    DraftReturned,
    Event,
    Exported,
    NoticeCode,
    NoticeRaised,
    RoundTripMeasured,
    SearchFound,
    TurnChanged,
    TurnsLoaded,
    TurnsRemoved,
)
from answerback.desktop.engine.export import exported, file_name
from answerback.desktop.engine.live import LiveAnswer
from answerback.desktop.engine.outbox import StoredOutbox
from answerback.desktop.engine.status import ConnectionTracker
from answerback.desktop.engine.sync import Sync
from answerback.desktop.records import Account, Conversation, Turn, TurnStatus
from answerback.desktop.settings import Settings
from answerback.desktop.store.database import Database, StoreError
from answerback.desktop.store.history import HistoryStore, TurnMerge
from answerback.desktop.store.store import AccountStore, Supersession
from answerback.protocol.frames import SendMessage, Status

log = logging.getLogger("answerback.desktop")

WAIT_S: Final = 7 * 24 * 3600.0
"""A question waits in the outbox for as long as the server keeps its records; giving up is the person's."""
SILENCE_S: Final = 180.0
"""More than the server gives an answer, so that the server's own ending is what is shown."""
FLUSH_S: Final = 0.5
PING_S: Final = 30.0
HITS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How the client shows who it is."""

    user: str | None = None
    token: Token | None = None


@dataclass(slots=True, kw_only=True)
class _Unwritten:
    """What is written down soon."""

    drafts: dict[str, str] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


class AccountEngine:
    """Lives in the engine's loop. `open`, then commands, then `close`."""

    def __init__(
        self,
        account: Account,
        database: Database,
        credentials: Credentials,
        *,
        emit: Callable[[Event], None],
        clock: Callable[[], int],
        settings: Callable[[], Settings],
        timing: Timing,
    ) -> None:
        self.account = account
        self._database = database
        self._credentials = credentials
        self._emit = emit
        self._clock = clock
        self._settings = settings
        self._timing = timing
        self._store = AccountStore(database)
        self._history = HistoryStore(database)
        self.tracker = ConnectionTracker(clock)
        self._client: Client | None = None
        self._sync: Sync | None = None
        self._live: dict[str, LiveAnswer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unwritten = _Unwritten()
        self._shown: str | None = None
        self._oldest: dict[str, tuple[bool, int, str] | None] = {}
        self._is_store_broken = False
        self._outbox = StoredOutbox(
            self._store,
            clock=clock,
            so_far=self._so_far,
            is_seen=self.is_seen,
            on_asked=self._asked,
            on_ended=self._ended,
        )

    # --- life -----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Tell what is stored, and begin to connect. Raises: StoreError."""
        self._emit(
            AccountOpened(
                account=self.account,
                conversations=self._store.conversations(),
                pending=self._store.pending(),
                drafts=self._store.drafts(),
            )
        )
        if self._database.moved_aside is not None:
            self._notice(NoticeCode.STORE_MOVED_ASIDE, path=str(self._database.moved_aside))
        self._connect()

    async def close(self) -> None:
        """Write everything down. Running answers go on at the server."""
        await self._disconnect()
        self._flush()
        self._database.close()

    def reconnect(self) -> None:
        """Try at once; a client that was stopped is made anew."""
        if self._client is not None:
            self._client.reconnect_now()
        else:
            self._connect()

    def refresh(self) -> None:
        """Look at the server."""
        if self._sync is not None:
            self._sync.wish()

    async def sign_out(self) -> None:
        """Stop the client: there is no token any more."""
        await self._disconnect()
        self._emit(ConnectionChanged(status=ConnectionStatus.SIGNED_OUT, reason=ConnectionReason.SIGN_IN_NEEDED))

    def _connect(self) -> None:
        try:
            client = Client(
                self.account.server_url,
                token=self._credentials.token,
                user=self._credentials.user,
                session=self._store.session_id(),
                offline_start=True,
                outbox=self._outbox,
                on_state=self._state_changed,
                timing=self._timing,
            )
        except ValueError:
            self._emit(ConnectionChanged(status=ConnectionStatus.STOPPED, reason=ConnectionReason.BAD_URL))
            return
        self._client = client
        self._sync = Sync(
            client,
            store=self._store,
            history=self._history,
            watcher=self,
            clock=self._clock,
            is_online=lambda: self._client is client and isinstance(client.state, Connected),
        )
        self._spawn(self._run(client, self._sync), "account")

    async def _run(self, client: Client, sync: Sync) -> None:
        await client.open()
        for stream in client.restored:
            turn = self._store.turn(stream.request_id)
            if turn is not None and not turn.status.is_over:
                self._follow(turn, stream)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sync.run())
            tasks.create_task(self._measure(client))

    async def _disconnect(self) -> None:
        client, self._client, self._sync = self._client, None, None
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if client is not None:
            await client.aclose()
        self._write_answers()
        self._live.clear()

    async def _measure(self, client: Client) -> None:
        """The round trip, now and then while online."""
        async for state in client.states():
            while isinstance(state, Connected) and client.state is state:
                try:
                    self._emit(RoundTripMeasured(await client.ping() * 1000))
                except AnswerbackError:
                    break
                await asyncio.sleep(PING_S)

    def _state_changed(self, state: ConnectionState) -> None:
        if self._client is None:
            return
        changed = self.tracker.changed(state, self._client.limits)
        if isinstance(state, Connected) and not self._is_ours(state.user_id):
            changed = ConnectionChanged(status=ConnectionStatus.STOPPED, reason=ConnectionReason.USER_MISMATCH)
            self._spawn(self._leave(), "leave")
        elif changed.status in (ConnectionStatus.STOPPED, ConnectionStatus.SIGNED_OUT):
            self._spawn(self._leave(), "leave")
        elif changed.status is ConnectionStatus.ONLINE and self._sync is not None:
            self._sync.wish()
        self._emit(changed)

    async def _leave(self) -> None:
        """The client is of no use any more; `reconnect` makes another."""
        await self._disconnect_but(asyncio.current_task())

    async def _disconnect_but(self, this: asyncio.Task[None] | None) -> None:
        if this is not None:
            self._tasks.discard(this)
        await self._disconnect()

    def _is_ours(self, user_id: str) -> bool:
        try:
            return self._store.claim_user(user_id)
        except StoreError:
            self.store_failed()
            return True

    # --- questions ------------------------------------------------------------------------------------------

    def ask(self, conversation_id: str, request_id: str, text: str, *, replaces: str | None) -> None:
        """See `Commands.ask`. A question that cannot be kept goes back into the draft."""
        settings = self._settings()
        text = clean(text)
        if not text.strip():
            return
        try:
            stream = self._begin(conversation_id, request_id, text, replaces, settings)
        except MessageTooLarge as exc:
            self._give_back(conversation_id, text)
            self._notice(
                NoticeCode.MESSAGE_TOO_LARGE, size_bytes=exc.size_bytes, limit_bytes=exc.limit_bytes or exc.size_bytes
            )
        except StoreError:
            self._give_back(conversation_id, text)
            self.store_failed()
        except ValueError:
            log.exception("a question was refused")
            self._give_back(conversation_id, text)
        else:
            turn = self._store.turn(request_id)
            if stream is not None and turn is not None and not turn.status.is_over:
                self._follow(turn, stream)

    def _begin(
        self, conversation_id: str, request_id: str, text: str, replaces: str | None, settings: Settings
    ) -> AnswerStream | None:
        """None: there is no client now; the outbox has it."""
        system = clean(settings.system) if settings.system and settings.system.strip() else None
        if self._client is not None:
            try:
                return self._client.stream(
                    text,
                    conversation=conversation_id,
                    model=settings.model,
                    system=system,
                    max_tokens=settings.max_tokens,
                    replaces=replaces,
                    request_id=request_id,
                    total_timeout=WAIT_S,
                )
            except (Closed, SessionReplaced):
                pass
            except AnswerbackError as exc:
                if isinstance(exc, MessageTooLarge):
                    raise
                log.info("the client takes no question: %s", exc.code)
        frame = SendMessage(
            request_id=request_id,
            message=text,
            stream=True,
            conversation_id=conversation_id,
            model=settings.model,
            system=system,
            max_tokens=settings.max_tokens,
            replaces=replaces,
        )
        self._outbox.save(PendingRequest(frame=frame))
        return None

    def stop(self, request_id: str) -> None:
        """See `Commands.stop`. Without a client, only what the server never took can be stopped here."""
        if self._client is not None:
            self._client.cancel(request_id)
            return
        turn = self._store.turn(request_id)
        if turn is not None and turn.status is TurnStatus.OUTBOX:
            answer = Answer(text="", request_id=request_id, status=Status.CANCELLED, attempt=0)
            self._outbox.ended(request_id, RequestCancelled(answer))

    def forget_turn(self, request_id: str) -> None:
        """See `Commands.forget_turn`."""
        turn = self._store.turn(request_id)
        if turn is not None and self._store.forget_turn(request_id):
            self._emit(TurnsRemoved(conversation_id=turn.conversation_id, request_ids=(request_id,)))

    def _follow(self, turn: Turn, stream: AnswerStream) -> None:
        self._live[turn.request_id] = LiveAnswer(turn)
        self._spawn(self._read(stream), f"answer-{turn.request_id}")

    async def _read(self, stream: AnswerStream) -> None:
        """What comes until the ending; the ending itself comes by way of the outbox."""
        try:
            async for event in stream.events():
                live = self._live.get(stream.request_id)
                if live is None or isinstance(event, Done):
                    return
                shown = live.receive(event)
                if shown is not None:
                    self._emit(shown)
                    self._write_soon()
        except AnswerbackError:
            pass  # told by the outbox, or only this client's end

    def _asked(self, turn: Turn, conversation: Conversation | None, replaced: Sequence[str]) -> None:
        if conversation is not None:
            self._emit(ConversationsChanged(changed=(conversation,)))
        self._oldest.setdefault(turn.conversation_id, _BEFORE_ALL)
        if replaced:
            self._emit(TurnsRemoved(conversation_id=turn.conversation_id, request_ids=tuple(replaced)))
        self._emit(TurnChanged(turn))

    def _ended(self, turn: Turn, supersession: Supersession) -> None:
        self._live.pop(turn.request_id, None)
        self._emit(TurnChanged(turn))
        for returned in supersession.returned:
            self._emit(TurnChanged(returned))
        if supersession.removed:
            self._emit(TurnsRemoved(conversation_id=turn.conversation_id, request_ids=supersession.removed))
        self.conversations_changed([turn.conversation_id])

    def _so_far(self, request_id: str) -> Turn | None:
        live = self._live.get(request_id)
        return None if live is None else live.turn

    def _give_back(self, conversation_id: str, text: str) -> None:
        self._emit(DraftReturned(conversation_id=conversation_id, text=text))

    # --- conversations --------------------------------------------------------------------------------------

    def open_conversation(self, conversation_id: str) -> None:
        """See `Commands.open_conversation`."""
        self._tell_page(conversation_id)
        if self._sync is not None:
            self._sync.wish(conversation_id)

    def load_more(self, conversation_id: str, before_request_id: str) -> None:
        """See `Commands.load_more`."""
        page = self._store.page(conversation_id, before=before_request_id)
        if page.turns:
            self._oldest[conversation_id] = page.turns[0].order
        self._emit(TurnsLoaded(conversation_id=conversation_id, turns=page.turns, has_more=page.has_more))

    def show(self, conversation_id: str | None) -> None:
        """See `Commands.show`."""
        self._shown = conversation_id
        if conversation_id is not None and self._store.mark_read(conversation_id):
            self.conversations_changed([conversation_id])

    def save_draft(self, conversation_id: str, text: str) -> None:
        """See `Commands.save_draft`."""
        self._unwritten.drafts[conversation_id] = clean(text)
        self._write_soon()

    def rename(self, conversation_id: str, title: str) -> None:
        """See `Commands.rename`."""
        self._store.rename(conversation_id, clean(title), now_ms=self._clock())
        self.conversations_changed([conversation_id])
        self.refresh()

    def delete(self, conversation_id: str) -> None:
        """See `Commands.delete`."""
        self._unwritten.drafts.pop(conversation_id, None)
        if not self._store.delete(conversation_id, now_ms=self._clock()):
            self._store.save_draft(conversation_id, "")
        self._oldest.pop(conversation_id, None)
        self._emit(ConversationsChanged(removed=(conversation_id,)))
        self.refresh()

    def undo_delete(self, conversation_id: str) -> None:
        """See `Commands.undo_delete`."""
        if self._store.undelete(conversation_id):
            self.conversations_changed([conversation_id])
            for turn in self._store.pending():
                if turn.conversation_id == conversation_id:
                    self._emit(TurnChanged(self._so_far(turn.request_id) or turn))
        elif self._client is not None:
            self._spawn(self._restore(self._client, conversation_id), "restore")

    async def _restore(self, client: Client, conversation_id: str) -> None:
        try:
            await client.restore(conversation_id)
        except AnswerbackError:
            self._notice(NoticeCode.CONVERSATION_GONE, conversation_id=conversation_id)
        self.refresh()

    def search(self, query: str) -> None:
        """See `Commands.search`."""
        self._emit(SearchFound(query=query, hits=self._store.search(clean(query), limit=HITS)))

    def export(self, conversation_id: str, form: ExportFormat) -> None:
        """See `Commands.export`."""
        conversation = self._store.conversation(conversation_id)
        if conversation is not None:
            turns = self._with_live(self._store.page(conversation_id, limit=None).turns)
            self._emit(
                Exported(
                    conversation_id=conversation_id,
                    text=exported(conversation, turns, form),
                    file_name=file_name(conversation, form),
                )
            )

    def _tell_page(self, conversation_id: str) -> None:
        page = self._store.page(conversation_id)
        known = self._oldest.get(conversation_id)
        if page.turns:
            self._oldest[conversation_id] = min(page.turns[0].order, known or page.turns[0].order)
        else:
            self._oldest.setdefault(conversation_id, None)
        turns = self._with_live(page.turns)
        self._emit(TurnsLoaded(conversation_id=conversation_id, turns=turns, has_more=page.has_more))

    def _with_live(self, turns: Iterable[Turn]) -> tuple[Turn, ...]:
        return tuple(self._so_far(turn.request_id) or turn for turn in turns)

    # --- what the sync tells (`Watcher`) ----------------------------------------------------------------------

    def conversations_changed(self, conversation_ids: Iterable[str]) -> None:
        """Tell how they are now."""
        found = [self._store.conversation(conversation_id) for conversation_id in conversation_ids]
        changed = tuple(conversation for conversation in found if conversation is not None)
        if changed:
            self._emit(ConversationsChanged(changed=changed))

    def conversation_gone(self, conversation_id: str, *, is_kept: bool) -> None:
        """Deleted elsewhere."""
        if is_kept:
            self.conversations_changed([conversation_id])
        else:
            self._oldest.pop(conversation_id, None)
            self._emit(ConversationsChanged(removed=(conversation_id,)))

    def turns_merged(self, conversation_id: str, merge: TurnMerge) -> None:
        """Tell what lies in the part that is loaded, and whether there is more before it."""
        if conversation_id not in self._oldest:
            return
        oldest = self._oldest[conversation_id]
        if oldest is None:
            self._tell_page(conversation_id)
            return
        if merge.removed:
            self._emit(TurnsRemoved(conversation_id=conversation_id, request_ids=tuple(merge.removed)))
        for turn in merge.changed:
            if turn.order >= oldest:
                self._emit(TurnChanged(turn))
        if any(turn.order < oldest for turn in merge.changed):
            self._emit(TurnsLoaded(conversation_id=conversation_id, turns=(), has_more=True))

    def is_seen(self, conversation_id: str) -> bool:
        """Whether the person looks at it."""
        return conversation_id == self._shown

    def update_failed(self, conversation_id: str) -> None:
        """A rename or deletion is refused."""
        self._notice(NoticeCode.UPDATE_FAILED, conversation_id=conversation_id)

    # --- writing soon ---------------------------------------------------------------------------------------

    def _write_soon(self) -> None:
        if self._unwritten.timer is None:
            self._unwritten.timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        """Drafts, and the text so far of answers: after a crash they are as old as `FLUSH_S`."""
        if self._unwritten.timer is not None:
            self._unwritten.timer.cancel()
            self._unwritten.timer = None
        drafts, self._unwritten.drafts = self._unwritten.drafts, {}
        try:
            for conversation_id, text in drafts.items():
                self._store.save_draft(conversation_id, text)
            self._is_store_broken = False
        except StoreError:
            self._unwritten.drafts = {**drafts, **self._unwritten.drafts}
            self.store_failed()
        self._write_answers()

    def _write_answers(self) -> None:
        try:
            for request_id, live in self._live.items():
                if live.is_unsaved:
                    turn = live.turn
                    self._store.save_partial(request_id, attempt=turn.attempt, text=turn.answer, status=turn.status)
                    live.is_unsaved = False
        except StoreError:
            self.store_failed()

    def store_failed(self) -> None:
        """Said once, until it works again."""
        if not self._is_store_broken:
            self._is_store_broken = True
            log.error("the local store cannot be written", exc_info=True)
            self._notice(NoticeCode.STORE_FAILED)

    def _notice(self, code: NoticeCode, **facts: str | int) -> None:
        self._emit(NoticeRaised(code=code, facts=facts))

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)


_BEFORE_ALL: Final = (False, -1, "")
"""Of a conversation that was begun here: all of it is loaded."""
