"""Contract of ports.Model. A further implementation joins with its maker in MODELS.

A maker gives a model that says something, and a way to make one that fails; the embedded model and a real
OpenAI-compatible server are among them.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress

import pytest
import pytest_asyncio
from aiohttp import web
from botocore import UNSIGNED
from botocore.config import Config
from botocore.session import get_session

import bedrock_frames
from answerback.core.context import Message, Role
from answerback.model_guard import ask
from answerback.models.bedrock import BedrockModel
from answerback.models.echo import EchoFailure, EchoModel, EchoOptions
from answerback.models.local import LocalModel, find_weights
from answerback.models.openai import OpenAIModel
from answerback.models.python import PythonModel
from answerback.models.retrying import RetryingModel
from answerback.models.spec import BedrockSpec, OpenAISpec, parse_model_spec
from answerback.ports import FinalModelError, Finish, Model, ModelError, ModelFault, Piece, Prompt
from answerback.protocol.errors import ErrorCode
from answerback.testing import ScriptedModel
from answerback.testing.backend import say_question
from embedded import api_key, base_url
from model_upstreams import REMOTE, SERVERS, UPSTREAMS, Script, Then, Upstream

pytestmark = pytest.mark.timeout(120)

WORDS = "one two three four five six seven eight nine ten"
Maker = Callable[[LocalModel | None, bool], AbstractAsyncContextManager[Model]]
"""The embedded model for those that need it, and whether the model has to fail."""


@asynccontextmanager
async def echo(_: LocalModel | None, fails: bool) -> AsyncIterator[Model]:
    yield EchoModel(EchoOptions(delay_ms=1, fail=EchoFailure.MIDSTREAM if fails else None))


@asynccontextmanager
async def scripted(_: LocalModel | None, fails: bool) -> AsyncIterator[Model]:
    broken = ("one ", ModelError(ErrorCode.MODEL_FAILED, "planted"))
    yield ScriptedModel((lambda prompt: broken) if fails else say_question)


@asynccontextmanager
async def python_async(_: LocalModel | None, fails: bool) -> AsyncIterator[Model]:
    async def answer(prompt: Prompt) -> AsyncGenerator[Piece, None]:
        for word in prompt.messages[-1].text.split():
            await asyncio.sleep(0.001)
            yield word + " "
            if fails:
                raise ValueError("planted")

    yield PythonModel(answer, name="mine")


@asynccontextmanager
async def python_blocking(_: LocalModel | None, fails: bool) -> AsyncIterator[Model]:
    def answer(prompt: Prompt):
        for word in prompt.messages[-1].text.split():
            yield word + " "
            if fails:
                raise ValueError("planted")

    yield PythonModel(answer, name="mine")


@asynccontextmanager
async def openai_scripted(_: LocalModel | None, fails: bool) -> AsyncIterator[Model]:
    async def handle(request: web.Request) -> web.StreamResponse:
        question = (await request.json())["messages"][-1]["content"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in question.split():
            chunk = {"choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            if fails:
                assert request.transport is not None
                request.transport.abort()
                return response
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        return response

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield RetryingModel(OpenAIModel(base_url=f"http://{host}:{port}/v1", model="m"))
    await runner.cleanup()


@asynccontextmanager
async def bedrock_scripted(_: LocalModel | None, fails: bool) -> AsyncIterator[Model]:
    async def handle(request: web.Request) -> web.StreamResponse:
        words = (await request.json())["messages"][-1]["content"][0]["text"].split()
        texts = [bedrock_frames.delta(word + " ") for word in words]
        end = (bedrock_frames.stop(), bedrock_frames.usage(3, len(words)))
        return await bedrock_frames.streams(*((texts[0],) if fails else (*texts, *end)), cut=fails)(request)

    async with bedrock_frames.serving(handle) as endpoint:
        config = Config(signature_version=UNSIGNED, region_name="us-east-1")
        client = get_session().create_client("bedrock-runtime", endpoint_url=endpoint, config=config)
        yield RetryingModel(BedrockModel(client=client, model="m"))


@asynccontextmanager
async def local(embedded: LocalModel | None, fails: bool) -> AsyncIterator[Model]:
    assert embedded is not None
    assert not fails, "nothing from outside makes it fail"
    yield embedded


@asynccontextmanager
async def openai_real(embedded: LocalModel | None, fails: bool) -> AsyncIterator[Model]:
    assert embedded is not None
    key = "wrong" if fails else api_key(embedded)
    yield OpenAIModel(base_url=base_url(embedded), model="local", api_key=key)


MODELS: dict[str, Maker] = {
    "echo": echo,
    "scripted": scripted,
    "python, async": python_async,
    "python, blocking": python_blocking,
    "openai": openai_scripted,
    "bedrock": bedrock_scripted,
}
EMBEDDED: dict[str, Maker] = {"local": local, "openai, real server": openai_real}
ALL = [*MODELS, *(pytest.param(name, marks=pytest.mark.local_llm) for name in EMBEDDED)]
ABLE_TO_FAIL = [*MODELS, pytest.param("openai, real server", marks=pytest.mark.local_llm)]
MEASURED = ["echo", *ALL[len(MODELS) :]]
"""Those that count tokens, and stop at `max_tokens`."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedded() -> AsyncIterator[LocalModel]:
    try:
        find_weights()
    except ModelError:
        if not os.environ.get("CI"):
            pytest.skip("the embedded model is not installed (make test installs it)")
        raise
    model = LocalModel()
    await model.open()
    yield model
    await model.close()


