"""`answerback serve`: a gateway until a signal stops it."""

import asyncio
import errno
import inspect
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from answerback.cli.config import Configuration, default_value, load
from answerback.cli.logs import start_logging
from answerback.cli.output import CliError, missing_extra, note, say, usage_error
from answerback.cli.settings import SETTINGS, Setting
from answerback.cli.values import YES_NO, toml
from answerback.gateway.settings import SettingsError

if TYPE_CHECKING:
    from answerback.gateway.app import Gateway

_HELP: Final = """Run a gateway on this machine.

Its first line is `listening on ws://HOST:PORT`, as soon as it accepts connections. SIGINT or SIGTERM stops it \
in good order: answers that end within --grace are finished, the others go on at the next start. A second signal \
stops it at once.

Every flag is also a variable (--rate-limit is ANSWERBACK_RATE_LIMIT) and a key of the TOML file (rate_limit).

Examples:

  answerback serve

  answerback serve --model openai:http://127.0.0.1:11434/v1#qwen3

  answerback serve --host 0.0.0.0 --auth-secret-file secret.txt
"""


def serve_command() -> Callable[..., None]:
    """The command, its flags made from the list of settings."""

    def serve(config: Path | None, show_config: bool, **flags: object) -> None:
        configuration = load(flags, file=config)
        if show_config:
            say(configuration.as_toml())
            return
        serve_until_stopped(configuration)

    serve.__doc__ = _HELP
    own = [
        _parameter(
            "config",
            Path | None,
            typer.Option("--config", metavar="FILE", help="TOML file with settings.", show_default=False),
        ),
        _parameter(
            "show_config", bool, typer.Option("--show-config", help="Print the settings as TOML and leave."), False
        ),
    ]
    vars(serve)["__signature__"] = inspect.Signature([*own, *map(_flag, SETTINGS)])
    return serve


def serve_until_stopped(configuration: Configuration) -> None:
    """Start a gateway, say where it listens, and wait for a signal.

    Raises: CliError: it cannot start; the text says what to do.
    """
    try:
        from answerback.gateway.app import Gateway  # noqa: PLC0415 - the server's packages are an extra
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("answerback"):
            raise
        raise missing_extra("the gateway", "server,local-llm") from exc
    start_logging(log_format=configuration.log_format, level=configuration.log_level)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(Gateway(configuration.gateway), configuration))
    except SettingsError as exc:
        raise usage_error(str(exc).rstrip(".")) from exc
    except ModuleNotFoundError as exc:
        raise _explain_missing(exc) from exc
    except OSError as exc:
        raise _explain_os(exc, configuration) from exc


async def _serve(gateway: "Gateway", configuration: Configuration) -> None:
    stopped = asyncio.Event()
    _on_signals(stopped.set)
    await gateway.start()
    try:
        say(f"listening on {gateway.url}")
        if sys.stdout.isatty():
            _greet(gateway.url, configuration)
        await stopped.wait()
        if sys.stdout.isatty():
            note("stopping; a second Ctrl+C stops at once")
    finally:
        await gateway.stop()


def _on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at the first SIGINT or SIGTERM; the second one has its usual effect."""
    loop = asyncio.get_running_loop()
    names = (signal.SIGINT, signal.SIGTERM)

    def first() -> None:
        for name in names:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(name)
            signal.signal(name, signal.SIG_DFL)
        stop()

    for name in names:
        try:
            loop.add_signal_handler(name, first)
        except NotImplementedError:  # Windows
            signal.signal(name, lambda *_: loop.call_soon_threadsafe(first))


def _greet(url: str, configuration: Configuration) -> None:
    gateway = configuration.gateway
    ask = ["answerback", "ask", "--url", url]
    if gateway.auth.secret:
        where = configuration.values["auth_secret_file"]
        secret = f" --secret-file {shlex.quote(str(where))}" if where else ""
        say(f"\nMake a token:  export ANSWERBACK_TOKEN=$(answerback token --user me{secret})")
    say(f'{"" if gateway.auth.secret else chr(10)}Now try:       {shlex.join(ask)} "What is a WebSocket?"')
    if "local" in gateway.models:
        say(
            "\nThe model `local` is a small English one for trying things out. For real answers:\n"
            "               answerback serve --model openai:BASE_URL#MODEL   (Ollama, vLLM, LiteLLM, ...)"
        )
    say("Stop:          Ctrl+C\n")


def _explain_missing(exc: ModuleNotFoundError) -> CliError:
    match (exc.name or "").partition(".")[0]:
        case "xllamacpp":
            return missing_extra("the embedded model", "local-llm", "start with --model echo, which needs nothing")
        case "httpx":
            return missing_extra("an openai: model", "openai")
        case "psycopg" | "psycopg_pool":
            return missing_extra("PostgreSQL", "postgres")
        case "boto3" | "botocore":
            return missing_extra("Bedrock", "aws")
        case name:
            return CliError(f"the module {name} is not installed", "install the package that has it")


def _explain_os(exc: OSError, configuration: Configuration) -> CliError:
    gateway = configuration.gateway
    match exc.errno:
        case errno.EADDRINUSE:
            ports = f"{gateway.port} or the admin port {gateway.admin_port}"
            return CliError(
                f"port {ports} is taken, perhaps by another gateway", "use --port 0 --admin-port 0, or `answerback doctor`"
            )
        case errno.EADDRNOTAVAIL:
            return usage_error(f"{gateway.host} is not an address of this machine", "use --host 127.0.0.1")
        case errno.EACCES | errno.EPERM:
            return CliError(
                f"no permission for {exc.filename or f'port {gateway.port}'}",
                "use another --data-dir, or a --port above 1023",
            )
        case _:
            return CliError(f"the gateway cannot start ({exc.strerror or type(exc).__name__})", "see `answerback doctor`")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop if it is installed: less CPU a frame."""
    try:
        import uvloop  # noqa: PLC0415 - an extra, and not for Windows
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _flag(setting: Setting) -> inspect.Parameter:
    """A flag that keeps what was typed; config.load reads and checks it, whatever place it came from."""
    default = default_value(setting)
    shown = "" if default in (None, (), False) else toml(default, setting.kind).strip('"[]')
    names = [f"{setting.flag}/--no-{setting.flag[2:]}"] if setting.kind is YES_NO else [setting.flag]
    option = typer.Option(
        *names,
        metavar=setting.kind.metavar or None,
        help=f"{setting.help} Default: {shown}" if shown else setting.help,
        show_default=False,
        rich_help_panel=setting.panel,
    )
    if setting.kind is YES_NO:
        return _parameter(setting.key, bool | None, option)
    return _parameter(setting.key, list[str] | None if setting.repeats else str | None, option)


def _parameter(name: str, annotation: Any, option: Any, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[annotation, option], default=default
    )
