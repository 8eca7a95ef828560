"""`answerback serve`: a gateway until a signal stops it."""

import errno
import inspect
import logging
import shlex
import socket
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from answerback.cli.output import CliError, ExitCode, extra_needed, say, usage_error, why_no_output
from answerback.cli.settings import SETTINGS, Configuration, defaults, load
from answerback.gateway.settings import GatewaySettings, SettingsError
from answerback.ports import ModelError
from answerback.settings import YES_NO, Setting, toml
from answerback.stores.database import StoreError
from answerback.texts import spoken

log = logging.getLogger("answerback.serve")


def _flag(setting: Setting) -> inspect.Parameter:
    """A flag that keeps what was typed; `load` reads and checks it, whatever place it came from."""
    kind, text, default = setting.kind, setting.help, setting.value_in(defaults())
    shown = "" if default in (None, (), False) else toml(default, kind).strip('"[]')
    names = [f"{setting.flag}/--no-{setting.flag[2:]}"] if kind is YES_NO else [setting.flag]
    option = typer.Option(
        *names,
        metavar=kind.metavar or None,
        help=f"{text} Default: {shown}" if shown else text,
        show_default=False,
        rich_help_panel=setting.panel,
    )
    annotation = bool | None if kind is YES_NO else list[str] | None if setting.repeats else str | None
    return inspect.Parameter(
        setting.key, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[annotation, option], default=None
    )


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a flag for each setting of the gateway, in place of its `flags`."""

    @wraps(command)
    def run(**given: Any) -> None:
        command(**given)

    own = [one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD]
    vars(run)["__signature__"] = inspect.Signature([*own, *map(_flag, SETTINGS)])
    return run


@with_settings
def serve(
    *,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings.")] = None,
    show_config: Annotated[bool, typer.Option("--show-config", help="Show the settings as TOML and exit.")] = False,
    **flags: object,
) -> None:
    """Run a gateway on this machine.

    Its first line is `listening on ws://HOST:PORT`, as soon as it accepts connections. With --host 0.0.0.0 the second
    one says what other machines use. SIGINT or SIGTERM stops it
    gracefully: answers that end within --grace are finished, the others go on at the next start. A second signal
    stops it at once. SIGHUP, where there is no terminal, and `answerback reload` read certificate, token secret, JWKS
    file, admin key and log level again.

    Every flag is also a variable (--rate-limit is ANSWERBACK_RATE_LIMIT) and a key of the TOML file (rate_limit).

    Examples:

      answerback serve

      answerback serve --model openai:http://127.0.0.1:11434/v1#qwen3

      answerback serve --host 0.0.0.0 --auth-secret-file secret.txt
    """
    configuration = load(flags, file=config)
    if show_config:
        say(configuration.as_toml())
    else:
        serve_until_stopped(configuration, read_again=lambda: load(flags, file=config))


def serve_until_stopped(configuration: Configuration, *, read_again: Callable[[], Configuration]) -> None:
    """Start a gateway, say where it listens, and wait for a signal. `read_again`: the settings at a reload.

    Raises: CliError: it cannot start; the text says what to do.
    """
    with extra_needed("the gateway", "server,local-llm"):
        from answerback.gateway.app import Gateway  # noqa: PLC0415
        from answerback.gateway.logging import configure_logging, set_level  # noqa: PLC0415
        from answerback.gateway.process import run_gateway  # noqa: PLC0415 - the server's packages are an extra

    def announce(gateway: Gateway) -> None:
        log.info("admin port: %s", gateway.admin_url or "off")
        try:
            say(f"listening on {gateway.url}")
            if others := gateway.urls[1:]:
                say(spoken(f"from other machines: {' '.join(others)}"))
            if sys.stdout.isatty():
                _greet(gateway.url, configuration)
        except BrokenPipeError:
            raise
        except OSError as exc:  # a service has no stdout, and a full disk is no reason not to serve
            log.warning("listening on %s; stdout cannot be written: %s", gateway.url, why_no_output() or exc.strerror)

    def reload() -> GatewaySettings:
        try:
            gateway = read_again().gateway
        except CliError as exc:
            raise SettingsError(str(exc)) from exc
        set_level(_level(gateway))
        return gateway

    configure_logging(
        "json" if configuration.gateway.log.format == "json" else "text", level=_level(configuration.gateway)
    )
    try:
        run_gateway(configuration.gateway, announce=announce, read_again=reload)
    except SettingsError as exc:
        # What a setting names may be fine and yet not be there now: a model, a database.
        kind = ExitCode.FAILED if isinstance(exc.__cause__, StoreError | ModelError) else ExitCode.USAGE
        raise CliError(str(exc).rstrip("."), exit_code=kind) from exc
    except BrokenPipeError:  # who read our output has gone
        raise
    except OSError as exc:
        raise _explain_os(exc, configuration) from exc


def _level(settings: GatewaySettings) -> int:
    return logging.getLevelNamesMapping()[settings.log.level.upper()]


def _greet(url: str, configuration: Configuration) -> None:
    gateway = configuration.gateway
    ask = ["answerback", "ask", "--url", url]
    say("")
    if gateway.auth.secret:
        where = gateway.auth.secret_file
        secret = f" --secret-file {shlex.quote(str(where))}" if where else ""
        say(spoken(f"Make a token:  export ANSWERBACK_TOKEN=$(answerback token --user me{secret})"))
    say(spoken(f'Now try:       {shlex.join(ask)} "What is a WebSocket?"'))
    if "local" in gateway.models:
        say(
            spoken(
                "\nThe model `local` is a small English one for trying things out. For real answers:\n"
                "               answerback serve --model openai:BASE_URL#MODEL   (Ollama, vLLM, LiteLLM, ...)"
            )
        )
    say(spoken("Stop:          Ctrl+C\n"))


def port_is_free(host: str, port: int) -> bool:
    """Whether a gateway could listen there now."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    except OSError:
        return False
    return True


def _explain_os(exc: OSError, configuration: Configuration) -> CliError:
    gateway = configuration.gateway
    match exc.errno:
        case errno.EADDRINUSE:
            wanted = [(gateway.host, gateway.port), ("127.0.0.1", gateway.admin_port)]
            ports = [str(port) for host, port in wanted if port and not port_is_free(host, port)]
            return CliError(
                f"port {', '.join(ports) or gateway.port} is taken, perhaps by another gateway",
                "use --port 0 --admin-port 0, or see `answerback doctor`",
            )
        case errno.EADDRNOTAVAIL:
            return usage_error(f"{gateway.host} is not an address of this machine", "use --host 127.0.0.1")
        case errno.EACCES | errno.EPERM:
            return CliError(
                f"no permission for {exc.filename or f'port {gateway.port}'}",
                "use another --data-dir, or a --port above 1023",
            )
        case _:
            where = f" at {exc.filename}" if exc.filename else ""
            why = exc.strerror or type(exc).__name__
            return CliError(f"the gateway cannot start ({why}{where})", "see `answerback doctor`")
