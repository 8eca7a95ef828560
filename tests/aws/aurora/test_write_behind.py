"""Writing behind: every turn once, in order, whatever dies or is unavailable; and what is read back."""

import asyncio
import json
from dataclasses import replace

import psycopg
import pytest

from answerback.core.request import RequestKey
from answerback.ports import DailyUsage, Unavailable
from answerback.protocol.frames import Status
from answerback_aws.runtime.aurora.data_api import StatementFailed, Statements
from answerback_aws.runtime.aurora.operations import lock_users, write_turns
from answerback_aws.runtime.aurora.write_behind import WriteBehind

pytestmark = [pytest.mark.emulator, pytest.mark.postgres]

DAY = "2025-06-15"


async def shown(aws, conversation="c1", user="ann"):
    turns = await aws.turns(user, conversation, before=None, limit=100)
    return [(t.request_id, t.question, t.answer) for t in turns]


async def used(aws, user="ann"):
    return [(u.requests, u.input_tokens, u.output_tokens) for u in await aws.usage(user)]


# --- once ---------------------------------------------------------------------------------------------------


async def test_a_turn_is_written_once_and_then_settled(aws, actor):
    await actor.turn("r1", "Why?", "Because.", tokens=(3, 5))
    assert await aws.write_behind.flush() == 1
    assert await aws.write_behind.flush() == 0
    assert await aws.turns_kept.pending() == []
    assert await shown(aws) == [("r1", "Why?", "Because.")]
    assert aws.counted.written == 1


async def test_the_same_notes_again_change_nothing(aws, actor):
    for n in range(3):
        await actor.turn(f"r{n}", f"question {n}", tokens=(1, 2))
    await actor.turn("r3", "instead", replaces="r1")
    entries = await aws.turns_kept.pending()
    assert await aws.write_behind.write(entries) == 4
    before = await shown(aws), await used(aws), await aws.conversations("ann", before=None, limit=9)

    again = await aws.data_api.write(lambda statements: write_turns(statements, entries))
    assert again == 0
    assert await aws.write_behind.write(entries) == 0  # settled: not even looked at
    assert (await shown(aws), await used(aws), await aws.conversations("ann", before=None, limit=9)) == before
    assert [name for name, *_ in before[0]] == ["r3", "r0"]
    assert before[1] == [(4, 3, 6)]


async def test_a_crash_between_commit_and_settling_doubles_nothing(aws, actor, open_aws, monkeypatch):
    await actor.turn("r1", tokens=(3, 5))
    monkeypatch.setattr(aws.turns_kept, "settled", _dies)
    with pytest.raises(Crash):
        await aws.write_behind.flush()
    assert len(await aws.turns_kept.pending()) == 1

    other = open_aws()
    await actor.turn("r2", tokens=(3, 5))
    assert await other.write_behind.flush() == 1
    assert await other.turns_kept.pending() == []
    assert [name for name, *_ in await shown(other)] == ["r2", "r1"]
    assert await used(other) == [(2, 6, 10)]


class Crash(BaseException):
    """The process is gone."""


async def _dies(*_arguments: object) -> None:
    raise Crash


async def test_many_flushes_at_once_write_each_turn_once(aws, actor, open_aws):
    for n in range(12):
        await actor.turn(f"r{n}", user=f"u{n % 3}", tokens=(1, 1))
    others = [open_aws(retry_for_s=20) for _ in range(3)]
    written = await asyncio.gather(*(other.write_behind.flush() for other in others))
    assert sum(written) == 12
    for n in range(3):
        assert len(await shown(aws, user=f"u{n}")) == 4
        assert await used(aws, f"u{n}") == [(4, 4, 4)]


async def test_an_id_that_is_used_again_is_another_turn(aws, actor):
    await actor.turn("r1", "first?", "first.", tokens=(1, 1))
    (first,) = await aws.turns_kept.pending()
    later = replace(
        first,
        turn=replace(
            first.turn, position=first.turn.position + 1000, question="second?", answer="second.", accepted_at_ms=10**13
        ),
    )
    for entries in ([first], [later], [first], [later]):
        await aws.data_api.write(lambda statements, entries=entries: write_turns(statements, entries))
    assert [text for _, text, _ in await shown(aws)] == ["second?", "first?"]
    assert await used(aws) == [(2, 2, 2)]


