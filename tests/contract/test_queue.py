"""Contract of ports.Queue, on virtual time where the queue allows. A further implementation joins with its harness.

Scenes wait for what happens and never for a time to pass, so that they hold on a real queue too.
"""

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from moto import mock_aws

from answerback.core.request import Record, RequestKey
from answerback.gateway.queue import InProcessQueue
from answerback.ports import Queue
from answerback.service.attempt import Done, Retry, Turn
from answerback.testing import LaneQueue, run_virtual
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.sqs import HiddenTime, SqsHandler, SqsQueue, Visibility
from asking import record_of

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
        async def work(key: RequestKey, turn: Turn) -> None:
            turn.end(await run(key))

        self.queue = InProcessQueue(slots={"m": 100}, clock=_now_ms)
        self.queue.start(work)

    async def crash(self, workers: "Workers", key: RequestKey) -> None:
        workers.fail(key)

    async def stop(self) -> None:
        await self.queue.stop(grace_s=0)


class Ordered(Harness):
    def start(self, run: Run) -> None:
        self.queue = LaneQueue(run, clock=_now_ms, visibility_s=20)

    async def crash(self, workers: "Workers", key: RequestKey) -> None:
        assert self.queue.crash(key)

    async def stop(self) -> None:
        await self.queue.stop()


class Deaf:
    """Counts nothing."""

    def count(self, name: str, **dimensions: str) -> None:
        pass

    def note(self, **facts: Any) -> None:
        pass


class Sqs(Harness):
    """SQS FIFO, of the emulator or of moto. Some pollers do what Lambda's mapping does, with batches of one."""

    POLLERS = 4

    def __init__(self, client: Any, *, threads: int = 16, wait_s: int = 1) -> None:
        self._client = client
        self._wait_s = wait_s
        self._url = self._client.create_queue(
            QueueName=f"{uuid.uuid4().hex}.fifo",
            Attributes={
                "FifoQueue": "true",
                "DeduplicationScope": "messageGroup",
                "FifoThroughputLimit": "perMessageGroupId",
                "VisibilityTimeout": "30",
            },
        )["QueueUrl"]
        self._calls = Calls(threads=threads)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, run: Run) -> None:
        async def run_until(key: RequestKey, stop_at_ms: int) -> Done | Retry:
            return await run(key)

        self.queue = SqsQueue(client=self._client, calls=self._calls, url=self._url, correlation_id=lambda: None)
        counts: Any = Deaf()
        handler = SqsHandler(
            run=run_until,
            visibility=Visibility(client=self._client, calls=self._calls, url=self._url),
            hidden_time=HiddenTime(for_s=30, every_s=10),
            counts=counts,
            clock=_now_ms,
        )
        self._tasks = [asyncio.create_task(self._poll(handler)) for _ in range(self.POLLERS)]

    async def _poll(self, handler: SqsHandler) -> None:
        while True:
            found = await self._calls.run(
                self._client.receive_message,
                QueueUrl=self._url,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
                MaxNumberOfMessages=1,
                WaitTimeSeconds=self._wait_s,
            )
            for message in found.get("Messages", ()):
                event = {
                    "messageId": message["MessageId"],
                    "receiptHandle": message["ReceiptHandle"],
                    "body": message["Body"],
                    "attributes": message["Attributes"],
                    "messageAttributes": {},
                }
                held = {"QueueUrl": self._url, "ReceiptHandle": message["ReceiptHandle"]}
                try:
                    answer = await handler.handle({"Records": [event]}, remaining_ms=60_000)
                except Planted:  # the time for which it is hidden passes at once
                    await self._calls.run(self._client.change_message_visibility, **held, VisibilityTimeout=0)
                else:
                    if not answer["batchItemFailures"]:
                        await self._calls.run(self._client.delete_message, **held)

    async def crash(self, workers: "Workers", key: RequestKey) -> None:
        workers.fail(key)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._calls.close()


QUEUES: dict[str, Callable[[Any], Harness]] = {
    "in process": lambda _: InProcess(),
    "ordered": lambda _: Ordered(),
    "sqs": Sqs,
    # It is not safe for threads: two that receive in the same moment may both get of one group.
    "moto": lambda client: Sqs(client, threads=1, wait_s=0),
}
SQS = ("sqs", "moto")
"""On the emulator, and in moto: a second opinion on its order, its groups and its visibility."""


class Planted(Exception):
    """A worker is lost."""


