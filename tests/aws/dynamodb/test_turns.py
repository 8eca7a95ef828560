"""The model's context and the turns that wait for Aurora, beyond the contract of History.recent_turns."""

from random import Random

import pytest

from answerback.core.request import RequestKey
from answerback.ports import Connection, StoredTurn
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status
from answerback.stores.sqlite import MemoryStore
from answerback_aws.runtime.aurora.users import erase_user
from answerback_aws.runtime.dynamodb.limits import RateLimits

pytestmark = pytest.mark.emulator


async def recent_turns(world, *, conversation: str = "c1", limit: int = 20, before: str | None = None) -> list[str]:
    turns = await world.turns().recent_turns("ann", conversation, limit=limit, before_request=before)
    return [turn.request_id for turn in turns]


async def pending(world, **named) -> list[str]:
    return [note.turn.request_id for note in await world.turns().pending(**named)]


# --- pending turns -------------------------------------------------------------------------------------------


async def test_a_note_has_everything_that_the_history_keeps(world) -> None:
    store = world.requests()
    asked = world.now_ms
    await world.turn(store, "r1", "Because.", text="Why?", conversation="c9", replaces="r0")
    (note,) = await world.turns().pending()
    assert (note.user_id, note.conversation_id) == ("ann", "c9")
    assert note.turn == StoredTurn(
        position=note.turn.position,
        request_id="r1",
        question="Why?",
        answer="Because.",
        status=Status.COMPLETED,
        accepted_at_ms=asked,
        ended_at_ms=world.now_ms,
        model=None,
        replaces="r0",
        input_tokens=3,
        output_tokens=5,
    )
    assert asked * 1024 <= note.turn.position < 2**53


async def test_a_note_of_a_failure_says_why(world) -> None:
    store = world.requests()
    await world.accept(store)
    world.now_ms += 600_000
    await store.change(RequestKey("ann", "r1"), world.claim())
    (note,) = await world.turns().pending()
    assert (note.turn.status, note.turn.error_code, note.turn.answer) == (Status.FAILED, ErrorCode.TIMEOUT, "")


async def test_notes_come_in_the_order_accepted_until_they_are_settled(world) -> None:
    store, turns = world.requests(), world.turns()
    for n in range(5):
        await world.turn(store, f"r{n}", user="ann" if n % 2 else "bob")
    assert await pending(world) == ["r0", "r1", "r2", "r3", "r4"]
    assert await pending(world, user_id="ann") == ["r1", "r3"]
    assert await pending(world, user_id="ann", limit=1) == ["r1"]
    assert len(await turns.waiting(limit=99)) == 5
    entries = await turns.pending(user_id="bob")
    await turns.settled(entries)
    await turns.settled(entries)
    assert await pending(world) == ["r1", "r3"]
    assert await turns.present(entries) == []
    assert len(await turns.waiting(limit=99)) == 2
    assert await recent_turns(world) == ["r1", "r3"]


