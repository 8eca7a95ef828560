"""Decided in memory, told after the COMMIT: what that rests on, each in a test that a wrong store fails."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from answerback.core.budget import Budget, Period, Unit
from answerback.core.request import Claimed, Ended, Fenced, Question, RequestKey, Step, cancel, claim, recover, refuse
from answerback.core.transitions import State
from answerback.ports import Accepted, Existing, Limited, Quota, Unavailable
from answerback.protocol.errors import ErrorCode
from answerback.stores import sqlite as sqlite_module
from answerback.stores.sqlite import SqliteDatabase, SqliteStore
from asking import Actor

KEY = RequestKey("ann", "r1")
NO_LIMIT = Quota(per_minute=0, max_pending=100)


class Disk:
    """The disk under the writer: its COMMITs wait for `is_open`, and the next one fails if `fails`."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.reached = threading.Event()
        self.fails = False
        self.written: list[str] = []

    def commit(self) -> None:
        self.reached.set()
        self.is_open.wait(20)
        if self.fails:
            self.fails = False
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

    async def hold(self) -> None:
        self.is_open.clear()
        self.reached.clear()

    async def is_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 20)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()

    class OnDisk(SqliteDatabase):
        def commit(self) -> None:
            disk.commit()
            super().commit()

        def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
            disk.written.append(sql.split(maxsplit=1)[0])
            return super().executemany(sql, rows)

    monkeypatch.setattr(sqlite_module, "SqliteDatabase", OnDisk)
    yield disk
    disk.is_open.set()


@pytest.fixture
async def store(disk, tmp_path):
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    yield store
    disk.is_open.set()
    await store.close()


@pytest.fixture
def actor(store) -> Actor:
    return Actor(store)


def soon(coroutine) -> "asyncio.Task[Any]":
    return asyncio.ensure_future(coroutine)


# --- order and durability -------------------------------------------------------------------------------------


async def test_nothing_is_told_before_its_own_commit_and_batches_are_written_in_order(store, disk, actor):
    await actor.accept("r1")
    await disk.hold()
    claimed = soon(actor.claim("r1"))
    await disk.is_reached()
    # What comes now is decided upon the claim, which is not on the disk yet.
    later = [soon(actor.finish("r1")), soon(actor.claim("r1", owner="w2")), soon(actor.accept("r2"))]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in (claimed, *later))
    assert (await store.read(KEY)).state is State.ACCEPTED
    disk.is_open.set()
    assert isinstance(await claimed, Claimed)
    assert [type(outcome) for outcome in await asyncio.gather(*later)] == [Ended, Ended, Accepted]


async def test_what_is_asked_for_in_one_turn_of_the_loop_is_one_statement_of_each_kind(disk, actor):
    await asyncio.gather(*(actor.accept(f"r{n}") for n in range(50)))
    disk.written.clear()
    await asyncio.gather(*(actor.claim(f"r{n}") for n in range(25)), *(actor.accept(f"s{n}") for n in range(25)))
    await asyncio.gather(*(actor.finish(f"r{n}") for n in range(25)))
    assert disk.written == ["INSERT", "UPDATE", "UPDATE", "INSERT"]


async def test_an_ending_is_read_from_the_file_and_nobody_hears_of_it_before(store, disk, actor):
    await actor.accept("r1")
    await actor.claim("r1")
    await disk.hold()
    ended = soon(actor.finish("r1", "An answer."))
    await disk.is_reached()
    again = soon(actor.accept("r1"))
    assert (await store.read(KEY)).state is State.RUNNING
    assert (await store.answer(KEY)).text == ""
    assert list(await store.turns("ann", "c1", before=None, limit=9)) == []
    assert not again.done()
    disk.is_open.set()
    assert isinstance(await ended, Ended)
    assert (await again).record.state is State.COMPLETED
    assert (await store.answer(KEY)).text == "An answer."


# --- a COMMIT that fails --------------------------------------------------------------------------------------


async def test_after_a_failed_commit_memory_is_what_the_file_says(store, disk, actor):
    await actor.accept("r1", per_minute=5)
    await disk.hold()
    disk.fails = True
    lost = [soon(actor.claim("r1")), soon(actor.accept("r2", per_minute=5)), soon(store.set_limit("ann", 1, now_ms=1))]
    await disk.is_reached()
    gathered = soon(actor.accept("r3", per_minute=5))
    await asyncio.sleep(0)
    disk.is_open.set()
    assert [type(e) for e in await asyncio.gather(*lost, return_exceptions=True)] == [Unavailable] * 3
    # What had only gathered is decided once more, on what is left: r2 is not there, nor is the limit.
    assert await gathered == Accepted(1)
    assert (await actor.claim("r1")).record.attempt == 1
    assert await actor.accept("r2", per_minute=5) == Accepted(2)
    assert [type(await actor.accept(f"s{n}", per_minute=5)) for n in range(3)] == [Accepted, Accepted, Limited]
    assert [r.request_id for r in await store.unfinished()] == ["r1", "r3", "r2", "s0", "s1"]


