import asyncio
import logging

import pytest
from msgspec.structs import replace

from answerback.core.request import Record, RequestKey
from answerback.core.transitions import State
from answerback.gateway.queue import InProcessQueue
from answerback.service.attempt import Done, Retry, Turn
from asking import record_of


def record(number: int, *, ordering_key: str = "a", model: str = "m") -> Record:
    return record_of(f"r{number}", ordering_key=ordering_key, model=model, accepted_at_ms=number)


class Workers:
    """Runs that end when the test ends them."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ends: dict[str, asyncio.Future[Done | Retry]] = {}

    async def work(self, key: RequestKey, turn: Turn) -> None:
        self.started.append(key.request_id)
        end = self.ends[key.request_id] = asyncio.get_running_loop().create_future()
        turn.end(await end)

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def end(self, request_id: str, outcome: Done | Retry | Exception) -> None:
        if isinstance(outcome, Exception):
            self.ends[request_id].set_exception(outcome)
        else:
            self.ends[request_id].set_result(outcome)
        await self.settle()


async def test_one_key_one_at_a_time_others_at_once() -> None:
    queue, workers = InProcessQueue(slots={"m": 2}, clock=lambda: 0), Workers()
    queue.restore([record(1), record(2)])
    queue.start(workers.work)
    await queue.put(record(3, ordering_key="b"))
    await queue.put(record(4, ordering_key="c"))
    await queue.put(record(2))
    await workers.settle()
    assert workers.started == ["r1", "r3"]
    assert (queue.running, queue.depth) == (2, 2)
    await workers.end("r1", Done())
    assert workers.started == ["r1", "r3", "r4"]
    await workers.end("r3", Done())
    assert workers.started == ["r1", "r3", "r4", "r2"]
    await workers.end("r4", Done())
    await workers.end("r2", Done())
    assert (queue.running, queue.depth) == (0, 0)
    await queue.stop(grace_s=0)


async def test_after_a_restart_the_one_that_ran_goes_first_in_its_key() -> None:
    """Of two that came together the later one may be stored first, and the model may have run for the other."""
    queue, workers = InProcessQueue(slots={"m": 2}, clock=lambda: 0), Workers()
    queue.restore([record(2), replace(record(1), state=State.RUNNING, attempt=1), record(3)])
    queue.start(workers.work)
    for number in (1, 2, 3):
        await workers.settle()
        assert workers.started[-1] == f"r{number}"
        await workers.end(f"r{number}", Done())
    await queue.stop(grace_s=0)


async def test_a_request_that_ended_while_it_waited_is_not_dispatched() -> None:
    queue, workers = InProcessQueue(slots={"m": 1}, clock=lambda: 0), Workers()
    queue.restore([record(1), record(2), record(3)])
    queue.start(workers.work)
    await workers.settle()
    await queue.forget(record(1).key)
    await queue.forget(record(2).key)
    await workers.end("r1", Done())
    assert workers.started == ["r1", "r3"], "what runs goes on, what waited is gone"
    await workers.end("r3", Done())
    await queue.stop(grace_s=0)


async def test_a_retry_waits_and_blocks_its_own_key_alone() -> None:
    queue, workers = InProcessQueue(slots={"m": 1}, clock=lambda: 1_000), Workers()
    queue.restore([record(1), record(2), record(3, ordering_key="b")])
    queue.start(workers.work)
    await workers.settle()
    await workers.end("r1", Retry(10**12))
    assert workers.started == ["r1", "r3"]
    await queue.stop(grace_s=0)
    assert workers.started == ["r1", "r3"]


async def test_a_retry_that_is_due_runs_again_before_the_next_of_its_key() -> None:
    queue, workers = InProcessQueue(slots={"m": 4}, clock=lambda: 1_000), Workers()
    queue.restore([record(1), record(2)])
    queue.start(workers.work)
    await workers.settle()
    await workers.end("r1", Retry(1_000))
    assert workers.started == ["r1", "r1"]
    await queue.stop(grace_s=0)


async def test_a_worker_that_fails_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    now_ms = 0
    queue, workers = InProcessQueue(slots={"m": 1}, clock=lambda: now_ms), Workers()
    queue.restore([record(1)])
    queue.start(workers.work)
    await workers.settle()
    with caplog.at_level(logging.ERROR):
        await workers.end("r1", RuntimeError("a bug"))
    assert "a worker failed" in caplog.text
    assert workers.started == ["r1"], "not at once"
    assert (queue.running, queue.depth) == (0, 1)
    await queue.stop(grace_s=0)


async def test_a_stop_lets_running_requests_end_and_starts_nothing_new() -> None:
    queue, workers = InProcessQueue(slots={"m": 1}, clock=lambda: 0), Workers()
    queue.restore([record(1), record(2)])
    queue.start(workers.work)
    await workers.settle()
    stopping = asyncio.create_task(queue.stop(grace_s=60))
    await workers.settle()
    await queue.put(record(3, ordering_key="b"))
    assert not stopping.done()
    await workers.end("r1", Done())
    await stopping
    assert workers.started == ["r1"]
    assert queue.depth == 2


@pytest.mark.parametrize("grace_skipped", [False, True])
async def test_a_stop_cancels_what_does_not_end_within_the_grace(grace_skipped: bool) -> None:
    queue, workers = InProcessQueue(slots={"m": 1}, clock=lambda: 0), Workers()
    queue.restore([record(1)])
    queue.start(workers.work)
    await workers.settle()
    stopping = asyncio.create_task(queue.stop(grace_s=60 if grace_skipped else 0))
    await workers.settle()
    queue.skip_grace()
    await stopping
    assert workers.ends["r1"].cancelled()
    assert queue.depth == 1
