"""Backups: what is copied is there again, and nothing that is not whole is taken for a backup."""

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from answerback.core.request import RequestKey
from answerback.stores import StoreError, StoreInUse, open_store, postgres_backup
from answerback.stores import backup as backups
from answerback.stores.backup import backup_sqlite, restore_sqlite
from answerback.stores.fleet import FleetStore
from answerback.stores.migrations import lock_key
from answerback.stores.postgres_backup import backup_postgres, restore_postgres

QUESTION = "Was ist das?\n\\.\nCOPY answerback.users (x) FROM stdin;\t\\N 안녕"
"""Looks like what pg_restore writes around the rows."""


@pytest.fixture
async def data_dir(tmp_path, asker) -> Path:
    """A closed store with three requests."""
    store = await open_store(None, tmp_path / "data")
    for number in range(3):
        await asker.accept(store, f"r{number}", QUESTION)
    await store.close()
    return tmp_path / "data"


@pytest.fixture
def folder(data_dir, tmp_path) -> Path:
    backup_sqlite(data_dir, tmp_path / "backup", now_ms=1)
    return tmp_path / "backup"


async def contents(database: str | None, data_dir: Path) -> tuple[str, list[str | None]]:
    store = await open_store(database, data_dir)
    try:
        questions = [await store.question(RequestKey("ann", f"r{number}")) for number in range(3)]
        return await store.store_id(), [question and question.message for question in questions]
    finally:
        await store.close()


async def test_a_restored_store_is_the_one_that_was_copied(data_dir, folder, tmp_path) -> None:
    manifest = restore_sqlite(folder, tmp_path / "other")
    assert manifest.content.rows["requests"] == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "other").glob("answerback.db")} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = await contents(None, data_dir)
    assert before == await contents(None, tmp_path / "other")
    assert before[1] == [QUESTION] * 3


async def test_a_store_that_is_written_to_is_copied_as_of_one_instant(tmp_path, asker) -> None:
    store = await open_store(None, tmp_path / "data")
    written = threading.Event()
    manifests = []

    def copy() -> None:
        for number in range(5):
            manifests.append(backup_sqlite(tmp_path / "data", tmp_path / f"b{number}", now_ms=1))
        written.set()

    thread = threading.Thread(target=copy)
    thread.start()
    count = 0
    while not written.is_set():
        await asker.accept(store, f"q{count}")
        count += 1
    thread.join()
    await store.close()
    assert [manifest.content.rows["requests"] for manifest in manifests] == sorted(
        manifest.content.rows["requests"] for manifest in manifests
    )
    for number, manifest in enumerate(manifests):
        assert restore_sqlite(tmp_path / f"b{number}", tmp_path / f"d{number}") == manifest


async def test_an_older_store_is_copied_before_it_is_upgraded(tmp_path) -> None:
    kept = Path(__file__).parents[1] / "upgrade" / "ff0d8e5" / "answerback.db"
    (tmp_path / "data").mkdir()
    shutil.copy(kept, tmp_path / "data")
    manifest = backup_sqlite(tmp_path / "data", tmp_path / "b", now_ms=1)
    assert (manifest.content.schema_version, manifest.content.store_id) == (1, None)
    restore_sqlite(tmp_path / "b", tmp_path / "other")
    with closing(sqlite3.connect(tmp_path / "other" / "answerback.db")) as copy, closing(sqlite3.connect(kept)) as old:
        assert list(copy.iterdump()) == list(old.iterdump())


def test_nothing_is_overwritten(data_dir, folder, tmp_path) -> None:
    before = (data_dir / "answerback.db").read_bytes()
    with pytest.raises(StoreError, match="overwrites nothing"):
        restore_sqlite(folder, data_dir)
    assert (data_dir / "answerback.db").read_bytes() == before
    for place in (folder, data_dir / "answerback.db"):
        with pytest.raises(StoreError, match="overwrites nothing"):
            backup_sqlite(data_dir, place, now_ms=1)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "answerback.db-wal").write_bytes(b"what a lost database left")
    with pytest.raises(StoreError, match=r"db-wal exists"):
        restore_sqlite(folder, tmp_path / "d")


async def test_a_store_in_use_is_not_restored(data_dir, folder) -> None:
    store = await open_store(None, data_dir)
    with pytest.raises(StoreInUse, match="Stop it first"):
        restore_sqlite(folder, data_dir)
    await store.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from answerback.stores import backup