@pytest.fixture
def source(request: pytest.FixtureRequest) -> Callable[[bool], AbstractAsyncContextManager[Model]]:
    """Makes the model of this test; not async, because only so it can ask for the embedded one."""
    make = {**MODELS, **EMBEDDED}[request.param]
    embedded = request.getfixturevalue("embedded") if request.param in EMBEDDED else None
    return lambda fails: make(embedded, fails)


@pytest.fixture
async def model(source: Callable[[bool], AbstractAsyncContextManager[Model]]) -> AsyncIterator[Model]:
    async with source(False) as made:
        yield made
        if not isinstance(made, LocalModel):
            await made.close()
            await made.close()


@pytest.fixture
async def failing(source: Callable[[bool], AbstractAsyncContextManager[Model]]) -> AsyncIterator[Model]:
    async with source(True) as made:
        yield made
        await made.close()


def prompt(text: str = WORDS, *, max_tokens: int = 24) -> Prompt:
    return Prompt(messages=(Message(Role.USER, text),), max_tokens=max_tokens, user_id="ann", request_id="q", attempt=1)


async def read(model: Model, asked: Prompt) -> list[Piece]:
    pieces: list[Piece] = []
    await ask(model, asked, pieces.append)
    return pieces


every_model = pytest.mark.parametrize("source", ALL, indirect=True)


@every_model
async def test_it_says_what_it_is(model: Model) -> None:
    assert model.name
    assert model.context_tokens >= 1
    assert model.concurrency >= 1


@every_model
async def test_text_and_then_one_finish(model: Model) -> None:
    pieces = await read(model, prompt())
    finish = pieces.pop()
    assert isinstance(finish, Finish)
    assert finish.reason
    assert finish.input_tokens is None or finish.input_tokens >= 1
    assert finish.output_tokens is None or finish.output_tokens >= 1
    assert pieces
    assert all(isinstance(piece, str) and piece for piece in pieces)


@pytest.mark.parametrize("source", MODELS, indirect=True)
async def test_the_text_is_whole(model: Model) -> None:
    pieces = await read(model, prompt())
    assert "".join(str(piece) for piece in pieces[:-1]).split() == WORDS.split()


@every_model
async def test_answers_at_the_same_time_do_not_mix(model: Model) -> None:
    alone = [await read(model, prompt(text, max_tokens=8)) for text in ("alpha beta", "gamma delta")]
    both = await asyncio.gather(*(read(model, prompt(text, max_tokens=8)) for text in ("alpha beta", "gamma delta")))
    assert all(isinstance(pieces[-1], Finish) and len(pieces) > 1 for pieces in (*alone, *both))
    if not isinstance(model, LocalModel) and not model.name.startswith("local"):
        texts = ["".join(str(piece) for piece in pieces[:-1]).strip() for pieces in both]
        assert texts == ["alpha beta", "gamma delta"]


@every_model
async def test_closing_stops_and_the_next_answer_comes(model: Model) -> None:
    for _ in range(3):
        stream = model.stream(prompt(WORDS * 20, max_tokens=200))
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    pieces = await read(model, prompt(max_tokens=8))
    assert isinstance(pieces[-1], Finish)


@every_model
async def test_a_stream_that_is_closed_before_it_began(model: Model) -> None:
    await model.stream(prompt()).aclose()
    assert isinstance((await read(model, prompt(max_tokens=8)))[-1], Finish)


