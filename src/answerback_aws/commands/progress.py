"""How a long operation of CloudFormation is shown: one moving line on a terminal, plain lines in a pipe."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from answerback.cli.output import note

if TYPE_CHECKING:
    from rich.status import Status

    from answerback_aws.deploy.stack import Progress, StackEvent


class PlainProgress:
    """`Progress` as a line for each step and for each resource that is done."""

    def step(self, text: str) -> None:
        note(f"{text} ...")

    def event(self, event: "StackEvent") -> None:
        if not event.status.endswith("_IN_PROGRESS"):
            note(f"  {_text(event)}")


class TerminalProgress:
    """`Progress` as one line that is rewritten; what failed stays above it."""

    def __init__(self, status: "Status") -> None:
        self._status = status
        self._begun = time.monotonic()
        self._done: set[str] = set()
        self._step = ""
        self._working: dict[str, None] = {}

    def step(self, text: str) -> None:
        self._step = text
        self._status.update(f"{text} ...")

    def event(self, event: "StackEvent") -> None:
        if event.status.endswith("_FAILED"):
            self._status.console.print(f"  {_text(event)}", style="red", markup=False, highlight=False)
        if event.is_stack:
            return
        if event.status.endswith("_IN_PROGRESS"):
            self._working[event.resource] = None
        else:
            self._working.pop(event.resource, None)
            self._done.add(event.resource)
        working = ", ".join(list(self._working)[-3:])
        spent = int(time.monotonic() - self._begun)
        self._status.update(f"{self._step}: {len(self._done)} done, {spent // 60}:{spent % 60:02} {working}")


@contextmanager
def shown_progress() -> Iterator["Progress"]:
    """The progress that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import, and a pipe does not need it

    with Console(stderr=True).status("") as status:
        yield TerminalProgress(status)


def _text(event: "StackEvent") -> str:
    reason = f": {event.reason}" if event.reason and event.is_failure else ""
    return f"{event.resource} {event.status}{reason}"
