"""Everything of AWS over tables of one's own and an empty Aurora, and an actor that asks and answers."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from answerback_aws.emulator.emulator import Emulator
from answerback_aws.runtime.dynamodb.tables import Tables
from asking import Actor
from aurora import Aws
from dynamo import own_tables
from emulation import Cluster

Open = Callable[..., Aws]


@pytest.fixture
def tables(emulator: Emulator) -> Iterator[Tables]:
    with own_tables(emulator.client("dynamodb")) as tables:
        yield tables


@pytest.fixture
async def open_aws(emulator: Emulator, aurora_cluster: Cluster, tables: Tables) -> AsyncIterator[Open]:
    """One more process over the same data."""
    opened: list[Aws] = []

    def open_aws(**options: Any) -> Aws:
        opened.append(Aws(emulator, aurora_cluster, tables, **options))
        return opened[-1]

    yield open_aws
    for aws in opened:
        await aws.close()


@pytest.fixture
def aws(open_aws: Open) -> Aws:
    return open_aws()


@pytest.fixture
def actor(aws: Aws) -> Actor:
    return Actor(aws)
