"""The name of a deployment's data on DynamoDB."""

import asyncio

import pytest

from answerback.ports import Unavailable
from answerback_aws.runtime.dynamodb.database import StoreId

pytestmark = pytest.mark.emulator


async def test_it_is_made_once_whoever_asks_first(world) -> None:
    first = await asyncio.gather(*(StoreId(world.database()).read() for _ in range(10)))
    assert len(set(first)) == 1
    assert len(str(first[0])) == 36
    assert await StoreId(world.database()).read() == first[0]


async def test_a_process_reads_it_once(world, units) -> None:
    name = StoreId(world.database())
    assert await name.read() is not None
    units.clear()
    await name.read()
    assert not units.calls


async def test_what_cannot_be_read_is_not_told_and_asked_for_again(world, monkeypatch: pytest.MonkeyPatch) -> None:
    database = world.database()
    name = StoreId(database)

    async def fails(*_: object, **__: object) -> None:
        raise Unavailable("planted")

    with monkeypatch.context() as patch:
        patch.setattr(database, "get", fails)
        assert await name.read() is None
    assert await name.read() is not None
