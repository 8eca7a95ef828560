"""The turns that the views of open conversations have: which of them, and what of a change they are told."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from answerback_desktop.engine.events import Event, TurnChanged, TurnsLoaded, TurnsRemoved
from answerback_desktop.records import Turn
from answerback_desktop.store.history import TurnMerge
from answerback_desktop.store.store import PAGE, AccountStore, Page


@dataclass(slots=True, kw_only=True)
class _Loaded:
    """What a view has of a conversation. `has_more`: older turns that it has not, and knows of."""

    request_ids: set[str] = field(default_factory=set)
    has_more: bool = False
    is_begun: bool = False


class Pages:
    """The loaded part of each open conversation, by id: the order of a turn may change as long as its place is a guess.

    `so_far` gives a turn that still streams as it is shown, the store's text being older.
    """

    def __init__(
        self, store: AccountStore, emit: Callable[[Event], None], so_far: Callable[[str], Turn | None]
    ) -> None:
        self._store = store
        self._emit = emit
        self._so_far = so_far
        self._open: dict[str, _Loaded] = {}

    def open(self, conversation_id: str) -> None:
        """Emit the newest page."""
        page = self._store.page(conversation_id)
        loaded = self._open.setdefault(conversation_id, _Loaded(has_more=page.has_more))
        loaded.has_more = page.has_more and (loaded.has_more or not loaded.request_ids)
        self._emit_page(conversation_id, page, loaded)

    def more(self, conversation_id: str, before_request_id: str) -> None:
        """Emit the page before a turn."""
        page = self._store.page(conversation_id, before=before_request_id)
        loaded = self._open.setdefault(conversation_id, _Loaded())
        loaded.has_more = page.has_more
        self._emit_page(conversation_id, page, loaded)

    def _emit_page(self, conversation_id: str, page: Page, loaded: _Loaded) -> None:
        loaded.request_ids.update(turn.request_id for turn in page.turns)
        turns = (*page.versions, *self.with_live(page.turns))
        self._emit(TurnsLoaded(conversation_id=conversation_id, turns=turns, has_more=page.has_more))

    def begun(self, conversation_id: str) -> None:
        """A question was asked in it: what was never opened is new, and so is loaded whole."""
        self._open.setdefault(conversation_id, _Loaded(is_begun=True))

    def shown(self, conversation_id: str, request_id: str) -> None:
        """A turn is shown that is not in the store."""
        if (loaded := self._open.get(conversation_id)) is not None:
            loaded.request_ids.add(request_id)

    def forget(self, conversation_id: str) -> None:
        """Forget a conversation that was removed."""
        self._open.pop(conversation_id, None)

    def merged(self, conversation_id: str, merge: TurnMerge) -> None:
        """Emit what of it is in the loaded part, and whether there is more before that."""
        loaded = self._open.get(conversation_id)
        if loaded is None:
            return
        if not loaded.request_ids and not loaded.is_begun:
            self.open(conversation_id)
            return
        if merge.removed:
            self._emit(TurnsRemoved(conversation_id=conversation_id, request_ids=tuple(merge.removed)))
        shown, oldest = [], self._store.oldest(loaded.request_ids)
        for turn in merge.changed:
            is_old = oldest is not None and turn.order < oldest and turn.superseded_by is None
            if not is_old or turn.request_id in loaded.request_ids:
                shown.append(turn)
        older = [turn for turn in merge.changed if turn not in shown]
        if older and not loaded.has_more and len(older) <= PAGE:
            shown, older = merge.changed, []
        for turn in shown:
            self._emit(TurnChanged(turn))
        loaded.request_ids.update(turn.request_id for turn in shown if turn.superseded_by is None)
        if older:
            loaded.has_more = True
            self._emit(TurnsLoaded(conversation_id=conversation_id, turns=(), has_more=True))

    def with_live(self, turns: Iterable[Turn]) -> tuple[Turn, ...]:
        """The turns with the text that running answers have now."""
        return tuple(self._so_far(turn.request_id) or turn for turn in turns)
