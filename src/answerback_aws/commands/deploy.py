"""`answerback aws deploy | check | package`: create the stack, or update it, and see before whether it could be."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from answerback.cli.options import Json, TokenText, with_options
from answerback.cli.output import CliError, ExitCode, confirm, note, say, say_json, say_table, usage_error
from answerback_aws.commands.options import (
    PackageOptions,
    StackOptions,
    explained,
    explained_package,
    pairs,
    shown_progress,
    wheel_cache,
)
from answerback_aws.commands.stack import fact_json, say_facts
from answerback_aws.deploy.package import build_package
from answerback_aws.deploy.package import measure as measure_imports

if TYPE_CHECKING:
    from answerback_aws.deploy.account import Account
    from answerback_aws.deploy.stack import Change, StackState

Models: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", metavar="SPEC", help="bedrock:MODEL_ID | python:MODULE:FACTORY | echo; repeatable."),
]
Parameters: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="Any parameter of the template; repeatable.")
]
NoAsk: TypeAlias = Annotated[bool, typer.Option("--no-ask", help="Ask neither the models nor the stack a question.")]

_ASKING: Final = "answerback-deploy"
"""The user who asks."""
_ANSWER_S: Final = 90


@with_options
def deploy(
    *,
    where: StackOptions,
    model: Models = None,
    jwt_issuer: Annotated[str | None, typer.Option(metavar="URL", help="Who signs your users' tokens.")] = None,
    jwt_audience: Annotated[str | None, typer.Option(metavar="TEXT", help="For whom: the aud of their tokens.")] = None,
    jwks_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The issuer's keys.  [default: asked of the issuer]")
    ] = None,
    jwt_secret_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Secret of HS256 tokens, for development.")
    ] = None,
    allow_anonymous: Annotated[
        bool | None, typer.Option("--allow-anonymous/--require-token", help="Let everyone in who knows the URL.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Web page that may connect: https://app.example; repeatable."),
    ] = None,
    least_client: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Version of apps below which they tell to update.")
    ] = None,
    rate_limit: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Requests a user and minute; 0: no limit.")
    ] = None,
    max_watchers: Annotated[
        int | None, typer.Option(min=0, max=12, metavar="N", help="Devices that watch one conversation; 0: none.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="Longest answer.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt, of any length.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Variable of a pipeline, NAME= takes it away; repeatable."),
    ] = None,
    secret: Annotated[
        list[str] | None, typer.Option(metavar="NAME=ARN", help="Variable whose value is a secret of AWS; repeatable.")
    ] = None,
    worker_policy: Annotated[
        list[str] | None, typer.Option(metavar="ARN", help="Policy with what a pipeline may call; repeatable.")
    ] = None,
    retention_days: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How long ended requests can be resumed.")
    ] = None,
    min_acu: Annotated[float | None, typer.Option(min=0, metavar="N", help="Least of Aurora; 0: it pauses.")] = None,
    max_acu: Annotated[float | None, typer.Option(min=1, metavar="N", help="Most of Aurora.")] = None,
    alarm_email: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Who is notified of alarms.")] = None,
    domain: Annotated[str | None, typer.Option(metavar="NAME", help="Of yours that apps connect to.")] = None,
    certificate: Annotated[
        str | None, typer.Option(metavar="ARN", help="Its certificate in ACM, in this region.")
    ] = None,
    permissions_boundary: Annotated[
        str | None, typer.Option(metavar="ARN", help="Policy that bounds every role.")
    ] = None,
    role_path: Annotated[str | None, typer.Option(metavar="PATH", help="IAM path of the roles: /teams/chat/.")] = None,
    role_arn: Annotated[
        str | None, typer.Option(metavar="ARN", help="What CloudFormation acts as.  [default: you]")
    ] = None,
    bucket: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of yours, for packages.  [default: one is made]")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="ARN", help="KMS key of yours for all that is stored.")] = None,
    parameter: Parameters = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A tag of the stack; repeatable.")] = None,
    built: PackageOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Do not ask before the URL, a table or the database is replaced.")
    ] = False,
    watch: Annotated[
        int, typer.Option(min=0, max=180, metavar="MINUTES", help="How long alarms take an update back.")
    ] = 0,
    no_ask: NoAsk = False,
    token: TokenText = None,
    as_json: Json = False,
) -> int:
    """Create the stack, or update it. What is not said stays as it was.

    Checks the account and the models (`answerback aws check`), packages the functions, uploads them, and lets
    CloudFormation do the rest: about 10 minutes the first time, most of them for the database. Then it asks the stack a
    question, as the user answerback-deploy or with --token. Interrupted, it goes on by itself; deploying again follows
    it. A first deployment that fails leaves nothing behind.

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
        "LeastClient": least_client,
        "RateLimit": rate_limit,
        "MaxWatchers": max_watchers,
        "MaxTokens": max_tokens,
        "WorkerPolicyArns": ",".join(worker_policy) if worker_policy else None,
        "RetentionDays": retention_days,
        "MinCapacity": min_acu,
        "MaxCapacity": max_acu,
        "AlarmEmail": alarm_email,
        "DomainName": domain,
        "CertificateArn": certificate,
        "PermissionsBoundary": permissions_boundary,
        "RolePath": role_path,
        "KeyArn": key,
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
    from answerback_aws.deploy.deployment import (  # noqa: PLC0415 - help needs no boto3
        Deployment,
        DeployRequest,
        WorkerRequest,
    )
    from answerback_aws.deploy.parameters import keys_of_issuer  # noqa: PLC0415

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
            bucket=bucket,
            role_arn=role_arn,
            watch_minutes=watch,
            ask=not (no_ask or dry_run),
            cache=wheel_cache(),
        )
        deployment = Deployment(account, where.stack, progress, say=note)
        if dry_run:
            plan = deployment.plan(request)
            deployment.drop(plan)
        else:
            try:
                state = deployment.deploy(request, approve=_announce if replace else _confirm)
            except KeyboardInterrupt:
                note(f"\nCloudFormation goes on. Follow it: answerback aws deploy {where.flags}")
                raise
    if dry_run:
        _show_changes(plan.changes, as_json=as_json)
    else:
        with explained():
            asked = None if no_ask else _ask(state, account, token=token, secret=parameters.get("JwtSecret"))
        _show_deployed(where, account, state, asked, as_json=as_json)
        if asked is not None and asked.error is not None:
            raise CliError(
                f"the stack is there, and does not answer: {asked.error}",
                f"answerback aws logs {where.flags} --since 10m, and answerback aws check {where.flags}",
            )
    return ExitCode.OK


