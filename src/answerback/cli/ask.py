"""`answerback ask`: one question, one answer."""

import sys
from typing import Annotated

import typer

from answerback.cli.options import DEFAULT_URL, MaxTokens, ModelName, SessionId, SystemText, TokenText, Url, User
from answerback.cli.output import usage_error
from answerback.cli.values import duration_ms


def ask(
    question: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION", help="What to ask; - reads it from stdin.")
    ] = None,
    *,
    url: Url = DEFAULT_URL,
    token: TokenText = None,
    user: User = None,
    session: SessionId = None,
    conversation: Annotated[
        str | None,
        typer.Option("--conversation", "-c", help="Its id: earlier turns are context.", show_default=False),
    ] = None,
    model: ModelName = None,
    system: SystemText = None,
    max_tokens: MaxTokens = None,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="For the whole answer, as in 90s.  [default: 30s of silence]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, also if it fails.")] = False,
) -> int:
    """Ask one question and print the answer.

    On a terminal the answer appears while it is written; in a pipe it is printed when it is whole, and nothing else is.
    Ctrl+C stops the request at the gateway.

    Examples:

      answerback ask "What is a WebSocket?"

      git diff | answerback ask - --system "Summarise this change." > summary.txt

      answerback ask --conversation trip "And on Sunday?" --json
    """
    message, timeout_s = _message(question), _seconds(timeout)
    from answerback.cli.asking import Request, ask_once  # noqa: PLC0415 - the client is slow to import

    request = Request(
        url=url,
        token=token,
        user=user,
        session=session,
        message=message,
        conversation=conversation,
        model=model,
        system=system,
        max_tokens=max_tokens,
        timeout_s=timeout_s,
        as_json=as_json,
    )
    return ask_once(request)


def _message(words: list[str] | None) -> str:
    message = " ".join(words or ())
    if message == "-":
        message = sys.stdin.buffer.read().decode("utf-8", "replace")
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