async def test_while_it_fails_everybody_gets_an_error_of_their_own(store, disk, actor):
    await disk.hold()
    disk.fails = True
    lost = [soon(actor.accept(f"r{n}")) for n in range(5)]
    await disk.is_reached()
    disk.is_open.set()
    errors = await asyncio.gather(*lost, return_exceptions=True)
    assert [type(e) for e in errors] == [Unavailable] * 5
    assert len(set(map(id, errors))) == 5
    assert store.last_write_failed
    assert await actor.accept("r1") == Accepted(0)
    assert not store.last_write_failed


# --- an id that is taken --------------------------------------------------------------------------------------


async def test_the_id_of_an_ended_request_is_found_by_the_database_and_leaves_no_trace(store, actor):
    await actor.turn("r1")
    await actor.accept("r2")
    for _ in range(3):
        again = await actor.accept("r1", "something else", per_minute=4)
        assert isinstance(again, Existing)
        assert (again.record.state, again.position) == (State.COMPLETED, 0)
    assert await actor.accept("r3", per_minute=4, max_pending=2) == Accepted(1)
    assert isinstance(await actor.accept("r4", per_minute=4), Accepted)
    assert isinstance(await actor.accept("r5", per_minute=4), Limited)
    assert [r.request_id for r in await store.unfinished()] == ["r2", "r3", "r4"]
    assert [t.question for t in await store.turns("ann", "c1", before=None, limit=9)] == ["What is it?"]


async def test_an_id_that_turns_out_to_be_taken_reserves_nothing(store, actor):
    await actor.turn("r1")
    await store.set_budget("ann", Period.DAY, Budget(10**6, Unit.TOKENS, Period.DAY), now_ms=actor.now_ms)
    outcomes = await asyncio.gather(*(actor.accept(name, conversation=None) for name in ("r1", "r2", "r1")))
    assert [type(outcome) for outcome in outcomes] == [Existing, Accepted, Existing]
    (state,) = await store.budgets("ann", now_ms=actor.now_ms)
    assert state.counter == (outcomes[1].hold.max_in + 7, outcomes[1].hold.max_in + 7)
    await store.close()
    await store.open()
    assert await store.budgets("ann", now_ms=actor.now_ms) == [state], "on the disk as in memory"


async def test_nobody_is_refused_for_a_place_that_a_taken_id_gives_back(actor):
    await actor.turn("r1")
    outcomes = await asyncio.gather(*(actor.accept(name, per_minute=2, max_pending=1) for name in ("r1", "r2", "r1")))
    assert [type(outcome) for outcome in outcomes] == [Existing, Accepted, Existing]


async def test_two_that_ask_at_once_under_a_taken_id_are_shown_its_request(actor):
    await actor.turn("r1")
    shown = await asyncio.gather(actor.accept("r1", session="s2"), actor.accept("r1", session="s3"))
    assert [(found.record.session_id, found.record.state) for found in shown] == [("s1", State.COMPLETED)] * 2


async def test_what_is_done_to_an_id_that_turns_out_to_be_taken_is_done_to_its_ended_request(store, actor):
    await actor.turn("r1")
    refusal = actor.record("r1")
    again, stopped, claimed = await asyncio.gather(
        actor.accept("r1"),
        store.change(KEY, partial(cancel, refusal_record=refusal, now_ms=actor.now_ms)),
        actor.claim("r1"),
    )
    assert isinstance(again, Existing)
    assert [type(outcome) for outcome in (stopped, claimed)] == [Ended, Ended]
    assert stopped.record.state is State.COMPLETED
    assert list(await store.unfinished()) == []


async def test_one_of_two_that_refuse_an_unknown_id_at_once_decides(store, actor):
    steps = [partial(refuse, refusal_record=actor.record("r1"), now_ms=n, code=ErrorCode.RATE_LIMITED) for n in (1, 2)]
    outcomes = await asyncio.gather(*(store.change(KEY, step) for step in steps))
    assert sorted(outcome.is_new for outcome in outcomes) == [False, True]
    assert outcomes[0].record == outcomes[1].record


