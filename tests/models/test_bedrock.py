"""ConverseStream against a server that streams Bedrock's own frames, and goes wrong in every way that Bedrock does."""

import asyncio
import logging
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from botocore.session import get_session
from hypothesis import example, given
from hypothesis import strategies as st

from answerback.core.context import Message, Role
from answerback.models import ModelSpecError, build_model
from answerback.models.bedrock import BedrockModel, BedrockOptions, bedrock_client, converse_request, metadata_value
from answerback.ports import FinalModelError, Finish, ModelError, ModelFault, Part, Prompt
from answerback.protocol.errors import ErrorCode
from bedrock_frames import Handler, broken, cites, delta, reasoning, refuses, serving, stop, streams, usage, uses
from certificates import make_certificate

_ASKED = get_session().get_service_model("bedrock-runtime").operation_model("ConverseStream").input_shape
VALUE_OF_METADATA = re.compile(_ASKED.members["requestMetadata"].value.metadata["pattern"])


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def model_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """A model whose Bedrock is `handler`. `silence_timeout_s` is the client's, the rest the model's."""

    @asynccontextmanager
    async def make(handler: Handler, *, silence_timeout_s: float = 30, **more: object) -> AsyncIterator[BedrockModel]:
        async with serving(handler) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", endpoint)
            client = bedrock_client(silence_timeout_s=silence_timeout_s)
            model = BedrockModel(client=client, model="m.v1:0", **more)  # type: ignore[arg-type]
            try:
                yield model
            finally:
                await model.close()

    return make


# --- what is sent -------------------------------------------------------------------------------------------


async def test_the_request_on_the_wire(model_of: Callable, read: Callable, ask: Callable) -> None:
    seen: list[tuple[str, object]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.raw_path, await request.json()))
        return await streams(delta("a"), stop(), usage(1, 1))(request)

    async with model_of(handler) as model:
        await read(model, ask("hi", max_tokens=7))
    assert seen == [
        (
            "/model/m.v1%3A0/converse-stream",
            {"messages": [{"role": "user", "content": [{"text": "hi"}]}], "inferenceConfig": {"maxTokens": 7}},
        )
    ]


def test_everything_that_can_be_asked_for() -> None:
    options = BedrockOptions(temperature=0.0, top_p=0.9, cache="1h", guardrail=("g", "1"), tier="flex")
    prompt = Prompt(messages=(Message(Role.USER, "q"),), system="word " * 400, max_tokens=9)
    assert converse_request(prompt, "m", options) == {
        "modelId": "m",
        "messages": [{"role": "user", "content": [{"text": "q"}]}],
        "system": [{"text": ("word " * 400).strip()}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
        "inferenceConfig": {"maxTokens": 9, "temperature": 0.0, "topP": 0.9},
        "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
        "serviceTier": {"type": "flex"},
    }


def test_the_bill_can_be_split_by_user() -> None:
    prompt = Prompt(messages=(Message(Role.USER, "q"),), user_id="ann@example.com", request_id="3f0e7a3a-58a6")
    told = converse_request(prompt, "m", BedrockOptions())["requestMetadata"]
    assert told == {"userId": "ann@example.com", "requestId": "3f0e7a3a-58a6"}


@given(st.text(max_size=128), st.text(max_size=128))
@example("김철수", "김철=수")
@example("가" * 128, "가" * 127 + "나")
@example("a~b", "a=7Eb")
def test_metadata_is_of_the_characters_that_bedrock_takes_and_tells_users_apart(one: str, other: str) -> None:
    written = metadata_value(one)
    assert VALUE_OF_METADATA.fullmatch(written)
    assert (written == metadata_value(other)) == (one == other)


def test_roles_take_turns_and_nothing_is_blank() -> None:
    said = [
        Message(Role.ASSISTANT, "before all"),
        Message(Role.USER, "a\x00\ud800"),
        Message(Role.ASSISTANT, " \n"),
        Message(Role.USER, "b"),
        Message(Role.ASSISTANT, "c"),
        Message(Role.USER, "d"),
    ]
    request = converse_request(Prompt(messages=tuple(said), system="  "), "m", BedrockOptions())
    assert request["messages"] == [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "c"}]},
        {"role": "user", "content": [{"text": "d"}]},
    ]
    assert "system" not in request


