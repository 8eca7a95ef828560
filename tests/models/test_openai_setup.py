"""What is wrong with an `openai:` spec, its key or its server, said before the first question."""

import json
import sys
from collections.abc import Callable

import pytest
from aiohttp import web

from answerback.models import ModelSpecError, build_model
from answerback.ports import Finish
from openai_server import DONE, answers, chunk, serving, streams

pytestmark = pytest.mark.usefixtures("own_network")


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, {"data": [{"id": "m"}]}, None),
        (200, {"data": [{"id": "other"}]}, "other"),
        (200, {"data": "?"}, None),
        (200, "", None),
        (404, "", None),
        (401, "", "OPENAI_API_KEY, which is not set"),
        (403, "", "OPENAI_API_KEY, which is not set"),
    ],
)
async def test_the_list_of_models_tells_what_is_wrong(status: int, body: object, says: str | None) -> None:
    async with serving(answers(status, body if isinstance(body, str) else json.dumps(body))) as base_url:
        model = build_model(f"openai:{base_url}#m")
        problem = await model.check()
        await model.close()
    assert problem is None if says is None else says in problem


async def test_a_server_that_is_not_there_is_told_before_the_first_question() -> None:
    async with serving(answers(200)) as base_url:
        pass
    model = build_model(f"openai:{base_url}#m")
    assert "does not answer" in await model.check()
    await model.close()


def test_a_key_from_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    model = build_model(f"openai:http://127.0.0.1/v1?api_key_file={file}#m")
    assert model.model._http._headers["Authorization"] == "Bearer sk-1"
    with pytest.raises(ModelSpecError, match="cannot be read"):
        build_model(f"openai:http://127.0.0.1/v1?api_key_file={tmp_path / 'absent'}#m")


async def test_a_model_from_a_spec_tries_again(read: Callable, ask: Callable) -> None:
    tries = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        good = streams(chunk("a", "stop"), DONE)
        return await (answers(503) if tries == 1 else good)(request)

    async with serving(handler) as base_url:
        model = build_model(f"fast=openai:{base_url}#m")
        assert await read(model, ask("?")) == (["a", Finish()], None)
        await model.close()
    assert tries == 2
    assert model.name == "fast"


@pytest.mark.parametrize("url", ["http://256.1.1.1/v1", "http://xn--/v1"])
def test_a_url_that_cannot_be_used_is_explained(url: str) -> None:
    with pytest.raises(ModelSpecError, match="cannot be used"):
        build_model(f"openai:{url}#m")


def test_a_proxy_that_cannot_be_used_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(ModelSpecError, match="ALL_PROXY"):
        build_model("openai:http://models.example/v1#m")


def test_a_key_that_is_no_key_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-12\n34")
    with pytest.raises(ModelSpecError) as caught:
        build_model("openai:http://127.0.0.1/v1#m")
    assert "OPENAI_API_KEY" in str(caught.value)
    assert "34" not in str(caught.value)


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "answerback.models.openai")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ModelSpecError, match=r"pip install '\.\[openai\]'"):
        build_model("openai:http://127.0.0.1/v1#m")
