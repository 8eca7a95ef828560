"""What `answerback aws` does and shows: results on stdout, progress on stderr."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import platformdirs

from answerback.cli.output import (
    CliError,
    ExitCode,
    confirm,
    missing_extra,
    note,
    say,
    say_json,
    say_table,
    usage_error,
)
from answerback.cli.values import duration_ms
from answerback_aws.commands.progress import shown_progress

try:
    from answerback_aws.deploy.account import Account
    from answerback_aws.deploy.bare import ImportFailed
    from answerback_aws.deploy.bare import measure as measure_imports
    from answerback_aws.deploy.deployment import Deployment, Wishes
    from answerback_aws.deploy.discovery import keys_of_issuer
    from answerback_aws.deploy.errors import DeployError, Kind
    from answerback_aws.deploy.logs import Line, Logs
    from answerback_aws.deploy.package import PackageError, Target, build_package
    from answerback_aws.deploy.removal import Removal
    from answerback_aws.deploy.stack import Change, Stack, StackState
    from answerback_aws.deploy.status import Fact, look
except ModuleNotFoundError as exc:
    if (exc.name or "").startswith("answerback"):
        raise
    raise missing_extra("AWS", "aws") from exc

_EXIT: Final = {
    Kind.FAILED: ExitCode.FAILED,
    Kind.USAGE: ExitCode.USAGE,
    Kind.CANNOT_CONNECT: ExitCode.CANNOT_CONNECT,
}
_PLATFORM: Final = ("START RequestId", "END RequestId", "REPORT RequestId", "INIT_START")
_KNOWN: Final = ("requestId", "attempt", "connectionId", "userId")
_SHOWN_FIELDS: Final = frozenset({"level", "message", "timestamp", "service", "location", *_KNOWN})
_DURATION: Final = "a duration such as 90s, 10m or 1h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A stack's name, and where it is."""

    stack: str
    account: Account
    endpoint: str | None
    options: str


def place(stack: str, region: str | None, profile: str | None, endpoint: str | None) -> Place:
    """Where the command works. Raises: CliError: there is no such profile."""
    with _explained():
        account = Account(region=region, profile=profile, endpoint=endpoint)
    given = (("--region", region), ("--profile", profile), ("--endpoint-url", endpoint))
    options = "".join(f" {name} {value}" for name, value in given if value is not None)
    return Place(stack=stack, account=account, endpoint=endpoint, options=f"--stack {stack}{options}")


def check_target(runtime: str | None, architecture: str | None) -> None:
    """Raises: CliError: the options do not name anything to build for."""
    if runtime is not None and (not runtime.startswith("3.") or not runtime[2:].isdigit()):
        raise usage_error(f"--runtime must be a version of Python such as 3.13, not {runtime!r}")
    if architecture not in {None, "arm64", "x86_64", "here"}:
        raise usage_error(f"--architecture must be arm64, x86_64 or here, not {architecture!r}")


def target(runtime: str | None, architecture: str | None) -> Target:
    """What the package is built for."""
    check_target(runtime, architecture)
    if architecture == "here":
        return Target.here(python=runtime)
    return Target(python=runtime or "3.13", architecture=architecture or "arm64")


