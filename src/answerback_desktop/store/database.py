"""One account's database: statements, and what is one transaction."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from answerback_desktop.store.schema import open_database
from answerback_desktop.store.search import Searcher

Value: TypeAlias = str | int | None


class StoreError(Exception):
    """The file cannot be read or written now. What was stored before is safe."""


class Database:
    """Used from one thread. `moved_aside`: where a file that could not be used was put."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises: StoreError."""
        try:
            opened = open_database(path)
        except (sqlite3.Error, OSError) as exc:
            raise StoreError from exc
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

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Only statements that read. Raises: StoreError."""
        try:
            yield
        except sqlite3.Error as exc:
            raise StoreError from exc

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
                raise StoreError from exc
            raise
