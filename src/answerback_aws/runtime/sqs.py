"""The queue: SQS FIFO, one message a request, one message group an ordering key.

A message names its request and nothing else: what is to be done is in the record. Its de-duplication id is made of the
request and the record's queue number, so a put that is repeated because its answer was lost changes nothing. A message
whose request is done is deleted, any other is redelivered.
"""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from botocore.exceptions import ClientError

from answerback.core.keys import digest
from answerback.core.request import Record, RequestKey
from answerback.ports import Unavailable
from answerback.service.attempt import Done, Retry
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.telemetry import Counts

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


handler_log = logging.getLogger("answerback.aws.queue")

SHORTEST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0

RESERVED_S: Final = 2.0
"""Before Lambda ends the invocation: to change the visibility, for the log and the metrics."""

Run: TypeAlias = Callable[[RequestKey, int], Awaitable[Done | Retry]]
"""What to do with a request until an instant (epoch milliseconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenTime:
    """A message is hidden for `for_s`, again every `every_s`, as long as it is worked on."""

    for_s: float
    every_s: float


class SqsHandler:
    """Runs the messages of one event, in order. `clock`: epoch milliseconds."""

    def __init__(
        self, *, run: Run, visibility: Visibility, hidden_time: HiddenTime, counts: Counts, clock: Callable[[], int]
    ) -> None:
        self._run = run
        self._visibility = visibility
        self._hidden_time = hidden_time
        self._counts = counts
        self._clock = clock

    async def handle(self, event: Mapping[str, Any], *, remaining_ms: int) -> dict[str, Any]:
        """What the event source mapping wants to know. In a FIFO queue nothing may pass what failed."""
        now = asyncio.get_running_loop().time
        stop_at = now() + remaining_ms / 1000 - RESERVED_S
        messages = read_event(event)
        for number, message in enumerate(messages):
            if not await self._is_done(message, within_s=stop_at - now()):
                return failed(messages[number:])
        return failed(())

    async def _is_done(self, message: Message, *, within_s: float) -> bool:
        if message.key is None:
            # It names no request, so nobody can make anything of it, and its group would wait for it to be given up.
            # Nothing is lost by that: what was accepted is in the store, and the janitor sees to it.
            self._counts.count("Garbled")
            handler_log.error(
                "a message of the queue cannot be read and is dropped", extra={"messageId": message.message_id}
            )
            return True
        self._counts.note(
            requestId=message.key.request_id,
            userId=message.key.user_id,
            correlationId=message.correlation_id,
            receives=message.receives,
        )
        stop_at_ms = self._clock() + int(within_s * 1000)
        outcome: Done | Retry = Retry(0)
        async with self._visibility.held(message, for_s=self._hidden_time.for_s, every_s=self._hidden_time.every_s):
            try:
                async with asyncio.timeout(within_s):
                    outcome = await self._run(message.key, stop_at_ms)
            except TimeoutError:
                handler_log.warning("the time of the function is over; the request is redelivered")
        if isinstance(outcome, Done):
            return True
        await self._visibility.hide(message, for_s=self._pause_s(message, outcome))
        return False

    def _pause_s(self, message: Message, retry: Retry) -> float:
        """Seconds until redelivery: as asked for, and longer the more often that happened, as in an outage."""
        asked_s = (retry.at_ms - self._clock()) / 1000
        return max(asked_s, min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, message.receives - 1)))
