"""One selection over a whole conversation, by mouse and keys, and what of it is copied."""

from collections.abc import Callable

import pytest
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QGuiApplication, QMouseEvent, QTextCursor
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QTextEdit, QWidget
from pytestqt.qtbot import QtBot

from answerback_desktop.ui.chat import ChatPane
from answerback_desktop.ui.chat.blocks import BlockView
from answerback_desktop.ui.chat.code import CodeView
from answerback_desktop.ui.chat.footer import FooterView
from answerback_desktop.ui.chat.prose import FoldView, ProseView, TableView
from answerback_desktop.ui.chat.question import QuestionView
from chat_samples import turn

ANSWER = """\
First **bold(1)**는 here.

1. Install:
   ```sh
   ls
     -l
   ```
2. Run 🙂 it

| a | b |
|---|--:|
| `x \\| y` | $z^2$ |

Last [word](https://example.com).
"""
Opened = Callable[..., tuple[ChatPane, object, object]]


def view_of(pane: ChatPane, kind: type[BlockView], number: int = 0) -> BlockView:
    return [view for view in pane.transcript.views if isinstance(view, kind)][number]


def edit_of(pane: ChatPane, kind: type[BlockView], number: int = 0) -> QTextEdit:
    edit = view_of(pane, kind, number).edit
    assert edit is not None
    return edit


def point(edit: QTextEdit, place: int) -> QPoint:
    cursor = QTextCursor(edit.document())
    cursor.setPosition(place)
    return edit.cursorRect(cursor).center()


def move(pressed: QWidget, place: QPointF) -> None:
    buttons = Qt.MouseButton.NoButton, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(pressed, QMouseEvent(QEvent.Type.MouseMove, place, pressed.mapToGlobal(place), *buttons))


def drag(pane: ChatPane, start: tuple[QTextEdit, int], end: tuple[QTextEdit, int]) -> None:
    """From a place to another, as the mouse does it: the widget that was pressed gets all of it."""
    first, last = start[0].viewport(), end[0].viewport()
    begin, target = point(*start), first.mapFromGlobal(last.mapToGlobal(point(*end)))
    QTest.mousePress(first, Qt.MouseButton.LeftButton, pos=begin)
    move(first, QPointF((begin + target) / 2))
    move(first, QPointF(target))
    QTest.mouseRelease(first, Qt.MouseButton.LeftButton, pos=target)


