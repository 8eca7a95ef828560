"""Copies of a store that are checked: a folder with the data, and a manifest that says what must be in them.

    backup     FOLDER.part: data ──► checked ──► manifest ──► FOLDER
                                                          ▲
                      dies here: FOLDER.part stays, and is no backup

    restore    manifest ──► is the data whole, the place empty, nobody there? ──► copy ──► checked ──► the store

Both overwrite nothing. A gateway may run during a backup. Everything here blocks. Raises: StoreError, StoreInUse.
"""

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec

from answerback import __version__
from answerback.core.instants import LAST_MS
from answerback.stores import FILE_NAME
from answerback.stores import statements as sql
from answerback.stores.database import Database, StoreError, StoreInUse
from answerback.stores.migrations import missing, shipped
from answerback.stores.sqlite import SqliteDatabase, cause_of

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
_PART: Final = ".part"
_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


class Content(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """What a store has. `store_id` None: it was made before stores had one. `rows`: by table."""

    store_id: str | None
    schema_version: int
    rows: dict[str, int]


class Manifest(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """What a backup is. `tool_version`: the major version of PostgreSQL's program that wrote it."""

    format: int
    database: str
    content: Content
    made_at_ms: Annotated[int, msgspec.Meta(ge=0, le=LAST_MS // 2)]
    version: str
    file: str
    size: int
    sha256: str
    tool_version: int | None = None


def content_of(database: Database, tables: str = _TABLES, params: sql.Params | None = None) -> Content:
    """Count every row. `tables`: a query for the names. Raises: StoreError: it is no store."""
    names = sorted(name for (name,) in database.execute(tables, params or {}).fetchall())
    if not {"users", "requests", "conversations", "schema_migrations"} <= set(names):
        raise StoreError("This database has no store of a gateway.")
    rows = {name: database.execute(f'SELECT COUNT(*) FROM "{name}"').fetchall()[0][0] for name in names}  # noqa: S608
    found = database.execute(sql.SELECT_MARK, {"name": "store_id"}).fetchall() if "marks" in rows else []
    ((version,),) = database.execute(sql.SELECT_VERSION).fetchall()
    return Content(store_id=found[0][0] if found else None, schema_version=version, rows=rows)


def write_backup(
    folder: Path,
    file_name: str,
    write: Callable[[Path], Content],
    *,
    database: str,
    now_ms: int,
    tool_version: int | None = None,
) -> Manifest:
    """Make the backup `folder`. `write` puts the data into a file, and returns what it has found in there."""
    part = folder.with_name(folder.name + _PART)
    if os.path.lexists(folder):
        raise StoreError(f"{folder} exists, and a backup overwrites nothing. Name a new folder.")
    try:
        part.mkdir(mode=0o700)
    except FileExistsError as exc:
        raise StoreError(
            f"{part} exists: a backup is being written there, or was interrupted. If none is, delete it."
        ) from exc
    except OSError as exc:
        raise StoreError(f"{folder} cannot be made ({exc.strerror}). Name a folder that this user may make.") from exc
    try:
        file = part / file_name
        file.touch(mode=0o600)
        content = write(file)
        manifest = Manifest(
            format=FORMAT,
            database=database,
            content=content,
            made_at_ms=now_ms,
            version=__version__,
            file=file_name,
            size=file.stat().st_size,
            sha256=_digest(file),
            tool_version=tool_version,
        )
        (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        for written in (file, part / MANIFEST, part):
            flush(written)
        part.rename(folder)
        flush(folder.parent)
    except BaseException as exc:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(exc, OSError):
            raise StoreError(f"The backup cannot be written to {folder} ({exc.strerror}).") from exc
        raise
    return manifest


def read_backup(folder: Path, *, database: str) -> tuple[Manifest, Path]:
    """The manifest of a backup, and its data, which are as they were written. `database`: which kind is wanted."""
    if folder.name.endswith(_PART):
        raise StoreError(f"{folder} is a backup that was interrupted: it is not whole. Restore another one.")
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        file = folder / Path(manifest.file).name
        if manifest.format > FORMAT:
            raise StoreError("A newer program has made this backup. Upgrade the program.")
        is_whole = file.stat().st_size == manifest.size and _digest(file) == manifest.sha256
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise StoreError(
            f"{folder} is not a backup: there is no {Path(exc.filename).name}. "
            "Name the folder that answerback backup has made."
        ) from exc
    except OSError as exc:
        raise StoreError(f"{folder} cannot be read ({exc.strerror}). Make it readable for this user.") from exc
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise StoreError(f"{folder} is not a backup: its {MANIFEST} cannot be read. Restore another one.") from exc
    if not is_whole:
        raise StoreError(f"{file} is damaged: it is not what was written. Restore another one.")
    if manifest.database != database:
        raise StoreError(
            "This is a backup of a PostgreSQL database. Name an empty one with --database."
            if database == "sqlite"
            else "This is a backup of an SQLite file. Leave out --database."
        )
    missing(shipped(), manifest.content.schema_version)
    return manifest, file


def check_content(found: Content, wanted: Content) -> None:
    """Raises: StoreError: a copy has not what it should have."""
    if found != wanted:
        lost = [name for name, count in wanted.rows.items() if found.rows.get(name) != count]
        raise StoreError(f"The copy is not what was copied: {', '.join(lost) or 'another store'}. Try again.")


def flush(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# --- SQLite -------------------------------------------------------------------------------------------------


def backup_sqlite(data_dir: Path, folder: Path, *, now_ms: int) -> Manifest:
    """Copy the store of a data folder, whether a gateway runs on it or not, as it is at one instant."""
    path = data_dir / FILE_NAME
    if not path.exists():
        raise StoreError(
            f"There is no database in {data_dir}. Give --data-dir or --database as answerback serve has it."
        )

    def write(file: Path) -> Content:
        with _in_our_terms(path), reading(path) as source:
            source.execute("BEGIN")  # what is counted is what is copied
            content = content_of(source)
            with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as copy:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file is all of it
            _check(file, content)
        return content

    return write_backup(folder, FILE_NAME, write, database="sqlite", now_ms=now_ms)


def restore_sqlite(folder: Path, data_dir: Path) -> Manifest:
    """Make the store of a data folder that has none."""
    from answerback.file_lock import process_lock  # noqa: PLC0415 - functions on AWS have no package for it

    manifest, file = read_backup(folder, database="sqlite")
    path = data_dir / FILE_NAME
    part = path.with_name(FILE_NAME + _PART)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with process_lock(path.with_name(FILE_NAME + ".lock")):
            for old in (path, path.with_name(f"{FILE_NAME}-wal")):
                if old.exists() and old.stat().st_size:
                    raise StoreError(
                        f"{old} exists, and restoring overwrites nothing. Name another folder with --data-dir, or move "
                        "the old files away."
                    )
            part.unlink(missing_ok=True)
            try:
                part.touch(mode=0o600)
                shutil.copyfile(file, part)
                with _in_our_terms(part):
                    _check(part, manifest.content)
                flush(part)
                path.unlink(missing_ok=True)
                part.rename(path)
                flush(data_dir)
            finally:
                part.unlink(missing_ok=True)
    except TimeoutError as exc:  # the lock's
        raise StoreInUse(f"A gateway uses {path}. Stop it first.") from exc
    except OSError as exc:
        raise StoreError(f"The store cannot be restored to {data_dir} ({exc.strerror}).") from exc
    return manifest


def _check(file: Path, wanted: Content) -> None:
    with reading(file) as connection:
        ((found,), *_) = connection.execute("PRAGMA integrity_check").fetchall()
        if found != "ok":
            raise StoreError(f"The copy is damaged ({found}). Check the disk, and try again.")
        check_content(content_of(connection), wanted)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[SqliteDatabase]:
    """A connection that changes nothing, whether a gateway runs or not."""
    with contextlib.closing(
        sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, factory=SqliteDatabase)
    ) as connection:
        yield connection


@contextlib.contextmanager
def _in_our_terms(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise StoreError(f"{path} cannot be copied: {cause_of(exc) or exc}.") from exc
