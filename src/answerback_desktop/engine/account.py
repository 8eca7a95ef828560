"""Runs one open account: its client, its store, its running answers, and the sync."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from answerback import __version__
from answerback.client import (
    AnswerbackError,
    Attachment,
    AttachmentMissing,
    Client,
    Closed,
    Connected,
    ConnectionState,
    File,
    Stopped,
    StoreChanged,
    Token,
    clean,
)
from answerback.tasks import Tasks
from answerback_desktop.engine.answers import Answers, own_files
from answerback_desktop.engine.devices import Devices
from answerback_desktop.engine.events import (
    AccountOpened,
    BudgetRead,
    ConnectionChanged,
    ConnectionReason,
    ConnectionStatus,
    ConversationsChanged,
    DraftReturned,
    Exported,
    FileFetched,
    NoticeCode,
    NoticeRaised,
    RoundTripMeasured,
    SearchFound,
    TraitsChanged,
    TurnChanged,
)
from answerback_desktop.engine.export import ExportFormat, Kept, exported, file_name, imported
from answerback_desktop.engine.pages import Pages
from answerback_desktop.engine.status import ConnectionTracker
from answerback_desktop.engine.sync import Sync
from answerback_desktop.records import Account, Conversation, Traits, Turn
from answerback_desktop.signin.session import TokenSource
from answerback_desktop.store.files import AccountFiles, FileCopies, FileGone, keep_copy
from answerback_desktop.store.history import HistoryStore, TurnMerge
from answerback_desktop.store.schema import Database, StoreError
from answerback_desktop.store.store import AccountStore

if TYPE_CHECKING:
    from answerback_desktop.engine.session_controller import SessionController

log = logging.getLogger("answerback.desktop")

FLUSH_S: Final = 0.5
PING_S: Final = 30.0
HITS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """An account, and how the client shows who it is."""

    account: Account
    user: str | None = None
    token: Token | None = None

    @property
    def token_source(self) -> TokenSource | None:
        """Of a person who is signed in."""
        return self.token if isinstance(self.token, TokenSource) else None


@dataclass(slots=True, kw_only=True)
class _Unwritten:
    """Changes that are written to the store soon."""

    drafts: dict[str, str] = field(default_factory=dict)
    edits: dict[tuple[str, str], str] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


class AccountEngine:
    """The open account: its store, client, answers and sync, in the engine's loop.

    Call `open`, then commands, then `close`. What its parts share of it is public.
    """

    def __init__(self, controller: "SessionController", login: Login, database: Database, files: AccountFiles) -> None:
        self._controller = controller
        self._login = login
        self._files = files
        self.account = login.account
        self.database = database
        self.store = AccountStore(database)
        self.history = HistoryStore(database)
        self.copies = FileCopies(database.path)
        self.emit = controller.emit
        self.clock = controller.environment.clock
        self.tracker = ConnectionTracker(self.clock)
        self._traits: dict[str, Traits] = {}
        self._client: Client | None = None
        self._sync: Sync | None = None
        self._devices: Devices | None = None
        self._open: str | None = None
        self._tasks = Tasks()
        self._unwritten = _Unwritten()
        self._shown: str | None = None
        self._is_store_broken = False
        self._has_budget = False
        self._logged = ""
        self._least_told = ""
        self._answers = Answers(self)
        self._pages = Pages(self.store, self.emit, self._answers.so_far)

    # --- life -----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Emit what is stored, and begin to connect. Raises: StoreError."""
        self._traits = self.store.traits()
        self.emit(
            AccountOpened(
                account=self.account,
                conversations=self.store.conversations(),
                pending=self.store.pending(),
                drafts=self.store.drafts(),
                edits=self.store.edits(),
                traits=dict(self._traits),
                kept=self._files.kept(self.database.path),
            )
        )
        if self.database.moved_aside is not None:
            self._notice(NoticeCode.STORE_MOVED_ASIDE, path=str(self.database.moved_aside))
        self._sweep_copies()
        self._connect()

    async def close(self) -> None:
        """Write everything down. Running answers go on at the server."""
        await self._disconnect()
        self.write_down()
        self._sweep_copies()
        self.database.close()

    def _sweep_copies(self) -> None:
        """Files of conversations that were deleted go with them; nothing is lost if that fails once."""
        try:
            self.copies.sweep(self.store.attached())
        except StoreError:
            log.warning("copies of files that no question names could not be deleted", exc_info=True)

    def reconnect(self) -> None:
        """Retry at once; a client that was stopped is replaced."""
        if self._client is not None:
            self._client.reconnect_now()
        else:
            self._connect()

    def refresh(self) -> None:
        """Poll for changes of other devices: the window has got the focus."""
        if self._sync is not None:
            self._sync.request()

    async def sign_out(self) -> None:
        """Stop the client: there is no token any more."""
        await self._disconnect()
        self.emit(ConnectionChanged(status=ConnectionStatus.SIGNED_OUT, reason=ConnectionReason.SIGN_IN_NEEDED))

    @property
    def conversations(self) -> int:
        """How many there are."""
        return len(self.store.conversations())

    @property
    def may_start_gateway(self) -> bool:
        """Whether the app's own gateway may serve these conversations: another server's are not there."""
        return not self.account.is_kept and self.store.is_of_own_gateway()

    def _connect(self) -> None:
        if self.account.is_kept:
            self.emit(ConnectionChanged(status=ConnectionStatus.STOPPED, reason=ConnectionReason.KEPT))
            return
        try:
            client = Client(
                self.account.server_url,
                token=self._login.token,
                user=self._login.user,
                session=self.store.session_id(),
                offline_start=True,
                store=self.store.store_id(),
                outbox=self._answers,
                on_state=self._state_changed,
                timing=self._controller.environment.timing,
            )
        except ValueError:
            self.emit(ConnectionChanged(status=ConnectionStatus.STOPPED, reason=ConnectionReason.BAD_URL))
            return
        self._client = client
        self._sync = Sync(client, self)
        self._devices = Devices(client, self._sync, self)
        self._watch_open()
        self._tasks.start(self._run(client, self._sync), name="account")

    async def _run(self, client: Client, sync: Sync) -> None:
        await client.open()
        for stream in client.restored:
            self._answers.follow(stream)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sync.run())
            tasks.create_task(self._measure(client))

    async def _disconnect(self) -> None:
        client, self._client, self._sync = self._client, None, None
        devices, self._devices = self._devices, None
        await self._tasks.settle(grace_s=0)
        if devices is not None:
            await devices.close()
        try:
            await self._answers.close()
        except StoreError as exc:
            self.store_failed(exc)
        if client is not None:
            await client.aclose()

    async def _measure(self, client: Client) -> None:
        """Measure the round trip now and then while online."""
        async for state in client.states():
            if isinstance(state, Connected):
                await self._read_budget(client)
            while isinstance(state, Connected) and client.state is state:
                try:
                    self.emit(RoundTripMeasured(await client.ping() * 1000))
                except AnswerbackError:
                    break
                await asyncio.sleep(PING_S)

    async def _read_budget(self, client: Client) -> None:
        """It changes with every question; who has none is asked for it at the next connection only."""
        try:
            budget = await client.budget()
        except AnswerbackError:
            return
        self._has_budget = budget is not None
        self.emit(BudgetRead(budget))

    def _state_changed(self, state: ConnectionState) -> None:
        if self._client is None:
            return
        if (other := self._other_store(state, self._client)) is not None:
            self._tasks.start(self._disconnect(), name="disconnect")
            self._controller.store_changed(self._login, self._files, other)
            return
        changed = self.tracker.changed(state, self._client.limits, self._client.model_info)
        if isinstance(state, Connected) and not self._is_ours(state.user_id):
            changed = ConnectionChanged(status=ConnectionStatus.STOPPED, reason=ConnectionReason.USER_MISMATCH)
            self._tasks.start(self._disconnect(), name="disconnect")
        elif changed.status in (ConnectionStatus.STOPPED, ConnectionStatus.SIGNED_OUT):
            self._tasks.start(self._disconnect(), name="disconnect")
        elif changed.status is ConnectionStatus.ONLINE and self._sync is not None:
            self._sync.connected()
            if self._devices is not None:
                self._devices.connected()
            self._check_version(self._client.wanted_version)
        if changed.detail and changed.detail != self._logged:
            log.warning("not connected to %s: %s", urlsplit(self.account.server_url).hostname, changed.detail)
        self._logged = changed.detail
        self.emit(changed)

    def _other_store(self, state: ConnectionState, client: Client) -> str | None:
        """The server's store, if this data is not of it; if it is, that is recorded."""
        if isinstance(state, Stopped) and isinstance(state.error, StoreChanged):
            return state.error.store_id
        store_id = None if client.server is None else client.server.store_id
        if not isinstance(state, Connected) or not store_id:
            return None
        try:
            if not self.store.store_id() and self._files.is_elsewhere(store_id, self.database.path):
                return store_id
            self.store.claim_store(store_id, is_own=self._controller.is_gateway_ours)
        except StoreError as exc:
            self.store_failed(exc)
        return None

    def _check_version(self, least: str | None) -> None:
        """Say once if the server wants apps of a higher version."""
        if least and least != self._least_told:
            self._least_told = least
            self._notice(NoticeCode.UPDATE_NEEDED, version=__version__, least=least)

    def _is_ours(self, user_id: str) -> bool:
        try:
            return self.store.claim_user(user_id)
        except StoreError as exc:
            self.store_failed(exc)
            return True

    # --- questions ------------------------------------------------------------------------------------------

    def ask(
        self,
        conversation_id: str,
        request_id: str,
        text: str,
        *,
        replaces: str | None,
        files: Sequence[File | Attachment],
    ) -> None:
        if self.account.is_kept:
            self.emit(DraftReturned(conversation_id=conversation_id, text=text, files=own_files(files)))
            return
        settings, traits = self._controller.settings, self._traits.get(conversation_id, Traits())
        if traits.model is not None:
            settings = msgspec.structs.replace(settings, model=traits.model)
        if traits.system is not None:
            settings = msgspec.structs.replace(settings, system=traits.system)
        self._answers.ask(
            self._client, conversation_id, request_id, text, replaces=replaces, files=files, settings=settings
        )

    def stop(self, request_id: str) -> None:
        """Stop a question; its ending follows."""
        if self._devices is None or not self._devices.stop(request_id):
            self._answers.stop(self._client, request_id)

    def forget_turn(self, request_id: str) -> None:
        """Remove a turn that failed and that the server never took."""
        self._answers.forget_turn(request_id)

    def begun(self, conversation_id: str) -> None:
        self._pages.begun(conversation_id)
        self._watch_open()

    def ended(self, conversation_id: str) -> None:
        self.conversations_changed([conversation_id])
        if self._sync is not None:
            self._sync.ended(conversation_id)
        if self._client is not None and self._has_budget:
            self._tasks.start(self._read_budget(self._client), name="budget")
        if self.store.conversation(conversation_id) is None:
            self.refresh()  # deleted here, and at the server only when nothing of it is under way

    # --- conversations --------------------------------------------------------------------------------------

    def open_conversation(self, conversation_id: str) -> None:
        """`TurnsLoaded` with the newest page follows; a poll of the server's history too."""
        self._pages.open(conversation_id)
        if self._devices is not None:
            self._devices.show(conversation_id)
        if self._sync is not None:
            self._sync.request(conversation_id)

    def load_more(self, conversation_id: str, before_request_id: str) -> None:
        """`TurnsLoaded` with the page before this turn follows."""
        self._pages.more(conversation_id, before_request_id)

    def show(self, conversation_id: str | None, *, is_seen: bool) -> None:
        """The conversation that is open in the window: what other devices ask there follows. None: none, or the window
        is hidden. `is_seen`: the person looks at it, so its answers are read.
        """
        self._open = conversation_id
        self._shown = conversation_id if is_seen else None
        if self._shown is not None and self.store.mark_read(self._shown):
            self.conversations_changed([self._shown])
        self._watch_open()

    def _watch_open(self) -> None:
        """Follow what other devices ask in the conversation that is open, once the server can know it."""
        if self._devices is not None:
            is_there = self._open is not None and self.store.conversation(self._open) is not None
            self._devices.open(self._open if is_there else None)

    def save_draft(self, conversation_id: str, text: str) -> None:
        """Keep what is typed; empty: nothing."""
        self._unwritten.drafts[conversation_id] = clean(text)
        self.write_soon()

    def save_edit(self, conversation_id: str, request_id: str, text: str) -> None:
        """Keep a question that was changed and not asked again; empty: nothing."""
        self._unwritten.edits[conversation_id, request_id] = clean(text)
        self.write_soon()

    def set_traits(self, conversation_id: str, traits: Traits) -> None:
        """Pin, archive, tag; give it a model and a system prompt. `TraitsChanged` follows."""
        self.store.save_traits(conversation_id, traits)
        self._traits[conversation_id] = traits
        self.emit(TraitsChanged(conversation_id=conversation_id, traits=traits))

    def settle_missing(self, *, keep: bool) -> None:
        """What the server has lost stays here for good, or goes."""
        if not keep:
            keep_copy(self.database, self.history.missing_turns())
        settled = self.history.settle_missing(keep=keep)
        if keep:
            self.conversations_changed(settled)
        else:
            self.emit(ConversationsChanged(removed=settled))

    def rename(self, conversation_id: str, title: str) -> None:
        """Give a conversation a title (cut to 200 characters); sent to the server when there is a connection."""
        self.store.rename(conversation_id, clean(title), now_ms=self.clock())
        self.conversations_changed([conversation_id])
        self.refresh()

    def delete(self, conversation_id: str) -> None:
        """Remove it from the list. The server deletes it when the time for an undo is over (`UNDO_S`)."""
        self._unwritten.drafts.pop(conversation_id, None)
        if not self.store.delete(conversation_id, now_ms=self.clock()):
            self.store.save_draft(conversation_id, "")
        self._pages.forget(conversation_id)
        self.emit(ConversationsChanged(removed=(conversation_id,)))
        self.refresh()

    def undo_delete(self, conversation_id: str) -> None:
        """Bring it back, here and at the server."""
        if self.store.undelete(conversation_id):
            self.conversations_changed([conversation_id])
            for turn in self.store.pending():
                if turn.conversation_id == conversation_id:
                    self.emit(TurnChanged(self._answers.so_far(turn.request_id) or turn))
        elif self._client is not None:
            self._tasks.start(self._restore(self._client, conversation_id), name="restore")

    async def _restore(self, client: Client, conversation_id: str) -> None:
        try:
            await client.restore(conversation_id)
        except AnswerbackError:
            self._notice(NoticeCode.CONVERSATION_GONE, conversation_id=conversation_id)
        self.refresh()

    def search(self, query: str) -> None:
        """`SearchFound` follows."""
        self.emit(SearchFound(query=query, hits=self.store.search(clean(query), limit=HITS)))

    def export(self, conversation_id: str | None, form: ExportFormat) -> None:
        """`Exported` follows. None: all conversations, with the earlier versions of their turns."""
        is_all = conversation_id is None
        found = self.store.conversations() if is_all else [self.store.conversation(conversation_id or "")]
        kept = []
        for one in found:
            if one is not None:
                page = self.store.page(one.conversation_id, limit=None)
                turns = self._pages.with_live(page.turns)
                if is_all:
                    turns = tuple(sorted((*page.versions, *turns), key=lambda turn: turn.order))
                traits = self._traits.get(one.conversation_id, Traits())
                kept.append(Kept(conversation=one, turns=turns, traits=traits))
        if kept or is_all:
            day = datetime.fromtimestamp(self.clock() / 1000).date()
            title = f"answerback {day}" if is_all else kept[0].conversation.title
            text = exported(kept, form, is_all=is_all)
            self.emit(Exported(conversation_id=conversation_id, text=text, file_name=file_name(title, form)))

    def fetch_file(self, named: Attachment) -> None:
        """`FileFetched` follows, from this computer or from the server; a notice says why not."""
        try:
            (file,) = self.copies.keep([named])
        except FileGone:
            self._tasks.start(self._fetch_file(named), name="file")
        else:
            self.emit(FileFetched(file))

    async def _fetch_file(self, named: Attachment) -> None:
        try:
            if self._client is None:
                raise Closed
            file = await self._client.attachment(named)
        except AttachmentMissing:
            self._notice(NoticeCode.FILE_LOST, name=named.name)
            return
        except AnswerbackError:
            self._notice(NoticeCode.FILE_UNREACHABLE, name=named.name)
            return
        self.emit(FileFetched(file))
        try:
            self.copies.keep([file])
        except StoreError as exc:
            self.store_failed(exc)

    def import_text(self, text: str, name: str) -> None:
        """Add what is not here of an export; what is here stays as it is."""
        try:
            kept = imported(text, now_ms=self.clock())
        except ValueError:
            self._notice(NoticeCode.IMPORT_FAILED, name=name)
            return
        turns = 0
        for one in kept:
            added = self.store.import_turns(one.conversation, one.turns)
            turns += len(added)
            conversation_id = one.conversation.conversation_id
            if conversation_id not in self._traits and one.traits != Traits():
                self.set_traits(conversation_id, one.traits)
            self.turns_merged(conversation_id, TurnMerge(changed=added))
        self.conversations_changed(one.conversation.conversation_id for one in kept)
        self._notice(NoticeCode.IMPORTED, count=len(kept), turns=turns)

    # --- what the sync reports -------------------------------------------------------------------------------

    def conversations_changed(self, conversation_ids: Iterable[str]) -> None:
        """Emit their present state."""
        found = [self.store.conversation(conversation_id) for conversation_id in conversation_ids]
        changed = tuple(conversation for conversation in found if conversation is not None)
        if changed:
            self.emit(ConversationsChanged(changed=changed))

    def conversation_gone(self, conversation: Conversation, *, is_kept: bool, is_news: bool) -> None:
        """Remove a conversation that another device deleted. `is_kept`: something of this app's own is still in it.

        `is_news`: the person was not told of it yet.
        """
        conversation_id = conversation.conversation_id
        if self._devices is not None:
            self._devices.gone(conversation_id)
        if is_news and conversation_id == self._open:
            self._notice(NoticeCode.DELETED_ELSEWHERE, conversation_id=conversation_id, title=conversation.title)
        if is_kept:
            self.conversations_changed([conversation_id])
        else:
            self._pages.forget(conversation_id)
            self.emit(ConversationsChanged(removed=(conversation_id,)))

    def turns_merged(self, conversation_id: str, merge: TurnMerge) -> None:
        """Emit the turns that are in the loaded part."""
        if self._devices is not None:
            self._devices.taken(merge.changed)
        self._pages.merged(conversation_id, merge)

    def turn_begun(self, turn: Turn) -> None:
        """Show a turn that another device has begun."""
        self._pages.shown(turn.conversation_id, turn.request_id)
        self.emit(TurnChanged(turn))

    def is_seen(self, conversation_id: str) -> bool:
        """Whether the person looks at it."""
        return conversation_id == self._shown

    @property
    def is_watched(self) -> bool:
        """Whether the person looks at any conversation."""
        return self._shown is not None

    def is_online_by(self, client: Client) -> bool:
        """Whether this client is the one in use, and connected."""
        return self._client is client and isinstance(client.state, Connected)

    def update_failed(self, conversation_id: str) -> None:
        """Report that the server refuses a rename or a deletion."""
        self._notice(NoticeCode.UPDATE_FAILED, conversation_id=conversation_id)

    # --- writing soon ---------------------------------------------------------------------------------------

    def write_soon(self) -> None:
        if self._unwritten.timer is None:
            self._unwritten.timer = asyncio.get_running_loop().call_later(FLUSH_S, self.write_down)

    def write_down(self) -> None:
        """Drafts, and the text so far of answers: after a crash they are as old as `FLUSH_S`."""
        if self._unwritten.timer is not None:
            self._unwritten.timer.cancel()
            self._unwritten.timer = None
        drafts, self._unwritten.drafts = self._unwritten.drafts, {}
        edits, self._unwritten.edits = self._unwritten.edits, {}
        try:
            for conversation_id, text in drafts.items():
                self.store.save_draft(conversation_id, text)
            drafts = {}
            for (conversation_id, request_id), text in edits.items():
                self.store.save_edit(conversation_id, request_id, text)
            edits = {}
            self._answers.write()
            self._is_store_broken = False
        except StoreError as exc:
            self._unwritten.drafts = {**drafts, **self._unwritten.drafts}
            self._unwritten.edits = {**edits, **self._unwritten.edits}
            self.store_failed(exc)

    def store_failed(self, error: StoreError, *, is_act: bool = False) -> None:
        """Logged once, until it works again; said once too, and after each act of a person that came to nothing."""
        is_new, self._is_store_broken = not self._is_store_broken, True
        if is_new:
            log.error("the local store cannot be written", exc_info=True)
        if is_new or is_act:
            self._notice(NoticeCode(f"store-{error.trouble}"))

    def _notice(self, code: NoticeCode, **facts: str | int) -> None:
        self.emit(NoticeRaised(code=code, facts=facts))
