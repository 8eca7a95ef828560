"""The data of one account in one SQLite file. Used from one thread; every method is one transaction."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from answerback.client import MAX_TITLE_LENGTH, Attachment, PendingRequest, Usage, title_of
from answerback_desktop.records import (
    Conversation,
    Failure,
    FailureCode,
    SearchHit,
    Times,
    Traits,
    Turn,
    TurnStatus,
)
from answerback_desktop.store.schema import Database, Value

PAGE: Final = 20
_LAST_FIRST: Final = "ORDER BY is_over, asked_at_ms DESC, request_id DESC"
_OLDER: Final = """
    WITH RECURSIVE older (request_id) AS (
      SELECT request_id FROM turns WHERE superseded_by IN (SELECT value FROM json_each(?))
      UNION SELECT t.request_id FROM turns t JOIN older ON t.superseded_by = older.request_id
    ) """
_IN_ORDER: Final = "ORDER BY is_over DESC, asked_at_ms, request_id"
_OLDEST: Final = f" WHERE request_id IN (SELECT value FROM json_each(?)) {_IN_ORDER} LIMIT 1"  # noqa: S608 - constants
_IN_OLDER: Final = f" WHERE request_id IN older {_IN_ORDER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Turns, oldest first. `has_more`: there are older ones. `versions`: the turns that these ones superseded."""

    turns: tuple[Turn, ...]
    has_more: bool
    versions: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """A rename or deletion that the server does not have yet."""

    conversation_id: str
    title: str | None
    deleted_at_ms: int | None


