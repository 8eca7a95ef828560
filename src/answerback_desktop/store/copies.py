"""Copies of the files that go with questions, so that what waits does not depend on the person's own files."""

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from answerback.client import Attachment, File
from answerback_desktop.store.schema import StoreError, trouble_of


class FileGone(Exception):
    """There is no copy of a file of an earlier question: another device asked it. `name`: of the file."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class FileCopies:
    """One folder beside the account's database, a file there for each content, named by its hash."""

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
