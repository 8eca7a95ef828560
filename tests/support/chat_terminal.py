"""`answerback chat` on a terminal of its own, and a terminal in this process."""

import io
import os
import pty
import re
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forked
from cli_process import STOP_TIMEOUT_S


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, url: str, *arguments: str) -> None:
        self.screen, theirs = pty.openpty()
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        command = ["chat", "--url", url, *arguments]
        self.process = forked.Command(command, start_new_session=True, terminal=theirs, **streams)
        os.close(theirs)
        self.seen = ""

    def until(self, pattern: str) -> str:
        """What is shown up to and with a match."""
        while (found := re.search(pattern, self.seen)) is None:
            if not select.select([self.screen], [], [], STOP_TIMEOUT_S / 2)[0]:
                raise AssertionError(f"no {pattern!r} in {self.seen!r}")
            try:
                self.seen += os.read(self.screen, 4096).decode(errors="replace")
            except OSError as exc:  # the chat has ended
                raise AssertionError(f"no {pattern!r} in {self.seen!r}") from exc
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def prompt(self) -> None:
        """Return when the chat waits for a line. CPython would forget a Ctrl+C that comes just before it waits."""
        self.until("> ")
        stat = Path(f"/proc/{self.process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())


@contextmanager
def terminal(url: str, *arguments: str) -> Iterator[Terminal]:
    opened = Terminal(url, *arguments)
    watchdog = threading.Timer(STOP_TIMEOUT_S, opened.process.kill)
    watchdog.start()
    try:
        yield opened
    finally:
        watchdog.cancel()
        opened.process.kill()
        opened.process.wait()
        os.close(opened.screen)


class Screen(io.StringIO):
    """A terminal where Ctrl+C is pressed while a text is being written: once or more often, for each that is given."""

    def __init__(self, *pressed_at: str) -> None:
        super().__init__()
        self._pressed_at = list(pressed_at)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._pressed_at and self._pressed_at[0] in self.getvalue() + text:
            self._pressed_at.pop(0)
            signal.raise_signal(signal.SIGINT)
        return super().write(text)
