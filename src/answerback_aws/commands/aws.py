"""`answerback aws`: the same backend on AWS: deploy it, look after it, remove it."""

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from answerback.cli.options import AwsEndpoint, AwsProfile, AwsRegion
from answerback.cli.output import usage_error

_STACK: Final = "answerback"

_Stack: TypeAlias = Annotated[str, typer.Option(envvar="ANSWERBACK_STACK", metavar="NAME", help="The stack's name.")]
_Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Include: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(metavar="PATH", help="A module or package of yours for python: models; repeatable."),
]
_Requirements: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="What those need, in pip's format.", show_default=False)
]
_Python: TypeAlias = Annotated[
    str | None, typer.Option("--runtime", metavar="X.Y", help="Python of the functions.  [at first: 3.13]")
]
_Architecture: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="arm64|x86_64|here", help="Processor of the functions.  [at first: arm64]"),
]


def aws_app() -> typer.Typer:
    """The group of commands."""
    app = typer.Typer(
        help="The backend on AWS: deploy it, look after it, remove it.",
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command("deploy")(deploy)
    app.command("status")(status)
    app.command("logs")(logs)
    app.command("outputs")(outputs)
    app.command("destroy")(destroy)
    app.command("package")(package)
    app.command("local")(local)
    return app


def deploy(
    *,
    stack: _Stack = _STACK,
    region: AwsRegion = None,
    profile: AwsProfile = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="SPEC", help="bedrock:MODEL_ID | python:MODULE:FACTORY | echo; repeatable."
        ),
    ] = None,
    jwt_issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="Who signs your users' tokens.", show_default=False)
    ] = None,
    jwt_audience: Annotated[
        str | None, typer.Option(metavar="TEXT", help="For whom: the aud of their tokens.", show_default=False)
    ] = None,
    jwks_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The issuer's keys.  [default: asked of the issuer]")
    ] = None,
    jwt_secret_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Secret of HS256 tokens, for development.", show_default=False)
    ] = None,
    allow_anonymous: Annotated[
        bool | None,
        typer.Option(
            "--allow-anonymous/--require-token", help="Let everyone in who knows the URL.", show_default=False
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Web page that may connect: https://app.example; repeatable."),
    ] = None,
    rate_limit: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Requests a user and minute; 0: no limit.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="Longest answer.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.", show_default=False)] = None,
    retention_days: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How long ended requests can be resumed.")
    ] = None,
    min_acu: Annotated[float | None, typer.Option(min=0, metavar="N", help="Least of Aurora; 0: it pauses.")] = None,
    max_acu: Annotated[float | None, typer.Option(min=1, metavar="N", help="Most of Aurora.")] = None,
    alarm_email: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Who is told of alarms.", show_default=False)
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Any parameter of the template; repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A tag of the stack; repeatable.")] = None,
    include: _Include = None,
    requirements: _Requirements = None,
    runtime: _Python = None,
    architecture: _Architecture = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: _Json = False,
    endpoint_url: AwsEndpoint = None,
) -> int:
    """Create the stack, or update it. What is not said stays as it was.

    Packages the functions, uploads them, and lets CloudFormation do the rest: about 10 minutes the first time, most of
    them for the database. Interrupted, it goes on by itself; deploying again follows it.

    Examples:

      answerback aws deploy --stack chat --region ap-northeast-2 --allow-anonymous

      answerback aws deploy --stack chat --jwt-issuer https://login.example --jwt-audience chat

      answerback aws deploy --stack chat --model bedrock:global.anthropic.claude-haiku-4-5-20251001-v1:0 --dry-run

      answerback aws deploy --stack chat --model python:rag.pipeline:make --include rag --requirements rag.txt
    """
    from answerback_aws.commands import deploying  # noqa: PLC0415 - boto3 is an extra, and slow to import

    given = {
        "JwtIssuer": jwt_issuer,
        "JwtAudience": jwt_audience,
        "JwksUrl": jwks_url,
        "AllowAnonymous": None if allow_anonymous is None else str(allow_anonymous).lower(),
        "AllowOrigins": " ".join(allow_origin) if allow_origin else None,
        "RateLimit": rate_limit,
        "MaxTokens": max_tokens,
        "SystemPrompt": system,
        "RetentionDays": retention_days,
        "MinCapacity": min_acu,
        "MaxCapacity": max_acu,
        "AlarmEmail": alarm_email,
    }
    return deploying.deploy(
        deploying.place(stack, region, profile, endpoint_url),
        models=model or [],
        given={
            name: f"{value:g}" if isinstance(value, float) else str(value)
            for name, value in given.items()
            if value is not None
        },
        secret_file=jwt_secret_file,
        parameters=_pairs("--parameter", parameter),
        tags=_pairs("--tag", tag),
        include=include or [],
        requirements=requirements,
        runtime=runtime,
        architecture=architecture,
        dry_run=dry_run,
        as_json=as_json,
    )


