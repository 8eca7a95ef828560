"""SQLite: what is acknowledged stays, whatever happens to the process, the file and the disk."""

import asyncio
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from answerback.core.request import RequestKey
from answerback.ports import Accepted, Unavailable
from answerback.stores import StoreError, StoreInUse
from answerback.stores import sqlite as sqlite_module
from answerback.stores.sqlite import SqliteDatabase, SqliteStore

CHILD = """
import asyncio, sys
from pathlib import Path
from answerback.core.request import Question, Record
from answerback.ports import Quota
from answerback.stores.sqlite import SqliteStore

async def ask(store, name):
    n = len(await store.unfinished())
    while True:
        n += 1
        key = f"{name}-{n}"
        record = Record(user_id=name, request_id=key, session_id="s", conversation_id="c", ordering_key=name,
                        fingerprint="f", model="echo", accepted_at_ms=1)
        await store.accept(record, Question(message="Why " + key, model="echo"),
                           Quota(per_minute=0, max_pending=10**9), now_ms=1)
        print(name, key, flush=True)

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    print("open", flush=True)
    await asyncio.gather(*(ask(store, f"u{n}") for n in range(50)))

asyncio.run(main())
"""


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "a.db", busy_timeout_s=0.02)
    await store.open()
    yield store
    await store.close()


