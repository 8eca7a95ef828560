"""Shows what the person's other devices ask in the open conversation, and hears what they change in the list.

Theory of operation. An answer that another device has asked for is in memory while it comes, and in the store when it
has ended, as the turn of the server's history that it is then. So the app may end at any moment: the history has all of
it, and the sync takes it from there. Whatever the history brings first is not shown a second time.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from answerback.client import (
    Answer,
    AnswerbackError,
    Asked,
    ChangesMissed,
    Client,
    ConversationChanged,
    Done,
    Failed,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
    TurnsMissed,
    WatchEvent,
    clean,
    is_id,
)
from answerback.tasks import Tasks
from answerback_desktop.engine.answers import LiveAnswer, ended
from answerback_desktop.engine.events import TurnChanged, TurnsRemoved
from answerback_desktop.engine.export import instant_ms
from answerback_desktop.engine.sync import Sync, title_in_list
from answerback_desktop.records import Turn, TurnStatus
from answerback_desktop.store.schema import StoreError

if TYPE_CHECKING:
    from answerback_desktop.engine.account import AccountEngine

log = logging.getLogger("answerback.desktop")


class Devices:
    """Watches the list and the conversation that is open, while one client runs. `open` says which one that is.

    A server that does not offer this is left alone until the next connection.
    """

    def __init__(self, client: Client, sync: Sync, account: "AccountEngine") -> None:
        self._client = client
        self._sync = sync
        self._store = account.store
        self._history = account.history
        self._account = account
        self._emit = account.emit
        self._clock = account.clock
        self._tasks = Tasks()
        self._open: str | None = None
        self._watching: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._live: dict[str, LiveAnswer] = {}
        self._replaced: dict[str, tuple[Turn, ...]] = {}
        self._cut: set[str] = set()

    async def close(self) -> None:
        """Watch nothing any more."""
        self._drop(self._live)
        await self._tasks.settle(grace_s=0)

    def connected(self) -> None:
        """The server may offer now what it did not before."""
        if self._listening is None or self._listening.done():
            self._listening = self._tasks.start(self._listen(), name="changes")
        if self._open is not None and (self._watching is None or self._watching.done()):
            self._watching = self._tasks.start(self._watch(self._open), name="watch")

    def open(self, conversation_id: str | None) -> None:
        """Watch this conversation, and no other."""
        if conversation_id == self._open:
            return
        if self._watching is not None:
            self._watching.cancel()
        self._drop(self._live)
        self._open, self._watching = conversation_id, None
        if self._listening is not None and conversation_id is not None:
            self._watching = self._tasks.start(self._watch(conversation_id), name="watch")

    def stop(self, request_id: str) -> bool:
        """Stop an answer of another device; false: it is none."""
        live = self._live.get(request_id)
        if live is None:
            return False
        try:
            self._client.cancel(request_id, conversation=live.turn.conversation_id)
        except AnswerbackError as exc:
            log.info("an answer of another device cannot be stopped: %s", exc.code)
        return True

    def show(self, conversation_id: str) -> None:
        """The conversation's page was shown again: so is what is not in the store."""
        for request_id, live in self._live.items():
            if live.turn.conversation_id == conversation_id:
                self._emit(TurnChanged(live.turn))
                self._hide(request_id)

    def taken(self, turns: Iterable[Turn]) -> None:
        """The history has brought these: what still comes of them is not shown."""
        for turn in turns:
            if turn.status.is_over and self._live.pop(turn.request_id, None) is not None:
                self._give_back(turn.request_id)

    def gone(self, conversation_id: str) -> None:
        """The server has the conversation no longer, nor what was asked in it."""
        self._drop([name for name, live in self._live.items() if live.turn.conversation_id == conversation_id])

    # --- the conversation -----------------------------------------------------------------------------------

    async def _watch(self, conversation_id: str) -> None:
        try:
            while True:
                try:
                    async with self._client.watch(conversation_id) as answers:
                        self._sync.request(conversation_id)  # what ended before is in the history
                        async for request_id, event in answers:
                            self._take(conversation_id, request_id, event)
                except RequestTimeout:  # not connected
                    continue
        except AnswerbackError as exc:
            log.info("the conversation is not watched: %s", exc.code)
            self._drop(self._live)

    def _take(self, conversation_id: str, request_id: str, event: WatchEvent) -> None:
        try:
            match event:
                case Asked():
                    self._begin(event)
                case TurnsMissed():
                    self._sync.request(conversation_id)
                case Done(outcome) | Failed(outcome):
                    self._end(request_id, outcome)
                case _ if (live := self._live.get(request_id)) is not None:
                    if (shown := live.receive(event)) is not None:
                        self._emit(shown)
        except StoreError as exc:
            self._account.store_failed(exc)

    def _begin(self, asked: Asked) -> None:
        request_id, replaces = asked.request_id, asked.replaces
        if not is_id(request_id) or self._store.turn(request_id) is not None:
            return
        turn = Turn(
            request_id=request_id,
            conversation_id=asked.conversation_id,
            question=clean(asked.question) + "…" * asked.is_cut,
            asked_at_ms=instant_ms(asked.accepted_at, self._clock()),
            status=TurnStatus.QUEUED,
            model=None if asked.model is None else clean(asked.model),
            replaces=replaces if replaces is not None and is_id(replaces) else None,
            is_elsewhere=True,
        )
        self._live[request_id] = LiveAnswer(turn)
        if asked.is_cut:
            self._cut.add(request_id)
        self._replaced[request_id] = self._history.replaced_by(turn)
        self._account.turn_begun(turn)
        self._hide(request_id)

    def _end(self, request_id: str, outcome: Answer | AnswerbackError) -> None:
        live = self._live.get(request_id)
        if live is None:
            return
        conversation_id = live.turn.conversation_id
        self._sync.request(conversation_id)  # it has all of the question, its files and its place
        if not _is_of_server(outcome) or self._store.conversation(conversation_id) is None:
            self._drop([request_id])
            return
        if request_id in self._cut:
            return  # over when the history has brought it: what is stored could be asked again
        turn = replace(live.turn, is_elsewhere=False, is_synced=True)
        merge = self._history.merge_turns(conversation_id, [ended(turn, outcome, now_ms=self._clock())])
        self._account.turns_merged(conversation_id, merge)
        if merge.added and not self._account.is_seen(conversation_id):
            self._history.synced(conversation_id, None, new_answers=merge.added)
            self._account.conversations_changed([conversation_id])

    def _hide(self, request_id: str) -> None:
        """While it comes, an answer stands in the place of the turns that it is to replace."""
        for turn in self._replaced.get(request_id, ()):
            self._emit(TurnChanged(replace(turn, superseded_by=request_id)))

    def _give_back(self, request_id: str) -> None:
        self._cut.discard(request_id)
        for turn in self._replaced.pop(request_id, ()):
            self._emit(TurnChanged(self._store.turn(turn.request_id) or turn))

    def _drop(self, request_ids: Iterable[str]) -> None:
        """Show them no longer."""
        for request_id in list(request_ids):
            turn = self._live.pop(request_id).turn
            self._emit(TurnsRemoved(conversation_id=turn.conversation_id, request_ids=(request_id,)))
            self._give_back(request_id)

    # --- the list -------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        try:
            async for change in self._client.changes():
                try:
                    self._take_change(change)
                except StoreError as exc:
                    self._account.store_failed(exc)
        except AnswerbackError as exc:
            log.info("the list is not watched: %s", exc.code)

    def _take_change(self, change: ConversationChanged | ChangesMissed) -> None:
        if isinstance(change, ChangesMissed):
            self._sync.request()
            return
        if change.deleted:
            self._sync.deleted(change.conversation_id)
            return
        title = None if change.title is None else title_in_list(change.title)
        if not self._history.has_all_of(change.conversation_id, title=title, turns=change.turns):
            self._sync.request()


def _is_of_server(outcome: Answer | AnswerbackError) -> bool:
    """Whether the server has said how it ended, so that the history has it so."""
    return isinstance(outcome, Answer | RequestCancelled) or (
        isinstance(outcome, RequestFailed) and outcome.answer is not None
    )