async def test_users_of_one_batch_are_apart(aws, actor):
    for user in ("ann", "bob"):
        await actor.turn("r1", f"{user}'s", user=user, tokens=(1, 1))
    assert await aws.write_behind.flush("bob") == 1
    assert [note.user_id for note in await aws.turns_kept.pending()] == ["ann"]
    assert await aws.write_behind.flush() == 1
    assert await shown(aws, user="bob") == [("r1", "bob's", "An answer.")]
    assert list(await aws.usage(None)) == [
        DailyUsage(user_id=user, day=DAY, requests=1, input_tokens=1, output_tokens=1) for user in ("ann", "bob")
    ]


# --- outages ------------------------------------------------------------------------------------------------


async def test_while_aurora_is_down_nothing_is_lost_and_then_all_is_there_once(
    aws, actor, emulator, postgres_server, open_aws
):
    await actor.turn("r1", "Why?", "Because.", tokens=(1, 1))
    await aws.write_behind.flush()
    postgres_server.stop()
    try:
        await actor.turn("r2", "And?", "So.", tokens=(1, 1))
        assert [turn.request_id for turn in await aws.recent_turns("ann", "c1", limit=9)] == ["r1", "r2"]
        for call in (
            aws.write_behind.flush(),
            aws.turns("ann", "c1", before=None, limit=9),
            aws.conversations("ann", before=None, limit=9),
            aws.update_conversation("ann", "c1", title=None, deleted=True, now_ms=1),
            aws.users(),
            aws.usage("ann"),
            aws.delete_user("ann"),
        ):
            with pytest.raises(Unavailable):
                await call
        assert [note.turn.request_id for note in await aws.turns_kept.pending()] == ["r2"]
        assert await aws.read(RequestKey("ann", "r2")) is not None
    finally:
        postgres_server.start()
    persistent = open_aws(retry_for_s=20)
    assert await persistent.write_behind.flush() == 1
    assert await shown(persistent) == [("r2", "And?", "So."), ("r1", "Why?", "Because.")]
    assert await used(persistent) == [(2, 2, 2)]


async def test_a_paused_aurora_is_waited_for_or_reported(aws, actor, emulator, open_aws):
    await actor.turn("r1")
    emulator.pause_database()
    try:
        with pytest.raises(Unavailable):
            await aws.turns("ann", "c1", before=None, limit=9)
        persistent = open_aws(retry_for_s=30, on_waking=emulator.resume_database)
        assert [turn.request_id for turn in await persistent.turns("ann", "c1", before=None, limit=9)] == ["r1"]
    finally:
        emulator.resume_database()
    assert persistent.rds_data.calls.count("begin_transaction") == 2


# --- a turn that cannot be written --------------------------------------------------------------------------


async def test_a_turn_that_cannot_be_written_stops_no_other(aws, actor, monkeypatch, caplog):
    for n in range(5):
        await actor.turn(f"r{n}", f"secret {n}", user="ann" if n % 2 else "bob")
    pending = aws.turns_kept.pending

    async def poisoned(**arguments):
        found = await pending(**arguments)
        return [
            replace(note, turn=replace(note.turn, answer="a\0b")) if note.turn.request_id == "r2" else note
            for note in found
        ]

    monkeypatch.setattr(aws.turns_kept, "pending", poisoned)
    assert await aws.write_behind.flush() == 4
    assert aws.counted.dead == 1
    assert [note.turn.request_id for note in await pending()] == ["r2"]
    assert "secret" not in caplog.text
    assert [getattr(record, "requestId", None) for record in caplog.records] == ["r2"]

    monkeypatch.setattr(aws.turns_kept, "pending", pending)
    assert await aws.write_behind.flush() == 1
    assert [name for name, *_ in await shown(aws, user="bob")] == ["r4", "r2", "r0"]


async def test_tables_of_another_version_are_not_blamed_on_the_turns(aws, actor, aurora_cluster, postgres_server):
    for n in range(3):
        await actor.turn(f"r{n}")
    with psycopg.connect(postgres_server.url, dbname=aurora_cluster.database, autocommit=True) as connection:
        connection.execute("ALTER TABLE requests RENAME COLUMN model TO other")
        try:
            with pytest.raises(StatementFailed):
                await aws.write_behind.flush()
        finally:
            connection.execute("ALTER TABLE requests RENAME COLUMN other TO model")
    assert aws.counted.dead == 0
    assert aws.rds_data.calls.count("begin_transaction") == 1
    assert await aws.write_behind.flush() == 3


