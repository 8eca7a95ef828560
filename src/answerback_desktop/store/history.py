"""Merges the server's history into the local store and never overwrites what only the app has."""

from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

from answerback_desktop.records import Turn, TurnStatus
from answerback_desktop.store.schema import Database
from answerback_desktop.store.store import REPLACED, SAVE_TURN, SELECT_TURNS, SUPERSEDE, replaced_by, row_of, turn_of

_SELECT_MISSING: Final = (
    "SELECT conversation_id FROM conversations "
    "WHERE is_missing = 1 AND conversation_id NOT IN (SELECT conversation_id FROM turns WHERE is_over = 0)"
)
_MISSING: Final = f"conversation_id IN ({_SELECT_MISSING})"
_SELECT_MISSING_TURNS: Final = f"SELECT request_id FROM turns WHERE {_MISSING}"  # noqa: S608 - constants
_LOST: Final = "conversation_id = ? AND is_synced = 1 AND is_kept = 0"
_SHOWN: Final = "conversation_id = ? AND is_synced = 1 AND superseded_by IS NULL"
_SELECT_UNLISTED: Final = (
    "SELECT DISTINCT conversation_id FROM conversations JOIN turns USING (conversation_id) "
    "WHERE is_known = 0 AND deleted_at_ms IS NULL AND is_synced = 1 AND is_kept = 0"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A conversation as the server lists it. `updated_at`: the server's own word, to be compared only."""

    conversation_id: str
    title: str
    turns: int
    created_at_ms: int
    updated_at_ms: int
    updated_at: str

    @property
    def state(self) -> str:
        """What changes with its turns: two of them may have ended in one millisecond."""
        return f"{self.updated_at} {self.turns}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListMerge:
    """What a whole list changed. `stale`: their turns have to be fetched. `missing`: known before, not listed now.

    `known`: how many were known before. `unlisted`: not known, though the server has shown turns of them. These are
    newer than the list, or older than the deletion.
    """

    changed: tuple[str, ...]
    stale: tuple[Listed, ...]
    missing: tuple[str, ...]
    known: int
    unlisted: tuple[str, ...]

    @property
    def is_loss(self) -> bool:
        """Most are missing at once: that is no person who deletes, but another server, or one that lost them."""
        return len(self.missing) > 1 and 2 * len(self.missing) > self.known


@dataclass(slots=True, kw_only=True)
class TurnMerge:
    """What a page of history changed. `added`: answers that were not here before. `under_way`: turns that have ended
    at the server and not here yet, so that nothing of them was taken. `removed`: of a conversation that is gone.
    """

    added: int = 0
    under_way: int = 0
    changed: list[Turn] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A conversation that was deleted elsewhere. `is_kept`: something of this app's own is still in it."""

    removed: tuple[str, ...]
    is_kept: bool


class HistoryStore:
    """The part of an account's store that the sync uses. Raises: StoreError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def merge_list(self, listed: Sequence[Listed]) -> ListMerge:
        """Take the whole list. Deleted here stays deleted; a title that is on its way to the server stays."""
        db, changed, stale = self._db, list[str](), list[Listed]()
        with db.writing():
            known = {
                row[0]: row[1:]
                for row in db.run(
                    "SELECT conversation_id, title, title_to_send, updated_at_ms, synced_at, deleted_at_ms, is_known "
                    "FROM conversations"
                )
            }
            count = sum(bool(is_known) and not deleted_at_ms for *_, deleted_at_ms, is_known in known.values())
            unended = {row[0] for row in db.run("SELECT conversation_id FROM turns WHERE is_over = 0")}
            for one in listed:
                before = known.pop(one.conversation_id, None)
                if before is None:
                    db.run(
                        "INSERT INTO conversations (conversation_id, title, created_at_ms, updated_at_ms, is_known) "
                        "VALUES (?, ?, ?, ?, 1)",
                        one.conversation_id,
                        one.title,
                        one.created_at_ms,
                        one.updated_at_ms,
                    )
                    changed.append(one.conversation_id)
                    stale.append(one)
                    continue
                title, title_to_send, updated_at_ms, synced_at, deleted_at_ms, is_known = before
                if not is_known and title != one.title and title_to_send is None and self._is_kept(one.conversation_id):
                    # It was lost, or imported, and begins again at the server: the person knows it by our title.
                    title_to_send = title
                    db.run(
                        "UPDATE conversations SET title_to_send = title WHERE conversation_id = ?", one.conversation_id
                    )
                new_title = one.title if title_to_send is None else title
                # A question still without an ending is not in the server's history: the list keeps its place.
                new_ms = max(one.updated_at_ms, updated_at_ms) if one.conversation_id in unended else one.updated_at_ms
                if (title, updated_at_ms, is_known) != (new_title, new_ms, 1):
                    db.run(
                        "UPDATE conversations SET title = ?, updated_at_ms = ?, is_known = 1, is_missing = 0 "
                        "WHERE conversation_id = ?",
                        new_title,
                        new_ms,
                        one.conversation_id,
                    )
                    if deleted_at_ms is None:
                        changed.append(one.conversation_id)
                if synced_at not in (one.state, one.updated_at) and deleted_at_ms is None:
                    stale.append(one)
            unlisted = tuple(name for (name,) in db.run(_SELECT_UNLISTED))
        missing = tuple(name for name, (*_, deleted_at_ms, is_known) in known.items() if is_known and not deleted_at_ms)
        return ListMerge(changed=tuple(changed), stale=tuple(stale), missing=missing, known=count, unlisted=unlisted)

    def _is_kept(self, conversation_id: str) -> bool:
        query = "SELECT 1 FROM turns WHERE conversation_id = ? AND is_kept = 1"
        return self._db.run(query, conversation_id).fetchone() is not None

    def is_current(self, listed: Listed) -> bool:
        """Whether all that the server says of it is here."""
        with self._db.reading():
            query = "SELECT 1 FROM conversations WHERE conversation_id = ? AND synced_at IN (?, ?)"
            values = (listed.conversation_id, listed.state, listed.updated_at)
            return self._db.run(query, *values).fetchone() is not None

    def has_all_of(self, conversation_id: str, *, title: str | None, turns: int | None) -> bool:
        """Whether the server's word of it is no news: one deleted here is none, nor a turn that was asked here."""
        with self._db.reading():
            query = "SELECT title, title_to_send, deleted_at_ms FROM conversations WHERE conversation_id = ?"
            row = self._db.run(query, conversation_id).fetchone()
            if row is None or row[2] is not None:
                return row is not None
            query = (
                "SELECT coalesce(sum(is_synced OR status = 'completed'), 0), coalesce(sum(NOT is_over), 0) FROM turns "
                "WHERE conversation_id = ? AND superseded_by IS NULL AND is_kept = 0"
            )
            here, under_way = self._db.run(query, conversation_id).fetchone()
            is_title_here = title in (None, row[0]) or row[1] is not None
            return is_title_here and turns is not None and here <= turns <= here + under_way

    def replaced_by(self, turn: Turn) -> tuple[Turn, ...]:
        """The turns whose place it would take."""
        if turn.replaces is None:
            return ()
        with self._db.reading():
            return tuple(
                turn_of(row) for row in self._db.run_named(SELECT_TURNS + REPLACED, replaced_by(turn, turn.replaces))
            )

    def is_new(self, conversation_id: str) -> bool:
        """Whether its turns were never fetched."""
        with self._db.reading():
            query = "SELECT synced_at FROM conversations WHERE conversation_id = ?"
            row = self._db.run(query, conversation_id).fetchone()
            return row is None or row[0] is None

    def has_synced(self, conversation_id: str, request_id: str) -> bool:
        """Whether this turn of the server's is here already."""
        with self._db.reading():
            query = "SELECT 1 FROM turns WHERE request_id = ? AND conversation_id = ? AND is_synced = 1"
            return self._db.run(query, request_id, conversation_id).fetchone() is not None

    def count_synced(self, conversation_id: str) -> int:
        """How many of the turns that the server shows are here."""
        with self._db.reading():
            query = f"SELECT count(*) FROM turns WHERE {_SHOWN}"  # noqa: S608 - constants
            return int(self._db.run(query, conversation_id).fetchone()[0])

    def has_later(self, turn: Turn, request_ids: Set[str]) -> bool:
        """Whether a turn stands behind this one that the server shows, but not among these, which it has given."""
        with self._db.reading():
            query = f"SELECT request_id FROM turns WHERE {_SHOWN} AND (asked_at_ms, request_id) > (?, ?)"  # noqa: S608 - constants
            rows = self._db.run(query, turn.conversation_id, turn.asked_at_ms, turn.request_id)
            return any(name not in request_ids for (name,) in rows)

    def merge_turns(self, conversation_id: str, turns: Iterable[Turn]) -> TurnMerge:
        """Take turns of the server's history, oldest first.

        An answer that ended here keeps its text; a question that has not ended here goes on; a turn that only this app
        knows stays.
        """
        merge = TurnMerge()
        with self._db.writing():
            for turn in turns:
                self._merge(conversation_id, turn, merge)
        merge.changed = list({turn.request_id: turn for turn in merge.changed}.values())
        return merge

    def shown(self, conversation_id: str) -> frozenset[str]:
        """The turns here that the server has shown."""
        with self._db.reading():
            query = f"SELECT request_id FROM turns WHERE {_SHOWN}"  # noqa: S608 - constants
            return frozenset(name for (name,) in self._db.run(query, conversation_id))

    def settle_lost(self, conversation_id: str, request_ids: Set[str]) -> TurnMerge:
        """The server gives these turns no longer. None of them is deleted.

        Those before a turn that replaced one are earlier versions, which an older server does not give. The server has
        lost the rest, and they are ours alone from now on.
        """
        merge = TurnMerge()
        with self._db.writing():
            rows = self._db.run(f"{SELECT_TURNS} WHERE {_SHOWN}", conversation_id)
            known = sorted((turn_of(row) for row in rows), key=lambda turn: turn.order)
            newer: str | None = None
            for turn in reversed(known):
                if turn.request_id in request_ids:
                    self._db.run(
                        "UPDATE turns SET superseded_by = ?, is_synced = ?, is_kept = ? WHERE request_id = ?",
                        newer,
                        newer is not None,
                        newer is None,
                        turn.request_id,
                    )
                    merge.changed.append(replace(turn, superseded_by=newer, is_synced=newer is not None))
                elif turn.replaces is not None and turn.status is TurnStatus.COMPLETED:
                    newer = turn.request_id
        return merge

    def keep_missing(self, conversation_ids: Collection[str]) -> None:
        """The server has lost these: they are ours alone, until the person says what to do (`settle_missing`)."""
        with self._db.writing():
            for conversation_id in conversation_ids:
                self._db.run(
                    "UPDATE turns SET is_synced = 0, is_kept = 1 WHERE conversation_id = ? AND is_over = 1",
                    conversation_id,
                )
                self._db.run(
                    "UPDATE conversations SET is_known = 0, is_missing = 1, synced_at = NULL WHERE conversation_id = ?",
                    conversation_id,
                )

    def settle_missing(self, *, keep: bool) -> tuple[str, ...]:
        """The person has decided about what the server lost. Returns the conversations."""
        with self._db.writing():
            names = tuple(name for (name,) in self._db.run(_SELECT_MISSING))
            if not keep:
                self._db.searcher.forget(_MISSING, ())
                for table in ("drafts", "edits", "traits", "turns", "conversations"):
                    self._db.run(f"DELETE FROM {table} WHERE {_MISSING}")  # noqa: S608 - constants
            self._db.run("UPDATE conversations SET is_missing = 0")
        return names

    def loses(self, conversation_id: str) -> tuple[str, ...]:
        """The turns that `gone` may delete."""
        with self._db.reading():
            query = "SELECT request_id FROM turns WHERE conversation_id = ? AND is_over = 1 AND is_kept = 0"
            return tuple(name for (name,) in self._db.run(query, conversation_id))

    def missing_turns(self) -> tuple[str, ...]:
        """The turns that `settle_missing` would delete."""
        with self._db.reading():
            return tuple(name for (name,) in self._db.run(_SELECT_MISSING_TURNS))

    def synced(self, conversation_id: str, state: str | None, *, new_answers: int) -> None:
        """The turns are as in this `Listed.state` (None: not all of them); `new_answers` of them are unread."""
        with self._db.writing():
            self._db.run(
                "UPDATE conversations SET synced_at = coalesce(?, synced_at), unread = unread + ? "
                "WHERE conversation_id = ?",
                state,
                new_answers,
                conversation_id,
            )

    def gone(self, conversation_id: str) -> Gone:
        """Deleted at the server. What only this app has (questions under way, imported turns, a draft) is kept."""
        db = self._db
        with db.writing():
            query = f"SELECT request_id FROM turns WHERE {_LOST}"  # noqa: S608 - constants
            removed = tuple(name for (name,) in db.run(query, conversation_id))
            db.searcher.forget(_LOST, (conversation_id,))
            db.run(f"DELETE FROM turns WHERE {_LOST}", conversation_id)  # noqa: S608 - constants
            (own,) = db.run_named(
                "SELECT "
                "(SELECT count(*) FROM turns WHERE conversation_id = :conversation AND (is_over = 0 OR is_kept)) "
                "+ (SELECT count(*) FROM edits WHERE conversation_id = :conversation) "
                "+ (SELECT count(*) FROM drafts WHERE conversation_id = :conversation)",
                {"conversation": conversation_id},
            ).fetchone()
            db.run_named(
                "UPDATE conversations SET is_known = 0, synced_at = NULL, title_to_send = NULL, unread = min(unread, "
                "(SELECT count(*) FROM turns WHERE conversation_id = :conversation AND is_over = 1)) "
                "WHERE conversation_id = :conversation",
                {"conversation": conversation_id},
            )
            if not own:
                db.searcher.forget("conversation_id = ?", (conversation_id,))
                for table in ("turns", "traits", "conversations"):
                    db.run(f"DELETE FROM {table} WHERE conversation_id = ?", conversation_id)  # noqa: S608 - constants
        return Gone(removed=removed, is_kept=bool(own))

    def _merge(self, conversation_id: str, turn: Turn, merge: TurnMerge) -> None:
        db = self._db
        row = db.run(f"{SELECT_TURNS} WHERE request_id = ?", turn.request_id).fetchone()
        before = None if row is None else turn_of(row)
        if before is not None and before.conversation_id != conversation_id:
            return
        if before is not None and not before.status.is_over:
            merge.under_way += 1
            return
        merged = turn if before is None else _merged(before, turn)
        if merged == before:
            return
        db.run_named(SAVE_TURN, row_of(merged))
        db.run("UPDATE turns SET is_kept = 0 WHERE request_id = ?", merged.request_id)
        db.searcher.add(merged)
        merge.changed.append(merged)
        is_shown = merged.status is TurnStatus.COMPLETED and merged.superseded_by is None
        merge.added += before is None and is_shown
        if merged.replaces is not None and is_shown:
            # A server that does not give superseded turns says no more of them than this.
            rows = db.run_named(SUPERSEDE, replaced_by(merged, merged.replaces)).fetchall()
            merge.changed.extend(turn_of(row) for row in rows)


def _merged(before: Turn, turn: Turn) -> Turn:
    """A turn that ended here and at the server."""
    superseded_by = turn.superseded_by or before.superseded_by
    if before.status is TurnStatus.COMPLETED or (before.is_synced and turn.answer == before.answer):
        return replace(
            before,
            attachments=before.attachments or turn.attachments,
            asked_at_ms=turn.asked_at_ms,
            is_synced=True,
            superseded_by=superseded_by,
        )
    turn = replace(turn, superseded_by=superseded_by)
    return replace(turn, times=before.times, finish_reason=before.finish_reason, attempt=before.attempt)
