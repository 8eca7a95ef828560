"""The entry point: commands, help, and how errors become one line and an exit code."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Final

import typer

from answerback import __version__
from answerback.cli.output import CliError, ExitCode, note

_EXAMPLES: Final = (
    ("answerback demo", "three apps, one model, all checked"),
    ("answerback serve", "a gateway on this machine"),
    ('answerback ask "What is a WebSocket?"', "one question to it"),
    ("answerback doctor", "what is wrong, and what to do"),
)
_EXIT_CODES: Final = (
    "0 done, answered",
    "1 failed",
    "2 wrong usage",
    "3 cannot connect",
    "4 timed out",
    "5 rate limited",
)
_TALK: Final = "Talk to a gateway"
_RUN: Final = "Run a gateway"
_LOOK_AFTER: Final = "Look after it"
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "ask": (_TALK, "answerback.cli.ask:ask"),
    "chat": (_TALK, "answerback.cli.chat:chat"),
    "demo": (_TALK, "answerback_proof.demo:demo"),
    "desktop": (_TALK, "answerback_desktop.command:desktop"),
    "serve": (_RUN, "answerback.cli.serve:serve_command"),
    "token": (_RUN, "answerback.cli.token:token"),
    "aws": (_RUN, "answerback_aws.commands.aws:aws_app"),
    "users": (_LOOK_AFTER, "answerback.cli.users:users_app"),
    "bench": (_LOOK_AFTER, "answerback_proof.commands.bench:bench"),
    "conform": (_LOOK_AFTER, "answerback_proof.commands.conform:conform"),
    "simulate": (_LOOK_AFTER, "answerback_proof.commands.simulate:simulate"),
    "cost": (_LOOK_AFTER, "answerback_aws.commands.cost:cost"),
    "doctor": (_LOOK_AFTER, "answerback.cli.doctor:doctor"),
}
"""Every command: the panel of its help, and where it is. The product imports none of the packages that build on it."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A pipe on Windows, or an old locale: a character that it cannot have must not cost the whole answer.
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Nothing but a defect shows a traceback, and that only on request."""
    options = _Options()
    try:
        result = build_app(options)(list(arguments), prog_name="answerback", standalone_mode=False)
    except typer.TyperException as exc:
        return _complain(exc.format_message().rstrip("."), "see --help", ExitCode(exc.exit_code))
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except CliError as exc:
        if options.debug:
            raise
        return _complain(exc.message, exc.hint, exc.exit_code)
    except Exception as exc:
        if options.debug:
            raise
        return _complain(
            f"something went wrong that should not ({type(exc).__name__}: {exc})",
            "repeat it as `answerback --debug ...` and report what it prints",
            ExitCode.FAILED,
        )
    return result if isinstance(result, int) else ExitCode.OK


def build_app(options: "_Options | None" = None) -> typer.Typer:
    """The tree of commands. Command modules import what they need when they run, so that `--help` is fast."""
    settings = options or _Options()
    app = typer.Typer(
        help="Many apps, one language model, and every answer goes home to the app that asked.",
        epilog=_epilog(),
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
        debug: Annotated[
            bool, typer.Option("--debug", envvar="ANSWERBACK_DEBUG", help="Show tracebacks of errors.")
        ] = False,
    ) -> int | None:
        settings.debug = debug
        if version:
            print(f"answerback {__version__}")
            raise typer.Exit()
        if context.invoked_subcommand is None:
            print(context.get_help())
            raise typer.Exit(ExitCode.USAGE)
        return None

    for name, (panel, place) in COMMANDS.items():
        module, _, function = place.partition(":")
        made = getattr(import_module(module), function)
        if function.endswith("_app"):
            app.add_typer(made(), name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(made() if function.endswith("_command") else made)
    return app


def _epilog() -> str:
    """Examples and exit codes. The mark keeps click from filling a paragraph's lines again; rich keeps them."""
    keep = "" if sys.stdout.isatty() else "\b\n"
    examples = "\n".join(f"  {command:<38} {what}" for command, what in _EXAMPLES)
    codes = "\n".join(f"  {code}" for code in _EXIT_CODES)
    return f"{keep}Examples:\n{examples}\n\n{keep}Exit codes:\n{codes}"


class _Options:
    """What the options before the command say; known only while it runs."""

    def __init__(self) -> None:
        self.debug = False


def _complain(message: str, hint: str, exit_code: ExitCode) -> ExitCode:
    note(f"answerback: {message} — {hint}" if hint else f"answerback: {message}")
    return exit_code
