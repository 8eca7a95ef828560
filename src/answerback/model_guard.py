"""Where a model's output comes in: whatever it does, what leaves here is text, parts, one Finish, or a ModelError.

A model is foreign code, or speaks for a foreign server. Nothing that it yields or raises reaches a store, a frame or
the log unchecked. Its end is final: what it does after its Finish changes nothing.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeAlias

from answerback.core.finish import finish_reason, token_count
from answerback.core.masking import masked, masked_error, text_of
from answerback.core.parts import MAX_NAME_LENGTH, TEXT
from answerback.core.uploads import TEXT as PLAIN_TEXT
from answerback.core.uploads import kind_of
from answerback.ports import FinalModelError, Finish, Model, ModelError, ModelFault, Part, Piece, Prompt
from answerback.protocol.errors import ErrorCode

logger = logging.getLogger(__name__)

MAX_RETRY_AFTER_MS: Final = 86_400_000
_MAX_HEARD: Final = 1_000_000
"""Code points of thoughts that are known again in an error. Of text, `take` says when it is enough."""
_CODES: Final = frozenset({ErrorCode.MODEL_UNAVAILABLE, ErrorCode.MODEL_THROTTLED, ErrorCode.MODEL_FAILED})
_END: Final = object()

Take: TypeAlias = Callable[[Piece], bool | None]
Ask: TypeAlias = Callable[[Model, Prompt, Take], Awaitable[None]]
"""`ask`, or what calls it."""


async def ask(model: Model, prompt: Prompt, take: Take) -> None:
    """Give `take` what the model says: text and parts, then exactly one Finish. It stops where `take` returns true.

    A model that just ends has finished. Every exception but the caller's own cancellation, `SystemExit` and another
    task's cancellation among them, is `model_failed`, and its traceback is logged. Texts for the log lose the words
    of the conversation. How long its code after its Finish may take is the caller's affair. Raises: ModelError.
    """
    task = asyncio.current_task()
    heard: list[str] = []  # what an error may repeat
    room = _MAX_HEARD
    source: AsyncIterator[object] | None = None
    is_over = False
    is_enough: bool | None = False
    try:
        while not (is_over or is_enough):
            try:
                source = source or aiter(model.stream(prompt))
                piece = await anext(source, _END)
                if isinstance(piece, str):
                    heard.append(piece)
                elif isinstance(piece, Part):
                    piece = _part(piece)
                    if room > 0:
                        heard.append(text := piece if isinstance(piece, str) else piece.text)
                        room -= len(text)
                else:
                    is_over = piece is _END or isinstance(piece, Finish)
                    piece = _finish(piece, prompt)
            except BaseException as exc:
                if (error := _error(exc, prompt, heard, model.name)) is exc:
                    raise
                raise error from exc
            if task is not None and task.cancelling():  # the model has swallowed it
                raise asyncio.CancelledError
            if piece:
                is_enough = take(piece)
    finally:
        try:
            await _close(source, is_over=is_over)
        except BaseException as exc:
            # Its end is known: only our own cancellation counts now.
            if isinstance(error := _error(exc, prompt, heard, model.name), asyncio.CancelledError | GeneratorExit):
                raise error from None


async def _close(source: AsyncIterator[object] | None, *, is_over: bool) -> None:
    if is_over and source is not None:
        await anext(source, _END)  # the code after its last yield; what more it says is not heard
    if (aclose := getattr(source, "aclose", None)) is not None:
        await aclose()


def _finish(given: object, prompt: Prompt) -> Finish:
    """What comes behind the text. Raises: TypeError, ModelError."""
    if given is _END:
        return Finish()
    if not isinstance(given, Finish):
        raise TypeError(f"a piece must be str, Part or Finish, not {type(given).__name__}")
    return checked_finish(given, prompt)


def _part(given: Part) -> Part | str:
    """A piece of a part as clients may get it, or of the text. Raises: TypeError."""
    kind, text, name = given.kind, given.text, given.name
    if not (isinstance(kind, str) and isinstance(text, str)):
        raise TypeError("the kind and the text of a part must be str")
    if kind == TEXT:
        return text
    # A name is shown in one line, beside words that are not the model's.
    shown = "".join(filter(str.isprintable, name)) if isinstance(name, str) else ""
    return Part(kind, text, shown[:MAX_NAME_LENGTH] or None, bool(given.new))


def texts_of(prompt: Prompt) -> tuple[str, ...]:
    """All text of a prompt: what must not be in the log."""
    names = (file.name for file in prompt.attachments)
    files = (file.data.decode(errors="ignore") for file in prompt.attachments if kind_of(file.media_type) == PLAIN_TEXT)
    return (prompt.system or "", *(message.text for message in prompt.messages), *names, *files)


def checked_finish(finish: Finish, prompt: Prompt) -> Finish:
    """`finish` as the protocol allows it. Raises: ModelError: its reason says that the model failed."""
    reason = finish_reason(finish.reason)
    if reason is None:
        detail = f"the answer ended with {masked(finish.reason[:40], texts_of(prompt))!r}"
        raise ModelError(ErrorCode.MODEL_FAILED, detail, transient=True)
    return Finish(
        reason=reason,
        input_tokens=token_count(finish.input_tokens),
        output_tokens=token_count(finish.output_tokens),
        cached_tokens=token_count(finish.cached_tokens),
        reasoning_tokens=token_count(finish.reasoning_tokens),
    )


def _error(exc: BaseException, prompt: Prompt, heard: list[str], name: str) -> BaseException:
    """What to raise for an exception of a model."""
    if isinstance(exc, GeneratorExit) and _loop_is_gone():
        return exc
    if _is_cancelled():
        return asyncio.CancelledError()
    said = (*texts_of(prompt), "".join(heard))
    if not isinstance(exc, ModelError):
        copy = masked_error(exc, said)
        logger.error("model %s: its code raised an exception", name, exc_info=(type(copy), copy, copy.__traceback__))
        return ModelError(ErrorCode.MODEL_FAILED, f"{type(exc).__name__} in the code of {name}")
    code, retry_ms, fault = (getattr(exc, part, None) for part in ("code", "retry_after_ms", "fault"))
    is_ours = type(exc) is ModelError or (type(exc) is FinalModelError and isinstance(fault, ModelFault))
    error = exc if is_ours else ModelError(ErrorCode.MODEL_FAILED)
    error.code = ErrorCode(code) if isinstance(code, str) and code in _CODES else ErrorCode.MODEL_FAILED
    error.detail = masked(text_of(getattr(exc, "detail", "")), said)
    error.args = (error.code, error.detail)
    error.retry_after_ms = min(max(0, retry_ms), MAX_RETRY_AFTER_MS) if type(retry_ms) is int else None
    error.transient = getattr(exc, "transient", False) is True
    return error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _loop_is_gone() -> bool:
    """Whether this generator is thrown away, and not closed or run."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False
