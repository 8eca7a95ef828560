"""Models behind any server of the OpenAI chat completions protocol: Ollama, vLLM, llama.cpp, LiteLLM, OpenAI itself."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import Struct
from yarl import URL

from answerback.core.answer import clean
from answerback.models.http import TRANSPORT_ERRORS, HttpClient, is_transient
from answerback.models.sse import SseDecoder, SseError
from answerback.ports import Finish, ModelError, Piece, Prompt
from answerback.protocol.errors import ErrorCode

CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_TIMEOUT_S: Final = 60.0
"""Without a byte for this long, before or in an answer, the server counts as gone."""

_DRAIN_TIMEOUT_S: Final = 0.25
_MAX_ERROR_BYTES: Final = 2_000
_MAX_BODY_BYTES: Final = 4 * 1024 * 1024

_ENCODINGS: Final = frozenset({"", "identity", "gzip", "deflate", "br", "zstd"})
"""What aiohttp decodes, or refuses by itself where the library is missing. It passes on others as they came."""

# OpenAI's newer models refuse `max_tokens`; most other servers know nothing else.
_MAX_COMPLETION_TOKENS_HOSTS: Final = ("api.openai.com", ".openai.azure.com")


class _Message(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(Struct):
    """A chunk of a stream, or a whole completion. vLLM sends errors as an object that calls itself `error`."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None
    code: Any = None


_decoder: Final = msgspec.json.Decoder(_Chunk)


