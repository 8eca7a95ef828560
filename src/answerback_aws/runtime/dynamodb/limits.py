"""The rate: calendar minutes of a user (core.admission), and the user's own limit."""

from dataclasses import dataclass
from typing import Any, Final

from answerback.core.admission import WINDOW_MS, is_locked, window_of
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.items import decode, encode, number_of

_OWN_LIMIT: Final = "limit"
"""Sorts behind every minute, so that one query reads the present minute and the limit."""

_KEPT_S: Final = 3_600
"""A minute's item outlives its minute by far, for clocks that differ."""


@dataclass(frozen=True, slots=True)
class Window:
    """What is known of a user's minute: never more than what was counted. `own_limit` None: the default holds."""

    count: int
    own_limit: int | None


class RateLimits:
    """The RateLimits table. Every method may raise Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.tables.rate_limits

    async def window(self, user_id: str, *, now_ms: int) -> Window:
        """The user's minute as of a moment ago: half a read unit."""
        minute = _minute(now_ms)
        found = await self._database.query(
            self._table,
            "userId = :u AND #w >= :m",
            {":u": user_id, ":m": minute},
            ExpressionAttributeNames={"#w": "window"},
        )
        by_window = {item["window"]["S"]: decode(item) for item in found}
        own = by_window.get(_OWN_LIMIT)
        counted = by_window.get(minute)
        return Window(
            count=0 if counted is None else int(counted["asked"]),
            own_limit=None if own is None else int(own["perMinute"]),
        )

    def count(self, user_id: str, *, limit: int, now_ms: int) -> dict[str, Any]:
        """The part of a transaction that counts one request, if fewer than `limit` were counted in this minute."""
        return {
            "Update": {
                "TableName": self._table,
                "Key": encode({"userId": user_id, "window": _minute(now_ms)}),
                "UpdateExpression": "ADD asked :one SET expiresAt = :e",
                "ConditionExpression": "attribute_not_exists(asked) OR asked < :limit",
                "ExpressionAttributeValues": encode(
                    {":one": 1, ":limit": limit, ":e": (window_of(now_ms) + 1) * WINDOW_MS // 1000 + _KEPT_S}
                ),
            }
        }

    async def own_limit(self, user_id: str) -> int | None:
        """The user's own limit a minute as it is stored (0: none); None: the default holds."""
        found = await self._database.get(self._table, {"userId": user_id, "window": _OWN_LIMIT}, consistent=True)
        return None if found is None else int(found["perMinute"]["N"])

    async def is_blocked(self, user_id: str) -> bool:
        """Whether the operator has locked the user out: half a read unit."""
        found = await self._database.query(
            self._table,
            "userId = :u AND #w = :l",
            {":u": user_id, ":l": _OWN_LIMIT},
            ExpressionAttributeNames={"#w": "window"},
        )
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
