"""Tables of one's own on the emulator, and the stores over them joined to one, as the contract suites need it."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from answerback.core.keys import ordering_key
from answerback.core.request import Change, Ending, Question, Record, RequestKey, Step
from answerback.core.transitions import State
from answerback.ports import (
    DailyUsage,
    Quota,
    StoredConversation,
    StoredTurn,
)
from answerback.stores.memory import MemoryStore
from answerback_aws.runtime.aurora.users import erase_user
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.limits import RateLimits
from answerback_aws.runtime.dynamodb.requests import DynamoRequests
from answerback_aws.runtime.dynamodb.tables import SHAPES, Index, Table, Tables
from answerback_aws.runtime.dynamodb.turns import DynamoTurns

NOW_MS = 29_166_667 * 60_000
"""The minute in which the contract's actor acts; the stores' clock stands there."""


@contextmanager
def own_tables(client: Any) -> Iterator[Tables]:
    """The five tables under names that nobody else has. They go with the emulator."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    names = {name: f"{prefix}-{name}" for name in SHAPES}
    for name, shape in SHAPES.items():
        client.create_table(**definition(names[name], shape))
    yield Tables(**names)


class DynamoStore(DynamoRequests):
    """DynamoDB's requests and recent turns; what Aurora would hold is in `aurora`, written behind from the outbox."""

    def __init__(self, database: Database, aurora: MemoryStore, *, clock: Callable[[], int] = lambda: NOW_MS) -> None:
        super().__init__(database, clock=clock)
        self.turns_table = DynamoTurns(database)
        self._tables = database
        self._limits_table = RateLimits(database)
        self._aurora = aurora

    async def close(self) -> None:
        """Nothing is held but clients, which others share."""

    async def flush(self) -> None:
        """Write behind: every pending turn into the history."""
        outbox = await self.turns_table.pending(limit=10_000)
        for note in outbox:
            turn, key = note.turn, RequestKey(note.user_id, note.turn.request_id)
            record = Record(
                user_id=note.user_id,
                request_id=turn.request_id,
                session_id="",
                conversation_id=note.conversation_id,
                ordering_key=ordering_key(note.user_id, note.conversation_id),
                fingerprint="",
                model="",
                accepted_at_ms=turn.accepted_at_ms,
            )
            question = Question(message=turn.question, model="", replaces=turn.replaces)
            # An id that was used before and purged: the history keeps both turns.
            self._aurora.records.pop(key, None)
            quota = Quota(per_minute=0, max_pending=10_000)
            await self._aurora.accept(record, question, quota, now_ms=turn.accepted_at_ms)
            await self._aurora.change(key, _ending(turn))
        await self.turns_table.settled(outbox)

    async def recent_turns(self, *arguments: Any, **named: Any) -> Sequence[StoredTurn]:
        return await self.turns_table.recent_turns(*arguments, **named)

    async def turns(self, *arguments: Any, **named: Any) -> Sequence[StoredTurn]:
        await self.flush()
        return await self._aurora.turns(*arguments, **named)

    async def conversations(self, *arguments: Any, **named: Any) -> Sequence[StoredConversation]:
        await self.flush()
        return await self._aurora.conversations(*arguments, **named)

    async def update_conversation(
        self, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
    ) -> StoredConversation | None:
        await self.flush()
        found = await self._aurora.update_conversation(
            user_id, conversation_id, title=title, deleted=deleted, now_ms=now_ms
        )
        if found is not None and deleted is True:
            await self.turns_table.delete_conversation(user_id, conversation_id, now_ms=now_ms)
        if found is not None and deleted is False:
            await self.turns_table.restore_conversation(user_id, conversation_id)
        return found

    async def usage(self, *arguments: Any, **named: Any) -> Sequence[DailyUsage]:
        await self.flush()
        return await self._aurora.usage(*arguments, **named)

    async def set_limit(self, user_id: str, per_minute: int | None, *, now_ms: int) -> None:
        await self._limits_table.set_own_limit(user_id, per_minute)

    async def delete_user(self, user_id: str) -> bool:
        found = await erase_user(self._tables, user_id)
        return await self._aurora.delete_user(user_id) or found


def _ending(turn: StoredTurn) -> Change[None]:
    ending = Ending(
        status=turn.status,
        attempt=1,
        length=len(turn.answer),
        ended_at_ms=turn.ended_at_ms,
        error_code=turn.error_code,
        input_tokens=turn.input_tokens,
        output_tokens=turn.output_tokens,
        model=turn.model,
    )

    def step(record: Record | None) -> Step[None]:
        assert record is not None
        return Step(replace(record, state=State(turn.status.value), ending=ending), None, turn.answer)

    return step


def definition(name: str, shape: Table) -> dict[str, Any]:
    """The arguments of `create_table`, on demand; what the template says in its own words."""
    attributes = {shape.partition_key: "S"}
    if shape.sort_key is not None:
        attributes[shape.sort_key] = "S"
    for index in shape.indexes:
        attributes |= {index.partition_key: "S", index.sort_key: "N"}
    arguments: dict[str, Any] = {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": attribute, "AttributeType": kind} for attribute, kind in attributes.items()
        ],
        "KeySchema": _key_schema(shape.partition_key, shape.sort_key),
    }
    if shape.indexes:
        arguments["GlobalSecondaryIndexes"] = [_index(index) for index in shape.indexes]
    return arguments


def _index(index: Index) -> dict[str, Any]:
    projection: dict[str, Any] = {"ProjectionType": "ALL"}
    if index.include is not None:
        projection = {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(index.include)}
    return {
        "IndexName": index.name,
        "KeySchema": _key_schema(index.partition_key, index.sort_key),
        "Projection": projection,
    }


def _key_schema(partition_key: str, sort_key: str | None) -> Sequence[dict[str, str]]:
    keys = [{"AttributeName": partition_key, "KeyType": "HASH"}]
    if sort_key is not None:
        keys.append({"AttributeName": sort_key, "KeyType": "RANGE"})
    return keys
