"""The queue: SQS FIFO, one message a request, one message group an ordering key.

A message names its request and nothing else: what is to be done is in the record. Its de-duplication id is made of the
request and the record's queue number, so a put that is repeated because its answer was lost changes nothing.
"""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

from answerback.core.keys import digest
from answerback.core.request import Record, RequestKey
from answerback.ports import Unavailable
from answerback_aws.runtime.client import Calls

log = logging.getLogger("answerback.aws.sqs")

MAX_VISIBILITY_S: Final = 12 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message that Lambda hands to a function. `receives`: how often it was delivered, this time included.

    `key` None: it cannot be read. `correlation_id`: of the invocation that put it.
    """

    message_id: str
    receipt_handle: str
    receives: int
    key: RequestKey | None
    correlation_id: str | None = None


class SqsQueue:
    """ports.Queue. `correlation_id`: what the present invocation is called in the logs."""

    def __init__(self, *, client: Any, calls: Calls, url: str, correlation_id: Callable[[], str | None]) -> None:
        self._client = client
        self._calls = calls
        self._url = url
        self._correlation_id = correlation_id

    async def put(self, record: Record) -> None:
        attributes = {}
        if correlation_id := self._correlation_id():
            attributes[CORRELATION] = {"DataType": "String", "StringValue": correlation_id}
        await self._calls.run(
            self._client.send_message,
            QueueUrl=self._url,
            MessageBody=json.dumps({"user": record.user_id, "request": record.request_id}),
            MessageGroupId=record.ordering_key,
            MessageDeduplicationId=digest("queue", record.user_id, record.request_id, str(record.queue_no)),
            MessageAttributes=attributes,
        )

    async def forget(self, key: RequestKey) -> None:
        """Does nothing: only a receiver can delete a message. It is delivered once more, and found ended."""


class Visibility:
    """How long a delivered message stays hidden from other workers."""

    def __init__(self, *, client: Any, calls: Calls, url: str) -> None:
        self._client = client
        self._calls = calls
        self._url = url

    async def hide(self, message: Message, *, for_s: float) -> None:
        """Redeliver it after this time. If the call fails, the time that was set before holds."""
        timeout_s = min(MAX_VISIBILITY_S, max(0, math.ceil(for_s)))
        try:
            await self._calls.run(
                self._client.change_message_visibility,
                QueueUrl=self._url,
                ReceiptHandle=message.receipt_handle,
                VisibilityTimeout=timeout_s,
            )
        except (Unavailable, ClientError) as exc:
            log.warning("the visibility of message %s could not be changed: %s", message.message_id, exc)

    @asynccontextmanager
    async def held(self, message: Message, *, for_s: float, every_s: float) -> AsyncIterator[None]:
        """Keep it hidden for as long as the block runs, and for `for_s` after a crash in it.

                 | hide        | hide        | hide            the block ends: no more
            -----+-------------+-------------+-----------+---------------------------->
                 |<-every_s -->|<-- for_s: another worker may have it after this --->|

        When the block is left no call is under way that could undo what is set next.
        """
        over = asyncio.Event()

        async def beat() -> None:
            while not over.is_set():
                await self.hide(message, for_s=for_s)
                try:
                    async with asyncio.timeout(every_s):
                        await over.wait()
                except TimeoutError:
                    pass

        beating = asyncio.create_task(beat(), name=f"visibility {message.message_id}")
        try:
            yield
        finally:
            over.set()
            await beating


CORRELATION: Final = "correlationId"
"""The attribute that names the invocation which put the message."""


def read_event(event: Mapping[str, Any]) -> Sequence[Message]:
    """The messages of an event of Lambda's event source mapping."""
    return tuple(_message(entry) for entry in event.get("Records", ()))


def failed(messages: Sequence[Message]) -> dict[str, Any]:
    """What the function returns: these are redelivered; all others are deleted."""
    return {"batchItemFailures": [{"itemIdentifier": message.message_id} for message in messages]}


def _message(entry: Mapping[str, Any]) -> Message:
    attributes = entry.get("attributes", {})
    cause = entry.get("messageAttributes", {}).get(CORRELATION, {})
    receives = str(attributes.get("ApproximateReceiveCount", "1"))
    return Message(
        message_id=str(entry["messageId"]),
        receipt_handle=str(entry["receiptHandle"]),
        receives=int(receives) if receives.isdigit() else 1,
        key=_key(entry.get("body")),
        correlation_id=cause.get("stringValue"),
    )


def _key(body: object) -> RequestKey | None:
    try:
        named = json.loads(str(body))
    except (ValueError, RecursionError):
        return None
    user, request = (named.get("user"), named.get("request")) if isinstance(named, dict) else (None, None)
    return RequestKey(user, request) if isinstance(user, str) and isinstance(request, str) else None
