"""Model specs: the text by which an operator names a model.

    local
    echo    echo:delay_ms=20&fail=throttled
    openai:http://127.0.0.1:11434/v1?answer_timeout=600&max_tokens=16384#qwen3
    python:package.module:factory
    bedrock:anthropic.claude-haiku-4-5-20251001-v1:0?region=us-east-1&cache=5m

`NAME=SPEC` sets the name that clients use, for example `fast=openai:http://127.0.0.1:11434/v1#qwen3`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from answerback.core.budget import Price
from answerback.core.parts import KINDS as PART_KINDS
from answerback.core.uploads import DOCUMENT, IMAGE
from answerback.models.echo import EchoFailure, EchoOptions
from answerback.ports import ModelLimits
from answerback.protocol.frames import is_id
from answerback.protocol.limits import MAX_ID_LENGTH

KINDS: Final = "local, echo, openai:BASE_URL#MODEL, bedrock:MODEL_ID or python:package.module:factory"


class ModelSpecError(Exception):
    """A model spec that cannot be used; the text says what is wrong and what to write instead."""


LOCAL: Final = ModelLimits(
    tokens_per_byte=1.0,
    languages=("en",),
    demo=True,
    title="SmolLM2 135M",
    format=True,
    price=Price(0, 0, 0),
    stops_billing=True,
)
"""Of the embedded model. Its tokenizer spells rare Hangul byte by byte."""

OPENAI_CONTEXT_TOKENS: Final = 8192
BEDROCK_CONTEXT_TOKENS: Final = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSpec:
    """The embedded model."""

    name: str = "local"
    limits: ModelLimits = LOCAL


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoSpec:
    """The echo of tests and load."""

    name: str = "echo"
    options: EchoOptions = field(default_factory=EchoOptions)
    limits: ModelLimits = field(default_factory=ModelLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServerSpec:
    """A model of a server. `silence_s`: how long it may say nothing."""

    name: str
    model: str
    silence_s: int = 300
    limits: ModelLimits = field(default_factory=ModelLimits)
    context_tokens: int = OPENAI_CONTEXT_TOKENS
    concurrency: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISpec(_ServerSpec):
    """A model of a server that speaks the OpenAI chat completions protocol.

    `base_url` has no trailing slash and no query; `query` is sent with each request. The key is read from the file
    `api_key_file`, else from the environment variable `api_key_env`; without it none is sent. `max_tokens_field`: what
    the server calls the limit of tokens; `none`: it takes none. `stream_options`: whether it takes that member.
    `system_role` `user`: the system text goes into the first message. What is not said is learnt from the server.
    """

    base_url: str
    limits: ModelLimits = field(default_factory=lambda: ModelLimits(format=True))
    query: Mapping[str, str] = field(default_factory=dict)
    api_key_env: str = "OPENAI_API_KEY"
    api_key_file: str | None = None
    max_tokens_field: str | None = None
    stream_options: bool = True
    system_role: str = "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonSpec:
    """A model that a function of the operator's own package makes."""

    name: str
    module: str
    factory: str
    limits: ModelLimits = field(default_factory=ModelLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class BedrockSpec(_ServerSpec):
    """A model of Amazon Bedrock: its id, or an inference profile's id or ARN.

    `region` None: that of the environment. `temperature` and `top_p` None: the model's own. `cache`: how long Bedrock
    keeps a prompt's beginning. `guardrail`: (id, version).
    """

    context_tokens: int = BEDROCK_CONTEXT_TOKENS
    region: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    cache: str | None = None
    guardrail: tuple[str, str] | None = None
    tier: str | None = None


ModelSpec: TypeAlias = LocalSpec | EchoSpec | OpenAISpec | BedrockSpec | PythonSpec

_NAMED: Final = re.compile(r"(?P<name>[^:=]*)=(?P<spec>.*)", re.DOTALL)
_IS_DOTTED_NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_IS_BEDROCK_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,2047}")
_IS_REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_IS_GUARDRAIL: Final = re.compile(r"(?P<identifier>[a-z0-9]+|arn:[\w:/-]+):(?P<version>[1-9][0-9]{0,7}|DRAFT)")
_IS_ENVIRONMENT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MILLISECONDS: Final = (0, 3_600_000)
_LIMITS: Final = (
    *("answer_timeout", "max_tokens", "context_reserve", "price", "stops_billing"),
    *("parts", "attachments", "format"),
)
_IS_PRICE: Final = re.compile(r"\d{1,6}(\.\d{1,6})?(/\d{1,6}(\.\d{1,6})?){1,2}", re.ASCII)
_ECHO_WHOLE: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "first_ms": _MILLISECONDS,
        "delay_ms": _MILLISECONDS,
        "retry_after_ms": _MILLISECONDS,
        "tokens": (1, 1_000_000),
        "fail_every": (1, 1_000_000),
        "concurrency": (1, 1_000_000),
        "context_tokens": (1, 10_000_000),
    }
)
_BEDROCK_OPTIONS: Final = (
    *("region", "temperature", "top_p", "cache", "guardrail", "tier"),
    *("silence_s", "context_tokens", "concurrency"),
    *_LIMITS,
)
_CACHES: Final = ("5m", "1h")
_MAX_TOKENS_FIELDS: Final = ("max_tokens", "max_completion_tokens", "none")
_SYSTEM_ROLES: Final = ("system", "user")
_TIERS: Final = ("default", "priority", "flex", "reserved")
_ECHO_OPTIONS: Final = (*_ECHO_WHOLE, "fail", "fail_rate", "context", "parts", "price")