def run_until_killed(path) -> set[tuple[str, ...]]:
    """Let a process write at full speed and kill it; returns what it said was acknowledged."""
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        lines = [child.stdout.readline() for _ in range(700)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return {tuple(line.split()) for line in lines if line.endswith("\n")}


@pytest.mark.process
@pytest.mark.timeout(60)
async def test_kill_9_under_load_loses_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "a.db"
    acknowledged: set[tuple[str, ...]] = set()
    for _ in range(2):  # the second process starts on what the first one left
        acknowledged |= await asyncio.to_thread(run_until_killed, path)
        store = SqliteStore(path)
        await store.open()
        try:
            kept = {(r.user_id, r.request_id) for r in await store.unfinished()}
            assert acknowledged <= kept
            for user_id, request_id in kept:
                question = await store.question(RequestKey(user_id, request_id))
                assert question is not None
                assert question.message == f"Why {request_id}"
        finally:
            await store.close()


async def test_a_second_gateway_is_refused_with_advice(store, tmp_path):
    with pytest.raises(StoreInUse, match=r"Another gateway uses .*a\.db.*--data-dir"):
        await SqliteStore(tmp_path / "a.db").open()
    other = SqliteStore(tmp_path / "b.db")
    await other.open()
    await other.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the name of the lock is all there is")
async def test_the_lock_is_on_the_file_itself(store, tmp_path):
    (tmp_path / "a.db.lock").unlink()
    (tmp_path / "hard.db").hardlink_to(tmp_path / "a.db")
    for name in ("a.db", "hard.db"):
        with pytest.raises(StoreInUse):
            await SqliteStore(tmp_path / name).open()


async def test_a_link_to_the_file_is_the_file(store, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.db").symlink_to(tmp_path / "a.db")
    with pytest.raises(StoreInUse, match=r"a\.db"):
        await SqliteStore(tmp_path / "other" / "b.db").open()
    assert not (tmp_path / "other" / "b.db.lock").exists()


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_log_without_its_database_is_damage(tmp_path, asker, is_gone):
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    await asker.accept(store, "r1")
    for suffix in ("", "-wal"):  # as a crash leaves them
        (tmp_path / f"copy.db{suffix}").write_bytes((tmp_path / f"a.db{suffix}").read_bytes())
    await store.close()
    (tmp_path / "copy.db").unlink() if is_gone else os.truncate(tmp_path / "copy.db", 0)
    with pytest.raises(StoreError, match=r"damaged.*copy\.db-wal away"):
        await SqliteStore(tmp_path / "copy.db").open()
    assert (tmp_path / "copy.db-wal").stat().st_size > 0


async def test_the_lock_is_free_again_after_close(store, tmp_path):
    await store.close()
    again = SqliteStore(tmp_path / "a.db")
    await again.open()
    await again.close()


async def test_a_file_locked_by_another_program_is_unavailable_until_it_is_free(store, tmp_path, asker):
    await asker.accept(store, "before")
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        lost = await asyncio.gather(*(asker.accept(store, f"during {n}") for n in range(5)), return_exceptions=True)
        assert [type(e) for e in lost] == [Unavailable] * 5
        assert len(set(map(id, lost))) == 5
        assert await store.read(RequestKey("ann", "before")) is not None
        other.execute("ROLLBACK")
    assert await asker.accept(store, "after") == Accepted(1)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
@pytest.mark.parametrize("gone", ["a.db", "a.db-wal"])
@pytest.mark.parametrize("replaced", [False, True])
async def test_nothing_is_accepted_into_files_that_are_gone(tmp_path, asker, gone, replaced):
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    try:
        await asker.accept(store, "before")
        os.rename(tmp_path / gone, tmp_path / "away")
        if replaced:
            shutil.copyfile(tmp_path / "away", tmp_path / gone)
        for _ in range(2):
            with pytest.raises(Unavailable, match="removed or replaced"):
                await asker.accept(store, "after")
    finally:
        await store.close()
    if gone == "a.db":
        os.replace(tmp_path / "away", tmp_path / "a.db")
    again = SqliteStore(tmp_path / "a.db")
    await again.open()
    try:
        assert [record.request_id for record in await again.unfinished()] == ["before"]
    finally:
        await again.close()


@pytest.fixture
def connections(monkeypatch):
    """Every connection that stores open, so that a test can make it fail."""
    opened = []

    class Breakable(SqliteDatabase):
        fails_at: str | None = None

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            opened.append(self)

        def execute(self, sql, *args):
            self.fail_at(sql)
            return super().execute(sql, *args)

        def commit(self):
            self.fail_at("COMMIT")
            super().commit()

        def fail_at(self, sql):
            if self.fails_at is not None and sql.startswith(self.fails_at):
                type(self).fails_at = None
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error

    monkeypatch.setattr(sqlite_module, "SqliteDatabase", Breakable)
    return opened


async def test_a_commit_that_failed_is_unavailable_for_its_batch_and_the_writer_goes_on(connections, tmp_path, asker):
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    try:
        await asker.accept(store, "before")
        type(connections[0]).fails_at = "COMMIT"
        lost = await asyncio.gather(*(asker.accept(store, f"r{n}") for n in range(20)), return_exceptions=True)
        failed = [e for e in lost if isinstance(e, Unavailable)]
        assert failed
        assert all(isinstance(e, Unavailable | Accepted) for e in lost)
        assert "disk" in str(failed[0])
        again = await asyncio.gather(*(asker.accept(store, f"s{n}") for n in range(20)))
        written = 1 + len(lost) - len(failed)
        assert [a.position for a in again] == list(range(written, written + 20))
        assert len(await store.unfinished()) == written + 20
    finally:
        await store.close()


async def test_a_full_disk_is_unavailable_until_there_is_room(connections, tmp_path, asker):
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    try:
        await asker.accept(store, "before")
        writer = connections[0]
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(Unavailable, match="disk is full"):
            await asker.accept(store, "large", "x" * 100_000)
        assert await store.read(RequestKey("ann", "large")) is None
        # The writer has a connection of its own again, without the limit: as after space was freed.
        assert await asker.accept(store, "large", "x" * 100_000) == Accepted(1)
        question = await store.question(RequestKey("ann", "large"))
        assert question is not None
        assert len(question.message) == 100_000
    finally:
        await store.close()


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from answerback.core.request import Question, Record
from answerback.ports import Quota, Unavailable
from answerback.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    async def ask(key):
        record = Record(user_id="u", request_id=key, session_id="s", conversation_id="c", ordering_key="k",
                        fingerprint="f", model="echo", accepted_at_ms=1)
        return await store.accept(record, Question(message="x" * 15_000, model="echo"),
                                  Quota(per_minute=0, max_pending=10**9), now_ms=1)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    kept, lost = 0, 0
    for n in range(200):
        try:
            await ask(f"r{n}")
            kept += 1
        except Unavailable:
            lost += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    after = await ask("after")
    print(kept > 0, lost > 0, after.position == kept, len(await store.unfinished()) == kept + 1)
    await store.close()

asyncio.run(main())
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files is a Unix thing")
def test_when_the_system_refuses_to_write_only_the_unacknowledged_is_lost(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["True"] * 4


async def test_too_many_waiting_operations_are_unavailable_at_once(tmp_path, asker):
    store = SqliteStore(tmp_path / "a.db", max_queued=10, busy_timeout_s=5)
    await store.open()
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = [asyncio.ensure_future(asker.accept(store, f"r{n}")) for n in range(40)]
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert pending
        assert all(isinstance(task.exception(), Unavailable) for task in done)
        other.execute("ROLLBACK")
    kept = await asyncio.gather(*pending)
    assert sorted(a.position for a in kept) == list(range(len(pending)))
    await store.close()


async def test_a_long_scan_holds_up_no_other_read(store, asker):
    await asker.accept(store, "r1")
    may_end = threading.Event()
    scan = asyncio.create_task(store._read(lambda _: may_end.wait(10)))
    await asyncio.sleep(0)
    for _ in range(3):
        assert await store.read(RequestKey("ann", "r1")) is not None
    assert not scan.done()
    scan.cancel()  # whoever asked for it is gone, and the thread is as busy as before
    await asyncio.wait((scan,))
    for _ in range(3):
        assert await store.read(RequestKey("ann", "r1")) is not None
    assert not may_end.is_set()
    may_end.set()


async def test_a_closed_store_is_unavailable(store, asker):
    await store.close()
    await store.close()
    with pytest.raises(Unavailable):
        await asker.accept(store, "r1")
    with pytest.raises(Unavailable):
        await store.unfinished()


async def test_close_finishes_what_was_called_before(tmp_path, asker):
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    asked = [asyncio.ensure_future(asker.accept(store, f"r{n}")) for n in range(30)]
    await asyncio.sleep(0)
    await store.close()
    assert [a.position for a in await asyncio.gather(*asked)] == list(range(30))


async def test_conversations_are_private(store, asker, tmp_path):
    await asker.accept(store, "r1")
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


async def test_a_file_that_is_no_database_is_an_error_with_advice(tmp_path):
    (tmp_path / "a.db").write_bytes(b"this is not a database, it is a text" * 100)
    with pytest.raises(StoreError, match="not an SQLite database"):
        await SqliteStore(tmp_path / "a.db").open()
    (tmp_path / "a.db").unlink()
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    await store.close()


async def test_a_folder_that_is_not_there_is_an_error_with_advice(tmp_path):
    with pytest.raises(StoreError, match="cannot be opened for writing"):
        await SqliteStore(tmp_path / "none" / "a.db").open()
