"""`answerback ask`: one question, one answer."""

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from answerback.cli.options import ClientOptions, Encoding, PromptOptions, with_options
from answerback.cli.output import CliError, ExitCode, check_stdout, note, say_exactly, say_json, usage_error
from answerback.cli.reading import STDIN_HINT, checked, decode, text_file, typed
from answerback.cli.talk import AnswerPrinter, explain, note_language, shortfall, update_wanted, wrong_input
from answerback.client import Answer, AnswerbackError, Client, Done, Event, File, Text
from answerback.client.errors import RequestCancelled, RequestFailed, RequestTimeout
from answerback.client.typed import without_fence
from answerback.client.uploads import read_bounded
from answerback.protocol.codec import is_deep
from answerback.protocol.limits import MAX_ATTACHMENT_BYTES
from answerback.settings import duration_ms


@with_options
def ask(
    *,
    question: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION...", help="What to ask; - reads it from stdin.")
    ] = None,
    asked: ClientOptions,
    conversation: Annotated[
        str | None, typer.Option("--conversation", "-c", help="Its id: earlier turns are context.")
    ] = None,
    prompt: PromptOptions,
    attach: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A file to show the model; again for more.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON Schema that the answer must be valid under.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="For the whole answer, as in 90s.  [default: 30s of silence]")
    ] = None,
    encoding: Encoding = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, also if it fails.")] = False,
) -> int:
    """Ask one question and print the answer.

    On a terminal the answer appears while it is written; in a pipe it is printed when it is whole, and nothing else is.
    Ctrl+C stops the request at the gateway.

    Examples:

      answerback ask "What is a WebSocket?"

      git diff | answerback ask - --system "Summarise this change." > summary.txt

      answerback ask --conversation trip "And on Sunday?" --json

      answerback ask --show reasoning,tool "How many days until the equinox?"

      answerback ask "What is wrong here?" --attach app.log

      answerback ask "Who wrote to whom, and when?" --attach letter.txt --schema letter.schema.json | jq .date
    """
    message = _message(question, encoding)
    options: dict[str, Any] = {
        **prompt.asked,
        "conversation": conversation,
        "total_timeout": _seconds(timeout),
        "attachments": [_file(path, encoding) for path in attach or ()],
    }
    valid_under = None if schema is None else _Schema.read(schema)
    check_stdout()  # an answer that has no place to go is not asked for
    return asyncio.run(_ask(asked, message, options, valid_under, as_json=as_json))


class _Schema:
    """A JSON Schema, and what checks an answer with it."""

    def __init__(self, schema: dict[str, Any], validator: Any) -> None:
        self.schema = schema
        self._validator = validator

    @classmethod
    def read(cls, path: Path) -> "_Schema":
        """Raises: CliError: it is no JSON Schema, or nothing here can check one."""
        try:
            from jsonschema import SchemaError  # noqa: PLC0415 - an extra
            from jsonschema.validators import validator_for  # noqa: PLC0415
            from referencing.exceptions import Unresolvable  # noqa: PLC0415
            from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY  # noqa: PLC0415
        except ImportError as exc:
            raise CliError("--schema needs a package that is not installed", "pip install '.[schema]'") from exc
        unusable = usage_error(f'{path} is not a JSON Schema: it is nested too deeply, or "$schema" is no URL')
        try:
            text = decode(read_bounded(path, MAX_ATTACHMENT_BYTES), str(path))
            schema = msgspec.json.decode(text, type=dict[str, Any])
            if is_deep(schema) or not isinstance(schema.get("$schema", ""), str):
                raise unusable
            kind = validator_for(schema, default=validator_for({}))
            kind.check_schema(schema)
            resource = DRAFT202012.detect(schema).create_resource(schema)
            _look_up(resource, EMPTY_REGISTRY.resolver_with_root(resource))
        except OSError as exc:
            raise usage_error(f"{path} cannot be read ({exc.strerror})", "name a file after --schema") from exc
        except SchemaError as exc:
            raise usage_error(f"{path} is not a JSON Schema: {exc.message}") from exc
        except Unresolvable as exc:
            raise usage_error(f"{path} refers to {exc.ref}, which is not in it", 'put it below "$defs"') from exc
        except RecursionError as exc:
            raise unusable from exc
        except msgspec.MsgspecError as exc:
            raise usage_error(f"{path} is not a JSON object") from exc
        except ValueError as exc:
            raise wrong_input(exc) from exc
        return cls(schema, kind(schema, registry=EMPTY_REGISTRY))  # without it, what is referred to would be fetched

    def why_not(self, text: str) -> str | None:
        """Why the answer is not valid."""
        try:
            value = msgspec.json.decode(without_fence(text))
        except (msgspec.MsgspecError, RecursionError) as exc:
            return f"the answer is not JSON: {exc}"
        try:
            found = next(iter(self._validator.iter_errors(value)), None)
        except Exception as exc:
            return f"the answer cannot be checked: {type(exc).__name__}: {exc}"  # a schema that refers to itself
        return None if found is None else f"the answer is not valid at {found.json_path}: {found.message}"