def test_a_long_conversation_is_marked_for_reuse_and_a_short_one_is_not() -> None:
    def points(answer: str) -> list[int]:
        said = (Message(Role.USER, "a"), Message(Role.ASSISTANT, answer), Message(Role.USER, "b" * 5000))
        request = converse_request(Prompt(messages=said), "m", BedrockOptions(cache="5m"))
        return [n for n, one in enumerate(request["messages"]) if {"cachePoint": {"type": "default"}} in one["content"]]

    assert points("short") == []
    assert points("long " * 400) == [1]


def test_a_blank_question_is_no_question() -> None:
    with pytest.raises(ModelError) as caught:
        converse_request(Prompt(messages=(Message(Role.USER, " "),)), "m", BedrockOptions())
    assert caught.value.code is ErrorCode.MODEL_FAILED


# --- what comes back ----------------------------------------------------------------------------------------


async def test_text_the_thoughts_and_the_usage_after_the_stop(
    model_of: Callable, read: Callable, ask: Callable
) -> None:
    parts = (reasoning("hm"), delta("one "), delta(""), delta("두"), stop())
    cached = usage(7, 2, cacheReadInputTokens=100, cacheWriteInputTokens=20)
    async with model_of(streams(*parts, cached)) as model:
        pieces, error = await read(model, ask("?"))
    assert error is None
    assert pieces == [
        Part("reasoning", "hm"),
        "one ",
        "두",
        Finish(reason="stop", input_tokens=127, output_tokens=2, cached_tokens=100),
    ]


async def test_calls_of_tools_and_sources_are_parts(model_of: Callable, read: Callable, ask: Callable) -> None:
    web_page = {"title": "A", "location": {"web": {"url": "https://a.example", "domain": "a.example"}}}
    said = (delta("one "), cites(web_page), *uses(1, "search", '{"q":', "1}"), *uses(2, "now"), stop("tool_use"))
    async with model_of(streams(*said, usage(1, 1))) as model:
        pieces, error = await read(model, ask("?"))
    assert error is None
    assert pieces[:-1] == [
        "one ",
        Part("citation", '{"title":"A","url":"https://a.example"}', new=True),
        *(Part("tool", '{"q":', "search", new=True), Part("tool", "1}", "search")),
        Part("tool", "{}", "now", new=True),
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("tool_use", "tool_calls"),
        ("other", "other"),
    ],
)
async def test_reasons(model_of: Callable, read: Callable, ask: Callable, theirs: str, ours: str) -> None:
    async with model_of(streams(delta("a"), stop(theirs), usage(1, 1))) as model:
        pieces, error = await read(model, ask("?"))
    assert error is None
    assert pieces[-1].reason == ours


async def test_an_ending_that_is_a_failure(model_of: Callable, read: Callable, ask: Callable) -> None:
    async with model_of(streams(delta("a"), stop("malformed_model_output"), usage(1, 1))) as model:
        pieces, error = await read(model, ask("?"))
    assert (pieces, error.code, error.transient) == (["a"], ErrorCode.MODEL_FAILED, True)


@pytest.mark.parametrize("end", [{}, {"cut": True}, {"hang": True}], ids=["ends", "is cut", "says nothing"])
async def test_a_whole_answer_is_kept_when_its_usage_never_comes(
    model_of: Callable, read: Callable, ask: Callable, end: dict
) -> None:
    async with model_of(streams(delta("a"), stop(), **end), usage_timeout_s=0.2) as model:
        assert await read(model, ask("?")) == (["a", Finish()], None)


async def test_an_error_after_the_stop_does_not_take_the_answer_back(
    model_of: Callable, read: Callable, ask: Callable
) -> None:
    async with model_of(streams(delta("a"), stop(), broken("internalServerException"))) as model:
        assert await read(model, ask("?")) == (["a", Finish()], None)


