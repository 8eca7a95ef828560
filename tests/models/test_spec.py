"""Model specs: what may be written, and what is said about the rest."""

import pytest

from answerback.models import EchoFailure, EchoOptions, ModelSpecError, build_model, parse_model_spec, parse_model_specs
from answerback.models.spec import BedrockSpec, EchoSpec, LocalSpec, ModelSpec, OpenAISpec, PythonSpec
from answerback.ports import ModelLimits


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("local", LocalSpec()),
        (" local ", LocalSpec()),
        ("small=local", LocalSpec(name="small")),
        ("echo", EchoSpec()),
        ("echo:", EchoSpec()),
        ("e=echo:tokens=5", EchoSpec(name="e", options=EchoOptions(tokens=5))),
        (
            "echo:first_ms=1&delay_ms=20&tokens=3&fail=midstream&fail_every=2&fail_rate=0.5&retry_after_ms=7&context=1"
            "&concurrency=4&context_tokens=99",
            EchoSpec(
                options=EchoOptions(
                    first_ms=1,
                    delay_ms=20,
                    tokens=3,
                    fail=EchoFailure.MIDSTREAM,
                    fail_every=2,
                    fail_rate=0.5,
                    retry_after_ms=7,
                    context=True,
                    concurrency=4,
                    context_tokens=99,
                )
            ),
        ),
        (
            "openai:http://127.0.0.1:11434/v1/#qwen3:4b",
            OpenAISpec(name="qwen3:4b", base_url="http://127.0.0.1:11434/v1", model="qwen3:4b"),
        ),
        (
            "fast=openai:https://example.com/v1?api-version=1&api_key_env=MY_KEY&concurrency=3&context_tokens=4096#a/b",
            OpenAISpec(
                name="fast",
                base_url="https://example.com/v1",
                model="a/b",
                query={"api-version": "1"},
                api_key_env="MY_KEY",
                context_tokens=4096,
                concurrency=3,
            ),
        ),
        (
            "openai:http://x/v1?answer_timeout=600&max_tokens=16384&silence_s=60&api_key_file=/run/key"
            "&max_tokens_field=none&stream_options=0&system_role=user&v=1#m",
            OpenAISpec(
                name="m",
                base_url="http://x/v1",
                model="m",
                query={"v": "1"},
                api_key_file="/run/key",
                max_tokens_field="none",
                stream_options=False,
                system_role="user",
                silence_s=60,
                limits=ModelLimits(answer_timeout_s=600, max_tokens=16384, format=True),
                context_tokens=32768,
            ),
        ),
        (
            "bedrock:m?answer_timeout=600&max_tokens=16384",
            BedrockSpec(name="m", model="m", limits=ModelLimits(answer_timeout_s=600, max_tokens=16384)),
        ),
        (
            "bedrock:global.anthropic.claude-haiku-4-5-20251001-v1:0",
            BedrockSpec(
                name="global.anthropic.claude-haiku-4-5-20251001-v1:0",
                model="global.anthropic.claude-haiku-4-5-20251001-v1:0",
            ),
        ),
        (
            "nova=bedrock:arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2?region=us-east-1"
            "&temperature=0&top_p=0.9&cache=1h&guardrail=abc123:DRAFT&tier=flex&silence_s=60&context_tokens=8000"
            "&concurrency=4",
            BedrockSpec(
                name="nova",
                model="arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2",
                region="us-east-1",
                temperature=0.0,
                top_p=0.9,
                cache="1h",
                guardrail=("abc123", "DRAFT"),
                tier="flex",
                silence_s=60,
                context_tokens=8000,
                concurrency=4,
            ),
        ),
        ("python:pipeline:make", PythonSpec(name="pipeline", module="pipeline", factory="make")),
        ("rag=python:a.b:C.make", PythonSpec(name="rag", module="a.b", factory="C.make")),
    ],
)
def test_specs(text: str, spec: ModelSpec) -> None:
    assert parse_model_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("gpt", "no kind of model called 'gpt'"),
        ("local:x", "takes no options"),
        ("a b=echo", "visible characters"),
        ("=echo", "visible characters"),
        ("n" * 129 + "=echo", "visible characters"),
        ("echo:speed=9", "no option 'speed'"),
        ("echo:delay_ms", "option=value"),
        ("echo:delay_ms=fast", "whole number from 0"),
        ("echo:delay_ms=-1", "whole number from 0"),
        ("echo:delay_ms=²", "whole number from 0"),
        ("echo:delay_ms=" + "9" * 5000, "whole number from 0"),
        ("echo:tokens=0", "whole number from 1"),
        ("echo:tokens=1&tokens=2", "twice"),
        ("echo:fail=badly", "throttled, unavailable"),
        ("echo:fail=hang&fail_rate=nan", "from 0 to 1"),
        ("echo:fail=hang&fail_rate=much", "from 0 to 1"),
        ("echo:fail_every=2", "need fail=HOW"),
        ("echo:context=yes", "1 (yes) or 0 (no)"),
        ("openai:", "needs an http or https URL"),
        ("openai:qwen3", "needs an http or https URL"),
        ("openai:ftp://x/v1#m", "needs an http or https URL"),
        ("openai:http://[x/v1#m", "cannot be read"),
        ("openai:http://x:99999/v1#m", "cannot be read"),
        ("openai:http://127.0.0.1/v1", "needs the model after #"),
        ("openai:http://x/v1#a model", "visible characters"),
        ("openai:http://x/v1?api_key_env=sk-1234#m", "name of an environment variable"),
        ("openai:http://x/v1?concurrency=0#m", "whole number from 1"),
        ("openai:http://x/v1?answer_timeout=0#m", "answer_timeout must be a whole number from 1"),
        ("openai:http://x/v1?max_tokens=many#m", "max_tokens must be a whole number from 1"),
        ("openai:http://x/v1?silence_s=0#m", "silence_s must be a whole number from 1"),
        ("openai:http://x/v1?max_tokens_field=tokens#m", "one of max_tokens, max_completion_tokens, none"),
        ("openai:http://x/v1?stream_options=yes#m", "1 (yes) or 0 (no)"),
        ("openai:http://x/v1?system_role=developer#m", "one of system, user"),
        ("python:a:b?speed=9", "answer_timeout, max_tokens, context_reserve"),
        ("python:a:b?parts=thoughts", "some of citation, reasoning, result, status, tool"),
        ("echo:parts=tool", "1 (yes) or 0 (no)"),
        ("bedrock:", "bedrock: needs a model's id"),
        ("bedrock:a b", "bedrock: needs a model's id"),
        ("bedrock:m?speed=9", "no option 'speed'"),
        ("bedrock:m?region=Seoul", "region must be"),
        ("bedrock:m?cache=2m", "one of 5m, 1h"),
        ("bedrock:m?tier=fast", "one of default, priority"),
        ("bedrock:m?guardrail=abc", "guardrail must be ID:VERSION"),
        ("bedrock:m?temperature=2", "from 0 to 1"),
        ("bedrock:m?silence_s=0", "whole number from 1"),
        ("python:pipeline", "a module and a function"),
        ("python:pipe-line:make", "a module and a function"),
        ("python::make", "a module and a function"),
    ],
)
def test_wrong_specs_say_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ModelSpecError) as caught:
        parse_model_spec(text)
    assert says in str(caught.value)


def test_every_kind_is_offered() -> None:
    with pytest.raises(ModelSpecError) as caught:
        parse_model_spec("nix")
    for kind in ("local", "echo", "openai:", "bedrock:", "python:"):
        assert kind in str(caught.value)


def test_a_key_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ModelSpecError) as caught:
        parse_model_spec("openai:https://me:secret@example.com/v1#m")
    assert "OPENAI_API_KEY" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_several_need_different_names() -> None:
    first, second = parse_model_specs(["echo", "slow=echo:delay_ms=20"])
    assert (first.name, second.name) == ("echo", "slow")
    with pytest.raises(ModelSpecError, match="Two models are called 'echo'"):
        parse_model_specs(["echo", "echo:delay_ms=20"])
    with pytest.raises(ModelSpecError, match="No model is named"):
        parse_model_specs([])


def test_an_echo_is_built_from_its_spec() -> None:
    model = build_model("slow=echo:concurrency=3&context_tokens=50")
    assert (model.name, model.concurrency, model.context_tokens) == ("slow", 3, 50)
