"""The judgement on AWS: the common one, and DynamoDB against Aurora, the queues and the functions' logs."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

from answerback.core.request import Record
from answerback_aws.runtime.dynamodb.items import decode_item, number_of
from answerback_proof.chaos.aws.faults import DEATHS
from answerback_proof.chaos.aws.stack import Stores
from answerback_proof.chaos.book import Book, Kind
from answerback_proof.chaos.judge import Judge

_ERRORS: Final = frozenset({"ERROR", "CRITICAL"})
_ERRORS_TOLD: Final = 10


class AwsJudge:
    """Reads everything that the stack has kept and enters what is wrong into the book."""

    def __init__(self, book: Book, stores: Stores) -> None:
        self._book = book
        self._stores = stores
        self.common = Judge(book, stores.requests, stores.history, deaths=DEATHS)

    async def judge(self) -> None:
        """Everything. Raises: Unavailable: a store cannot be read."""
        await self.common.judge()
        accepted = await self._accepted()
        for record in accepted:
            await self._judge_turn(record)
        known = {record.request_id for record in accepted}
        for request_id in self.common.turns.keys() - known:
            self._violate(Kind.FOREIGN, request_id, "a turn in Aurora that DynamoDB never accepted")
        await self._judge_usage()
        if left := await self._stores.turns.pending(limit=1):
            self._violate(Kind.LOST, left[0].turn.request_id, "its turn was never settled with Aurora")
        if self._stores.unwritable:
            self._violate(Kind.BROKEN, "", f"{self._stores.unwritable} turns cannot be written to Aurora")

    async def _accepted(self) -> list[Record]:
        """Every record that was accepted, which is to have a place in a conversation, read from the table itself."""
        database = self._stores.database
        items = await database.scan(database.tables.requests, ConsistentRead=True)
        return [decode_item(item) for item in items if number_of(item, "position") is not None]

    async def _judge_turn(self, record: Record) -> None:
        """What Aurora shall have of it."""
        turn, ending = self.common.turns.get(record.request_id), record.ending
        if ending is None:
            return  # entered already: it is unfinished
        if turn is None:
            self._violate(Kind.LOST, record.request_id, f"{record.state} in DynamoDB, and not in Aurora")
            return
        answer = await self._stores.requests.answer(record.key)
        has = (turn.status, turn.error_code, turn.input_tokens, turn.output_tokens)
        shall = (ending.status, ending.error_code, ending.input_tokens, ending.output_tokens)
        if has != shall:
            self._violate(Kind.DIFFERENT, record.request_id, f"Aurora has {has}, DynamoDB {shall}")
        if turn.answer != answer or len(answer) != ending.length:
            lengths = f"{len(turn.answer)} code points in Aurora, {len(answer)} in DynamoDB, {ending.length} as told"
            self._violate(Kind.DIFFERENT, record.request_id, lengths)

    async def _judge_usage(self) -> None:
        """What the users are told that they used is what the turns add up to."""
        used: Counter[str] = Counter()
        for request_id, turn in self.common.turns.items():
            asked = self._book.asked.get(request_id)
            if asked is not None:
                used[f"{asked.user} requests"] += 1
                used[f"{asked.user} tokens in"] += turn.input_tokens or 0
                used[f"{asked.user} tokens out"] += turn.output_tokens or 0
        told: Counter[str] = Counter()
        for day in await self._stores.users.usage(None):
            told[f"{day.user_id} requests"] += day.requests
            told[f"{day.user_id} tokens in"] += day.input_tokens
            told[f"{day.user_id} tokens out"] += day.output_tokens
        for what in sorted(used.keys() | told.keys()):
            if used[what] != told[what]:
                self._violate(Kind.DIFFERENT, "", f"usage of {what}: {told[what]} told, {used[what]} in the turns")

    def _violate(self, kind: Kind, request_id: str, detail: str) -> None:
        self._book.violate(kind, request_id, detail)


def judge_logs(book: Book, lines: Sequence[tuple[str, str]]) -> None:
    """No fault of the storm is an error of the functions': they log warnings about them."""
    errors: Counter[str] = Counter()
    for function, line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue  # the platform's own lines
        if isinstance(said, dict) and said.get("level") in _ERRORS:
            why = str(said.get("exception", "")).strip().rpartition("\n")[2]
            errors[f"{function}: {said.get('message')} {why}".rstrip()] += 1
    for what, count in errors.most_common(_ERRORS_TOLD):
        book.violate(Kind.BROKEN, "", f"logged {count} times by {what}")