def status(
    *,
    stack: _Stack = _STACK,
    region: AwsRegion = None,
    profile: AwsProfile = None,
    as_json: _Json = False,
    endpoint_url: AwsEndpoint = None,
) -> int:
    """Show how it is doing: alarms, dead letters, queue, errors, database. Exits with 1 if something is wrong.

    Examples:

      answerback aws status --stack chat
    """
    from answerback_aws.commands import deploying  # noqa: PLC0415

    return deploying.show_status(deploying.place(stack, region, profile, endpoint_url), as_json=as_json)


def logs(
    *,
    stack: _Stack = _STACK,
    region: AwsRegion = None,
    profile: AwsProfile = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="Only one request, through every function.", show_default=False)
    ] = None,
    function: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this function; repeatable.")] = None,
    since: Annotated[str, typer.Option(metavar="DURATION", help="How far back.")] = "10m",
    as_json: _Json = False,
    endpoint_url: AwsEndpoint = None,
) -> int:
    """Show the logs of all functions, in order of time. What users say is never in them.

    With --json the lines are as they were written, figures for CloudWatch among them.

    Examples:

      answerback aws logs --stack chat --follow

      answerback aws logs --stack chat --request 3f0e7a3a-58a6-4e6b-9d4c-0f4b0f1a2b3c --since 1d
    """
    from answerback_aws.commands import deploying  # noqa: PLC0415

    return deploying.show_logs(
        deploying.place(stack, region, profile, endpoint_url),
        functions=function or [],
        request_id=request,
        since=since,
        follow=follow,
        as_json=as_json,
    )


def outputs(
    *,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of them, bare; all without it.")] = None,
    stack: _Stack = _STACK,
    region: AwsRegion = None,
    profile: AwsProfile = None,
    as_json: _Json = False,
    endpoint_url: AwsEndpoint = None,
) -> int:
    """Show where everything is: the URL that apps connect to, tables, queues, functions.

    Examples:

      answerback aws outputs WebSocketUrl --stack chat
    """
    from answerback_aws.commands import deploying  # noqa: PLC0415

    return deploying.show_outputs(deploying.place(stack, region, profile, endpoint_url), name, as_json=as_json)


def destroy(
    *,
    stack: _Stack = _STACK,
    region: AwsRegion = None,
    profile: AwsProfile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    delete_history: Annotated[
        bool, typer.Option("--delete-history", help="Keep nothing: no snapshot of the database, no backup of a table.")
    ] = False,
    endpoint_url: AwsEndpoint = None,
) -> int:
    """Delete the stack. The history stays, as a snapshot of the database, unless --delete-history is said.

    Examples:

      answerback aws destroy --stack chat
    """
    from answerback_aws.commands import deploying  # noqa: PLC0415

    place = deploying.place(stack, region, profile, endpoint_url)
    return deploying.destroy(place, yes=yes, delete_history=delete_history)


def package(
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the zip.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="SPEC", help="Check that it is in the package; repeatable."),
    ] = None,
    include: _Include = None,
    requirements: _Requirements = None,
    runtime: _Python = None,
    architecture: _Architecture = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Import each handler in a bare interpreter, and show its CPU time.")
    ] = False,
    as_json: _Json = False,
) -> int:
    """Build the package of the functions, without deploying it. The same input gives the same bytes.

    Examples:

      answerback aws package --output functions.zip

      answerback aws package --architecture here --measure
    """
    from answerback_aws.commands import deploying  # noqa: PLC0415

    return deploying.package(
        output,
        models=model or [],
        include=include or [],
        requirements=requirements,
        target=deploying.target(runtime, architecture),
        measure=measure,
        as_json=as_json,
    )


def local(
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="SPEC", help="Answers in Bedrock's place: local | echo | openai:…")
    ] = "local",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Of the emulator; 0: a free one.")] = 0,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Any parameter of the template; repeatable.")
    ] = None,
    as_json: _Json = False,
) -> int:
    """Run the template on an emulator of AWS on this machine, until Ctrl-C. Needs PostgreSQL, no account.

    The first time it installs the emulator in your cache folder (220 MB). All else that it makes is deleted at the end.

    Examples:

      answerback aws local

      answerback aws local --model echo --parameter RateLimit=0
    """
    from answerback_aws.commands import local as emulating  # noqa: PLC0415

    parameters = _pairs("--parameter", parameter)
    return emulating.run_local(model=model, port=port, parameters=parameters, as_json=as_json)


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise usage_error(f"{option} must be NAME=VALUE, not {text!r}")
        found[name] = value
    return found
