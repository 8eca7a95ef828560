"""Models of Amazon Bedrock, by ConverseStream. One thread reads each answer; boto3 has no other way."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

from answerback.core.answer import clean
from answerback.core.context import Message, estimate_tokens
from answerback.models.bedrock_errors import broken_stream, model_error
from answerback.models.threads import DaemonThreads, Emit, from_thread
from answerback.ports import Finish, ModelError, Piece, Prompt
from answerback.protocol.errors import ErrorCode

CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_TIMEOUT_S: Final = 300.0
"""Without a byte for this long Bedrock counts as gone. Long: a reasoning model may think before its first word."""

USAGE_TIMEOUT_S: Final = 5.0
"""The counts come after the answer has ended; it is not held back for longer than this because of them."""

MIN_CACHED_TOKENS: Final = 512
"""The shortest prefix that any model on Bedrock caches; a shorter one would only be marked in vain."""

_HANG_UP_TIMEOUT_S: Final = 0.5
_DRAIN_TIMEOUT_S: Final = 0.25
_AHEAD: Final = 64

_REASONS: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BedrockOptions:
    """What is sent with each request besides the prompt; None is left to the model.

    Newer models refuse `temperature` and `top_p`. `cache` (`5m` or `1h`): mark the system text and the conversation so
    far for reuse. `guardrail`: (id, version). `tier`: the service tier.
    """

    temperature: float | None = None
    top_p: float | None = None
    cache: str | None = None
    guardrail: tuple[str, str] | None = None
    tier: str | None = None


def bedrock_client(
    *,
    region: str | None = None,
    connections: int = 32,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    silence_timeout_s: float = SILENCE_TIMEOUT_S,
) -> Any:
    """A client of Bedrock's runtime. Region, profile, credentials and endpoint are looked up as every AWS tool does.

    It never tries again by itself: that would be unseen by whoever waits, and could not be stopped.

    Raises: BotoCoreError: no region, or a profile that does not exist.
    """
    config = Config(
        region_name=region,
        connect_timeout=connect_timeout_s,
        read_timeout=silence_timeout_s,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    return get_session().create_client("bedrock-runtime", config=config)


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
        usage_timeout_s: float = USAGE_TIMEOUT_S,
    ) -> None:
        self._client = client
        self._model = model
        self._name = name or model
        self._options = options or BedrockOptions()
        self._context_tokens = context_tokens
        self._concurrency = concurrency
        self._usage_timeout_s = usage_timeout_s
        self._threads = DaemonThreads("answerback-bedrock")

    @property
    def name(self) -> str:
        """How clients and logs call it."""
        return self._name

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._context_tokens

    @property
    def concurrency(self) -> int:
        """Answers that may be in flight."""
        return self._concurrency

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The answer as Bedrock streams it, then one Finish. Closing hangs up on Bedrock.

        Raises: ModelError: by the table in `bedrock_errors`; `model_failed` where the stream ends before the answer.
        """
        reading = _Reading(self._client, converse_request(prompt, self._model, self._options))
        source = from_thread(self._threads, reading.run, capacity=_AHEAD, stop_timeout_s=_HANG_UP_TIMEOUT_S)
        async with aclosing(source) as events:
            try:
                async for event in events:
                    if text := event.get("contentBlockDelta", {}).get("delta", {}).get("text"):
                        yield text
                    if "messageStop" in event:
                        yield await self._finish(event["messageStop"].get("stopReason", "stop"), events)
                        return
            except (ClientError, BotoCoreError) as exc:
                raise model_error(exc) from exc
            finally:
                reading.hang_up()
        raise ModelError(ErrorCode.MODEL_FAILED, "Bedrock's stream ended before the answer did")

    async def close(self) -> None:
        """Close all connections."""
        self._client.close()

    async def _finish(self, stop_reason: str, events: AsyncGenerator[dict[str, Any], None]) -> Finish:
        """The end of an answer that is whole; whatever goes wrong now costs the counts and nothing else."""
        usage: Mapping[str, Any] = {}
        with suppress(ClientError, BotoCoreError, ModelError, TimeoutError):
            async with asyncio.timeout(self._usage_timeout_s):
                async for event in events:
                    if "metadata" in event:
                        usage = event["metadata"].get("usage", {})
                        break
            # Read to its end the connection serves the next answer.
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                async for _ in events:
                    pass
        return Finish(
            reason=_REASONS.get(stop_reason, stop_reason),
            input_tokens=_total(usage, "inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
            output_tokens=_total(usage, "outputTokens"),
        )


class _Reading:
    """One call, read in a thread; the event loop may hang up at any time."""

    def __init__(self, client: Any, request: Mapping[str, Any]) -> None:
        self._client = client
        self._request = request
        self._lock = threading.Lock()
        self._over = False
        self._raw: Any = None

    def run(self, emit: Emit[dict[str, Any]]) -> None:
        """Emit each event as it comes. Raises: BotoCoreError, ClientError, ModelError."""
        events = self._client.converse_stream(**self._request)["stream"]
        try:
            with self._lock:
                if self._over:
                    return
                self._raw = getattr(events, "_raw_stream", None)
            for event in events:
                if emit(event):
                    return
        except (BotoCoreError, ClientError):
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


def converse_request(prompt: Prompt, model: str, options: BedrockOptions) -> dict[str, Any]:
    """The request's members for `converse_stream`.

    Raises: ModelError: `model_failed`: there is nothing to ask.
    """
    inference: dict[str, Any] = {
        # Always: without it Bedrock reserves the model's maximum of the account's quota for each answer.
        "maxTokens": prompt.max_tokens,
        "temperature": options.temperature,
        "topP": options.top_p,
    }
    request: dict[str, Any] = {
        "modelId": model,
        "messages": _messages(prompt.messages, options.cache, estimate_tokens(prompt.system or "")),
        "inferenceConfig": {key: value for key, value in inference.items() if value is not None},
    }
    if system := clean(prompt.system or "").strip():
        request["system"] = [{"text": system}, *_cache_point(options.cache, estimate_tokens(system))]
    if options.guardrail is not None:
        identifier, version = options.guardrail
        request["guardrailConfig"] = {"guardrailIdentifier": identifier, "guardrailVersion": version}
    if options.tier is not None:
        request["serviceTier"] = {"type": options.tier}
    return request


def _messages(said: Iterable[Message], cache: str | None, tokens_before: int) -> list[dict[str, Any]]:
    """Roles in turns, the user's first, no blank text: Bedrock refuses everything else.

    The conversation so far ends with a cache point, if it is long enough for one; the question is never marked.
    """
    texts = [(str(one.role), clean(one.text)) for one in said]
    grouped = [
        {"role": role, "content": [{"text": text} for _, text in group]}
        for role, group in groupby((pair for pair in texts if pair[1].strip()), key=lambda pair: pair[0])
    ]
    if grouped and grouped[0]["role"] != "user":
        grouped = grouped[1:]
    if not grouped or grouped[-1]["role"] != "user":
        raise ModelError(ErrorCode.MODEL_FAILED, "the question is blank, and Bedrock refuses blank messages")
    before = grouped[:-1]
    if before:
        tokens = tokens_before + sum(estimate_tokens(block["text"]) for one in before for block in one["content"])
        before[-1]["content"] += _cache_point(cache, tokens)
    return grouped


def _cache_point(cache: str | None, tokens: int) -> list[dict[str, Any]]:
    if cache is None or tokens < MIN_CACHED_TOKENS:
        return []
    # Five minutes is what no `ttl` means, which older versions of boto3 do not know.
    return [{"cachePoint": {"type": "default"} if cache == "5m" else {"type": "default", "ttl": cache}}]


def _total(usage: Mapping[str, Any], *names: str) -> int | None:
    found = [usage[name] for name in names if isinstance(usage.get(name), int)]
    return sum(found) if found else None
