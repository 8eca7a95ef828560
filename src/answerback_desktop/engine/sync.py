"""Synchronises the local store with the server's history in both directions."""

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from answerback.client import (
    MAX_TITLE_LENGTH,
    AnswerbackError,
    Client,
    ConversationSummary,
    RequestFailed,
    Usage,
    clean,
    is_id,
    is_retryable,
    parts_of,
)
from answerback.client import Turn as HistoryTurn
from answerback_desktop.engine.answers import code_of
from answerback_desktop.engine.export import instant_ms
from answerback_desktop.engine.parts import written
from answerback_desktop.records import Failure, Turn, TurnStatus
from answerback_desktop.store.files import keep_copy
from answerback_desktop.store.history import Listed, TurnMerge
from answerback_desktop.store.schema import StoreError
from answerback_desktop.store.store import Unsent

if TYPE_CHECKING:
    from answerback_desktop.engine.account import AccountEngine

log = logging.getLogger("answerback.desktop")

UNDO_S: Final = 10.0
"""How long a deletion can be taken back before the server deletes it."""
PERIOD_S: Final = 120.0
"""Between polls of the server while online and in front of a person: on AWS each poll keeps a database awake."""
CONVERSATION_S: Final = 120.0
"""At most for the turns of one conversation: a server could send pages without end."""
UNCHANGED: Final = 50
"""So many conversations in a row as they were: those used before them are, too."""
MAX_CONVERSATIONS: Final = 10_000
MAX_TURNS: Final = 20_000
_BATCH: Final = 50


