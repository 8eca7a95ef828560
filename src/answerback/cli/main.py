"""The entry point: commands, help, and how errors become one line and an exit code."""

import itertools
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from typing import Annotated, Any, Final, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup

from answerback import __version__
from answerback.cli.output import CliError, ExitCode, note, say, say_json, why_no_output
from answerback.cli.reading import foreign_argument

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
    "130 stopped by Ctrl+C",
)
Table: TypeAlias = Mapping[str, tuple[str, str]]
"""Commands by name: what each does in one line, and `module:function`, or `module:TABLE` for a group of commands."""

PANELS: Final[Mapping[str, Table]] = {
    "Talk to a gateway": {
        "ask": ("Ask one question and print the answer.", "answerback.cli.ask:ask"),
        "chat": ("Talk with a model in the terminal.", "answerback.cli.chat:chat"),
        "demo": ("Let several apps ask at once, and check every answer.", "answerback_proof.demo:demo"),
        "desktop": ("Open the desktop app.", "answerback_desktop.command:desktop"),
    },
    "Run a gateway": {
        "serve": ("Run a gateway on this machine.", "answerback.cli.serve:serve"),
        "reload": ("Let a gateway read changed files again.", "answerback.cli.admin:reload"),
        "token": ("Make a token for development.", "answerback.cli.token:token"),
        "aws": ("The backend on AWS: deploy, watch, remove.", "answerback_aws.commands:COMMANDS"),
    },
    "Manage and check": {
        "users": ("Users: list, limit, budget, block, usage, export, erase.", "answerback.cli.users:COMMANDS"),
        "teams": ("Teams and what they may use.", "answerback.cli.budgets:TEAMS"),
        "nodes": ("The gateways that share a database.", "answerback.cli.nodes:nodes"),
        "backup": ("Copy the store of a gateway, and check the copy.", "answerback.cli.backup:backup"),
        "restore": ("Make a store of such a copy, and check it.", "answerback.cli.backup:restore"),
        "doctor": ("Say what is wrong here, and what to do.", "answerback.cli.doctor:doctor"),
        "bench": ("Load a gateway with many apps, or inject faults.", "answerback_proof.commands.bench:bench"),
        "conform": ("Run the conformance cases against a server.", "answerback_proof.commands.conform:conform"),
        "simulate": ("Run client and server through faulty schedules.", "answerback_proof.commands.simulate:simulate"),
        "cost": ("Estimate the monthly bill of a stack on AWS.", "answerback_aws.commands.cost:cost"),
    },
}
"""Every command, by the panel of `--help`. A module is imported when its command is called."""

STACK_USERS: Final = "answerback_aws.commands.users:open_stack_users"
"""What opens the users of a stack on AWS, for `answerback users --stack`.

This module alone names places in the packages that build on the product. The product imports none of them.
"""

_HELP_OPTIONS: Final = {"help_option_names": ["-h", "--help"]}


