"""`answerback token`: tokens for development, and secrets to sign them with."""

import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from answerback.cli.output import CliError, say, say_json, say_result, usage_error
from answerback.cli.settings import load, read_secret
from answerback.settings import duration_ms


def token(
    *,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Whom the token speaks for.")] = None,
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long it is valid, as in 10m, 1h, 7d.")] = "1h",
    secret_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the gateway's secret.")] = None,
    issuer: Annotated[str | None, typer.Option(help="`iss` that the gateway wants.")] = None,
    audience: Annotated[str | None, typer.Option(help="`aud` that the gateway wants.")] = None,
    new_secret: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make a new secret in FILE instead, for you alone to read.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file with the settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a token for development, signed with the gateway's shared secret.

    The secret, issuer and audience are the gateway's settings: flags, ANSWERBACK_AUTH_SECRET or
    ANSWERBACK_AUTH_SECRET_FILE, or the TOML file. In production, your identity provider makes the tokens.
    """
    if new_secret is not None:
        _make_secret(new_secret, as_json=as_json)
        return
    if user is None:
        raise usage_error("--user is missing", "say whom the token speaks for: answerback token --user alice")
    try:
        ttl_ms = duration_ms(ttl)
    except ValueError:
        ttl_ms = 0
    if ttl_ms < 1000:
        raise usage_error(f"--ttl must be a duration of a second or more, not {ttl!r}", "for example --ttl 1h")
    auth = load({"auth_secret_file": secret_file, "issuer": issuer, "audience": audience}, file=config).gateway.auth
    if not auth.secret:
        raise usage_error(
            "no secret is set",
            "answerback token --new-secret secret.txt, then use --secret-file secret.txt here "
            "and --auth-secret-file secret.txt with serve",
        )
    from answerback.auth import AuthError, make_token  # noqa: PLC0415 - cryptography is slow to import

    now_s, ttl_s = int(time.time()), ttl_ms // 1000
    try:
        made = make_token(
            user,
            secret=auth.secret,
            ttl_s=ttl_s,
            now_s=now_s,
            issuer=auth.issuer,
            audience=auth.audience,
            user_claim=auth.user_claim,
        )
    except AuthError as exc:
        raise usage_error(str(exc).rstrip(".")) from exc
    if as_json:
        expires_at = datetime.fromtimestamp(now_s + ttl_s, UTC).isoformat()
        say_json({"token": made, "userId": user, "expiresAt": expires_at})
    else:
        say(made)


def _make_secret(path: Path, *, as_json: bool) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise usage_error(f"{path} exists already", "name another file, or remove it first") from None
    except OSError as exc:
        raise CliError(f"{path} cannot be written ({exc.strerror})", "name another file") from exc
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(48) + "\n")
    read_secret(path)
    say_result(
        {"secretFile": str(path)},
        f"Wrote {path}. Start the gateway with: answerback serve --auth-secret-file {path}",
        as_json=as_json,
    )
