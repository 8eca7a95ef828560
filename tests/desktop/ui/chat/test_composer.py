"""The box for the question: what Enter does, also in the middle of a syllable, and what is too long."""

import pytest
from PySide6.QtCore import QMimeData, Qt
from PySide6.QtGui import QImage, QInputMethodEvent
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from answerback_desktop.ui.chat.composer import ENVELOPE_BYTES, Composer
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.theme import Theme, apply


@pytest.fixture
def composer(qtbot: QtBot, appearance: Appearance) -> Composer:
    made = Composer(appearance)
    qtbot.addWidget(made)
    made.resize(600, made.height())
    made.show()
    qtbot.waitExposed(made)
    made.box.setFocus()
    return made


def compose(composer: Composer, preedit: str, *, commit: str = "") -> None:
    event = QInputMethodEvent(preedit, [])
    event.setCommitString(commit)
    QApplication.sendEvent(composer.box, event)


def test_enter_sends_and_shift_enter_breaks_the_line(composer: Composer, qtbot: QtBot) -> None:
    qtbot.keyClicks(composer.box, "one")
    qtbot.keyClick(composer.box, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    qtbot.keyClicks(composer.box, "two")
    with qtbot.waitSignal(composer.sent) as sent:
        qtbot.keyClick(composer.box, Qt.Key.Key_Return)
    assert sent.args == ["one\ntwo"]


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_nothing_is_not_sent(composer: Composer, qtbot: QtBot, text: str) -> None:
    composer.set_text(text)
    with qtbot.assertNotEmitted(composer.sent):
        qtbot.keyClick(composer.box, Qt.Key.Key_Return)
    assert not composer.button.isEnabled()


def test_enter_in_a_syllable_sends_it_whole_and_once(composer: Composer, qtbot: QtBot) -> None:
    sent: list[str] = []
    composer.sent.connect(sent.append)
    compose(composer, "", commit="안")
    compose(composer, "녕")
    assert composer.box.is_composing
    qtbot.keyClick(composer.box, Qt.Key.Key_Return)
    assert sent == [], "the syllable has not arrived yet"
    compose(composer, "", commit="녕")
    assert sent == ["안녕"]
    compose(composer, "", commit="")
    assert sent == ["안녕"]


def test_a_cancelled_syllable_sends_nothing(composer: Composer, qtbot: QtBot) -> None:
    composer.set_text("안")
    compose(composer, "녕")
    with qtbot.assertNotEmitted(composer.sent):
        qtbot.keyClick(composer.box, Qt.Key.Key_Return)
        compose(composer, "")
        compose(composer, "", commit="하")
    assert composer.text == "안하"


def test_enter_that_the_input_method_keeps_sends_nothing(composer: Composer, qtbot: QtBot) -> None:
    with qtbot.assertNotEmitted(composer.sent):
        compose(composer, "日本")
        compose(composer, "", commit="日本")
    assert composer.text == "日本"


def test_only_text_is_pasted(composer: Composer) -> None:
    mime = QMimeData()
    mime.setHtml("<b>bold</b><img src='http://evil.example/x.png'>")
    mime.setText("bold\r\nplain\x00")
    composer.box.insertFromMimeData(mime)
    assert composer.text == "bold\nplain"
    assert "font-weight" not in composer.box.toHtml().split("<body", 1)[1].split("<p", 1)[1]


def test_it_grows_to_eight_lines_and_then_scrolls(composer: Composer) -> None:
    heights = []
    for lines in (1, 2, 8, 9, 40):
        composer.set_text("\n".join("line" for _ in range(lines)))
        heights.append(composer.height())
    assert heights[0] < heights[1] < heights[2]
    assert heights[2] == heights[3] == heights[4]
    composer.set_text("")
    assert composer.height() == heights[0]


def test_send_by_mouse_takes_the_syllable_with_it(composer: Composer, qtbot: QtBot) -> None:
    sent: list[str] = []
    composer.sent.connect(sent.append)
    compose(composer, "", commit="반갑")
    compose(composer, "다")
    qtbot.mouseClick(composer.button, Qt.MouseButton.LeftButton)
    assert sent == ["반갑다"]
    composer.set_text("")
    compose(composer, "")
    compose(composer, "", commit="다")
    assert composer.text == "", "it comes late, and was sent"


def test_what_is_too_long_is_reported_and_not_sent(composer: Composer, qtbot: QtBot) -> None:
    composer.set_limit(ENVELOPE_BYTES + 4_000)
    composer.set_text("한" * 1_333)  # 3,999 bytes
    assert composer.over_bytes == -1
    assert "left" in composer.notice.text()
    assert composer.button.isEnabled()
    composer.set_text("한" * 1_400)
    assert "too long" in composer.notice.text()
    assert not composer.button.isEnabled()
    with qtbot.assertNotEmitted(composer.sent):
        qtbot.keyClick(composer.box, Qt.Key.Key_Return)
    composer.set_text("short")
    assert composer.notice.isHidden()


def test_line_ends_and_quotes_count_as_they_are_encoded(composer: Composer) -> None:
    composer.set_limit(ENVELOPE_BYTES + 10)
    composer.set_text('"' * 6)
    assert composer.over_bytes == 2


def test_stop_takes_the_place_of_send_while_the_box_is_empty(
    composer: Composer, qtbot: QtBot, appearance: Appearance
) -> None:
    composer.set_running(is_running=True)
    assert composer.button.accessibleName() == appearance.texts.chat.stop
    with qtbot.waitSignal(composer.stopped):
        composer.button.click()
    composer.set_text("next")
    assert composer.button.accessibleName() == appearance.texts.chat.send
    with qtbot.waitSignal(composer.stopped):
        qtbot.keyClick(composer.box, Qt.Key.Key_Escape)


def test_up_recalls_only_in_an_empty_box(composer: Composer, qtbot: QtBot) -> None:
    with qtbot.waitSignal(composer.recalled):
        qtbot.keyClick(composer.box, Qt.Key.Key_Up)
    composer.set_text("x")
    with qtbot.assertNotEmitted(composer.recalled):
        qtbot.keyClick(composer.box, Qt.Key.Key_Up)


def test_a_draft_that_is_shown_is_no_change(composer: Composer, qtbot: QtBot) -> None:
    with qtbot.assertNotEmitted(composer.changed):
        composer.set_text("a draft")
    with qtbot.waitSignal(composer.changed) as changed:
        qtbot.keyClicks(composer.box, "!")
    assert changed.args == ["a draft!"]


def test_all_of_it_grows_with_the_text(qapp: QApplication, qtbot: QtBot, appearance: Appearance, theme: Theme) -> None:
    def shown(first_px: int) -> QImage:
        apply(qapp, Theme(body_px=first_px))
        made = Composer(Appearance(theme=Theme(body_px=first_px), texts=appearance.texts))
        qtbot.addWidget(made)
        made.resize(600, 60)
        made.show()
        QApplication.processEvents()
        apply(qapp, Theme(body_px=28))
        made.set_appearance(Appearance(theme=Theme(body_px=28), texts=appearance.texts))
        made.box.clearFocus()
        QApplication.processEvents()
        return made.box.grab().toImage()

    assert shown(15) == shown(28)
