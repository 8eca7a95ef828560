"""Models behind any server of the OpenAI chat completions protocol: Ollama, vLLM, llama.cpp, LiteLLM, OpenAI itself."""

import asyncio
import base64
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import msgspec
from yarl import URL

from answerback.core.masking import masked
from answerback.core.uploads import IMAGE, kind_of
from answerback.model_guard import texts_of
from answerback.models.documents import DocumentDecoder, decode
from answerback.models.errors import NO_SYSTEM, TOO_LONG, ErrorDetails, allowed_below, error_of, room_left
from answerback.models.http import TRANSPORT_ERRORS, HttpClient, is_transient
from answerback.models.prompts import chat_messages, in_words, pictures_of, response_format
from answerback.models.reader import DRAIN_TIMEOUT_S, chat_completion, read_answer
from answerback.ports import File, ModelError, ModelLimits, Piece, Prompt
from answerback.protocol.errors import ErrorCode

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_TIMEOUT_S: Final = 300.0
"""Without a byte for this long, before or in an answer, the server counts as gone: a model may load, or think."""

CHECK_TIMEOUT_S: Final = 10.0
_MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_NAMES_SHOWN: Final = 5
_MIN_ANSWER_TOKENS: Final = 128
"""Of an answer that is cut to the room behind its prompt. Where less is left, the prompt is too long."""

_MAX_DIALECTS: Final = 8
"""A server that always names another member is not asked for ever."""

_ENCODINGS: Final = frozenset({"", "identity", "gzip", "deflate", "br", "zstd"})
"""What aiohttp decodes, or refuses by itself where the library is missing. It passes on others as they came."""

_MAX_TOKENS: Final = ("max_tokens", "max_completion_tokens")
"""Most servers know the first only; OpenAI's newer models refuse it."""


