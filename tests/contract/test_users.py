"""ports.Users, held by every store."""

import json
from typing import Any

import pytest

from answerback.core.request import Fenced, RequestKey
from answerback.ports import Accepted, Blocked, DailyUsage, Existing, StoredUser

pytestmark = pytest.mark.users

DAY_MS = 86_400_000


async def test_a_user_is_made_by_the_first_question(store, actor):
    assert await store.user("ann") is None
    begun = actor.now_ms
    await actor.accept("r1")
    assert await store.user("ann") == StoredUser(
        user_id="ann", per_minute=None, created_at_ms=begun, last_request_at_ms=begun, conversations=0, turns=0
    )
    actor.now_ms += 5000
    await actor.turn("r2", conversation="c2")
    await actor.turn("r3", conversation="c2")
    await store.update_conversation("ann", "c2", title=None, deleted=True, now_ms=actor.now_ms)
    await actor.turn("r4", conversation="c3")
    asked = actor.now_ms - 1000
    user = await store.user("ann")
    assert user is not None
    assert (user.created_at_ms, user.last_request_at_ms, user.conversations, user.turns) == (begun, asked, 1, 1)


async def test_users_are_listed_by_id_in_pages(store, actor):
    names = ["bob", "Ann", "ann", "가나", "b-1", "b_1", "b"]
    for name in names:
        await actor.accept("r1", user=name)
    listed: list[str] = []
    after = None
    while page := await store.users(after=after, limit=3):
        listed += [u.user_id for u in page]
        after = listed[-1]
    assert listed == sorted(names)
    assert len(await store.users()) == len(names)


@pytest.mark.parametrize("own_limit", [None, 0, 1, 3])
async def test_a_blocked_user_is_refused_and_keeps_everything(store, actor, own_limit):
    await actor.turn("r0")
    if own_limit is not None:
        await store.set_limit("ann", own_limit, now_ms=actor.now_ms)
    for _ in range(2):  # twice is the same as once
        await store.set_blocked("ann", blocked=True, now_ms=actor.now_ms)
        user = await store.user("ann")
        assert (user.blocked, user.per_minute, user.turns) == (True, own_limit, 1)
    assert isinstance(await actor.accept("r1"), Blocked)
    assert isinstance(await actor.accept("r1", user="bob"), Accepted)
    assert isinstance(await actor.accept("r0"), Existing), "an id that exists is free"
    assert [u.user_id for u in await store.users() if u.blocked] == ["ann"]
    await store.set_limit("ann", 5, now_ms=actor.now_ms)
    user = await store.user("ann")
    assert (user.blocked, user.per_minute) == (True, 5)
    assert isinstance(await actor.accept("r1"), Blocked)
    for _ in range(2):
        await store.set_blocked("ann", blocked=False, now_ms=actor.now_ms)
        user = await store.user("ann")
        assert (user.blocked, user.per_minute) == (False, 5)
    actor.now_ms += 60_000
    assert isinstance(await actor.accept("r1"), Accepted)


async def test_who_never_asked_can_be_blocked(store, actor):
    await store.set_blocked("eve", blocked=True, now_ms=actor.now_ms)
    assert isinstance(await actor.accept("r1", user="eve"), Blocked)
    assert not await store.delete_user("eve"), "nothing but the lock-out, which stays"


async def test_who_is_erased_stays_blocked(store, actor):
    await actor.turn("r1", user="eve")
    await store.set_blocked("eve", blocked=True, now_ms=actor.now_ms)
    assert await store.delete_user("eve")
    assert isinstance(await actor.accept("r1", user="eve"), Blocked)
    user = await store.user("eve")
    assert (user.blocked, user.turns, user.last_request_at_ms) == (True, 0, None)
    await store.set_blocked("eve", blocked=False, now_ms=actor.now_ms)
    assert await store.delete_user("eve")
    assert await store.user("eve") is None
    assert isinstance(await actor.accept("r1", user="eve"), Accepted), "an erased user is a new one"


async def test_a_limit_makes_the_user(store, actor):
    await store.set_limit("ann", 3, now_ms=actor.now_ms)
    assert await store.user("ann") == StoredUser(
        user_id="ann",
        per_minute=3,
        created_at_ms=actor.now_ms,
        last_request_at_ms=None,
        conversations=0,
        turns=0,
    )
    actor.now_ms += 10
    await store.set_limit("ann", None, now_ms=actor.now_ms)
    user = await store.user("ann")
    assert user is not None
    assert (user.per_minute, user.created_at_ms) == (None, actor.now_ms - 10)


