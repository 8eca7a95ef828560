"""Where the `answerback` command begins: an interruption while the rest is being imported is an interruption, too."""

import os
import sys
from io import TextIOWrapper


def _open_closed_streams() -> None:
    """Give a standard stream that is closed a place of its own: what is opened later would get its number.

    Nothing comes from stdin then, stderr goes nowhere, and to write to stdout fails as the closed one would.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if opened != number and sys.platform != "win32":
                os.dup2(opened, number)
                os.close(opened)
                opened = number
            setattr(sys, name, open(opened, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115 - kept


def _drop_what_stderr_does_not_take() -> None:
    """A full disk behind stderr: the interpreter would try again as it ends, and exit with 120."""
    try:
        sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


def main() -> None:
    """Run the command line and exit with its code."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A pipe on Windows, or an old locale: a character that it cannot have must not cost the whole answer.
            stream.reconfigure(errors="replace")
    try:
        from answerback.cli.main import run  # noqa: PLC0415 - what is imported here takes a while

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)  # ExitCode.INTERRUPTED
    finally:
        _drop_what_stderr_does_not_take()
