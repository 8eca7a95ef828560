"""The list of messages: what exists, where it stands, and that reading is not disturbed."""

import itertools
from collections.abc import Callable

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from answerback_desktop.engine.events import TextAppended, TurnChanged, TurnsLoaded, TurnsRemoved
from answerback_desktop.records import Turn, TurnStatus
from answerback_desktop.ui.chat import ChatPane
from answerback_desktop.ui.chat.blocks import BlockView
from answerback_desktop.ui.chat.code import CodeView
from answerback_desktop.ui.chat.footer import FooterView
from answerback_desktop.ui.chat.prose import ProseView, TableView
from answerback_desktop.ui.chat.question import QuestionView
from answerback_desktop.ui.chat.text_view import TextView
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.theme import Scheme, Theme
from answerback_desktop.viewmodels.app import AppViewModel
from chat_samples import CHAT_KO, HOME, KOREAN_TEXTS, MARKDOWN, Recorder, turn

Opened = Callable[..., tuple[ChatPane, AppViewModel, Recorder]]


def many(count: int, answer: str = MARKDOWN) -> list[Turn]:
    return [turn(f"r{number}", f"Question {number}?", answer) for number in range(count)]


def streaming(request_id: str, answer: str = "") -> Turn:
    return turn(request_id, "Go on", answer, status=TurnStatus.STREAMING, tokens=None, times=None)


def append(pane: ChatPane, app: AppViewModel, request_id: str, delta: str) -> None:
    """New text, drawn at once."""
    assert app.current is not None
    turn = app.current.turn(request_id)
    assert turn is not None
    offset = turn.length
    event = TextAppended(conversation_id=HOME, request_id=request_id, attempt=1, offset=offset, delta=delta)
    pane.apply(app.apply([event]))
    pane.flush()


def views(pane: ChatPane, kind: type[BlockView]) -> list[BlockView]:
    return [view for view in pane.transcript.views if type(view) is kind]


def top_of(pane: ChatPane, view: BlockView) -> int:
    return view.mapTo(pane.transcript, QPoint(0, 0)).y()


def scroll_to(pane: ChatPane, share: float) -> None:
    bar = pane.transcript.verticalScrollBar()
    bar.setValue(round(bar.maximum() * share))


def reading(pane: ChatPane) -> BlockView:
    """The first view that begins inside the viewport."""
    return next(view for view in pane.transcript.views if top_of(pane, view) >= 0)


def test_an_answer_is_prose_code_and_tables(opened: Opened) -> None:
    pane, _, _ = opened(turn("r1", "What?", MARKDOWN), height=1_600)
    kinds = [type(view) for view in pane.transcript.views]
    assert kinds == [QuestionView, ProseView, CodeView, ProseView, TableView, ProseView, FooterView]
    shown = pane.transcript.views
    edges = [(view.y(), view.y() + view.height()) for view in shown]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(edges)), "no gap, no overlap"