async def test_the_next_answer_comes_over_the_same_connection(
    model_of: Callable, read: Callable, ask: Callable
) -> None:
    peers: list[object] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        return await streams(delta("a"), stop(), usage(1, 1))(request)

    async with model_of(handler) as model:
        for _ in range(3):
            await read(model, ask("?"))
    assert len(peers) == 3
    assert len(set(peers)) == 1


# --- errors -------------------------------------------------------------------------------------------------

UNAVAILABLE, THROTTLED, FAILED = ErrorCode.MODEL_UNAVAILABLE, ErrorCode.MODEL_THROTTLED, ErrorCode.MODEL_FAILED


@pytest.mark.parametrize(
    ("status", "code", "message", "meaning", "advice"),
    [
        (429, "ThrottlingException", "Too many tokens", (THROTTLED, True), "Service Quotas"),
        (400, "ServiceQuotaExceededException", "", (THROTTLED, False), "Service Quotas"),
        (429, "ModelNotReadyException", "", (UNAVAILABLE, True), "passes"),
        (500, "InternalServerException", "", (UNAVAILABLE, True), ""),
        (503, "ServiceUnavailableException", "", (UNAVAILABLE, True), ""),
        (424, "ModelErrorException", "", (FAILED, True), ""),
        (408, "ModelTimeoutException", "", (FAILED, False), "fewer tokens"),
        (403, "AccessDeniedException", "not authorized", (UNAVAILABLE, False), "InvokeModelWithResponseStream"),
        (403, "ExpiredTokenException", "", (UNAVAILABLE, False), "renew"),
        (403, "UnrecognizedClientException", "", (UNAVAILABLE, False), "get-caller-identity"),
        (404, "ResourceNotFoundException", "no such", (UNAVAILABLE, False), "list-inference-profiles"),
        (404, "FTUFormNotFilled", "", (UNAVAILABLE, False), "use case form"),
        (404, "ResourceNotFoundException", "Model use case details have not been", (UNAVAILABLE, False), "form"),
        (400, "ValidationException", "The provided model identifier is invalid.", (UNAVAILABLE, False), "model id"),
        (400, "ValidationException", "with on-demand throughput isn't", (UNAVAILABLE, False), "inference profile"),
        (400, "ValidationException", "`temperature` is deprecated", (UNAVAILABLE, False), "Leave temperature"),
        (400, "ValidationException", "The guardrail identifier", (UNAVAILABLE, False), "guardrail=ID"),
        (400, "ValidationException", "prompt caching is not supported", (UNAVAILABLE, False), "leave cache="),
        (400, "ValidationException", "maximum tokens you requested exceeds", (FAILED, False), "--max-tokens"),
        (400, "ValidationException", "Input is too long", (FAILED, False), ""),
        (502, "SomethingNew", "", (UNAVAILABLE, True), ""),
        (418, "SomethingElse", "", (UNAVAILABLE, False), ""),
    ],
)
async def test_a_call_that_fails(
    model_of: Callable,
    read: Callable,
    ask: Callable,
    status: int,
    code: str,
    message: str,
    meaning: tuple[ErrorCode, bool],
    advice: str,
) -> None:
    calls = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return await refuses(status, code, message)(request)

    async with model_of(handler, options=BedrockOptions(max_tokens=None)) as model:
        pieces, error = await read(model, ask("?"))
    assert pieces == []
    assert (error.code, error.transient) == meaning
    assert code in error.detail
    assert message in error.detail
    assert advice in error.detail
    assert calls == 1, "the caller must see each try"


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        ("throttlingException", (THROTTLED, True)),
        ("internalServerException", (UNAVAILABLE, True)),
        ("serviceUnavailableException", (UNAVAILABLE, True)),
        ("modelStreamErrorException", (FAILED, True)),
        ("validationException", (FAILED, False)),
    ],
)
async def test_a_stream_that_breaks(
    model_of: Callable, read: Callable, ask: Callable, kind: str, meaning: tuple[ErrorCode, bool]
) -> None:
    async with model_of(streams(delta("a"), broken(kind))) as model:
        pieces, error = await read(model, ask("?"))
    assert pieces == ["a"]
    assert (error.code, error.transient) == meaning
    assert kind in error.detail