@every_model
async def test_a_task_that_is_cancelled_lets_go(model: Model) -> None:
    begun = asyncio.Event()

    async def run() -> None:
        async with aclosing(model.stream(prompt(WORDS * 20, max_tokens=200))) as stream:
            async for _ in stream:
                begun.set()

    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled() or task.exception() is None
    assert isinstance((await read(model, prompt(max_tokens=8)))[-1], Finish)


@pytest.mark.parametrize("source", MEASURED, indirect=True)
async def test_it_stops_at_max_tokens_and_says_so(model: Model) -> None:
    pieces = await read(model, prompt("Tell me a long story about the sea and all who live in it.", max_tokens=3))
    finish = pieces[-1]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.output_tokens) == ("length", 3)


@pytest.mark.parametrize("source", ABLE_TO_FAIL, indirect=True)
async def test_what_goes_wrong_is_a_model_error_of_the_closed_list(failing: Model) -> None:
    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            await read(failing, prompt())
        assert caught.value.code in {
            ErrorCode.MODEL_FAILED,
            ErrorCode.MODEL_UNAVAILABLE,
            ErrorCode.MODEL_THROTTLED,
        }


# --- the other side misbehaves: every adapter knows what its twins know -----------------------------------------------

every_upstream = pytest.mark.parametrize("upstream", UPSTREAMS.values(), ids=list(UPSTREAMS))
every_server = pytest.mark.parametrize("upstream", SERVERS.values(), ids=list(SERVERS))


async def answer_of(model: Model, asked: Prompt) -> tuple[list[Piece], ModelError | None]:
    """What a worker gets: the pieces up to the Finish, and the error that ended them, if one did."""
    pieces: list[Piece] = []

    def take(piece: Piece) -> None:
        pieces.append(piece)
        if isinstance(piece, Finish):
            limit.reschedule(asyncio.get_running_loop().time() + 0.1)  # a worker stops it then

    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                await ask(model, asked, take)
    except ModelError as error:
        return pieces, error
    return pieces, None


@every_upstream
@pytest.mark.parametrize("then", ["ends", "breaks", "is silent", "says more"])
async def test_nothing_after_the_end_overturns_it(
    upstream: Upstream, then: Then, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("answerback.models.reader.USAGE_TIMEOUT_S", 0.1)
    async with upstream(Script(then=then)) as model:
        assert await answer_of(model, prompt()) == (["one ", "two", Finish()], None)


@every_upstream
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("eos_token", "stop"),
        ("MAX_TOKENS", "length"),
        ("OTHER", "other"),
    ],
)
async def test_every_ending_is_a_word_of_the_table(upstream: Upstream, theirs: str, ours: str) -> None:
    async with upstream(Script(reason=theirs)) as model:
        assert await answer_of(model, prompt()) == (["one ", "two", Finish(reason=ours)], None)


@every_upstream
@pytest.mark.parametrize(
    "word",
    [
        *("error", "abort", "ABORTED", "cancelled", "timeout", "network_error", "rate_limited", "shutdown"),
        *("a_word_of_next_year", "x" * 33_000),
    ],
)
async def test_an_ending_that_is_a_failure_is_no_answer(upstream: Upstream, word: str) -> None:
    async with upstream(Script(reason=word)) as model:
        pieces, error = await answer_of(model, prompt())
    assert pieces == ["one ", "two"]
    assert error is not None
    assert (error.code, error.transient) == (ErrorCode.MODEL_FAILED, True)


@every_upstream
async def test_a_failure_before_any_text_is_tried_again(upstream: Upstream) -> None:
    async def no_pause(_: float) -> None:
        pass

    script = Script(texts=(), reason="abort")
    async with upstream(script) as model:
        pieces, error = await answer_of(RetryingModel(model, sleep=no_pause), prompt())
    assert (pieces, error is None) == ([], False)
    assert len(script.asked) == 3


@every_upstream
async def test_an_answer_may_have_no_text(upstream: Upstream) -> None:
    async with upstream(Script(texts=(), reason="length")) as model:
        assert await answer_of(model, prompt()) == ([Finish(reason="length")], None)


@every_upstream
async def test_half_an_answer_is_none(upstream: Upstream) -> None:
    async with upstream(Script(texts=("half",), reason=None, then="breaks")) as model:
        pieces, error = await answer_of(model, prompt())
    assert pieces == ["half"]
    assert error is not None
    assert error.code is ErrorCode.MODEL_FAILED


