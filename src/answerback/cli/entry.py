"""Where the `answerback` command begins: an interruption while the rest is being imported is an interruption, too."""

import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A pipe on Windows, or an old locale: a character that it cannot have must not cost the whole answer.
            stream.reconfigure(errors="replace")
    try:
        from answerback.cli.main import run  # noqa: PLC0415 - what is imported here takes a while

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)  # ExitCode.INTERRUPTED
