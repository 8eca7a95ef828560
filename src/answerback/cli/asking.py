"""The work of `answerback ask`: ask, show, and say how it ended."""

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from answerback.cli.output import CliError, ExitCode, note, say_json
from answerback.cli.talk import Growing, explain, wrong_input
from answerback.client import Answer, AnswerbackError, Client
from answerback.client.errors import RequestCancelled, RequestFailed, RequestTimeout
from answerback.client.events import Done, Event, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to ask, and whom."""

    url: str
    token: str | None
    user: str | None
    session: str | None
    message: str
    conversation: str | None
    model: str | None
    system: str | None
    max_tokens: int | None
    timeout_s: float | None
    as_json: bool


@dataclass(slots=True, kw_only=True)
class _Clock:
    """When the question was asked and its first words came, in monotonic seconds."""

    asked_at: float
    first_text_at: float | None = None

    def as_json(self) -> dict[str, int | None]:
        """Milliseconds as this command saw them, connection not included."""
        first_s = None if self.first_text_at is None else self.first_text_at - self.asked_at
        total_s = time.monotonic() - self.asked_at
        return {"firstTextMs": None if first_s is None else round(first_s * 1000), "totalMs": round(total_s * 1000)}


def ask_once(request: Request) -> ExitCode:
    """Ask, print the answer, and return the exit code. Raises: CliError: there is no whole answer."""
    return asyncio.run(_ask(request))


async def _ask(request: Request) -> ExitCode:
    try:
        async with Client(request.url, token=request.token, user=request.user, session=request.session) as client:
            return await _converse(client, request)
    except ValueError as exc:
        raise wrong_input(exc) from exc
    except AnswerbackError as exc:
        failure = explain(exc)
        if request.as_json:
            say_json(_failed(exc))
        raise failure from exc


async def _converse(client: Client, request: Request) -> ExitCode:
    clock = _Clock(asked_at=time.monotonic())
    growing = Growing() if sys.stdout.isatty() and not request.as_json else None
    stream = client.stream(
        request.message,
        total_timeout=request.timeout_s,
        conversation=request.conversation,
        model=request.model,
        system=request.system,
        max_tokens=request.max_tokens,
    )
    answer: Answer | None = None
    try:
        async with stream:  # leaving it early, as Ctrl+C does, stops the request at the gateway
            async for event in stream.events():
                answer = _take(event, clock, growing) or answer
    finally:
        if growing is not None:
            growing.end()
    if answer is None:
        raise CliError("the answer ended without its last event")
    if request.as_json:
        say_json({**msgspec.to_builtins(_described(answer)), "clientTiming": clock.as_json()})
    elif growing is None:
        sys.stdout.write(answer.text if answer.text.endswith("\n") else answer.text + "\n")
        sys.stdout.flush()
    if answer.finish_reason == "length":
        note("answerback: the answer was cut at its limit of tokens or bytes; see --max-tokens")
    return ExitCode.OK


def _take(event: Event, clock: _Clock, growing: Growing | None) -> Answer | None:
    if growing is not None:
        growing.show(event)
    if isinstance(event, Text) and clock.first_text_at is None:
        clock.first_text_at = time.monotonic()
    return event.answer if isinstance(event, Done) else None


def _described(answer: Answer) -> dict[str, Any]:
    """The answer as JSON has it; names are those of the protocol."""
    return {
        "requestId": answer.request_id,
        "conversationId": answer.conversation_id,
        "status": answer.status,
        "response": answer.text,
        "finishReason": answer.finish_reason,
        "model": answer.model,
        "attempt": answer.attempt,
        "usage": answer.usage,
        "timing": answer.timing,
    }


def _failed(error: AnswerbackError) -> dict[str, Any]:
    """A failure as JSON; `response` is what there was until then."""
    retry_after_ms = error.retry_after_ms if isinstance(error, RequestFailed) else None
    body = {
        "code": str(error.code),
        "message": str(error),
        "retryable": error.retryable,
        "retryAfterMs": retry_after_ms,
    }
    if isinstance(error, RequestTimeout) and error.cause_code is not None:
        body["causeCode"] = error.cause_code
    answer = error.answer if isinstance(error, RequestFailed | RequestCancelled) else None
    if answer is not None:
        described: dict[str, Any] = msgspec.to_builtins(_described(answer))
        return {**described, "error": body}
    text = error.text if isinstance(error, RequestTimeout) else None
    request_id = getattr(error, "request_id", None)
    return {"requestId": request_id or None, "status": "failed", "response": text, "error": body}
