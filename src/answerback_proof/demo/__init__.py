"""`answerback demo`: a gateway, several apps that ask everything at once, and the proof that every answer came home."""

from pathlib import Path
from typing import Annotated, Final

import typer

from answerback.cli.options import TokenText
from answerback.cli.output import ExitCode, usage_error

MOST_APPS: Final = 100
MOST_QUESTIONS: Final = 10
"""The users of the demo have the gateway's default limit: 10 requests a minute."""


def demo(
    *,
    apps: Annotated[int, typer.Option(min=1, max=MOST_APPS, help="Apps that ask at the same time.")] = 3,
    questions: Annotated[int, typer.Option(min=1, max=MOST_QUESTIONS, help="Questions of each app.")] = 3,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="SPEC", help="local | echo | openai:BASE_URL#MODEL | …")
    ] = "local",
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer; short, so that all end soon.")] = 60,
    url: Annotated[
        str | None, typer.Option(help="Ask a server that runs already, a gateway or a stack on AWS.")
    ] = None,
    token: TokenText = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep the store and the log in this new folder.")
    ] = None,
) -> int:
    """Let several apps ask at once, of a gateway started for it, and check that every answer came home.

    Every app has a user, a session and a WebSocket of its own. In the end the gateway is stopped and its store opened:
    every text is compared, character for character, with what its app got and with what went over the wire. With --url
    the server's history stands for the store.

    Examples:

      answerback demo

      answerback demo --apps 20 --questions 5 --model echo:delay_ms=30

      answerback demo --model openai:http://127.0.0.1:11434/v1#qwen3

      answerback demo --url wss://a1b2c3d4e5.execute-api.us-east-1.amazonaws.com/v1
    """
    if url is not None and keep is not None:
        raise usage_error("--keep is about the gateway that the demo starts", "leave it out with --url")
    from answerback_proof.demo.run import Demo, run_demo  # noqa: PLC0415 - help needs none of it

    asked = Demo(apps=apps, questions=questions, max_tokens=max_tokens, url=url, token=token, model=model, keep=keep)
    return ExitCode.OK if run_demo(asked) else ExitCode.FAILED