class LazyGroup(TyperGroup):
    """A group that knows its commands by a table, and imports one when it is called.

    `--help` shows the lines of the table, so it imports none of them.
    """

    def __init__(self, *, panels: Mapping[str, Table] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._places: dict[str, str] = {}
        for panel, table in (PANELS if panels is None else panels).items():
            for name, (summary, place) in table.items():
                self._places[name] = place
                self.add_command(TyperCommand(name, help=summary, short_help=summary, rich_help_panel=panel or None))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the words name, imported, and the words after it."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name is None else self._load(name), rest

    def _load(self, name: str) -> Any:
        found = import_place(self._places[name])
        if isinstance(found, Mapping):
            return LazyGroup(
                panels={"": found},
                name=name,
                help=self.commands[name].help,
                rich_markup_mode=self.rich_markup_mode,
                context_settings=_HELP_OPTIONS,
            )
        app = typer.Typer(add_completion=False, rich_markup_mode=self.rich_markup_mode, context_settings=_HELP_OPTIONS)
        app.command(name)(found)
        return typer.main.get_command(app)


def import_place(place: str) -> Any:
    """What `module:attribute` names; the module is imported."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Nothing but a defect shows a traceback, and that only on request."""
    options = SimpleNamespace(debug=False)  # what the options before the command say
    try:
        result = build_app(options)(list(arguments), prog_name="answerback", standalone_mode=False)
    except typer.TyperException as exc:
        message, hint = exc.format_message().rstrip("."), _usage_hint(exc, arguments)
        _show_as_json(message, hint, arguments)
        return _complain(message, hint, ExitCode(exc.exit_code))
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except CliError as exc:
        if options.debug:
            raise
        if exc.exit_code is ExitCode.USAGE:
            _show_as_json(exc.message, exc.hint, arguments)
        return _complain(exc.message, exc.hint, exc.exit_code)
    except Exception as exc:
        if options.debug:
            raise
        if (why := why_no_output()) is not None:
            return _complain(f"the output cannot be written: {why}", "", ExitCode.FAILED)
        if isinstance(exc, UnicodeEncodeError) and (error := foreign_argument(arguments)) is not None:
            _show_as_json(error.message, error.hint, arguments)
            return _complain(error.message, error.hint, error.exit_code)
        return _complain(
            f"something went wrong that should not ({type(exc).__name__}: {exc})",
            "repeat it as `answerback --debug ...` and report what it prints",
            ExitCode.FAILED,
        )
    return result if isinstance(result, int) else ExitCode.OK


def _usage_hint(exc: typer.TyperException, arguments: Sequence[str]) -> str:
    if "ask" in arguments and exc.format_message().startswith("No such option"):
        return "see --help; before a question that begins with a dash put --, as in: answerback ask -- -1 or 1?"
    return "see --help"


def _show_as_json(message: str, hint: str, arguments: Sequence[str]) -> None:
    """Wrong usage of `ask --json` is JSON as well: programs read that."""
    if "ask" in arguments and "--json" in itertools.takewhile(lambda one: one != "--", arguments):
        text = f"{message} — {hint}" if hint else message
        error = {"code": "usage", "message": text, "retryable": False, "retryAfterMs": None}
        with suppress(OSError, ValueError, AttributeError):  # closed or full
            say_json({"requestId": None, "status": "failed", "response": None, "error": error})


def build_app(options: SimpleNamespace | None = None) -> typer.Typer:
    """The tree of commands."""
    settings = options or SimpleNamespace()
    app = typer.Typer(
        cls=LazyGroup,
        help="Many apps, one language model, and every answer goes home to the app that asked.",
        epilog=_epilog(),
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        pretty_exceptions_enable=False,
        context_settings=_HELP_OPTIONS,
    )

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
        debug: Annotated[
            bool, typer.Option("--debug", envvar="ANSWERBACK_DEBUG", help="Show tracebacks of errors.")
        ] = False,
    ) -> int | None:
        settings.debug = debug
        if version:
            say(f"answerback {__version__}")
            raise typer.Exit()
        if context.invoked_subcommand is None:
            say(context.get_help())
            raise typer.Exit(ExitCode.USAGE)
        return None

    return app


def _epilog() -> str:
    """Examples and exit codes. The mark keeps click from filling a paragraph's lines again; rich keeps them."""
    keep = "" if sys.stdout.isatty() else "\b\n"
    examples = "\n".join(f"  {command:<38} {what}" for command, what in _EXAMPLES)
    codes = "\n".join(f"  {code}" for code in _EXIT_CODES)
    return f"{keep}Examples:\n{examples}\n\n{keep}Exit codes:\n{codes}"


def _complain(message: str, hint: str, exit_code: ExitCode) -> ExitCode:
    note(f"answerback: {message} — {hint}" if hint else f"answerback: {message}")
    return exit_code
