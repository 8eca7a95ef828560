"""Contract of ports.Queue, on virtual time. A further implementation joins with its harness in QUEUES."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from answerback.core.ordering import ordering_key
from answerback.core.request import Record, RequestKey
from answerback.gateway.queue import InProcessQueue
from answerback.ports import Queue
from answerback.service.worker import Done, Retry
from answerback.testing import LaneQueue, run_virtual

Run = Callable[[RequestKey], Awaitable[Done | Retry]]


class Harness(ABC):
    """One queue, and how its worker is killed."""

    queue: Queue

    @abstractmethod
    def start(self, run: Run) -> None:
        """Hand requests out to `run`."""

    @abstractmethod
    async def crash(self, workers: "Workers", key: RequestKey) -> None:
        """The worker of this request is lost in the middle of its run."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop everything."""


class InProcess(Harness):
    def start(self, run: Run) -> None:
        self.queue = InProcessQueue(slots={"m": 100}, clock=_now_ms)
        self.queue.start(run)

    async def crash(self, workers: "Workers", key: RequestKey) -> None:
        workers.fail(key)

    async def stop(self) -> None:
        await self.queue.stop(grace_s=0)


class Lane(Harness):
    def start(self, run: Run) -> None:
        self.queue = LaneQueue(run, clock=_now_ms, visibility_s=20)

    async def crash(self, workers: "Workers", key: RequestKey) -> None:
        assert self.queue.crash(key)

    async def stop(self) -> None:
        await self.queue.stop()


QUEUES: dict[str, type[Harness]] = {"in process": InProcess, "lanes": Lane}


class Workers:
    """Runs that end when they are told to."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.running: Counter[str] = Counter()
        self._gates: dict[str, asyncio.Future[Done | Retry]] = {}

    async def run(self, key: RequestKey) -> Done | Retry:
        name = key.request_id
        self.started.append(name)
        self.running[name] += 1
        gate = self._gates[name] = asyncio.get_running_loop().create_future()
        try:
            return await gate
        finally:
            self.running[name] -= 1

    def end(self, name: str, outcome: Done | Retry | None = None) -> None:
        self._gates[name].set_result(outcome or Done())

    def fail(self, key: RequestKey) -> None:
        self._gates[key.request_id].set_exception(RuntimeError("planted"))


def _now_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


def record(name: str, *, conversation: str = "c1", user: str = "ann", queue_no: int = 1) -> Record:
    return Record(
        user_id=user,
        request_id=name,
        session_id="s",
        conversation_id=conversation,
        ordering_key=ordering_key(user, conversation),
        fingerprint="f",
        model="m",
        accepted_at_ms=0,
        queue_no=queue_no,
    )


@pytest.fixture(params=QUEUES)
def play(request: pytest.FixtureRequest) -> Callable[[Callable[[Harness, Workers], Coroutine[Any, Any, None]]], None]:
    def play(scene: Callable[[Harness, Workers], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            harness, workers = QUEUES[request.param](), Workers()
            harness.start(workers.run)
            try:
                async with asyncio.timeout(3600):
                    await scene(harness, workers)
            finally:
                await harness.stop()

        run_virtual(main())

    return play


async def settle() -> None:
    """Let everything happen that needs no time."""
    await asyncio.sleep(0.001)


def test_one_key_one_at_a_time_in_the_order_put(play: Callable[..., None]) -> None:
    async def scene(harness: Harness, workers: Workers) -> None:
        for name in ("1", "2", "3"):
            await harness.queue.put(record(name))
        for count in (1, 2, 3):
            await settle()
            assert workers.started == ["1", "2", "3"][:count]
            workers.end(str(count))
        await settle()
        await harness.queue.put(record("4"))
        await settle()
        assert workers.started[-1] == "4"

    play(scene)


def test_no_key_waits_for_another(play: Callable[..., None]) -> None:
    async def scene(harness: Harness, workers: Workers) -> None:
        await harness.queue.put(record("1", conversation="c1"))
        await harness.queue.put(record("2", conversation="c2"))
        await harness.queue.put(record("3", conversation="c1", user="bob"))
        await settle()
        assert workers.started == ["1", "2", "3"]

    play(scene)


def test_what_is_put_twice_does_not_run_twice_at_once(play: Callable[..., None]) -> None:
    async def scene(harness: Harness, workers: Workers) -> None:
        await harness.queue.put(record("1"))
        await harness.queue.put(record("1"))
        await settle()
        await harness.queue.put(record("1"))
        await settle()
        assert workers.running["1"] == 1
        workers.end("1")
        await settle()
        assert workers.running["1"] <= 1

    play(scene)


def test_a_retry_is_handed_out_again_and_its_key_waits_for_it(play: Callable[..., None]) -> None:
    async def scene(harness: Harness, workers: Workers) -> None:
        await harness.queue.put(record("1"))
        await harness.queue.put(record("2"))
        await harness.queue.put(record("other", conversation="c2"))
        await settle()
        workers.end("1", Retry(at_ms=_now_ms() + 5_000))
        await asyncio.sleep(4)
        assert workers.started == ["1", "other"]
        await asyncio.sleep(2)
        assert workers.started == ["1", "other", "1"]
        workers.end("1")
        await settle()
        assert workers.started[-1] == "2"

    play(scene)


def test_a_lost_worker_s_request_is_handed_out_again_before_the_next(play: Callable[..., None]) -> None:
    async def scene(harness: Harness, workers: Workers) -> None:
        first = record("1")
        await harness.queue.put(first)
        await harness.queue.put(record("2"))
        await settle()
        await harness.crash(workers, first.key)
        await asyncio.sleep(60)
        assert workers.started == ["1", "1"]
        workers.end("1")
        await settle()
        assert workers.started == ["1", "1", "2"]

    play(scene)


def test_many_crashes_lose_nothing(play: Callable[..., None]) -> None:
    async def scene(harness: Harness, workers: Workers) -> None:
        first = record("1")
        await harness.queue.put(first)
        for runs in range(1, 6):
            await asyncio.sleep(60)
            assert workers.started == ["1"] * runs
            await harness.crash(workers, first.key)
        await asyncio.sleep(60)
        workers.end("1")
        await asyncio.sleep(600)
        assert workers.started == ["1"] * 6

    play(scene)


def test_a_stop_hands_out_nothing_more(play: Callable[..., None]) -> None:
    async def scene(harness: Harness, workers: Workers) -> None:
        await harness.queue.put(record("1"))
        await harness.queue.put(record("2"))
        await settle()
        await harness.stop()
        await settle()
        assert workers.started == ["1"]
        assert workers.running["1"] == 0

    play(scene)
