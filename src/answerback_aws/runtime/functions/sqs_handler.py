"""The SQS handler: a message whose request is done is deleted, any other is redelivered."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from answerback.core.request import RequestKey
from answerback.service.attempt import Done, Retry
from answerback_aws.runtime.sqs import Message, failed, read_event
from answerback_aws.runtime.telemetry import Counts

if TYPE_CHECKING:
    from answerback_aws.runtime.sqs import Visibility

log = logging.getLogger("answerback.aws.queue")

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
        self, *, run: Run, visibility: "Visibility", hidden_time: HiddenTime, counts: Counts, clock: Callable[[], int]
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
        messages: Sequence[Message] = read_event(event)
        for number, message in enumerate(messages):
            if not await self._is_done(message, within_s=stop_at - now()):
                return failed(messages[number:])
        return failed(())

    async def _is_done(self, message: Message, *, within_s: float) -> bool:
        if message.key is None:
            # It names no request, so nobody can make anything of it, and its group would wait for it to be given up.
            # Nothing is lost by that: what was accepted is in the store, and the janitor sees to it.
            self._counts.count("Garbled")
            log.error("a message of the queue cannot be read and is dropped", extra={"messageId": message.message_id})
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
                log.warning("the time of the function is over; the request is redelivered")
        if isinstance(outcome, Done):
            return True
        await self._visibility.hide(message, for_s=self._pause_s(message, outcome))
        return False

    def _pause_s(self, message: Message, retry: Retry) -> float:
        """Seconds until redelivery: as asked for, and longer the more often that happened, as in an outage."""
        asked_s = (retry.at_ms - self._clock()) / 1000
        return max(asked_s, min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, message.receives - 1)))