def copied(edit: QTextEdit, qtbot: QtBot) -> str:
    qtbot.keyClick(edit, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    return QGuiApplication.clipboard().text()


@pytest.fixture
def pane(opened: Opened) -> ChatPane:
    return opened(turn("r1", "What?\nSo", ANSWER), turn("r2", "Again?", "Short."), height=1_200)[0]


def test_all_is_copied_as_the_model_wrote_it(pane: ChatPane, qtbot: QtBot) -> None:
    edit = edit_of(pane, ProseView)
    edit.setFocus()
    qtbot.keyClick(edit, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    assert copied(edit, qtbot) == f"> What?\n> So\n\n{ANSWER.strip()}\n\n> Again?\n\nShort."
    data = QGuiApplication.clipboard().mimeData()
    assert bytes(data.data("text/markdown").data()).decode() == data.text()
    html = data.html()
    assert "<strong>bold(1)</strong>는" in html
    assert "<code>x | y</code>" in html
    assert html.count("<li>") == 2
    assert '<a href="https://example.com">word</a>' in html


def test_a_drag_goes_over_code_and_tables(pane: ChatPane, qtbot: QtBot) -> None:
    first, last = edit_of(pane, ProseView), edit_of(pane, ProseView, 2)
    drag(pane, (first, 6), (last, 4))
    assert edit_of(pane, CodeView).textCursor().selectedText() == "ls\u2029  -l"
    assert edit_of(pane, TableView).textCursor().hasSelection()
    text = copied(first, qtbot)
    assert text.startswith("**bold(1)**는 here.\n\n1. Install:\n   ```sh\n   ls\n     -l\n   ```\n2. Run 🙂 it")
    assert "| `x \\| y` | $z^2$ |" in text
    assert text.endswith("\n\nLast")
    drag(pane, (last, 4), (first, 6))
    assert copied(last, qtbot) == text


def test_only_one_selection_is_there(pane: ChatPane, qtbot: QtBot) -> None:
    prose, code = edit_of(pane, ProseView), edit_of(pane, CodeView)
    drag(pane, (prose, 0), (code, 3))
    QTest.mouseDClick(code.viewport(), Qt.MouseButton.LeftButton, pos=point(code, 1))
    assert not prose.textCursor().hasSelection()
    assert copied(code, qtbot) == "ls"
    QTest.mouseClick(prose.viewport(), Qt.MouseButton.LeftButton, pos=point(prose, 2))
    assert not code.textCursor().hasSelection()


def test_shift_and_a_click_make_it_longer(pane: ChatPane, qtbot: QtBot) -> None:
    prose, code = edit_of(pane, ProseView), edit_of(pane, CodeView)
    QTest.mouseDClick(prose.viewport(), Qt.MouseButton.LeftButton, pos=point(prose, 1))
    QTest.mouseRelease(prose.viewport(), Qt.MouseButton.LeftButton, pos=point(prose, 1))
    shift = Qt.KeyboardModifier.ShiftModifier
    QTest.mouseClick(code.viewport(), Qt.MouseButton.LeftButton, shift, point(code, 2))
    assert copied(code, qtbot).startswith("First **bold(1)**는 here.\n\n1. Install:")
    assert copied(code, qtbot).endswith("```sh\nls\n```")


@pytest.mark.parametrize(
    ("start", "end", "markdown"),
    [
        (6, 10, "**bold**"),
        (0, 20, "First **bold(1)**는 here."),
        (3, 8, "st **bo**"),
    ],
)
def test_a_part_of_a_paragraph(pane: ChatPane, qtbot: QtBot, start: int, end: int, markdown: str) -> None:
    edit = edit_of(pane, ProseView)
    cursor = edit.textCursor()
    cursor.setPosition(start)
    cursor.setPosition(end, QTextCursor.MoveMode.KeepAnchor)
    edit.setTextCursor(cursor)
    assert copied(edit, qtbot) == markdown


def test_a_part_of_code_is_code_and_one_of_a_question_its_letters(pane: ChatPane, qtbot: QtBot) -> None:
    code, question = edit_of(pane, CodeView), edit_of(pane, QuestionView)
    code.selectAll()
    assert copied(code, qtbot) == "ls\n  -l"
    question.selectAll()
    assert copied(question, qtbot) == "What?\nSo"


def test_signs_that_turn_text_are_copied_as_they_are(opened: Opened, qtbot: QtBot) -> None:
    pane = opened(turn("r1", "q", "```\na\u202eb\n```"))[0]
    code = edit_of(pane, CodeView)
    assert code.toPlainText() == "a⟦U+202E⟧b"
    code.selectAll()
    assert copied(code, qtbot) == "a\u202eb"


def test_signs_that_turn_text_are_not_copied_from_prose(opened: Opened) -> None:
    pane = opened(turn("r1", "q", "invoice\u202efdp.exe\n\n```\na\u202eb\n```\n\n`x\u2066y`"))[0]
    pane.transcript.selection.select_all()
    pane.transcript.selection.copy()
    copied = QGuiApplication.clipboard().text()
    assert copied == "> q\n\ninvoicefdp.exe\n\n```\na\u202eb\n```\n\n`xy`"
    next(view for view in pane.transcript.views if isinstance(view, FooterView)).copy_button.click()
    assert QGuiApplication.clipboard().text() == copied.removeprefix("> q\n\n")


def test_a_selection_outlives_its_views_and_more_text(opened: Opened, qtbot: QtBot) -> None:
    turns = [turn(f"r{n}", f"Question {n}?", f"Answer **{n}**.\n\n" * 12) for n in range(1, 40)]
    pane = opened(*turns, height=500)[0]
    pane.transcript.setFocus()
    qtbot.keyClick(pane.transcript, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    pane.transcript.to_turn("r2")
    assert all(view.edit.textCursor().hasSelection() for view in pane.transcript.views if view.edit is not None)
    assert len(pane.transcript.views) < 100
    qtbot.keyClick(pane.transcript, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    text = QGuiApplication.clipboard().text()
    assert text.startswith("> Question 1?\n\nAnswer **1**.")
    assert text.count("Answer **39**.") == 12


def test_what_is_folded_is_copied_with_the_rest(opened: Opened, qtbot: QtBot) -> None:
    answer = "<think>\nSo **it** is.\n</think>\n\nFour."
    pane = opened(turn("r1", "2+2?", answer))[0]
    pane.transcript.selection.select_all()
    pane.transcript.selection.copy()
    assert QGuiApplication.clipboard().text() == f"> 2+2?\n\n{answer}"
    fold = view_of(pane, FoldView)
    assert isinstance(fold, FoldView)
    fold.button.click()
    assert [view.edit.toPlainText() for view in pane.transcript.views if isinstance(view, ProseView)] == [
        *("So it is.", "Four.")
    ]
    pane.transcript.selection.select_all()
    pane.transcript.selection.copy()
    assert QGuiApplication.clipboard().text() == f"> 2+2?\n\n{answer}"
    fold.button.click()
    assert len([view for view in pane.transcript.views if isinstance(view, ProseView)]) == 1


def test_what_is_copied_loads_nothing(opened: Opened, qtbot: QtBot) -> None:
    pane = opened(turn("r1", "q", "![cat](http://evil.example/a.png) [x](javascript:alert(1)) <img src=x>"))[0]
    pane.transcript.selection.select_all()
    pane.transcript.selection.copy()
    html = QGuiApplication.clipboard().mimeData().html()
    assert "<img" not in html
    assert "javascript:" not in html


def test_a_drag_out_of_the_window_scrolls(opened: Opened, qtbot: QtBot) -> None:
    turns = [turn(f"r{n}", f"Question {n}?", f"Answer **{n}**.\n\n" * 12) for n in range(1, 9)]
    pane = opened(*turns, height=500)[0]
    pane.transcript.to_turn("r1")
    edit = edit_of(pane, ProseView)
    viewport, bar = edit.viewport(), pane.transcript.verticalScrollBar()
    QTest.mousePress(viewport, Qt.MouseButton.LeftButton, pos=point(edit, 0))
    below = QPointF(viewport.mapFrom(pane, QPoint(60, pane.height())))
    move(viewport, below)
    before = bar.value()
    qtbot.waitUntil(lambda: bar.value() > before + 1_000)
    QTest.mouseRelease(viewport, Qt.MouseButton.LeftButton, pos=below.toPoint())
    assert copied(edit, qtbot).startswith("Answer **1**.\n\nAnswer **1**.")
    assert "> Question 3?" in QGuiApplication.clipboard().text()