async def test_trouble_with_the_notes_is_not_blamed_on_the_turns(aws, actor, monkeypatch):
    for n in range(3):
        await actor.turn(f"r{n}")

    async def forbidden(_pending_turns):
        raise PermissionError

    present = aws.turns_kept.present
    monkeypatch.setattr(aws.turns_kept, "present", forbidden)
    with pytest.raises(PermissionError):
        await aws.write_behind.flush()
    assert aws.counted.dead == 0
    monkeypatch.setattr(aws.turns_kept, "present", present)
    assert await aws.write_behind.flush() == 3


# --- when ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("oldest_ms", "turns", "is_due"),
    [(0, 0, False), (10**9, 0, False), (0, 199, False), (0, 200, True), (899_999, 1, False), (900_000, 1, True)],
)
def test_when_it_is_worth_waking_aurora(oldest_ms, turns, is_due):
    write_behind = WriteBehind(pending_turns=None, api=None, observer=None, clock=lambda: 0)
    assert write_behind.due(oldest_ms=oldest_ms, turns=turns) is is_due


async def test_until_it_is_due_aurora_is_left_asleep(aws, actor, open_aws):
    await actor.turn("r1")
    ended = actor.now_ms
    for age_ms, written in ((0, 0), (899_999, 0), (900_000, 1), (901_000, 0)):
        janitor = open_aws(clock=lambda age_ms=age_ms: ended + age_ms)
        assert await janitor.write_behind.flush_if_due() == written
        assert bool(janitor.rds_data.calls) == bool(written)
        assert janitor.counted.seen == [(1, age_ms)] if age_ms < 901_000 else [(0, 0)]


async def test_context_and_answers_never_ask_aurora(aws, actor):
    await actor.turn("r1")
    await actor.turn("r2", replaces="r1")
    assert [turn.request_id for turn in await aws.recent_turns("ann", "c1", limit=9)] == ["r2"]
    assert aws.rds_data.calls == []


# --- erasing ------------------------------------------------------------------------------------------------


async def test_a_user_erased_while_notes_are_on_their_way_stays_erased(aws, actor, open_aws, monkeypatch):
    await actor.turn("r1", tokens=(1, 1))
    late = open_aws()
    stale = await late.turns_kept.pending()
    assert await aws.delete_user("ann")
    assert await late.write_behind.write(stale) == 0
    assert list(await aws.users()) == []
    assert await shown(aws) == []
    assert await used(aws) == []
    assert await aws.turns_kept.pending() == []


async def test_a_user_erased_in_the_middle_of_a_write_stays_erased(
    aws, actor, open_aws, monkeypatch, postgres_server, aurora_cluster
):
    """The writer has seen that the turn is pending; then the user is erased; then the writer writes."""
    await actor.turn("r1", tokens=(1, 1))
    late = open_aws(retry_for_s=20)
    present = late.turns_kept.present
    erasing: list[asyncio.Task[bool]] = []

    async def erased_behind(entries):
        found = await present(entries)
        gone, eraser = asyncio.Event(), open_aws(retry_for_s=20)
        write = eraser.data_api.write

        async def told(work):
            gone.set()  # everything on DynamoDB is erased
            return await write(work)

        monkeypatch.setattr(eraser.data_api, "write", told)
        erasing.append(asyncio.create_task(eraser.delete_user("ann")))
        await gone.wait()
        await asyncio.to_thread(_wait_for_lock, postgres_server.url, aurora_cluster.database, erasing[0])
        return found

    monkeypatch.setattr(late.turns_kept, "present", erased_behind)
    assert await late.write_behind.flush() == 1
    assert await erasing[0]
    assert list(await aws.users()) == []
    assert await shown(aws) == []
    assert await used(aws) == []


def _wait_for_lock(url, database, eraser):
    """Until the eraser waits for a lock, or has not waited."""
    with psycopg.connect(url, dbname=database, autocommit=True) as connection:
        waiting = "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while connection.execute(waiting).fetchone() == (0,) and not eraser.done():
            pass


