"""`answerback doctor`: what is wrong here, and what to do about it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Final

import typer

from answerback.cli import checks, probe
from answerback.cli.config import Configuration, load
from answerback.cli.findings import Finding, Level, failure, ok, warning
from answerback.cli.output import ExitCode, say, say_json, usage_error

_ANY_ADDRESS: Final = {"0.0.0.0", "::", "*", ""}  # noqa: S104 - compared with, not bound


def doctor(
    *,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Look at this gateway only, as an app would.", show_default=False)
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also load the model and ask it something.")] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with the gateway's settings.", show_default=False)
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The gateway's data folder.", show_default=False)
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="The gateway's postgresql:// URL.", show_default=False)
    ] = None,
    port: Annotated[str | None, typer.Option(metavar="PORT", help="The gateway's port.", show_default=False)] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="A model to look at.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check the installation, the data, the port, the store, the model, the token and the clocks.

    Exits with 1 if something does not work. A token is taken from ANSWERBACK_TOKEN.
    """
    if url is not None and not url.startswith(("ws://", "wss://")):
        raise usage_error(f"--url must begin with ws:// or wss://, not {url!r}", "for example ws://127.0.0.1:8765")
    token = os.environ.get("ANSWERBACK_TOKEN") or None
    if url is not None:
        found = asyncio.run(_report(_remote(url, token=token, deep=deep), show=not as_json))
    else:
        flags = {"data_dir": data_dir, "database": database, "port": port, "model": model or None}
        configuration = load(flags, file=config)
        found = asyncio.run(_report(_local(configuration, token=token, deep=deep), show=not as_json))
    failed = any(finding.level is Level.FAIL for finding in found)
    if as_json:
        checks_found = [{"level": f.level, "check": f.what, "text": f.text, "advice": f.advice or None} for f in found]
        say_json({"ok": not failed, "checks": checks_found})
    return ExitCode.FAILED if failed else ExitCode.OK


async def _report(findings: AsyncIterator[Finding], *, show: bool) -> list[Finding]:
    """Collect them, and show each at once: some take seconds."""
    found = []
    async for finding in findings:
        found.append(finding)
        if show:
            _show(finding)
    return found


async def _local(configuration: Configuration, *, token: str | None, deep: bool) -> AsyncIterator[Finding]:
    settings = configuration.gateway
    yield checks.check_sources(configuration)
    installation = checks.check_installation(settings)
    for finding in (
        *installation,
        *checks.check_weights(settings),
        *checks.check_data_dir(settings),
        *checks.check_open_files(settings),
    ):
        yield finding
    if any(finding.level is Level.FAIL for finding in installation):
        return
    async for finding in checks.check_store(settings):
        yield finding
    async for finding in checks.check_auth(settings, token=token):
        yield finding
    async for finding in checks.check_models(settings, deep=deep):
        yield finding
    for finding in await asyncio.to_thread(_port, configuration, token):
        yield finding


async def _remote(url: str, *, token: str | None, deep: bool) -> AsyncIterator[Finding]:
    try:
        found = await asyncio.to_thread(probe.check_gateway, url, token=token, ask=deep)
    except probe.NobodyThere as exc:
        found = [failure("gateway", f"nobody is there at {url} ({exc.text})", "start it: answerback serve")]
    for finding in found:
        yield finding


def _port(configuration: Configuration, token: str | None) -> list[Finding]:
    """The port is free for a gateway, or a gateway has it."""
    settings = configuration.gateway
    if settings.port == 0:
        return [ok("port", "any free one")]
    host = "127.0.0.1" if settings.host in _ANY_ADDRESS else settings.host
    scheme = "wss" if settings.tls_cert else "ws"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
    try:
        found = probe.check_gateway(url, token=token, ask=False)
    except probe.NobodyThere:
        if probe.port_is_free(settings.host, settings.port):
            return [ok("port", f"{settings.port} is free; no gateway runs here")]
        return [failure("port", f"{settings.port} cannot be used on {settings.host}", "say another --port or --host")]
    if any(finding.level is Level.FAIL for finding in found) and not configuration.gateway.auth.is_on:
        return [warning("port", f"{settings.port} is taken by something that is no gateway", "say another --port")]
    return found


def _show(finding: Finding) -> None:
    if not sys.stdout.isatty():
        say("\t".join(filter(None, (finding.level, finding.what, finding.text, finding.advice))))
        return
    from rich.console import Console  # noqa: PLC0415 - not needed in a pipe
    from rich.text import Text  # noqa: PLC0415

    styles = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
    line = Text.assemble((f"{finding.level:<5}", styles[finding.level]), f"{finding.what:<15} {finding.text}")
    console = Console()
    console.print(line, soft_wrap=True)
    if finding.advice:
        console.print(Text.assemble(" " * 21, ("→ ", "bold"), finding.advice), soft_wrap=True)
