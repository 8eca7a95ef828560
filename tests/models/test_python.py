"""Models of the operator's own: what may be returned, what happens to its faults."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from answerback import model_guard
from answerback.models import ModelSpecError, build_model
from answerback.models.python import PythonModel
from answerback.ports import Finish, ModelError, ModelLimits, Part, Piece, Prompt, limits_of
from answerback.protocol.errors import ErrorCode

MODULE = """
from answerback.models import EchoModel, EchoOptions

async def answer(prompt):
    yield "async "
    yield prompt.messages[-1].text

def blocking(prompt):
    yield "blocking "
    yield prompt.messages[-1].text

class Echoes:
    @staticmethod
    def make():
        return EchoModel(EchoOptions(concurrency=3, context_tokens=77))

async def make_later():
    return answer

def make_async(): return answer
def make_blocking(): return blocking
def make_number(): return 5
def make_error(): raise KeyError("HANDBOOK_URL")

number = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, as an operator has it."""
    name = f"pipeline_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import a_package_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return name


@pytest.mark.parametrize(
    ("factory", "pieces"),
    [
        ("make_async", ["async ", "one two", Finish()]),
        ("make_blocking", ["blocking ", "one two", Finish()]),
        ("Echoes.make", ["one ", "two", Finish(input_tokens=2, output_tokens=2)]),
    ],
)
async def test_what_a_factory_may_return(
    module: str, read: Callable, ask: Callable, factory: str, pieces: list
) -> None:
    model = build_model(f"python:{module}:{factory}")
    assert model.name == module
    assert await read(model, ask("one two")) == (pieces, None)
    await model.close()


async def test_a_models_own_limits_hold_and_the_specs_name(module: str) -> None:
    model = build_model(f"mine=python:{module}:Echoes.make")
    assert (model.name, model.concurrency, model.context_tokens) == ("mine", 3, 77)
    await model.close()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("python:no_such_module_anywhere:make", "cannot import no_such_module_anywhere (ModuleNotFoundError"),
        ("python:{}_broken:make", "No module named 'a_package_that_is_not_there'"),
        ("python:{}:absent", "has no absent"),
        ("python:{}:number", "is not a function"),
        ("python:{}:answer", "itself yields"),
        ("python:{}:make_later", "Make it a plain `def`"),
        ("python:{}:make_number", "returned int"),
        ("python:{}:make_error", "KeyError: 'HANDBOOK_URL'"),
    ],
)
def test_what_cannot_be_used_is_explained(module: str, spec: str, says: str) -> None:
    with pytest.raises(ModelSpecError) as caught:
        build_model(spec.format(module))
    assert says in str(caught.value)


async def _raises(prompt: Prompt) -> AsyncIterator[str]:
    yield "a"
    raise ValueError("a secret of the operator")


def _raises_in_thread(prompt: Prompt) -> Iterator[str]:
    yield "a"
    raise ValueError("a secret of the operator")


async def _yields_a_number(prompt: Prompt) -> AsyncIterator[object]:
    yield "a"
    yield 5


@pytest.mark.parametrize("answer", [_raises, _raises_in_thread, _yields_a_number])
async def test_an_exception_is_logged_and_not_sent(
    answer: Callable, read: Callable, ask: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "answerback"):
        pieces, error = await read(PythonModel(answer, name="mine"), ask("?"))
    assert pieces == ["a"]
    assert error.code is ErrorCode.MODEL_FAILED
    assert "secret" not in str(error)
    assert caplog.records[0].exc_info is not None
    assert "mine" in caplog.text


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, MemoryError, StopIteration]
)
async def test_no_exception_of_foreign_code_is_taken_for_ours(
    kind: type[BaseException], in_thread: bool, read: Callable, ask: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    def blocking(prompt: Prompt) -> Iterator[str]:
        yield "a"
        raise kind

    async def on_the_loop(prompt: Prompt) -> AsyncIterator[str]:
        yield "a"
        raise kind

    model = PythonModel(blocking if in_thread else on_the_loop, name="mine")
    pieces, error = await read(model, ask("?"))
    assert (pieces, error.code) == (["a"], ErrorCode.MODEL_FAILED)
    assert "Traceback" in caplog.text


async def test_a_task_that_somebody_else_cancelled_does_not_cancel_the_answer(read: Callable, ask: Callable) -> None:
    async def answer(prompt: Prompt) -> AsyncIterator[str]:
        task = asyncio.ensure_future(asyncio.sleep(10))
        await asyncio.sleep(0)
        task.cancel()
        await task
        yield "never"

    pieces, error = await read(PythonModel(answer, name="mine"), ask("?"))
    assert (pieces, error.code) == ([], ErrorCode.MODEL_FAILED)


async def test_a_cancellation_of_ours_stays_one(ask: Callable) -> None:
    async def answer(prompt: Prompt) -> AsyncIterator[str]:
        yield "a"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "swallowed"

    async def run() -> None:
        await model_guard.ask(PythonModel(answer, name="mine"), ask("?"), lambda _: begun.set())

    begun = asyncio.Event()
    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_model_that_does_not_return_after_its_finish_can_be_stopped(ask: Callable) -> None:
    stopped = False

    async def answer(prompt: Prompt) -> AsyncIterator[str | Finish]:
        nonlocal stopped
        yield Finish()
        try:
            await asyncio.Event().wait()
        finally:
            stopped = True

    pieces: list[Piece] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await model_guard.ask(PythonModel(answer, name="mine"), ask("?"), pieces.append)
    assert pieces == [Finish()]
    assert stopped


def test_limits_come_from_the_spec_or_the_model(module: str) -> None:
    model = build_model(f"python:{module}:make_async?answer_timeout=600&max_tokens=16384")
    assert limits_of(model) == ModelLimits(answer_timeout_s=600, max_tokens=16384)
    assert limits_of(build_model(f"python:{module}:make_async")) == ModelLimits()
    told = limits_of(build_model(f"python:{module}:make_async?parts=tool,reasoning,tool"))
    assert told.parts == ("reasoning", "tool")
    with pytest.raises(ModelSpecError, match="parts, attachments, format only"):
        build_model(f"python:{module}:make_async?temperature=1")


@pytest.mark.parametrize("answer", [lambda prompt: "text", lambda prompt: asyncio.sleep(0, "text")])
async def test_text_that_is_returned_and_not_yielded_is_refused(
    answer: Callable, read: Callable, ask: Callable
) -> None:
    pieces, error = await read(PythonModel(answer, name="mine"), ask("?"))
    assert (pieces, error.code) == ([], ErrorCode.MODEL_FAILED)
    assert "must yield" in str(error.__cause__)


async def test_a_model_error_passes_as_it_is(read: Callable, ask: Callable) -> None:
    mine = ModelError(ErrorCode.MODEL_THROTTLED, "later", retry_after_ms=5)

    async def answer(prompt: Prompt) -> AsyncIterator[str]:
        if prompt:
            raise mine
        yield ""

    assert await read(PythonModel(answer, name="mine"), ask("?")) == ([], mine)


async def test_the_name_of_a_part_is_one_line_of_letters(read: Callable, ask: Callable) -> None:
    async def answer(prompt: Prompt) -> AsyncIterator[Piece]:
        yield Part("tool", "{}", "a\x00\n\u202eb\ud800\u2028 c" + "n" * 10_000, new=True)
        for name in ("", "\n", None, 7):
            yield Part("tool", "{}", name, new=True)  # type: ignore[arg-type]

    pieces, error = await read(PythonModel(answer, name="m"), ask("?"))
    assert error is None
    assert [piece.name for piece in pieces[:-1]] == ["ab c" + "n" * 60, None, None, None, None]


async def test_the_first_finish_ends_it_and_empty_pieces_are_left_out(read: Callable, ask: Callable) -> None:
    closed = False

    async def answer(prompt: Prompt) -> AsyncIterator[str | Finish]:
        nonlocal closed
        try:
            yield ""
            yield "a"
            yield Finish(reason="length", output_tokens=1)
            yield "too late"
        finally:
            closed = True

    got = await read(PythonModel(answer, name="mine"), ask("?"))
    assert got == (["a", Finish(reason="length", output_tokens=1)], None)
    assert closed


async def test_closing_stops_the_async_code(ask: Callable) -> None:
    stopped = False

    async def answer(prompt: Prompt) -> AsyncIterator[str]:
        nonlocal stopped
        try:
            while True:
                yield "on and on "
        finally:
            stopped = True

    async with aclosing(PythonModel(answer, name="mine").stream(ask("?"))) as stream:
        await anext(stream)
    assert stopped


async def test_closing_stops_the_blocking_code(ask: Callable) -> None:
    stopped = threading.Event()

    def answer(prompt: Prompt) -> Iterator[str]:
        try:
            while True:
                yield "on and on "
        finally:
            stopped.set()

    model = PythonModel(answer, name="mine")
    async with aclosing(model.stream(ask("?"))) as stream:
        await anext(stream)
    assert stopped.is_set()
    await model.close()
