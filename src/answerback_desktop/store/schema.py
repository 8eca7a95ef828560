"""The tables of an account's database, and opening its file."""

import errno
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

from answerback_desktop.records import SearchHit, Turn

_TRIGRAM: Final = 3
_BEFORE: Final = 30
_AFTER: Final = 90


class Searcher:
    """Over the `turns` and `conversations` of a database; with an index of trigrams where SQLite has them.

    All words of a query have to be in the text, anywhere, also within words; upper and lower case are the same.
    """

    def __init__(self, db: sqlite3.Connection, *, has_index: bool) -> None:
        self._db = db
        self._has_index = has_index

    def add(self, turn: Turn) -> None:
        """Index a turn that is over, or index it again."""
        if not self._has_index:
            return
        self.forget("request_id = ?", (turn.request_id,))
        self._db.execute(
            "INSERT INTO texts (rowid, question, answer) SELECT id, question, answer FROM turns WHERE request_id = ?",
            (turn.request_id,),
        )

    def forget(self, where: str, values: tuple[str, ...]) -> None:
        """Take the turns that fulfil `where` out of the index, before they are deleted. `where` is a constant."""
        if self._has_index:
            query = f"DELETE FROM texts WHERE rowid IN (SELECT id FROM turns WHERE {where})"  # noqa: S608 - a constant
            self._db.execute(query, values)

    def search(self, query: str, *, limit: int) -> Iterator[SearchHit]:
        """Titles first, then turns, newest first; at most `limit` of each."""
        words = query.split()
        if not words:
            return
        like = ["%" + re.sub(r"([%_^])", r"^\1", word) + "%" for word in words]
        titles = self._db.execute(
            "SELECT conversation_id, title FROM conversations WHERE deleted_at_ms IS NULL AND "  # noqa: S608 - constants
            f"{' AND '.join(['title LIKE ? ESCAPE ?'] * len(words))} ORDER BY updated_at_ms DESC LIMIT ?",
            (*(value for pattern in like for value in (pattern, "^")), limit),
        )
        for conversation_id, title in titles.fetchall():
            yield _hit(conversation_id, None, title, words)
        for conversation_id, request_id, question, answer in self._turns(words, like, limit):
            text = question if any(word.casefold() in question.casefold() for word in words) else answer
            yield _hit(conversation_id, request_id, text, words)

    def _turns(self, words: list[str], like: list[str], limit: int) -> list[tuple[str, str, str, str]]:
        condition = " AND ".join(["(t.question || char(10) || t.answer) LIKE ? ESCAPE ?"] * len(like))
        values: list[str | int] = [value for pattern in like for value in (pattern, "^")]
        if self._has_index and all(len(word) >= _TRIGRAM for word in words):
            condition = "t.id IN (SELECT rowid FROM texts WHERE texts MATCH ?)"
            values = [" AND ".join('"' + word.replace('"', '""') + '"' for word in words)]
        return self._db.execute(
            "SELECT t.conversation_id, t.request_id, t.question, t.answer FROM turns t "  # noqa: S608 - constants
            "JOIN conversations c ON c.conversation_id = t.conversation_id AND c.deleted_at_ms IS NULL "
            f"WHERE t.is_over = 1 AND t.superseded_by IS NULL AND {condition} ORDER BY t.asked_at_ms DESC LIMIT ?",
            (*values, limit),
        ).fetchall()


def _hit(conversation_id: str, request_id: str | None, text: str, words: list[str]) -> SearchHit:
    """The surroundings of the phrase, or else of the first word that is found, on one line."""
    any_word = re.compile("|".join(map(re.escape, words)), re.IGNORECASE)
    phrase = re.search(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE) or any_word.search(text)
    start, end = phrase.span() if phrase is not None else (0, 0)
    first, last = max(0, start - _BEFORE), min(len(text), end + _AFTER)
    excerpt = f"{'…' if first else ''}{_line(text[first:last])}{'…' if last < len(text) else ''}"
    marks = tuple(found.span() for found in any_word.finditer(excerpt))
    return SearchHit(conversation_id=conversation_id, request_id=request_id, excerpt=excerpt, marks=marks)


def _line(text: str) -> str:
    return re.sub(r"\s", " ", text)


