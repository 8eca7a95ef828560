"""`answerback conform`: does a server keep to the protocol?"""

import asyncio
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

import typer

from answerback.cli.options import Json, TokenText
from answerback.cli.output import CliError, ExitCode, note, say, say_json, usage_error
from answerback_proof.conformance import (
    BrokenCase,
    CannotConnect,
    Case,
    CaseStatus,
    Result,
    ServerFacts,
    ServerRun,
    load_cases,
    load_models,
)

_SIGNS: Final[Mapping[CaseStatus, str]] = {
    CaseStatus.PASSED: "ok",
    CaseStatus.FAILED: "FAIL",
    CaseStatus.SKIPPED: "skip",
}


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
    as_list: Annotated[bool, typer.Option("--list", help="Show the names of the cases and exit.")] = False,
    as_json: Json = False,
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
    cases = _chosen(case or [])
    if as_list:
        _show_list(cases, as_json=as_json)
        return ExitCode.OK
    if url is None or not url.startswith(("ws://", "wss://")):
        raise usage_error("say where the server is", "for example: answerback conform ws://127.0.0.1:8765")

    def show(result: Result) -> None:
        if not as_json and (verbose or result.status is CaseStatus.FAILED):
            _show(result)

    try:
        facts, results = asyncio.run(_run(ServerRun(url, token=token), cases, jobs=1 if token else jobs, show=show))
    except CannotConnect as exc:
        raise CliError(str(exc), exit_code=ExitCode.CANNOT_CONNECT) from exc
    except BrokenCase as exc:
        raise CliError(f"a case is wrong: {exc}") from exc
    counts = Counter(result.status for result in results)
    if as_json:
        totals = {str(status): counts[status] for status in CaseStatus}
        say_json({"url": url, **totals, "cases": [_shown(result) for result in results]})
    else:
        say(", ".join(f"{counts[status]} {status}" for status in CaseStatus))
        _advise(facts, results)
    if any(result.rate_limited for result in results):
        return ExitCode.RATE_LIMITED
    failed = counts[CaseStatus.FAILED] + (counts[CaseStatus.SKIPPED] if strict else 0)
    return ExitCode.FAILED if failed or not counts[CaseStatus.PASSED] else ExitCode.OK


def _chosen(patterns: Sequence[str]) -> Sequence[Case]:
    """The cases that are meant: a part of a name, or a pattern with `*`; all if none is given. Raises: CliError."""
    try:
        cases = load_cases("server")
    except BrokenCase as exc:
        raise CliError(f"the cases cannot be read: {exc}") from exc
    found = [case for case in cases if not patterns or any(_is_meant(case.name, pattern) for pattern in patterns)]
    if not found:
        raise usage_error("no case has such a name", "answerback conform --list shows them")
    return found


def _is_meant(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if "*" in pattern else pattern in name


def _show_list(cases: Sequence[Case], *, as_json: bool) -> None:
    if as_json:
        say_json([{"case": case.name, "section": case.case.section} for case in cases])
        return
    for case in cases:
        say(case.name)


async def _run(
    run: ServerRun, cases: Sequence[Case], *, jobs: int, show: Callable[[Result], None]
) -> tuple[ServerFacts, list[Result]]:
    facts = await run.probe()
    if limit := facts.limits.get("requestsPerMinute", 0):
        note(
            f"answerback: this server takes {limit} requests a minute of a user. Cases may fail for that; "
            "start it with --rate-limit 0."
        )
    results = []
    async for result in run.run(cases, facts, jobs=jobs):
        results.append(result)
        show(result)
    return facts, results


def _show(result: Result) -> None:
    say(f"{_SIGNS[result.status]:<5} {result.name}  (PROTOCOL.md {result.section})")
    if result.why:
        where = f"step {result.step}: " if result.step else ""
        say(f"      {where}{result.why}")
    for line in result.transcript:
        say(f"        {line}")


def _advise(facts: ServerFacts, results: Sequence[Result]) -> None:
    """Why cases were skipped, and how the server has to be started for them."""
    for why, count in Counter(result.why for result in results if result.status is CaseStatus.SKIPPED).items():
        note(f"  {count} skipped: {why}")
    models = load_models()
    if any(name not in facts.models for name in models):
        flags = [flag for need in models.values() for flag in ("--model", need.spec)]
        note(f"For every model: answerback serve --rate-limit 0 {shlex.join(flags)}")


def _shown(result: Result) -> dict[str, Any]:
    return {
        "case": result.name,
        "section": result.section,
        "verdict": result.status,
        "why": result.why or None,
        "step": result.step,
        "transcript": list(result.transcript),
    }
