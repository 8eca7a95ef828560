"""What the demo says: the apps while they ask, then their results and the verdict."""

import time
from collections.abc import Sequence

from answerback.cli.output import note, say, say_table
from answerback_proof.demo.apps import App, ask_all
from answerback_proof.demo.lines import Lines
from answerback_proof.load.ledger import Verdicts


async def show_apps(apps: Sequence[App], *, max_tokens: int) -> None:
    """Let all ask, and show it. Raises: AnswerbackError: an app could not connect."""
    from rich.console import Console  # noqa: PLC0415 - slow to import, and nobody should wait for it

    from answerback_proof.demo.panels import Panels  # noqa: PLC0415

    console = Console()
    screen = Panels(apps, console) if Panels.fit(apps, console) else Lines()
    started = time.monotonic()
    with screen:
        await ask_all(apps, max_tokens=max_tokens, on_change=screen.changed)
    say(f"\nAll ended after {time.monotonic() - started:.1f} s.\n")


def say_results(apps: Sequence[App]) -> None:
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
        for asked in app.asked
    ]
    say_table(("app", "user", "request", "first words", "in all", "tokens", "characters", "ending"), rows)


def say_verdicts(verdicts: Verdicts, apps: Sequence[App], *, stored: str) -> None:
    """What was compared, and what came of it. `stored`: what the server's copy is called."""
    total = sum(len(app.asked) for app in apps)
    say(
        f"Checked {many(total, 'request')} of {many(len(apps), 'app')}: "
        f"what each app got, what went over the wire, {stored}."
    )
    say(str(verdicts))
    if failed := sum(bool(asked.error) for app in apps for asked in app.asked):
        say(f"{failed} failed, as its app was told")
    for example in verdicts.examples:
        note(f"  {example}")


def many(count: int, noun: str) -> str:
    """A number and its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f} s"
