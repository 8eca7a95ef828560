"""How a question is asked: its options, its frame, and when it is given up."""

import re
import sys
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, TypedDict

from answerback.client.errors import MessageTooLarge
from answerback.client.exchange import Timeouts
from answerback.client.session import Session
from answerback.client.timing import Timing
from answerback.client.typed import described
from answerback.client.uploads import File, Source
from answerback.core.answer import clean
from answerback.protocol.codec import encode
from answerback.protocol.frames import Format, SendMessage, ServerLimits
from answerback.protocol.limits import MAX_MESSAGE_BYTES

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class AskOptions(TypedDict, total=False):
    """How a question is asked; see `Client.ask`."""

    timeout: float | None
    conversation: str | None
    model: str | None
    system: str | None
    max_tokens: int | None
    replaces: str | None
    attachments: Sequence[Source]
    request_id: str | None
    schema: Mapping[str, Any] | None


class StreamOptions(AskOptions, total=False):
    """How a question is asked whose answer is streamed; see `Client.stream`."""

    total_timeout: float | None
    parts: Collection[str]


def question(
    message: str,
    files: Sequence[File],
    *,
    limits: ServerLimits | None,
    stream: bool,
    conversation: str | None,
    model: str | None,
    system: str | None,
    max_tokens: int | None,
    replaces: str | None,
    request_id: str | None,
    schema: Mapping[str, Any] | None,
    parts: Collection[str] = (),
) -> SendMessage:
    """The frame of a question. Raises: MessageTooLarge, ValueError, TypeError."""
    text = clean(message)
    for what, given in (("message", message), ("system prompt", system or "")):
        if _LONE_SURROGATE.search(given):
            raise ValueError(f"the {what} has bytes that were not text (lone surrogates); decode them as what they are")
    if not text.strip():
        raise ValueError("the message is empty; ask something")
    if isinstance(parts, str):
        raise TypeError(f"parts must be a list of kinds, such as [{parts!r}]")
    frame = SendMessage(
        request_id=request_id or str(uuid.uuid4()),
        message=text,
        stream=stream,
        conversation_id=conversation,
        model=model,
        system=None if system is None else clean(system),
        max_tokens=max_tokens,
        replaces=replaces,
        attachments=tuple(file.attachment for file in files),
        format=None if schema is None else Format(type="json_schema", json_schema=described(schema)),
        # Also for signs of life; said before the first `welcome`, for a server that knows none ignores it.
        parts=tuple(parts),
        traceparent=_traceparent(),
    )
    limit = MAX_MESSAGE_BYTES if limits is None else min(MAX_MESSAGE_BYTES, limits.max_message_bytes)
    size = len(encode(frame))
    if size > limit:
        raise MessageTooLarge(size, limit)
    return frame


def timeouts(
    frame: SendMessage, session: Session, timing: Timing, *, silence_s: float | None, total_s: float | None
) -> Timeouts:
    """When a question is given up. None: by what the server has said of itself so far."""
    limits = session.limits
    if total_s is None:
        total_s = timing.queue_wait_s
        if limits is not None:
            answer_ms = session.model_info(frame.model).answer_timeout_ms or limits.answer_timeout_ms
            total_s = (limits.queue_timeout_ms + answer_ms) / 1000 + timing.stream_silence_s
    if silence_s is None:
        silence_s = timing.stream_silence_s if frame.stream else timing.ask_timeout_s
        if limits is not None and limits.progress_ms is not None:
            silence_s = max(silence_s, 3.5 * limits.progress_ms / 1000)
    return Timeouts(total_s=total_s, silence_s=silence_s, from_call=not frame.stream)


def _traceparent() -> str | None:
    """The span that the app is in; None: it uses no OpenTelemetry, or there is none now."""
    trace = sys.modules.get("opentelemetry.trace")
    context = None if trace is None else trace.get_current_span().get_span_context()
    if context is None or not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
