"""What SQLite and PostgreSQL do beyond what the memory store can show."""

import asyncio

import pytest

from answerback.core.request import RequestKey, Step
from answerback.ports import Accepted
from asking import Actor

pytestmark = pytest.mark.sql_stores

KEY = RequestKey("ann", "r1")


async def test_conversations_deleted_long_ago_are_erased(store, actor):
    for name in ("old", "young", "kept"):
        await actor.turn(name, conversation=name)
    for name, at_ms in (("old", actor.now_ms), ("young", actor.now_ms + 10)):
        await store.update_conversation("ann", name, title=None, deleted=True, now_ms=at_ms)
    assert await store.purge_deleted(before_ms=actor.now_ms + 5) == 1
    assert await store.purge_deleted(before_ms=actor.now_ms + 5) == 0
    assert await store.update_conversation("ann", "old", title=None, deleted=False, now_ms=actor.now_ms) is None
    restored = await store.update_conversation("ann", "young", title=None, deleted=False, now_ms=actor.now_ms)
    assert restored is not None
    assert restored.turns == 1
    assert len(await store.turns("ann", "kept", before=None, limit=9)) == 1


async def test_a_text_goes_with_the_last_thing_that_needs_it(store, actor):
    await actor.turn("r1", "Why?", "Because.")
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    await store.purge_deleted(before_ms=actor.now_ms + 1)
    assert (await store.answer(KEY)).text == "Because."
    assert await store.purge(ended_before_ms=actor.now_ms + 1, refused_before_ms=0) == 1
    assert await count(store, "requests") == 0


async def test_a_text_that_no_turn_needs_goes_with_its_record(store, actor):
    await actor.turn("r0")
    await actor.accept("r1")
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    await actor.claim("r1")
    await actor.finish("r1")
    assert await count(store, "requests") == 2
    assert await store.purge(ended_before_ms=actor.now_ms + 1, refused_before_ms=0) == 2
    assert await count(store, "requests") == 1
    assert await store.purge_deleted(before_ms=actor.now_ms + 1) == 1
    assert await count(store, "requests") == 0


async def count(store, table: str) -> int:
    return (await store._read(lambda database: database.execute(f"SELECT COUNT(*) FROM {table}").fetchall()))[0][0]


async def test_a_text_that_the_database_refuses_fails_alone(store, actor):
    await store.set_limit("ann", 0, now_ms=actor.now_ms)
    outcomes = await asyncio.gather(
        *(actor.accept(f"a{n}") for n in range(5)),
        actor.accept("bad", "a lone surrogate: \ud800"),
        *(actor.accept(f"b{n}") for n in range(5)),
        return_exceptions=True,
    )
    assert [type(o) for o in outcomes] == [Accepted] * 5 + [UnicodeEncodeError] + [Accepted] * 5
    assert await store.read(RequestKey("ann", "bad")) is None
    assert len(await store.unfinished()) == 10
    await actor.claim("a0")
    asked = (actor.accept("c1"), actor.finish("a0", "\ud800"), actor.accept("c2"))
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(o) for o in outcomes] == [Accepted, UnicodeEncodeError, Accepted]


async def test_rare_writes_stand_in_their_place_between_the_others(store, actor):
    await actor.turn("r0")
    for name in ("r1", "r2"):
        await actor.accept(name)
        await actor.claim(name)
    await asyncio.gather(
        actor.finish("r1"),
        store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms),
        actor.finish("r2"),
        store.update_conversation("ann", "c1", title=None, deleted=False, now_ms=actor.now_ms),
    )
    assert [t.request_id for t in await store.turns("ann", "c1", before=None, limit=9)] == ["r1", "r0"]


async def test_endings_of_one_batch_in_a_deleted_conversation(store, actor):
    await actor.turn("r0", "old")
    await actor.accept("before")
    await actor.claim("before")
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    actor.now_ms += 1000
    for name in ("a", "b"):
        await actor.accept(name, f"new {name}")
        await actor.claim(name)
    await asyncio.gather(*(actor.finish(name) for name in ("before", "a", "b")), actor.turn("r9", conversation="c2"))
    assert [t.request_id for t in await store.turns("ann", "c1", before=None, limit=9)] == ["b", "a"]
    kept = {c.conversation_id: (c.title, c.turns) for c in await store.conversations("ann", before=None, limit=9)}
    assert kept == {"c1": ("new a", 2), "c2": ("What is it?", 1)}


async def test_a_conversation_was_used_when_the_later_of_two_endings_says_so(store, actor):
    for name in ("r1", "r2"):
        await actor.accept(name)
        await actor.claim(name)
    later = Actor(store)
    later.now_ms += 5_000
    await asyncio.gather(later.finish("r1"), actor.finish("r2"))
    assert [one.updated_at_ms for one in await store.conversations("ann", before=None, limit=9)] == [later.now_ms]


async def test_a_block_of_numbers_is_never_given_out_twice(actor, backend):
    positions: list[int] = []
    for start in range(3):
        for n in range(3):
            await actor.turn(f"r{start}-{n}")
        positions = [t.position for t in await actor.store.turns("ann", "c1", before=None, limit=99)]
        actor.store = await backend.reopen()
    assert len(set(positions)) == 9
    assert positions == sorted(positions, reverse=True)


async def test_no_row_of_a_deleted_user_is_left(store, actor):
    await store.set_limit("ann", 0, now_ms=actor.now_ms)
    await actor.turn("r1")
    await actor.accept("r2", system="private")
    await actor.turn("r3", conversation="c2")
    await store.update_conversation("ann", "c2", title=None, deleted=True, now_ms=actor.now_ms)
    await store.purge_deleted(before_ms=actor.now_ms + 1)
    await store.purge(ended_before_ms=actor.now_ms + 1, refused_before_ms=0)
    for table in ("requests", "conversations", "users", "usage"):
        assert await count(store, table) > 0
    await store.delete_user("ann")
    for table in ("requests", "conversations", "users", "usage"):
        assert await count(store, table) == 0, table


async def test_a_probe_writes_again_and_again_and_leaves_the_numbers_alone(store, actor):
    await actor.accept("r1")
    for _ in range(2):
        await store.probe(now_ms=actor.now_ms)
    assert not store.last_write_failed
    assert await actor.accept("r2") == Accepted(1)
    assert await count(store, "marks WHERE name = 'probe'") == 1


async def test_what_has_no_question_cannot_be_made_unfinished(store, actor):
    with pytest.raises(ValueError, match="cannot be unfinished"):
        await store.change(KEY, lambda _: Step(actor.record("r1"), None))
    assert await store.read(KEY) is None
