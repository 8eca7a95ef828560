"""The real thing killed: what was accepted is answered, what was not is asked again, and nothing twice."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from answerback import Answer, Client
from answerback.client import Timing
from answerback.core.request import RequestKey
from answerback.core.transitions import State
from answerback.stores import open_store
from cli_process import Serve

APPS = 12
QUESTIONS = 8
KILLS = 3
QUICK = Timing(backoff_min_s=0.05, backoff_max_s=0.3, silence_s=2.0)
SLOW_ECHO = ("--model", "echo:delay_ms=15")


def question(app: int, number: int) -> str:
    return " ".join(f"app{app}-question{number}-단어{word}" for word in range(20))


async def ask_everything(url: str, answered: asyncio.Event) -> dict[tuple[int, int], Answer]:
    """Every app asks all at once, every other question streamed; the answers by app and number. `answered` is set as
    often as one is home.
    """

    async def one_app(app: int) -> list[Answer]:
        async with Client(url, user=f"user{app % 5}", session=f"app{app}", timing=QUICK) as client:

            async def one(number: int) -> Answer:
                more: dict[str, Any] = {"request_id": f"{app}-{number}", "conversation": f"c{app}-{number % 3}"}
                if number % 2:
                    answer = await client.ask(question(app, number), timeout=120, **more)
                else:
                    answer = await client.stream(question(app, number), **more).answer
                answered.set()
                return answer

            return list(await asyncio.gather(*(one(number) for number in range(QUESTIONS))))

    apps = await asyncio.gather(*(one_app(app) for app in range(APPS)))
    return {(app, number): answer for app, answers in enumerate(apps) for number, answer in enumerate(answers)}


async def compare_with_store(answers: dict[tuple[int, int], Answer], database: str | None, data_dir: Path) -> None:
    store = await open_store(database, data_dir)
    try:
        assert await store.unfinished() == []
        for (app, number), answer in answers.items():
            key = RequestKey(f"user{app % 5}", f"{app}-{number}")
            record = await store.read(key)
            assert record is not None
            assert record.state is State.COMPLETED
            assert answer.text == question(app, number) == (await store.answer(key)).text
            assert record.ending is not None
            assert record.ending.attempt == answer.attempt
    finally:
        await store.close()


@pytest.mark.process
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_killed_under_load_three_times_every_accepted_request_is_answered_exactly(
    kind: str, serve: Serve, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = None if kind == "sqlite" else request.getfixturevalue("postgres_server").url
    # A request that happens to run at every kill is begun once more after the last.
    options = (*SLOW_ECHO, "--max-attempts", str(KILLS + 1), *(() if database is None else ("--database", database)))

    async def main() -> None:
        left = serve(*options)
        answered = asyncio.Event()
        asking = asyncio.create_task(ask_everything(left.url, answered))
        for _ in range(KILLS):
            answered.clear()
            await asyncio.wait({asking, asyncio.create_task(answered.wait())}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(left.stop, signal.SIGKILL)
            left = await asyncio.to_thread(serve, *options)
        answers = await asking
        assert len(answers) == APPS * QUESTIONS
        assert await asyncio.to_thread(left.stop) == 0
        await compare_with_store(answers, database, tmp_path / "data")

    asyncio.run(main())


@pytest.mark.process
@pytest.mark.timeout(60)
def test_a_graceful_stop_leaves_what_does_not_fit_to_the_next_start(serve: Serve) -> None:
    async def main() -> None:
        text = " ".join(f"word{n}" for n in range(60))
        options = ("--model", "echo:delay_ms=50", "--grace", "0.2")
        gateway = serve(*options)
        async with Client(gateway.url, user="kim", timing=QUICK) as client:
            stream = client.stream(text)
            async for _ in stream:
                break
            assert await asyncio.to_thread(gateway.stop) == 0
            await asyncio.to_thread(serve, *options)
            answer = await stream.answer
            assert (answer.text, answer.attempt) == (text, 2)

    asyncio.run(main())


@pytest.mark.process
@pytest.mark.timeout(60)
def test_the_same_request_id_before_and_after_a_restart_runs_once(serve: Serve) -> None:
    async def main() -> None:
        gateway = serve()
        async with Client(gateway.url, user="kim", session="s") as client:
            first = await client.ask("only once", request_id="r1")
        await asyncio.to_thread(gateway.stop, signal.SIGKILL)
        gateway = await asyncio.to_thread(serve)
        async with Client(gateway.url, user="kim", session="s") as client:
            again = await client.ask("only once", request_id="r1")
        assert (again.text, again.attempt, again.timing) == (first.text, first.attempt, first.timing)

    asyncio.run(main())


@pytest.mark.process
@pytest.mark.timeout(60)
def test_a_request_made_just_before_the_app_was_closed_is_there_when_it_opens_again(serve: Serve) -> None:
    async def main() -> None:
        gateway = serve("--model", "echo:delay_ms=20")
        text = " ".join(f"word{n}" for n in range(40))
        async with Client(gateway.url, user="kim", session="s") as client:
            stream = client.stream(text, request_id="r1")
            async for _ in stream:
                break
        async with Client(gateway.url, user="kim", session="s") as client:
            answer = await client.stream(text, request_id="r1").answer
        assert (answer.text, answer.attempt) == (text, 1)

    asyncio.run(main())