_BAD_SCHEMA: Final = re.compile(r"invalid[\w ]* schema", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Which of the protocol's members a server takes. `max_tokens_fields`: the next to try first; none is left: none.

    `has_system` false: the system text goes into the first message. `has_format` false: a schema is told in words.
    """

    max_tokens_fields: tuple[str, ...] = _MAX_TOKENS
    max_tokens: int = 1_000_000
    stream: bool = True
    stream_options: bool = True
    has_system: bool = True
    has_format: bool = True

    def body(self, model: str, prompt: Prompt) -> dict[str, Any]:
        """The request. Raises: ModelError: there is nothing to ask."""
        if not self.has_format:
            prompt = in_words(prompt)
        system, messages = chat_messages(prompt)
        if system and not self.has_system:
            messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
        elif system:
            messages.insert(0, {"role": "system", "content": system})
        if files := pictures_of(prompt):
            messages[-1]["content"] = [{"type": "text", "text": messages[-1]["content"]}, *map(_content, files)]
        body: dict[str, Any] = {"model": model, "messages": messages}
        if self.max_tokens_fields:
            body[self.max_tokens_fields[0]] = min(prompt.max_tokens, self.max_tokens)
        if self.stream:
            body["stream"] = True
        if self.stream and self.stream_options:
            body["stream_options"] = {"include_usage": True}
        if prompt.json_schema is not None:
            body["response_format"] = response_format(prompt.json_schema)
        return body

    def adapted(self, text: str, body: Mapping[str, Any]) -> "Dialect | None":
        """The dialect without what `text`, a refusal of `body`, names; None: it names nothing that can be spared."""
        if re.search("response_format|json_schema|schema", text) and "response_format" in body:
            return replace(self, has_format=False)
        if "stream_options" in text and "stream_options" in body:
            return replace(self, stream_options=False)
        if any(field in text for field in _MAX_TOKENS) and self.max_tokens_fields:
            sent = body[self.max_tokens_fields[0]]
            if (allowed := allowed_below(text, sent)) is not None:
                return replace(self, max_tokens=allowed)
            return replace(self, max_tokens_fields=self.max_tokens_fields[1:])
        if NO_SYSTEM.search(text) and body["messages"][0]["role"] == "system":
            return replace(self, has_system=False)
        if re.search(r"\bstream(ing)?\b", text) and self.stream:
            return replace(self, stream=False)
        return None


def _is_about_form(status: int, text: str, *, sent: int) -> bool:
    """Whether another form of the request may help. `sent`: tokens that were asked for."""
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return NO_SYSTEM.search(text) is not None  # so llama.cpp tells what a template raises
    may_be_shorter = room_left(text) is None and allowed_below(text, sent) is not None
    return status in (400, 422) and (may_be_shorter or TOO_LONG.search(text) is None)


def _content(file: File) -> dict[str, Any]:
    """A part of a message's content: an image, or a file of another kind."""
    url = f"data:{file.media_type};base64,{base64.b64encode(file.data).decode()}"
    if kind_of(file.media_type) == IMAGE:
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": file.name, "file_data": url}}


def _request(dialect: Dialect, model: str, prompt: Prompt) -> tuple[dict[str, Any], bytes]:
    """The request, and its bytes. Raises: ModelError: there is nothing to ask."""
    body = dialect.body(model, prompt)
    return body, msgspec.json.encode(body)


class OpenAIModel:
    """Streams `POST {base_url}/chat/completions`.

    `api_key` is sent as a bearer token, and `key_source` says where it comes from. `query` is added to the URL.
    `dialect`: what the server takes, if that is known; else it is learnt from what it refuses. Closing a stream closes
    its connection, on which servers stop generating. Durations in seconds.

    Raises: ValueError: the URL cannot be used. ProxyError, CaFileError: the environment names what cannot be used.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        name: str | None = None,
        api_key: str | None = None,
        key_source: str = "api_key_env",
        query: Mapping[str, str] | None = None,
        dialect: Dialect | None = None,
        context_tokens: int = 8192,
        concurrency: int = 32,
        limits: ModelLimits | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        silence_timeout_s: float = SILENCE_TIMEOUT_S,
        usage_timeout_s: float | None = None,
    ) -> None:
        self._base = URL(base_url)
        self._query = query or {}
        self._key = api_key
        self._model = model
        self.name: Final = name or model
        self.context_tokens: Final = context_tokens
        self.concurrency: Final = concurrency
        self.limits: Final = limits or ModelLimits()
        self.unread_documents = 0
        self._usage_timeout_s = usage_timeout_s
        self._dialect = dialect or Dialect()
        self._setup = f"Check {key_source}, which is {'set' if api_key else 'not set'}, the URL and the model's name."
        self._http = HttpClient(
            self._url("chat/completions"),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            connect_timeout_s=connect_timeout_s,
            silence_timeout_s=silence_timeout_s,
        )

    def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The answer as the server streams it, then one Finish.

        Raises: ModelError: by `errors.error_of`; `model_unavailable`: no answer came; `model_failed`: it broke off.
        """
        return read_answer(
            self._documents(prompt),
            chat_completion,
            prompt,
            note_odd=self._note_odd,
            usage_timeout_s=self._usage_timeout_s,
        )

    async def check(self) -> str | None:
        """What is wrong with the server, the key or the model's name, as far as the list of its models shows it."""
        try:
            async with await self._http.get(self._url("models"), timeout_s=CHECK_TIMEOUT_S) as response:
                body = decode(await self._beginning(response))
        except TRANSPORT_ERRORS as exc:
            return f"{self._base} does not answer: {self._http.explain(exc)}"
        if response.status in (401, 403):
            return f"{self._base} refuses the key (HTTP {response.status}). {self._setup}"
        listed = body.get("data") if isinstance(body, dict) else None
        names = [str(one.get("id")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        if response.status == HTTPStatus.OK and names and self._model not in names:
            shown = ", ".join(names[:_MAX_NAMES_SHOWN]) + (", …" if len(names) > _MAX_NAMES_SHOWN else "")
            return f"{self._base} does not list a model {self._model!r}. It lists: {shown}"
        return None

    async def close(self) -> None:
        await self._http.close()

    async def _ask(self, prompt: Prompt) -> aiohttp.ClientResponse:
        """The response whose body is the answer. A member that the server refuses by name is left out from then on.

        Raises: ModelError; TRANSPORT_ERRORS.
        """
        dialect = self._dialect
        for _ in range(_MAX_DIALECTS):
            build = partial(_request, dialect, self._model, prompt)
            # 16 MB of files take a moment, in which other answers go on.
            body, data = await asyncio.to_thread(build) if prompt.attachments else build()
            response = await self._http.post(data)
            if response.status == HTTPStatus.OK:
                self._dialect = dialect
                return response
            async with response:
                data = await self._beginning(response)
            if self._key:  # some servers repeat it
                data = data.replace(self._key.encode(), b"KEY")
            document = decode(data)
            details = ErrorDetails.of(
                document if isinstance(document, dict | list) else data.decode("utf-8", "replace")
            )
            if prompt.json_schema is not None and dialect.has_format and _BAD_SCHEMA.search(details.text):
                prompt = in_words(prompt)  # this one alone: the server can do others
                continue
            if _MIN_ANSWER_TOKENS <= (room := room_left(details.text) or 0) < prompt.max_tokens:
                prompt = replace(prompt, max_tokens=room)
                continue
            # Masked: a question that is repeated in the refusal must not name a member.
            refusal = masked(f"{details.fields} {details.text}", texts_of(prompt))
            is_form = _is_about_form(response.status, details.text, sent=prompt.max_tokens)
            adapted = dialect.adapted(refusal, body) if is_form else None
            if adapted is None:
                break
            logger.warning("model %s: its server refuses a member of the request; from now on: %s", self.name, adapted)
            dialect = adapted
        raise error_of(details, status=response.status, headers=response.headers, setup=self._setup)

    async def _documents(self, prompt: Prompt) -> AsyncGenerator[Any, None]:
        """What the server says, up to `[DONE]`. Raises: ModelError: it breaks off, or it is no answer of a model."""
        try:
            response = await self._ask(prompt)
        except TRANSPORT_ERRORS as exc:
            detail = self._http.explain(exc)
            raise ModelError(ErrorCode.MODEL_UNAVAILABLE, detail, transient=is_transient(exc)) from exc
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in _ENCODINGS:
            raise ModelError(ErrorCode.MODEL_FAILED, f"an answer in the encoding {encoding!r}, which was not asked for")
        decoder = DocumentDecoder()
        count = 0
        broken: Exception | None = None
        async with response, aclosing(self._http.read(response)) as body:
            try:
                async for data in body:
                    for document in decoder.feed(data):
                        count += 1
                        yield document
                    if decoder.is_over:
                        await _drain(body)
                        break
            except TRANSPORT_ERRORS as exc:
                broken = exc
        for document in decoder.close():
            count += 1
            yield document
        self.unread_documents += decoder.unread
        if broken is not None:
            raise ModelError(ErrorCode.MODEL_FAILED, self._http.explain(broken)) from broken
        if not count and not decoder.is_over:
            raise ModelError(
                ErrorCode.MODEL_FAILED, f"neither events nor JSON, but a body that begins {decoder.start!r}"
            )

    async def _beginning(self, response: aiohttp.ClientResponse) -> bytes:
        """The start of a body that is no answer."""
        start = b""
        async with aclosing(self._http.read(response)) as body:
            async for part in body:
                start += part
                if len(start) >= _MAX_ERROR_BYTES:
                    break
        return start[:_MAX_ERROR_BYTES]

    def _url(self, path: str) -> URL:
        return (self._base / path).update_query(self._query)

    def _note_odd(self) -> None:
        self.unread_documents += 1


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read the end of the body, so that the connection can be used again; nothing is lost if that fails."""
    with suppress(*TRANSPORT_ERRORS):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            async for _ in body:
                pass
