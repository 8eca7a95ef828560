"""What the stores need of DynamoDB's client: reads with every page, writes whose condition may fail, transactions.

A failed condition is an outcome (`Refused`), not an error: it is how a store learns that somebody else was first. A
conflict with a transaction under way is neither; it is tried again after a pause.
"""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from botocore.exceptions import ClientError

from answerback.ports import Unavailable
from answerback_aws.runtime.client import Calls, error_code
from answerback_aws.runtime.dynamodb.items import Item, Value, encode, expression, names_in, text_of
from answerback_aws.runtime.dynamodb.tables import Tables

T = TypeVar("T")

TRIES: Final = 10
"""Of one write that others are in the way of: about two seconds."""

_BATCH_GET: Final = 100
_BATCH_WRITE: Final = 25
"""Items in one call, by DynamoDB's limits."""

_CONDITION: Final = "ConditionalCheckFailed"
_TRANSIENT: Final = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})
"""Reasons of a cancelled transaction that may be gone at the next try."""

_CONFLICTS: Final = frozenset({"TransactionConflictException", "TransactionInProgressException"})


@dataclass(frozen=True, slots=True)
class Refused:
    """A condition did not hold and nothing was written. For each failed action: its item as it is.

    `failed`: numbers of the actions whose condition failed. `items`: by that number; None: there is no such item.
    """

    failed: frozenset[int]
    items: Mapping[int, Item | None]


class _Conflict(Exception):
    """A transaction on the same item is under way."""


def backoff_s(attempt: int) -> float:
    """The pause after a try that others were in the way of: full jitter, at most half a second."""
    return random.uniform(0, min(0.5, 0.02 * 2**attempt))  # noqa: S311 - nothing secret