@pytest.mark.parametrize(
    ("options", "message", "is_spared"),
    [
        ({"temperature": 0.5}, "`temperature` is deprecated", lambda body: "temperature" not in str(body)),
        ({"top_p": 0.5}, "top_p cannot be used", lambda body: "topP" not in str(body)),
        ({"cache": "5m"}, "prompt caching is not supported", lambda body: "cachePoint" not in str(body)),
        (
            {},
            "The maximum tokens you requested exceeds the model limit of 4096.",
            lambda body: body["inferenceConfig"]["maxTokens"] <= 4096,
        ),
        ({}, "extraneous key [maxTokens] is not permitted", lambda body: "maxTokens" not in str(body)),
        ({"tier": "flex"}, "serviceTier flex is not supported here", lambda body: "serviceTier" not in body),
        ({}, "This model doesn't support system messages", lambda body: "system" not in body),
    ],
)
async def test_what_bedrock_refuses_by_its_name_is_left_out_and_that_is_remembered(
    model_of: Callable, read: Callable, options: dict, message: str, is_spared: Callable[[dict], bool]
) -> None:
    seen: list[dict] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(await request.json())
        if not is_spared(seen[-1]):
            return await refuses(400, "ValidationException", message)(request)
        return await streams(delta("a"), stop(), usage(1, 1))(request)

    prompt = Prompt(messages=(Message(Role.USER, "Hi"),), system="word " * 2000, max_tokens=9000)
    async with model_of(handler, options=BedrockOptions(**options)) as model:
        for _ in range(2):
            pieces, error = await read(model, prompt)
            assert (pieces[0], error) == ("a", None)
    assert list(map(is_spared, seen)) == [False, True, True]


async def test_of_two_options_the_refused_one_is_left_out(model_of: Callable, read: Callable, ask: Callable) -> None:
    seen: list[dict] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((await request.json())["inferenceConfig"])
        if len(seen) == 1:
            message = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
            return await refuses(400, "ValidationException", message)(request)
        return await streams(delta("a"), stop(), usage(1, 1))(request)

    options = BedrockOptions(temperature=0.5, top_p=0.5, guardrail=("abc", "1"))
    async with model_of(handler, options=options) as model:
        assert (await read(model, ask("?")))[1] is None
    assert [sorted(one) for one in seen] == [["maxTokens", "temperature", "topP"], ["maxTokens", "temperature"]]


async def test_a_guardrail_is_never_left_out(model_of: Callable, read: Callable, ask: Callable) -> None:
    handler = refuses(400, "ValidationException", "guardrailConfig: the guardrail is not supported with streaming")
    async with model_of(handler, options=BedrockOptions(guardrail=("abc", "1"), streams=False)) as model:
        _, error = await read(model, ask("?"))
    assert "guardrail" in error.detail