def _look_up(resource: Any, resolver: Any) -> None:
    """Raises: Unresolvable: something in the schema refers to what is not there."""
    for name in ("$ref", "$dynamicRef"):
        if isinstance(resource.contents, dict) and isinstance(reference := resource.contents.get(name), str):
            resolver.lookup(reference)
    for inner in resource.subresources():
        _look_up(inner, resolver.in_subresource(inner))


def _file(path: Path, encoding: str | None) -> File:
    try:
        file = File.read(path)
        return file if file.kind else File(name=file.name, data=text_file(file.data, str(path), encoding=encoding))
    except OSError as exc:
        raise usage_error(f"{path} cannot be read ({exc.strerror})", "name a file after --attach") from exc
    except ValueError as exc:
        raise wrong_input(exc) from exc


def _message(words: list[str] | None, encoding: str | None) -> str:
    if encoding:
        checked(encoding)
    message = typed(" ".join(words or ()), "the question", encoding=encoding)
    is_piped = not words and not sys.stdin.isatty()
    if message == "-" or is_piped:
        try:
            data = sys.stdin.buffer.read()
        except OSError as exc:
            raise usage_error(f"there is no question: stdin cannot be read ({exc.strerror or exc})") from exc
        message = decode(data, "stdin", encoding=encoding, hint=STDIN_HINT)
        if not message.strip() and not is_piped:
            raise usage_error("there is no question: stdin is empty")
    if not message.strip():
        raise usage_error("there is no question", 'say one: answerback ask "What is a WebSocket?", or - to read stdin')
    return message


def _seconds(timeout: str | None) -> float | None:
    if timeout is None:
        return None
    try:
        milliseconds = duration_ms(timeout)
    except ValueError:
        milliseconds = 0
    if milliseconds <= 0:
        raise usage_error(f"--timeout must be a duration, not {timeout!r}", "for example --timeout 90s")
    return milliseconds / 1000


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


async def _ask(
    asked: ClientOptions, message: str, options: dict[str, Any], schema: _Schema | None, *, as_json: bool
) -> ExitCode:
    """Ask, and print the answer. Raises: CliError: there is no whole answer."""
    try:
        async with Client(asked.url, token=asked.token, user=asked.user, session=asked.session) as client:
            return await _converse(client, message, options, schema, as_json=as_json)
    except ValueError as exc:
        raise wrong_input(exc) from exc
    except AnswerbackError as exc:
        failure = explain(exc)
        if as_json:
            say_json(_failed(exc))
        raise failure from exc


async def _converse(
    client: Client, message: str, options: dict[str, Any], schema: _Schema | None, *, as_json: bool
) -> ExitCode:
    clock = _Clock(asked_at=time.monotonic())
    growing = None if as_json else AnswerPrinter(shows_text=sys.stdout.isatty())
    stream = client.stream(message, schema=None if schema is None else schema.schema, **options)
    if (update := update_wanted(client.wanted_version)) is not None:
        note(f"answerback: {update}")
    named = options["model"]
    model = named or next(iter(getattr(client.state, "models", ())), "?")
    note_language(message, model, client.model_info(named))
    answer: Answer | None = None
    try:
        async with stream:  # leaving it early, as Ctrl+C does, stops the request at the gateway
            async for event in stream.events():
                if growing is not None:
                    growing.show(event)
                answer = _take(event, clock) or answer
    finally:
        if growing is not None:
            growing.end()
    if answer is None:
        raise CliError("the answer ended without its last event")
    if as_json:
        say_json({**msgspec.to_builtins(_described(answer)), "clientTiming": clock.as_json()})
    elif growing is None or not growing.shows_text:
        say_exactly(answer.text)
    if (why := shortfall(answer)) is not None:
        note(f"answerback: {why}")
    if schema is not None and (invalid := schema.why_not(answer.text)) is not None:
        note(f"answerback: {invalid}")
        return ExitCode.FAILED
    return ExitCode.OK


def _take(event: Event, clock: _Clock) -> Answer | None:
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
        **({"parts": [part._asdict() for part in answer.parts]} if answer.parts else {}),
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
