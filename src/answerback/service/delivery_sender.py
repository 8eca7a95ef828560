"""Sends the frames of a delivery to its connection: the one place where an answer's text leaves the service."""

from collections.abc import Callable
from enum import Enum
from typing import Final

from answerback.core.answer import Answer
from answerback.core.delivery import Delivery, Interval
from answerback.core.request import DeliveryTarget, Ended, Record
from answerback.ports import Gone, Requests, Sender, Sent, Slow
from answerback.protocol.frames import MessageDelta
from answerback.service.observer import Observer


class FlushResult(Enum):
    """How a flush ended."""

    DONE = "nothing more is due"
    SLOW = "the connection cannot take more now"


class DeliverySender:
    """Sends what a `Delivery` says is due, in order, one frame at a time."""

    def __init__(
        self,
        *,
        requests: Requests,
        sender: Sender,
        interval: Interval,
        monotonic: Callable[[], float],
        observer: Observer,
    ) -> None:
        self._requests = requests
        self._sender: Final = sender
        self._interval = interval
        self._monotonic = monotonic
        self._observer = observer

    def delivery(self, record: Record, answer: Answer) -> Delivery:
        """A delivery of `answer` to the target in `record`."""
        return Delivery(record, answer, self._interval, now=self._monotonic())

    async def flush(self, delivery: Delivery) -> FlushResult:
        """Send every frame that is due now."""
        while True:
            frame = delivery.next_frame(now=self._monotonic())
            connection_id = delivery.connection_id
            if frame is None or connection_id is None:
                return FlushResult.DONE
            match await self._sender.send(connection_id, frame):
                case Sent():
                    delivery.sent(frame, now=self._monotonic())
                    if isinstance(frame, MessageDelta):
                        self._observer.sent_text(len(frame.delta))
                case Gone():
                    delivery.gone()
                    self._observer.found_gone()
                case Slow():
                    delivery.slow(now=self._monotonic())
                    self._observer.found_slow()
                    return FlushResult.SLOW

    def park(self, delivery: Delivery, record: Record) -> bool:
        """Leave the rest of an ended answer with a slow connection. Returns false if the sender cannot do that."""
        connection_id = delivery.connection_id
        if connection_id is None:
            return True
        return self._sender.park(connection_id, record.key, delivery.attempt, delivery.offset)

    async def stored(self, record: Record, target: DeliveryTarget) -> Delivery:
        """A delivery of a stored ending to `target`. Raises: Unavailable: the text cannot be read now."""
        ending = record.ending
        if ending is None:
            raise ValueError("only an ended request can be served")
        text = await self._requests.answer(record.key) if ending.length else ""
        return Delivery(
            record, Answer.stored(ending.attempt, text), self._interval, now=self._monotonic(), target=target
        )

    async def announce(self, ended: Ended) -> bool:
        """Count an ending that this change has made, and send it to the record's target. Returns false if that is slow.

        Raises: Unavailable: the text cannot be read now.
        """
        record = ended.record
        if ended.is_new and record.ending is not None:
            self._observer.ended(record, record.ending)
        return record.target is None or await self.serve(record, record.target)

    async def serve(self, record: Record, target: DeliveryTarget) -> bool:
        """Send a stored ending to `target`, all of it or until the connection is gone. Returns false if it is slow.

        Raises: Unavailable: the text cannot be read now.
        """
        delivery = await self.stored(record, target)
        return await self.flush(delivery) is FlushResult.DONE or self.park(delivery, record)