async def test_usage_is_summed_by_user_and_day(store, actor):
    actor.now_ms = 20_000 * DAY_MS + 1000
    await actor.turn("r1", tokens=(10, 20))
    await actor.turn("r2", tokens=(1, 2))
    await actor.turn("r3", tokens=None)
    await actor.turn("r1", user="bob", tokens=(100, 200))
    actor.now_ms += DAY_MS
    await actor.turn("r4", tokens=(5, 5))

    def used(user: str, day: str, *numbers: int) -> DailyUsage:
        requests, tokens_in, tokens_out = numbers
        return DailyUsage(user_id=user, day=day, requests=requests, input_tokens=tokens_in, output_tokens=tokens_out)

    first, second = "2024-10-04", "2024-10-05"
    ann = [used("ann", first, 3, 11, 22), used("ann", second, 1, 5, 5)]
    assert list(await store.usage("ann")) == ann
    assert list(await store.usage(None)) == [ann[0], used("bob", first, 1, 100, 200), ann[1]]
    assert list(await store.usage("ann", since_day=second)) == [ann[1]]
    assert list(await store.usage(None, since_day="2024-10-06")) == []


async def test_deleting_a_user_erases_everything(store, actor, backend):
    await actor.store.set_limit("ann", 3, now_ms=actor.now_ms)
    await actor.turn("done", "Why?")
    await actor.accept("running", system="private")
    await actor.claim("running")
    await actor.accept("waiting")
    await actor.turn("done", "Why?", user="bob")
    assert await store.delete_user("ann")
    again = store
    for is_second in (False, True):
        if is_second:
            again = await backend.reopen()
        for request_id in ("done", "running", "waiting"):
            key = RequestKey("ann", request_id)
            assert await again.read(key) is None
            assert await again.question(key) is None
            assert (await again.answer(key)).text == ""
        assert list(await again.unfinished()) == []
        assert await again.user("ann") is None
        assert [u.user_id for u in await again.users()] == ["bob"]
        assert list(await again.turns("ann", "c1", before=None, limit=9)) == []
        assert list(await again.conversations("ann", before=None, limit=9)) == []
        assert [u.user_id for u in await again.usage(None)] == ["bob"]
        assert [t.question for t in await again.turns("bob", "c1", before=None, limit=9)] == ["Why?"]
        assert not await again.delete_user("ann")


async def test_a_deleted_users_worker_writes_nothing_and_the_user_may_come_back(store, actor):
    await actor.accept("r1", per_minute=1)
    await actor.claim("r1")
    await store.delete_user("ann")
    assert await actor.finish("r1") == Fenced(None)
    assert await store.user("ann") is None
    assert await actor.accept("r1", "again", per_minute=1) == Accepted(0)
    assert (await store.question(RequestKey("ann", "r1"))).message == "again"


# --- export


async def lines(store, user: str = "ann") -> list[dict[str, Any]]:
    return [json.loads(line) async for line in store.export(user)]


async def test_an_export_has_all_that_erasing_takes_away(store, actor):
    long = "길다 \n" * 30_000
    await store.set_limit("ann", 300, now_ms=actor.now_ms)
    await actor.turn("done", f"asked {long}", f"answered {long}", tokens=(3, 4))
    await actor.turn("again", "asked again", replaces="done")
    await actor.turn("old", "asked elsewhere", conversation="c2")
    await actor.turn("bob's", "a secret of bob", user="bob")
    assert len(await store.turns("ann", "c2", before=None, limit=9)) == 1
    await store.set_retention("ann", 9, now_ms=actor.now_ms, conversation_id="c2")
    await store.update_conversation("ann", "c2", title="a title", deleted=True, now_ms=actor.now_ms)
    for number in range(110):
        await actor.accept(f"r{number}", f"waiting {number}", system=f"system {number}")
    await actor.accept("too much", "is not kept", per_minute=1)
    told = await lines(store)
    asked = {line["requestId"]: line for line in told if line["table"] == "requests" and "question" in line}
    assert asked["done"]["question"] == f"asked {long}"
    assert asked["done"]["answer"] == f"answered {long}"
    assert (asked["done"]["inputTokens"], asked["done"]["supersededBy"]) == (3, "again")
    assert asked["old"]["question"] == "asked elsewhere"
    one = next(line for line in told if line["table"] == "conversations" and line["conversationId"] == "c2")
    assert (one["title"], one["keepDays"], one["deletedAtMs"]) == ("a title", 9, actor.now_ms)
    assert next(line for line in told if line["table"] == "users")["perMinute"] == 300
    text = json.dumps(told)
    for number in range(110):
        assert f'"waiting {number}"' in text
        assert f'"system {number}"' in text
    assert "bob" not in text
    assert len({json.dumps(line) for line in told}) == len(told)
    assert await store.delete_user("ann")
    assert await lines(store) == []
    assert await lines(store, "bob") != []


