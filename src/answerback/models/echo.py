"""A model that answers with the question's own words: exact, deterministic and cheap, for tests and for load."""

import asyncio
import json
import re
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import chain, count, islice, repeat
from typing import Final

from answerback.core.context import title_of
from answerback.ports import Finish, ModelError, ModelLimits, Part, Piece, Prompt
from answerback.protocol.errors import ErrorCode

_WORD: Final = re.compile(r"\S+\s*")
_DELTAS_A_TURN: Final = 64
"""Without a delay, the event loop runs after so many deltas, so that a long answer does not starve other tasks."""


class EchoFailure(StrEnum):
    """How an answer goes wrong on purpose."""

    THROTTLED = "throttled"
    """`model_throttled` before the first delta."""
    UNAVAILABLE = "unavailable"
    """`model_unavailable` before the first delta."""
    FIRST = "first"
    """`model_failed` before the first delta."""
    MIDSTREAM = "midstream"
    """`model_failed` after half of the deltas, at least one."""
    HANG = "hang"
    """No delta, no end."""
    STALL = "stall"
    """Half of the deltas, at least one; then silence, no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOptions:
    """How to echo. Delays in milliseconds.

    `tokens`: give exactly so many deltas, whatever `max_tokens` says (`echo_text` returns the text). `fail_every`: with
    `fail`, every n-th answer of this model fails, counted from the first (2: the 2nd, 4th, ...). `fail_rate`: with
    `fail`, this share of the requests fails, chosen by a hash of the request id and the attempt. `context`: answer
    with the whole prompt instead of the question. `parts`: say something of every kind before the answer, the question
    itself as the thoughts.
    """

    first_ms: float = 0
    delay_ms: float = 0
    tokens: int | None = None
    fail: EchoFailure | None = None
    fail_every: int = 1
    fail_rate: float = 1.0
    retry_after_ms: int = 1000
    context: bool = False
    parts: bool = False
    concurrency: int = 10_000
    context_tokens: int = 100_000


def echo_deltas(text: str, *, tokens: int | None = None) -> Iterator[str]:
    """The deltas of an echo: words with the white space after them; white space at the start goes with the first.

    With `tokens`, exactly that many: the words in turn from the first, again and again; where the text starts again
    it is set off by a space unless it ended with white space.
    """
    if tokens is None:
        return iter(_words(text))
    last = text[-1:]
    again = text if not last or last.isspace() else text + " "
    rounds = max(1, len(_words(text)))
    # The last word of the last whole round is the text's own: no space is added at the very end.
    if tokens % rounds == 0 and again is not text:
        return chain(islice(_cycle(again), tokens - rounds), _words(text))
    return islice(_cycle(again), tokens)


def echo_text(text: str, *, tokens: int | None = None) -> str:
    """The whole answer of an echo to `text`."""
    return "".join(echo_deltas(text, tokens=tokens))


def prompt_text(prompt: Prompt) -> str:
    """Everything that a prompt holds, a line a message and a line a file: what `context` answers with."""
    lines = [] if prompt.system is None else [f"system: {prompt.system}"]
    lines += (f"{message.role}: {message.text}" for message in prompt.messages)
    lines += (f"file: {file.name} {file.media_type} {sha256(file.data).hexdigest()}" for file in prompt.attachments)
    return "\n".join(lines)


class EchoModel:
    """Answers with the question, one word a delta. Usage counts words.

    It stops at `prompt.max_tokens` words with the reason `length`, as any model does, unless `tokens` is set.
    `sleep` takes seconds.
    """

    def __init__(
        self,
        options: EchoOptions | None = None,
        *,
        name: str = "echo",
        limits: ModelLimits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._options = options or EchoOptions()
        self.name: Final = name
        self.context_tokens: Final = self._options.context_tokens
        self.concurrency: Final = self._options.concurrency
        self.limits: Final = limits or ModelLimits()
        self._sleep = sleep
        self._numbers = count(1)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The words of the question, then one Finish. Raises: ModelError: as `fail` says."""
        options = self._options
        text = prompt_text(prompt) if options.context else prompt.messages[-1].text
        failure, stop_after = options.fail and self._failure(prompt, options.fail), None
        if failure is not None:
            await self._fail_early(failure)
            stop_after = max(1, sum(1 for _ in echo_deltas(text, tokens=options.tokens)) // 2)
        max_tokens = prompt.max_tokens if options.tokens is None else None
        delay_s = options.delay_ms / 1000
        words_out = 0
        reason = "stop"
        for part in _parts(text) if options.parts else ():
            if delay_s:
                await self._sleep(delay_s)
            yield part
        for delta in echo_deltas(text, tokens=options.tokens):
            if words_out == stop_after:
                break
            if words_out == max_tokens:
                reason = "length"
                break
            if words_out == 0:
                if options.first_ms:
                    await self._sleep(options.first_ms / 1000)
            elif delay_s:
                await self._sleep(delay_s)
            elif words_out % _DELTAS_A_TURN == 0:
                await asyncio.sleep(0)
            yield delta
            words_out += 1
        if failure is EchoFailure.MIDSTREAM:
            raise ModelError(ErrorCode.MODEL_FAILED, "echo: told to fail in the middle of the answer")
        if failure is EchoFailure.STALL:
            await _forever()
        words_in = sum(len(message.text.split()) for message in prompt.messages)
        yield Finish(reason=reason, input_tokens=words_in, output_tokens=words_out)

    async def close(self) -> None:
        """Nothing is held."""

    def _failure(self, prompt: Prompt, fail: EchoFailure) -> EchoFailure | None:
        """`fail`, if this is one of the answers that fail."""
        options = self._options
        if next(self._numbers) % options.fail_every:
            return None
        if options.fail_rate < 1:
            name = f"{prompt.user_id}\n{prompt.request_id}\n{prompt.attempt}"
            if zlib.crc32(name.encode()) / 2**32 >= options.fail_rate:
                return None
        return fail

    async def _fail_early(self, failure: EchoFailure) -> None:
        if failure is EchoFailure.THROTTLED:
            raise ModelError(
                ErrorCode.MODEL_THROTTLED,
                "echo: told to be throttled",
                retry_after_ms=self._options.retry_after_ms,
                transient=True,
            )
        if failure is EchoFailure.UNAVAILABLE:
            raise ModelError(ErrorCode.MODEL_UNAVAILABLE, "echo: told to be unavailable", transient=True)
        if failure is EchoFailure.FIRST:
            raise ModelError(ErrorCode.MODEL_FAILED, "echo: told to fail before the first word")
        if failure is EchoFailure.HANG:
            await _forever()


def _parts(text: str) -> Iterator[Part]:
    words = _words(text)
    for word in words:
        yield Part("reasoning", word)
    yield Part("tool", '{"text": ', "count", new=True)
    yield Part("tool", f"{json.dumps(text, ensure_ascii=False)}}}")
    yield Part("result", str(len(words)), "count")
    yield Part("citation", json.dumps({"title": title_of(text)}, ensure_ascii=False))
    yield Part("status", "counted")


def _words(text: str) -> list[str]:
    words = _WORD.findall(text)
    lead = text[: len(text) - len(text.lstrip())]
    if lead:
        words[:1] = [lead + "".join(words[:1])]
    return words


def _cycle(text: str) -> Iterator[str]:
    words = _words(text)
    return chain.from_iterable(repeat(words)) if words else repeat(" ")


async def _forever() -> None:
    await asyncio.Event().wait()
