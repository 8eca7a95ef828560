"""Errors of servers of the OpenAI protocol, in every spelling."""

import json
from collections.abc import Callable

import pytest
from aiohttp import web

from answerback.model_guard import ask as ask_guarded
from answerback.models import build_model
from answerback.models.errors import retry_after_ms_of
from answerback.ports import FinalModelError, Finish, ModelError, ModelFault
from answerback.protocol.errors import ErrorCode
from openai_server import END, Handler, answers, chunk, data, model_of, serving, streams

pytestmark = pytest.mark.usefixtures("own_network")


@pytest.mark.parametrize(
    ("handler", "code", "transient", "retry_after_ms"),
    [
        (answers(401, "no"), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(403, "no"), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(404, "no such model"), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(302, "", Location="/elsewhere"), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(400, "too long"), ErrorCode.MODEL_FAILED, False, None),
        (answers(429), ErrorCode.MODEL_THROTTLED, True, None),
        (answers(429, "", Retry_After="2"), ErrorCode.MODEL_THROTTLED, True, 2000),
        (answers(429, "", Retry_After="inf"), ErrorCode.MODEL_THROTTLED, True, None),
        (answers(429, "", Retry_After="soon"), ErrorCode.MODEL_THROTTLED, True, None),
        (answers(429, "", Retry_After="2", retry_after_ms="150"), ErrorCode.MODEL_THROTTLED, True, 150),
        (
            answers(429, "", Retry_After="Wed, 01 Jan 2025 00:00:09 GMT", Date="Wed, 01 Jan 2025 00:00:00 GMT"),
            ErrorCode.MODEL_THROTTLED,
            True,
            9000,
        ),
        (answers(429, '{"error":{"code":"insufficient_quota"}}'), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(500, "x" * 100_000), ErrorCode.MODEL_UNAVAILABLE, True, None),
        (answers(503, "", Retry_After="1"), ErrorCode.MODEL_UNAVAILABLE, True, 1000),
    ],
)
async def test_refusals(
    read: Callable, ask: Callable, handler: Handler, code: ErrorCode, transient: bool, retry_after_ms: int | None
) -> None:
    async with model_of(handler) as model:
        pieces, error = await read(model, ask("?"))
    assert pieces == []
    assert (error.code, error.transient, error.retry_after_ms) == (code, transient, retry_after_ms)
    assert error.detail.startswith("HTTP ")
    assert len(error.detail) < 3000


