"""Find in a conversation: all hits lit, the next and the one before, and the way from a search to its words."""

from collections.abc import Callable

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from answerback_desktop.engine.events import TurnsLoaded
from answerback_desktop.ui.chat import ChatPane
from answerback_desktop.ui.chat.blocks import BlockView
from answerback_desktop.ui.chat.code import CodeView
from answerback_desktop.ui.chat.prose import ProseView
from answerback_desktop.viewmodels.app import AppViewModel
from chat_samples import HOME, MARKDOWN, Recorder, turn

Opened = Callable[..., tuple[ChatPane, AppViewModel, Recorder]]


def lit(pane: ChatPane) -> list[str]:
    return [
        mark.cursor.selectedText()  # type: ignore[attr-defined]
        for view in pane.transcript.views
        if view.edit is not None
        for mark in view.edit.extraSelections()
    ]


def find(pane: ChatPane, qtbot: QtBot, phrase: str) -> None:
    pane.open_find()
    pane.find_bar.box.setText(phrase)
    qtbot.keyClick(pane.find_bar.box, Qt.Key.Key_Return)


def current_is_seen(pane: ChatPane) -> bool:
    hit = pane.transcript.finder.hits[pane.transcript.finder.current]
    view: BlockView | None = hit.block.view
    assert view is not None
    assert view.edit is not None
    edit = view.edit
    marks = edit.extraSelections()
    accent = [m for m in marks if m.format.background().color() == pane.transcript.appearance.theme.colour("accent")]  # type: ignore[attr-defined]
    (mark,) = accent
    top = view.y() + edit.y() + edit.cursorRect(mark.cursor).top()  # type: ignore[attr-defined]
    return 0 <= top < pane.transcript.viewport().height()


def test_all_hits_are_lit_whatever_they_are_in(opened: Opened, qtbot: QtBot) -> None:
    pane = opened(turn("r1", "What is a Search?", MARKDOWN), height=1_400)[0]
    find(pane, qtbot, "search")
    assert lit(pane) == ["Search", "search", "search", "search"]
    assert pane.find_bar.count.text() == "1 of 4"
    qtbot.keyClick(pane.find_bar.box, Qt.Key.Key_Return)
    assert pane.find_bar.count.text() == "2 of 4"
    qtbot.keyClick(pane.find_bar.box, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    qtbot.keyClick(pane.find_bar.box, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    assert pane.find_bar.count.text() == "4 of 4"
    find(pane, qtbot, "low < high")
    assert lit(pane) == ["low < high"]
    find(pane, qtbot, "1,000,000")
    assert lit(pane) == ["1,000,000"] * 2
    find(pane, qtbot, "nowhere")
    assert (lit(pane), pane.find_bar.count.text()) == ([], pane.find_bar._appearance.texts.chat.find_nothing)


def test_words_with_marks_in_between_and_emoji_before(opened: Opened, qtbot: QtBot) -> None:
    pane = opened(turn("r1", "q", "🙂🙂 the **lazy** dog\n\n한글 **검색(어)**는"))[0]
    find(pane, qtbot, "lazy dog")
    assert lit(pane) == ["lazy dog"]
    find(pane, qtbot, "검색(어)는")
    assert lit(pane) == ["검색(어)는"]


def test_a_phrase_that_is_nowhere_lights_its_words(opened: Opened, qtbot: QtBot) -> None:
    pane = opened(turn("r1", "q", "a dog that is lazy"))[0]
    find(pane, qtbot, "lazy dog")
    assert lit(pane) == ["dog", "lazy"]


def test_escape_closes_and_nothing_stays_lit(opened: Opened, qtbot: QtBot) -> None:
    pane = opened(turn("r1", "q", "a word"))[0]
    find(pane, qtbot, "word")
    with qtbot.waitSignal(pane.find_bar.closed):
        qtbot.keyClick(pane.find_bar.box, Qt.Key.Key_Escape)
    assert pane.find_bar.isHidden()
    assert lit(pane) == []
    assert pane.composer.box.hasFocus()


@pytest.fixture
def long(opened: Opened) -> ChatPane:
    far = "Some **text** of a paragraph.\n\n" * 1_500 + "Here is the lazy dog.\n\n" + "More of it.\n\n" * 300
    turns = [turn(f"r{n}", f"Question {n}?", MARKDOWN) for n in range(1, 30)]
    return opened(*turns, turn("r30", "Far?", far), turn("r31", "Last?", MARKDOWN), height=500)[0]


def test_what_nobody_has_read_is_found_and_shown(long: ChatPane, qtbot: QtBot) -> None:
    find(long, qtbot, "lazy dog")
    qtbot.waitUntil(lambda: bool(long.transcript.finder.hits))
    assert current_is_seen(long)
    assert lit(long) == ["lazy dog"]
    find(long, qtbot, "halves the range")
    qtbot.waitUntil(lambda: len(long.transcript.finder.hits) == 30)
    for _ in range(30):
        qtbot.keyClick(long.find_bar.box, Qt.Key.Key_Return)
        assert current_is_seen(long)


def test_a_search_goes_to_its_words(long: ChatPane, qtbot: QtBot) -> None:
    long.show_turn("r30", "dog lazy")
    qtbot.waitUntil(lambda: bool(lit(long)))
    assert current_is_seen(long)
    assert lit(long) == ["lazy", "dog"]
    assert not long.find_bar.isHidden()
    assert long.find_bar.box.text() == "dog lazy"


def test_what_streams_is_found_as_it_comes(opened: Opened, qtbot: QtBot) -> None:
    pane = opened(turn("r1", "q", "one word"))[0]
    find(pane, qtbot, "word")
    block = pane.transcript.finder.hits[0].block
    block.turn.append(len("one word"), " and a word\n\n```\nword\n```")
    pane.transcript.refresh(["r1"])
    assert lit(pane) == ["word"] * 3
    assert pane.transcript.finder.current == 0
    assert [type(view) for view in pane.transcript.views if view.edit and view.edit.extraSelections()] == [
        *(ProseView, CodeView)
    ]


def test_what_is_folded_is_opened(opened: Opened, qtbot: QtBot) -> None:
    folded = "<think>\nA **lazy** dog.\n\n<details>\n<summary>S</summary>\n\nA cat.\n</details>\n</think>\n\nYes."
    pane = opened(turn("r1", "q", folded))[0]
    find(pane, qtbot, "cat")
    assert lit(pane) == ["cat"]
    assert current_is_seen(pane)


def test_pages_that_come_later_are_searched_too(opened: Opened, qtbot: QtBot) -> None:
    pane, app, recorder = opened()
    newer = turn("r9", "q", "a word\n\n" * 40)
    pane.apply(app.apply([TurnsLoaded(conversation_id=HOME, turns=(newer,), has_more=True)]))
    find(pane, qtbot, "word")
    assert recorder.named("load_more") == [(HOME, "r9")]
    older = (turn("r1", "Older?", "another word"), turn("r2", "q", "none"))
    pane.apply(app.apply([TurnsLoaded(conversation_id=HOME, turns=older, has_more=False)]))
    qtbot.waitUntil(lambda: len(pane.transcript.finder.hits) == 41)