class Sync:
    """Polls the server's history while one client runs. `request` asks for a pass, one conversation first."""

    def __init__(self, server: Client, account: "AccountEngine") -> None:
        self._server = server
        self._store = account.store
        self._history = account.history
        self._account = account
        self._clock = account.clock
        self._wants_all = True
        self._wants_list = True
        self._requested = asyncio.Event()
        self._first: str | None = None
        self._deleted: set[str] = set()
        self._told: set[str] = set()  # the person, that another device has deleted them
        self._incomplete: set[str] = set()

    def request(self, conversation_id: str | None = None) -> None:
        """Poll the server soon, this conversation first."""
        self._first = conversation_id or self._first
        self._wants_list = True
        self._requested.set()

    def connected(self) -> None:
        """Anything may have happened meanwhile: poll everything."""
        self._wants_all = self._wants_list = True
        self._requested.set()

    def deleted(self, conversation_id: str) -> None:
        """Another device has deleted it, as the server says."""
        self._deleted.add(conversation_id)
        self._requested.set()

    def ended(self, conversation_id: str) -> None:
        """A question has ended here: if the server's history had its turn before that, take it now."""
        self._told.discard(conversation_id)
        if conversation_id in self._incomplete:
            self._incomplete.discard(conversation_id)
            self.request(conversation_id)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            is_due = not await self._wait()
            if not self._account.is_online_by(self._server):
                continue
            is_requested, self._wants_list = self._wants_list, False
            try:
                await self._send_changes()
                await self._remove_deleted()
                if is_requested or (is_due and self._account.is_watched):
                    is_thorough, self._wants_all = self._wants_all or not is_requested, False
                    await self._appearance(is_thorough=is_thorough)
            except AnswerbackError as exc:
                self._wants_all = True
                log.info("the history was not fetched: %s", exc.code)
            except Exception:
                self._wants_all = True
                log.exception("the history was not fetched; it is tried again")

    async def _wait(self) -> bool:
        """Wait for a request (true) or the next poll."""
        try:
            async with asyncio.timeout(self._pause_s()):
                await self._requested.wait()
        except TimeoutError:
            return False
        self._requested.clear()
        return True

    def _pause_s(self) -> float:
        """Until the next poll, or until a deletion is due."""
        try:
            unsent = self._store.unsent()
        except StoreError:
            return PERIOD_S
        due = [self._due_in_s(one) for one in unsent if one.deleted_at_ms is not None]
        return min([PERIOD_S, *(pause_s for pause_s in due if pause_s > 0)])

    def _due_in_s(self, unsent: Unsent) -> float:
        return UNDO_S - (self._clock() - (unsent.deleted_at_ms or 0)) / 1000

    # --- to the server --------------------------------------------------------------------------------------

    async def _send_changes(self) -> None:
        for unsent in self._store.unsent():
            if unsent.deleted_at_ms is not None:
                if self._due_in_s(unsent) <= 0:
                    await self._send_deletion(unsent.conversation_id)
            elif unsent.title is not None:
                await self._send_title(unsent, unsent.title)

    async def _send_deletion(self, conversation_id: str) -> None:
        """Delete at the server. Stop questions first: one that ends later would start the conversation again."""
        pending = [turn for turn in self._store.pending() if turn.conversation_id == conversation_id]
        for turn in pending:
            self._server.cancel(turn.request_id)
        if any(turn.conversation_id == conversation_id for turn in self._store.pending()):
            return  # deleted when they have ended
        try:
            await self._server.delete(conversation_id)
        except RequestFailed as exc:
            if not is_unknown(exc):
                if not exc.retryable:
                    self._give_back(conversation_id)
                return
        still = {unsent.conversation_id for unsent in self._store.unsent() if unsent.deleted_at_ms is not None}
        if conversation_id in still:
            self._store.forget_conversation(conversation_id)
        else:  # taken back while the call ran
            await self._server.restore(conversation_id)

    def _give_back(self, conversation_id: str) -> None:
        """The server does not let it be deleted: it is shown again."""
        if self._store.undelete(conversation_id):
            self._account.conversations_changed([conversation_id])
        self._account.update_failed(conversation_id)

    async def _send_title(self, unsent: Unsent, title: str) -> None:
        try:
            await self._server.rename(unsent.conversation_id, title)
        except RequestFailed as exc:
            if is_unknown(exc) or exc.retryable:
                return  # its first question has not ended yet, or the server is busy: later
            self._account.update_failed(unsent.conversation_id)
        self._store.title_sent(unsent.conversation_id, title)

    # --- from the server ------------------------------------------------------------------------------------

    async def _appearance(self, *, is_thorough: bool) -> None:
        """The list, last used first, then the turns of what changed. Only a thorough poll finds what was deleted far
        down the list.
        """
        unchanged = 0
        now_ms = self._clock()
        found: dict[str, Listed] = {}
        is_whole = True
        async for summary in self._server.conversations():
            if len(found) >= MAX_CONVERSATIONS or (unchanged >= UNCHANGED and not is_thorough):
                is_whole = False
                break
            one = listed(summary, now_ms=now_ms)
            if one is not None:
                found.setdefault(one.conversation_id, one)
                unchanged = unchanged + 1 if self._history.is_current(one) else 0
        self._told -= found.keys()
        merge = self._history.merge_list(tuple(found.values()))
        if merge.changed:
            self._account.conversations_changed(merge.changed)
        first, self._first = self._first, None
        for stale in sorted(merge.stale, key=lambda one: one.conversation_id != first):
            await self._fetch(stale)
        if is_whole and merge.is_loss:
            log.warning("the server has lost %d of %d conversations; they are kept", len(merge.missing), merge.known)
            self._history.keep_missing(merge.missing)
            self._account.conversations_changed(merge.missing)
            return
        for conversation_id in (*merge.missing, *merge.unlisted) if is_whole else ():
            # A list that moves while its pages are read can miss one: only an empty history says that it is gone.
            await self._remove_if_gone(conversation_id)

    async def _remove_deleted(self) -> None:
        """What another device has deleted. If the server cannot be asked about one now, it is later."""
        for conversation_id in tuple(self._deleted):
            self._deleted.discard(conversation_id)
            try:
                await self._remove_if_gone(conversation_id)
            except (AnswerbackError, StoreError) as exc:
                self._deleted.add(conversation_id)
                log.info("a deletion elsewhere is looked at again later: %s", type(exc).__name__)

    async def _remove_if_gone(self, conversation_id: str) -> None:
        if self._store.conversation(conversation_id) is None or not await self._is_gone(conversation_id):
            return
        self._account.write_down()  # a draft is kept
        if (conversation := self._store.conversation(conversation_id)) is None:
            return  # deleted here meanwhile
        keep_copy(self._account.database, self._history.loses(conversation_id))
        gone = self._history.gone(conversation_id)
        self._account.turns_merged(conversation_id, TurnMerge(removed=list(gone.removed)))
        is_news = conversation_id not in self._told
        self._told.add(conversation_id)
        self._account.conversation_gone(conversation, is_kept=gone.is_kept, is_news=is_news)

    async def _fetch(self, wanted: Listed) -> None:
        """Newest first, until all that the server counts is here; if the counts differ, all of it is compared."""
        conversation_id = wanted.conversation_id
        is_first = self._history.is_new(conversation_id)
        try:
            async with asyncio.timeout(CONVERSATION_S):
                merged = await self._read(wanted, is_first=is_first)
        except TimeoutError:
            log.warning("the history of a conversation does not end; it is looked at again later")
            return
        unread = 0 if is_first or self._account.is_seen(conversation_id) else merged.added
        self._history.synced(conversation_id, None if merged.under_way else wanted.state, new_answers=unread)
        if unread:
            self._account.conversations_changed([conversation_id])

    async def _read(self, wanted: Listed, *, is_first: bool) -> TurnMerge:
        """How much is new. Merged piece by piece, the newest first; what the server lacks is known at the end."""
        conversation_id = wanted.conversation_id
        total, batch, seen = TurnMerge(), list[Turn](), set[str]()
        before = self._history.shown(conversation_id)  # of what comes meanwhile, an older history says nothing
        newer: Turn | None = None
        async for raw in self._server.history(conversation_id, superseded=True, parts=True):
            turn = turn_of(conversation_id, raw, now_ms=self._clock())
            if turn is None or turn.request_id in seen:
                continue
            newer = turn = in_order(turn, newer)
            seen.add(turn.request_id)
            batch.append(turn)
            if len(seen) > MAX_TURNS:
                self._merge(conversation_id, batch, total)
                return total
            is_known = self._history.has_synced(conversation_id, turn.request_id)
            if is_known or len(batch) >= _BATCH:
                changed = self._merge(conversation_id, batch, total)
                batch = []
                # A known turn that moved may have moved past older ones.
                is_settled = is_known and all(one.request_id != turn.request_id for one in changed)
                is_all = is_settled and self._history.count_synced(conversation_id) == wanted.turns
                # One that ended here late may stand too late.
                if not is_first and is_all and not self._history.has_later(turn, seen):
                    return total
        self._merge(conversation_id, batch, total)
        lost = before - seen
        if lost and await self._is_gone(conversation_id):
            return total  # deleted since it was listed: the next list says so
        rest = self._history.settle_lost(conversation_id, lost)
        if rest.changed:
            self._account.turns_merged(conversation_id, rest)
        return total

    async def _is_gone(self, conversation_id: str) -> bool:
        return await anext(self._server.history(conversation_id), None) is None

    def _merge(self, conversation_id: str, batch: list[Turn], total: TurnMerge) -> list[Turn]:
        """Take a piece; returns the turns that it changed."""
        if not batch:
            return []
        merge = self._history.merge_turns(conversation_id, reversed(batch))
        if merge.changed:
            self._account.turns_merged(conversation_id, merge)
        total.added += merge.added
        total.under_way += merge.under_way
        if merge.under_way:
            self._incomplete.add(conversation_id)
        return merge.changed


