"""The view model of the whole app."""

import uuid
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, assert_never

import msgspec

from answerback_desktop.engine.events import (
    AccountClosed,
    AccountOpened,
    BudgetRead,
    ConnectionChanged,
    ConversationsChanged,
    DraftReturned,
    EngineStopped,
    Event,
    Exported,
    FileFetched,
    GatewayChanged,
    GatewayStatus,
    LocalModelsFound,
    NoticeCode,
    NoticeRaised,
    RoundTripMeasured,
    SearchFound,
    SettingsChanged,
    SignInChanged,
    SignInStatus,
    TextAppended,
    TraitsChanged,
    TurnChanged,
    TurnsLoaded,
    TurnsRemoved,
)
from answerback_desktop.records import Account, KeptHistory, SearchHit
from answerback_desktop.settings import Field, Settings, problems
from answerback_desktop.viewmodels.changes import Changes
from answerback_desktop.viewmodels.connection import ConnectionViewModel
from answerback_desktop.viewmodels.conversation import ConversationViewModel

_NOTICES_KEPT = 50

if TYPE_CHECKING:
    from answerback_desktop.engine.engine import Engine


class AppViewModel:
    """Everything that a window shows. Lives in the UI's thread, and does no I/O: what a person does goes to `commands`.

    What needs nothing of what is shown, a widget tells `commands` itself.

    Feed it: `changes = app.apply(engine.drain())`, about 30 times a second. `notices` is taken from the left by the
    widgets. `conversations`: the list, pinned ones first, then last used first, begun ones before all; those in the
    archive are shown alone, by `show_archive`. `current` None: the empty state (no conversation at all is chosen).
    `other_store`: the notice that another server answers than before, until the person has chosen to go on.
    """

    def __init__(self, commands: "Engine") -> None:
        self.commands = commands
        self._by_id: dict[str, ConversationViewModel] = {}
        self.conversations: list[ConversationViewModel] = []
        self._is_shown = True
        self._is_visible = True
        self.connection = ConnectionViewModel()
        self.settings = Settings()
        self.locked: frozenset[str] = frozenset()
        self._models: tuple[str, ...] = ()
        self.account: Account | None = None
        self.kept: tuple[KeptHistory, ...] = ()
        self.shows_archive = False
        self.other_store: NoticeRaised | None = None
        self.sign_in = SignInChanged(status=SignInStatus.NOT_NEEDED)
        self.local_models: tuple[str, ...] = ()
        self.gateway = GatewayChanged(status=GatewayStatus.UNKNOWN)
        self.notices: deque[NoticeRaised] = deque(maxlen=_NOTICES_KEPT)
        self.current: ConversationViewModel | None = None
        self.search_query = ""
        self.search_result: SearchFound | None = None
        self.exported: Exported | FileFetched | None = None

    # --- conversations

    @property
    def missing(self) -> int:
        """Conversations that the server has lost, about which the person has not decided."""
        return sum(one.record is not None and one.record.is_missing for one in self._by_id.values())

    @property
    def is_kept(self) -> bool:
        """Whether conversations are shown that are kept of another server."""
        return self.account is not None and self.account.is_kept

    def show_archive(self, is_shown: bool) -> None:
        self.shows_archive = is_shown
        self._sort()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that can be chosen, the default first; the last ones known while offline."""
        return tuple(name for name in self.connection.models if not self._models or name in self._models)

    @property
    def model(self) -> str:
        """The model that a question is asked of now; empty: the server has not said which it has."""
        own = None if self.current is None else self.current.traits.model
        return own or self.settings.model or next(iter(self.connection.models), "")

    @property
    def file_kinds(self) -> tuple[str, ...]:
        """The kinds of files that may go with a question now: the server takes files, and the model these."""
        limits = self.connection.limits
        takes_files = limits is not None and limits.max_attachment_bytes is not None and not self.is_kept
        return self.connection.info_of(self.model).attachments if takes_files else ()

    @property
    def has_default_model(self) -> bool:
        """Whether the choice may be left to the server."""
        return not self._models

    @property
    def unread(self) -> int:
        return sum(conversation.unread for conversation in self._by_id.values())

    @property
    def pending(self) -> int:
        """Questions without an ending, in all conversations."""
        return sum(conversation.pending for conversation in self._by_id.values())

    @property
    def unsent(self) -> int:
        """Questions that the server has not taken yet, in all conversations."""
        return sum(conversation.unsent for conversation in self.conversations)

    def conversation(self, conversation_id: str) -> ConversationViewModel | None:
        return self._by_id.get(conversation_id)

    def new_conversation(self) -> ConversationViewModel:
        """Begin one and make it the current one. An empty one that is there already is used again."""
        for conversation in self._by_id.values():
            if conversation.record is None and not conversation.pending and not conversation.has_draft:
                self._choose(conversation)
                return conversation
        conversation = self._new(str(uuid.uuid4()))
        conversation.is_loaded = True
        self.show_archive(False)
        self._choose(conversation)
        return conversation

    def open(self, conversation_id: str) -> ConversationViewModel | None:
        conversation = self._by_id.get(conversation_id)
        if conversation is not None:
            self._choose(conversation)
        return conversation

    def set_shown(self, is_shown: bool, *, is_visible: bool) -> None:
        """Whether the window is in front, so that what comes in is read, and whether it is there at all."""
        was_shown = self._is_shown
        if (is_shown, is_visible) == (was_shown, self._is_visible):
            return
        self._is_shown, self._is_visible = is_shown, is_visible
        self._report_shown()
        if is_shown and not was_shown:
            self.commands.refresh()

    def search(self, query: str) -> None:
        """`search_result` follows for `search_query`; an empty one ends the search. `#tag` lists what has the tag."""
        self.search_query = query.strip()
        if self.search_query.startswith("#"):
            self.search_result = SearchFound(query=self.search_query, hits=tuple(self._tagged(self.search_query[1:])))
        elif self.search_query:
            self.commands.search(self.search_query)
        else:
            self.search_result = None

    def _tagged(self, start: str) -> Iterable[SearchHit]:
        for one in sorted(self._by_id.values(), key=lambda one: -(one.updated_at_ms or 0)):
            tag = next((tag for tag in one.traits.tags if tag.casefold().startswith(start.casefold())), None)
            if tag is not None:
                yield SearchHit(conversation_id=one.conversation_id, request_id=None, excerpt=one.title, marks=())

    # --- the rest

    def change_settings(self, settings: Settings) -> tuple[Field, ...]:
        """Let them hold. Returns the fields that are wrong; then nothing is changed."""
        wrong = problems(settings)
        if not wrong:
            self.commands.change_settings(settings)
        return wrong

    def use_local_model(self, name: str) -> None:
        """Let the app's own gateway answer with a model of the Ollama on this machine; empty: with the embedded one."""
        self.change_settings(msgspec.structs.replace(self.settings, local_model=name, model=None))

    # --- events

    def apply(self, events: Iterable[Event]) -> Changes:
        """Apply the engine's events, in order."""
        changes = Changes()
        for event in events:
            self._take(event, changes)
        if changes.list or changes.conversations:
            self._sort_if_needed(changes)
        changes.appended -= changes.turns
        return changes

    def _take(self, event: Event, changes: Changes) -> None:  # noqa: PLR0912, PLR0915 - one case an event
        match event:
            case TextAppended():
                if (conversation := self._by_id.get(event.conversation_id)) is not None:
                    conversation.take_text(event, changes)
            case TurnChanged(turn):
                self._get(turn.conversation_id, changes).take_turn(turn, changes)
            case TurnsLoaded():
                if (conversation := self._by_id.get(event.conversation_id)) is not None:
                    conversation.take_page(event, changes)
            case TurnsRemoved():
                if (conversation := self._by_id.get(event.conversation_id)) is not None:
                    conversation.remove_turns(event.request_ids, changes)
            case ConversationsChanged():
                self._take_conversations(event, changes)
            case TraitsChanged():
                self._get(event.conversation_id, changes).traits = event.traits
                changes.conversations.add(event.conversation_id)
            case DraftReturned():
                conversation = self._get(event.conversation_id, changes)
                conversation.set_draft("\n\n".join(text for text in (event.text, conversation.draft) if text))
                conversation.files = (*event.files, *conversation.files)
                changes.drafts.add(event.conversation_id)
            case ConnectionChanged() | RoundTripMeasured() | BudgetRead():
                self.connection.take(event)
                changes.connection = True
            case AccountOpened():
                self._open_account(event, changes)
            case AccountClosed():
                self._forget(changes)
            case SettingsChanged(settings):
                self.settings, self.locked, self._models = settings, event.locked, event.models
                self.connection.server_url = settings.server_url
                changes.settings = changes.connection = True
            case SignInChanged():
                self.sign_in = event
                changes.sign_in = True
            case GatewayChanged():
                self.gateway = event
                changes.gateway = True
            case LocalModelsFound(names):
                self.local_models = names
                changes.gateway = True
            case SearchFound():
                if event.query == self.search_query:
                    self.search_result = event
                    changes.search = True
            case Exported() | FileFetched():
                self.exported = event
                changes.exported = True
            case NoticeRaised():
                if event.code is NoticeCode.OTHER_STORE:
                    self.other_store = event
                else:
                    self.notices.append(event)
                changes.notices = True
            case EngineStopped():
                changes.stopped = True
            case _:
                assert_never(event)

    def _open_account(self, event: AccountOpened, changes: Changes) -> None:
        self._forget(changes)
        self.account = event.account
        for record in event.conversations:
            self._new(record.conversation_id).record = record
        for turn in event.pending:
            self._get(turn.conversation_id, changes).note_pending(turn)
        for conversation_id, text in event.drafts.items():
            conversation = self._get(conversation_id, changes)
            conversation.draft = text
            conversation.is_loaded = conversation.record is None and not conversation.pending
        for conversation_id, request_id, text in event.edits:
            if (known := self._by_id.get(conversation_id)) is not None:
                known.edits[request_id] = text
        for conversation_id, traits in event.traits.items():
            if (known := self._by_id.get(conversation_id)) is not None:
                known.traits = traits
        self.kept = event.kept
        self._sort()

    def _forget(self, changes: Changes) -> None:
        self.account = None
        self.kept = ()
        self.other_store = None
        self.shows_archive = False
        self._by_id.clear()
        self.conversations = []
        self.current = None
        self.search_query = ""
        self.search_result = None
        self.exported = None
        self.connection.forget()
        changes.everything = changes.list = changes.current = changes.connection = True

    def _take_conversations(self, event: ConversationsChanged, changes: Changes) -> None:
        for record in event.changed:
            conversation = self._by_id.get(record.conversation_id)
            if conversation is None:
                conversation = self._new(record.conversation_id)
                changes.list = True
            conversation.record = record
            changes.conversations.add(record.conversation_id)
        for conversation_id in event.removed:
            gone = self._by_id.pop(conversation_id, None)
            if gone is None:
                continue
            changes.list = True
            begun = None
            if gone.files:  # deleted on another device: what was to be sent from here is not lost
                begun = self._new(conversation_id)
                begun.files, begun.is_loaded = gone.files, True
            if gone is self.current:
                self.current = begun
                changes.current = True
                self._report_shown()

    def _get(self, conversation_id: str, changes: Changes) -> ConversationViewModel:
        conversation = self._by_id.get(conversation_id)
        if conversation is None:
            conversation = self._new(conversation_id)
            changes.list = True
        return conversation

    def _new(self, conversation_id: str) -> ConversationViewModel:
        conversation = ConversationViewModel(conversation_id, None, self.commands)
        self._by_id[conversation_id] = conversation
        return conversation

    def _choose(self, conversation: ConversationViewModel) -> None:
        self.current = conversation
        if not conversation.is_loaded or conversation.record is not None:
            conversation.open()
        self._report_shown()

    def _report_shown(self) -> None:
        is_open = self.current is not None and self._is_visible
        conversation_id = self.current.conversation_id if is_open and self.current is not None else None
        self.commands.show(conversation_id, is_seen=is_open and self._is_shown)

    def _sort_if_needed(self, changes: Changes) -> None:
        before = [conversation.conversation_id for conversation in self.conversations]
        self._sort()
        if before != [conversation.conversation_id for conversation in self.conversations]:
            changes.list = True

    def _sort(self) -> None:
        def key(conversation: ConversationViewModel) -> tuple[bool, bool, int, str]:
            record, is_pinned = conversation.record, conversation.traits.is_pinned
            at_ms = 0 if record is None else -record.updated_at_ms
            return (record is not None, not is_pinned, at_ms, conversation.conversation_id)

        listed = (one for one in self._by_id.values() if one.traits.is_archived is self.shows_archive)
        self.conversations = sorted(listed, key=key)
