"""The files of one user at one address: a database for each store that was met there, its copies, and sent files."""

import hashlib
import os
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from answerback.client import Attachment, File
from answerback_desktop.records import Account, KeptHistory
from answerback_desktop.store.schema import Database, StoreError, trouble_of
from answerback_desktop.store.store import AccountStore

COPIES: Final = 3
"""So many copies are kept. Another one is made only before something is deleted that the newest one does not have."""
_CURRENT: Final = "current_store"


class AccountFiles:
    """`KEY.db` belongs to the first store that was met, and says which one is in use now; `KEY.STORE.db` to another.

    So a gateway with another data folder at the same address, or an emptied one, never meets the conversations with the
    one before, which finds its own again when it comes back. Every method may raise StoreError.
    """

    def __init__(self, folder: Path, account: Account) -> None:
        self._folder = folder
        self._account = account
        self._first = folder / f"{account.key}.db"

    def open(self) -> Database:
        """The file of the store that was met last."""
        database = Database(self._first)
        store_id = AccountStore(database).mark(_CURRENT)
        if not store_id or database.moved_aside is not None:
            return database
        database.close()
        return Database(self._file_of(store_id))

    def met(self, store_id: str) -> None:
        """Another store answers at the address: from now on its file is opened. The one in use is closed."""
        with closing(Database(self._first)) as database:
            first = AccountStore(database)
            first.set_mark(_CURRENT, "" if first.store_id() == store_id else store_id)

    def is_elsewhere(self, store_id: str, current: Path) -> bool:
        """Whether there is a file of this store beside the one in use."""
        path = self._file_of(store_id)
        return path != current and path.exists()

    def kept(self, current: Path) -> tuple[KeptHistory, ...]:
        """What there is beside the file in use, last changed first; empty ones are left out."""
        paths = [*self._folder.glob(f"{self._account.key}.db"), *self._folder.glob(f"{self._account.key}.*.db")]
        found = [(path, False) for path in paths if path != current]
        found += [(path, True) for path in self._folder.glob(f"{self._account.key}.*copy-*[0-9]") if path != current]
        histories = [self._history(path, is_copy=is_copy) for path, is_copy in found]
        return tuple(sorted(filter(None, histories), key=lambda one: -one.changed_at_ms))

    def open_kept(self, name: str) -> Database | None:
        """One of `kept`; None: it is gone."""
        path = self._folder / name
        is_ours = path.parent == self._folder and name.startswith(f"{self._account.key}.")
        return Database(path) if is_ours and path.exists() else None

    def _file_of(self, store_id: str) -> Path:
        digest = hashlib.sha256(store_id.encode()).hexdigest()[:16]
        return self._folder / f"{self._account.key}.{digest}.db"

    @staticmethod
    def _history(path: Path, *, is_copy: bool) -> KeptHistory | None:
        rows = _read(path, "SELECT count(*), max(updated_at_ms) FROM conversations WHERE deleted_at_ms IS NULL")
        if not rows or not rows[0][0]:
            return None
        (count, changed_at_ms), *_ = rows
        return KeptHistory(name=path.name, conversations=count, changed_at_ms=changed_at_ms, is_copy=is_copy)


def keep_copy(database: Database, request_ids: Collection[str]) -> None:
    """Copy the file before these turns are deleted on a server's word. Raises: StoreError: then delete nothing."""
    path = database.path
    copies = sorted(path.parent.glob(f"{path.name}.copy-*[0-9]"), key=_number)
    if copies:
        have = {name for (name,) in _read(copies[-1], "SELECT request_id FROM turns WHERE is_over = 1")}
        if have.issuperset(request_ids):
            return
    number = _number(copies[-1]) + 1 if copies else 1
    database.copy_to(path.with_name(f"{path.name}.copy-{number}"))
    for old in copies[: max(0, len(copies) + 1 - COPIES)]:
        with suppress(OSError):
            old.unlink()


def _number(copy: Path) -> int:
    digits = copy.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _read(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of a file that nobody uses; none if it cannot be read."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.Error:
        return []


# --- files that go with questions


class FileGone(Exception):
    """There is no copy of a file of an earlier question: another device asked it. `name`: of the file."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class FileCopies:
    """Copies of them in one folder beside the database, so that what waits does not depend on the person's own files.

    There is a file for each content, named by its hash.
    """

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(f"{database.name}.files")

    def keep(self, files: Sequence[File | Attachment]) -> tuple[File, ...]:
        """The same files, each with a copy as its path. Of an earlier question's file the copy is there already.

        Raises: FileGone. StoreError: a copy cannot be written.
        """
        return tuple(self._found(one) if isinstance(one, Attachment) else self._copied(one) for one in files)

    def _found(self, one: Attachment) -> File:
        path = self._folder / one.sha256
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise FileGone(one.name) from exc
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise FileGone(one.name)
        return File(name=one.name, data=data, media_type=one.media_type, path=str(path))

    def _copied(self, file: File) -> File:
        path = self._folder / file.attachment.sha256
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
                copy.write(file.data)
                copy.flush()
                os.fsync(copy.fileno())  # the question that names it is on the disk, too
            os.replace(new, path)
        except OSError as exc:
            raise StoreError(trouble_of(exc)) from exc
        return File(name=file.name, data=file.data, media_type=file.media_type, path=str(path))

    def sweep(self, named: Collection[str]) -> None:
        """Delete the copies that no turn names. Raises: StoreError."""
        try:
            for path in self._folder.glob("*"):
                if path.name not in named:
                    path.unlink()
        except OSError as exc:
            raise StoreError(trouble_of(exc)) from exc