class AccountStore:
    """The data of one account. Every method that touches the file may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # --- small things ---------------------------------------------------------------------------------------

    def session_id(self) -> str:
        """The app's session at this server; made once."""
        with self._db.writing():
            self._db.run("INSERT OR IGNORE INTO meta VALUES ('session_id', ?)", uuid.uuid4().hex)
            return str(self._db.run("SELECT value FROM meta WHERE key = 'session_id'").fetchone()[0])

    def claim_user(self, user_id: str) -> bool:
        """Record the user of this data; False: it belongs to another user."""
        with self._db.writing():
            self._db.run("INSERT OR IGNORE INTO meta VALUES ('user_id', ?)", user_id)
            return bool(self._db.run("SELECT value FROM meta WHERE key = 'user_id'").fetchone()[0] == user_id)

    def store_id(self) -> str:
        """The server's store that this data belongs to; "" if none is known yet."""
        return self.mark("store_id")

    def claim_store(self, store_id: str, *, is_own: bool) -> None:
        """Record the server's store, once. `is_own`: of the gateway that this app runs."""
        with self._db.writing():
            self._db.run("INSERT OR IGNORE INTO meta VALUES ('store_id', ?)", store_id)
            self._db.run("INSERT OR REPLACE INTO meta VALUES ('is_own_gateway', ?)", "1" if is_own else "")

    def is_of_own_gateway(self) -> bool:
        """Whether the gateway that this app runs may be started for it: it has these conversations, or nobody has."""
        return not self.store_id() or bool(self.mark("is_own_gateway"))

    def mark(self, key: str) -> str:
        """A fact about the file; "" if there is none of that name."""
        with self._db.reading():
            row = self._db.run("SELECT value FROM meta WHERE key = ?", key).fetchone()
            return "" if row is None else str(row[0])

    def set_mark(self, key: str, value: str) -> None:
        with self._db.writing():
            self._db.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)

    def edits(self) -> tuple[tuple[str, str, str], ...]:
        """Questions that were changed and not asked again: conversation, request, text."""
        with self._db.reading():
            return tuple(self._db.run("SELECT conversation_id, request_id, text FROM edits"))

    def save_edit(self, conversation_id: str, request_id: str, text: str) -> None:
        """Store a changed question; an empty text deletes it."""
        with self._db.writing():
            self._db.run("DELETE FROM edits WHERE request_id = ?", request_id)
            if text:
                self._db.run("INSERT INTO edits VALUES (?, ?, ?)", request_id, conversation_id, text)

    def traits(self) -> dict[str, Traits]:
        """By conversation id."""
        with self._db.reading():
            rows = self._db.run("SELECT conversation_id, value FROM traits").fetchall()
            return {name: msgspec.json.decode(value, type=Traits) for name, value in rows}

    def save_traits(self, conversation_id: str, traits: Traits) -> None:
        with self._db.writing():
            self._db.run("DELETE FROM traits WHERE conversation_id = ?", conversation_id)
            if traits != Traits():
                value = msgspec.json.encode(traits).decode()
                self._db.run("INSERT INTO traits VALUES (?, ?)", conversation_id, value)

    def drafts(self) -> dict[str, str]:
        """By conversation id."""
        with self._db.reading():
            return dict(self._db.run("SELECT conversation_id, text FROM drafts").fetchall())

    def save_draft(self, conversation_id: str, text: str) -> None:
        """Store a draft; an empty text deletes it."""
        with self._db.writing():
            if text:
                self._db.run("INSERT OR REPLACE INTO drafts VALUES (?, ?)", conversation_id, text)
            else:
                self._db.run("DELETE FROM drafts WHERE conversation_id = ?", conversation_id)

    # --- conversations --------------------------------------------------------------------------------------

    def conversations(self) -> tuple[Conversation, ...]:
        """Those that are not deleted, last used first."""
        with self._db.reading():
            query = f"{SELECT_CONVERSATIONS} WHERE deleted_at_ms IS NULL ORDER BY updated_at_ms DESC, conversation_id"
            return tuple(conversation_of(row) for row in self._db.run(query))

    def conversation(self, conversation_id: str) -> Conversation | None:
        """One that is not deleted."""
        with self._db.reading():
            query = f"{SELECT_CONVERSATIONS} WHERE deleted_at_ms IS NULL AND conversation_id = ?"
            row = self._db.run(query, conversation_id).fetchone()
            return None if row is None else conversation_of(row)

    def mark_read(self, conversation_id: str) -> bool:
        """Whether anything was unread."""
        with self._db.writing():
            query = "UPDATE conversations SET unread = 0 WHERE conversation_id = ? AND unread > 0"
            return self._db.run(query, conversation_id).rowcount > 0

    def rename(self, conversation_id: str, title: str, *, now_ms: int) -> None:
        """Here at once; `unsent` has it until `title_sent`."""
        with self._db.writing():
            query = "UPDATE conversations SET title = ?, title_to_send = ?, updated_at_ms = ? WHERE conversation_id = ?"
            title = title[:MAX_TITLE_LENGTH]
            self._db.run(query, title, title, now_ms, conversation_id)

    def title_sent(self, conversation_id: str, title: str) -> None:
        """The server has this title; a newer one still has to go."""
        with self._db.writing():
            query = "UPDATE conversations SET title_to_send = NULL WHERE conversation_id = ? AND title_to_send = ?"
            self._db.run(query, conversation_id, title)

    def delete(self, conversation_id: str, *, now_ms: int) -> bool:
        """Take it off the list; False: there is no such."""
        with self._db.writing():
            query = "UPDATE conversations SET deleted_at_ms = ? WHERE conversation_id = ? AND deleted_at_ms IS NULL"
            return self._db.run(query, now_ms, conversation_id).rowcount > 0

    def undelete(self, conversation_id: str) -> bool:
        """Bring it back; False: it is gone."""
        with self._db.writing():
            query = "UPDATE conversations SET deleted_at_ms = NULL WHERE conversation_id = ? AND deleted_at_ms > 0"
            return self._db.run(query, conversation_id).rowcount > 0

    def unsent(self) -> tuple[Unsent, ...]:
        """Renames and deletions that the server does not have yet."""
        with self._db.reading():
            rows = self._db.run(
                "SELECT conversation_id, title_to_send, deleted_at_ms FROM conversations "
                "WHERE title_to_send IS NOT NULL OR deleted_at_ms IS NOT NULL"
            )
            return tuple(Unsent(conversation_id=name, title=title, deleted_at_ms=at_ms) for name, title, at_ms in rows)

    def forget_conversation(self, conversation_id: str) -> None:
        """Delete a conversation for good, with its turns and its draft."""
        with self._db.writing():
            self._db.searcher.forget("conversation_id = ?", (conversation_id,))
            for table in ("turns", "drafts", "edits", "traits", "conversations"):
                self._db.run(f"DELETE FROM {table} WHERE conversation_id = ?", conversation_id)  # noqa: S608 - constants

    # --- turns ----------------------------------------------------------------------------------------------

    def turn(self, request_id: str) -> Turn | None:
        with self._db.reading():
            row = self._db.run(f"{SELECT_TURNS} WHERE request_id = ?", request_id).fetchone()
            return None if row is None else turn_of(row)

    def page(self, conversation_id: str, *, before: str | None = None, limit: int | None = PAGE) -> Page:
        """The newest turns, or those before one; `limit` None: all of them."""
        with self._db.reading():
            where = "WHERE conversation_id = ? AND superseded_by IS NULL"
            values: list[Value] = [conversation_id]
            if before is not None:
                where += (
                    " AND (-is_over, asked_at_ms, request_id) < "
                    "(SELECT -is_over, asked_at_ms, request_id FROM turns WHERE request_id = ?)"
                )
                values.append(before)
            size = -1 if limit is None else limit + 1
            rows = self._db.run(f"{SELECT_TURNS} {where} {_LAST_FIRST} LIMIT ?", *values, size).fetchall()
            has_more = limit is not None and len(rows) > limit
            kept = tuple(turn_of(row) for row in reversed(rows[:limit] if has_more else rows))
            versions = self._versions([turn.request_id for turn in kept if turn.replaces is not None])
            return Page(turns=kept, has_more=has_more, versions=versions)

    def _versions(self, request_ids: list[str]) -> tuple[Turn, ...]:
        """All turns that these ones superseded, and those that were superseded by them before."""
        if not request_ids:
            return ()
        rows = self._db.run(
            _OLDER + SELECT_TURNS + _IN_OLDER,
            msgspec.json.encode(request_ids).decode(),
        )
        return tuple(turn_of(row) for row in rows)

    def oldest(self, request_ids: Collection[str]) -> tuple[bool, int, str] | None:
        """The order of the oldest of these turns; None: none of them is here."""
        with self._db.reading():
            names = msgspec.json.encode(list(request_ids)).decode()
            row = self._db.run(SELECT_TURNS + _OLDEST, names).fetchone()
            return None if row is None else turn_of(row).order

    def pending(self) -> tuple[Turn, ...]:
        """Those that are not over, in the order asked."""
        with self._db.reading():
            rows = self._db.run(f"{SELECT_TURNS} WHERE is_over = 0 ORDER BY asked_at_ms, request_id")
            return tuple(turn_of(row) for row in rows)

    def save_partial(self, request_id: str, *, attempt: int, text: str, status: TurnStatus) -> None:
        """The text so far of an answer that still comes."""
        with self._db.writing():
            query = "UPDATE turns SET attempt = ?, answer = ?, status = ? WHERE request_id = ? AND is_over = 0"
            self._db.run(query, attempt, text, status.value, request_id)

    def forget_turn(self, request_id: str) -> bool:
        """Remove one that is over and that the server does not have."""
        with self._db.writing():
            where = "request_id = ? AND is_over = 1 AND is_synced = 0"
            self._db.searcher.forget(where, (request_id,))
            return self._db.run(f"DELETE FROM turns WHERE {where}", request_id).rowcount > 0  # noqa: S608 - constant

    def attached(self) -> frozenset[str]:
        """The hashes of all files that turns were asked with."""
        with self._db.reading():
            rows = self._db.run(
                "SELECT DISTINCT json_extract(value, '$.sha256') FROM turns, json_each(turns.attachments)"
            )
            return frozenset(str(sha256) for (sha256,) in rows)

    def import_turns(self, conversation: Conversation, turns: Sequence[Turn]) -> list[Turn]:
        """Add those that are not here, and their conversation. Returns them. Nothing that is here changes."""
        added = []
        with self._db.writing():
            query = "SELECT deleted_at_ms FROM conversations WHERE conversation_id = ?"
            row = self._db.run(query, conversation.conversation_id).fetchone()
            if row is not None and row[0] is not None:
                return []
            self._db.run(
                "INSERT OR IGNORE INTO conversations (conversation_id, title, created_at_ms, updated_at_ms) "
                "VALUES (?, ?, ?, ?)",
                conversation.conversation_id,
                conversation.title,
                conversation.created_at_ms,
                conversation.updated_at_ms,
            )
            for turn in turns:
                if self._db.run("SELECT 1 FROM turns WHERE request_id = ?", turn.request_id).fetchone() is None:
                    self._db.run_named(SAVE_TURN, row_of(turn))
                    self._db.run("UPDATE turns SET is_kept = 1 WHERE request_id = ?", turn.request_id)
                    self._db.searcher.add(turn)
                    added.append(turn)
        return added

    def search(self, query: str, *, limit: int) -> tuple[SearchHit, ...]:
        """Titles first, then turns, newest first."""
        with self._db.reading():
            return tuple(self._db.searcher.search(query, limit=limit))

    # --- the outbox -----------------------------------------------------------------------------------------

    def load_outbox(self) -> Sequence[PendingRequest]:
        """What has not ended, in the order asked. A row that cannot be read is left out, and stays."""
        with self._db.reading():
            rows = self._db.run("SELECT pending FROM turns WHERE is_over = 0 ORDER BY asked_at_ms, id").fetchall()
        kept = []
        for (data,) in rows:
            try:
                kept.append(PendingRequest.from_dict(msgspec.json.decode(data)))
            except (ValueError, TypeError, msgspec.MsgspecError):
                continue
        return kept

    def put_question(
        self, pending: PendingRequest, *, now_ms: int
    ) -> tuple[Turn, Conversation | None, tuple[Turn, ...]]:
        """Keep a question, and its conversation. Returns the turn, the conversation if it changed, and the turns that
        it supersedes.
        """
        frame = pending.frame
        conversation_id = frame.conversation_id or ""
        with self._db.writing():
            (last_ms,) = self._db.run(
                "SELECT max(asked_at_ms) FROM turns WHERE conversation_id = ?", conversation_id
            ).fetchone()
            turn = Turn(
                request_id=frame.request_id,
                conversation_id=conversation_id,
                question=frame.message,
                asked_at_ms=now_ms if last_ms is None else max(now_ms, last_ms + 1),
                model=frame.model,
                replaces=frame.replaces,
                attachments=frame.attachments,
            )
            self._db.run(
                "INSERT INTO conversations (conversation_id, title, created_at_ms, updated_at_ms) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET updated_at_ms = max(updated_at_ms, excluded.updated_at_ms), "
                "deleted_at_ms = NULL",
                conversation_id,
                title_of(frame.message),
                now_ms,
                now_ms,
            )
            superseded = () if frame.replaces is None else self._supersede(turn, frame.replaces)
            self._db.run_named(SAVE_TURN, row_of(turn))
            self._note_pending(pending)
        return turn, self.conversation(conversation_id), superseded

    def note_accepted(self, pending: PendingRequest, status: TurnStatus) -> None:
        """Record that the server has accepted the question."""
        with self._db.writing():
            self._note_pending(pending)
            self._db.run(
                "UPDATE turns SET status = ? WHERE request_id = ? AND is_over = 0",
                status.value,
                pending.frame.request_id,
            )

    def end(self, ended: Turn, *, is_unread: bool, now_ms: int) -> tuple[Turn, tuple[Turn, ...]]:
        """The one ending with its text. Returns the turns that come back, because it did not complete."""
        with self._db.writing():
            # The outbox's own instant may be behind other devices' clocks: what ends now comes after what has ended.
            (last_ms,) = self._db.run(
                "SELECT max(asked_at_ms) FROM turns WHERE conversation_id = ? AND is_over = 1 AND request_id <> ? "
                "AND superseded_by IS NULL",
                ended.conversation_id,
                ended.request_id,
            ).fetchone()
            if last_ms is not None and last_ms >= ended.asked_at_ms:
                ended = replace(ended, asked_at_ms=last_ms + 1)
            self._db.run_named(SAVE_TURN, row_of(ended))
            self._db.run("UPDATE turns SET pending = NULL WHERE request_id = ?", ended.request_id)
            self._db.searcher.add(ended)
            self._db.run(
                "UPDATE conversations SET updated_at_ms = max(updated_at_ms, ?), unread = unread + ? "
                "WHERE conversation_id = ?",
                now_ms,
                int(is_unread),
                ended.conversation_id,
            )
            return ended, self._settle(ended)

    def _note_pending(self, pending: PendingRequest) -> None:
        data = msgspec.json.encode(pending.to_dict()).decode()
        self._db.run(
            "UPDATE turns SET pending = ? WHERE request_id = ? AND is_over = 0", data, pending.frame.request_id
        )

    def _supersede(self, turn: Turn, replaced: str) -> tuple[Turn, ...]:
        """Hide the replaced turn and all ended ones after it, for as long as `turn` may complete, and if it does."""
        rows = self._db.run_named(SUPERSEDE, replaced_by(turn, replaced)).fetchall()
        return tuple(turn_of(row) for row in rows)

    def _settle(self, ended: Turn) -> tuple[Turn, ...]:
        if ended.status is TurnStatus.COMPLETED:
            return ()
        rows = self._db.run(
            _BRING_BACK,
            ended.request_id,
        ).fetchall()
        return tuple(sorted((turn_of(row) for row in rows), key=lambda turn: turn.order))