UNAVAILABLE, THROTTLED, FAILED = ErrorCode.MODEL_UNAVAILABLE, ErrorCode.MODEL_THROTTLED, ErrorCode.MODEL_FAILED
_ERRORS = [
    ({"error": {"code": 429, "message": "x"}}, THROTTLED, True),
    ({"error": {"code": "429", "message": "x"}}, THROTTLED, True),
    ({"error": {"code": "rate_limit_exceeded", "message": "x"}}, THROTTLED, True),
    ({"error": {"type": "rate_limit_error", "message": "x"}}, THROTTLED, True),
    ({"error": {"status": "RESOURCE_EXHAUSTED", "message": "x"}}, THROTTLED, True),
    ({"error": "Rate limit exceeded, slow down"}, THROTTLED, True),
    ({"error": {"type": "tooManyRequests"}}, THROTTLED, True),
    ({"object": "error", "message": "x", "code": 503}, UNAVAILABLE, True),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, UNAVAILABLE, True),
    ({"error": {"code": "502", "message": "x"}}, UNAVAILABLE, True),
    ({"error": {"message": "The server is overloaded"}}, UNAVAILABLE, True),
    ({"error": {"type": "server_error", "code": None, "message": "x"}}, UNAVAILABLE, True),
    ({"choices": [{"delta": {}, "error": {"code": 504, "message": "x"}, "finish_reason": "error"}]}, UNAVAILABLE, True),
    *(
        ({"choices": choices}, UNAVAILABLE, True)
        for failed in ({"error": {"code": "server_error"}}, {"delta": {"error": {"code": 502}}})
        for choices in (failed, [{"index": 1}, failed], [{"index": 0, **failed}])
    ),
    (
        {"error": {"code": "x", "message": "x", "metadata": {"error_type": "rate_limit_exceeded"}}, "choices": []},
        THROTTLED,
        True,
    ),
    ({"code": 500, "message": "x"}, UNAVAILABLE, True),
    ([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x"}}], THROTTLED, True),
    ({"error": {"httpStatus": 503, "message": "x"}}, UNAVAILABLE, True),
    ({"error": {"statusCode": "503", "message": "x"}}, UNAVAILABLE, True),
    ({"error": {"code": "insufficient_quota", "message": "x"}}, UNAVAILABLE, False),
    ({"error": {"code": "invalid_api_key", "message": "x"}}, UNAVAILABLE, False),
    ({"error": {"type": "invalid_request_error", "message": "x"}}, FAILED, False),
    ({"error": "boom"}, FAILED, False),
    ({"error": True}, FAILED, False),
    ({"error": {"code": "context_length_exceeded", "message": "x"}}, FAILED, False),
]


@pytest.mark.parametrize(("document", "code", "transient"), _ERRORS)
async def test_an_error_inside_a_stream_means_the_same_in_every_spelling(
    read: Callable, ask: Callable, document: object, code: ErrorCode, transient: bool
) -> None:
    async with model_of(streams(data(document))) as model:
        pieces, error = await read(model, ask("?"))
    assert (pieces, error.code, error.transient) == ([], code, transient)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"message": "Too many requests"}, THROTTLED),
        ({"detail": "Rate limit reached"}, THROTTLED),
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, THROTTLED),
        ({"error_code": 18, "error_msg": "Open api qps request limit reached"}, THROTTLED),
        ("The server is overloaded", UNAVAILABLE),
        ({"message": "no idea"}, FAILED),
    ],
)
async def test_what_comes_instead_of_an_end_says_why_there_is_none(
    read: Callable, ask: Callable, document: object, code: ErrorCode
) -> None:
    for parts in ([data(document)], [chunk("half"), data(document)]):
        async with model_of(streams(*parts)) as model:
            _, error = await read(model, ask("?"))
        assert error.code == code
        assert "in the stream" in error.detail
    async with model_of(streams(data(document), chunk("half"))) as model:
        _, error = await read(model, ask("?"))
    assert error.detail == "the stream ended before the answer did"


@pytest.mark.parametrize("empty", [None, False, "", {}, []])
async def test_no_error_is_no_error(read: Callable, ask: Callable, empty: object) -> None:
    parts = [data({"error": empty, "choices": [{"delta": {"content": "a"}}]}), END]
    async with model_of(streams(*parts)) as model:
        assert await read(model, ask("?")) == (["a", Finish()], None)


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (401, {"error": {"message": "Incorrect API key"}}, ModelFault.SETUP),
        (403, "forbidden", ModelFault.SETUP),
        (404, {"error": "model 'm' not found"}, ModelFault.SETUP),
        (429, {"error": {"code": "insufficient_quota"}}, ModelFault.SETUP),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, ModelFault.TOO_LONG),
        (400, {"error": {"message": "This model's maximum context length is 4096 tokens."}}, ModelFault.TOO_LONG),
        (400, {"error": {"type": "exceed_context_size_error", "message": "x"}}, ModelFault.TOO_LONG),
        (500, {"error": "the request exceeds the available context size. try increasing it"}, ModelFault.TOO_LONG),
        (413, "", ModelFault.TOO_LONG),
        (
            400,
            {"error": {"code": 400, "message": "x", "metadata": {"raw": '{"message":"prompt is too long"}'}}},
            ModelFault.TOO_LONG,
        ),
        *(
            (status, {"message": message}, ModelFault.TOO_LONG)
            for status, message in (
                (400, "prompt is too long: 200 tokens > 100 maximum"),
                (400, "Prompt exceeds max length"),
                (400, "Prompt 超长"),
                (400, "Text too long"),
                (400, "입력 길이 초과"),
                (400, "Range of input length should be [1, 30720]"),
                (400, "Invalid request: Your request exceeded model token limit: 8192"),
                (400, "This model's maximum prompt length is 131072 but the request contains 140000 tokens."),
                (400, "The decoder prompt (length 50) is longer than the maximum model length of 40."),
                (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"),
                (422, "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000"),
                (500, "context shift is disabled"),
            )
        ),
        *(
            (400, {"error": {"message": message}}, ModelFault.SETUP)
            for message in (
                "API key not valid. Please pass a valid API key.",
                "Incorrect API key provided: xx***yy.",
                "foo/bar is not a valid model ID",
                "Model Not Exist",
                "Invalid model name passed in model=m. Call `/v1/models` to view available models for your key.",
                'Failed to load model "m".',
                "API version not supported",
                "The chatCompletion operation does not work with the specified model, text-embedding.",
                '"all-minilm" does not support chat',
            )
        ),
        (405, "Method Not Allowed", ModelFault.SETUP),
        (400, {"error": {"message": "This model does not support images."}}, ModelFault.REFUSED),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "Field required"}]}, ModelFault.REFUSED),
        (418, "", ModelFault.REFUSED),
    ],
)
async def test_what_trying_again_does_not_cure(
    read: Callable, ask: Callable, status: int, body: object, fault: ModelFault
) -> None:
    async with model_of(answers(status, body if isinstance(body, str) else json.dumps(body))) as model:
        _, error = await read(model, ask("?"))
    assert isinstance(error, FinalModelError)
    assert error.fault is fault


