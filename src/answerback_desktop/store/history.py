"""Merges the server's history into the local store and never overwrites what only the app has."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace

from answerback_desktop.records import Turn, TurnStatus
from answerback_desktop.store.schema import Database
from answerback_desktop.store.store import SAVE_TURN, SELECT_TURNS, row_of, turn_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A conversation as the server lists it. `updated_at`: the server's own word, to be compared only."""

    conversation_id: str
    title: str
    turns: int
    created_at_ms: int
    updated_at_ms: int
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListMerge:
    """What a whole list changed. `stale`: their turns have to be fetched. `missing`: known before, not listed now."""

    changed: tuple[str, ...]
    stale: tuple[Listed, ...]
    missing: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class TurnMerge:
    """What a page of history changed. `added`: answers that were not here before. `under_way`: turns that have ended
    at the server and not here yet, so that nothing of them was taken.
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
                new_title = one.title if title_to_send is None else title
                # A question still without an ending is not in the server's history: the list keeps its place.
                new_ms = max(one.updated_at_ms, updated_at_ms) if one.conversation_id in unended else one.updated_at_ms
                if (title, updated_at_ms, is_known) != (new_title, new_ms, 1):
                    db.run(
                        "UPDATE conversations SET title = ?, updated_at_ms = ?, is_known = 1 WHERE conversation_id = ?",
                        new_title,
                        new_ms,
                        one.conversation_id,
                    )
                    if deleted_at_ms is None:
                        changed.append(one.conversation_id)
                if synced_at != one.updated_at and deleted_at_ms is None:
                    stale.append(one)
        missing = tuple(name for name, (*_, deleted_at_ms, is_known) in known.items() if is_known and not deleted_at_ms)
        return ListMerge(changed=tuple(changed), stale=tuple(stale), missing=missing)

    def is_current(self, listed: Listed) -> bool:
        """Whether all that the server says of it is here."""
        with self._db.reading():
            query = "SELECT 1 FROM conversations WHERE conversation_id = ? AND synced_at = ?"
            return self._db.run(query, listed.conversation_id, listed.updated_at).fetchone() is not None

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
        """How many of the server's turns are here."""
        with self._db.reading():
            query = "SELECT count(*) FROM turns WHERE conversation_id = ? AND is_synced = 1"
            return int(self._db.run(query, conversation_id).fetchone()[0])

    def merge_turns(self, conversation_id: str, turns: Iterable[Turn]) -> TurnMerge:
        """Take turns of the server's history, oldest first.

        An answer that ended here keeps its text; a question that has not ended here goes on; a turn that only this app
        knows stays.
        """
        merge = TurnMerge()
        with self._db.writing():
            for turn in turns:
                self._merge(conversation_id, turn, merge)
        gone = set(merge.removed)
        merge.changed = [turn for turn in merge.changed if turn.request_id not in gone]
        return merge

    def remove_others(self, conversation_id: str, request_ids: Set[str]) -> TurnMerge:
        """The server has these turns only."""
        merge = TurnMerge()
        with self._db.writing():
            query = "SELECT request_id FROM turns WHERE conversation_id = ? AND is_synced = 1"
            names = [name for (name,) in self._db.run(query, conversation_id)]
            self._remove([name for name in names if name not in request_ids], merge)
        return merge

    def synced(self, conversation_id: str, updated_at: str | None, *, new_answers: int) -> None:
        """The turns are as new as the server's `updated_at` (None: not all of them); `new_answers` of them nobody has
        looked at.
        """
        with self._db.writing():
            self._db.run(
                "UPDATE conversations SET synced_at = coalesce(?, synced_at), unread = unread + ? "
                "WHERE conversation_id = ?",
                updated_at,
                new_answers,
                conversation_id,
            )

    def gone(self, conversation_id: str) -> Gone:
        """Deleted at the server. What only this app has (questions under way, a draft) is kept."""
        db = self._db
        with db.writing():
            names = db.run("SELECT request_id FROM turns WHERE conversation_id = ? AND is_synced = 1", conversation_id)
            removed = tuple(name for (name,) in names)
            db.searcher.forget("conversation_id = ? AND is_synced = 1", (conversation_id,))
            db.run("DELETE FROM turns WHERE conversation_id = ? AND is_synced = 1", conversation_id)
            (own,) = db.run_named(
                "SELECT (SELECT count(*) FROM turns WHERE conversation_id = :conversation AND is_over = 0) "
                "+ (SELECT count(*) FROM drafts WHERE conversation_id = :conversation)",
                {"conversation": conversation_id},
            ).fetchone()
            db.run(
                "UPDATE conversations SET is_known = 0, synced_at = NULL, title_to_send = NULL "
                "WHERE conversation_id = ?",
                conversation_id,
            )
            if not own:
                db.searcher.forget("conversation_id = ?", (conversation_id,))
                for table in ("turns", "conversations"):
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
        db.searcher.add(merged)
        merge.changed.append(merged)
        merge.added += before is None and merged.status is TurnStatus.COMPLETED
        if merged.replaces is not None and merged.status is TurnStatus.COMPLETED:
            rows = db.run_named(
                "SELECT request_id FROM turns WHERE conversation_id = :conversation AND is_over = 1 "
                "AND request_id <> :own AND (asked_at_ms, request_id) < (:asked_at_ms, :own) "
                "AND (asked_at_ms, request_id) >= (SELECT asked_at_ms, request_id FROM turns "
                "  WHERE conversation_id = :conversation AND request_id = :replaced AND is_over = 1)",
                {
                    "conversation": conversation_id,
                    "own": merged.request_id,
                    "asked_at_ms": merged.asked_at_ms,
                    "replaced": merged.replaces,
                },
            ).fetchall()
            self._remove([name for (name,) in rows], merge)

    def _remove(self, request_ids: list[str], merge: TurnMerge) -> None:
        for request_id in request_ids:
            self._db.searcher.forget("request_id = ?", (request_id,))
            self._db.run("DELETE FROM turns WHERE request_id = ?", request_id)
        merge.removed.extend(request_ids)


def _merged(before: Turn, turn: Turn) -> Turn:
    """A turn that ended here and at the server."""
    if before.status is TurnStatus.COMPLETED or (before.is_synced and turn.answer == before.answer):
        return replace(before, asked_at_ms=turn.asked_at_ms, is_synced=True)
    return replace(turn, times=before.times, finish_reason=before.finish_reason, attempt=before.attempt)
