"""Two windows of one user and one of another on a real display: what one asks, the second shows live, the third never.

Run by test_windows.py in a process of its own, at a real `answerback serve` whose model takes its time.
Usage: three_windows.py FOLDER URL
"""

import sys
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from two_windows import ask, close, open_app, take, until

from answerback_desktop.app import DesktopApp
from answerback_desktop.records import TurnStatus
from answerback_desktop.settings import Language
from answerback_desktop.viewmodels import TurnViewModel

LONG = " ".join(f"word {number}," for number in range(70))


def turn(app: DesktopApp, at: int) -> TurnViewModel | None:
    messages = app.view_model.current.messages
    return messages[at] if len(messages) > at else None


def grows(application: QApplication, app: DesktopApp, at: int) -> None:
    """An answer of another device grows in many steps in this window, and has not ended."""
    until(application, lambda: turn(app, at) is not None and turn(app, at).record.is_elsewhere)
    lengths = set()

    def has_grown() -> bool:
        lengths.add(turn(app, at).length)
        return len(lengths) >= 10

    until(application, has_grown)
    assert not turn(app, at).status.is_over


def main() -> None:
    folder, url = Path(sys.argv[1]), sys.argv[2]
    application = QApplication(["answerback"])
    assert application.platformName() == "xcb"
    desk = open_app(application, folder, "ada", url, Language.ENGLISH, name="desk")
    laptop = open_app(application, folder, "ada", url, Language.KOREAN, name="laptop")
    other = open_app(application, folder, "minjun", url, Language.KOREAN)
    for number, app in enumerate((desk, laptop, other)):
        app.window.resize(525, 900)
        app.window.move(5 + 532 * number, 40)
    until(application, lambda: all(app.view_model.connection.is_online for app in (desk, laptop, other)))

    ask(desk, "What is new here?")
    conversation_id = desk.view_model.current.conversation_id
    until(application, lambda: laptop.view_model.conversation(conversation_id) is not None)
    laptop.window.open_conversation(conversation_id)
    until(application, lambda: turn(laptop, 0) is not None and turn(laptop, 0).status is TurnStatus.COMPLETED)

    ask(desk, LONG)
    grows(application, laptop, 1)
    take(application, folder / "live.png")
    until(application, lambda: all(turn(app, 1).status is TurnStatus.COMPLETED for app in (desk, laptop)))
    assert turn(laptop, 1).answer == turn(desk, 1).answer
    assert "<think>" in turn(laptop, 1).answer

    ask(laptop, LONG)
    grows(application, desk, 2)
    QTest.keyClick(desk.window.chat.composer.box, Qt.Key.Key_Escape)
    until(application, lambda: all(turn(app, 2).status is TurnStatus.CANCELLED for app in (desk, laptop)))
    assert turn(laptop, 2).answer == turn(desk, 2).answer
    assert not any(one.record is not None for one in other.view_model.conversations)
    close(application, desk, laptop, other)
    print("the second window showed it live, the third nothing")


if __name__ == "__main__":
    main()
