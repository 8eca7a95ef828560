"""Models of Amazon Bedrock, by ConverseStream. One thread reads each answer; boto3 has no other way."""

import asyncio
import hashlib
import json
import logging
import re
import ssl
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from urllib.parse import quote, urlsplit

from botocore import exceptions
from botocore.config import Config
from botocore.httpsession import URLLib3Session
from botocore.session import get_session
from urllib3.exceptions import ReadTimeoutError as SilentStream

from answerback.core.context import estimate_tokens
from answerback.core.finish import STOP
from answerback.core.masking import masked
from answerback.core.uploads import IMAGE
from answerback.model_guard import texts_of
from answerback.models.errors import NO_SYSTEM, TOO_LONG, allowed_below, retry_after_ms_of
from answerback.models.prompts import pictures_of, system_of, turns_of
from answerback.models.reader import Found, call_piece, known, read_answer, source, total
from answerback.models.threads import DaemonThreads, Emit, from_thread
from answerback.outbound import Proxy, explain_certificate, proxy_for, tls_context
from answerback.ports import File, FinalModelError, ModelError, ModelFault, ModelLimits, Piece, Prompt
from answerback.protocol.errors import ErrorCode

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_TIMEOUT_S: Final = 300.0
"""Without a byte for this long Bedrock counts as gone. Long: a reasoning model may think before its first word."""

MIN_CACHED_TOKENS: Final = 512
"""The shortest prefix that any model on Bedrock caches; a shorter one would only be marked in vain."""

_HANG_UP_TIMEOUT_S: Final = 0.5
_AHEAD: Final = 64
_MAX_ADAPTIONS: Final = 8
"""A model that always names another member is not asked for ever."""

_ABOUT_TEMPERATURE: Final = re.compile("temperature", re.IGNORECASE)
_ABOUT_TOP_P: Final = re.compile("top_?p", re.IGNORECASE)
MAX_IMAGE_BYTES: Final = 3_750_000
"""Of one image (Converse)."""

_MAX_METADATA_CHARS: Final = 256
_MAX_QUOTED_CHARS: Final = 500
"""Of a source, as much as helps to find the place."""

_EVENTS: Final = ("contentBlockDelta", "contentBlockStart", "messageStop", "metadata")

