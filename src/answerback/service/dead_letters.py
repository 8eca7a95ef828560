"""Ends what the queue gave up: a request that was redelivered again and again, and never ended."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, assert_never

from answerback.core import request as changes
from answerback.core.request import Busy, Ended, RequestKey, Unknown
from answerback.ports import Requests, Unavailable
from answerback.protocol.errors import ErrorCode
from answerback.service.attempt import Done, Retry
from answerback.service.delivery_sender import DeliverySender

log = logging.getLogger("answerback.dead_letters")

RETRY_AFTER_OUTAGE_MS: Final = 30_000


class DeadLetters:
    """Ends dead requests, where no lease is live. Holds nothing between calls."""

    def __init__(self, *, requests: Requests, delivery_sender: DeliverySender, clock: Callable[[], int]) -> None:
        self._requests = requests
        self._delivery_sender = delivery_sender
        self._clock = clock

    async def run(self, key: RequestKey) -> Done | Retry:
        """Bring one request to its end. Raises nothing but CancelledError.

        The ending is sent once. A client that misses it asks for it (rule: no acknowledgements).
        """
        try:
            expire = partial(changes.expire, now_ms=self._clock(), code=ErrorCode.INTERNAL)
            outcome = await self._requests.change(key, expire)
            match outcome:
                case Unknown():
                    return Done()
                case Busy(until_ms=until_ms):
                    return Retry(until_ms)
                case Ended() as ended:
                    await self._delivery_sender.announce(ended)
                    return Done()
                case _:
                    assert_never(outcome)
        except Unavailable:
            log.warning("the store is unavailable; the dead letter waits", extra={"requestId": key.request_id})
        except Exception:
            log.exception("a dead letter could not be handled; it waits", extra={"requestId": key.request_id})
        return Retry(self._clock() + RETRY_AFTER_OUTAGE_MS)
