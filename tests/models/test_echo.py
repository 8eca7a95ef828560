"""The echo: exact, deterministic, and wrong only where its spec says so."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.core.context import Message, Role
from answerback.models import EchoFailure, EchoModel, EchoOptions, echo_deltas, echo_text
from answerback.ports import Finish, ModelError, Part, Piece, Prompt
from answerback.protocol.errors import ErrorCode


def ask(text: str, **more: object) -> Prompt:
    return Prompt(messages=(Message(Role.USER, text),), **more)  # type: ignore[arg-type]


async def collect(model: EchoModel, prompt: Prompt) -> list[Piece]:
    return [piece async for piece in model.stream(prompt)]


async def until_error(model: EchoModel, prompt: Prompt) -> tuple[list[Piece], ModelError]:
    pieces: list[Piece] = []
    try:
        async for piece in model.stream(prompt):
            pieces.append(piece)
    except ModelError as error:
        return pieces, error
    raise AssertionError(f"the answer did not fail: {pieces}")


async def test_parts_of_every_kind_come_before_the_answer() -> None:
    *said, finish = await collect(EchoModel(EchoOptions(parts=True)), ask('one "two"'))
    assert said == [
        *(Part("reasoning", "one "), Part("reasoning", '"two"')),
        *(Part("tool", '{"text": ', "count", new=True), Part("tool", '"one \\"two\\""}')),
        *(Part("result", "2", "count"), Part("citation", '{"title": "one \\"two\\""}'), Part("status", "counted")),
        *("one ", '"two"'),
    ]
    assert isinstance(finish, Finish)


@given(st.text())
def test_the_deltas_join_to_the_question(text: str) -> None:
    deltas = list(echo_deltas(text))
    assert "".join(deltas) == text
    assert all(deltas)
    assert len(deltas) == max(len(text.split()), 1 if text else 0)


@given(st.text(min_size=1), st.integers(1, 60))
def test_tokens_gives_that_many_deltas(text: str, tokens: int) -> None:
    deltas = list(echo_deltas(text, tokens=tokens))
    assert len(deltas) == tokens
    assert all(deltas)
    assert "".join(deltas) == echo_text(text, tokens=tokens)


@pytest.mark.parametrize(
    ("text", "tokens", "answer"),
    [
        ("a b c", 2, "a b "),
        ("a b c", 3, "a b c"),
        ("a b c", 4, "a b c a "),
        ("a b c", 6, "a b c a b c"),
        (" a\nb\n", 5, " a\nb\n a\nb\n a\n"),
        ("하나 둘", 4, "하나 둘 하나 둘"),
    ],
)
def test_the_text_of_tokens_is_documented(text: str, tokens: int, answer: str) -> None:
    assert echo_text(text, tokens=tokens) == answer


async def test_an_answer_is_the_words_then_the_usage() -> None:
    prompt = Prompt(
        messages=(Message(Role.USER, "a b"), Message(Role.ASSISTANT, "c"), Message(Role.USER, " one  two\nthree "))
    )
    assert await collect(EchoModel(), prompt) == [
        " one  ",
        "two\n",
        "three ",
        Finish(reason="stop", input_tokens=6, output_tokens=3),
    ]


async def test_max_tokens_ends_it_with_length() -> None:
    pieces = await collect(EchoModel(), ask("one two three", max_tokens=2))
    assert pieces == ["one ", "two ", Finish(reason="length", input_tokens=3, output_tokens=2)]
    pieces = await collect(EchoModel(), ask("one two", max_tokens=2))
    assert pieces[-1] == Finish(reason="stop", input_tokens=2, output_tokens=2)


async def test_tokens_outweighs_max_tokens() -> None:
    pieces = await collect(EchoModel(EchoOptions(tokens=5)), ask("x", max_tokens=2))
    assert pieces == ["x ", "x ", "x ", "x ", "x", Finish(reason="stop", input_tokens=1, output_tokens=5)]


async def test_context_answers_with_the_whole_prompt() -> None:
    prompt = Prompt(
        messages=(
            Message(Role.USER, "my name is Ada"),
            Message(Role.ASSISTANT, "hello"),
            Message(Role.USER, "who am I?"),
        ),
        system="be brief",
    )
    pieces = await collect(EchoModel(EchoOptions(context=True)), prompt)
    assert "".join(p for p in pieces if isinstance(p, str)) == (
        "system: be brief\nuser: my name is Ada\nassistant: hello\nuser: who am I?"
    )


async def test_delays_come_before_the_first_and_between_the_others() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    await collect(EchoModel(EchoOptions(first_ms=500, delay_ms=20), sleep=sleep), ask("a b c"))
    assert slept == [0.5, 0.02, 0.02]


async def test_a_long_answer_lets_others_run() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(other())
        await collect(EchoModel(EchoOptions(tokens=1000)), ask("word"))
        task.cancel()
    assert turns >= 10


@pytest.mark.parametrize(
    ("fail", "code", "transient"),
    [
        (EchoFailure.THROTTLED, ErrorCode.MODEL_THROTTLED, True),
        (EchoFailure.UNAVAILABLE, ErrorCode.MODEL_UNAVAILABLE, True),
        (EchoFailure.FIRST, ErrorCode.MODEL_FAILED, False),
    ],
)
async def test_early_failures_come_before_any_text(fail: EchoFailure, code: ErrorCode, transient: bool) -> None:
    pieces, error = await until_error(EchoModel(EchoOptions(fail=fail, retry_after_ms=700)), ask("a b"))
    assert pieces == []
    assert (error.code, error.transient) == (code, transient)
    assert error.retry_after_ms == (700 if fail is EchoFailure.THROTTLED else None)


@pytest.mark.parametrize(("text", "said"), [("a b c d", ["a ", "b "]), ("a b c", ["a "]), ("a", ["a"])])
async def test_midstream_breaks_off_after_half(text: str, said: list[str]) -> None:
    pieces, error = await until_error(EchoModel(EchoOptions(fail=EchoFailure.MIDSTREAM)), ask(text))
    assert pieces == said
    assert error.code is ErrorCode.MODEL_FAILED


@pytest.mark.parametrize(("fail", "said"), [(EchoFailure.HANG, []), (EchoFailure.STALL, ["a "])])
async def test_hang_and_stall_never_end_but_can_be_closed(fail: EchoFailure, said: list[str]) -> None:
    pieces: list[Piece] = []
    waiting = asyncio.Event()

    async def read() -> None:
        async with aclosing(EchoModel(EchoOptions(fail=fail)).stream(ask("a b"))) as stream:
            for _ in said:
                pieces.append(await anext(stream))
            asyncio.get_running_loop().call_soon(waiting.set)
            await anext(stream)

    task = asyncio.create_task(read())
    await waiting.wait()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pieces == said


async def test_fail_every_counts_the_answers() -> None:
    model = EchoModel(EchoOptions(fail=EchoFailure.FIRST, fail_every=3))
    failed = []
    for number in range(1, 10):
        try:
            await collect(model, ask("a"))
        except ModelError:
            failed.append(number)
    assert failed == [3, 6, 9]


async def test_fail_rate_chooses_by_request_and_attempt() -> None:
    async def failing(model: EchoModel, attempt: int) -> set[int]:
        failed = set()
        for number in range(400):
            try:
                await collect(model, ask("a", user_id="u", request_id=f"r{number}", attempt=attempt))
            except ModelError:
                failed.add(number)
        return failed

    options = EchoOptions(fail=EchoFailure.FIRST, fail_rate=0.25)
    first = await failing(EchoModel(options), 1)
    assert 50 < len(first) < 150
    assert await failing(EchoModel(options), 1) == first
    assert await failing(EchoModel(options), 2) != first