def parse_model_spec(text: str) -> ModelSpec:
    """Read one spec. Checks all that can be checked without importing or connecting to anything.

    Raises: ModelSpecError: with a sentence for the operator.
    """
    text = text.strip()
    if not text:
        raise ModelSpecError(f"The model spec is empty. Write {KINDS}.")
    name = None
    body = text
    if named := _NAMED.fullmatch(text):
        name, body = named["name"].strip(), named["spec"].strip()
        _check_name(name, text)
    kind, colon, argument = body.partition(":")
    match kind:
        case "local":
            if colon:
                raise ModelSpecError(f"{text!r}: `local` takes no options. Write `local`.")
            return LocalSpec(name=name or "local")
        case "echo":
            return _echo(_Given(text, argument), name)
        case "openai":
            return _openai(text, argument, name)
        case "python":
            return _python(text, argument, name)
        case "bedrock":
            return _bedrock(text, argument, name)
        case _:
            raise ModelSpecError(f"{text!r}: there is no kind of model called {kind!r}. Write {KINDS}.")


def parse_model_specs(texts: Iterable[str]) -> tuple[ModelSpec, ...]:
    """Read the specs of one gateway, at least one, their names all different.

    Raises: ModelSpecError: with a sentence for the operator.
    """
    specs = tuple(parse_model_spec(text) for text in texts)
    if not specs:
        raise ModelSpecError(f"No model is named. Write {KINDS}.")
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise ModelSpecError(
                f"Two models are called {spec.name!r}. Give one another name: OTHER_NAME=SPEC, for example other=echo."
            )
        seen.add(spec.name)
    return specs


def _check_name(name: str, text: str) -> None:
    if not is_id(name):
        raise ModelSpecError(
            f"{text!r}: a model's name must be 1 to {MAX_ID_LENGTH} visible characters. Write NAME=SPEC."
        )


