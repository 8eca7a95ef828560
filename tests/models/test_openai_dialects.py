"""Members of a request that servers refuse, and what is learnt from that."""

import json
from collections.abc import Callable

import pytest
from aiohttp import web

from answerback.core.context import Message, Role
from answerback.models import build_model
from answerback.models.openai import Dialect
from answerback.ports import FinalModelError, Finish, ModelFault, Prompt
from openai_server import DONE, END, Handler, answers, chunk, model_of, serving, streams

pytestmark = pytest.mark.usefixtures("own_network")


_UNSUPPORTED = {"error": {"message": "Unsupported parameter: '{}' is not supported.", "param": "{}", "code": "x"}}
_EXTRA = {"detail": [{"type": "extra_forbidden", "loc": ["body", "{}"], "msg": "Extra inputs are not permitted"}]}


def dialect(refuses: Callable[[dict], str | None], seen: list[dict], status: int = 400) -> Handler:
    """A server that refuses a body with what `refuses` says of it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append(body)
        if (refusal := refuses(body)) is not None:
            return await answers(422 if "detail" in refusal else status, refusal)(request)
        return await streams(chunk("a"), END, DONE)(request)

    return handler


@pytest.mark.parametrize("shape", [_UNSUPPORTED, _EXTRA, "unknown field: {}"])
@pytest.mark.parametrize("known", ["max_tokens", "max_completion_tokens", None])
@pytest.mark.parametrize("knows_options", [True, False])
async def test_members_that_a_server_refuses_are_left_out_and_that_is_remembered(
    read: Callable, ask: Callable, shape: object, known: str | None, knows_options: bool
) -> None:
    text = shape if isinstance(shape, str) else json.dumps(shape)

    def refuses(body: dict) -> str | None:
        unknown = {"max_tokens", "max_completion_tokens"} - {known} | (set() if knows_options else {"stream_options"})
        return next((text.replace("{}", name) for name in body if name in unknown), None)

    seen: list[dict] = []
    async with model_of(dialect(refuses, seen)) as model:
        assert await read(model, ask("?", max_tokens=7)) == (["a", Finish()], None)
        tries = len(seen)
        assert await read(model, ask("?", max_tokens=7)) == (["a", Finish()], None)
    assert len(seen) == tries + 1
    assert ("stream_options" in seen[-1]) is knows_options
    assert {name: seen[-1][name] for name in seen[-1] if "max" in name} == ({known: 7} if known else {})


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("max_tokens is too large: 9000. This model supports at most 4096 completion tokens.", 4096),
        ("max_tokens: 9000 > 8192, which is the maximum allowed number of output tokens", 8192),
        ("Range of max_tokens should be [1, 2048]", 2048),
        ("`max_tokens` must be <= `4096`; the maximum is less than the `context_window` of this model", 4096),
    ],
)
async def test_a_limit_of_tokens_that_is_too_high_is_lowered(
    read: Callable, ask: Callable, message: str, sent: int
) -> None:
    seen: list[dict] = []
    refusal = json.dumps({"error": {"message": message, "type": "invalid_request_error"}})
    async with model_of(dialect(lambda body: refusal if body["max_tokens"] > sent else None, seen)) as model:
        assert (await read(model, ask("?", max_tokens=9000)))[1] is None
    assert [body["max_tokens"] for body in seen] == [9000, sent]


@pytest.mark.parametrize(
    "message",
    [
        "'max_tokens' is too large: 900. This model's maximum context length is 1000 tokens and your request has 200 "
        "input tokens (900 > 1000 - 200).",
        "This model's maximum context length is 1000 tokens. However, you requested 1100 tokens (200 in the messages, "
        "900 in the completion). Please reduce the length of the messages or completion.",
        "This endpoint's maximum context length is 1000 tokens. However, you requested about 1100 tokens (200 of text "
        "input, 900 in the output).",
    ],
)
async def test_an_answer_gets_the_room_that_its_prompt_leaves_and_the_next_one_all(
    read: Callable, ask: Callable, message: str
) -> None:
    seen: list[dict] = []
    refusal = json.dumps({"error": {"message": message, "param": "max_tokens"}})

    def refuses(body: dict) -> str | None:
        return refusal if "long" in str(body) and body["max_tokens"] > 800 else None

    async with model_of(dialect(refuses, seen)) as model:
        for question in ("long", "short"):
            assert (await read(model, ask(question, max_tokens=900)))[1] is None
        refusal = refusal.replace("200", "900")
        _, error = await read(model, ask("long", max_tokens=900))
    assert [body["max_tokens"] for body in seen] == [900, 800, 900, 900]
    assert error.fault is ModelFault.TOO_LONG


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "System role not supported"),
        (500, "Jinja Exception: System role not supported"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (400, "Only user and assistant roles are supported!"),
        (400, "Developer instruction is not enabled for models/gemma-3-27b-it"),
    ],
)
async def test_a_template_without_a_system_role(read: Callable, ask: Callable, status: int, message: str) -> None:
    seen: list[dict] = []
    refusal = json.dumps({"error": {"message": message}})

    def refuses(body: dict) -> str | None:
        return refusal if body["messages"][0]["role"] == "system" else None

    async with model_of(dialect(refuses, seen, status)) as model:
        assert (await read(model, ask("Hi", system="Be kind.")))[1] is None
    assert seen[-1]["messages"] == [{"role": "user", "content": "Be kind.\n\nHi"}]


async def test_a_server_that_refuses_everything_is_not_asked_for_ever(read: Callable, ask: Callable) -> None:
    seen: list[dict] = []
    refusal = "no stream_options, no max_tokens, no max_completion_tokens, no stream, no system role"
    async with model_of(dialect(lambda body: refusal, seen)) as model:
        _, error = await read(model, ask("?", system="s"))
        assert isinstance(error, FinalModelError)
        assert len(seen) <= 8
        assert model._dialect == Dialect(), "what did not help is not remembered"


async def test_a_question_cannot_teach_a_dialect(read: Callable, ask: Callable) -> None:
    seen: list[dict] = []
    question = "What are stream_options and max_tokens?"
    async with model_of(dialect(lambda body: f"not allowed: {question}", seen)) as model:
        await read(model, ask(question))
    assert len(seen) == 1


async def test_the_spec_may_say_it_outright(read: Callable, ask: Callable) -> None:
    seen: list[dict] = []
    async with serving(dialect(lambda body: None, seen)) as base_url:
        model = build_model(f"openai:{base_url}?max_tokens_field=none&stream_options=0&system_role=user#m")
        assert (await read(model, ask("?", system="s")))[1] is None
        await model.close()
    assert set(seen[0]) == {"model", "messages", "stream"}
    assert [one["role"] for one in seen[0]["messages"]] == ["user"]


async def test_a_schema_that_a_server_refuses_is_told_in_words_and_others_are_not(read: Callable) -> None:
    def refuses(body: dict) -> str | None:
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
        refusal = {"error": {"message": "Invalid schema for response_format 'answer': type is missing"}}
        return None if "response_format" not in body or "type" in schema else json.dumps(refusal)

    seen: list[dict] = []
    async with model_of(dialect(refuses, seen)) as model:
        for schema in ({"title": "bad"}, {"type": "object"}):
            prompt = Prompt(messages=(Message(Role.USER, "?"),), json_schema=schema)
            assert await read(model, prompt) == (["a", Finish()], None)
    assert ["response_format" in body for body in seen] == [True, False, True]
    assert '"title": "bad"' in seen[1]["messages"][0]["content"]
