"""Where the command begins: an interruption while the rest is still being imported is an interruption too."""

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from answerback.cli.main import main as run  # noqa: PLC0415 - what is imported here takes a while

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # ExitCode.INTERRUPTED
