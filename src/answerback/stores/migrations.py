"""Numbered SQL files that bring a database to this program's version, each applied once."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from answerback.stores import statements as sql
from answerback.stores.database import Database, StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file, `NNNN_name.sql`, as its statements."""

    version: int
    name: str
    statements: tuple[str, ...]


def shipped() -> Sequence[Migration]:
    """The migrations of this program, in order."""
    found = sorted((f for f in files("answerback.stores").joinpath("sql").iterdir()), key=lambda f: f.name)
    return [parse(f.name, f.read_text(encoding="utf-8")) for f in found if f.name.endswith(".sql")]


def parse(file_name: str, text: str) -> Migration:
    """A migration from its file."""
    number, _, name = file_name.removesuffix(".sql").partition("_")
    return Migration(version=int(number), name=name, statements=tuple(split(text)))


def split(text: str) -> Iterator[str]:
    """The statements of a script, each with the comments before it; semicolons in literals and comments do not end one.

    `executescript` would commit first, so scripts are run a statement at a time, inside the migration's transaction.
    """
    statement = ""
    for part in text.split(";")[:-1]:
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""


def lock_key(name: str) -> int:
    """The number of an advisory lock of PostgreSQL: 63 bits of a digest."""
    return int.from_bytes(hashlib.sha256(f"answerback {name}".encode()).digest()[:8]) >> 1


def missing(migrations: Sequence[Migration], current: int) -> Sequence[Migration]:
    """Those that a database of version `current` needs, in order. Raises: StoreError: a newer program has been here."""
    newest = migrations[-1].version
    if current > newest:
        raise StoreError(
            f"The database has version {current}, this program knows versions up to {newest}. "
            "Upgrade the program, or use another database."
        )
    return [migration for migration in migrations if migration.version > current]


def apply(
    database: Database,
    migrations: Sequence[Migration],
    *,
    now_ms: int,
    dialect: Callable[[str], str] = str,
    before: Callable[[], object] = bool,
) -> int:
    """Apply what is missing; returns how many. The caller holds a transaction that keeps others from doing the same.

    `dialect`: a statement in the database's own words. `before`: called before a table is changed, if one is.

    Raises: StoreError: a newer program has been here.
    """
    database.execute(sql.CREATE_MIGRATIONS)
    ((current,),) = database.execute(sql.SELECT_VERSION).fetchall()
    wanted = missing(migrations, current)
    if wanted:
        before()
    for migration in wanted:
        for statement in migration.statements:
            database.execute(dialect(statement))
        applied: sql.Params = {"version": migration.version, "name": migration.name, "applied_at_ms": now_ms}
        database.execute(sql.INSERT_MIGRATION, applied)
    return len(wanted)