@with_options
def check(
    *,
    where: StackOptions,
    model: Models = None,
    parameter: Parameters = None,
    no_ask: NoAsk = False,
    as_json: Json = False,
) -> int:
    """See whether the account and the region are ready for the stack, new or as it is. Exits with 1 if not.

    It takes seconds and only reads, but for one answer of one token by each model of Bedrock: that is billed, and
    subscribes to a model that is sold through AWS Marketplace.

    Examples:

      answerback aws check --region ap-northeast-2

      answerback aws check --stack chat --model bedrock:global.anthropic.claude-haiku-4-5-20251001-v1:0 --json
    """
    account = where.account()
    from answerback_aws.deploy.deployment import Deployment, DeployRequest  # noqa: PLC0415 - help needs no boto3

    with explained(), shown_progress() as progress:
        progress.step("Asking AWS")
        parameters = pairs("--parameter", parameter)
        request = DeployRequest(models=model or [], parameters=parameters, ask=not no_ask, cache=wheel_cache())
        facts, values = Deployment(account, where.stack, progress, say=note).facts(request)
    is_ready = all(fact.is_good is not False for fact in facts)
    if as_json:
        chosen = {name: values[name] for name in ("Models", "ModelArns", "WorkerConcurrency", "EngineVersion")}
        say_json({"ready": is_ready, "facts": [fact_json(fact) for fact in facts], "parameters": chosen})
    else:
        say_facts(facts)
    return ExitCode.OK if is_ready else ExitCode.FAILED


def _announce(losses: Sequence["Change"]) -> None:
    for one in losses:
        note(f"{one.resource} {'is' if one.replaced == 'True' else 'may be'} replaced: {one.loss}.")