async def test_a_refused_key_names_where_it_comes_from(read: Callable, ask: Callable, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-12345")
    async with serving(answers(401, '{"error":{"message":"no such key: sk-12345"}}')) as base_url:
        model = build_model(f"openai:{base_url}?api_key_env=MY_KEY#m")
        _, error = await read(model, ask("?"))
        await model.close()
    assert "MY_KEY, which is set" in error.detail
    assert "no such key: KEY" in error.detail


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 418, 422, 429, 500, 503])
@pytest.mark.parametrize("shape", ["fastapi", "message", "code", "text", "escaped", "cut"])
async def test_the_question_is_not_logged_in_any_error(
    ask: Callable, caplog: pytest.LogCaptureFixture, status: int, shape: str
) -> None:
    question = 'my password is "hunter2", 비밀번호'

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        bodies = {
            "fastapi": json.dumps({"detail": [{"type": "x", "loc": ["body"], "msg": "bad", "input": body}]}),
            "message": json.dumps({"error": {"message": f"cannot do {question!r}", "code": question}}),
            "code": json.dumps({"code": question, "type": question, "status": status, "param": question}),
            "text": f"cannot do {question}",
            "escaped": json.dumps({"error": json.dumps({"input": question})}),
            "cut": f"cannot do {question}"[:-7],
        }
        return web.Response(status=status, text=bodies[shape])

    with caplog.at_level("DEBUG", "answerback"):
        async with model_of(handler) as model:
            with pytest.raises(ModelError) as caught:
                await ask_guarded(model, ask(question), bool)
    for text in (str(caught.value), caplog.text):
        assert "hunter2" not in text
        assert "password" not in text
        assert "비밀" not in text
        assert "\\ube44" not in text


async def test_a_throttling_inside_the_stream(read: Callable, ask: Callable) -> None:
    async with model_of(streams(b'data: {"error": {"message": "slow down", "code": 429}}\n\n')) as model:
        _, error = await read(model, ask("?"))
    assert (error.code, error.transient) == (ErrorCode.MODEL_THROTTLED, True)


@pytest.mark.parametrize(
    "date", ["Mon, 20 Nov 1995 19:12:08 +99999999999999999999", "Thu, 31 Feb 2026 10:00:00 GMT", "soon"]
)
def test_a_time_to_wait_that_is_none_is_left_out(date: str) -> None:
    now = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert retry_after_ms_of({"retry-after": date, "date": now}) is None
    assert retry_after_ms_of({"retry-after": now, "date": date}) is None
    for number in ("nan", "inf", "-inf", "1e400", "0x10", "9" * 400):
        assert retry_after_ms_of({"retry-after": number}) is None