class OpenAIModel:
    """Streams `POST {base_url}/chat/completions`.

    `api_key` is sent as a bearer token. `query` is added to the URL. Closing a stream closes its connection, on which
    servers stop generating. Durations in seconds.

    Raises: ValueError: the URL cannot be used. ProxyError: the environment names a proxy that cannot be used.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        name: str | None = None,
        api_key: str | None = None,
        query: Mapping[str, str] | None = None,
        context_tokens: int = 8192,
        concurrency: int = 32,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        silence_timeout_s: float = SILENCE_TIMEOUT_S,
    ) -> None:
        url = URL(f"{base_url}/chat/completions").update_query(query or {})
        self._model = model
        self.name: Final = name or model
        self.context_tokens: Final = context_tokens
        self.concurrency: Final = concurrency
        is_openai = str(url.host).endswith(_MAX_COMPLETION_TOKENS_HOSTS)
        self._max_tokens_field = "max_completion_tokens" if is_openai else "max_tokens"
        self._http = HttpClient(
            url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            connect_timeout_s=connect_timeout_s,
            silence_timeout_s=silence_timeout_s,
        )

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The answer as the server streams it, then one Finish.

        Raises: ModelError: by `_error_of_status`; `model_unavailable`: no answer came; `model_failed`: it broke off.
        """
        reason = usage = None
        has_begun = False
        try:
            async with (
                await self._http.post(msgspec.json.encode(self._body(prompt))) as response,
                aclosing(self._http.read(response)) as body,
            ):
                if response.status != HTTPStatus.OK:
                    raise _error_of_status(response.status, await _beginning(body), response.headers)
                has_begun = True
                async with aclosing(_chunks(response.headers, body)) as chunks:
                    async for chunk in chunks:
                        usage = chunk.usage or usage
                        # One answer is asked for; some servers send chunks without any.
                        for choice in (chunk.choices or ())[:1]:
                            piece = choice.delta or choice.message
                            reason = choice.finish_reason or reason
                            if piece is not None and piece.content:
                                yield piece.content
        except TRANSPORT_ERRORS as exc:
            detail = self._http.explain(exc)
            if has_begun:
                raise _failed(detail) from exc
            raise ModelError(ErrorCode.MODEL_UNAVAILABLE, detail, transient=is_transient(exc)) from exc
        if reason is None:
            raise _failed("the stream ended before the answer did")
        yield Finish(
            reason=reason,
            input_tokens=usage.prompt_tokens if usage else None,
            output_tokens=usage.completion_tokens if usage else None,
        )

    async def close(self) -> None:
        await self._http.close()

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        messages = [] if prompt.system is None else [{"role": "system", "content": clean(prompt.system)}]
        messages += ({"role": str(message.role), "content": clean(message.text)} for message in prompt.messages)
        return {
            "model": self._model,
            "messages": messages,
            self._max_tokens_field: prompt.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def _chunks(headers: Mapping[str, str], body: AsyncIterator[bytes]) -> AsyncGenerator[_Chunk, None]:
    """The chunks of an answer, up to `[DONE]`; a server that does not stream gives the whole as one."""
    encoding = headers.get("Content-Encoding", "identity").lower()
    if encoding not in _ENCODINGS:
        raise _failed(f"an answer in the encoding {encoding!r}, which was not asked for")
    if headers.get("Content-Type", "").startswith("application/json"):
        yield _decode(await _whole(body))
        return
    decoder = SseDecoder()
    async for data in body:
        try:
            events = decoder.feed(data)
        except SseError as exc:
            raise _failed(str(exc)) from exc
        for event in events:
            if event == "[DONE]":
                await _drain(body)
                return
            yield _decode(event)


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read the end of the body, so that the connection can be used again; nothing is lost if that fails."""
    with contextlib.suppress(*TRANSPORT_ERRORS):
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            async for _ in body:
                pass


def _decode(data: str | bytes) -> _Chunk:
    try:
        chunk = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise _failed(f"a chunk that cannot be read ({exc}): {data[:200]!r}") from exc
    if chunk.error is not None or chunk.object == "error":
        code = chunk.error.get("code") if isinstance(chunk.error, dict) else chunk.code
        if isinstance(code, int) and (code == HTTPStatus.TOO_MANY_REQUESTS or code >= 500):
            raise _error_of_status(code, str(data[:_MAX_ERROR_BYTES]), {})
        raise _failed(f"an error in the stream: {data[:_MAX_ERROR_BYTES]!r}")
    return chunk


async def _beginning(body: AsyncIterator[bytes]) -> str:
    """The start of an error's body, for the operator's log."""
    start = b""
    async for part in body:
        start += part
        if len(start) >= _MAX_ERROR_BYTES:
            break
    return start[:_MAX_ERROR_BYTES].decode("utf-8", "replace")


async def _whole(body: AsyncIterator[bytes]) -> bytes:
    whole = bytearray()
    async for part in body:
        whole += part
        if len(whole) > _MAX_BODY_BYTES:
            raise _failed(f"an answer of more than {_MAX_BODY_BYTES} bytes")
    return bytes(whole)


def _error_of_status(status: int, body: str, headers: Mapping[str, str]) -> ModelError:
    """What an HTTP status means. 4xx besides those named are about this prompt: another may do."""
    detail = f"HTTP {status}: {body}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        if "insufficient_quota" in body:
            return ModelError(ErrorCode.MODEL_UNAVAILABLE, detail)
        return ModelError(ErrorCode.MODEL_THROTTLED, detail, retry_after_ms=_retry_after_ms(headers), transient=True)
    if status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY} or status >= 500:
        return ModelError(ErrorCode.MODEL_UNAVAILABLE, detail, retry_after_ms=_retry_after_ms(headers), transient=True)
    if status in {401, 402, 403, 404} or status < 400:
        return ModelError(ErrorCode.MODEL_UNAVAILABLE, detail)
    return _failed(detail)


def _retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """`Retry-After-Ms`, or `Retry-After` in seconds or as a date, which is compared with the server's own clock."""
    for name, unit_ms in (("retry-after-ms", 1), ("retry-after", 1000)):
        try:
            return max(0, min(86_400_000, int(float(headers[name]) * unit_ms)))
        except (KeyError, ValueError, OverflowError):
            pass
    try:
        until, now = parsedate_to_datetime(headers["retry-after"]), parsedate_to_datetime(headers["date"])
        return max(0, int((until - now).total_seconds() * 1000))
    except (KeyError, ValueError, TypeError):
        return None


def _failed(detail: str) -> ModelError:
    return ModelError(ErrorCode.MODEL_FAILED, detail)
