"""Budgets, held by every store: counted in the transactions that accept and end a request, and in no other."""

import asyncio
from functools import partial
from typing import Any

import pytest

from answerback.core import request as changes
from answerback.core.budget import (
    CONTEXT_RESERVE,
    MESSAGE_TOKENS,
    NOTHING,
    Budget,
    Counted,
    Period,
    Price,
    Tariff,
    Terms,
    Unit,
    team_holder,
)
from answerback.core.request import Claimed, Ended, Fenced, Policy, RequestKey
from answerback.ports import Accepted, Existing, OverBudget
from answerback.protocol.errors import ErrorCode

TARIFF = Tariff(models={"echo": Terms(max_tokens=7, context_tokens=0, price=Price(1_000_000, 1_000_000, 0))})
ONE = len("What is it?") + MESSAGE_TOKENS + 7
"""Tokens that each question here reserves, and micro-dollars."""

DESIGN = team_holder("design")


@pytest.fixture
def ask(actor: Any) -> Any:
    return partial(actor.accept, tariff=TARIFF)


async def day(store: Any, actor: Any, limit: int, *, holder: str = "ann", unit: Unit = Unit.TOKENS) -> None:
    await store.set_budget(holder, Period.DAY, Budget(limit, unit, Period.DAY), now_ms=actor.now_ms)


async def counted(store: Any, actor: Any, holder: str = "ann") -> tuple[int, int]:
    (state,) = await store.budgets(holder, now_ms=actor.now_ms)
    return tuple(state.counter)  # type: ignore[return-value]


async def test_a_question_reserves_and_its_ending_settles(store, actor, ask):
    await day(store, actor, 3 * ONE)
    admitted = await ask("r1")
    assert isinstance(admitted, Accepted)
    assert admitted.hold is not None
    assert admitted.hold == (await store.read(RequestKey("ann", "r1"))).hold
    assert await counted(store, actor) == (ONE, ONE)
    await actor.claim("r1")
    assert await counted(store, actor) == (ONE, ONE)
    ended = await actor.finish("r1", counted=Counted(5, 2))
    assert isinstance(ended, Ended)
    assert (ended.record.hold, ended.record.ending.cost_micro_usd) == (None, 7)
    assert await counted(store, actor) == (7, 0)
    again = await actor.finish("r1", counted=Counted(5, 2))
    assert isinstance(again, Ended)
    assert await counted(store, actor) == (7, 0), "a repeat settles nothing"


async def test_a_question_without_room_is_refused_and_counts_nowhere(store, actor, ask):
    await day(store, actor, 2 * ONE)
    assert [type(await ask(f"r{n}")) for n in range(3)] == [Accepted, Accepted, OverBudget]
    assert await store.read(RequestKey("ann", "r2")) is None
    assert isinstance(await ask("r1"), Existing), "a repeat is free"
    assert await counted(store, actor) == (2 * ONE, 2 * ONE)
    await actor.claim("r0")
    await actor.finish("r0", counted=NOTHING)
    assert isinstance(await ask("r2"), Accepted), "there is room again"


async def test_who_has_no_budget_holds_nothing(store, actor, ask):
    await day(store, actor, 1)
    admitted = await ask("r1", user="bob")
    assert isinstance(admitted, Accepted)
    assert admitted.hold is None
    assert list(await store.budgets("bob", now_ms=actor.now_ms)) == []


async def test_a_team_and_its_users_are_counted_together(store, actor, ask):
    await day(store, actor, 2 * ONE, holder=DESIGN, unit=Unit.MICRO_USD)
    await day(store, actor, ONE)
    for user in ("ann", "bob"):
        await store.set_team(user, "design", now_ms=actor.now_ms)
    assert isinstance(await ask("r1"), Accepted)
    assert isinstance(await ask("r1", user="bob"), Accepted)
    assert isinstance(await ask("r2", user="bob"), OverBudget)
    assert isinstance(await ask("r2"), OverBudget)
    assert await counted(store, actor, DESIGN) == (2 * ONE, 2 * ONE)
    assert await counted(store, actor) == (ONE, ONE), "all or none"
    assert len(await store.budgets_of_user("ann", None, now_ms=actor.now_ms)) == 2
    assert len(await store.budgets_of_user("eve", "design", now_ms=actor.now_ms)) == 1


async def test_the_team_of_the_token_wins(store, actor, ask):
    await day(store, actor, ONE, holder=DESIGN)
    await day(store, actor, 5 * ONE, holder=team_holder("sales"))
    await store.set_team("ann", "design", now_ms=actor.now_ms)
    assert isinstance(await ask("r1", team="sales"), Accepted)
    assert await counted(store, actor, DESIGN) == (0, 0)
    assert await counted(store, actor, team_holder("sales")) == (ONE, ONE)
    await actor.claim("r1")
    await store.set_team("ann", None, now_ms=actor.now_ms)
    await actor.finish("r1", counted=NOTHING)
    assert await counted(store, actor, team_holder("sales")) == (0, 0), "settled where it was reserved"


