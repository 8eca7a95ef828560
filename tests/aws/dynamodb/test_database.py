"""Batches that are left over, pages, and pauses; against a scripted client, for DynamoDB does this only under load."""

from typing import Any

import pytest

from answerback.ports import Unavailable
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.database import TRIES, Database, backoff_s
from answerback_aws.runtime.dynamodb.items import encode
from answerback_aws.runtime.dynamodb.tables import SHAPES, Tables
from dynamo import definition


class Busy:
    """Takes two keys or deletions of a batch at a time, or none."""

    def __init__(self, *, takes: int = 2) -> None:
        self.takes = takes
        self.done: list[Any] = []
        self.sizes: list[int] = []

    def batch_get_item(self, *, RequestItems: Any) -> Any:  # noqa: N803 - boto3's name
        ((table, asked),) = RequestItems.items()
        keys = asked["Keys"]
        self.sizes.append(len(keys))
        assert asked["ConsistentRead"]
        left = keys[self.takes :]
        unread = {table: {**asked, "Keys": left}} if left else {}
        return {"Responses": {table: keys[: self.takes]}, "UnprocessedKeys": unread}

    def batch_write_item(self, *, RequestItems: Any) -> Any:  # noqa: N803 - boto3's name
        ((table, asked),) = RequestItems.items()
        self.sizes.append(len(asked))
        self.done += asked[: self.takes]
        left = asked[self.takes :]
        return {"UnprocessedItems": {table: left} if left else {}}


@pytest.fixture
def pauses() -> list[int]:
    return []


@pytest.fixture
def calls() -> Any:
    made = Calls(threads=1)
    yield made
    made.close()


def database(client: Any, calls: Calls, pauses: list[int]) -> Database:
    async def pause(attempt: int) -> None:
        pauses.append(attempt)

    return Database(client=client, calls=calls, tables=Tables(**dict.fromkeys(SHAPES, "t")), pause=pause)


async def test_keys_that_were_left_unread_are_asked_for_again(calls: Calls, pauses: list[int]) -> None:
    keys = [{"k": n} for n in range(5)]
    assert await database(Busy(), calls, pauses).get_many("t", keys) == [encode(key) for key in keys]
    assert pauses == [0, 1]


async def test_a_batch_asks_for_at_most_a_hundred(calls: Calls, pauses: list[int]) -> None:
    client = Busy(takes=100)
    assert len(await database(client, calls, pauses).get_many("t", [{"k": n} for n in range(230)])) == 230
    assert client.sizes == [100, 100, 30]


async def test_deletions_that_were_left_are_done_again(calls: Calls, pauses: list[int]) -> None:
    client = Busy(takes=10)
    await database(client, calls, pauses).delete_many("t", [{"k": n} for n in range(30)])
    assert len(client.done) == 30
    assert client.sizes == [25, 15, 5, 5]


@pytest.mark.parametrize("method", ["get_many", "delete_many"])
async def test_what_is_never_done_is_an_outage(calls: Calls, pauses: list[int], method: str) -> None:
    with pytest.raises(Unavailable):
        await getattr(database(Busy(takes=0), calls, pauses), method)("t", [{"k": 1}])
    assert pauses == list(range(TRIES))


def test_pauses_grow_and_stay_short() -> None:
    assert all(0 <= backoff_s(attempt) <= min(0.5, 0.02 * 2**attempt) for attempt in range(40))


@pytest.mark.emulator
async def test_the_tables_are_what_the_shapes_say(world: Any) -> None:
    for name, shape in SHAPES.items():
        table = world.client.describe_table(TableName=getattr(world.tables, name))["Table"]
        asked = definition(table["TableName"], shape)
        assert table["KeySchema"] == asked["KeySchema"]
        assert [index["IndexName"] for index in table.get("GlobalSecondaryIndexes", [])] == [
            index.name for index in shape.indexes
        ]
        assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
