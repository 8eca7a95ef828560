"""What the demo shows on a terminal: a panel for each app, its answers growing."""

import textwrap
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from answerback_proof.demo.apps import App, Asked, Phase

_PANEL_WIDTH = 34
_FRAME_LINES = 2
_FEWEST_LINES = 3
_MOST_LINES = 8
_REFRESHES_A_SECOND = 12


class Panels:
    """Panels side by side, as many as the terminal is wide."""

    def __init__(self, apps: Sequence[App], console: Console) -> None:
        self._apps = apps
        self._console = console
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=_REFRESHES_A_SECOND)

    def __enter__(self) -> "Panels":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def changed(self, app: App, asked: Asked) -> None:
        """Nothing to do: the live display looks at the apps by itself."""

    @staticmethod
    def fit(apps: Sequence[App], console: Console) -> bool:
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


def _panel(app: App, *, lines: int, width: int) -> Panel:
    body = Text("\n").join(_paragraph(asked, ahead=_ahead(app, asked), lines=lines, width=width) for asked in app.asked)
    is_over = all(asked.is_over for asked in app.asked)
    return Panel(body, title=f"{app.name} · {app.user}", border_style="green" if is_over else "cyan")


def _ahead(app: App, asked: Asked) -> int:
    """The app's questions that have to end first, of those that were before this one when it was accepted."""
    unfinished = sum(not other.is_over for other in app.asked if other is not asked and other.phase is not Phase.ASKED)
    return min(asked.position, unfinished)


def _paragraph(asked: Asked, *, ahead: int, lines: int, width: int) -> Text:
    """The question, where it is, and the end of its answer: exactly `lines` lines, so that nothing jumps."""
    room = lines - 2
    rows = textwrap.wrap(asked.text, width)
    if len(rows) > room:
        rows = rows[-room:]
        rows[0] = "…" + rows[0][1:]
    paragraph = Text(textwrap.shorten(asked.question, width, placeholder="…"), style="bold")
    paragraph = Text.assemble(paragraph, "\n", _status(asked, ahead, width))
    for row in [*rows, *[""] * (room - len(rows))]:
        paragraph.append("\n" + row)
    return paragraph


def _status(asked: Asked, ahead: int, width: int) -> Text:
    match asked.phase:
        case Phase.ASKED:
            return Text("sent", style="dim")
        case Phase.QUEUED:
            waited_s = time.monotonic() - asked.asked_at
            return Text(f"queued, {ahead} before it · {waited_s:.1f} s", style="yellow")
        case Phase.WRITING:
            return Text("writing", style="cyan")
        case Phase.DONE:
            return Text(f"came home after {asked.total_s or 0:.1f} s", style="green")
        case Phase.FAILED:
            return Text(textwrap.shorten(asked.error, width, placeholder="…"), style="red")


def _columns(apps: Sequence[App], console: Console) -> int:
    return max(1, min(len(apps), console.width // _PANEL_WIDTH))


def _lines_each(apps: Sequence[App], console: Console) -> int:
    """Lines that one question may take so that all panels fit, one line below them kept free."""
    rows = -(-len(apps) // _columns(apps, console))
    questions = max((len(app.asked) for app in apps), default=1)
    return min(_MOST_LINES, ((console.height - 1) // rows - _FRAME_LINES) // max(1, questions))