async def test_who_waits_for_the_lock_of_one_who_died_gives_up_and_holds_up_nobody(
    aws, actor, postgres_server, aurora_cluster
):
    """Else it would get the lock when it has gone itself, and so on with each that comes meanwhile."""
    await actor.turn("r1", "Why?", "Because.")
    orphan = (await aws.data_api.call("begin_transaction"))["transactionId"]
    await lock_users(Statements(aws.data_api, orphan), ["ann"])
    with pytest.raises(Unavailable, match="another transaction"):
        await aws.write_behind.flush()
    with psycopg.connect(postgres_server.url, dbname=aurora_cluster.database, autocommit=True) as connection:
        held = "SELECT granted FROM pg_locks WHERE locktype = 'advisory'"
        assert connection.execute(held).fetchall() == [(True,)]
    await aws.data_api.call("rollback_transaction", transactionId=orphan)
    assert await aws.write_behind.flush() == 1


async def test_a_crash_while_users_are_locked_passes(aws, actor, emulator, postgres_server, aurora_cluster):
    await actor.turn("r1", "Why?", "Because.")
    orphan = (await aws.data_api.call("begin_transaction"))["transactionId"]
    await lock_users(Statements(aws.data_api, orphan), ["ann"])
    flushing = asyncio.create_task(aws.write_behind.flush())
    await asyncio.to_thread(_wait_for_lock, postgres_server.url, aurora_cluster.database, flushing)
    postgres_server.stop()
    try:
        with pytest.raises(Unavailable):
            await flushing
    finally:
        postgres_server.start()
    assert await aws.write_behind.flush() == 1


async def test_an_erased_user_may_come_back(aws, actor):
    await actor.turn("r1", tokens=(1, 1))
    assert await aws.delete_user("ann")
    await actor.turn("r1", "again", tokens=(2, 2))
    assert await shown(aws) == [("r1", "again", "An answer.")]
    assert await used(aws) == [(1, 2, 2)]


# --- deleted conversations ----------------------------------------------------------------------------------


async def test_a_deleted_conversation_is_hidden_from_the_model_at_once(aws, actor):
    await actor.turn("r1")
    await aws.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    assert list(await aws.recent_turns("ann", "c1", limit=9)) == []
    await aws.update_conversation("ann", "c1", title=None, deleted=False, now_ms=actor.now_ms)
    assert [turn.request_id for turn in await aws.recent_turns("ann", "c1", limit=9)] == ["r1"]


async def test_a_deletion_that_died_half_way_is_done_by_the_same_call_again(aws, actor, open_aws, monkeypatch):
    await actor.turn("r1")
    monkeypatch.setattr(aws.turns_kept, "delete_conversation", _dies_at_the_mark)
    with pytest.raises(Crash):
        await aws.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    deleted_at_ms = actor.now_ms
    actor.now_ms += 5000
    other = open_aws()
    await other.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    assert await other.turns_kept.deleted_at_ms("ann", "c1") == deleted_at_ms
    assert list(await other.recent_turns("ann", "c1", limit=9)) == []


async def _dies_at_the_mark(*_arguments: object, **_named: object) -> None:
    raise Crash


async def test_restoring_what_restarted_does_not_bring_the_old_back(aws, actor):
    await actor.turn("old")
    await aws.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    actor.now_ms += 1000
    await actor.turn("new")
    assert [name for name, *_ in await shown(aws)] == ["new"]
    await aws.update_conversation("ann", "c1", title=None, deleted=False, now_ms=actor.now_ms)
    assert [turn.request_id for turn in await aws.recent_turns("ann", "c1", limit=9)] == ["new"]


async def test_what_ended_before_the_deletion_but_is_written_behind_it_can_be_restored(aws, actor, monkeypatch):
    await actor.turn("r1")
    await aws.write_behind.flush()
    await actor.turn("r2")
    late = await aws.turns_kept.pending()
    await aws.turns_kept.settled(late)  # as if the index had not shown it yet
    await aws.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    await aws.data_api.write(lambda statements: write_turns(statements, late))
    assert await shown(aws) == []
    await aws.update_conversation("ann", "c1", title=None, deleted=False, now_ms=actor.now_ms)
    assert [name for name, *_ in await shown(aws)] == ["r2", "r1"]