_ABOUT_SAMPLING: Final = re.compile("temperature|top_?p", re.IGNORECASE)
_ABOUT_CACHE: Final = re.compile("cache_?point|prompt caching", re.IGNORECASE)
_ABOUT_MAX_TOKENS: Final = re.compile("maximum tokens you requested|max_?tokens", re.IGNORECASE)
_ABOUT_TIER: Final = re.compile("service_? ?tier", re.IGNORECASE)
_ABOUT_STREAMING: Final = re.compile(r"\bstream(ing)?\b|converse_?stream", re.IGNORECASE)
"""How refusals name what they are about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BedrockOptions:
    """What is sent with each request besides the prompt; None is left to the model.

    Newer models refuse `temperature` and `top_p`. `cache` (`5m` or `1h`): mark the system text and the conversation so
    far for reuse. `guardrail`: (id, version). `tier`: the service tier. `max_tokens`: the
    most that the model takes, None if it takes no such member. A guardrail is never left out by itself: it protects.
    """

    temperature: float | None = None
    top_p: float | None = None
    cache: str | None = None
    guardrail: tuple[str, str] | None = None
    tier: str | None = None
    max_tokens: int | None = 1_000_000
    has_system: bool = True
    streams: bool = True

    def adapted(self, text: str, prompt: Prompt) -> "BedrockOptions | None":
        """The options without what `text`, a refusal, names; None: it names nothing that can be spared."""
        if _ABOUT_TOP_P.search(text) and self.top_p is not None:  # before the other: of both it is the one to spare
            return replace(self, top_p=None)
        if _ABOUT_TEMPERATURE.search(text) and self.temperature is not None:
            return replace(self, temperature=None)
        if _ABOUT_CACHE.search(text) and self.cache is not None:
            return replace(self, cache=None)
        if _ABOUT_MAX_TOKENS.search(text) and self.max_tokens is not None:
            return replace(self, max_tokens=allowed_below(text, min(prompt.max_tokens, self.max_tokens)))
        if _ABOUT_TIER.search(text) and self.tier is not None:
            return replace(self, tier=None)
        if NO_SYSTEM.search(text) and self.has_system and system_of(prompt):
            return replace(self, has_system=False)
        if _ABOUT_STREAMING.search(text) and self.streams:
            return replace(self, streams=False)
        return None


def bedrock_client(
    *,
    region: str | None = None,
    connections: int = 32,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    silence_timeout_s: float = SILENCE_TIMEOUT_S,
) -> Any:
    """A client of Bedrock's runtime. Region, profile, credentials and endpoint are looked up as every AWS tool does.

    It never tries again by itself: the caller would not see that, and could not stop it.

    Raises: BotoCoreError: no region, or a profile that does not exist. ProxyError, CaFileError: the environment names
    what cannot be used.
    """
    config = Config(
        region_name=region,
        connect_timeout=connect_timeout_s,
        read_timeout=silence_timeout_s,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    client = get_session().create_client("bedrock-runtime", config=config)
    url = client.meta.endpoint_url
    proxy, made = proxy_for(url), client._endpoint.http_session
    client._endpoint.http_session = _HttpSession(
        verify=made._verify,
        proxies={} if proxy is None else {urlsplit(url).scheme: proxy.url},
        timeout=(connect_timeout_s, silence_timeout_s),
        max_pool_connections=connections,
        socket_options=made._socket_options,
    )
    made.close()
    return client


class _HttpSession(URLLib3Session):  # type: ignore[misc] # botocore has no types
    """botocore's, with the trust of all our clients. A bundle of `AWS_CA_BUNDLE` is trusted besides."""

    def _get_ssl_context(self) -> ssl.SSLContext:
        return tls_context()

    def _setup_ssl_cert(self, conn: Any, url: str, verify: Any) -> None:
        super()._setup_ssl_cert(conn, url, verify)
        if verify is True:  # what botocore brings along is not what the system trusts
            conn.ca_certs = None


