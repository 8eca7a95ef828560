"""Backups of a PostgreSQL store, by PostgreSQL's own programs, which are called with what they need to be right.

The rows are counted in a transaction, `pg_dump` writes what that transaction sees, and the rows in the file are counted
again. `pg_restore` makes all of it or nothing, and the rows in the database are counted once more.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from answerback.stores.backup import Content, Manifest, check_content, content_of, read_backup, write_backup
from answerback.stores.database import StoreError, StoreInUse
from answerback.stores.migrations import lock_key
from answerback.stores.postgres import Connection, PostgresDatabase, connect

SCHEMA: Final = "answerback"
FILE: Final = "answerback.dump"
_TABLES: Final = "SELECT CAST(tablename AS text) FROM pg_tables WHERE schemaname = :schema"
_COPY: Final = re.compile(rb'COPY .*?"?(\w+)"? \(')
_NO_LIMITS: Final = """SELECT set_config('statement_timeout', '0', false),
  set_config('idle_in_transaction_session_timeout', '0', false)"""


def backup_postgres(url: str, folder: Path, *, now_ms: int, schema: str = SCHEMA) -> Manifest:
    """Copy the store of a database as it is at one instant, whether gateways run on it or not."""
    with _connected(url, schema) as connection:
        dump, restore = _tool("pg_dump", connection), _tool("pg_restore", connection)

        def write(file: Path) -> Content:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            content = _content(connection, schema)
            ((snapshot,),) = connection.execute("SELECT pg_export_snapshot()").fetchall()
            options = ("--format=custom", f"--schema={schema}", f"--snapshot={snapshot}", f"--file={file}")
            _run(url, dump, *options, "--lock-wait-timeout=30s")
            check_content(msgspec.structs.replace(content, rows=_rows_in(restore, file, content)), content)
            return content

        return write_backup(
            folder, FILE, write, database="postgresql", now_ms=now_ms, tool_version=_version(dump, "pg_dump")
        )


def restore_postgres(folder: Path, url: str, *, schema: str = SCHEMA) -> Manifest:
    """Make the store of a database that has none."""
    manifest, file = read_backup(folder, database="postgresql")
    with _connected(url, schema) as connection:
        restore = _tool("pg_restore", connection, at_least=manifest.tool_version or 0)
        if connection.execute("SELECT pg_try_advisory_lock(%s)", [lock_key(schema)]).fetchone() != (True,):
            raise StoreInUse("A gateway uses this database. Restore into another one, or stop it first.")
        if PostgresDatabase(connection).execute(_TABLES, {"schema": schema}).fetchall():
            raise StoreError(
                f"The database has a schema {schema} already, and restoring overwrites nothing. Name an empty database "
                "with --database."
            )
        name = psycopg.sql.Identifier(schema)
        connection.execute(psycopg.sql.SQL("DROP SCHEMA IF EXISTS {}").format(name))
        _run(url, restore, "--single-transaction", "--exit-on-error", str(file))
        try:
            check_content(_content(connection, schema), manifest.content)
        except StoreError:
            connection.execute(psycopg.sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
            raise
    return manifest


def _content(connection: Connection, schema: str) -> Content:
    return content_of(PostgresDatabase(connection), _TABLES, {"schema": schema})


@contextlib.contextmanager
def _connected(url: str, schema: str) -> Iterator[Connection]:
    try:
        with contextlib.closing(connect(url, schema)) as connection:
            connection.execute(_NO_LIMITS)
            yield connection
    except psycopg.Error as exc:
        why = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise StoreError(f"The database cannot be used: {why}. Check --database and the server.") from exc


def _tool(name: str, connection: Connection, *, at_least: int = 0) -> str:
    """Where one of PostgreSQL's programs is that can work with this server."""
    path = shutil.which(name)
    if path is None:
        raise StoreError(
            f"The program {name} is not installed. Install PostgreSQL's client programs, on Debian the package "
            "postgresql-client."
        )
    version, server = _version(path, name), connection.info.server_version // 10_000
    if version < max(server if name == "pg_dump" else 0, at_least):
        raise StoreError(
            f"The program {name} has version {version}, and version {max(server, at_least)} is needed. Install the "
            "client programs of that version, and put them first in PATH."
        )
    return path


def _version(path: str, name: str) -> int:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603 - our own command
    except (OSError, subprocess.SubprocessError) as exc:
        raise StoreError(f"The program {name} does not run ({exc}).") from exc
    found = re.search(r"(\d+)", said)
    return int(found[1]) if found else 0


def _run(url: str, program: str, *options: str) -> None:
    """Run one of PostgreSQL's programs on the database. Its command line, which everybody sees, has no password."""
    given = conninfo_to_dict(url)
    password = given.pop("password", None)
    command = [program, "--no-owner", "--no-privileges", f"--dbname={make_conninfo('', **given)}", *options]
    environment = {**os.environ, "LC_ALL": "C", **({"PGPASSWORD": str(password)} if password else {})}
    done = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, text=True, errors="replace", env=environment, check=False
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error:" in line] or done.stderr.splitlines() or ["?"]
        raise StoreError(f"PostgreSQL's program failed: {said[0]}")


def _rows_in(restore: str, file: Path, content: Content) -> dict[str, int]:
    """The rows in a dump, by table: every one of them is read."""
    counts: Counter[str] = Counter(dict.fromkeys(content.rows, 0))
    command = [restore, "--data-only", "--file=-", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        assert process.stdout is not None
        table = None
        for line in process.stdout:
            if table is None:
                found = _COPY.match(line)
                table = found[1].decode() if found else None
            elif line == b"\\.\n":
                table = None
            else:
                counts[table] += 1
    if process.returncode:
        raise StoreError("The copy cannot be read again by pg_restore. Check the disk, and try again.")
    return dict(counts)