def test_a_growing_table_is_measured_again_for_wider_cells_only(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "| a | b |\n|---|---|\n" + "".join(f"| {n} | {'**wide** `code` ' * (1 + n // 10)}|\n" for n in range(40))
    whole, _, _ = opened(turn("r1", "q", rows), height=1_600)
    (wanted,) = views(whole, TableView)
    measured = []
    real = TextView.natural_width
    monkeypatch.setattr(TextView, "natural_width", lambda self: measured.append(1) or real(self))
    pane, app, _ = opened(streaming("r1", rows[:25]), height=1_600)
    for at in range(25, len(rows), 12):
        append(pane, app, "r1", rows[at : at + 12])
    (view,) = views(pane, TableView)
    assert view.text.size() == wanted.text.size()
    assert len(measured) < len(rows) // 12 // 2


def test_only_what_is_near_exists(opened: Opened) -> None:
    pane, _, _ = opened(*many(1_000), height=700)
    assert len(pane.transcript.views) < 60
    assert pane.transcript.verticalScrollBar().maximum() > 100_000
    scroll_to(pane, 0.5)
    assert len(pane.transcript.views) < 120
    assert 300 < int(reading(pane).turn.request_id[1:]) < 700


def test_it_opens_at_the_end(opened: Opened) -> None:
    pane, _, _ = opened(*many(30))
    assert pane.transcript.is_pinned
    assert pane.transcript.views[-1].turn.request_id == "r29"
    assert pane.transcript.views[-1].geometry().bottom() <= pane.transcript.viewport().height()
    assert pane.jump_button.isHidden()


def test_streaming_touches_only_the_last_block(opened: Opened) -> None:
    pane, app, _ = opened(streaming("r1", "First.\n\n```py\nx = 1\n```\n\nThen"), height=900)
    before = pane.transcript.views
    append(pane, app, "r1", " more text")
    assert list(pane.transcript.views) == list(before)
    append(pane, app, "r1", "\n\n```sh\nls\n")
    after = pane.transcript.views
    assert list(after[:-2]) == list(before[:-1])
    assert after[-1] is before[-1], "the line of state stays"
    assert isinstance(after[-2], CodeView)


def test_the_end_is_followed_while_it_is_in_sight(opened: Opened) -> None:
    pane, app, _ = opened(*many(5), streaming("r9"))
    for _ in range(60):
        append(pane, app, "r9", "another line.\n\n")
        bar = pane.transcript.verticalScrollBar()
        assert bar.value() == bar.maximum()
    assert pane.transcript.is_pinned


def test_reading_above_is_not_disturbed(opened: Opened, appearance: Appearance) -> None:
    pane, app, _ = opened(*many(8), streaming("r9"), height=600)
    scroll_to(pane, 0.4)
    assert not pane.transcript.is_pinned
    view = reading(pane)
    place = top_of(pane, view)
    for _ in range(30):
        append(pane, app, "r9", "another line.\n\n")
        assert top_of(pane, view) == place
    assert not pane.jump_button.isHidden()
    assert pane.jump_button.accessibleName() == appearance.texts.chat.newest_unseen
    pane.jump_button.click()
    assert pane.transcript.is_pinned
    assert pane.jump_button.isHidden()


def test_older_messages_come_above_without_a_jump(opened: Opened) -> None:
    newer = [turn(f"r{number}", f"Question {number}?", MARKDOWN) for number in range(100, 120)]
    pane, app, recorder = opened(*newer, height=600)
    app.apply([TurnsLoaded(conversation_id=HOME, turns=tuple(newer), has_more=True)])
    scroll_to(pane, 0.0)
    assert recorder.named("load_more") == [(HOME, "r100")]
    view = reading(pane)
    place = top_of(pane, view)
    older = tuple(turn(f"r{number}", f"Question {number}?", MARKDOWN) for number in range(80, 100))
    pane.apply(app.apply([TurnsLoaded(conversation_id=HOME, turns=older, has_more=False)]))
    assert top_of(pane, view) == place
    assert pane.transcript.verticalScrollBar().value() > 0


def test_scrolling_back_over_guessed_heights_moves_as_far_as_the_wheel(opened: Opened) -> None:
    pane, _, _ = opened(*many(60), height=600)
    bar = pane.transcript.verticalScrollBar()
    for _ in range(80):
        view = reading(pane)
        place = top_of(pane, view)
        bar.setValue(bar.value() - 50)
        assert top_of(pane, view) == place + 50


def test_a_narrower_window_breaks_lines_again_and_keeps_the_place(opened: Opened) -> None:
    pane, _, _ = opened(*many(20), height=600, width=900)
    scroll_to(pane, 0.5)
    request_id = reading(pane).turn.request_id
    pane.resize(420, 600)
    QApplication.processEvents()
    assert reading(pane).turn.request_id in {request_id, f"r{int(request_id[1:]) + 1}"}
    assert all(view.width() <= 420 for view in pane.transcript.views)


def test_another_attempt_replaces_the_text(opened: Opened) -> None:
    pane, app, _ = opened(streaming("r1", "old words\n\n```py\nx\n```\n"))
    pane.apply(app.apply([TurnChanged(streaming("r1", "new"))]))
    pane.flush()
    texts = [view.text.toPlainText() for view in views(pane, ProseView) if isinstance(view, ProseView)]
    assert texts == ["new"]
    assert views(pane, CodeView) == []


def test_turns_that_are_gone_leave(opened: Opened) -> None:
    pane, app, _ = opened(*many(3, "Short."))
    pane.apply(app.apply([TurnsRemoved(conversation_id=HOME, request_ids=("r1", "r2"))]))
    assert {view.turn.request_id for view in pane.transcript.views} == {"r0"}


def test_a_huge_answer_is_shown_in_pieces(opened: Opened) -> None:
    pane, _, _ = opened(turn("r1", "Long?", "A paragraph of some words.\n\n" * 9_000), height=700)
    assert len(pane.transcript.views) < 30
    scroll_to(pane, 0.5)
    assert len(pane.transcript.views) < 40


def test_selected_text_stays_where_it_is_selected(opened: Opened) -> None:
    pane, app, _ = opened(streaming("r1", "select me now"))
    (view,) = views(pane, ProseView)
    assert isinstance(view, ProseView)
    cursor = view.text.textCursor()
    cursor.setPosition(0)
    cursor.setPosition(6, cursor.MoveMode.KeepAnchor)
    view.text.setTextCursor(cursor)
    append(pane, app, "r1", " and later")
    assert view.text.textCursor().selectedText() == "select"
    assert view.text.toPlainText() == "select me now and later"


def test_another_theme_draws_all_again_in_place(opened: Opened, qtbot: QtBot) -> None:
    pane, _, _ = opened(*many(20), height=600)
    scroll_to(pane, 0.5)
    request_id = reading(pane).turn.request_id
    pane.set_appearance(Appearance(theme=Theme(scheme=Scheme.DARK, body_px=20), texts=KOREAN_TEXTS))
    assert reading(pane).turn.request_id in {request_id, f"r{int(request_id[1:]) + 1}"}
    assert pane.composer.box.placeholderText() == CHAT_KO.placeholder
    assert pane.transcript.accessibleName() == CHAT_KO.transcript_name


def test_the_tab_key_goes_through_the_blocks_as_they_are_read(opened: Opened, qtbot: QtBot) -> None:
    pane, _, _ = opened(turn("r1", "What?", MARKDOWN), height=1_600)
    pane.transcript.setFocus()
    names = []
    for _ in range(20):
        qtbot.keyClick(QApplication.focusWidget(), Qt.Key.Key_Tab)
        focused = QApplication.focusWidget()
        assert focused is not None
        if not pane.transcript.isAncestorOf(focused):
            break
        names.append(focused.accessibleName())
    assert names[:2] == ["Copy", "Edit the question"]
    assert names[2:] == [
        "Copy the code",
        "Code, Python",
        "Table",
        "Answer",
        "Answer",
        "Copy",
        "Regenerate the answer",
    ]  # the link, then on
    assert focused is pane.composer.box
    qtbot.keyClick(focused, Qt.Key.Key_Backtab)
    assert pane.transcript.isAncestorOf(QApplication.focusWidget()) or QApplication.focusWidget() is pane.transcript


def test_the_focus_is_scrolled_into_sight(opened: Opened) -> None:
    pane, _, _ = opened(*many(20), height=500)
    view = next(view for view in pane.transcript.views if top_of(pane, view) < -100 and view.tab_stops)
    view.tab_stops[0].setFocus(Qt.FocusReason.TabFocusReason)
    assert 0 <= view.tab_stops[0].mapTo(pane.transcript, QPoint(0, 0)).y() < 500


@pytest.mark.parametrize(("key", "pinned"), [(Qt.Key.Key_Home, False), (Qt.Key.Key_End, True)])
def test_home_and_end(opened: Opened, qtbot: QtBot, key: Qt.Key, pinned: bool) -> None:
    pane, _, _ = opened(*many(20), height=500)
    qtbot.keyClick(pane.transcript, key)
    assert pane.transcript.is_pinned is pinned


def test_code_is_copied_whole_and_says_so(opened: Opened, appearance: Appearance) -> None:
    pane, _, _ = opened(turn("r1", "x", "```py\na = 1\n\nb = 2\n```\n"))
    (view,) = views(pane, CodeView)
    assert isinstance(view, CodeView)
    view.copy_button.click()
    assert QGuiApplication.clipboard().text() == "a = 1\n\nb = 2"
    assert view.copy_button.text() == appearance.texts.chat.copied


def test_streamed_code_is_whole_and_coloured(opened: Opened) -> None:
    pane, app, _ = opened(streaming("r1", "```python\n"))
    code = "def f():\n    return 'text'\n"
    for letter in code:
        append(pane, app, "r1", letter)
    append(pane, app, "r1", "```\n")
    (view,) = views(pane, CodeView)
    assert isinstance(view, CodeView)
    assert view.editor.toPlainText() == code.rstrip("\n")
    formats = view.editor.document().begin().layout().formats()
    assert [(span.start, span.length) for span in formats][:2] == [(0, 3), (4, 1)]


@pytest.mark.parametrize("kind", [ProseView, CodeView, TableView, QuestionView, FooterView])
def test_the_wheel_scrolls_the_list_wherever_the_pointer_is(opened: Opened, kind: type[BlockView]) -> None:
    pane, _, _ = opened(*many(10), height=1_200)
    bar = pane.transcript.verticalScrollBar()
    view = next(view for view in pane.transcript.views if type(view) is kind and top_of(pane, view) > 0)
    target = view.childAt(view.rect().center()) or view
    before = bar.value()
    here = QPointF(target.mapTo(pane, target.rect().center()))
    QTest.wheelEvent(pane.windowHandle(), here, QPoint(0, 120))
    assert bar.value() < before