async def test_an_export_has_what_is_known_of_days_whose_requests_are_forgotten(store, actor):
    await actor.turn("done", tokens=(3, 4))
    await store.turns("ann", "c1", before=None, limit=9)
    await store.purge(ended_before_ms=actor.now_ms + 1, refused_before_ms=0)
    told = await lines(store)
    (used,) = [line for line in told if line["table"] == "usage"]
    assert (used["requests"], used["inputTokens"], used["outputTokens"]) == (1, 3, 4)
    assert [line["question"] for line in told if line["table"] == "requests" and "question" in line] == ["What is it?"]


# --- retention

FOREVER = 1_000_000


async def names(store, user: str = "ann") -> list[str]:
    return [one.conversation_id for one in await store.conversations(user, before=None, limit=9)]


@pytest.mark.parametrize(
    ("server", "of_user", "of_conversation", "is_kept"),
    [
        (FOREVER, None, None, True), (30, None, None, True), (29, None, None, False),
        (29, FOREVER, None, True), (FOREVER, 29, None, False), (1, 30, None, True),
        (FOREVER, 1, 30, True), (1, 1, FOREVER, True), (FOREVER, FOREVER, 29, False),
    ],
)  # fmt: skip
async def test_a_conversation_is_kept_as_long_as_the_nearest_rule_says(
    store, actor, server, of_user, of_conversation, is_kept
):
    await actor.turn("r1", "Why?")
    used_at_ms = actor.now_ms
    if of_user is not None:
        assert await store.set_retention("ann", of_user, now_ms=actor.now_ms)
    if of_conversation is not None:
        assert await store.set_retention("ann", of_conversation, now_ms=actor.now_ms, conversation_id="c1")
    user = await store.user("ann")
    assert user is not None
    assert (user.keep_days, user.turns) == (of_user, 1)
    now_ms = used_at_ms + 30 * DAY_MS
    assert await store.delete_expired(now_ms=now_ms, keep_days=server) == (not is_kept)
    assert await store.delete_expired(now_ms=now_ms, keep_days=server) == 0
    assert await names(store) == (["c1"] if is_kept else [])
    assert [turn.question for turn in await store.recent_turns("ann", "c1", limit=9)] == (["Why?"] if is_kept else [])
    await store.purge_deleted(before_ms=now_ms - 7 * DAY_MS)
    restored = await store.update_conversation("ann", "c1", title=None, deleted=False, now_ms=now_ms)
    assert (restored is not None) == is_kept, "what is deleted is erased at once: it was last used long ago"


async def test_a_rule_that_is_taken_away_holds_no_more(store, actor):
    await actor.turn("r1")
    for keep_days in (1, None):
        assert await store.set_retention("ann", keep_days, now_ms=actor.now_ms)
        assert await store.set_retention("ann", keep_days, now_ms=actor.now_ms, conversation_id="c1")
    assert await store.delete_expired(now_ms=actor.now_ms + 30 * DAY_MS, keep_days=FOREVER) == 0


async def test_rules_of_whom_and_what_is_not_there(store, actor):
    await actor.turn("r1")
    assert not await store.set_retention("ann", 3, now_ms=actor.now_ms, conversation_id="c9")
    assert not await store.set_retention("eve", 3, now_ms=actor.now_ms, conversation_id="c1")
    assert await store.user("eve") is None
    assert await store.set_retention("eve", 3, now_ms=actor.now_ms)
    eve = await store.user("eve")
    assert (eve.keep_days, eve.per_minute, eve.blocked) == (3, None, False)
    await store.set_limit("eve", 5, now_ms=actor.now_ms)
    assert (await store.user("eve")).keep_days == 3
    assert await store.delete_user("eve")
    assert await store.user("eve") is None


async def test_a_conversation_that_has_expired_begins_anew(store, actor):
    await actor.turn("r1", "old")
    assert len(await store.turns("ann", "c1", before=None, limit=9)) == 1
    await store.delete_expired(now_ms=actor.now_ms + 3 * DAY_MS, keep_days=2)
    actor.now_ms += 3 * DAY_MS
    await actor.turn("r2", "new")
    assert [turn.question for turn in await store.turns("ann", "c1", before=None, limit=9)] == ["new"]
