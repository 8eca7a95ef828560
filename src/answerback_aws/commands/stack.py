"""`answerback aws status | logs | outputs | destroy`: watch a stack, and remove it."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from answerback.cli.options import Json, with_options
from answerback.cli.output import ExitCode, confirm, note, say, say_json, say_table, usage_error
from answerback.clock import epoch_ms
from answerback.settings import duration_ms
from answerback_aws.commands.options import StackOptions, explained, shown_progress

if TYPE_CHECKING:
    from answerback_aws.deploy.logs import Line
    from answerback_aws.deploy.status import Fact

_PLATFORM: Final = ("START RequestId", "END RequestId", "REPORT RequestId", "INIT_START")
_KNOWN: Final = ("requestId", "attempt", "connectionId", "userId")
_SHOWN_FIELDS: Final = frozenset({"level", "message", "timestamp", "service", "location", *_KNOWN})
_DURATION: Final = "a duration such as 90s, 10m or 1h"


@with_options
def status(*, where: StackOptions, as_json: Json = False) -> int:
    """Show how it is doing: alarms, answers, queue, errors, database. Exits with 1 if something is wrong.

    Examples:

      answerback aws status --stack chat
    """
    account = where.account()
    from answerback_aws.deploy.status import stack_facts  # noqa: PLC0415 - help needs no boto3

    with explained():
        facts = stack_facts(account, where.stack)
    is_good = all(fact.is_good is not False for fact in facts)
    if as_json:
        say_json({"healthy": is_good, "facts": [fact_json(fact) for fact in facts]})
    else:
        say_facts(facts)
    return ExitCode.OK if is_good else ExitCode.FAILED


@with_options
def logs(
    *,
    where: StackOptions,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    request: Annotated[str | None, typer.Option(metavar="ID", help="Only one request, through every function.")] = None,
    function: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this function; repeatable.")] = None,
    since: Annotated[str, typer.Option(metavar="DURATION", help="How far back.")] = "10m",
    as_json: Json = False,
) -> int:
    """Show the logs of all functions, in order of time. What users say is never in them.

    With --json the lines are as they were written, figures for CloudWatch among them.

    Examples:

      answerback aws logs --stack chat --follow

      answerback aws logs --stack chat --request 3f0e7a3a-58a6-4e6b-9d4c-0f4b0f1a2b3c --since 1d
    """
    try:
        since_ms = epoch_ms() - duration_ms(since)
    except ValueError:
        raise usage_error(f"--since must be {_DURATION}, not {since!r}") from None
    account = where.account()
    from answerback_aws.deploy.logs import Logs  # noqa: PLC0415 - help needs no boto3

    with explained():
        count = 0
        reader = Logs(account, where.stack)
        groups = reader.groups(function or [])
        read = reader.follow if follow else reader.read
        for line in read(groups, since_ms=since_ms, containing=request):
            if as_json or not _is_accounting(line):
                count += 1
                say(line.text if as_json else _log_text(line))
    if not count:
        note(f"No lines in the last {since}. Look further back with --since, for example --since 1d")
    return ExitCode.OK


@with_options
def outputs(
    *,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of them, bare; all without it.")] = None,
    where: StackOptions,
    as_json: Json = False,
) -> int:
    """Show where everything is: the URL that apps connect to, tables, queues, functions.

    Examples:

      answerback aws outputs WebSocketUrl --stack chat
    """
    account = where.account()
    from answerback_aws.deploy.stack import Stack  # noqa: PLC0415 - help needs no boto3

    with explained():
        found = account.outputs(Stack(account, where.stack).existing().outputs)
    if name is not None:
        if name not in found:
            raise usage_error(f"there is no output {name}", f"there are: {', '.join(sorted(found))}")
        say(found[name])
    elif as_json:
        say_json(found)
    else:
        say_table(("output", "value"), sorted(found.items()))
    return ExitCode.OK


@with_options
def destroy(
    *,
    where: StackOptions,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    delete_history: Annotated[
        bool, typer.Option("--delete-history", help="Keep nothing: no snapshot of the database, no backup of a table.")
    ] = False,
) -> int:
    """Delete the stack. The history stays, as a snapshot of the database, unless --delete-history is said.

    Examples:

      answerback aws destroy --stack chat
    """
    account = where.account()
    from answerback_aws.deploy.removal import Removal  # noqa: PLC0415 - help needs no boto3
    from answerback_aws.deploy.stack import Stack  # noqa: PLC0415

    with explained():
        Stack(account, where.stack).existing()
        identity, region = account.identity, account.region
    if not yes:
        kept = (
            "The history goes, too: no snapshot and no backup is left."
            if delete_history
            else "A snapshot of the database stays, with the whole history in it; the tables' backups stay for 35 days."
        )
        confirm(f"Delete the stack {where.stack} of account {identity} in {region}? {kept}")
    with explained(), shown_progress() as progress:
        removal = Removal(account, where.stack, progress)
        removed = removal.destroy(delete_history=delete_history)
    say(f"{where.stack} is deleted.")
    if removed.unwritten:
        note(
            f"{removed.unwritten} turns could not be written to the database before; they are in the backup of the "
            "conversations' table, which DynamoDB keeps for 35 days."
        )
    for snapshot in removed.snapshots:
        say(f"The history is in the snapshot {snapshot}. It costs storage until you delete it.")
    note(f"The bucket {removed.bucket} holds the packages of all stacks here, and stays.")
    return ExitCode.OK


def say_facts(facts: Sequence["Fact"]) -> None:
    """Facts as a table, each with what to do."""
    say_table(("", "what", "is", "do"), [(_mark(fact), fact.name, fact.value, fact.advice or None) for fact in facts])


def fact_json(fact: "Fact") -> dict[str, Any]:
    """A fact as programs get it."""
    return {"name": fact.name, "value": fact.value, "good": fact.is_good, "advice": fact.advice or None}


def _mark(fact: "Fact") -> str:
    return {True: "ok", False: "FAIL", None: "?"}[fact.is_good]


def _is_accounting(line: "Line") -> bool:
    """Lambda's own lines about an invocation that went well, and figures for CloudWatch: nothing for a reader."""
    return "_aws" in line.fields or (line.text.startswith(_PLATFORM) and "Status:" not in line.text)


def _log_text(line: "Line") -> str:
    at = datetime.fromtimestamp(line.at_ms / 1000).strftime("%H:%M:%S.%f")[:-3]
    if not line.fields:
        return f"{at}  {line.function:<12}  {line.text}"
    known = "".join(f" {name}={line.fields[name]}" for name in _KNOWN if line.fields.get(name) is not None)
    message = line.fields.get("message", "")
    if not isinstance(message, str):
        message = json.dumps(message, ensure_ascii=False)
    if not message:
        message = json.dumps({k: v for k, v in line.fields.items() if k not in _SHOWN_FIELDS}, ensure_ascii=False)
    return f"{at}  {line.function:<12}  {line.fields.get('level', ''):<7}  {message}{known}"
