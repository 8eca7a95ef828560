"""What the demo shows: the apps while they ask, then their results and what the check found."""

import sys
import textwrap
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from answerback.cli.output import note, say, say_table
from answerback.texts import spoken
from answerback_proof.checker import count
from answerback_proof.demo.apps import DemoApp, OpenQuestion, Phase, ask_all
from answerback_proof.history import Violation

_PANEL_WIDTH = 34
_FRAME_LINES = 2
_FEWEST_LINES = 3
_MOST_LINES = 8
_REFRESHES_A_SECOND = 12
_MAX_EXAMPLES = 10


async def show_apps(apps: Sequence[DemoApp], *, max_tokens: int) -> None:
    """Let all ask, and show it. Raises: AnswerbackError: an app could not connect."""
    console = Console()
    screen = Panels(apps, console) if Panels.fit(apps, console) else Lines()
    started = time.monotonic()
    with screen:
        await ask_all(apps, max_tokens=max_tokens, on_change=screen.changed)
    say(spoken(f"\nAll ended after {time.monotonic() - started:.1f} s.\n"))


def say_results(apps: Sequence[DemoApp]) -> None:
    """A row for each question."""
    rows = [
        (
            app.name,
            app.user,
            asked.number,
            _seconds(asked.first_text_s),
            _seconds(asked.total_s),
            asked.answer.usage.output_tokens if asked.answer and asked.answer.usage else None,
            len(asked.text),
            asked.error or "completed",
        )
        for app in apps
        for asked in app.questions
    ]
    headers = ("app", "user", "request", "first words", "in all", "tokens", "characters", "ending")
    say_table([spoken(header) for header in headers] if sys.stdout.isatty() else headers, rows)


def say_check(violations: Sequence[Violation], apps: Sequence[DemoApp], *, stored: str) -> None:
    """Say what was compared, and what the check found. `stored`: what the server's copy is called."""
    total = sum(len(app.questions) for app in apps)
    say(spoken(f"Checked requests: {total}, of apps: {len(apps)}."))
    say(spoken(f"Compared: what each app got, what went over the wire, {stored}."))
    say(spoken(str(count(violations))))
    if failed := sum(bool(asked.error) for app in apps for asked in app.questions):
        say(spoken(f"{failed} failed, as its app was informed"))
    for violation in violations[:_MAX_EXAMPLES]:
        note(f"  {violation}")


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f} s"


def _news(asked: OpenQuestion) -> str:
    match asked.phase:
        case Phase.ASKED:
            return asked.question
        case Phase.QUEUED:
            return spoken(f"accepted, {asked.position} of this user before it")
        case Phase.WRITING:
            return spoken(f"first words after {asked.first_text_s or 0:.2f} s")
        case Phase.DONE:
            return f"{spoken(f'answered after {asked.total_s or 0:.2f} s')}: {' '.join(asked.text.split())}"
        case Phase.FAILED:
            return spoken(f"failed: {asked.error}")


class Lines:
    """In a pipe: a line when a question is asked, accepted, starts to be answered, is answered, and for each part."""

    def __init__(self) -> None:
        self._shown: dict[str, Phase] = {}
        self._aside: dict[str, str] = {}

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def changed(self, app: DemoApp, asked: OpenQuestion) -> None:
        """Something happened to this question."""
        before, aside = self._shown.get(asked.request_id), self._aside.get(asked.request_id, "")
        self._aside[asked.request_id] = asked.aside
        if aside and not asked.aside.startswith(aside):
            say(f"{app.name}, {spoken(f'question {asked.number}')}: {' '.join(aside.split())}")
        if before is asked.phase or (asked.phase is Phase.WRITING and not asked.text):
            return
        self._shown[asked.request_id] = asked.phase
        say(f"{app.name}, {spoken(f'question {asked.number}')}: {_news(asked)}")


class Panels:
    """On a terminal: a panel for each app, side by side, its answers growing."""

    def __init__(self, apps: Sequence[DemoApp], console: Console) -> None:
        self._apps = apps
        self._console = console
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=_REFRESHES_A_SECOND)

    def __enter__(self) -> "Panels":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def changed(self, app: DemoApp, asked: OpenQuestion) -> None:
        """Nothing to do: the live display looks at the apps by itself."""

    @staticmethod
    def fit(apps: Sequence[DemoApp], console: Console) -> bool:
        """Whether this is a terminal on which every question gets a few lines."""
        return console.is_terminal and _lines_each(apps, console) >= _FEWEST_LINES

    def _render(self) -> Table:
        columns = _columns(self._apps, self._console)
        lines = _lines_each(self._apps, self._console)
        width = max(10, self._console.width // columns - 4)
        panels = [_panel(app, lines=lines, width=width) for app in self._apps]
        grid = Table.grid(expand=True)
        for _ in range(columns):
            grid.add_column(ratio=1)
        for start in range(0, len(panels), columns):
            grid.add_row(*panels[start : start + columns])
        return grid


def _panel(app: DemoApp, *, lines: int, width: int) -> Panel:
    body = Text("\n").join(
        _paragraph(asked, ahead=_ahead(app, asked), lines=lines, width=width) for asked in app.questions
    )
    is_over = all(asked.is_over for asked in app.questions)
    return Panel(body, title=f"{app.name} · {app.user}", border_style="green" if is_over else "cyan")


def _ahead(app: DemoApp, asked: OpenQuestion) -> int:
    """The app's questions that have to end first, of those that were before this one when it was accepted."""
    unfinished = sum(
        not other.is_over for other in app.questions if other is not asked and other.phase is not Phase.ASKED
    )
    return min(asked.position, unfinished)


def _paragraph(asked: OpenQuestion, *, ahead: int, lines: int, width: int) -> Text:
    """The question, where it is, and the end of its answer: exactly `lines` lines, so that nothing jumps."""
    room = lines - 2
    rows = textwrap.wrap(asked.aside or asked.text, width)
    if len(rows) > room:
        rows = rows[-room:]
        rows[0] = "…" + rows[0][1:]
    paragraph = Text(textwrap.shorten(asked.question, width, placeholder="…"), style="bold")
    paragraph = Text.assemble(paragraph, "\n", _status(asked, ahead, width))
    for row in [*rows, *[""] * (room - len(rows))]:
        paragraph.append("\n" + row)
    return paragraph


def _status(asked: OpenQuestion, ahead: int, width: int) -> Text:
    match asked.phase:
        case Phase.ASKED:
            return Text(spoken("just sent"), style="dim")
        case Phase.QUEUED:
            waited_s = time.monotonic() - asked.asked_at
            return Text(spoken(f"queued, {ahead} before it · {waited_s:.1f} s"), style="yellow")
        case Phase.WRITING:
            return Text(spoken("being written"), style="cyan")
        case Phase.DONE:
            return Text(spoken(f"came home after {asked.total_s or 0:.1f} s"), style="green")
        case Phase.FAILED:
            return Text(textwrap.shorten(asked.error, width, placeholder="…"), style="red")


def _columns(apps: Sequence[DemoApp], console: Console) -> int:
    return max(1, min(len(apps), console.width // _PANEL_WIDTH))


def _lines_each(apps: Sequence[DemoApp], console: Console) -> int:
    """Lines that one question may take so that all panels fit, one line below them kept free."""
    rows = -(-len(apps) // _columns(apps, console))
    questions = max((len(app.questions) for app in apps), default=1)
    return min(_MOST_LINES, ((console.height - 1) // rows - _FRAME_LINES) // max(1, questions))
