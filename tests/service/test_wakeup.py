"""The wake-up timer, on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

from answerback.service.wakeup import WakeUpTimer
from answerback.testing import run_virtual


async def woken_after(timer: WakeUpTimer, delay_s: float, *, set_after_s: float | None = None) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    if set_after_s is not None:
        loop.call_later(set_after_s, timer.set)
    await timer.wait(delay_s)
    return round(loop.time() - started, 6)


def on_virtual_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(test())  # type: ignore[arg-type]

    return run


@on_virtual_time
async def test_it_wakes_by_time_or_when_it_is_set() -> None:
    timer = WakeUpTimer()
    assert await woken_after(timer, 5.0) == 5.0
    assert await woken_after(timer, 5.0, set_after_s=1.0) == 1.0
    timer.set()
    assert await woken_after(timer, 5.0) == 0.0
    assert await woken_after(timer, 0.0) == 0.0


@on_virtual_time
async def test_a_timer_left_from_an_earlier_wait_wakes_nobody_early_or_late() -> None:
    timer = WakeUpTimer()
    assert await woken_after(timer, 5.0, set_after_s=1.0) == 1.0
    assert await woken_after(timer, 9.0) == 9.0  # longer than what is left of the timer
    assert await woken_after(timer, 5.0, set_after_s=1.0) == 1.0
    assert await woken_after(timer, 2.0) == 2.0  # shorter
    assert await woken_after(timer, 5.0, set_after_s=1.0) == 1.0
    await asyncio.sleep(9.0)  # it expires while nobody waits
    assert await woken_after(timer, 3.0) == 3.0


@on_virtual_time
async def test_one_timer_serves_many_waits_and_none_is_left_after_close() -> None:
    loop = asyncio.get_running_loop()
    made: list[asyncio.TimerHandle] = []
    call_at = loop.call_at

    def noting(when: float, callback: Callable[..., None]) -> asyncio.TimerHandle:
        made.append(call_at(when, callback))
        return made[-1]

    loop.call_at = noting  # type: ignore[assignment, method-assign]
    timer = WakeUpTimer()
    for _ in range(100):
        waiting = asyncio.ensure_future(timer.wait(60.0))
        await asyncio.sleep(0)
        timer.set()
        await waiting
    assert len(made) == 1
    timer.close()
    assert made[0].cancelled()
