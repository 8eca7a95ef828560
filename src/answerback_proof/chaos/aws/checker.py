"""What only a run on AWS can see: DynamoDB against Aurora, the queues, and the functions' logs."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

from answerback_aws.runtime.dynamodb.items import decode_item, number_of
from answerback_proof.chaos.aws.faults import DEATHS
from answerback_proof.chaos.aws.stack import Stores
from answerback_proof.checker import Visible, check
from answerback_proof.history import History, Kind, Promise, Stored, Usage, Violation, add_stores

VISIBLE: Final = Visible(usage=True, ordered=False, deaths=DEATHS)
"""API Gateway keeps no order of posts, and neither does the emulator."""

_ERRORS: Final = frozenset({"ERROR", "CRITICAL"})
_ERRORS_SHOWN: Final = 10


async def check_stack(history: History, stores: Stores) -> list[Violation]:
    """Add everything that the stack has kept, and check. Raises: Unavailable: a store cannot be read."""
    await add_stores(history, stores.requests, stores.history)
    known = history.records()
    database = stores.database
    # Every accepted request has a place in a conversation: read from the table itself, whatever was asked.
    for item in await database.scan(database.tables.requests, ConsistentRead=True):
        record = decode_item(item)
        if number_of(item, "position") is not None and record.request_id not in known:
            answer = await stores.requests.answer(record.key)
            history.add(Stored(request=record.request_id, record=record, answer=answer, has_question=True))
    for day in await stores.users.usage(None):
        history.add(Usage(usage=day))
    if remaining := await stores.turns.pending(limit=1):
        detail = "its turn was never settled with Aurora"
        request = remaining[0].turn.request_id
        history.add(Violation(promise=Promise.ANSWERED, kind=Kind.LOST, request=request, detail=detail))
    if stores.unwritable:
        history.broke(f"{stores.unwritable} turns cannot be written to Aurora")
    return check(history, VISIBLE)


def check_logs(history: History, lines: Sequence[tuple[str, str]]) -> None:
    """The functions log injected faults as warnings: an error is a defect."""
    errors: Counter[str] = Counter()
    for function, line in lines:
        try:
            line_of_log = json.loads(line)
        except ValueError:
            continue  # the platform's own lines
        if isinstance(line_of_log, dict) and line_of_log.get("level") in _ERRORS:
            why = str(line_of_log.get("exception", "")).strip().rpartition("\n")[2]
            errors[f"{function}: {line_of_log.get('message')} {why}".rstrip()] += 1
    for what, count in errors.most_common(_ERRORS_SHOWN):
        history.broke(f"logged {count} times by {what}")