async def test_a_settled_turn_has_a_time_to_live(world) -> None:
    await world.turn(world.requests(), "r1")
    await world.turns().settled(await world.turns().pending())
    expires_at = {item["expiresAt"]["N"] for item in world.items(world.tables.conversations)}
    assert {int(second) // 10 for second in expires_at} == {(world.now_ms // 1000 + 90 * 86_400) // 10}


async def test_what_ended_a_moment_ago_is_a_note_without_the_index(world) -> None:
    store = world.requests()
    for n in range(4):
        await world.turn(store, f"r{n}")
    entries = await world.turns().newest_pending("ann", "c1", turns=2)
    assert [note.turn.request_id for note in entries][-2:] == ["r2", "r3"]


async def test_a_settled_note_of_an_erased_user_brings_nothing_back(world) -> None:
    await world.turn(world.requests(), "r1")
    entries = await world.turns().pending()
    assert await erase_user(world.database(), world.requests(), "ann")
    assert await world.turns().present(entries) == []
    await world.turns().settled(entries)
    assert world.items(world.tables.conversations) == []


# --- context ------------------------------------------------------------------------------------------------


async def test_a_replacement_of_what_was_superseded_leaves_superseded_what_the_first_one_did(world) -> None:
    """`again` replaced a; then b, which `again` had superseded, is replaced: a must not come back."""
    store = world.requests()
    for request_id, replaces in (("a", None), ("b", None), ("c", None), ("again", "a"), ("late", "b")):
        await world.turn(store, request_id, replaces=replaces)
    assert await recent_turns(world) == ["late"]
    await world.turn(store, "next")
    assert await recent_turns(world) == ["late", "next"]


async def test_an_edit_of_a_question_in_an_abandoned_branch_sees_nothing_of_it(world) -> None:
    store = world.requests()
    for request_id, replaces in (("a", None), ("b", None), ("again", "a")):
        await world.turn(store, request_id, replaces=replaces)
    assert await recent_turns(world, before="b") == []


async def test_a_question_whose_record_is_gone_is_still_found_in_its_conversation(world) -> None:
    store = world.requests()
    for request_id in ("a", "b", "c"):
        await world.turn(store, request_id)
    for item in world.items(world.tables.requests):
        key = {name: item[name] for name in ("userId", "requestId")}
        world.client.delete_item(TableName=world.tables.requests, Key=key)
    assert await recent_turns(world, before="b") == ["a"]
    await world.turn(store, "b2", replaces="b")
    assert await recent_turns(world) == ["a", "b2"]


async def test_a_turn_asked_after_the_deletion_does_not_reach_behind_it(world) -> None:
    store, turns = world.requests(), world.turns()
    await world.turn(store, "a")
    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms)
    world.now_ms += 1_000
    await world.turn(store, "b")
    await world.turn(store, "c", replaces="a")
    assert await recent_turns(world) == ["b", "c"]


async def test_a_late_answer_is_not_kept_when_the_deletion_is_taken_back(world) -> None:
    store, turns = world.requests(), world.turns()
    await world.turn(store, "a")
    await world.accept(store, "b")
    await store.change(RequestKey("ann", "b"), world.claim())
    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms)
    world.now_ms += 1_000
    await store.change(RequestKey("ann", "b"), world.finish())
    assert await recent_turns(world) == []
    await turns.restore_conversation("ann", "c1")
    await turns.restore_conversation("ann", "c1")
    assert await turns.deleted_at_ms("ann", "c1") is None
    assert await recent_turns(world) == ["a"]


async def test_what_was_deleted_before_the_conversation_restarted_stays_gone(world) -> None:
    store, turns = world.requests(), world.turns()
    await world.turn(store, "old")
    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms)
    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms + 500)
    world.now_ms += 1_000
    await world.turn(store, "new")
    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms)
    assert await recent_turns(world) == []
    await turns.restore_conversation("ann", "c1")
    assert await recent_turns(world) == ["new"]
    await turns.restore_conversation("ann", "c1")
    assert await recent_turns(world) == ["new"]
    await turns.erase_conversation("ann", "c1")
    assert await recent_turns(world) == ["new"]
    assert len([item for item in world.items(world.tables.conversations) if "text" in item]) == 2


async def test_a_repeated_deletion_is_taken_back_whole(world) -> None:
    turns = world.turns()
    await world.turn(world.requests(), "a")
    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms)
    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms + 500)
    assert await turns.deleted_at_ms("ann", "c1") == world.now_ms
    await turns.restore_conversation("ann", "c1")
    assert await recent_turns(world) == ["a"]


async def test_erasing_a_conversation_takes_what_was_asked_before_its_deletion(world) -> None:
    store, turns = world.requests(), world.turns()
    await world.turn(store, "a")
    await world.turn(store, "other", conversation="c2")
    await turns.erase_conversation("ann", "c1")
    assert await recent_turns(world) == ["a"]
    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms)
    world.now_ms += 1_000
    await world.turn(store, "b")
    await turns.erase_conversation("ann", "c1")
    await turns.erase_conversation("ann", "c1")
    assert await recent_turns(world) == ["b"]
    assert await recent_turns(world, conversation="c2") == ["other"]
    assert len([item for item in world.items(world.tables.conversations) if "text" in item]) == 4


async def test_the_newest_turn_is_found_behind_what_is_unfinished_and_not_behind_a_deletion(world) -> None:
    turns, requests = world.turns(), world.requests()
    assert await turns.newest_turn("ann", "c1") is None
    await world.turn(requests, "r1")
    await world.turn(requests, "r2", status=Status.FAILED)
    await world.turn(requests, "other", conversation="c2")
    for number in range(3):
        await world.accept(requests, f"waits-{number}")
    assert await turns.newest_turn("ann", "c1") == "r2"
    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms)
    assert await turns.newest_turn("ann", "c1") is None
    world.now_ms += 1
    await world.turn(requests, "r3")
    assert await turns.newest_turn("ann", "c1") == "r3"
    assert await turns.newest_turn("bob", "c1") is None


