"""How much of each conversation the user interface has, and what it has to be told of it."""

from collections.abc import Callable, Iterable
from typing import Final

from answerback_desktop.engine.events import Event, TurnChanged, TurnsLoaded, TurnsRemoved
from answerback_desktop.records import Turn
from answerback_desktop.store.history import TurnMerge
from answerback_desktop.store.store import AccountStore

_BEFORE_ALL: Final = (False, -1, "")
"""Of a conversation that was begun here: all of it is loaded."""


class Pages:
    """`oldest` of a conversation: the order of its oldest loaded turn; None: it was opened when nothing was there.

    `so_far` gives a turn that still streams as it is shown, the store's text being older.
    """

    def __init__(
        self, store: AccountStore, emit: Callable[[Event], None], so_far: Callable[[str], Turn | None]
    ) -> None:
        self._store = store
        self._emit = emit
        self._so_far = so_far
        self._oldest: dict[str, tuple[bool, int, str] | None] = {}

    def open(self, conversation_id: str) -> None:
        """Tell the newest page."""
        page = self._store.page(conversation_id)
        known = self._oldest.get(conversation_id)
        if page.turns:
            first = page.turns[0].order
            self._oldest[conversation_id] = first if known is None else min(known, first)
        else:
            self._oldest.setdefault(conversation_id, None)
        turns = self.with_live(page.turns)
        self._emit(TurnsLoaded(conversation_id=conversation_id, turns=turns, has_more=page.has_more))

    def more(self, conversation_id: str, before_request_id: str) -> None:
        """Tell the page before a turn."""
        page = self._store.page(conversation_id, before=before_request_id)
        if page.turns:
            self._oldest[conversation_id] = page.turns[0].order
        turns = self.with_live(page.turns)
        self._emit(TurnsLoaded(conversation_id=conversation_id, turns=turns, has_more=page.has_more))

    def begun(self, conversation_id: str) -> None:
        """A question was asked in it: what was never opened is new, and so is loaded whole."""
        self._oldest.setdefault(conversation_id, _BEFORE_ALL)

    def forget(self, conversation_id: str) -> None:
        """It is off the list."""
        self._oldest.pop(conversation_id, None)

    def merged(self, conversation_id: str, merge: TurnMerge) -> None:
        """Tell what of it lies in the loaded part, and whether there is more before that."""
        if conversation_id not in self._oldest:
            return
        oldest = self._oldest[conversation_id]
        if oldest is None:
            self.open(conversation_id)
            return
        if merge.removed:
            self._emit(TurnsRemoved(conversation_id=conversation_id, request_ids=tuple(merge.removed)))
        for turn in merge.changed:
            if turn.order >= oldest:
                self._emit(TurnChanged(turn))
        if any(turn.order < oldest for turn in merge.changed):
            self._emit(TurnsLoaded(conversation_id=conversation_id, turns=(), has_more=True))

    def with_live(self, turns: Iterable[Turn]) -> tuple[Turn, ...]:
        """With the text of now."""
        return tuple(self._so_far(turn.request_id) or turn for turn in turns)
