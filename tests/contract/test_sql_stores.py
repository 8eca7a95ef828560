"""What SQLite and PostgreSQL have beyond the ports: leases voided at the start, deleted conversations erased."""

import pytest

from answerback.core.request import Claimed, RequestKey

pytestmark = pytest.mark.sql_stores

KEY = RequestKey("ann", "r1")


async def test_leases_found_at_the_start_are_voided(actor, backend):
    await actor.accept("r1")
    await actor.accept("r2")
    await actor.claim("r1", owner="dead")
    actor.store = store = await backend.reopen()
    assert await store.void_leases() == 1
    assert await store.void_leases() == 0
    assert (await store.read(KEY)).lease_until_ms == 0
    again = await actor.claim("r1", owner="alive")
    assert isinstance(again, Claimed)
    assert again.record.attempt == 2


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
    assert await store.answer(KEY) == "Because."
    assert await store.purge(ended_before_ms=actor.now_ms + 1) == 1
    assert await texts_of(store) == 0


async def test_a_text_that_no_turn_needs_goes_with_its_record(store, actor):
    await actor.turn("r0")
    await actor.accept("r1")
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    await actor.claim("r1")
    await actor.finish("r1")
    assert await texts_of(store) == 4
    assert await store.purge(ended_before_ms=actor.now_ms + 1) == 2
    assert await texts_of(store) == 2
    assert await store.purge_deleted(before_ms=actor.now_ms + 1) == 1
    assert await texts_of(store) == 0


async def texts_of(store) -> int:
    from answerback.stores.query import Query

    def count():
        (found,) = yield [Query("SELECT COUNT(*) FROM texts", {})]
        return found.rows[0][0]

    return await store._read(count)