_MIGRATIONS: Final = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE conversations (
      conversation_id TEXT PRIMARY KEY,
      title TEXT NOT NULL,
      created_at_ms INTEGER NOT NULL,
      updated_at_ms INTEGER NOT NULL,
      unread INTEGER NOT NULL DEFAULT 0,
      is_known INTEGER NOT NULL DEFAULT 0, -- the server has listed it
      synced_at TEXT, -- the server's updatedAt that our turns are at least as new as
      title_to_send TEXT,
      deleted_at_ms INTEGER -- taken off the list here; the server is told when the undo is over
    ) WITHOUT ROWID;
    CREATE TABLE turns (
      id INTEGER PRIMARY KEY,
      request_id TEXT NOT NULL UNIQUE,
      conversation_id TEXT NOT NULL,
      question TEXT NOT NULL,
      answer TEXT NOT NULL,
      status TEXT NOT NULL,
      is_over INTEGER NOT NULL,
      asked_at_ms INTEGER NOT NULL,
      answered_at_ms INTEGER,
      attempt INTEGER NOT NULL,
      failure TEXT,
      is_retryable INTEGER NOT NULL DEFAULT 0,
      retry_at_ms INTEGER,
      model TEXT,
      replaces TEXT,
      finish_reason TEXT,
      input_tokens INTEGER,
      output_tokens INTEGER,
      queued_ms INTEGER,
      first_text_ms INTEGER,
      total_ms INTEGER,
      is_synced INTEGER NOT NULL,
      superseded_by TEXT, -- a later turn that is under way and takes its place if it completes
      pending TEXT -- what the outbox keeps of an unfinished question
    );
    CREATE INDEX turns_of_a_conversation ON turns (conversation_id, is_over DESC, asked_at_ms, request_id);
    CREATE INDEX turns_under_way ON turns (is_over) WHERE is_over = 0;
    CREATE INDEX turns_replaced ON turns (superseded_by) WHERE superseded_by IS NOT NULL;
    CREATE TABLE drafts (conversation_id TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
    """,
    # From here on `superseded_by` stays when the later turn has completed, and `synced_at` has the count of turns too.
    # Turns that were replaced were deleted before: what can have had some is fetched again, with them.
    """
    ALTER TABLE turns ADD COLUMN is_kept INTEGER NOT NULL DEFAULT 0; -- imported, or lost by the server
    ALTER TABLE conversations ADD COLUMN is_missing INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE edits (request_id TEXT PRIMARY KEY, conversation_id TEXT NOT NULL, text TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE traits (conversation_id TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    UPDATE conversations SET synced_at = NULL
    WHERE conversation_id IN (SELECT conversation_id FROM turns WHERE replaces IS NOT NULL);
    """,
    """
    ALTER TABLE turns ADD COLUMN attachments TEXT; -- as on the wire, if there are any
    """,
    "ALTER TABLE turns ADD COLUMN opens_at_ms INTEGER",
)
"""Number n brings a file from user_version n to n + 1. Never change one that was released; add another."""

_INDEX: Final = "CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5(question, answer, tokenize = 'trigram')"
_BUSY_MS: Final = 2_000


class UnusableFile(Exception):
    """Not a database of ours: broken, or of a newer version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """`moved_aside`: where a file that could not be used was put. `has_index`: SQLite can index parts of words."""

    connection: sqlite3.Connection
    has_index: bool
    moved_aside: Path | None


def open_database(path: Path) -> Opened:
    """The database at `path`, made or brought up to date; one that cannot be used is moved aside and replaced.

    Raises: OSError, sqlite3.Error: the folder cannot be written to.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    moved_aside = None
    try:
        connection = _connect(path)
    except UnusableFile:
        moved_aside = _move_aside(path)
        connection = _connect(path)
    with suppress(OSError):
        os.chmod(path, 0o600)
    return Opened(connection=connection, has_index=_make_index(connection), moved_aside=moved_aside)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_MS / 1000)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        _migrate(connection)
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise UnusableFile
    except BaseException as exc:
        connection.close()
        # Broken files are DatabaseError itself; its subclasses mean full disks and the like, where the file is good.
        if type(exc) is sqlite3.DatabaseError:
            raise UnusableFile from exc
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not 0 <= version <= len(_MIGRATIONS):
        raise UnusableFile
    for number in range(version, len(_MIGRATIONS)):
        connection.executescript(f"BEGIN; {_MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT;")


def _make_index(connection: sqlite3.Connection) -> bool:
    """Trigrams find parts of words, as Chinese, Japanese and Korean need; not every SQLite has them."""
    try:
        connection.execute(_INDEX)
    except sqlite3.OperationalError:
        return False
    return True


def _move_aside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{target}{suffix}")
    return target


Value: TypeAlias = str | int | None


class StoreTrouble(StrEnum):
    """What a person can do something about."""

    FULL = "full"
    LOCKED = "locked"
    """Another program holds the file."""
    OTHER = "failed"


class StoreError(Exception):
    """The file cannot be read or written now. What was stored before is safe."""

    def __init__(self, trouble: StoreTrouble = StoreTrouble.OTHER) -> None:
        super().__init__(trouble)
        self.trouble = trouble


_NO_ROOM: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_HELD: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def trouble_of(exc: sqlite3.Error | OSError) -> StoreTrouble:
    """Why a file cannot be read or written."""
    code = getattr(exc, "sqlite_errorcode", 0)
    if code in _NO_ROOM or getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return StoreTrouble.FULL
    return StoreTrouble.LOCKED if code & 0xFF in _HELD else StoreTrouble.OTHER


class Database:
    """Used from one thread. `moved_aside`: where a file that could not be used was put."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises: StoreError."""
        self.path = path
        try:
            opened = open_database(path)
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(trouble_of(exc)) from exc
        self._connection = opened.connection
        self.moved_aside = opened.moved_aside
        self.searcher = Searcher(self._connection, has_index=opened.has_index)

    def close(self) -> None:
        """Write everything into the one file."""
        self._connection.close()

    def run(self, query: str, *values: Value) -> sqlite3.Cursor:
        """One statement, with positional values."""
        return self._connection.execute(query, values)

    def run_named(self, query: str, values: Mapping[str, Value]) -> sqlite3.Cursor:
        """One statement, with named values."""
        return self._connection.execute(query, values)

    def copy_to(self, path: Path) -> None:
        """Write all of it into another file. Raises: StoreError."""
        path.unlink(missing_ok=True)
        with self.reading():
            self._connection.execute("VACUUM INTO ?", (str(path),))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Only statements that read. Raises: StoreError."""
        try:
            yield
        except sqlite3.Error as exc:
            raise StoreError(trouble_of(exc)) from exc

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All of it or nothing. Raises: StoreError."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as exc:
            if self._connection.in_transaction:
                self._connection.rollback()
            if isinstance(exc, sqlite3.Error):
                raise StoreError(trouble_of(exc)) from exc
            raise