_STATUS = {status.value: status for status in TurnStatus if status.is_over}


def listed(summary: ConversationSummary, *, now_ms: int) -> Listed | None:
    """A line of the server's list; None: its id cannot be one."""
    if not is_id(summary.conversation_id):
        return None
    return Listed(
        conversation_id=summary.conversation_id,
        title=title_in_list(summary.title),
        turns=summary.turns,
        created_at_ms=instant_ms(summary.created_at, now_ms),
        updated_at_ms=instant_ms(summary.updated_at, now_ms),
        updated_at=clean(summary.updated_at),
    )


def title_in_list(title: str | None) -> str:
    """A title on one line."""
    return " ".join(clean(title or "").split())[:MAX_TITLE_LENGTH]


def turn_of(conversation_id: str, turn: HistoryTurn, *, now_ms: int) -> Turn | None:
    """A turn of the server's history; None: its id cannot be one."""
    if not is_id(turn.request_id):
        return None
    usage, code = turn.usage, turn.error_code
    status = _STATUS[turn.status.value]
    is_failed = status is TurnStatus.FAILED
    return Turn(
        request_id=turn.request_id,
        conversation_id=conversation_id,
        question=clean(turn.question),
        answer=clean(written(parts_of(turn)) if turn.parts else turn.answer),
        status=status,
        asked_at_ms=instant_ms(turn.asked_at, now_ms),
        answered_at_ms=instant_ms(turn.answered_at, now_ms),
        failure=Failure(code=code_of(code), is_retryable=code is None or is_retryable(code)) if is_failed else None,
        model=None if turn.model is None else clean(turn.model),
        replaces=turn.replaces if turn.replaces is not None and is_id(turn.replaces) else None,
        tokens=None if usage is None else Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens),
        is_synced=True,
        superseded_by=turn.superseded_by if turn.superseded_by is not None and is_id(turn.superseded_by) else None,
        attachments=turn.attachments,
    )


def is_unknown(error: AnswerbackError) -> bool:
    """Whether the server says that it has no such conversation."""
    return error.code == "unknown_request"


def in_order(turn: Turn, newer: Turn | None) -> Turn:
    """A turn with an instant that sorts it before `newer`, the next one of the server's history.

    The server's order counts, not its clock: two turns may be of one millisecond, and a clock may have been set back.
    """
    if newer is None or turn.order < newer.order:
        return turn
    return replace(turn, asked_at_ms=newer.asked_at_ms - (turn.request_id >= newer.request_id))