@pytest.mark.crowd
async def test_many_at_once_are_never_above_the_cap(store, actor, ask):
    await day(store, actor, 3 * ONE, holder=DESIGN)
    users = [f"u{n}" for n in range(8)]
    admitted = await asyncio.gather(*(ask("r", user=user, conversation=None, team="design") for user in users))
    assert sum(isinstance(one, Accepted) for one in admitted) == 3
    assert sum(isinstance(one, OverBudget) for one in admitted) == 5
    assert await counted(store, actor, DESIGN) == (3 * ONE, 3 * ONE)


@pytest.mark.parametrize("team", [None, "design"])
async def test_a_lost_attempt_counts_in_full_and_the_next_needs_room(store, actor, ask, team):
    holder = "ann" if team is None else DESIGN
    await day(store, actor, 2 * ONE, holder=holder)
    await ask("r1", team=team)
    await actor.claim("r1")
    actor.now_ms += Policy().lease_ms
    assert isinstance(await actor.claim("r1", owner="w2"), Claimed)
    assert await counted(store, actor, holder) == (2 * ONE, ONE)
    assert isinstance(await actor.finish("r1", counted=NOTHING), Fenced), "the lost one settles nothing"
    actor.now_ms += Policy().lease_ms
    ended = await actor.claim("r1", owner="w3")
    assert isinstance(ended, Ended)
    assert ended.is_new
    assert (ended.record.ending.error_code, ended.record.ending.error_reason) == (ErrorCode.RATE_LIMITED, "budget")
    assert await counted(store, actor, holder) == (2 * ONE, 0)
    assert (await store.read(RequestKey("ann", "r1"))).ending == ended.record.ending


async def test_what_is_cancelled_before_it_runs_costs_nothing(store, actor, ask):
    await day(store, actor, ONE)
    await ask("r1")
    record = await store.read(RequestKey("ann", "r1"))
    await store.change(record.key, partial(changes.cancel, refusal_record=record, now_ms=actor.now_ms))
    assert await counted(store, actor) == (0, 0)


async def test_counters_and_holds_survive_a_restart(backend, store, actor, ask):
    await day(store, actor, 2 * ONE)
    await day(store, actor, 9 * ONE, holder=DESIGN)
    await ask("r1", team="design")
    actor.store = again = await backend.reopen()
    assert await counted(again, actor) == (ONE, ONE)
    assert isinstance(await actor.accept("r2", tariff=TARIFF), Accepted)
    assert isinstance(await actor.accept("r3", tariff=TARIFF), OverBudget)
    await actor.claim("r1")
    await actor.finish("r1", counted=Counted(1, 0))
    assert await counted(again, actor, DESIGN) == (1, 0)
    assert isinstance(await actor.accept("r4", "x" * 9 * ONE, user="bob", team="design", tariff=TARIFF), OverBudget)


async def test_a_request_is_settled_in_the_day_of_its_acceptance(store, actor, ask):
    await day(store, actor, ONE)
    await ask("r1")
    await actor.claim("r1")
    actor.now_ms += 86_400_000
    assert isinstance(await ask("r2"), Accepted), "another day, another counter"
    await actor.finish("r1", counted=Counted(3, 0))
    assert await counted(store, actor) == (ONE, ONE)
    actor.now_ms -= 86_400_000
    assert await counted(store, actor) == (3, 0)


async def test_erasing_a_user_gives_back_what_is_held_of_the_team(store, actor, ask):
    await day(store, actor, 9 * ONE, holder=DESIGN)
    await ask("r1", team="design")
    await ask("r2", team="design", conversation="c2")
    await actor.claim("r2")
    assert await counted(store, actor, DESIGN) == (2 * ONE, 2 * ONE)
    await store.delete_user("ann")
    assert await counted(store, actor, DESIGN) == (ONE, 0), "what ran is paid in full"
    assert isinstance(await actor.finish("r2", counted=NOTHING), Fenced)
    assert await counted(store, actor, DESIGN) == (ONE, 0)


async def test_a_budget_is_changed_and_taken_away(store, actor, ask):
    await day(store, actor, ONE)
    await store.set_budget("ann", Period.MONTH, Budget(9 * ONE, Unit.MICRO_USD, Period.MONTH), now_ms=actor.now_ms)
    assert [state.budget.period for state in await store.budgets("ann", now_ms=actor.now_ms)] == ["day", "month"]
    await ask("r1")
    await day(store, actor, 2 * ONE)
    assert isinstance(await ask("r2"), Accepted), "a higher cap counts at once"
    for period in Period:
        await store.set_budget("ann", period, None, now_ms=actor.now_ms)
    assert isinstance(await ask("r3"), Accepted)
    await actor.claim("r1")
    assert isinstance(await actor.finish("r1"), Ended), "what it held is settled all the same"


async def test_earlier_turns_have_room_in_what_is_reserved(store, actor):
    await day(store, actor, 10**9)
    admitted = await actor.accept("r1", tariff=Tariff(models={"echo": Terms(max_tokens=7)}))
    assert isinstance(admitted, Accepted)
    assert admitted.hold.max_in == ONE - 7 + CONTEXT_RESERVE
