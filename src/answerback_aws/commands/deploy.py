"""`answerback aws deploy`: create the stack, or update it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from answerback.cli.options import Json, with_options
from answerback.cli.output import ExitCode, note, say, say_json, say_table, usage_error
from answerback_aws.commands.options import PackageOptions, StackOptions, explained, pairs, wheel_cache
from answerback_aws.commands.progress import shown_progress

if TYPE_CHECKING:
    from answerback_aws.deploy.account import Account
    from answerback_aws.deploy.stack import Change, StackState


@with_options
def deploy(
    *,
    where: StackOptions,
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
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System prompt, of any length.", show_default=False)
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Variable of a pipeline, NAME= takes it away; repeatable."),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ARN", help="Variable whose value is a secret of AWS; repeatable."),
    ] = None,
    worker_policy: Annotated[
        list[str] | None,
        typer.Option(metavar="ARN", help="Policy with what a pipeline may call; repeatable."),
    ] = None,
    retention_days: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How long ended requests can be resumed.")
    ] = None,
    min_acu: Annotated[float | None, typer.Option(min=0, metavar="N", help="Least of Aurora; 0: it pauses.")] = None,
    max_acu: Annotated[float | None, typer.Option(min=1, metavar="N", help="Most of Aurora.")] = None,
    alarm_email: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Who is notified of alarms.", show_default=False)
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Any parameter of the template; repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A tag of the stack; repeatable.")] = None,
    built: PackageOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Create the stack, or update it. What is not said stays as it was.

    Packages the functions, uploads them, and lets CloudFormation do the rest: about 10 minutes the first time, most of
    them for the database. Interrupted, it goes on by itself; deploying again follows it.

    Examples:

      answerback aws deploy --stack chat --region ap-northeast-2 --allow-anonymous

      answerback aws deploy --stack chat --jwt-issuer https://login.example --jwt-audience chat

      answerback aws deploy --stack chat --model bedrock:global.anthropic.claude-haiku-4-5-20251001-v1:0 --dry-run

      answerback aws deploy --stack chat --model python:rag.pipeline:make --include rag --requirements rag.txt

      answerback aws deploy --stack chat --env KNOWLEDGE_BASE_ID=ABCD1234EF --worker-policy ARN --secret API_KEY=ARN
    """
    built.check()
    given = {
        "JwtIssuer": jwt_issuer,
        "JwtAudience": jwt_audience,
        "JwksUrl": jwks_url,
        "AllowAnonymous": None if allow_anonymous is None else str(allow_anonymous).lower(),
        "AllowOrigins": " ".join(allow_origin) if allow_origin else None,
        "RateLimit": rate_limit,
        "MaxTokens": max_tokens,
        "WorkerPolicyArns": ",".join(worker_policy) if worker_policy else None,
        "RetentionDays": retention_days,
        "MinCapacity": min_acu,
        "MaxCapacity": max_acu,
        "AlarmEmail": alarm_email,
    }
    parameters = {
        **{
            name: f"{value:g}" if isinstance(value, float) else str(value)
            for name, value in given.items()
            if value is not None
        },
        **_secret(jwt_secret_file),
        **pairs("--parameter", parameter),
    }
    tags = pairs("--tag", tag)
    environment, secrets = pairs("--env", env), pairs("--secret", secret)
    account = where.account()
    from answerback_aws.deploy.deployment import Deployment, DeployRequest  # noqa: PLC0415 - help needs no boto3
    from answerback_aws.deploy.parameters import keys_of_issuer  # noqa: PLC0415
    from answerback_aws.deploy.worker import WorkerRequest  # noqa: PLC0415

    with explained(), shown_progress() as progress:
        if jwt_issuer is not None and not {"JwksUrl", "JwtSecret"} & set(parameters):
            progress.step(f"Asking {jwt_issuer} for its keys")
            parameters["JwksUrl"] = keys_of_issuer(jwt_issuer)
        request = DeployRequest(
            target=built.target() if built.architecture == "here" else None,
            python=built.runtime,
            architecture=built.architecture,
            models=model or [],
            include=built.include or [],
            requirements=built.requirements,
            parameters=_one_sign_in(parameters),
            worker=WorkerRequest(system=system, environment=environment, secrets=secrets),
            tags=tags,
            cache=wheel_cache(),
        )
        deployment = Deployment(account, where.stack, progress)
        if dry_run:
            plan = deployment.plan(request)
            deployment.drop(plan)
        else:
            try:
                state = deployment.deploy(request)
            except KeyboardInterrupt:
                note(f"\nCloudFormation goes on. Follow it: answerback aws deploy {where.flags}")
                raise
    if dry_run:
        _show_changes(plan.changes, as_json=as_json)
    else:
        _show_deployed(where, account, state, as_json=as_json)
    return ExitCode.OK


def _show_changes(changes: Sequence["Change"], *, as_json: bool) -> None:
    if as_json:
        say_json([asdict(change) for change in changes])
    elif not changes:
        say("Nothing would change.")
    else:
        say_table(
            ("change", "resource", "type", "replaced"),
            [(one.action.lower(), one.resource, one.kind, one.replaced.lower() or None) for one in changes],
        )
        note(f"{len(changes)} changes; nothing was changed.")


def _show_deployed(where: StackOptions, account: "Account", state: "StackState", *, as_json: bool) -> None:
    with explained():
        outputs = account.outputs(state.outputs)
    url = outputs.get("WebSocketUrl", "")
    if as_json:
        say_json({"stack": where.stack, "status": state.status, "url": url, "outputs": outputs})
        return
    say(url)
    # A secret parameter is shown as **** also when it is empty; only with tokens there is an authorizer.
    is_open = "AuthorizerFunction" not in outputs
    if not is_open and state.parameters.get("AllowAnonymous") == "true":
        note("It asks for tokens still. To let everyone in: --parameter JwksUrl= --parameter JwtSecret=")
    token = "" if is_open else ' --token "$TOKEN"'
    note(f"Try it: answerback ask --url {url}{token} 'What is a WebSocket?'")
    note(f"Watch it: answerback aws status {where.flags}")


def _secret(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        secret = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise usage_error(f"cannot read {path}", "make one: answerback token --new-secret FILE") from exc
    if len(secret) < 32:
        raise usage_error(f"the secret in {path} is too short", "it needs 32 characters or more")
    return {"JwtSecret": secret}


def _one_sign_in(wanted: dict[str, str]) -> dict[str, str]:
    """Drop the stack's earlier sign-in when the options name another one."""
    for name, other in (("JwksUrl", "JwtSecret"), ("JwtSecret", "JwksUrl")):
        if wanted.get(name):
            return {other: "", "AllowAnonymous": "false", **wanted}
    return wanted