async def test_a_model_that_cannot_stream_is_asked_for_the_whole(
    model_of: Callable, read: Callable, ask: Callable
) -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        paths.append(request.path.rpartition("/")[2])
        if paths[-1] == "converse-stream":
            return await refuses(400, "ValidationException", "This model doesn't support streaming.")(request)
        cited = {
            "content": [{"text": "three"}],
            "citations": [{"source": "doc-1", "sourceContent": [{"text": "as it says"}]}],
        }
        content = [
            *({"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "one "}, {"text": "two"}),
            *({"toolUse": {"toolUseId": "t", "name": "search", "input": {"q": 1}}}, {"citationsContent": cited}),
        ]
        usage = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
        message = {"message": {"role": "assistant", "content": content}}
        return web.json_response({"output": message, "stopReason": "max_tokens", "usage": usage})

    async with model_of(handler) as model:
        for _ in range(2):
            pieces, error = await read(model, ask("?"))
            assert error is None
            assert pieces == [
                *(Part("reasoning", "hm"), "one ", "two", Part("tool", '{"q":1}', "search", new=True)),
                *("three", Part("citation", '{"url":"doc-1","text":"as it says"}', new=True)),
                Finish(reason="length", input_tokens=3, output_tokens=2),
            ]
    assert paths == ["converse-stream", "converse", "converse"]


@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException"])
async def test_only_a_refusal_of_the_form_changes_the_form(
    model_of: Callable, read: Callable, ask: Callable, code: str
) -> None:
    calls = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return await refuses(400, code, "not authorized for streaming with temperature and maxTokens")(request)

    async with model_of(handler, options=BedrockOptions(temperature=0.5)) as model:
        assert (await read(model, ask("?")))[1] is not None
    assert calls == 1


# --- proxies and certificates: the one rule of `outbound` -----------------------------------------------------------


def tls_bedrock(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> BedrockModel:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", endpoint)
    return BedrockModel(client=bedrock_client(), model="m")


@pytest.mark.usefixtures("own_network")
async def test_an_authority_of_ones_own_is_trusted(
    read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with serving(streams(delta("a"), stop(), usage(1, 1)), tls=context) as endpoint:
        for name in (None, "AWS_CA_BUNDLE", "SSL_CERT_FILE", "ANSWERBACK_CA_FILE"):
            with monkeypatch.context() as patch:
                if name is not None:
                    patch.setenv(name, str(cert))
                model = tls_bedrock(patch, endpoint)
                pieces, error = await read(model, ask("?"))
                await model.close()
            if name is None:
                assert (error.code, error.transient) == (UNAVAILABLE, True)
                assert "--ca-file or ANSWERBACK_CA_FILE" in error.detail
            else:
                assert (pieces[0], error) == ("a", None), name


@pytest.mark.usefixtures("own_network")
async def test_a_proxy_counts_but_not_for_this_machine(
    read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:9")
    async with serving(streams(delta("a"), stop(), usage(1, 1))) as endpoint:
        model = tls_bedrock(monkeypatch, endpoint)
        assert (await read(model, ask("?")))[1] is None
        await model.close()
    model = tls_bedrock(monkeypatch, "http://bedrock.example")
    _, error = await read(model, ask("?"))
    await model.close()
    assert "through the proxy 127.0.0.1:9 of HTTP_PROXY" in error.detail
    assert "secret" not in error.detail


@pytest.mark.usefixtures("own_network")
@pytest.mark.parametrize(
    ("name", "value"), [("HTTPS_PROXY", "socks5://127.0.0.1:9"), ("ANSWERBACK_CA_FILE", "/nowhere.pem")]
)
def test_what_the_environment_names_and_cannot_be_used(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ModelSpecError, match=name):
        build_model("bedrock:m?region=us-east-1")


async def test_a_prompt_that_is_too_long_says_so(model_of: Callable, read: Callable, ask: Callable) -> None:
    message = "Input is too long for requested model."
    async with model_of(refuses(400, "ValidationException", message)) as model:
        _, error = await read(model, ask("?"))
    assert isinstance(error, FinalModelError)
    assert error.fault is ModelFault.TOO_LONG


async def test_the_pause_that_bedrock_asks_for(model_of: Callable, read: Callable, ask: Callable) -> None:
    async with model_of(refuses(429, "ThrottlingException", **{"Retry-After": "2"})) as model:
        _, error = await read(model, ask("?"))
    assert error.retry_after_ms == 2000


@pytest.mark.parametrize("end", [{"cut": True}, {}], ids=["is cut", "ends"])
async def test_a_stream_that_ends_too_early(model_of: Callable, read: Callable, ask: Callable, end: dict) -> None:
    async with model_of(streams(delta("a"), **end)) as model:
        pieces, error = await read(model, ask("?"))
    assert pieces == ["a"]
    assert error.code is FAILED


async def test_a_damaged_frame(model_of: Callable, read: Callable, ask: Callable) -> None:
    damaged = bytearray(delta("secret"))
    damaged[-8] ^= 1
    async with model_of(streams(delta("a"), bytes(damaged))) as model:
        pieces, error = await read(model, ask("?"))
    assert (pieces, error.code) == (["a"], FAILED)


@pytest.mark.parametrize(("parts", "code"), [(None, UNAVAILABLE), ((delta("a"),), FAILED)])
async def test_a_silent_bedrock(
    model_of: Callable, read: Callable, ask: Callable, parts: tuple[bytes, ...] | None, code: ErrorCode
) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    handler = silent if parts is None else streams(*parts, hang=True)
    async with model_of(handler, silence_timeout_s=0.2) as model:
        _, error = await read(model, ask("?"))
    assert (error.code, error.transient) == (code, False)
    assert "silence_s=" in error.detail


async def test_no_bedrock_there(
    model_of: Callable, read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(streams()) as endpoint:
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", endpoint)
    model = BedrockModel(client=bedrock_client(), model="m")
    _, error = await read(model, ask("?"))
    await model.close()
    assert (error.code, error.transient) == (UNAVAILABLE, True)
    assert "?region=" in error.detail


async def test_no_credentials(
    model_of: Callable, read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with model_of(streams(delta("a"), stop())) as model:
        _, error = await read(model, ask("?"))
    assert (error.code, error.transient) == (UNAVAILABLE, False)
    assert "AWS_PROFILE" in error.detail


# --- closing ------------------------------------------------------------------------------------------------


async def test_closing_hangs_up_at_once(model_of: Callable, ask: Callable) -> None:
    hung_up = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await streams(delta("a"), hang=True)(request)
        finally:
            hung_up.set()

    async with model_of(handler, silence_timeout_s=3600) as model:
        async with aclosing(model.stream(ask("?"))) as stream:
            assert await anext(stream) == "a"
            assert not hung_up.is_set()
        await hung_up.wait()


async def test_closing_before_bedrock_has_answered_hangs_up_when_it_does(model_of: Callable, ask: Callable) -> None:
    called, answer, hung_up = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        called.set()
        await answer.wait()
        try:
            return await streams(delta("a"), hang=True)(request)
        finally:
            hung_up.set()

    async with model_of(handler, silence_timeout_s=3600) as model:
        task = asyncio.create_task(anext(model.stream(ask("?"))))
        await called.wait()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        answer.set()
        await hung_up.wait()


# --- from a spec --------------------------------------------------------------------------------------------


async def test_a_model_from_a_spec_tries_again_before_its_first_word_only(
    read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, late = streams(delta("a"), stop(), usage(1, 1)), streams(delta("a"), broken("throttlingException"))
    answers = iter([refuses(503, "ServiceUnavailableException"), streams(broken("throttlingException")), good, late])

    async def handler(request: web.Request) -> web.StreamResponse:
        return await next(answers)(request)

    async with serving(handler) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", endpoint)
        model = build_model("fast=bedrock:m?region=ap-northeast-2")
        assert model.name == "fast"
        assert await read(model, ask("?")) == (["a", Finish(input_tokens=1, output_tokens=1)], None)
        pieces, error = await read(model, ask("?"))
        assert (pieces, error.code) == (["a"], THROTTLED)
        await model.close()
    assert next(answers, None) is None


def test_a_missing_region_says_where_to_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ModelSpecError, match=r"\?region="):
        build_model("bedrock:m")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert build_model("bedrock:m").name == "m"


def test_a_missing_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ModelSpecError, match="nobody"):
        build_model("bedrock:m")


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("botocore.exceptions", "answerback.models.bedrock"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(ModelSpecError, match=r"pip install '\.\[aws\]'"):
        build_model("bedrock:m")


async def test_nothing_of_the_texts_is_logged(
    model_of: Callable, read: Callable, ask: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with model_of(streams(delta("secret answer"), broken("throttlingException"))) as model:
        await read(model, ask("secret question"))
    assert "secret" not in caplog.text