_SAME: Final = (
    *("request_id", "conversation_id", "question", "answer", "asked_at_ms", "answered_at_ms", "attempt", "model"),
    *("replaces", "finish_reason", "superseded_by"),
)
"""The columns that hold a field of `Turn` as it is."""
_OF_FAILURE: Final = ("retry_at_ms", "opens_at_ms")
_OF_TOKENS: Final = ("input_tokens", "output_tokens")
_OF_TIMES: Final = ("queued_ms", "first_text_ms", "total_ms")


def row_of(turn: Turn) -> dict[str, Any]:
    """A turn for `SAVE_TURN`."""
    failure = turn.failure
    return {
        **{name: getattr(turn, name) for name in _SAME},
        **{name: getattr(failure, name, None) for name in _OF_FAILURE},
        **{name: getattr(turn.tokens, name, None) for name in _OF_TOKENS},
        **{name: getattr(turn.times, name, None) for name in _OF_TIMES},
        "status": turn.status.value,
        "is_over": turn.status.is_over,
        "failure": None if failure is None else failure.code.value,
        "is_retryable": failure is not None and failure.is_retryable,
        "is_synced": turn.is_synced,
        "attachments": msgspec.json.encode(turn.attachments).decode() if turn.attachments else None,
    }


TURN_COLUMNS: Final = tuple(row_of(Turn(request_id="", conversation_id="", question="", asked_at_ms=0)))
REPLACED: Final = (
    "WHERE conversation_id = :conversation AND superseded_by IS NULL AND is_over = 1 "
    "AND request_id <> :own AND (asked_at_ms, request_id) < (:asked_at_ms, :own) "
    "AND (asked_at_ms, request_id) >= (SELECT asked_at_ms, request_id FROM turns "
    "  WHERE conversation_id = :conversation AND request_id = :replaced AND is_over = 1) "
)
"""Of a conversation: the turn `replaced` and those between it and the turn `own`."""
SUPERSEDE: Final = f"UPDATE turns SET superseded_by = :own {REPLACED} RETURNING {', '.join(TURN_COLUMNS)}"  # noqa: S608
_BRING_BACK: Final = (
    f"UPDATE turns SET superseded_by = NULL WHERE superseded_by = ? RETURNING {', '.join(TURN_COLUMNS)}"  # noqa: S608
)