async def test_a_turn_that_the_index_does_not_show_yet_is_in_the_history(aws, actor, monkeypatch):
    await actor.turn("r1")

    async def nothing_yet(**_arguments):
        return []

    monkeypatch.setattr(aws.turns_kept, "pending", nothing_yet)
    assert [name for name, *_ in await shown(aws)] == ["r1"]


# --- purging ------------------------------------------------------------------------------------------------


async def test_purging_wakes_nobody_and_erases_what_was_deleted_long_ago(aws, actor, open_aws):
    noon = 12 * 3_600_000
    await actor.turn("r1", "gone?")
    await actor.turn("r1", "kept", user="bob")
    await aws.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    before_ms = actor.now_ms + 1000

    asleep = open_aws(clock=lambda: noon)
    assert await asleep.purge_deleted(before_ms=before_ms) == 0
    assert asleep.rds_data.calls == []

    at_midnight = open_aws(clock=lambda: 2 * noon + 60_000)
    assert await at_midnight.purge_deleted(before_ms=actor.now_ms - 10**6) == 0
    assert at_midnight.rds_data.calls != []
    del at_midnight.rds_data.calls[:]
    assert await at_midnight.purge_deleted(before_ms=before_ms) == 0
    assert at_midnight.rds_data.calls == []

    awake = open_aws(clock=lambda: noon)
    assert await awake.usage("ann") != []
    assert await awake.purge_deleted(before_ms=before_ms) == 1
    restored = await awake.update_conversation("ann", "c1", title=None, deleted=False, now_ms=actor.now_ms)
    assert restored is None
    assert [name for name, *_ in await shown(awake, user="bob")] == ["r1"]


async def test_purging_takes_texts_and_receipts_too(aws, actor, aurora_cluster, postgres_server):
    await actor.turn("r1", "gone?")
    await aws.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    await actor.turn("r2", "kept", conversation="c2")
    await aws.write_behind.flush()
    await aws.history.purge_now(before_ms=actor.now_ms + 1)
    with psycopg.connect(postgres_server.url, dbname=aurora_cluster.database) as connection:
        left = connection.execute("SELECT request_id, question, forgotten FROM requests").fetchall()
    assert left == [("r2", "kept", 1)]
    assert await shown(aws, "c2") == [("r2", "kept", "An answer.")]


# --- sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["a", "한", "\U0001f600", "\x1f", '"'], ids=ascii)
async def test_long_texts_come_back_in_small_rows(aws, actor, character):
    largest = 256 * 1024 // len(json.dumps(character, ensure_ascii=False).encode()[1:-1])
    question, answer = "Q" + character * (largest // 2), character * largest
    long_id = "\U0001f600" * 128
    await actor.turn(long_id, question, answer, conversation=long_id, replaces=long_id)
    assert await shown(aws, long_id) == [(long_id, question, answer)]


async def test_a_page_of_long_turns_comes_in_several_responses(aws, actor):
    for n in range(8):
        await actor.turn(
            f"r{n}", f"{n}" * 60_000, f"{n}" * 200_000, status=Status.FAILED if n == 3 else Status.COMPLETED
        )
    await aws.write_behind.flush()
    del aws.rds_data.calls[:]
    turns = await aws.turns("ann", "c1", before=None, limit=100)
    assert [(t.request_id, t.question, t.answer) for t in turns] == [
        (f"r{n}", f"{n}" * 60_000, f"{n}" * 200_000) for n in reversed(range(8))
    ]
    assert 4 <= len(aws.rds_data.calls) <= 9
    page = await aws.turns("ann", "c1", before=turns[2].position, limit=2)
    assert [t.request_id for t in page] == ["r4", "r3"]


async def test_usage_of_everyone_comes_in_pages(aws, actor, aurora_cluster, postgres_server):
    with psycopg.connect(postgres_server.url, dbname=aurora_cluster.database, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO usage SELECT 'u' || (n %% 600), '2026-01-0' || (1 + n / 600), n, 1, 2, 3
            FROM generate_series(0, 1799) AS n WHERE %s""",
            [True],
        )
    found = await aws.usage(None)
    assert len(found) == 1800
    assert [(u.day, u.user_id) for u in found] == sorted((u.day, u.user_id) for u in found)
    assert len(await aws.usage(None, since_day="2026-01-03")) == 600
