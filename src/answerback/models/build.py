"""Makes the model that a spec names. What a kind needs is imported only when it is named."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from answerback.models.echo import EchoModel
from answerback.models.local import LocalModel
from answerback.models.python import load_python_model
from answerback.models.retrying import RetryingModel
from answerback.models.spec import (
    BedrockSpec,
    EchoSpec,
    LocalSpec,
    ModelSpec,
    ModelSpecError,
    OpenAISpec,
    PythonSpec,
    parse_model_spec,
)
from answerback.outbound import CaFileError, ProxyError
from answerback.ports import Model

if TYPE_CHECKING:
    from answerback.models.bedrock import BedrockModel
    from answerback.models.openai import OpenAIModel


def build_model(spec: str | ModelSpec) -> Model:
    """The model of a spec. A `python:` module is imported; nothing else is loaded or connected yet.

    Raises: ModelSpecError: the spec cannot be used; the text says what to do.
    """
    if isinstance(spec, str):
        spec = parse_model_spec(spec)
    match spec:
        case EchoSpec():
            return EchoModel(spec.options, name=spec.name, limits=spec.limits)
        case LocalSpec():
            return LocalModel(name=spec.name)
        case OpenAISpec():
            return RetryingModel(_openai(spec))
        case BedrockSpec():
            return RetryingModel(_bedrock(spec))
        case PythonSpec():
            return RetryingModel(load_python_model(spec))
        case _:
            assert_never(spec)


async def open_model(spec: str | ModelSpec) -> Model:
    """The model of a spec, ready: `local` is loaded now and not by the first question.

    Raises: ModelSpecError: as `build_model`. ModelError: `model_unavailable`: the embedded model cannot be loaded; its
    `detail` says what the operator has to do.
    """
    model = build_model(spec)
    if isinstance(model, LocalModel):
        try:
            await model.open()
        except BaseException:
            await model.close()
            raise
    return model


def _openai(spec: OpenAISpec) -> "OpenAIModel":
    try:
        from answerback.models.openai import Dialect, OpenAIModel  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ModelSpecError(
            f"{spec.name!r}: openai: models need the package aiohttp. Run: pip install '.[openai]'"
        ) from exc
    key, source = _key(spec)
    dialect = Dialect(stream_options=spec.stream_options, has_system=spec.system_role == "system")
    if spec.max_tokens_field is not None:
        dialect = replace(dialect, max_tokens_fields=tuple({spec.max_tokens_field} - {"none"}))
    try:
        return OpenAIModel(
            base_url=spec.base_url,
            model=spec.model,
            name=spec.name,
            api_key=key or None,
            key_source=source,
            query=spec.query,
            dialect=dialect,
            context_tokens=spec.context_tokens,
            concurrency=spec.concurrency,
            limits=spec.limits,
            silence_timeout_s=float(spec.silence_s),
        )
    except (ProxyError, CaFileError) as exc:
        raise ModelSpecError(f"{spec.name!r}: {exc}") from exc
    except ValueError as exc:
        raise ModelSpecError(f"{spec.name!r}: the URL {spec.base_url!r} cannot be used ({exc}). Correct it.") from exc


def _key(spec: OpenAISpec) -> tuple[str, str]:
    """The key, empty if there is none, and where it comes from. Raises: ModelSpecError."""
    key, source = os.environ.get(spec.api_key_env, ""), spec.api_key_env
    if spec.api_key_file is not None:
        source = spec.api_key_file
        try:
            key = Path(source).read_text("utf-8-sig")
        except (OSError, ValueError) as exc:
            raise ModelSpecError(
                f"{spec.name!r}: the key cannot be read from {source} ({type(exc).__name__})."
            ) from exc
    key = key.strip()
    if not key.isprintable() or not key.isascii():
        raise ModelSpecError(f"{spec.name!r}: {source} does not hold a key: it has characters no key has.")
    return key, source


def _bedrock(spec: BedrockSpec) -> "BedrockModel":
    try:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - an extra

        from answerback.models.bedrock import BedrockModel, BedrockOptions, bedrock_client  # noqa: PLC0415
    except ImportError as exc:
        raise ModelSpecError(
            f"{spec.name!r}: bedrock: models need the package boto3. Run: pip install '.[aws]'"
        ) from exc
    try:
        client = bedrock_client(
            # Of the two variables botocore reads the other one only.
            region=spec.region or os.environ.get("AWS_REGION"),
            connections=spec.concurrency,
            silence_timeout_s=float(spec.silence_s),
        )
    except (ProxyError, CaFileError) as exc:
        raise ModelSpecError(f"{spec.name!r}: {exc}") from exc
    except (BotoCoreError, ValueError) as exc:
        raise ModelSpecError(
            f"{spec.name!r}: Bedrock cannot be used like this: {str(exc).rstrip('.')}. Name the region with "
            "?region=us-east-1, AWS_REGION or your AWS profile."
        ) from exc
    return BedrockModel(
        client=client,
        model=spec.model,
        name=spec.name,
        options=BedrockOptions(
            temperature=spec.temperature,
            top_p=spec.top_p,
            cache=spec.cache,
            guardrail=spec.guardrail,
            tier=spec.tier,
        ),
        context_tokens=spec.context_tokens,
        concurrency=spec.concurrency,
        limits=spec.limits,
    )
