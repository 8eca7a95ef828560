"""Tables of one's own on the emulator, stores of several processes over them, and a client that loses calls."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from answerback.core.parts import Content
from answerback.core.request import Ending, Policy, Record
from answerback.core.request import claim as claim_step
from answerback.core.request import finish as finish_step
from answerback.ports import Admission, Quota
from answerback.protocol.frames import Status
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.connections import DynamoConnections
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.requests import DynamoRequests
from answerback_aws.runtime.dynamodb.tables import Tables
from answerback_aws.runtime.dynamodb.turns import DynamoTurns
from asking import record_of
from dynamo import NOW_MS, own_tables
from metering import Units, metered


class Faulty:
    """A client some of whose calls fail. `plan`: for each operation what befalls its next calls, in order.

    `lost`: it takes effect, but its answer does not come. `cut`: it never gets there. Anything else: an error to raise,
    or a callable to run before the call.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.plan: dict[str, list[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._client, name)

        def call(**arguments: Any) -> Any:
            planned = self.plan.get(name)
            fate = planned.pop(0) if planned else None
            if fate == "cut":
                raise EndpointConnectionError(endpoint_url="http://nowhere")
            if isinstance(fate, Exception):
                raise fate
            if callable(fate):
                fate()
            answer = operation(**arguments)
            if fate == "lost":
                raise ReadTimeoutError(endpoint_url="http://nowhere")
            return answer

        return call


@dataclass
class World:
    """One deployment. Every `requests()` is another process. The clock moves when told to."""

    client: Any
    calls: Calls
    tables: Tables
    now_ms: int = NOW_MS + 20_000
    policy: Policy = field(default_factory=Policy)

    def database(self, client: Any = None) -> Database:
        return Database(client=client or self.client, calls=self.calls, tables=self.tables, pause=_no_pause)

    def requests(self, client: Any = None, **options: Any) -> DynamoRequests:
        return DynamoRequests(self.database(client), clock=lambda: self.now_ms, **options)

    def connections(self, client: Any = None) -> DynamoConnections:
        return DynamoConnections(self.database(client))

    def turns(self) -> DynamoTurns:
        return DynamoTurns(self.database())

    def items(self, table: str) -> list[dict[str, Any]]:
        return self.client.scan(TableName=table, ConsistentRead=True)["Items"]  # type: ignore[no-any-return]

    def record(self, request_id: str = "r1", *, user: str = "ann", conversation: str = "c1", **fields: Any) -> Record:
        usual = {"session_id": "s1", "accepted_at_ms": self.now_ms}
        return record_of(request_id, user, conversation_id=conversation, **usual | fields)

    async def accept(
        self,
        store: DynamoRequests,
        request_id: str = "r1",
        text: str = "Why?",
        *,
        user: str = "ann",
        conversation: str = "c1",
        per_minute: int = 0,
        max_pending: int = 10_000,
        replaces: str | None = None,
    ) -> Admission:
        from answerback.core.request import Question

        return await store.accept(
            self.record(request_id, user=user, conversation=conversation),
            Question(message=text, model="echo", replaces=replaces),
            Quota(per_minute=per_minute, max_pending=max_pending),
            now_ms=self.now_ms,
        )

    def claim(self, owner: str = "w1") -> Callable[[Record | None], Any]:
        return lambda record: claim_step(record, owner=owner, now_ms=self.now_ms, policy=self.policy)

    def finish(
        self, text: str = "An answer.", *, owner: str = "w1", attempt: int = 1, status: Status = Status.COMPLETED
    ) -> Callable[[Record | None], Any]:
        ending = Ending(
            status=status, attempt=attempt, length=len(text), ended_at_ms=self.now_ms, input_tokens=3, output_tokens=5
        )
        return lambda record: finish_step(record, owner=owner, attempt=attempt, ending=ending, content=Content(text))

    async def turn(self, store: DynamoRequests, request_id: str, answer: str = "An answer.", **asked: Any) -> None:
        """A whole exchange; the clock goes on by a second."""
        status = asked.pop("status", Status.COMPLETED)
        await self.accept(store, request_id, **asked)
        key = self.record(request_id, user=asked.get("user", "ann")).key
        await store.change(key, self.claim())
        self.now_ms += 1000
        await store.change(key, self.finish(answer, status=status))


async def _no_pause(attempt: int) -> None:
    """Others get their turn."""


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    client = request.getfixturevalue("emulator").client("dynamodb")
    calls = Calls(threads=8)
    with own_tables(client) as tables:
        yield World(client, calls, tables)
    calls.close()


@pytest.fixture
def units(world: World) -> Iterator[Units]:
    with metered(world.client) as units:
        yield units


@pytest.fixture
def faulty(world: World) -> Faulty:
    return Faulty(world.client)