def _confirm(losses: Sequence["Change"]) -> None:
    _announce(losses)
    try:
        confirm("Deploy all the same?")
    except CliError as exc:
        raise CliError(exc.message, "say --replace to deploy it all the same", exit_code=exc.exit_code) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The question at the end. `why_not`: it was not asked. `error`: what came instead of an answer."""

    answer_ms: int | None = None
    why_not: str | None = None
    error: str | None = None


def _ask(state: "StackState", account: "Account", *, token: str | None, secret: str | None) -> _Asked:
    """One question through the whole stack, by the URL that needs no DNS record of a domain."""
    from answerback.client.blocking import BlockingClient  # noqa: PLC0415
    from answerback.client.errors import AnswerbackError, RequestTimeout  # noqa: PLC0415

    values = state.parameters
    if "AuthorizerFunction" in state.outputs and token is None:
        if secret is None:
            return _Asked(why_not="users sign in; with --token (ANSWERBACK_TOKEN) it asks as that user")
        from answerback.auth import make_token  # noqa: PLC0415 - cryptography is slow to import

        token = make_token(
            _ASKING,
            secret=secret,
            ttl_s=600,
            issuer=values.get("JwtIssuer") or None,
            audience=values.get("JwtAudience") or None,
            user_claim=values.get("UserClaim") or "sub",
        )
    user = None if token is not None else _ASKING
    begun = time.monotonic()
    try:
        with BlockingClient(account.stage_url(state.outputs), token=token, user=user, connect_timeout=60) as app:
            app.ask("Say yes.", max_tokens=32, timeout=_ANSWER_S)
    except RequestTimeout:
        return _Asked(error=f"no answer within {_ANSWER_S} s")
    except AnswerbackError as exc:
        return _Asked(error=str(exc).rstrip("."))
    return _Asked(answer_ms=round(1000 * (time.monotonic() - begun)))


def _show_changes(changes: Sequence["Change"], *, as_json: bool) -> None:
    if as_json:
        shown = ("action", "resource", "kind", "replaced")
        say_json([{name: getattr(change, name) for name in shown} for change in changes])
    elif not changes:
        say("Nothing would change.")
    else:
        say_table(
            ("change", "resource", "type", "replaced"),
            [(one.action.lower(), one.resource, one.kind, one.replaced.lower() or None) for one in changes],
        )
        note(f"{len(changes)} changes; nothing was changed.")


def _show_deployed(
    where: StackOptions, account: "Account", state: "StackState", asked: _Asked | None, *, as_json: bool
) -> None:
    with explained():
        outputs = account.outputs(state.outputs)
    url = outputs.get("WebSocketUrl", "")
    if as_json:
        found = {"stack": where.stack, "status": state.status, "url": url, "outputs": outputs}
        say_json({**found, "asked": asdict(asked) if asked is not None else None})
        return
    say(url)
    if asked is not None and asked.answer_ms is not None:
        note(f"It answered a question in {asked.answer_ms / 1000:.1f} s.")
    elif asked is None or asked.why_not is not None:
        note(f"It was not asked a question: {asked.why_not if asked is not None else '--no-ask'}.")
    if "DomainTarget" in state.outputs:
        note(f"Point {state.parameters.get('DomainName')} to {state.outputs['DomainTarget']} (CNAME or alias).")
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


@with_options
def package(
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the zip.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="SPEC", help="Check that it is in the package; repeatable."),
    ] = None,
    built: PackageOptions,
    measure: Annotated[
        bool, typer.Option("--measure", help="Import each handler in a bare interpreter, and show its CPU time.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Build the package of the functions, without deploying it. The same input gives the same bytes.

    Examples:

      answerback aws package --output functions.zip

      answerback aws package --architecture here --measure
    """
    target = built.target()
    if measure and not target.is_this_python:
        raise usage_error("only a package for this machine can be imported here", "say --architecture here")
    with explained_package():
        made = build_package(
            target,
            cache=wheel_cache(),
            models=model or [],
            include=built.include or [],
            requirements=built.requirements,
        )
        imported = measure_imports(made.data) if measure else ()
    if output is not None:
        try:
            output.write_bytes(made.data)
        except OSError as exc:
            raise CliError(f"cannot write {output}: {exc.strerror}", "name another file with --output") from exc
    if as_json:
        say_json(
            {
                "target": target.name,
                "bytes": len(made.data),
                "unzippedBytes": made.unzipped_bytes,
                "sha256": made.content_sha256,
                "file": None if output is None else str(output),
                "imports": [{"handler": one.module, "cpuMs": round(one.cpu_ms, 1)} for one in imported],
            }
        )
        return ExitCode.OK
    say(
        f"{target.name}: {len(made.data) / 1e6:.1f} MB, unzipped {made.unzipped_bytes / 1e6:.1f} MB, "
        f"{len(made.names)} files, contents {made.content_sha256[:16]}"
    )
    if imported:
        say_table(("handler", "import, ms CPU"), [(one.module, round(one.cpu_ms)) for one in imported])
    if output is not None:
        say(f"Written to {output}")
    return ExitCode.OK
