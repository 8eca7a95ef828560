"""Store, queue, network and model with faults."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from answerback.core.request import Change, Question, Record, RequestKey
from answerback.ports import (
    Admission,
    Finish,
    Gone,
    ModelError,
    Piece,
    Prompt,
    Quota,
    Sent,
    Slow,
    T,
    Unavailable,
)
from answerback.protocol.codec import decode_client, encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import ServerFrame
from answerback.service.worker import Done, Retry
from answerback.stores.memory import MemoryStore
from answerback.testing.queue import LaneQueue
from answerback.testing.simulation.faults import Dice, Faults

WORDS_S = 0.15


class FaultyStore(MemoryStore):
    """A store that takes time and is sometimes away, before or after the write took effect."""

    def __init__(self, dice: Dice, faults: Faults) -> None:
        super().__init__()
        self._dice = dice
        self._faults = faults

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        """See ports.Requests."""
        await self._before()
        admission = await super().accept(record, question, quota, now_ms=now_ms)
        await self._after()
        return admission

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        """See ports.Requests."""
        await self._before()
        outcome = await super().change(key, change)
        await self._after()
        return outcome

    async def answer(self, key: RequestKey) -> str:
        """See ports.Requests."""
        await self._before()
        return await super().answer(key)

    async def _before(self) -> None:
        await asyncio.sleep(self._dice.latency_s("store"))
        if self._dice.strikes("stalled store call", self._faults.worker_stall):
            await asyncio.sleep(25.0)  # longer than a lease: a worker that lives on after it was lost
        if self._dice.strikes("store outage before the write", self._faults.outage_before):
            raise Unavailable

    async def _after(self) -> None:
        await asyncio.sleep(self._dice.latency_s("store"))
        if self._dice.strikes("store outage after the write", self._faults.outage_after):
            raise Unavailable


class WordyModel:
    """Says a text that names its request and attempt, so that a foreign or stale word shows; counts its runs."""

    def __init__(self, dice: Dice, faults: Faults) -> None:
        self._dice = dice
        self._faults = faults
        self.runs: list[tuple[RequestKey, int]] = []
        self.running: dict[RequestKey, int] = {}

    name = "wordy"
    context_tokens = 1_000_000
    concurrency = 1_000

    @staticmethod
    def text(request_id: str, attempt: int) -> str:
        """All that it says to this request in this attempt."""
        words = 5 + sum(request_id.encode()) % 30
        return " ".join(f"{request_id}/{attempt}/{n}가😀" for n in range(words))

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """See ports.Model."""
        key = RequestKey(prompt.user_id, prompt.request_id)
        self.runs.append((key, prompt.attempt))
        self.running[key] = self.running.get(key, 0) + 1
        try:
            fails = self._dice.strikes("model breaks off", self._faults.model_fails)
            words = self.text(prompt.request_id, prompt.attempt).split(" ")
            for number, word in enumerate(words):
                await asyncio.sleep(self._dice.pause_s("model", WORDS_S))
                if fails and number == len(words) // 2:
                    raise ModelError(ErrorCode.MODEL_FAILED)
                yield word if number == 0 else f" {word}"
            yield Finish(output_tokens=len(words), input_tokens=1)
        finally:
            self.running[key] -= 1

    async def close(self) -> None:
        """See ports.Model."""


class StormyQueue(LaneQueue):
    """A queue whose workers die, and that hands out again what may still be running."""

    def __init__(
        self, run: Callable[[RequestKey], Awaitable[Done | Retry]], *, clock: Callable[[], int], visibility_s: float
    ) -> None:
        super().__init__(run, clock=clock, visibility_s=visibility_s)
        self.again: list[asyncio.Future[Done | Retry]] = []

    async def storm(self, dice: Dice, faults: Faults) -> None:
        """Strike until the dice stop."""
        await asyncio.gather(
            self._strike(dice, "worker crash", faults.worker_crash_every_s, self.crash),
            self._strike(dice, "redelivery of a running request", faults.redeliver_every_s, self._hand_out_again),
        )

    async def _strike(self, dice: Dice, fault: str, every_s: float, act: Callable[[RequestKey], object]) -> None:
        while every_s and not dice.is_over:
            await asyncio.sleep(dice.pause_s(fault, every_s))
            running = sorted(self._runs)
            if running and dice.strikes(fault, 1.0):
                act(dice.stream(fault).choice(running))

    def _hand_out_again(self, key: RequestKey) -> None:
        """As after a visibility time-out that came too early: a second worker gets what the first still runs."""
        self.again.append(asyncio.ensure_future(self._run(key)))


class Link:
    """One connection: two ends that may disagree about whether it is open."""

    def __init__(self, connection_id: str, deliver: Callable[[bytes], None], broken: Callable[[], None]) -> None:
        self.connection_id = connection_id
        self.server_open = True
        self.client_open = True
        self.deliver = deliver
        self.broken = broken
        self.slow_until = 0.0
        self.down_at = 0.0
        self.up_at = 0.0


class Network:
    """ports.Sender over links with latency, loss, duplication and reordering."""

    def __init__(self, dice: Dice, faults: Faults) -> None:
        self._dice = dice
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self.links: dict[str, Link] = {}
        self.sent: list[tuple[str, ServerFrame]] = []
        self.posts = 0

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        """See ports.Sender."""
        self.posts += 1
        await asyncio.sleep(self._dice.latency_s("post"))
        link = self.links.get(connection_id)
        if link is None or not link.server_open or self._dice.strikes("false gone", self._faults.false_gone):
            return Gone()
        if self._loop.time() < link.slow_until:
            return Slow()
        if self._dice.strikes("slow reader", self._faults.slow):
            link.slow_until = self._loop.time() + self._dice.pause_s("slow reader for", 2.0)
            return Slow()
        self.sent.append((connection_id, frame))
        if self._dice.strikes("lost post", self._faults.lose):
            return Sent()
        data = encode(frame)
        for _ in range(1 + self._dice.strikes("duplicated post", self._faults.duplicate)):
            self._down(link, data)
        return Sent()

    def _down(self, link: Link, data: bytes) -> None:
        delay = self._dice.latency_s("down")
        if self._dice.strikes("late post", self._faults.late):
            delay += self._dice.pause_s("late by", 3.0)
        at = self._loop.time() + delay
        if not self._faults.reorder:
            at = link.down_at = max(at, link.down_at)
        self._loop.call_at(at, lambda: link.deliver(data) if link.client_open else None)

    async def ready(self, connection_id: str) -> None:
        """See ports.Sender."""
        link = self.links.get(connection_id)
        if link is not None and link.server_open:
            await asyncio.sleep(max(0.05, link.slow_until - self._loop.time()))

    async def close(self, connection_id: str) -> None:
        """See ports.Sender."""
        link = self.links.get(connection_id)
        if link is not None and link.server_open:
            link.server_open = False
            at = max(self._loop.time() + self._dice.latency_s("down"), link.down_at)
            self._loop.call_at(at, link.broken)

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        """See ports.Sender: not supported, as on AWS; the client asks."""
        return False


def describe(data: bytes) -> str:
    """A client's message in a trace."""
    frame = decode_client(data)
    return f"{type(frame).__name__} {getattr(frame, 'request_id', '')}"
