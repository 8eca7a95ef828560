"""Sends what clients get: the one place where frames leave the service.

The text of a running answer leaves when it is due. All streams share one timer that ticks every 5 ms while something
is waiting, and each tick sends what became due since the last one. So a thousand streams cost no thousand timers, and
do not all send in one moment.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from enum import Enum
from operator import attrgetter
from typing import Any, Final

from answerback.core.answer import Answer
from answerback.core.delivery import Delivery, Interval
from answerback.core.parts import NOTHING
from answerback.core.request import DeliveryTarget, Ended, Record
from answerback.ports import Gone, Requests, Sender, Sent, Slow
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import Error, MessageAsked, MessageDelta, ServerFrame
from answerback.service.observer import Observer

log = logging.getLogger("answerback.worker")

TICK_S: Final = 0.005
_IS_CLOSED: Final = attrgetter("is_closed")

SLOW_TIMEOUT_S: Final = 10.0
"""How long an ended answer is offered to a slow connection whose sender cannot park it."""


WATCHERS_S: Final = 2.0
"""How much longer those who watch may take than the one that asked."""


async def _nobody(ended: Ended) -> None:
    return None


async def let_go(telling: asyncio.Task[None]) -> None:
    """Give those who watch a little more time, where somebody waits. Who misses the ending reads it in the history."""
    await asyncio.wait((telling,), timeout=WATCHERS_S)
    telling.cancel()


class FlushResult(Enum):
    """How a flush ended."""

    DONE = "nothing more is due"
    SLOW = "the connection cannot take more now"


class Stream(Delivery):
    """A delivery of an answer that still grows.

    `sending` keeps its frames in order, whatever the reason to send. `is_waiting`: a tick will send its text, and new
    text goes out with that. `sign_at`: when a tick is to look for a sign of life. `is_closed`: the answer has ended.
    `is_of_watcher`: it goes to another session than asked.
    """

    __slots__ = ("is_closed", "is_of_watcher", "is_waiting", "sending", "sign_at")
    is_closed: bool
    is_of_watcher: bool
    is_waiting: bool
    sending: asyncio.Lock
    sign_at: float


class DeliverySender:
    """Sends what a `Delivery` says is due, in order, one frame at a time; and single frames of the front."""

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
        self._ticks: dict[int, list[Stream]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.tell_watchers: Callable[[Ended], Coroutine[Any, Any, None]] = _nobody
        """Shows an ending that is announced to those who watch: see `Watchers`."""

    # --- an answer that grows

    def stream(
        self,
        record: Record,
        answer: Answer,
        *,
        target: DeliveryTarget | None = None,
        asked: MessageAsked | None = None,
    ) -> Stream:
        """A stream of `answer` to the target in `record`, or to `target`, a session that watches."""
        stream = Stream(record, answer, self._interval, now=self._monotonic(), target=target, asked=asked)
        stream.is_of_watcher = asked is not None
        stream.sending = asyncio.Lock()
        stream.is_waiting = stream.is_closed = False
        stream.sign_at = 0.0
        return stream

    def wake(self, stream: Stream) -> None:
        """Send what there is for the stream, as soon as it is due."""
        if stream.is_closed:
            return
        now = self._monotonic()
        due_at = stream.text_due_at()
        stream.is_waiting = due_at is not None
        if due_at is None:
            due_at = stream.due_at()
            if due_at is None or now < stream.sign_at <= due_at:
                return
            stream.sign_at = due_at
        tick = int(due_at / TICK_S) + 1 if due_at > now else 0
        # A microsecond later, because a rounding error too early nothing would be due.
        delay_s = tick * TICK_S - now + 1e-6 if tick else 0.0
        if stream.is_of_watcher:
            # By a task of its own: where sending takes a while, nobody is to wait for another's connection.
            asyncio.get_running_loop().call_later(delay_s, self._tick, tick, stream)
            return
        waiting = self._ticks.get(tick)
        if waiting is None:
            self._ticks[tick] = [stream]
            asyncio.get_running_loop().call_later(delay_s, self._tick, tick)
        else:
            waiting.append(stream)

    def _tick(self, tick: int, stream: Stream | None = None) -> None:
        streams = self._ticks.pop(tick) if stream is None else [stream]
        if all(map(_IS_CLOSED, streams)):
            return  # the answers have ended, and perhaps the event loop is about to
        task = asyncio.create_task(self._send(streams), name="send the text")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, streams: list[Stream]) -> None:
        for stream in streams:
            if not stream.is_closed:
                stream.is_waiting = True
                try:
                    async with stream.sending:
                        await self.flush(stream)
                except Exception:
                    stream.is_waiting = False  # the next text tries again
                    log.exception("a frame could not be sent")
                else:
                    self.wake(stream)

    async def finish(self, stream: Stream, ended: Record) -> bool:
        """Send the rest of an ended answer to the newest target in its record. Returns false if that is slow."""
        async with stream.sending:
            if not stream.is_closed:
                stream.is_closed = True
                stream.ended(ended)
            await self.flush(stream)
        return stream.is_done or self.park(stream, ended)

    async def finish_patiently(self, stream: Stream, ended: Record) -> bool:
        """`finish`, again and again for a while where it is slow. Returns false if it still is."""
        deadline = self._monotonic() + SLOW_TIMEOUT_S
        while not await self.finish(stream, ended):
            if self._monotonic() >= deadline:
                return False
            await asyncio.sleep(max(0.0, (stream.due_at() or 0.0) - self._monotonic()))
        return True

    # --- any delivery

    async def flush(self, delivery: Delivery) -> FlushResult:
        """Send every frame that is due now."""
        while True:
            now = self._monotonic()
            frame = delivery.next_frame(now=now)
            connection_id, target_no = delivery.connection_id, delivery.target_no
            if frame is None or connection_id is None:
                return FlushResult.DONE
            outcome = await self._sender.send(connection_id, frame)
            if delivery.target_no != target_no:
                continue  # meanwhile it was turned to another connection, and this outcome says nothing about that
            match outcome:
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

    # --- an answer that has ended

    async def stored(self, record: Record, target: DeliveryTarget) -> Delivery:
        """A delivery of a stored ending to `target`. Raises: Unavailable: the text cannot be read now."""
        ending = record.ending
        if ending is None:
            raise ValueError("only an ended request can be served")
        content = await self._requests.answer(record.key) if ending.length else NOTHING
        return Delivery(
            record, Answer.stored(ending.attempt, content), self._interval, now=self._monotonic(), target=target
        )

    async def announce(self, ended: Ended) -> bool:
        """Count an ending that this change has made, and send it to the record's target, and to those who watch.

        Returns false if the target is slow. Raises: Unavailable: the text cannot be read now.
        """
        record = ended.record
        if ended.is_new and record.ending is not None:
            self._observer.ended(record, record.ending)
        telling = asyncio.create_task(self.tell_watchers(ended), name="tell who watches")
        try:
            if record.target is None:
                return True
            delivery = await self.stored(record, record.target)
            return await self.flush(delivery) is FlushResult.DONE or self.park(delivery, record)
        finally:
            await let_go(telling)

    async def serve(self, record: Record, target: DeliveryTarget) -> None:
        """Send a stored ending to `target`. Wait for a slow connection that cannot be parked; nothing is sent twice.

        Raises: Unavailable: the text cannot be read now.
        """
        delivery = await self.stored(record, target)
        while await self.flush(delivery) is FlushResult.SLOW and not self.park(delivery, record):
            await self._sender.ready(target.connection_id)
            delivery.ready()

    # --- single frames

    async def offer(self, connection_id: str, frame: ServerFrame) -> bool:
        """Send a frame that belongs to no delivery. Returns false if the connection cannot take it now."""
        match await self._sender.send(connection_id, frame):
            case Slow():
                self._observer.found_slow()
                return False
            case Gone():
                self._observer.found_gone()
        return True

    async def reply(self, connection_id: str, frame: ServerFrame) -> None:
        """Send a frame that belongs to no delivery. For a slow reader this waits, and so its next frames wait too."""
        while not await self.offer(connection_id, frame):
            await self._sender.ready(connection_id)

    async def error(
        self,
        connection_id: str,
        code: ErrorCode,
        *,
        detail: str | None = None,
        request_id: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        """Reply with an `error`; `detail` instead of the code's own sentence."""
        message = detail or ERRORS[code].message
        await self.reply(
            connection_id, Error(code=code, message=message, request_id=request_id, retry_after_ms=retry_after_ms)
        )

    async def close(self, connection_id: str, code: ErrorCode, *, detail: str | None = None) -> None:
        """Close a connection with an `error` that says why. This does not wait for a slow reader."""
        await self._sender.close(connection_id, Error(code=code, message=detail or ERRORS[code].message))
