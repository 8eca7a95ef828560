"""Tables of one's own on the emulator, and the stores over them joined to one, as the contract suites need it."""

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import urllib3
from msgspec.structs import replace

from answerback.core.parts import Content
from answerback.core.request import Change, Ending, Question, Record, RequestKey, Step
from answerback.core.transitions import State
from answerback.ports import (
    Budget,
    BudgetState,
    DailyUsage,
    Period,
    Quota,
    StoredConversation,
    StoredTurn,
)
from answerback.stores.sqlite import MemoryStore
from answerback_aws.runtime.aurora.users import erase_user
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.limits import RateLimits
from answerback_aws.runtime.dynamodb.requests import DynamoRequests
from answerback_aws.runtime.dynamodb.tables import TABLES, Tables
from answerback_aws.runtime.dynamodb.turns import DynamoTurns
from answerback_aws.runtime.s3_files import S3Files
from asking import record_of
from template import RESOURCES

NOW_MS = 29_166_667 * 60_000
"""The minute in which the contract's actor acts; the stores' clock stands there."""


_PARTS = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")


@contextmanager
def own_tables(client: Any) -> Iterator[Tables]:
    """The five tables of the template, under names that nobody else has. They go with the emulator."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    names = {name: f"{prefix}-{name}" for name in TABLES}
    for name in TABLES:
        told = RESOURCES[f"{name.title().replace('_', '')}Table"]["Properties"]
        _create(client, {"TableName": names[name], **{part: told[part] for part in _PARTS if part in told}})
    yield Tables(**names)


_HTTP = urllib3.PoolManager()


def _create(client: Any, table: dict[str, Any]) -> None:
    """Past boto3 where the emulator is asked: hundreds of tests make five tables each, and so it costs a third."""
    url = client.meta.endpoint_url
    if not url.startswith("http://127.0.0.1:"):
        client.create_table(**table)  # moto answers within boto3
        return
    headers = {"X-Amz-Target": "DynamoDB_20120810.CreateTable", "Content-Type": "application/x-amz-json-1.0"}
    answer = _HTTP.request("POST", url, body=json.dumps(table), headers=headers)
    assert answer.status == 200, answer.data


class DynamoStore(DynamoRequests):
    """DynamoDB's requests and recent turns; what Aurora would hold is in `aurora`, written behind."""

    def __init__(
        self,
        database: Database,
        aurora: MemoryStore,
        *,
        clock: Callable[[], int] = lambda: NOW_MS,
        s3: Callable[[], Any] | None = None,
        calls: Calls | None = None,
    ) -> None:
        super().__init__(database, clock=clock)
        self._files = None
        if s3 is not None and calls is not None:
            self._files = S3Files(database, s3=s3, calls=calls, bucket=database.tables.conversations, clock=clock)
        self.turns_table = DynamoTurns(database)
        self._tables = database
        self._limits_table = RateLimits(database)
        self._aurora = aurora

    def __getattr__(self, name: str) -> Any:
        """The verbs of ports.Files."""
        return getattr(self.__dict__["_files"], name)

    async def close(self) -> None:
        """Nothing is held but clients, which others share."""

    async def flush(self) -> None:
        """Write behind: every pending turn into the history."""
        entries = await self.turns_table.pending(limit=10_000)
        for entry in entries:
            turn, key = entry.turn, RequestKey(entry.user_id, entry.turn.request_id)
            conversation = entry.conversation_id
            record = record_of(
                turn.request_id, entry.user_id, conversation_id=conversation, accepted_at_ms=turn.accepted_at_ms
            )
            question = Question(message=turn.question, model="", replaces=turn.replaces, attachments=turn.attachments)
            # An id that was used before and purged: the history keeps both turns.
            if await self._aurora.read(key) is not None:
                await self._aurora.purge(ended_before_ms=2**62, refused_before_ms=0)
            quota = Quota(per_minute=0, max_pending=10_000)
            await self._aurora.accept(record, question, quota, now_ms=turn.accepted_at_ms)
            await self._aurora.change(key, _ending(turn))
        await self.turns_table.settled(entries)

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

    async def set_budget(self, holder: str, period: Period, budget: Budget | None, *, now_ms: int) -> None:
        await self._limits_table.set_budget(holder, period, budget)

    async def set_team(self, user_id: str, team: str | None, *, now_ms: int) -> None:
        await self._limits_table.set_team(user_id, team)

    async def budgets(self, holder: str, *, now_ms: int) -> Sequence[BudgetState]:
        return await self._limits_table.states(holder, now_ms=now_ms)

    async def budgets_of_user(self, user_id: str, team: str | None, *, now_ms: int) -> Sequence[BudgetState]:
        return await self._limits_table.budgets_of_user(user_id, team, now_ms=now_ms)

    async def delete_user(self, user_id: str) -> bool:
        found = await erase_user(self._tables, self, user_id)
        if self._files is not None:
            found = await self._files.erase(user_id) or found
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
        return Step(
            replace(record, state=State(turn.status.value), ending=ending), None, Content(turn.answer, turn.marks)
        )

    return step


def _key_schema(partition_key: str, sort_key: str | None) -> Sequence[dict[str, str]]:
    keys = [{"AttributeName": partition_key, "KeyType": "HASH"}]
    if sort_key is not None:
        keys.append({"AttributeName": sort_key, "KeyType": "RANGE"})
    return keys