def deploy(
    where: Place,
    *,
    models: Sequence[str],
    given: Mapping[str, str],
    secret_file: Path | None,
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
    include: Sequence[Path],
    requirements: Path | None,
    runtime: str | None,
    architecture: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Deploy, or show what would change."""
    check_target(runtime, architecture)
    wanted = {**given, **_secret(secret_file), **parameters}
    with _explained(), shown_progress() as progress:
        if "JwtIssuer" in given and not {"JwksUrl", "JwtSecret"} & set(wanted):
            progress.step(f"Asking {given['JwtIssuer']} for its keys")
            wanted["JwksUrl"] = keys_of_issuer(given["JwtIssuer"])
        wanted = _one_sign_in(wanted)
        wishes = Wishes(
            target=Target.here(python=runtime) if architecture == "here" else None,
            python=runtime,
            architecture=architecture,
            models=models,
            include=include,
            requirements=requirements,
            parameters=wanted,
            tags=tags,
            cache=_cache(),
        )
        deployment = Deployment(where.account, where.stack, progress)
        if dry_run:
            plan = deployment.plan(wishes)
            deployment.drop(plan)
        else:
            try:
                state = deployment.deploy(wishes)
            except KeyboardInterrupt:
                note(f"\nCloudFormation goes on. Follow it: answerback aws deploy {where.options}")
                raise
    if dry_run:
        _show_changes(plan.changes, as_json=as_json)
    else:
        _show_deployed(where, state, as_json=as_json)
    return ExitCode.OK


def show_status(where: Place, *, as_json: bool) -> int:
    """The facts, and whether all is well."""
    with _explained():
        facts = look(where.account, where.stack)
    is_good = all(fact.is_good is not False for fact in facts)
    if as_json:
        say_json({"healthy": is_good, "facts": [_fact_json(fact) for fact in facts]})
    else:
        say_table(
            ("", "what", "is", "do"), [(_mark(fact), fact.name, fact.value, fact.advice or None) for fact in facts]
        )
    return ExitCode.OK if is_good else ExitCode.FAILED


def show_logs(
    where: Place,
    *,
    functions: Sequence[str],
    request_id: str | None,
    since: str,
    follow: bool,
    as_json: bool,
) -> int:
    """Lines in order of time."""
    try:
        since_ms = time.time_ns() // 1_000_000 - duration_ms(since)
    except ValueError:
        raise usage_error(f"--since must be {_DURATION}, not {since!r}") from None
    with _explained():
        count = 0
        logs = Logs(where.account, where.stack)
        groups = logs.groups(functions)
        read = logs.follow if follow else logs.read
        for line in read(groups, since_ms=since_ms, containing=request_id):
            if as_json or not _is_accounting(line):
                count += 1
                say(line.text if as_json else _log_text(line))
    if not count:
        note(f"No lines in the last {since}. Look further back with --since, for example --since 1d")
    return ExitCode.OK


def show_outputs(where: Place, name: str | None, *, as_json: bool) -> int:
    """All outputs, or one of them bare."""
    with _explained():
        outputs = Stack(where.account, where.stack).existing().outputs
    if name is not None:
        if name not in outputs:
            raise usage_error(f"there is no output {name}", f"there are: {', '.join(sorted(outputs))}")
        say(outputs[name])
    elif as_json:
        say_json(outputs)
    else:
        say_table(("output", "value"), sorted(outputs.items()))
    return ExitCode.OK


def destroy(where: Place, *, yes: bool, delete_history: bool) -> int:
    """Delete the stack after asking."""
    with _explained():
        Stack(where.account, where.stack).existing()
        account, region = where.account.identity, where.account.region
    if not yes:
        kept = (
            "The history goes, too: no snapshot and no backup is left."
            if delete_history
            else "A snapshot of the database stays, with the whole history in it; the tables' backups stay for 35 days."
        )
        confirm(f"Delete the stack {where.stack} of account {account} in {region}? {kept}")
    with _explained(), shown_progress() as progress:
        removal = Removal(where.account, where.stack, progress)
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


def package(
    output: Path | None,
    *,
    models: Sequence[str],
    include: Sequence[Path],
    requirements: Path | None,
    target: Target,
    measure: bool,
    as_json: bool,
) -> int:
    """Build the package, write it, and measure what importing it takes."""
    if measure and not target.is_this_python:
        raise usage_error("only a package for this machine can be imported here", "say --architecture here")
    with _explained():
        built = build_package(target, cache=_cache(), models=models, include=include, requirements=requirements)
        imported = measure_imports(built.data) if measure else ()
    if output is not None:
        try:
            output.write_bytes(built.data)
        except OSError as exc:
            raise CliError(f"cannot write {output}: {exc.strerror}", "name another file with --output") from exc
    if as_json:
        say_json(
            {
                "target": target.name,
                "bytes": len(built.data),
                "unzippedBytes": built.unzipped_bytes,
                "sha256": built.content_sha256,
                "file": None if output is None else str(output),
                "imports": [{"handler": one.module, "cpuMs": round(one.cpu_ms, 1)} for one in imported],
            }
        )
        return ExitCode.OK
    say(
        f"{target.name}: {len(built.data) / 1e6:.1f} MB, unzipped {built.unzipped_bytes / 1e6:.1f} MB, "
        f"{len(built.names)} files, contents {built.content_sha256[:16]}"
    )
    if imported:
        say_table(("handler", "import, ms CPU"), [(one.module, round(one.cpu_ms)) for one in imported])
    if output is not None:
        say(f"Written to {output}")
    return ExitCode.OK


# --- texts --------------------------------------------------------------------------------------------------


def _show_changes(changes: Sequence[Change], *, as_json: bool) -> None:
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


def _show_deployed(where: Place, state: StackState, *, as_json: bool) -> None:
    with _explained():
        url = where.account.websocket_url(state.outputs)
    if as_json:
        say_json({"stack": where.stack, "status": state.status, "url": url, "outputs": dict(state.outputs)})
        return
    say(url)
    # A secret parameter is shown as **** also when it is empty; only with tokens there is an authorizer.
    is_open = "AuthorizerFunction" not in state.outputs
    if not is_open and state.parameters.get("AllowAnonymous") == "true":
        note("It asks for tokens still. To let everyone in: --parameter JwksUrl= --parameter JwtSecret=")
    token = "" if is_open else ' --token "$TOKEN"'
    note(f"Try it: answerback ask --url {url}{token} 'What is a WebSocket?'")
    note(f"Look after it: answerback aws status {where.options}")


def _fact_json(fact: Fact) -> dict[str, Any]:
    return {"name": fact.name, "value": fact.value, "good": fact.is_good, "advice": fact.advice or None}


def _mark(fact: Fact) -> str:
    return {True: "ok", False: "FAIL", None: "?"}[fact.is_good]


def _is_accounting(line: Line) -> bool:
    """Lambda's own lines about an invocation that went well, and figures for CloudWatch: nothing for a reader."""
    return "_aws" in line.fields or (line.text.startswith(_PLATFORM) and "Status:" not in line.text)


def _log_text(line: Line) -> str:
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


# --- small things -------------------------------------------------------------------------------------------


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except DeployError as exc:
        raise CliError(exc.message, exc.hint, exit_code=_EXIT[exc.kind]) from exc
    except (PackageError, ImportFailed) as exc:
        raise CliError(str(exc).rstrip(".")) from exc


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
    """Who now says how users sign in no longer means how it was before."""
    for name, other in (("JwksUrl", "JwtSecret"), ("JwtSecret", "JwksUrl")):
        if wanted.get(name):
            return {other: "", "AllowAnonymous": "false", **wanted}
    return wanted


def _cache() -> Path:
    return platformdirs.user_cache_path("answerback") / "wheels"
