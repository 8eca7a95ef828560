"""`answerback conform`: does a server keep to the protocol?"""

from typing import Annotated

import typer

from answerback.cli.options import TokenText
from answerback.cli.output import ExitCode, usage_error


def conform(
    url: Annotated[str | None, typer.Argument(metavar="URL", help="The server: ws:// or wss://.")] = None,
    *,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", "-c", metavar="PATTERN", help="Only these: part of a name, or with *; repeatable."),
    ] = None,
    token: TokenText = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Cases at a time; with a token always one.")] = 8,
    strict: Annotated[bool, typer.Option("--strict", help="A case that cannot be run counts as failed.")] = False,
    as_list: Annotated[bool, typer.Option("--list", help="Print the names of the cases and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what passed, too.")] = False,
) -> int:
    """Run the conformance cases against a server, and say which it fails.

    Start the server without a rate limit and with the models that the cases ask for; what is missing is skipped, and
    said. Every case works under ids of its own, and without a token under a user of its own.

    Exits with 0 if nothing failed, 1 if something did, 3 if the server cannot be reached, 5 if its rate limit was
    met.

    Examples:

      answerback conform ws://127.0.0.1:8765

      answerback conform wss://gateway.example --case resuming --json
    """
    from answerback_proof.commands import conforming  # noqa: PLC0415 - the runner is for those who run it

    cases = conforming.chosen(case or [])
    if as_list:
        conforming.show_list(cases, as_json=as_json)
        return ExitCode.OK
    if url is None or not url.startswith(("ws://", "wss://")):
        raise usage_error("say where the server is", "for example: answerback conform ws://127.0.0.1:8765")
    return conforming.run(url, token, cases, jobs=1 if token else jobs, strict=strict, as_json=as_json, verbose=verbose)
