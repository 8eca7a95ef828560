"""The client against the real gateway with the echo model: whatever happens to connections, the texts are exact."""

import asyncio
import contextlib

import pytest

from answerback.client import (
    BlockingClient,
    Client,
    PartStarted,
    PartText,
    RateLimited,
    RequestCancelled,
    RequestConflict,
    SessionReplaced,
    Stopped,
    Text,
    Timing,
    parts_of,
)
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings

QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.002)


@pytest.fixture
async def start(tmp_path):
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings):
            models = ("echo", "slow=echo:delay_ms=3", "stuck=echo:delay_ms=100000", "parts=echo:parts=1&delay_ms=3")
            settings = {"models": models, "rate_limit": 0, **settings}
            chosen = GatewaySettings(port=0, admin_port=None, data_dir=tmp_path, grace_s=0.1, **settings)
            return await stack.enter_async_context(Gateway(chosen))

        yield start


async def test_ask_stream_and_history(start):
    gateway = await start()
    async with Client(gateway.url, user="user_001") as app:
        assert (await app.ask("What is a WebSocket?", conversation="c")).text == "What is a WebSocket?"
        assert "".join([piece async for piece in app.stream("one two three", conversation="c")]) == "one two three"
        assert [turn.answer async for turn in app.history("c")] == ["one two three", "What is a WebSocket?"]
        assert [row.conversation_id async for row in app.conversations()] == ["c"]
        assert (await app.rename("c", "Sockets")).title == "Sockets"
        await app.delete("c")
        assert [row async for row in app.conversations()] == []
        await app.restore("c")
        assert [row.title async for row in app.conversations()] == ["Sockets"]


async def test_the_largest_question_and_a_history_in_pieces(start):
    gateway = await start()
    words = "답\U0001f600" * 12_000 + " end"
    async with Client(gateway.url) as app:
        assert (await app.stream(words, conversation="c").answer).text == words
        (turn,) = [turn async for turn in app.history("c")]
        assert (turn.question, turn.answer) == (words, words)


async def test_connections_that_are_cut_again_and_again(start):
    gateway = await start()
    question = " ".join(f"word{n}" for n in range(300))
    async with Client(gateway.url, timing=QUICK) as app:
        streams = [app.stream(question, model="slow", conversation=f"c{n}") for n in range(5)]

        async def cut_while_reading(stream):
            pieces = []
            async for piece in stream:
                pieces.append(piece)
                if stream is streams[0] and len(pieces) % 5 == 0:
                    for link in list(app._driver._links.values()):
                        link.abort()
            return "".join(pieces)

        assert await asyncio.gather(*map(cut_while_reading, streams)) == [question] * 5
        assert [(await stream.answer).attempt for stream in streams] == [1] * 5


async def test_parts_come_whole_however_often_the_connection_is_cut(start):
    gateway = await start()
    question = "답😀 one two three four five six seven eight nine ten " * 4
    async with Client(gateway.url, timing=QUICK) as app:
        assert app.model_info("parts").parts == ("citation", "reasoning", "result", "status", "tool")
        stream = app.stream(question, conversation="c", model="parts", parts=["reasoning", "tool", "citation"])
        seen: dict[int, str] = {}
        names: list[tuple[int, str, str | None]] = []
        text = ""
        async for event in stream.events():
            match event:
                case PartStarted(part, kind, name):
                    names.append((part, kind, name))
                case PartText():
                    seen[event.part] = seen.get(event.part, "") + event.delta
                    assert event.snapshot == seen[event.part]
                    for link in list(app._driver._links.values()):
                        link.abort()
                case Text():
                    text += event.delta
        answer = await stream.answer
        assert names == [(0, "reasoning", None), (1, "tool", "count"), (2, "citation", None)]
        assert [part.text for part in answer.parts] == [*seen.values(), text]
        assert answer.text == text == question
        (turn,) = [turn async for turn in app.history("c", parts=True)]
        assert parts_of(turn) == answer.parts
        (turn,) = [turn async for turn in app.history("c")]
        assert (turn.answer, turn.parts) == (question, ())
        with pytest.raises(TypeError, match="list of kinds"):
            app.stream("?", parts="tool")


async def test_connections_that_are_rolled_over_again_and_again(start):
    gateway = await start()
    question = " ".join(f"word{n}" for n in range(300))
    timing = Timing(rollover_min_s=0.05, rollover_max_s=0.1)
    seen = []
    async with Client(gateway.url, timing=timing, on_state=lambda state: seen.append(type(state).__name__)) as app:
        answer = await app.stream(question, model="slow").answer
    assert (answer.text, answer.attempt) == (question, 1)
    assert seen.count("Connected") > 2
    assert "Disconnected" not in seen


async def test_one_id_is_one_answer_and_another_payload_a_conflict(start):
    gateway = await start()
    async with Client(gateway.url, session="s") as app:
        first = await app.ask("once", request_id="mine")
        again = await app.ask("once", request_id="mine")
        assert (again.text, again.attempt) == (first.text, 1)
        with pytest.raises(RequestConflict):
            await app.ask("other words", request_id="mine")


async def test_cancelling_while_it_runs_and_while_it_waits(start):
    gateway = await start()
    async with Client(gateway.url) as app:
        running = app.stream("never ends", model="stuck", conversation="c")
        waiting = app.stream("waits behind it", conversation="c")
        positions = []
        async for event in waiting.events():
            positions.append(event.position)
            break
        assert positions == [1]
        for stream in (waiting, running):
            stream.cancel()
            with pytest.raises(RequestCancelled):
                await stream.answer


async def test_over_the_rate_limit(start):
    gateway = await start(rate_limit=2)
    async with Client(gateway.url) as app:
        outcomes = await asyncio.gather(*(app.ask(f"{n}") for n in range(6)), return_exceptions=True)
    limited = [outcome for outcome in outcomes if isinstance(outcome, RateLimited)]
    assert 2 <= len(limited) <= 4  # the minute may change in between
    assert all(0 < error.retry_after_ms <= 60_000 for error in limited)


async def test_a_second_app_takes_the_session_over(start):
    gateway = await start()
    async with Client(gateway.url, session="s") as first, Client(gateway.url, session="s") as second:
        assert (await second.ask("mine now")).text == "mine now"
        async for state in first.states():
            last = state
        assert isinstance(last, Stopped)
        assert isinstance(last.error, SessionReplaced)
        with pytest.raises(SessionReplaced):
            await first.ask("?")


async def test_the_blocking_client(start):
    gateway = await start()

    def use():
        with BlockingClient(gateway.url) as app:
            return app.ask("Hello?").text, "".join(app.stream("one two"))

    assert await asyncio.to_thread(use) == ("Hello?", "one two")
