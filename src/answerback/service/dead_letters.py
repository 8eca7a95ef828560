"""Ends what the queue gave up: a request that was redelivered again and again, and never ended."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, assert_never

from answerback.core import request as changes
from answerback.core.request import Busy, Ended, RequestKey, Unknown
from answerback.ports import Requests, Unavailable
from answerback.protocol.errors import ErrorCode
from answerback.service.delivery_sender import DeliverySender
from answerback.service.observer import Observer
from answerback.service.worker import Done, Retry

log = logging.getLogger("answerback.dead_letters")

RETRY_AFTER_OUTAGE_MS: Final = 30_000


class DeadLetters:
    """Ends dead requests, where no lease is live. Holds nothing between calls."""

    def __init__(
        self, *, requests: Requests, delivery_sender: DeliverySender, observer: Observer, clock: Callable[[], int]
    ) -> None:
        self._requests = requests
        self._delivery_sender = delivery_sender
        self._observer = observer
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
                case Ended(record=record, is_new=is_new):
                    if is_new and record.ending is not None:
                        self._observer.ended(record, record.ending)
                    if record.target is not None:
                        await self._delivery_sender.serve(record, record.target)
                    return Done()
                case _:
                    assert_never(outcome)
        except Unavailable:
            log.warning("the store is unavailable; the dead letter waits", extra={"requestId": key.request_id})
        except Exception:
            log.exception("a dead letter could not be handled; it waits", extra={"requestId": key.request_id})
        return Retry(self._clock() + RETRY_AFTER_OUTAGE_MS)
