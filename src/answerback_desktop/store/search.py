"""Full-text search over the local conversations."""

import re
import sqlite3
from collections.abc import Iterator
from typing import Final

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