class BedrockModel:
    """Streams the answers of one model, inference profile or ARN.

    `client` is of `bedrock_client`; it is closed with the model.
    """

    def __init__(
        self,
        *,
        client: Any,
        model: str,
        name: str | None = None,
        options: BedrockOptions | None = None,
        context_tokens: int = 32_768,
        concurrency: int = 32,
        limits: ModelLimits | None = None,
        usage_timeout_s: float | None = None,
    ) -> None:
        self._client = client
        self._model = model
        self.name: Final = name or model
        self._options = options or BedrockOptions()
        self.context_tokens: Final = context_tokens
        self.concurrency: Final = concurrency
        self.limits: Final = limits or ModelLimits()
        self._usage_timeout_s = usage_timeout_s
        self._proxy = proxy_for(client.meta.endpoint_url)
        self._threads = DaemonThreads("answerback-bedrock")

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The answer as Bedrock streams it, then one Finish. Closing hangs up on Bedrock.

        Raises: ModelError: by the table of errors below; `model_failed` where the stream ends before the answer.
        """
        for is_last in (False,) * _MAX_ADAPTIONS + (True,):
            options, has_begun = self._options, False
            build = partial(converse_request, prompt, self._model, options)
            # 16 MB of files take a moment, in which other answers go on.
            request = await asyncio.to_thread(build) if prompt.attachments else build()
            events = self._events(request, streams=options.streams)
            answer = read_answer(events, _found, prompt, usage_timeout_s=self._usage_timeout_s)
            try:
                async with aclosing(answer) as pieces:
                    async for piece in pieces:
                        has_begun = True
                        yield piece
                return
            except ModelError as error:
                refusal = masked(_refusal(error), texts_of(prompt))
                may_adapt = not (has_begun or is_last or TOO_LONG.search(refusal))
                adapted = options.adapted(refusal, prompt) if may_adapt else None
                if adapted is None:
                    raise
            logger.warning("model %s: Bedrock refuses a member of the request; from now on: %s", self.name, adapted)
            self._options = adapted

    async def close(self) -> None:
        self._client.close()

    async def _events(self, request: Mapping[str, Any], *, streams: bool) -> AsyncGenerator[dict[str, Any], None]:
        """What Bedrock says, event by event. Raises: ModelError."""
        reading = _Reading(self._client, request, streams=streams)
        source = from_thread(self._threads, reading.run, capacity=_AHEAD, stop_timeout_s=_HANG_UP_TIMEOUT_S)
        async with aclosing(source) as events:
            try:
                async for event in events:
                    yield event
            except (exceptions.ClientError, exceptions.BotoCoreError) as exc:
                raise model_error(exc, through=self._proxy) from exc
            finally:
                reading.hang_up()


def _refusal(error: ModelError) -> str:
    """What Bedrock, or boto3 before it, has against the form of a request; empty: the error is of another kind."""
    cause = error.__cause__
    if isinstance(cause, exceptions.ClientError):
        found = cause.response.get("Error", {})
        return str(found.get("Message", "")) if str(found.get("Code")).lower() == "validationexception" else ""
    return str(cause) if isinstance(cause, exceptions.ParamValidationError) else ""


def _found(event: Mapping[str, Any]) -> Found:
    block, start, stop, metadata = (event.get(name) or {} for name in _EVENTS)
    usage = metadata.get("usage") or {}
    delta = block.get("delta") or {}
    thoughts = delta.get("reasoningContent") or {}
    cited = delta.get("citationsContent") or {}
    uses = (delta.get("toolUse"), (start.get("start") or {}).get("toolUse"))
    which = (block or start).get("contentBlockIndex", 0)
    return Found(
        text=delta.get("text") or "".join(one.get("text", "") for one in cited.get("content", ())),
        thoughts=thoughts.get("text") or (thoughts.get("reasoningText") or {}).get("text") or "",
        calls=[call_piece(which, call.get("name"), call.get("input")) for call in uses if call],
        citations=[_source(one) for one in (delta.get("citation"), *cited.get("citations", ())) if one],
        reason=str(stop.get("stopReason") or STOP) if "messageStop" in event else None,
        counts=known(
            input_tokens=total(usage, "inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
            output_tokens=total(usage, "outputTokens"),
            cached_tokens=total(usage, "cacheReadInputTokens"),
        ),
    )


def _source(citation: Mapping[str, Any]) -> dict[str, str]:
    """Where a stretch of the answer comes from."""
    web = (citation.get("location") or {}).get("web") or {}
    quoted = "".join(one.get("text", "") for one in citation.get("sourceContent") or ())
    cited = {**citation, "url": web.get("url") or citation.get("source"), "text": quoted[:_MAX_QUOTED_CHARS]}
    return source(cited, title="title", url="url", text="text")


class _Reading:
    """One call, read in a thread; the event loop may hang up at any time."""

    def __init__(self, client: Any, request: Mapping[str, Any], *, streams: bool) -> None:
        self._client = client
        self._request = request
        self._streams = streams
        self._lock = threading.Lock()
        self._over = False
        self._raw: Any = None

    def run(self, emit: Emit[dict[str, Any]]) -> None:
        """Emit each event as it comes. Raises: BotoCoreError, ClientError, ModelError."""
        if not self._streams:
            for event in _events_of(self._client.converse(**self._request)):
                emit(event)
            return
        events = self._client.converse_stream(**self._request)["stream"]
        try:
            with self._lock:
                if self._over:
                    return
                self._raw = getattr(events, "_raw_stream", None)
            for event in events:
                if emit(event):
                    return
        except (exceptions.BotoCoreError, exceptions.ClientError):
            raise
        except Exception as exc:  # urllib3's and the decoder's own: botocore passes them on as they are.
            raise broken_stream(exc) from exc
        finally:
            with self._lock:
                self._raw = None
            # Unread, the connection cannot be used again: it is closed, and Bedrock stops.
            events.close()

    def hang_up(self) -> None:
        """Wake the thread up where it waits for bytes. Closing the stream from here would wait for them, too."""
        with self._lock:
            self._over = True
            # `shutdown` of urllib3 2.3 and newer; with an older one the thread ends with the next event.
            shutdown = getattr(self._raw, "shutdown", None)
            if shutdown is not None:
                with suppress(OSError, ValueError, RuntimeError):
                    shutdown()


def _events_of(response: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A whole answer as the events that a stream of it would have."""
    for number, block in enumerate(response["output"]["message"]["content"]):
        yield {"contentBlockDelta": {"delta": block, "contentBlockIndex": number}}
    yield {"messageStop": {"stopReason": response["stopReason"]}}
    yield {"metadata": {"usage": response.get("usage")}}


