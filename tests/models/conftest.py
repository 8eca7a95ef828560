"""The embedded model, loaded once for all tests that ask it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec

import aiohttp
import pytest
import pytest_asyncio

from answerback import model_guard
from answerback.core.context import Message, Role
from answerback.models.local import LocalModel, find_weights
from answerback.ports import Model, ModelError, Piece, Prompt
from embedded import api_key, base_url


def _has_embedded_model() -> bool:
    try:
        find_weights()
    except ModelError:
        return False
    return find_spec("xllamacpp") is not None


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def local_model() -> LocalModel:
    if not _has_embedded_model() and "CI" not in os.environ:
        pytest.skip("the embedded model is not installed: see docs of answerback[local-llm]")
    model = LocalModel()
    await model.open()
    yield model
    await model.close()


@pytest.fixture
def ask() -> Callable[..., Prompt]:
    """A prompt of one question."""

    def make(text: str, **more: object) -> Prompt:
        return Prompt(messages=(Message(Role.USER, text),), **more)

    return make


@pytest.fixture
def read() -> Callable[[Model, Prompt], object]:
    """All pieces that a worker gets, and the error that ended them, if one did."""

    async def read_all(model: Model, prompt: Prompt) -> tuple[list[Piece], ModelError | None]:
        pieces: list[Piece] = []
        try:
            await model_guard.ask(model, prompt, pieces.append)
        except ModelError as error:
            return pieces, error
        return pieces, None

    return read_all


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Puts the clock of the running event loop forward: what was to happen until then is due at the next turn."""

    def put_forward(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + seconds)

    return put_forward


async def _metric(model: LocalModel, name: str) -> int:
    """A count that llama.cpp keeps."""
    key = {"Authorization": f"Bearer {api_key(model)}"}
    url = base_url(model).removesuffix("/v1") + "/metrics"
    async with aiohttp.request("GET", url, headers=key) as response:
        lines = (await response.text()).splitlines()
    return int(next(line for line in lines if line.startswith(f"llamacpp:{name} ")).split()[1])


@pytest.fixture
def busy_slots() -> Callable[[LocalModel], Awaitable[int]]:
    """How many answers llama.cpp is working on."""
    return lambda model: _metric(model, "requests_processing")


@pytest.fixture
def generated_tokens() -> Callable[[LocalModel], Awaitable[int]]:
    """How many tokens it has generated for all answers that it works on no more."""
    return lambda model: _metric(model, "tokens_predicted_total")
