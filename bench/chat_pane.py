"""What the desktop app's chat pane costs by itself: streaming, opening a long conversation, a huge answer.

    python bench/chat_pane.py [--seconds 20]

CPU time of the process, not the clock's. Drawing goes to memory, so what a graphics driver adds is not in it.
"""

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from PySide6.QtWidgets import QApplication, QHBoxLayout, QWidget

from answerback_desktop.engine.events import TextAppended
from answerback_desktop.records import Turn, TurnStatus
from answerback_desktop.ui.chat import Appearance, ChatPane
from answerback_desktop.ui.theme import Theme, apply
from answerback_desktop.viewmodels.app import AppViewModel
from chat_samples import CHAT_EN, HOME, MARKDOWN, app_with, turn

TICK_S = 0.016
TOKENS_PER_S = 50
STREAMS = 5
TOKEN_LETTERS = 4


def appended(request_id: str, offset: int, delta: str) -> TextAppended:
    return TextAppended(conversation_id=HOME, request_id=request_id, attempt=1, offset=offset, delta=delta)


def streaming(theme: Theme) -> tuple[ChatPane, AppViewModel]:
    """A pane with ten turns and an answer that streams below them."""
    older = [turn(f"r{number}", f"Question {number}?", MARKDOWN) for number in range(10)]
    app, _ = app_with([*older, turn("r99", "Go on", "", status=TurnStatus.STREAMING, tokens=None, times=None)])
    return ChatPane(app, Appearance(theme=theme, texts=CHAT_EN)), app


def stream(application: QApplication, theme: Theme, seconds: float) -> list[float]:
    """CPU milliseconds of each tick of 16 ms, in which every stream gets its tokens and everything is painted."""
    window = QWidget()
    row = QHBoxLayout(window)
    shown = [streaming(theme) for _ in range(STREAMS)]
    for pane, _ in shown:
        row.addWidget(pane)
    window.resize(STREAMS * 480, 900)
    window.show()
    application.processEvents()
    text, sent, costs = MARKDOWN * 100, 0, []
    begun = time.perf_counter()
    for tick in range(round(seconds / TICK_S)):
        due = round((tick + 1) * TICK_S * TOKENS_PER_S) * TOKEN_LETTERS
        cpu = time.process_time()
        if due > sent:
            for pane, app in shown:
                pane.apply(app.apply([appended("r99", sent, text[sent:due])]))
            sent = due
        application.processEvents()
        costs.append((time.process_time() - cpu) * 1000)
        rest = begun + (tick + 1) * TICK_S - time.perf_counter()
        if rest > 0:
            time.sleep(rest)
    window.close()
    return costs


def opened(
    application: QApplication, theme: Theme, turns: list[Turn], *, width: int = 900
) -> tuple[ChatPane, AppViewModel, float]:
    """A pane with these turns, its app, and the CPU milliseconds until it is painted."""
    app, _ = app_with(turns)
    begun = time.process_time()
    pane = ChatPane(app, Appearance(theme=theme, texts=CHAT_EN))
    pane.resize(width, 900)
    pane.show()
    application.processEvents()
    return pane, app, (time.process_time() - begun) * 1000


def cost_ms(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return (time.process_time() - begun) * 1000


def scrolled(application: QApplication, pane: ChatPane) -> list[float]:
    """CPU milliseconds of each of 300 steps of the wheel, upwards."""
    bar = pane.transcript.verticalScrollBar()

    def wheel() -> None:
        bar.setValue(bar.value() - 120)
        application.processEvents()

    return [cost_ms(wheel) for _ in range(300)]


def huge(application: QApplication, theme: Theme) -> tuple[float, list[float]]:
    """An answer of 256 KB: CPU milliseconds to open it, and of each frame in which its last 8 KB stream in."""
    whole = (MARKDOWN * 300)[: 256 * 1024]
    pane, _, open_ms = opened(application, theme, [turn("r1", "Long?", whole)])
    pane.close()
    begun = turn("r1", "Long?", whole[:-8_192], status=TurnStatus.STREAMING, tokens=None, times=None)
    pane, app, _ = opened(application, theme, [begun])

    def frame(at: int) -> None:
        pane.apply(app.apply([appended("r1", at, whole[at : at + 64])]))
        pane.flush()
        application.processEvents()

    frames = [cost_ms(lambda at=at: frame(at)) for at in range(len(begun.answer), len(whole), 64)]
    pane.close()
    return open_ms, frames


def spread(name: str, costs: list[float]) -> None:
    ordered = sorted(costs)
    p99 = ordered[round(len(ordered) * 0.99) - 1]
    print(f"{name}: median {statistics.median(ordered):.2f} ms, p99 {p99:.2f} ms, longest {ordered[-1]:.2f} ms")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=20, help="how long to stream")
    chosen = options.parse_args()
    application = QApplication([])
    theme = Theme()
    apply(application, theme)
    opened(application, theme, [turn("r1", "Warm up", MARKDOWN)])[0].close()
    costs = stream(application, theme, chosen.seconds)
    spread(f"{STREAMS} streams of {TOKENS_PER_S} tokens/s, all visible, CPU a tick of 16 ms", costs)
    print(f"share of one core: {sum(costs) / (chosen.seconds * 10):.0f} %")
    print(f"memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    thousand = [turn(f"r{number}", f"Question {number}?", MARKDOWN) for number in range(1_000)]
    pane, _, open_ms = opened(application, theme, thousand)
    print(f"1,000 turns, {len(MARKDOWN) / 1024:.1f} KB of markdown each, opened and painted: {open_ms:.0f} ms CPU")
    spread("scrolling back through them, CPU a step of the wheel", scrolled(application, pane))
    pane.close()
    open_ms, frames = huge(application, theme)
    print(f"an answer of 256 KB, opened and painted: {open_ms:.0f} ms CPU")
    spread("its last 8 KB streaming, CPU a frame", frames)


if __name__ == "__main__":
    main()