async def test_texts_that_nothing_names_are_no_turns(world) -> None:
    """Many of them in one conversation, as after crashes between text and record."""
    store = world.requests()
    await world.turn(store, "a")
    for n in range(30):
        await world.accept(store, f"waiting{n}")
    assert await recent_turns(world, limit=1) == ["a"]


async def test_a_long_conversation_is_read_in_pages_and_no_more_than_is_needed(world, units) -> None:
    store = world.requests()
    for n in range(12):
        await world.turn(store, f"r{n:02}", "a" * 200_000)
    assert await recent_turns(world, limit=9) == [f"r{n:02}" for n in range(3, 12)]
    units.clear()
    assert await recent_turns(world, limit=2) == ["r10", "r11"]
    assert units.read < 3 * 200_000 / 4096


async def test_conversations_whose_ids_begin_alike_are_apart(world) -> None:
    store = world.requests()
    for conversation in ("c", "c#0", "c#deleted", "c1"):
        await world.turn(store, f"in {conversation}", conversation=conversation)
    for conversation in ("c", "c#0", "c#deleted", "c1"):
        assert await recent_turns(world, conversation=conversation) == [f"in {conversation}"]


# --- erasing ------------------------------------------------------------------------------------------------


async def test_erasing_a_user_empties_every_table_of_that_user_alone(world) -> None:
    store, connections = world.requests(), world.connections()
    limits = RateLimits(world.database())
    for user in ("ann", "bob"):
        for n in range(30):
            await world.turn(store, f"r{n}", user=user, per_minute=100)
        await world.accept(store, "waiting", user=user, per_minute=100)
        await limits.set_own_limit(user, 7)
        await connections.add(
            Connection(connection_id=f"k-{user}", session_id="s1", connected_at_ms=1, last_activity_ms=1)
        )
        await connections.bind(f"k-{user}", user)
    assert await limits.own_limit("ann") == 7
    assert await erase_user(world.database(), world.requests(), "ann")
    for name in world.tables.__slots__:
        items = world.items(getattr(world.tables, name))
        assert items, name
        assert {item["userId"]["S"] for item in items} == {"bob"}, name
    assert not await erase_user(world.database(), world.requests(), "ann")
    assert await limits.own_limit("ann") is None
    assert len(await store.unfinished()) == 1


# --- against the store in memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_any_course_of_a_conversation_has_the_context_that_memory_has(world, seed: int) -> None:
    """Questions, failures, edits of anything, deletions and their taking back; asked at every point of it."""
    random = Random(seed)
    memory, store, turns = MemoryStore(), world.requests(), world.turns()
    asked: list[str] = []

    async def compare() -> None:
        for before in (None, *asked):
            named = {"limit": 100, "before_request": before}
            expected = [turn.request_id for turn in await memory.recent_turns("ann", "c1", **named)]
            found = [turn.request_id for turn in await turns.recent_turns("ann", "c1", **named)]
            assert found == expected, (seed, before, asked)

    for n in range(14):
        world.now_ms += 1_000
        match random.choices(("turn", "edit", "delete", "restore"), (5, 5, 1, 1))[0]:
            case "delete":
                if await memory.update_conversation("ann", "c1", title=None, deleted=True, now_ms=world.now_ms):
                    await turns.delete_conversation("ann", "c1", now_ms=world.now_ms)
            case "restore":
                was_deleted = not await memory.conversations("ann", before=None, limit=1)
                await memory.update_conversation("ann", "c1", title=None, deleted=False, now_ms=world.now_ms)
                if was_deleted:
                    await turns.restore_conversation("ann", "c1")
            case kind:
                replaces = random.choice(asked) if kind == "edit" and asked else None
                status = random.choices((Status.COMPLETED, Status.FAILED), (4, 1))[0]
                for backend in (memory, store):
                    begun_ms = world.now_ms
                    await world.turn(backend, f"r{n}", replaces=replaces, status=status)
                    world.now_ms = begun_ms
                world.now_ms += 1_000
                asked.append(f"r{n}")
        await compare()