class _Given:
    """The options of a spec, `a=1&b=2`. Each is taken out of `rest` by who reads it. Raises: ModelSpecError."""

    def __init__(self, text: str, query: str) -> None:
        self._text = text
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
        except ValueError:
            raise self.wrong(f"{query!r} is not options. Write option=value&option=value.") from None
        self.rest = dict(pairs)
        if len(self.rest) != len(pairs):
            raise self.wrong("an option is given twice. Write each once.")

    def wrong(self, why: str) -> ModelSpecError:
        return ModelSpecError(f"{self._text!r}: {why}")

    def check(self, kind: str, known: Sequence[str]) -> None:
        """Raises: ModelSpecError: there is one that this kind of model does not have."""
        for key in self.rest:
            if key not in known:
                raise self.wrong(f"{kind} has no option {key!r}. Options: {', '.join(known)}.")

    def whole(self, bounds: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """The whole numbers among these that are given."""
        found = {}
        for key, (low, high) in bounds.items():
            if (value := self.rest.pop(key, None)) is not None:
                if not (value.isascii() and value.isdigit() and len(value) <= 9 and low <= int(value) <= high):
                    raise self.wrong(f"{key} must be a whole number from {low} to {high}.")
                found[key] = int(value)
        return found

    def share(self, key: str) -> float | None:
        if (value := self.rest.pop(key, None)) is None:
            return None
        try:
            share = float(value)
        except ValueError:
            share = -1
        if not 0 <= share <= 1:
            raise self.wrong(f"{key} must be a number from 0 to 1, for example {key}=0.1.")
        return share

    def yes(self, key: str, *, usual: bool = False) -> bool:
        value = self.rest.pop(key, str(int(usual)))
        if value not in {"0", "1"}:
            raise self.wrong(f"{key} must be 1 (yes) or 0 (no).")
        return value == "1"

    def one_of(self, key: str, words: Sequence[str]) -> str | None:
        value = self.rest.pop(key, None)
        if value is not None and value not in words:
            raise self.wrong(f"{key} must be one of {', '.join(words)}.")
        return value

    def some(self, key: str, words: Sequence[str]) -> tuple[str, ...]:
        """Some of the words, by commas."""
        taken = set(self.rest.pop(key, "").split(",")) - {""}
        if not taken <= set(words):
            raise self.wrong(f"{key} must be some of {', '.join(words)}, as in {key}={words[0]}.")
        return tuple(word for word in words if word in taken)

    def price(self) -> Price | None:
        """`0.15/0.60/0.075`: US dollars for a million tokens of input, of output and of cached input."""
        if (value := self.rest.pop("price", None)) is None:
            return None
        if not _IS_PRICE.fullmatch(value):
            raise self.wrong("price must be INPUT/OUTPUT[/CACHED] in USD for a million tokens.")
        pico = [round(float(part) * 1_000_000) for part in value.split("/")]
        return Price(pico[0], pico[1], pico[2] if len(pico) > 2 else pico[0])

    def limits(self, *, has_format: bool = False) -> ModelLimits:
        """The options that every kind of model has. `has_format`: what is usual."""
        read = self.whole({"answer_timeout": (1, 86_400), "max_tokens": (1, 1_000_000), "context_reserve": (0, 10**7)})
        return ModelLimits(
            answer_timeout_s=read.get("answer_timeout"),
            max_tokens=read.get("max_tokens"),
            context_reserve=read.get("context_reserve"),
            price=self.price(),
            stops_billing=self.yes("stops_billing"),
            attachments=self.some("attachments", (IMAGE, DOCUMENT)),
            parts=self.some("parts", sorted(PART_KINDS)),
            format=self.yes("format", usual=has_format),
        )

    def of_server(self, context_tokens: int, *, has_format: bool = False) -> dict[str, Any]:
        """The options of every model of a server. The arguments: what is usual.

        An answer gets at most half of the context, so there is room for twice what `max_tokens` says.
        """
        limits = self.limits(has_format=has_format)
        return {
            "limits": limits,
            "context_tokens": max(context_tokens, 2 * (limits.max_tokens or 0)),
            **self.whole({"silence_s": (1, 3600), "context_tokens": (256, 10_000_000), "concurrency": (1, 10_000)}),
        }


def _echo(given: _Given, name: str | None) -> EchoSpec:
    given.check("echo", _ECHO_OPTIONS)
    fails = "fail_every" in given.rest or "fail_rate" in given.rest
    fail = given.one_of("fail", list(EchoFailure))
    if fail is None and fails:
        raise given.wrong("fail_every and fail_rate need fail=HOW, for example fail=midstream.")
    rate = given.share("fail_rate")
    options = EchoOptions(
        fail=None if fail is None else EchoFailure(fail),
        fail_rate=1.0 if rate is None else rate,
        context=given.yes("context"),
        parts=given.yes("parts"),
        **given.whole(_ECHO_WHOLE),
    )
    limits = ModelLimits(parts=tuple(sorted(PART_KINDS)) if options.parts else (), price=given.price())
    return EchoSpec(name=name or "echo", options=options, limits=limits)


def _openai(text: str, argument: str, name: str | None) -> OpenAISpec:
    example = "openai:http://127.0.0.1:11434/v1#qwen3"
    try:
        url = urlsplit(argument)
        port_is_readable = url.port is None or url.port > 0
    except ValueError:
        raise ModelSpecError(f"{text!r}: the URL cannot be read. Write for example {example}.") from None
    if url.scheme not in {"http", "https"} or not url.hostname or not port_is_readable:
        raise ModelSpecError(f"{text!r}: openai: needs an http or https URL. Write for example {example}.")
    if url.username is not None or url.password is not None:
        raise ModelSpecError(
            f"{re.sub('//[^/?#]*@', '//…@', text)!r}: do not put a key into the URL, it would be logged. "
            "Set it in the environment variable OPENAI_API_KEY, or name another with ?api_key_env=NAME."
        )
    if not url.fragment:
        raise ModelSpecError(f"{text!r}: openai: needs the model after #. Write for example {example}.")
    given = _Given(text, url.query)
    api_key_env = given.rest.pop("api_key_env", "OPENAI_API_KEY")
    if not _IS_ENVIRONMENT_NAME.fullmatch(api_key_env):
        raise ModelSpecError(f"{text!r}: api_key_env must be the name of an environment variable, not the key itself.")
    _check_name(name or url.fragment, text)
    options = given.of_server(OPENAI_CONTEXT_TOKENS, has_format=True)
    return OpenAISpec(
        name=name or url.fragment,
        base_url=urlunsplit((url.scheme, url.netloc, url.path.rstrip("/"), "", "")),
        model=url.fragment,
        api_key_env=api_key_env,
        api_key_file=given.rest.pop("api_key_file", None),
        max_tokens_field=given.one_of("max_tokens_field", _MAX_TOKENS_FIELDS),
        stream_options=given.yes("stream_options", usual=True),
        system_role=given.one_of("system_role", _SYSTEM_ROLES) or "system",
        query=MappingProxyType(given.rest),  # what nobody took goes to the server, as Azure's api-version does
        **options,
    )


def _bedrock(text: str, argument: str, name: str | None) -> BedrockSpec:
    model, _, query = argument.partition("?")
    if not _IS_BEDROCK_MODEL.fullmatch(model):
        raise ModelSpecError(
            f"{text!r}: bedrock: needs a model's id, or an inference profile's id or ARN. "
            "Write for example bedrock:global.anthropic.claude-haiku-4-5-20251001-v1:0."
        )
    given = _Given(text, query)
    given.check("bedrock", _BEDROCK_OPTIONS)
    region = given.rest.get("region")
    if region is not None and not _IS_REGION.fullmatch(region):
        raise ModelSpecError(f"{text!r}: region must be a region's name, for example us-east-1.")
    guardrail = _IS_GUARDRAIL.fullmatch(given.rest.get("guardrail", ""))
    if guardrail is None and "guardrail" in given.rest:
        raise ModelSpecError(
            f"{text!r}: guardrail must be ID:VERSION, for example abc123def456:1 or abc123def456:DRAFT."
        )
    _check_name(name or model, text)
    return BedrockSpec(
        name=name or model,
        model=model,
        region=region,
        temperature=given.share("temperature"),
        top_p=given.share("top_p"),
        cache=given.one_of("cache", _CACHES),
        guardrail=(guardrail["identifier"], guardrail["version"]) if guardrail else None,
        tier=given.one_of("tier", _TIERS),
        **given.of_server(BEDROCK_CONTEXT_TOKENS),
    )


def _python(text: str, argument: str, name: str | None) -> PythonSpec:
    path, _, query = argument.partition("?")
    module, _, factory = path.partition(":")
    if not _IS_DOTTED_NAME.fullmatch(module) or not _IS_DOTTED_NAME.fullmatch(factory):
        raise ModelSpecError(
            f"{text!r}: python: needs a module and a function in it. Write for example python:my_company.pipeline:make."
        )
    name = name or module.rpartition(".")[2]
    _check_name(name, text)
    given = _Given(text, query)
    limits = given.limits()
    if given.rest:
        raise ModelSpecError(f"{text!r}: python: has the options {', '.join(_LIMITS)} only.")
    return PythonSpec(name=name, module=module, factory=factory, limits=limits)