@every_server
async def test_an_end_that_never_comes_is_no_end(upstream: Upstream) -> None:
    async with upstream(Script(reason=None)) as model:
        pieces, error = await answer_of(model, prompt())
    assert pieces == ["one ", "two"]
    assert error is not None
    assert error.code is ErrorCode.MODEL_FAILED


@every_server
async def test_no_blank_text_is_sent(upstream: Upstream) -> None:
    script = Script()
    said = ("u1", "a1", "u2", " \n", "\0", "a3", "q")
    messages = tuple(Message((Role.USER, Role.ASSISTANT)[n % 2], text) for n, text in enumerate(said))
    async with upstream(script) as model:
        assert (await answer_of(model, Prompt(messages=messages, system="  ")))[1] is None
    request = json.loads(script.asked[0])
    sent = [(one["role"], str(one["content"])) for one in request["messages"] if one["role"] != "system"]
    assert [role for role, _ in sent] == ["user", "assistant"] * (len(sent) // 2) + ["user"]
    assert all(text.strip() for _, text in sent)
    assert "system" not in request
    assert "  " not in [one["content"] for one in request["messages"]]


@every_server
@pytest.mark.parametrize("blank", ["", "  ", "\0", "\ud800\n", "\ufeff\u200b\u3000"])
async def test_a_blank_question_is_told_to_be_blank(upstream: Upstream, blank: str) -> None:
    script = Script()
    async with upstream(script) as model:
        pieces, error = await answer_of(model, prompt(blank))
    assert pieces == []
    assert isinstance(error, FinalModelError)
    assert error.fault is ModelFault.BLANK
    assert not script.asked


NUMBER = re.compile(r'"max(?:Tokens|_tokens|_completion_tokens)": ?(\d+)')


def over_the_limit(request: str) -> str | None:
    found = NUMBER.search(request)
    return None if found is None or int(found[1]) <= 10 else f"max_tokens: {found[1]} > 10, the maximum for this model"


@pytest.mark.parametrize("upstream", REMOTE.values(), ids=list(REMOTE))
@pytest.mark.parametrize(
    "refuses",
    [
        over_the_limit,
        lambda request: "extraneous key max_tokens" if NUMBER.search(request) else None,
        lambda request: "system messages are not supported" if '"system"' in request else None,
        lambda request: "streaming is not supported" if "stream" in request else None,
        lambda request: over_the_limit(request) or ("no role system here" if '"system"' in request else None),
    ],
    ids=["too many tokens", "no tokens", "no system", "no stream", "two at once"],
)
async def test_what_is_refused_by_its_name_is_left_out_and_that_is_remembered(
    upstream: Upstream, refuses: Callable[[str], str | None]
) -> None:
    script = Script(refuses=refuses)
    asked = Prompt(messages=(Message(Role.USER, "Hi"),), system="Be brief.", max_tokens=24)
    async with upstream(script) as model:
        for _ in range(2):
            pieces, error = await answer_of(model, asked)
            assert error is None
            assert "".join(piece for piece in pieces if isinstance(piece, str)) == "one two"
            assert "Be brief." in script.asked[-1], "no text is lost"
    assert [refuses(request) is None for request in script.asked][-3:] == [False, True, True], "once"


@pytest.mark.parametrize("upstream", REMOTE.values(), ids=list(REMOTE))
async def test_who_refuses_everything_is_not_asked_for_ever(upstream: Upstream) -> None:
    script = Script(refuses=lambda _: "max_tokens, stream, system messages, temperature: nothing is supported")
    async with upstream(script) as model:
        pieces, error = await answer_of(model, prompt())
    assert pieces == []
    assert isinstance(error, FinalModelError)
    assert len(script.asked) <= 9


@pytest.mark.parametrize("spec", ["openai:http://127.0.0.1:9/v1#m", "bedrock:m?region=us-east-1"])
def test_a_model_may_be_silent_for_five_minutes_and_the_spec_may_say_otherwise(spec: str) -> None:
    asked = parse_model_spec(spec.replace("#", "?silence_s=7#") if "#" in spec else f"{spec}&silence_s=7")
    assert isinstance(asked, OpenAISpec | BedrockSpec)
    assert asked.silence_s == 7
    usual = parse_model_spec(spec)
    assert isinstance(usual, OpenAISpec | BedrockSpec)
    assert usual.silence_s == 300
