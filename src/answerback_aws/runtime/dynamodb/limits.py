"""The rate: calendar minutes of a user (core.admission), and the user's own limit. Budgets and their counters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from answerback.core.admission import WINDOW_MS, is_locked, window_of
from answerback.core.budget import (
    KEPT_MS,
    Budget,
    BudgetState,
    Counter,
    Entry,
    Period,
    decode_budgets,
    encode_budgets,
    opens_at_ms,
    states,
    team_holder,
    with_budget,
)
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.items import Item, decode, encode, number_of, text_of, update_of

_OWN_LIMIT: Final = "limit"
"""Sorts behind every minute, so that one query reads the present minute and the limit."""

_CAPS: Final = "budget"
"""The budgets of a user or a team, and the user's team. Sorts behind every minute, before counters and limit."""

_COUNTER: Final = f"{_CAPS}#"
_LAST: Final = f"{_CAPS}~"
_KEPT_S: Final = 3_600
"""A minute's item outlives its minute by far, for clocks that differ."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The budgets of a user or a team, and its counters."""

    budgets: tuple[Budget, ...] = ()
    team: str | None = None
    counters: Mapping[tuple[str, str], Counter] = field(default_factory=dict)

    @classmethod
    def of(cls, holder: str, items: Sequence[Item]) -> "Standing":
        budgets: tuple[Budget, ...] = ()
        team: str | None = None
        counters: dict[tuple[str, str], Counter] = {}
        for item in items:
            name = item["window"]["S"]
            if name == _CAPS:
                budgets, team = decode_budgets(text_of(item, "caps")), text_of(item, "team")
            elif name.startswith(_COUNTER):
                counter = Counter(number_of(item, "used") or 0, number_of(item, "reserved") or 0)
                counters[holder, name.removeprefix(_COUNTER)] = counter
        return cls(budgets, team, counters)


@dataclass(frozen=True, slots=True)
class Window:
    """What is known of a user's minute: never more than what was counted. `own_limit` None: the default holds."""

    count: int
    own_limit: int | None
    standing: Standing


class RateLimits:
    """The RateLimits table. Every method may raise Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.tables.rate_limits

    async def window(self, user_id: str, *, now_ms: int) -> Window:
        """The user's minute and budgets as of a moment ago: half a read unit."""
        minute = _minute(now_ms)
        values = {":u": user_id, ":m": minute}
        found = await self._database.query(self._table, "userId = :u AND #window >= :m", values)
        by_window = {item["window"]["S"]: decode(item) for item in found}
        own = by_window.get(_OWN_LIMIT)
        counted = by_window.get(minute)
        return Window(
            count=0 if counted is None else int(counted["asked"]),
            own_limit=None if own is None else int(own["perMinute"]),
            standing=Standing.of(user_id, found),
        )

    # --- budgets

    async def standing(self, holder: str, *, consistent: bool = False) -> Standing:
        """How the budgets of a user or a team stand, as of a moment ago, or as they are now."""
        condition, values = "userId = :u AND #window BETWEEN :first AND :last", {":first": _CAPS, ":last": _LAST}
        found = await self._database.query(self._table, condition, {":u": holder, **values}, ConsistentRead=consistent)
        return Standing.of(holder, found)

    async def states(self, holder: str, *, now_ms: int) -> list[BudgetState]:
        found = await self.standing(holder, consistent=True)
        return states(holder, found.budgets, found.counters, now_ms=now_ms)

    async def budgets_of_user(self, user_id: str, team: str | None, *, now_ms: int) -> list[BudgetState]:
        """Those that a question of the user is counted in. `team`: as the token has it."""
        own = await self.standing(user_id)
        found = states(user_id, own.budgets, own.counters, now_ms=now_ms)
        if (team := team or own.team) is not None:
            holder = team_holder(team)
            theirs = await self.standing(holder)
            found += states(holder, theirs.budgets, theirs.counters, now_ms=now_ms)
        return found

    async def set_budget(self, holder: str, period: Period, budget: Budget | None) -> tuple[Budget, ...]:
        """Set one of the holder's budgets; all that there are now."""
        budgets = with_budget((await self.standing(holder, consistent=True)).budgets, period, budget)
        await self._set(holder, "caps", encode_budgets(budgets))
        return budgets

    async def set_team(self, user_id: str, team: str | None) -> None:
        await self._set(user_id, "team", team)

    async def _set(self, holder: str, name: str, value: str | None) -> None:
        change = f"REMOVE {name}" if value is None else f"SET {name} = :value"
        key = {"userId": holder, "window": _CAPS}
        await self._database.update(self._table, key, change, value=value)

    def charge(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """The part of a transaction that changes counters, each where it has room.

        A condition has no arithmetic, so `used` alone is asked about, and holds what is reserved.
        """
        return [self._charge(entry) for entry in entries]

    def _charge(self, entry: Entry) -> Any:
        has_room = "" if entry.room is None else "attribute_not_exists(#used) OR #used <= :room"
        return update_of(
            self._table,
            {"userId": entry.holder, "window": _COUNTER + entry.window},
            "ADD #used :used, reserved :reserved SET expiresAt = :e",
            has_room,
            used=entry.used,
            reserved=entry.reserved,
            room=entry.room,
            e=(opens_at_ms(entry.window) + KEPT_MS) // 1000,
        )

    # --- the minute

    def count(self, user_id: str, *, limit: int, now_ms: int) -> Any:
        """The part of a transaction that counts one request, if fewer than `limit` were counted in this minute."""
        return update_of(
            self._table,
            {"userId": user_id, "window": _minute(now_ms)},
            "ADD asked :one SET expiresAt = :e",
            "attribute_not_exists(asked) OR asked < :limit",
            one=1,
            limit=limit,
            e=(window_of(now_ms) + 1) * WINDOW_MS // 1000 + _KEPT_S,
        )

    async def own_limit(self, user_id: str) -> int | None:
        """The user's own limit a minute as it is stored (0: none); None: the default holds."""
        found = await self._database.get(self._table, {"userId": user_id, "window": _OWN_LIMIT}, consistent=True)
        return None if found is None else int(found["perMinute"]["N"])

    async def is_blocked(self, user_id: str) -> bool:
        """Whether the operator has locked the user out: half a read unit."""
        values = {":u": user_id, ":l": _OWN_LIMIT}
        found = await self._database.query(self._table, "userId = :u AND #window = :l", values)
        return any(is_locked(number_of(item, "perMinute")) for item in found)

    async def set_own_limit(self, user_id: str, per_minute: int | None) -> None:
        """Override the rate limit; None: back to the default, 0: no limit."""
        key = {"userId": user_id, "window": _OWN_LIMIT}
        if per_minute is None:
            await self._database.delete(self._table, key)
        else:
            await self._database.put(self._table, encode({**key, "perMinute": per_minute}))


def _minute(now_ms: int) -> str:
    return f"{window_of(now_ms):010}"
