"""What every command says, and how: results on stdout, everything else on stderr, colour only on a terminal."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from io import UnsupportedOperation

from answerback.texts import STEERING, escaped, spoken


class ExitCode(IntEnum):
    """What a command's exit status means."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANNOT_CONNECT = 3
    TIMED_OUT = 4
    RATE_LIMITED = 5
    INTERRUPTED = 130


@dataclass(eq=False)
class CliError(Exception):
    """A command cannot go on. `message` says what is wrong; `hint` what to do about it."""

    message: str
    hint: str = ""
    exit_code: ExitCode = field(default=ExitCode.FAILED, kw_only=True)

    def __str__(self) -> str:
        return f"{self.message} — {self.hint}" if self.hint else self.message


def usage_error(message: str, hint: str = "") -> CliError:
    """The error of a command that was called in a wrong way."""
    return CliError(message, hint, exit_code=ExitCode.USAGE)


def missing_extra(what: str, extra: str) -> CliError:
    """The error of a command whose optional packages are not installed."""
    return CliError(
        f"{what} needs packages that are not installed", f"install them in the clone: pip install '.[{extra}]'"
    )


@contextmanager
def extra_needed(what: str, extra: str) -> Iterator[None]:
    """Import the modules of optional packages within this. Raises: CliError: they are not installed."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("answerback"):
            raise
        raise missing_extra(what, extra) from exc


def printable(text: str) -> str:
    """The text without what steers a terminal: most of what is printed comes from elsewhere."""
    return STEERING.sub("\ufffd", text)


def say(text: str) -> None:
    """A line of the result, at once."""
    print(printable(text), flush=True)


def say_exactly(text: str) -> None:
    """An answer for a pipe: each character as it came, on lines that end."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line for the person at the terminal; programs that read stdout do not see it. Nothing fails for its sake."""
    with suppress(OSError):
        print(printable(spoken(text)), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A warning; the command goes on."""
    note(f"answerback: warning: {text}")


def say_json(value: object) -> None:
    """One JSON document, indented for people if they see it."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not is_unicode, indent=2 if sys.stdout.isatty() else None)
    say(escaped(text))


def say_result(value: object, sentence: str, *, as_json: bool) -> None:
    """What a command has done, for programs or in a sentence."""
    if as_json:
        say_json(value)
    else:
        say(spoken(sentence))


def say_rows(
    value: object, headers: Sequence[str], rows: Sequence[Sequence[object]], nothing: str = "", *, as_json: bool
) -> None:
    """What a command has found, for programs or as a table; `nothing`: what is said where there are no rows."""
    if as_json or not rows:
        say_result(value, nothing, as_json=as_json)
    else:
        say_table(headers, rows)


def check_stdout() -> None:
    """Raises: OSError: nothing can be written there. Before work that costs something."""
    with suppress(UnsupportedOperation):  # it is no file: a program has put its own there
        os.write(sys.stdout.fileno(), b"")


def why_no_output() -> str | None:
    """Why stdout takes nothing, if so; then what waits for it is dropped, or it would fail again at the end."""
    try:
        sys.stdout.flush()
        check_stdout()
    except (OSError, ValueError) as exc:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return getattr(exc, "strerror", None) or str(exc)
    return None


def say_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people on a terminal, tab-separated lines in a pipe. None is shown as `-`."""
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(headers), *texts]:
            say("\t".join(" ".join(cell.split()) for cell in line))
        return
    from rich import box  # noqa: PLC0415 - rich is slow to import, and a pipe does not need it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    numeric = [bool(rows) and all(isinstance(row[i], int | None) for row in rows) for i in range(len(headers))]
    for header, is_numeric in zip(headers, numeric, strict=True):
        table.add_column(header, justify="right" if is_numeric else "left", overflow="fold")
    for line in texts:
        table.add_row(*(Text(printable(cell)) for cell in line))
    Console().print(table)


def confirm(question: str) -> None:
    """Ask before something that cannot be undone; anything but yes ends the command.

    Raises: CliError: the answer is no, or nobody is there to ask.
    """
    if not sys.stdin.isatty():
        raise usage_error("this asks for confirmation, and there is no terminal", "repeat it with --yes")
    note(f"{question} [y/N] ")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CliError("nothing was changed")