async def test_refusals_of_one_turn_of_the_loop_are_one_statement(store, disk, actor):
    disk.written.clear()
    steps = [
        (RequestKey("ann", name), partial(refuse, refusal_record=actor.record(name), now_ms=1, code=ErrorCode.TIMEOUT))
        for name in (f"r{n}" for n in range(20))
    ]
    outcomes = await asyncio.gather(*(store.change(key, step) for key, step in steps))
    assert all(outcome.is_new for outcome in outcomes)
    assert len(disk.written) < 5
    again = await asyncio.gather(*(store.change(key, step) for key, step in steps))
    assert [outcome.record for outcome in again] == [outcome.record for outcome in outcomes]
    assert await actor.accept("r1") == Existing(outcomes[1].record, 0)
    assert await actor.accept("new", per_minute=1) == Accepted(0), "a refusal does not count"


async def test_the_record_of_an_ended_request_may_be_changed_and_an_erased_one_is_gone(store, actor):
    await actor.turn("r1")

    def step(record: Any) -> Step[None]:
        return Step(None, None) if record is None else _retargeted(record, n=7)

    erased = RequestKey("bob", "r1")
    await actor.turn("r1", user="bob")
    changed, _, gone = await asyncio.gather(
        store.change(KEY, step), store.delete_user("bob"), store.change(erased, step)
    )
    assert (changed, gone) == (None, None)
    assert (await store.read(KEY)).queue_no == 7
    assert await store.read(erased) is None


# --- claimed when it is accepted ------------------------------------------------------------------------------


async def test_a_request_may_be_accepted_and_claimed_in_one_transaction(store, disk, actor):
    claimed = claim(actor.record("r1"), owner="w1", now_ms=actor.now_ms, policy=actor.POLICY).record
    disk.written.clear()
    assert await store.accept(claimed, Question(message="Why?", model="echo"), NO_LIMIT, now_ms=actor.now_ms) == (
        Accepted(0)
    )
    assert disk.written == ["INSERT", "INSERT"], "the user, the request"
    assert await store.read(KEY) == claimed
    assert isinstance(await actor.finish("r1"), Ended)
    # Refused, or its id taken: nothing of it is left in memory, and the ordering key is its caller's to give back.
    again = await store.accept(claimed, Question(message="Why?", model="echo"), NO_LIMIT, now_ms=actor.now_ms)
    assert isinstance(again, Existing)
    assert await actor.accept("r2") == Accepted(0)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from answerback.core.request import Policy, Question, Record, claim
from answerback.ports import Quota
from answerback.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    async def ask(name):
        record = Record(user_id="ann", request_id=name, session_id="s", conversation_id="c1", ordering_key="k",
                        fingerprint="f", model="echo", accepted_at_ms=1)
        claimed = claim(record, owner="dead", now_ms=1, policy=Policy()).record
        quota = Quota(per_minute=0, max_pending=9)
        await store.accept(claimed, Question(message="Why?", model="echo"), quota, now_ms=1)
    await ask("r1")
    asyncio.ensure_future(ask("r2"))  # is never told
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.process
async def test_an_accept_that_was_claimed_and_killed_in_between_runs_as_the_second_attempt(tmp_path):
    path = tmp_path / "a.db"
    command = [sys.executable, "-c", KILLED, str(path)]
    await asyncio.to_thread(subprocess.run, command, timeout=60, check=False, capture_output=True)
    store = SqliteStore(path)
    await store.open()
    try:
        found = {record.request_id: record for record in await store.unfinished()}
        assert (found["r1"].state, found["r1"].attempt, found["r1"].owner) == (State.RUNNING, 1, "dead")
        await store.change(KEY, recover)
        again = await store.change(KEY, partial(claim, owner="new", now_ms=2, policy=Actor.POLICY))
        assert again.record.attempt == 2
        assert isinstance(await Actor(store).finish("r1", owner="dead", attempt=1), Fenced)
    finally:
        await store.close()


# --- rare writes ----------------------------------------------------------------------------------------------


async def test_a_rare_write_that_fails_by_itself_harms_nobody_beside_it(store, actor):
    await actor.turn("r0")
    title = "half of a character: \ud800"
    outcomes = await asyncio.gather(
        actor.accept("r1"),
        store.update_conversation("ann", "c1", title=title, deleted=True, now_ms=actor.now_ms),
        actor.accept("r2"),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Accepted, UnicodeEncodeError, Accepted]
    (conversation,) = await store.conversations("ann", before=None, limit=9)
    assert conversation.title == "What is it?"


