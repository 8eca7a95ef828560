"""Calls that are done together."""

import asyncio
from collections.abc import Sequence

import pytest

from answerback.ports import Unavailable
from answerback.stores.gathered import Gathered


async def test_calls_of_one_turn_are_done_together_and_later_ones_after_them():
    done: list[list[int]] = []
    gate = asyncio.Event()

    async def double(calls: Sequence[int]) -> Sequence[int]:
        done.append(list(calls))
        await gate.wait()
        return [2 * call for call in calls]

    gathered = Gathered(double, most=3)
    first = [asyncio.create_task(gathered(n)) for n in range(4)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = asyncio.create_task(gathered(9))  # what is read now may be older than this call
    first[1].cancel()
    gate.set()
    assert [await call for call in (first[0], *first[2:], later)] == [0, 4, 6, 18]
    assert done == [[0, 1, 2], [3, 9]]
    assert await gathered(5) == 10


async def test_each_call_gets_an_error_of_its_own():
    async def fail(calls: Sequence[int]) -> Sequence[int]:
        raise Unavailable("the disk is full")

    gathered = Gathered(fail, most=2)
    errors = await asyncio.gather(*map(gathered, range(3)), return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in errors)
    assert len(set(map(id, errors))) == 3
    with pytest.raises(Unavailable, match="the disk is full"):
        await gathered(3)