def replaced_by(turn: Turn, replaced: str) -> dict[str, Value]:
    """The values of `REPLACED`."""
    return {
        "conversation": turn.conversation_id,
        "own": turn.request_id,
        "asked_at_ms": turn.asked_at_ms,
        "replaced": replaced,
    }


SELECT_TURNS: Final = f"SELECT {', '.join(TURN_COLUMNS)} FROM turns "  # noqa: S608 - constants
SAVE_TURN: Final = (
    f"INSERT INTO turns ({', '.join(TURN_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in TURN_COLUMNS)}) "  # noqa: S608
    f"ON CONFLICT (request_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in TURN_COLUMNS)}"
)
SELECT_CONVERSATIONS: Final = (
    "SELECT conversation_id, title, created_at_ms, updated_at_ms, unread, is_missing FROM conversations "
)


def turn_of(row: Sequence[Any]) -> Turn:
    """A row of `SELECT_TURNS`."""
    found = dict(zip(TURN_COLUMNS, row, strict=True))
    failure, tokens, times = None, None, None
    if found["failure"] is not None:
        more = {name: found[name] for name in _OF_FAILURE}
        failure = Failure(code=FailureCode(found["failure"]), is_retryable=bool(found["is_retryable"]), **more)
    if found["input_tokens"] is not None:
        tokens = Usage(**{name: found[name] for name in _OF_TOKENS})
    if found["total_ms"] is not None:
        times = Times(**{name: found[name] for name in _OF_TIMES})
    return Turn(
        **{name: found[name] for name in _SAME},
        status=TurnStatus(found["status"]),
        failure=failure,
        tokens=tokens,
        times=times,
        is_synced=bool(found["is_synced"]),
        attachments=msgspec.json.decode(found["attachments"] or "[]", type=tuple[Attachment, ...]),
    )


def conversation_of(row: Sequence[Any]) -> Conversation:
    """A row of `SELECT_CONVERSATIONS`."""
    *facts, is_missing = row
    names = ("conversation_id", "title", "created_at_ms", "updated_at_ms", "unread")
    return Conversation(**dict(zip(names, facts, strict=True)), is_missing=bool(is_missing))