async def test_closing_waits_for_what_is_being_read(store):
    reading, goes_on = threading.Event(), threading.Event()

    def read(_database):
        reading.set()
        return goes_on.wait(20)

    found = soon(store._read(read))
    assert await asyncio.to_thread(reading.wait, 20)
    threads = [reader._thread for reader in store._readers]
    closing_it = soon(store.close())
    await asyncio.sleep(0)
    goes_on.set()
    await closing_it
    assert await found
    assert not any(thread.is_alive() for thread in threads)


async def test_what_was_used_is_counted_before_its_row_goes(store, actor):
    for n, conversation in enumerate(("c1", "c2", "c3")):
        await actor.turn(f"r{n}", conversation=conversation, tokens=(10, 20))
    whole = await store.usage("ann")
    asked = (await store.user("ann")).last_request_at_ms
    assert [(u.requests, u.input_tokens, u.output_tokens) for u in whole] == [(3, 30, 60)]
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    await store.purge_deleted(before_ms=actor.now_ms + 1)
    assert await store.usage("ann") == whole
    for _ in range(2):
        await store.purge(ended_before_ms=actor.now_ms + 1, refused_before_ms=0)
        assert await store.usage("ann") == whole
    await store.update_conversation("ann", "c2", title=None, deleted=True, now_ms=actor.now_ms)
    await store.purge_deleted(before_ms=actor.now_ms + 1)
    assert await store.usage(None) == whole
    assert (await store.user("ann")).last_request_at_ms == asked
    await actor.turn("r0", tokens=(1, 1))
    assert [(u.requests, u.output_tokens) for u in await store.usage("ann")] == [(4, 61)]


async def test_a_number_is_not_given_out_again_though_its_row_is_gone(disk, tmp_path):
    numbers = []
    for _ in range(2):
        store = SqliteStore(tmp_path / "a.db")
        await store.open()
        actor = Actor(store)
        await actor.turn("r1")
        numbers += [turn.position for turn in await store.turns("ann", "c1", before=None, limit=9)]
        await store.delete_user("ann")
        await store.close()
    assert numbers[1] > numbers[0]


# --- the file -------------------------------------------------------------------------------------------------


async def test_what_was_erased_is_nowhere_in_the_files(disk, tmp_path):
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    actor = Actor(store)
    await actor.turn("r1", "a secret question " * 500, "a secret answer", user="ann")
    await actor.turn("r1", user="bob")
    assert is_in_files("secret", tmp_path)
    await store.delete_user("ann")
    assert not is_in_files("secret", tmp_path), "while the store is open"
    await actor.turn("r2", "a secret question " * 500, "a secret answer", conversation="c1")
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms + 1)
    await store.purge(ended_before_ms=actor.now_ms + 9, refused_before_ms=0)
    await store.purge_deleted(before_ms=actor.now_ms + 9)
    assert not is_in_files("secret", tmp_path), "a conversation alone"
    await store.close()


async def test_a_log_that_somebody_reads_is_cleared_when_they_are_done(disk, tmp_path):
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    actor = Actor(store)
    await actor.turn("r1", "a secret question", "a secret answer", user="ann")
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as backup:
        backup.execute("BEGIN")
        backup.execute("SELECT COUNT(*) FROM requests").fetchall()
        assert await store.delete_user("ann")
        assert is_in_files("secret", tmp_path)
        await actor.turn("r1", user="bob")
    await store.purge(ended_before_ms=0, refused_before_ms=0)
    assert not is_in_files("secret", tmp_path)
    await store.close()


def is_in_files(text: str, folder: Path) -> bool:
    return any(text.encode() in file.read_bytes() for file in folder.iterdir())


async def test_a_note_about_a_long_question_does_not_write_the_question(store, tmp_path, actor):
    await actor.accept("r1", "x" * 100_000)
    await actor.claim("r1")
    log = tmp_path / "a.db-wal"
    before = log.stat().st_size
    for n in range(20):
        await store.change(KEY, partial(_retargeted, n=n))
    assert (log.stat().st_size - before) / 20 <= 3 * 4200, "pages a note"
    assert (await store.question(KEY)).message == "x" * 100_000


def _retargeted(record: Any, *, n: int) -> Step[None]:
    from msgspec.structs import replace

    return Step(replace(record, queue_no=n), None)
