"""Long lives: many small troubles, each followed by success, and each met as the first one was."""

import asyncio
import random

from answerback.client import Client, Connected, ConnectionState, Disconnected
from answerback.client.liveness import Liveness
from answerback.client.timing import Timing


class Longest(random.Random):
    """Every pause is as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


async def test_every_trouble_has_the_pauses_of_the_first(gateway) -> None:
    states: asyncio.Queue[ConnectionState] = asyncio.Queue()
    timing = Timing(backoff_min_s=0.001, backoff_max_s=60.0)
    tokens = (f"token {number}" for number in range(10_000))

    async def token() -> str:
        return next(tokens)

    async def pauses() -> list[float]:
        found: list[float] = []
        while not isinstance(state := await states.get(), Connected):
            if isinstance(state, Disconnected):
                found.append(state.retry_in_s)
        return found

    async with Client(gateway.url, token=token, timing=timing, rng=Longest(), on_state=states.put_nowait):
        assert await pauses() == []
        lives = []
        for _ in range(40):
            peer = await gateway.peer()
            gateway.refuse = [500, 401]  # a token that is refused once may just have run out
            await peer.cut()
            lives.append(await pauses())
    assert lives == [[0.001, 0.002, 0.004]] * 40


async def test_no_pause_is_so_long_that_a_question_is_given_up_without_another_try(gateway) -> None:
    pauses = []

    def note(state: ConnectionState) -> None:
        if isinstance(state, Disconnected):
            pauses.append(state.retry_in_s)

    timing = Timing(backoff_min_s=3600.0, backoff_max_s=3600.0, ask_timeout_s=20.0, hello_expiry_s=19.9)
    async with Client(gateway.url, timing=timing, rng=Longest(), on_state=note) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        question = await peer.get("sendMessage")
        await peer.cut()
        peer = await gateway.peer()
        assert await peer.get("sendMessage") == question
        await peer.answer(question["requestId"], "in time")
        assert (await asking).text == "in time"
    assert [pause_s < 0.1 for pause_s in pauses] == [True]


def test_every_silence_is_given_the_time_of_the_first() -> None:
    liveness = Liveness(Timing(dead_s=8.0, hello_expiry_s=4.0, probe_max_s=60.0))
    for life in range(1_000):
        now = life * 1_000.0
        liveness.opened(now=now)
        assert liveness.wants_hello(), "a new connection is not welcomed yet"
        for _ in range(5):
            liveness.greeted("h1", [], now=now)
            liveness.received(now=now + 1)
            assert [late.hello_id for late in liveness.expired(now=now + 4)] == ["h1"]
            assert liveness.failure(now=now + 4) is None, "one hello without a welcome is no failure, at whatever age"
            assert liveness.retry_s == 4.0
            liveness.greeted("h2", [], now=now + 5)
            assert liveness.welcomed("h2") is not None
            liveness.received(now=now + 6)
        assert not liveness.wants_hello()
        liveness.asked(now=now + 10)
        assert liveness.failure(now=now + 17.9) is None
        assert liveness.failure(now=now + 18) == "the connection is open but silent"
        liveness.lost()
    assert liveness.due_at() is None