real = getattr(backup, sys.argv[3])
def dying(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(backup, sys.argv[3], dying)
backup.backup_sqlite(Path(sys.argv[1]), Path(sys.argv[2]), now_ms=1)
"""


@pytest.mark.parametrize("step", ["content_of", "_check", "_digest", "flush"])
def test_an_interrupted_backup_is_no_backup(data_dir, tmp_path, step) -> None:
    place = tmp_path / "b"
    subprocess.run([sys.executable, "-c", KILLED, str(data_dir), str(place), step], check=False)
    assert not place.exists()
    part = tmp_path / "b.part"
    with pytest.raises(StoreError, match="interrupted"):
        restore_sqlite(part, tmp_path / "d")
    with pytest.raises(StoreError, match=r"b\.part exists"):
        backup_sqlite(data_dir, place, now_ms=1)
    shutil.rmtree(part)
    backup_sqlite(data_dir, place, now_ms=1)


def edit(**members: object):
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["content"] |= members.pop("content", {})
        (folder / "manifest.json").write_text(json.dumps(manifest | members))

    return change


def cut(folder: Path) -> None:
    with (folder / "answerback.db").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 4096)


def flip(folder: Path) -> None:
    data = bytearray((folder / "answerback.db").read_bytes())
    data[9000] ^= 1
    (folder / "answerback.db").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "there is no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 1'), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "answerback.db").unlink(), "there is no answerback.db"),
        (cut, "is damaged"),
        (flip, "is damaged"),
        (edit(format=2), "newer program"),
        (edit(database="postgresql"), "Name an empty one with --database"),
        (edit(content={"schemaVersion": 999}), "Upgrade the program"),
        (edit(content={"storeId": "another"}), "another store"),
        (edit(file="../../other"), "there is no other"),
        (edit(file="\0"), "cannot be read"),
        (edit(madeAtMs=10**18), "cannot be read"),
        (shutil.rmtree, "there is no manifest.json"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_not_restored(folder, tmp_path, damage, said) -> None:
    damage(folder)
    with pytest.raises(StoreError, match=said):
        restore_sqlite(folder, tmp_path / "d")
    assert not (tmp_path / "d" / "answerback.db").exists()
    assert not (tmp_path / "d" / "answerback.db.part").exists()


@pytest.mark.parametrize("content", [b"", b"no database at all", None])
def test_what_is_no_store_is_not_copied(tmp_path, content) -> None:
    (tmp_path / "answerback.db").write_bytes(content or b"")
    if content is None:
        with closing(sqlite3.connect(tmp_path / "answerback.db")) as other:
            other.execute("CREATE TABLE users (name)")
    with pytest.raises(StoreError, match=r"no store|not an SQLite database"):
        backup_sqlite(tmp_path, tmp_path / "b", now_ms=1)
    assert not list(tmp_path.glob("b*"))


def test_a_copy_that_differs_is_found_and_taken_away(data_dir, tmp_path, monkeypatch) -> None:
    real = backups.content_of
    counts = iter((1, 0))
    monkeypatch.setattr(backups, "content_of", lambda database: edited(real(database), "requests", next(counts)))
    with pytest.raises(StoreError, match="requests"):
        backup_sqlite(data_dir, tmp_path / "b", now_ms=1)
    assert not list(tmp_path.glob("b*"))


def edited(content: backups.Content, table: str, more: int) -> backups.Content:
    content.rows[table] += more
    return content


# --- PostgreSQL ---------------------------------------------------------------------------------------------

on_postgres = pytest.mark.postgres


@pytest.fixture
def databases(postgres_server, schema) -> Iterator[tuple[str, str]]:
    """The URLs of two empty databases."""
    names = (f"{schema}_a", f"{schema}_b")
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        for name in names:
            connection.execute(f'CREATE DATABASE "{name}"')
        yield tuple(f"postgresql:///{name}?{postgres_server.url.partition('?')[2]}" for name in names)  # type: ignore[misc]
        for name in names:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@on_postgres
@pytest.mark.parametrize("node", [None, "a"])
async def test_a_database_is_copied_and_restored(databases, tmp_path, asker, node) -> None:
    there, here = databases
    store = await open_store(there, tmp_path, node=node)
    for number in range(3):
        await asker.accept(store, f"r{number}", QUESTION)
    manifest = backup_postgres(there, tmp_path / "b", now_ms=1)  # while it is in use
    await asker.accept(store, "later")
    before = await store.store_id()
    await store.close()
    assert manifest.content.rows["requests"] == 3
    assert ("nodes" in manifest.content.rows) == (node is not None)
    restore_postgres(tmp_path / "b", here)
    assert await contents(here, tmp_path) == (before, [QUESTION] * 3)
    restored = await open_store(here, tmp_path, node="b") if node else await open_store(here, tmp_path)
    await asker.accept(restored, "new")  # with a number that nothing has
    if isinstance(restored, FleetStore):
        await restored.take_over(["a"], is_alive=lambda _: False)
        assert restored.mine >= {RequestKey("ann", "r0")}
    await restored.close()
    with pytest.raises(StoreError, match="overwrites nothing"):
        restore_postgres(tmp_path / "b", here)


@on_postgres
async def test_bad_databases(databases, tmp_path, asker, postgres_server) -> None:
    there, here = databases
    with pytest.raises(StoreError, match="no store"):
        backup_postgres(there, tmp_path / "b", now_ms=1)
    store = await open_store(there, tmp_path)
    await asker.accept(store, "r0")
    backup_postgres(there, tmp_path / "b", now_ms=1)
    with pytest.raises(StoreInUse, match="stop it first"):
        restore_postgres(tmp_path / "b", there)
    await store.close()
    with psycopg.connect(here) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [lock_key("answerback")])
        with pytest.raises(StoreInUse):
            restore_postgres(tmp_path / "b", here)
    for url in (make_conninfo(there, dbname="nowhere"), make_conninfo(there, host="/nowhere")):
        with pytest.raises(StoreError, match="cannot be used"):
            backup_postgres(url, tmp_path / "c", now_ms=1)
    with pytest.raises(StoreError, match="is not a backup"):
        restore_postgres(tmp_path, here)
    dump = tmp_path / "b" / "answerback.dump"
    dump.write_bytes(dump.read_bytes()[:-10])
    with pytest.raises(StoreError, match="is damaged"):
        restore_postgres(tmp_path / "b", here)


def program(folder: Path, name: str, version: int, *, fails: str = "") -> None:
    folder.mkdir(exist_ok=True)
    real = shutil.which(name)
    act = f'echo "{name}: error: {fails}" >&2; exit 1' if fails else f'exec {real} "$@"'
    (folder / name).write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{name} (PostgreSQL) {version}.1"; exit; fi\n{act}\n'
    )
    (folder / name).chmod(0o755)


@on_postgres
async def test_programs_of_postgresql_that_do_not_do(databases, tmp_path, asker, monkeypatch) -> None:
    there, here = databases
    store = await open_store(there, tmp_path)
    await asker.accept(store, "r0")
    await store.close()
    backup_postgres(there, tmp_path / "good", now_ms=1)
    own = tmp_path / "bin"
    path = f"{own}:/usr/bin:/bin"
    monkeypatch.setenv("PATH", str(own))
    with pytest.raises(StoreError, match="pg_dump is not installed"):
        backup_postgres(there, tmp_path / "b", now_ms=1)
    with pytest.raises(StoreError, match="pg_restore is not installed"):
        restore_postgres(tmp_path / "good", here)
    monkeypatch.setenv("PATH", path)
    program(own, "pg_dump", 9)
    with pytest.raises(StoreError, match="pg_dump has version 9"):
        backup_postgres(there, tmp_path / "b", now_ms=1)
    program(own, "pg_restore", 9)
    with pytest.raises(StoreError, match="pg_restore has version 9"):
        restore_postgres(tmp_path / "good", here)
    program(own, "pg_dump", 99, fails="no space left on device")
    program(own, "pg_restore", 99, fails="permission denied")
    with pytest.raises(StoreError, match="no space left"):
        backup_postgres(there, tmp_path / "b", now_ms=1)
    with pytest.raises(StoreError, match="permission denied"):
        restore_postgres(tmp_path / "good", here)
    assert not list(tmp_path.glob("b*.part"))
    assert not (tmp_path / "b").exists()
    (own / "pg_restore").write_text((own / "pg_restore").read_text().replace("exit 1", "exit 0"))
    with pytest.raises(StoreError, match="no store"):  # it said that it was done
        restore_postgres(tmp_path / "good", here)


@on_postgres
async def test_what_is_written_meanwhile_is_not_in_the_copy(databases, tmp_path, asker, monkeypatch) -> None:
    there, here = databases
    store = await open_store(there, tmp_path)
    await asker.accept(store, "r0")
    await store.close()
    real = postgres_backup._run

    def write_and_run(url: str, program: str, *options: str) -> None:
        with psycopg.connect(there, autocommit=True) as other:
            other.execute("INSERT INTO answerback.users (user_id, created_at_ms) VALUES ('late', 1)")
        real(url, program, *options)

    monkeypatch.setattr(postgres_backup, "_run", write_and_run)
    assert backup_postgres(there, tmp_path / "b", now_ms=1).content.rows["users"] == 1
    monkeypatch.setattr(postgres_backup, "_run", real)
    assert restore_postgres(tmp_path / "b", here).content.rows["users"] == 1