class Database:
    """DynamoDB in one deployment. Every method may raise Unavailable.

    `client` is a boto3 client of `dynamodb`. `pause`: what waits between two tries of a write.
    """

    def __init__(
        self,
        *,
        client: Any,
        calls: Calls,
        tables: Tables,
        pause: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self.tables = tables
        self.last_write_failed = False
        """`ports.Durability.last_write_failed`."""
        self._client = client
        self._calls = calls
        self.pause = _sleep if pause is None else pause

    # --- reads

    async def get(self, table: str, key: Mapping[str, Value], *, consistent: bool) -> Item | None:
        """One item. Not consistent: as it was a moment ago, for half the units."""
        found = await self._calls.run(
            self._client.get_item, TableName=table, Key=encode(key), ConsistentRead=consistent
        )
        item: Item | None = found.get("Item")
        return item

    async def get_immutable(self, table: str, key: Mapping[str, Value]) -> Item | None:
        """An item that is never changed: the cheap read is right if it finds it."""
        found = await self.get(table, key, consistent=False)
        return found if found is not None else await self.get(table, key, consistent=True)

    async def get_many(self, table: str, keys: Sequence[Mapping[str, Value]]) -> Sequence[Item]:
        """Those of the items that there are, in no order; strongly consistent."""
        found: list[Item] = []
        for start in range(0, len(keys), _BATCH_GET):
            asked: Any = {
                table: {"Keys": [encode(key) for key in keys[start : start + _BATCH_GET]], "ConsistentRead": True}
            }
            for attempt in range(TRIES):
                answer = await self._calls.run(self._client.batch_get_item, RequestItems=asked)
                found += answer["Responses"].get(table, [])
                asked = answer.get("UnprocessedKeys")
                if not asked:
                    break
                await self.pause(attempt)
            else:
                raise Unavailable("DynamoDB leaves keys of a batch unread, again and again")
        return found

    async def query(self, table: str, condition: str, values: Mapping[str, Value], **more: Any) -> Sequence[Item]:
        """Every item that the key condition finds, all pages. `#name`: an attribute whose name is a reserved word."""
        return await self._pages(
            self._client.query,
            TableName=table,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=encode(values),
            **names_in(condition, more.get("ProjectionExpression", "")),
            **more,
        )

    async def query_page(
        self,
        table: str,
        condition: str,
        values: Mapping[str, Value],
        *,
        limit: int,
        newest_first: bool = False,
        **more: Any,
    ) -> tuple[Sequence[Item], bool]:
        """At most `limit` items by sort key, ascending or descending, and whether there may be more."""
        found = await self._calls.run(
            self._client.query,
            TableName=table,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=encode(values),
            ScanIndexForward=not newest_first,
            Limit=limit,
            **names_in(condition),
            **more,
        )
        return found["Items"], "LastEvaluatedKey" in found

    async def scan(self, table: str, *, at_least: int | None = None, **more: Any) -> Sequence[Item]:
        """A whole table or index; no further page is read once there are `at_least` items."""
        return await self._pages(self._client.scan, at_least, TableName=table, **more)

    async def _pages(self, call: Any, at_least: int | None = None, /, **arguments: Any) -> Sequence[Item]:
        items: list[Item] = []
        while True:
            page = await self._calls.run(call, **arguments)
            items += page["Items"]
            last = page.get("LastEvaluatedKey")
            if last is None or (at_least is not None and len(items) >= at_least):
                return items
            arguments["ExclusiveStartKey"] = last

    # --- writes

    async def put(self, table: str, item: Item, condition: str = "", /, **values: Value | None) -> Refused | None:
        """Write a whole item, if the condition holds. `:name` stands for one of the values."""
        found = await self._write(self._client.put_item, table, Item=item, **expression("", condition, **values))
        return found if isinstance(found, Refused) else None

    async def update(
        self, table: str, key: Mapping[str, Value], change: str, condition: str = "", /, **values: Value | None
    ) -> Item | Refused:
        """Change an item, if the condition holds."""
        return await self.change(table, key, **expression(change, condition, **values))

    async def change(self, table: str, key: Mapping[str, Value], /, **update: Any) -> Item | Refused:
        """The same, in the client's words; the item's attributes as `ReturnValues` says (default: none)."""
        return await self._write(self._client.update_item, table, Key=encode(key), **update)

    async def delete(self, table: str, key: Mapping[str, Value]) -> Item | None:
        """Delete an item; as it was, None if there was none."""
        found = await self._write(self._client.delete_item, table, Key=encode(key), ReturnValues="ALL_OLD")
        assert not isinstance(found, Refused)
        return found or None

    async def delete_many(self, table: str, keys: Sequence[Mapping[str, Value]]) -> None:
        """Delete these items, each for itself; what is not there is fine."""
        for start in range(0, len(keys), _BATCH_WRITE):
            asked: Any = {
                table: [{"DeleteRequest": {"Key": encode(key)}} for key in keys[start : start + _BATCH_WRITE]]
            }
            for attempt in range(TRIES):
                answer = await self._calls.run(self._client.batch_write_item, RequestItems=asked)
                asked = answer.get("UnprocessedItems")
                if not asked:
                    break
                await self.pause(attempt)
            else:
                raise Unavailable("DynamoDB leaves deletions of a batch undone, again and again")

    async def transact(self, actions: Sequence[Mapping[str, Any]]) -> Refused | None:
        """All of the actions or none; the client makes a token of its own, so its retries write once."""

        async def attempt() -> Refused | None:
            try:
                await self._calls.run(self._client.transact_write_items, TransactItems=actions)
            except ClientError as exc:
                if error_code(exc) != "TransactionCanceledException":
                    raise
                return _cancelled(exc)
            return None

        return await self._persist(attempt)

    async def _write(self, call: Any, table: str, **arguments: Any) -> Item | Refused:
        """Write, and return the attributes that `ReturnValues` asks for."""
        if "ConditionExpression" in arguments:
            arguments["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"

        async def attempt() -> Item | Refused:
            try:
                answer = await self._calls.run(call, TableName=table, **arguments)
                written: Item = answer.get("Attributes", {})
                return written
            except ClientError as exc:
                if error_code(exc) != "ConditionalCheckFailedException":
                    raise
                return Refused(frozenset({0}), {0: exc.response.get("Item")})

        return await self._persist(attempt)

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until no transaction is in the way. Notes for operators whether the store takes writes."""
        try:
            for number in range(TRIES):
                try:
                    outcome = await attempt()
                except _Conflict:
                    pass
                except ClientError as exc:
                    if error_code(exc) not in _CONFLICTS:
                        raise
                else:
                    self.last_write_failed = False
                    return outcome
                await self.pause(number)
            raise Unavailable("other transactions were in the way of a write, again and again")
        except Unavailable:
            self.last_write_failed = True
            raise


def _cancelled(error: ClientError) -> Refused:
    reasons = error.response.get("CancellationReasons", [])
    codes = [reason.get("Code", "None") for reason in reasons]
    # Somebody else's write decides the condition too: look again when it is through.
    if any(code in _TRANSIENT for code in codes):
        raise _Conflict from error
    failed = frozenset(number for number, code in enumerate(codes) if code == _CONDITION)
    if not failed:
        raise error
    return Refused(failed, {number: reasons[number].get("Item") for number in failed})


async def _sleep(attempt: int) -> None:
    await asyncio.sleep(backoff_s(attempt))


_KEY: Final[dict[str, Value]] = {"userId": " store", "item": "id"}
"""In the table of conversations. No user has a space in the name."""


class StoreId:
    """The name is read once a process, and kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.tables.conversations
        self._known: str | None = None

    async def read(self) -> str | None:
        """The name; None: it cannot be read now. A connection does not fail for it.

        read ──► there is one
          │
          └────► put a new one, if there is none ──► refused: another function was faster, and has told its own
        """
        if self._known is None:
            try:
                self._known = text_of(await self._database.get(self._table, _KEY, consistent=False) or {}, "storeId")
                self._known = self._known or await self._make()
            except Unavailable:
                return None
        return self._known

    async def _make(self) -> str | None:
        new = str(uuid.uuid4())
        item = encode({**_KEY, "storeId": new})
        refused = await self._database.put(self._table, item, "attribute_not_exists(userId)")
        return text_of(refused.items[0] or {}, "storeId") if isinstance(refused, Refused) else new
