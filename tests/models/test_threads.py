"""The bridge from a blocking producer to the loop: everything arrives, closing stops it, nothing is left behind."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest

from answerback.models.threads import Emit, from_thread


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def test_items_arrive_in_order_and_an_error_last(executor: ThreadPoolExecutor) -> None:
    def produce(emit: Emit[int]) -> None:
        for number in range(1000):
            assert not emit(number)
        raise ValueError("no more")

    items = from_thread(executor, produce, capacity=3)
    assert [await anext(items) for _ in range(1000)] == list(range(1000))
    with pytest.raises(ValueError, match="no more"):
        await anext(items)


async def test_closing_waits_until_the_producer_has_stopped(executor: ThreadPoolExecutor) -> None:
    stopped = threading.Event()

    def produce(emit: Emit[int]) -> None:
        while not emit(1):
            pass
        stopped.set()

    async with aclosing(from_thread(executor, produce, capacity=3)) as items:
        await anext(items)
        assert not stopped.is_set()
    assert stopped.is_set()


async def test_no_more_than_the_capacity_is_made_ahead(executor: ThreadPoolExecutor) -> None:
    made: list[int] = []
    full = threading.Event()

    def produce(emit: Emit[int]) -> None:
        for number in range(100):
            made.append(number)
            if number == 6:
                full.set()
            if emit(number):
                return

    async with aclosing(from_thread(executor, produce, capacity=5)) as items:
        assert await anext(items) == 0
        # One was read, so five more fit, and the seventh waits in `emit`.
        await asyncio.to_thread(full.wait)
        assert made == list(range(7))


async def test_a_job_that_waits_for_a_thread_is_taken_back(executor: ThreadPoolExecutor) -> None:
    release = threading.Event()
    executor.submit(release.wait)
    ran: list[bool] = []
    items = from_thread(executor, lambda emit: ran.append(True))
    reader = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    release.set()
    await asyncio.to_thread(executor.shutdown)
    assert ran == []