def converse_request(prompt: Prompt, model: str, options: BedrockOptions) -> dict[str, Any]:
    """The request's members for `converse_stream`.

    Raises: ModelError: `model_failed`: there is nothing to ask.
    """
    inference: dict[str, Any] = {
        # If the model takes it: without it Bedrock reserves the model's maximum of the account's quota for each answer.
        "maxTokens": None if options.max_tokens is None else min(prompt.max_tokens, options.max_tokens),
        "temperature": options.temperature,
        "topP": options.top_p,
    }
    request: dict[str, Any] = {
        "modelId": model,
        "messages": _messages(prompt, options.cache),
        "inferenceConfig": {key: value for key, value in inference.items() if value is not None},
    }
    if (system := system_of(prompt)) and not options.has_system:
        request["messages"][0]["content"].insert(0, {"text": system})
    elif system:
        request["system"] = [{"text": system}, *_cache_point(options.cache, estimate_tokens(system))]
    if options.guardrail is not None:
        identifier, version = options.guardrail
        request["guardrailConfig"] = {"guardrailIdentifier": identifier, "guardrailVersion": version}
    if prompt.json_schema is not None:
        definition = {"name": "answer", "schema": json.dumps(prompt.json_schema, ensure_ascii=False)}
        request["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}
    if options.tier is not None:
        request["serviceTier"] = {"type": options.tier}
    # Bedrock's log of invocations has these beside the tokens, so that a bill can be split by user.
    named = {"userId": prompt.user_id, "requestId": prompt.request_id}
    if metadata := {name: metadata_value(value) for name, value in named.items() if value}:
        request["requestMetadata"] = metadata
    return request


def metadata_value(text: str) -> str:
    """The text in the 72 characters that a value of `requestMetadata` may have; any other byte is `=XX`.

    What is then longer than such a value may be is named by its hash.
    """
    written = quote(text, safe=":_@$#/+,. -", errors="replace").replace("~", "%7E").replace("%", "=")
    if len(written) <= _MAX_METADATA_CHARS:
        return written
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _messages(prompt: Prompt, cache: str | None) -> list[dict[str, Any]]:
    """The conversation so far ends with a cache point, if it is long enough for one; the question is never marked."""
    grouped: list[dict[str, Any]] = [
        {"role": str(role), "content": [{"text": text} for text in texts]} for role, texts in turns_of(prompt)
    ]
    before: list[dict[str, Any]] = grouped[:-1]
    if before:
        tokens = estimate_tokens(system_of(prompt)) + sum(
            estimate_tokens(block["text"]) for one in before for block in one["content"]
        )
        before[-1]["content"] += _cache_point(cache, tokens)
    grouped[-1]["content"] += [_block(number, file) for number, file in enumerate(pictures_of(prompt), 1)]
    return grouped


def _block(number: int, file: File) -> dict[str, Any]:
    """A file as a block of content. Its own name could talk to the model, and most names are refused."""
    kind, form = file.media_type.split("/")
    source = {"bytes": file.data}
    if kind == IMAGE and len(file.data) > MAX_IMAGE_BYTES:
        raise FinalModelError(ErrorCode.MODEL_FAILED, "the image is too large for Bedrock", ModelFault.TOO_LONG)
    if kind == IMAGE:
        return {"image": {"format": form, "source": source}}
    return {"document": {"format": form, "name": f"document {number}", "source": source}}


def _cache_point(cache: str | None, tokens: int) -> list[dict[str, Any]]:
    if cache is None or tokens < MIN_CACHED_TOKENS:
        return []
    # Five minutes is what no `ttl` means, which older versions of boto3 do not know.
    return [{"cachePoint": {"type": "default"} if cache == "5m" else {"type": "default", "ttl": cache}}]


# --- errors: what each of Bedrock's means, and what the operator can do about it ---------------------------------
#
# One table for both of its kinds: a call fails with `ThrottlingException`, a stream breaks with `throttlingException`.
# The advice goes into the log.

_CREDENTIALS: Final = "Check the credentials: `aws sts get-caller-identity` must work with them."
_MODEL_ACCESS: Final = (
    "Allow bedrock:InvokeModelWithResponseStream on the model and on the inference profile. A model that is sold "
    "through AWS Marketplace has to be asked once by somebody with Marketplace rights (`answerback aws check`)."
)
_MODEL_ID: Final = (
    "Check the model id and the region (?region=…): `aws bedrock list-inference-profiles` shows what can be used there."
)
_SILENCE: Final = "The model was silent for too long; raise silence_s= if it thinks longer before it answers."
_TRY_LATER: Final = "It passes by itself."


@dataclass(frozen=True, slots=True)
class _Meaning:
    code: ErrorCode
    transient: bool = False
    advice: str = ""

    @property
    def fault(self) -> ModelFault | None:
        """What is not passing and comes with advice is the operator's to repair."""
        is_setup = self.code is ErrorCode.MODEL_UNAVAILABLE and not self.transient and self.advice
        return ModelFault.SETUP if is_setup else None


def _setup(advice: str) -> _Meaning:
    """What the operator has to repair."""
    return _Meaning(ErrorCode.MODEL_UNAVAILABLE, advice=advice)


_BY_CODE: Final[Mapping[str, _Meaning]] = {
    # Calls too fast, or too many tokens a minute.
    "ThrottlingException": _Meaning(
        ErrorCode.MODEL_THROTTLED, True, "Raise the model's quotas in Service Quotas if this goes on."
    ),
    "TooManyRequestsException": _Meaning(ErrorCode.MODEL_THROTTLED, True),
    "ServiceQuotaExceededException": _Meaning(
        ErrorCode.MODEL_THROTTLED, False, "Raise the model's quotas in Service Quotas."
    ),
    # Bedrock's or the model's own trouble.
    "ModelNotReadyException": _Meaning(ErrorCode.MODEL_UNAVAILABLE, True, _TRY_LATER),
    **dict.fromkeys(
        ("InternalServerException", "InternalFailure", "ServiceUnavailableException", "ServiceUnavailable"),
        _Meaning(ErrorCode.MODEL_UNAVAILABLE, True),
    ),
    **dict.fromkeys(("ModelStreamErrorException", "ModelErrorException"), _Meaning(ErrorCode.MODEL_FAILED, True)),
    "ModelTimeoutException": _Meaning(ErrorCode.MODEL_FAILED, False, "Ask for fewer tokens, or use a faster model."),
    # The operator's to repair.
    "AccessDeniedException": _setup(_MODEL_ACCESS),
    "ResourceNotFoundException": _setup(_MODEL_ID),
    "UnrecognizedClientException": _setup(_CREDENTIALS),
    "InvalidSignatureException": _setup(f"{_CREDENTIALS} Check this machine's clock, too."),
    "ExpiredTokenException": _setup("The credentials have expired: renew them."),
    "ExpiredToken": _setup("The credentials have expired: renew them."),
    # This prompt; another may do.
    "ValidationException": _Meaning(ErrorCode.MODEL_FAILED),
}

_BY_MESSAGE: Final[tuple[tuple[re.Pattern[str], _Meaning], ...]] = (
    (
        re.compile("FTUFormNotFilled|use case details", re.I),
        _setup("Fill in the provider's use case form in the Bedrock console, once."),
    ),
    (
        re.compile("on-demand throughput", re.I),
        _setup("Name the model's inference profile instead, for example global.MODEL_ID or us.MODEL_ID."),
    ),
    (re.compile("model identifier is invalid|end of its life|legacy", re.I), _setup(_MODEL_ID)),
    (_ABOUT_SAMPLING, _setup("Leave temperature and top_p out of the model's spec.")),
    (re.compile("guardrail", re.I), _setup("Check guardrail=ID:VERSION and bedrock:ApplyGuardrail.")),
    (_ABOUT_CACHE, _setup("This model caches no prompts: leave cache= out of its spec.")),
    (
        _ABOUT_MAX_TOKENS,
        _Meaning(ErrorCode.MODEL_FAILED, False, "The model writes shorter answers: lower --max-tokens."),
    ),
)
"""Faults that the operator has to repair differ by their message alone. For refusals (4xx), in this order."""

_REFUSALS: Final = frozenset({"AccessDeniedException", "ResourceNotFoundException", "ValidationException"})


def model_error(exc: exceptions.BotoCoreError | exceptions.ClientError, *, through: Proxy | None = None) -> ModelError:
    """The error of the closed list; its detail names Bedrock's own and says what to do. `through`: the proxy."""
    if isinstance(exc, exceptions.ClientError):
        return _of_answer(exc)
    return _of_transport(exc, through)


def broken_stream(exc: Exception) -> ModelError:
    """The error of an answer that broke off on its way: urllib3's own, or of the decoder of events."""
    is_silent = isinstance(exc, SilentStream)
    return ModelError(
        ErrorCode.MODEL_FAILED,
        f"Bedrock's stream broke: {type(exc).__name__}: {exc} {_SILENCE if is_silent else ''}".rstrip(),
        transient=not is_silent,
    )


def _of_answer(exc: exceptions.ClientError) -> ModelError:
    error, metadata = (exc.response.get(part, {}) for part in ("Error", "ResponseMetadata"))
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    # Refusals of a stream have the same names, in lower camel case.
    name = code[:1].upper() + code[1:]
    meaning = _BY_CODE.get(name)
    if name in _REFUSALS:
        meaning = next((found for pattern, found in _BY_MESSAGE if pattern.search(f"{code} {message}")), meaning)
    if meaning is None:
        status = metadata.get("HTTPStatusCode", 0)
        meaning = _Meaning(ErrorCode.MODEL_UNAVAILABLE, status >= 500 or status == 429)
        # Only a form that was not filled in has a code of its own that no model of botocore lists.
        meaning = next((found for pattern, found in _BY_MESSAGE[:1] if pattern.search(code)), meaning)
    detail = f"Bedrock: {code}: {message[:400]} {meaning.advice}".rstrip()
    fault = meaning.fault or (ModelFault.REFUSED if name == "ValidationException" else None)
    if fault is not None:
        is_length = TOO_LONG.search(message) is not None
        return FinalModelError(meaning.code, detail, ModelFault.TOO_LONG if is_length else fault)
    retry_after_ms = retry_after_ms_of(metadata.get("HTTPHeaders", {}))
    return ModelError(meaning.code, detail, transient=meaning.transient, retry_after_ms=retry_after_ms)


def _of_transport(exc: exceptions.BotoCoreError, through: Proxy | None) -> ModelError:
    advice, transient = "", False
    reason = exc.kwargs.get("error")
    untrusted = next(
        (one for one in getattr(reason, "args", ()) if isinstance(one, ssl.SSLCertVerificationError)), None
    )
    if isinstance(exc, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        advice = f"Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. {_CREDENTIALS}"
    elif isinstance(exc, exceptions.SSOError | exceptions.CredentialRetrievalError) or "Token" in type(exc).__name__:
        advice = "Sign in again, for example with `aws sso login`."
    elif isinstance(exc, exceptions.ParamValidationError):
        advice = "Check the options of the model's spec, and that boto3 is new enough to know them."
    elif isinstance(exc, exceptions.ReadTimeoutError):
        advice = _SILENCE
    elif untrusted is not None:
        advice, transient = f"{explain_certificate(untrusted)}.", True
    elif isinstance(exc, exceptions.ConnectionError | exceptions.HTTPClientError):
        advice = "Check the network, and that Bedrock exists in this region (?region=…)."
        transient = True
    way = "" if through is None else f" (through {through})"
    detail = f"Bedrock: {type(exc).__name__}: {exc}{way} {advice}".rstrip()
    if advice and not transient and not isinstance(exc, exceptions.ReadTimeoutError):
        return FinalModelError(ErrorCode.MODEL_UNAVAILABLE, detail, ModelFault.SETUP)
    return ModelError(ErrorCode.MODEL_UNAVAILABLE, detail, transient=transient)