class Workers:
    """Runs that end when they are told to; they notice two of one ordering key at once."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.overlapped: list[str] = []
        self._running: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self._gates: dict[str, asyncio.Future[Done | Retry]] = {}
        self.key_of: dict[str, str] = {}

    @property
    def running(self) -> int:
        return sum(self._running.values())

    async def run(self, key: RequestKey) -> Done | Retry:
        name = key.request_id
        ordering = self.key_of[name]
        self._running[ordering] += 1
        if self._running[ordering] > 1:
            self.overlapped.append(name)
        gate = self._gates[name] = asyncio.get_running_loop().create_future()
        self.started.append(name)
        async with self._changed:
            self._changed.notify_all()
        try:
            return await gate
        finally:
            self._running[ordering] -= 1

    async def until_started(self, *names: str) -> None:
        """Exactly these runs were started, in this order."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.started) >= len(names))
        assert self.started == list(names)
        assert self.overlapped == []

    async def until_running(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.running >= count)

    def end(self, name: str, outcome: Done | Retry | None = None) -> None:
        self._gates[name].set_result(outcome or Done())

    def fail(self, key: RequestKey) -> None:
        self._gates[key.request_id].set_exception(Planted())


class Scene:
    """A queue with its workers."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.workers = Workers()

    async def put(self, name: str, *, conversation: str = "c1", user: str = "ann") -> Record:
        record = record_of(name, user, conversation_id=conversation, queue_no=1)
        self.workers.key_of[name] = record.ordering_key
        await self.harness.queue.put(record)
        return record


def _now_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


Play = Callable[[Callable[[Scene], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.emulator if name == "sqs" else ()) for name in QUEUES])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    is_real = request.param in SQS
    client = None
    if request.param == "sqs":
        client = request.getfixturevalue("emulator").client("sqs")
    elif request.param == "moto":
        client = request.getfixturevalue("moto_client")("sqs")

    def play(act: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            scene = Scene(QUEUES[request.param](client))
            scene.harness.start(scene.workers.run)
            try:
                async with asyncio.timeout(60 if is_real else 36_000):
                    await act(scene)
            finally:
                await scene.harness.stop()

        if is_real:
            asyncio.run(main())
        else:
            run_virtual(main())

    with mock_aws() if request.param == "moto" else nullcontext():
        yield play


def test_one_key_one_at_a_time_in_the_order_put(play: Play) -> None:
    async def act(scene: Scene) -> None:
        for name in ("1", "2", "3"):
            await scene.put(name)
        for count in (1, 2, 3):
            await scene.workers.until_started(*["1", "2", "3"][:count])
            scene.workers.end(str(count))
        await scene.put("4")
        await scene.workers.until_started("1", "2", "3", "4")
        scene.workers.end("4")

    play(act)


def test_no_key_waits_for_another(play: Play) -> None:
    async def act(scene: Scene) -> None:
        await scene.put("1", conversation="c1")
        await scene.put("2", conversation="c2")
        await scene.put("3", conversation="c1", user="bob")
        await scene.workers.until_running(3)
        assert sorted(scene.workers.started) == ["1", "2", "3"]
        for name in ("1", "2", "3"):
            scene.workers.end(name)

    play(act)


def test_what_is_put_twice_does_not_run_twice(play: Play) -> None:
    async def act(scene: Scene) -> None:
        await scene.put("1")
        await scene.put("1")
        await scene.workers.until_started("1")
        await scene.put("1")
        await scene.put("2")
        scene.workers.end("1")
        await scene.workers.until_started("1", "2")
        scene.workers.end("2")

    play(act)


def test_a_retry_is_dispatched_again_and_its_key_waits_for_it(play: Play) -> None:
    async def act(scene: Scene) -> None:
        workers = scene.workers
        await scene.put("1")
        await scene.workers.until_started("1")
        await scene.put("2")
        before_ms = _now_ms()
        workers.end("1", Retry(at_ms=before_ms + 2_000))
        await scene.put("other", conversation="c2")
        await workers.until_started("1", "other")
        workers.end("other")
        await workers.until_started("1", "other", "1")
        assert _now_ms() - before_ms >= 1_900, "not before"
        workers.end("1")
        await workers.until_started("1", "other", "1", "2")
        workers.end("2")

    play(act)


def test_a_lost_worker_s_request_is_redelivered_before_the_next(play: Play) -> None:
    async def act(scene: Scene) -> None:
        first = await scene.put("1")
        await scene.put("2")
        await scene.workers.until_started("1")
        await scene.harness.crash(scene.workers, first.key)
        await scene.workers.until_started("1", "1")
        scene.workers.end("1")
        await scene.workers.until_started("1", "1", "2")
        scene.workers.end("2")

    play(act)


def test_many_crashes_lose_nothing(play: Play) -> None:
    async def act(scene: Scene) -> None:
        first = await scene.put("1")
        for runs in range(1, 6):
            await scene.workers.until_started(*["1"] * runs)
            await scene.harness.crash(scene.workers, first.key)
        await scene.workers.until_started(*["1"] * 6)
        scene.workers.end("1")
        await scene.put("2")
        await scene.workers.until_started(*["1"] * 6, "2")
        scene.workers.end("2")

    play(act)


def test_a_stop_dispatches_nothing_more(play: Play) -> None:
    async def act(scene: Scene) -> None:
        await scene.put("1")
        await scene.put("2")
        await scene.workers.until_started("1")
        await scene.harness.stop()
        assert scene.workers.started == ["1"]
        assert scene.workers.running == 0

    play(act)
