"""The embedded model, loaded once for all tests that ask it."""

import os
from collections.abc import Awaitable, Callable
from importlib.util import find_spec

import httpx
import pytest
import pytest_asyncio

from answerback.core.context import Message, Role
from answerback.models.local import LocalModel, find_weights
from answerback.ports import Model, ModelError, Piece, Prompt


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
    """All pieces up to the end, and the error that ended them, if one did."""

    async def read_all(model: Model, prompt: Prompt) -> tuple[list[Piece], ModelError | None]:
        pieces: list[Piece] = []
        try:
            async for piece in model.stream(prompt):
                pieces.append(piece)
        except ModelError as error:
            return pieces, error
        return pieces, None

    return read_all


@pytest.fixture
def busy_slots() -> Callable[[LocalModel], Awaitable[int]]:
    """How many answers llama.cpp is working on, by its own count."""

    async def count(model: LocalModel) -> int:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {model.http_api_key}"}) as client:
            metrics = (await client.get(model.http_base_url.removesuffix("/v1") + "/metrics")).text
        line = next(line for line in metrics.splitlines() if line.startswith("llamacpp:requests_processing"))
        return int(line.split()[1])

    return count
