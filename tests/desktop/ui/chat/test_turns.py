"""What each state of a turn says and offers."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from itertools import count

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from answerback.client import Usage
from answerback_desktop.engine.events import TurnChanged
from answerback_desktop.records import Failure, FailureCode, Turn, TurnStatus
from answerback_desktop.texts import ChatTexts
from answerback_desktop.ui.chat import ChatPane
from answerback_desktop.ui.chat.footer import FooterView, StateLine, Tone, state_line
from answerback_desktop.ui.chat.question import QuestionView
from answerback_desktop.viewmodels import TurnViewModel
from answerback_desktop.viewmodels import connection as connecting
from answerback_desktop.viewmodels.app import AppViewModel
from chat_samples import CHAT_EN, CHAT_KO, Recorder, turn

Opened = Callable[..., tuple[ChatPane, AppViewModel, Recorder]]
NOW_MS = 1_700_000_000_000


def line(model: TurnViewModel, *, is_online: bool = True, texts: ChatTexts = CHAT_EN) -> StateLine:
    return state_line(model, texts, is_online=is_online)


def of(record: Turn) -> TurnViewModel:
    return TurnViewModel(record)


class Clock:
    """The two clocks of a countdown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.epoch_ms, self.monotonic = NOW_MS, 100.0
        monkeypatch.setattr(connecting, "epoch_ms", lambda: self.epoch_ms)
        monkeypatch.setattr(connecting.time, "monotonic", lambda: self.monotonic)


def failed(code: FailureCode, *, is_retryable: bool, retry_at_ms: int | None = None) -> Turn:
    failure = Failure(code=code, is_retryable=is_retryable, retry_at_ms=retry_at_ms)
    return turn("r1", "q", status=TurnStatus.FAILED, failure=failure)


def test_no_answer_at_all_is_told_as_such() -> None:
    failed_at_once = line(of(failed(FailureCode.MODEL_FAILED, is_retryable=True)))
    assert failed_at_once.text == CHAT_EN.no_answer
    empty = line(of(turn("r1", "q", "")))
    assert (empty.text, empty.retry_in_s) == (CHAT_EN.empty_answer, 0)
    assert line(of(turn("r1", "q", "", finish_reason="length"))).text == CHAT_EN.empty_cut


def test_the_words_of_each_state() -> None:
    outbox = of(turn("r1", "q", status=TurnStatus.OUTBOX))
    assert line(outbox).text == CHAT_EN.outbox
    assert line(outbox, is_online=False).text == CHAT_EN.outbox
    assert line(of(turn("r1", "q", status=TurnStatus.QUEUED, position=3))).text == "In the queue, 3 before it"
    assert line(of(turn("r1", "q", status=TurnStatus.QUEUED, position=0))).text == CHAT_EN.queued_next
    assert line(of(turn("r1", "q", status=TurnStatus.STREAMING))).text == CHAT_EN.waiting
    assert line(of(turn("r1", "q", "some", status=TurnStatus.STREAMING))).text == CHAT_EN.streaming
    for status in (TurnStatus.QUEUED, TurnStatus.STREAMING):
        paused = line(of(turn("r1", "q", "some", status=status)), is_online=False)
        assert (paused.text, paused.tone) == (CHAT_EN.paused, Tone.WAITING)
    assert line(of(turn("r1", "q", "some", status=TurnStatus.CANCELLED))).text == CHAT_EN.cancelled


def test_a_completed_turn_shows_model_tokens_cost_and_time() -> None:
    record = turn("r1", "q", "a", tokens=Usage(input_tokens=1_000, output_tokens=2_000))
    shown = line(of(record))
    assert shown.tone is Tone.DONE
    assert shown.text == "smollm2-135m · 2,000 tokens · 4.2 s"
    assert shown.hint.splitlines() == ["In the queue: 0.01 s", "First words after: 0.34 s", "In total: 4.2 s"]
    assert line(of(record)).text == "smollm2-135m · 2,000 tokens · 4.2 s"
    assert line(of(record), texts=CHAT_KO).text == "smollm2-135m · 토큰 2,000개 · 4.2초"
    assert line(of(turn("r1", "q", "a", finish_reason="length"))).cut == CHAT_EN.cut
    assert line(of(turn("r1", "q", "a", model=None, tokens=None, times=None))).text == ""


@pytest.mark.parametrize("code", list(FailureCode))
@pytest.mark.parametrize("texts", [CHAT_EN, CHAT_KO], ids=["en", "ko"])
def test_every_failure_is_a_sentence(code: FailureCode, texts: ChatTexts) -> None:
    shown = line(of(failed(code, is_retryable=False)), texts=texts)
    assert shown.tone is Tone.FAILED
    assert shown.text.endswith(".")
    assert code.value not in shown.text
    assert shown.retry_in_s is None


@pytest.mark.parametrize(("after_ms", "seconds"), [(-5_000, 0), (0, 0), (1, 1), (1_000, 1), (22_500, 23)])
def test_the_countdown_of_a_rate_limit(after_ms: int, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    record = failed(FailureCode.RATE_LIMITED, is_retryable=True, retry_at_ms=clock.epoch_ms + after_ms)
    assert line(of(record)).retry_in_s == seconds


@pytest.mark.parametrize(
    ("texts", "words"),
    [(CHAT_EN, "It opens 2023-12-01 00:00."), (CHAT_KO, "예산은 2023-12-01 00:00에 다시 열려요.")],
    ids=["en", "ko"],
)
def test_a_question_without_room_in_the_budget_says_when_it_opens(texts: ChatTexts, words: str) -> None:
    record = failed(FailureCode.OVER_BUDGET, is_retryable=True, retry_at_ms=NOW_MS + 3_600_000)
    assert record.failure is not None
    opens_at_ms = int(datetime(2023, 12, 1).timestamp() * 1000)
    record = replace(record, failure=replace(record.failure, opens_at_ms=opens_at_ms))
    shown = line(of(record), texts=texts)
    assert shown.text == f"{texts.failures[FailureCode.OVER_BUDGET]} {words}"


@pytest.mark.parametrize(
    ("texts", "words"),
    [(CHAT_EN, "Asked on another device. Answering…"), (CHAT_KO, "다른 기기에서 한 질문 · 답변하는 중…")],
    ids=["en", "ko"],
)
def test_an_answer_that_another_device_has_asked_for_says_so(texts: ChatTexts, words: str) -> None:
    record = replace(turn("r1", "q", "a", status=TurnStatus.STREAMING), is_elsewhere=True)
    shown = line(of(record), texts=texts)
    assert (shown.tone, shown.text) == (Tone.RUNNING, words)


def test_a_clock_that_is_set_changes_no_countdown(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    record = failed(FailureCode.RATE_LIMITED, is_retryable=True, retry_at_ms=clock.epoch_ms + 45_000)
    record = replace(record, answered_at_ms=clock.epoch_ms)
    model = of(record)
    clock.epoch_ms -= 3_600_000
    clock.monotonic += 5.0
    assert line(model).retry_in_s == 40
    assert line(of(record)).retry_in_s == 45, "shown again, it knows how long it was"


# --- the widgets


def footer(pane: ChatPane) -> FooterView:
    return next(view for view in pane.transcript.views if isinstance(view, FooterView))


def question(pane: ChatPane) -> QuestionView:
    return next(view for view in pane.transcript.views if isinstance(view, QuestionView))


def offers(view: FooterView) -> list[str]:
    buttons: list[QWidget] = list(view.tab_stops)
    return [button.accessibleName() or button.text() for button in buttons]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("record", "names"),
    [
        (turn("r1", "q", "a"), ["Copy", "Regenerate the answer"]),
        (turn("r1", "q", status=TurnStatus.OUTBOX), ["Stop"]),
        (turn("r1", "q", status=TurnStatus.QUEUED, position=1), ["Stop"]),
        (turn("r1", "q", "a", status=TurnStatus.STREAMING), ["Stop"]),
        (turn("r1", "q", "a", status=TurnStatus.CANCELLED), ["Copy", "Try again"]),
        (failed(FailureCode.MODEL_FAILED, is_retryable=True), ["Try again"]),
        (failed(FailureCode.FORBIDDEN, is_retryable=False), []),
    ],
    ids=map(str, count()),
)
def test_what_each_state_offers(opened: Opened, record: Turn, names: list[str]) -> None:
    pane, _, _ = opened(record)
    assert offers(footer(pane)) == names


def test_the_actions_reach_the_engine(opened: Opened) -> None:
    pane, app, recorder = opened(turn("r1", "Again?", "a"))
    footer(pane).copy_button.click()
    assert QGuiApplication.clipboard().text() == "a"
    footer(pane).again_button.click()
    ((_, _, text, replaces, _),) = recorder.named("ask")
    assert (text, replaces) == ("Again?", "r1")
    pane.apply(app.apply([TurnChanged(turn("r1", "Again?", "a", status=TurnStatus.STREAMING))]))
    pane.flush()
    footer(pane).stop_button.click()
    assert recorder.named("stop") == [("r1",)]


def test_retry_asks_again_once_the_time_has_come(opened: Opened) -> None:
    future = failed(FailureCode.RATE_LIMITED, is_retryable=True, retry_at_ms=4_000_000_000_000)
    pane, app, recorder = opened(future)
    assert not footer(pane).retry_button.isEnabled()
    past = failed(FailureCode.RATE_LIMITED, is_retryable=True, retry_at_ms=1)
    pane.apply(app.apply([TurnChanged(past)]))
    pane.flush()
    assert footer(pane).retry_button.isEnabled()
    footer(pane).retry_button.click()
    assert recorder.named("ask")[0][2:4] == ("q", "r1")


def test_failures_in_a_row_for_one_reason_have_one_card(opened: Opened) -> None:
    codes = (FailureCode.TIMEOUT, FailureCode.MODEL_UNAVAILABLE, FailureCode.MODEL_UNAVAILABLE, FailureCode.TIMEOUT)
    asked = [
        replace(failed(code, is_retryable=True), request_id=f"r{number}", question=f"q{number}", asked_at_ms=number)
        for number, code in enumerate(codes)
    ]
    pane, app, recorder = opened(*asked[:3])

    def footers() -> list[tuple[str, list[str]]]:
        return [(view.label.text(), offers(view)) for view in pane.transcript.views if isinstance(view, FooterView)]

    timeout, away = (CHAT_EN.failures[code] for code in codes[:2])
    told_below = ("Failed, for the reason given below", [])
    assert footers() == [(timeout, ["Try again"]), told_below, (away, ["Try all 2 again"])]
    footer_of_last = [view for view in pane.transcript.views if isinstance(view, FooterView)][-1]
    footer_of_last.retry_button.click()
    assert [one[2:4] for one in recorder.named("ask")] == [("q1", "r1"), ("q2", None)]
    assert recorder.named("forget_turn") == []
    pane.apply(app.apply([TurnChanged(asked[3])]))
    pane.flush()
    assert footers() == [
        (timeout, ["Try again"]),
        told_below,
        (away, ["Try all 2 again"]),
        (timeout, ["Try again"]),
    ]
    pane.apply(app.apply([TurnChanged(replace(asked[1], status=TurnStatus.COMPLETED, answer="a"))]))
    pane.flush()
    assert footers()[2] == (away, ["Try again"])


def test_a_question_that_failed_twice_is_asked_once(opened: Opened) -> None:
    once = failed(FailureCode.TIMEOUT, is_retryable=True)
    pane, _, recorder = opened(once, replace(once, request_id="r2", asked_at_ms=once.asked_at_ms + 1))
    last = [view for view in pane.transcript.views if isinstance(view, FooterView)][-1]
    assert offers(last) == ["Try again"]
    last.retry_button.click()
    assert [one[2:4] for one in recorder.named("ask")] == [("q", "r1")]


def test_a_new_state_is_reported_to_screen_readers(opened: Opened) -> None:
    pane, app, _ = opened(turn("r1", "q", "a", status=TurnStatus.STREAMING))
    pane.apply(app.apply([TurnChanged(failed(FailureCode.TIMEOUT, is_retryable=True))]))
    pane.flush()
    assert footer(pane).accessibleName() == CHAT_EN.failures[FailureCode.TIMEOUT]


def test_the_versions_of_a_turn_are_paged_through(opened: Opened) -> None:
    old = replace(turn("r1", "Old?", "old"), superseded_by="r2")
    pane, _, recorder = opened(old, replace(turn("r2", "New?", "new"), replaces="r1"))
    view = footer(pane)
    assert view.version_label.text() == "2/2"
    assert offers(view) == ["Earlier version", "Copy", "Regenerate the answer"]
    view.earlier_button.click()
    assert question(pane).text.toPlainText() == "Old?"
    assert (footer(pane).version_label.text(), offers(footer(pane))[0]) == ("1/2", "Later version")
    footer(pane).again_button.click()
    ((_, _, text, replaces, _),) = recorder.named("ask")
    assert (text, replaces) == ("Old?", "r1")
    footer(pane).later_button.click()
    assert question(pane).text.toPlainText() == "New?"


def test_one_version_has_no_arrows(opened: Opened) -> None:
    pane, _, _ = opened(turn("r1", "q", "a"))
    assert footer(pane).version_label.isHidden()


def test_edit_and_send_again(opened: Opened, qtbot: QtBot) -> None:
    pane, _, recorder = opened(turn("r1", "Old?", "a"))
    question(pane).edit_button.click()
    editor = question(pane).editor
    assert editor is not None
    assert editor.hasFocus()
    editor.setPlainText("New?")
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    assert recorder.named("ask")[0][2:4] == ("New?", "r1")
    assert question(pane).editor is None


def test_escape_leaves_the_question_as_it_was(opened: Opened, qtbot: QtBot) -> None:
    pane, _, recorder = opened(turn("r1", "Old?", "a"))
    height = question(pane).height()
    question(pane).start_edit()
    editor = question(pane).editor
    assert editor is not None
    editor.setPlainText("New?\n\n\n\nmore")
    qtbot.keyClick(editor, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: question(pane).height() == height)
    assert recorder.named("ask") == []
    assert question(pane).text.toPlainText() == "Old?"


def test_up_in_an_empty_box_edits_the_last_question(opened: Opened, qtbot: QtBot) -> None:
    pane, _, _ = opened(turn("r1", "First?", "a"), turn("r2", "Last?", "b"))
    qtbot.keyClick(pane.composer.box, Qt.Key.Key_Up)
    editing = [view for view in pane.transcript.views if isinstance(view, QuestionView) and view.editor is not None]
    assert [view.turn.request_id for view in editing] == ["r2"]


def test_a_long_question_is_folded(opened: Opened) -> None:
    whole = "\n".join(f"line {number}" for number in range(100))
    pane, _, _ = opened(turn("r1", whole, "a"), height=500)
    view = question(pane)
    assert view.text.toPlainText().endswith("line 13…")
    view.fold_button.click()
    assert view.text.toPlainText() == whole
    view.copy_button.click()
    assert QGuiApplication.clipboard().text() == whole


def test_questions_are_never_markdown(opened: Opened) -> None:
    pane, _, _ = opened(turn("r1", "**x** <b>y</b> ![z](http://evil.example)", "a"))
    assert question(pane).text.toPlainText() == "**x** <b>y</b> ![z](http://evil.example)"


def test_the_pointer_shows_the_actions_of_its_turn_only(opened: Opened, qtbot: QtBot) -> None:
    pane, _, _ = opened(turn("r1", "q", "a"), turn("r2", "q", "b"))
    first, last = (view for view in pane.transcript.views if isinstance(view, FooterView))
    assert first.label.isHidden()
    assert not last.label.isHidden(), "the last turn's are always shown"
    pane.transcript.signals.hovered.emit("r1", True)
    assert not first.label.isHidden()
    pane.transcript.signals.hovered.emit("r1", False)
    assert first.label.isHidden()


def test_a_model_is_shown_by_its_title() -> None:
    answered = of(turn("r1", "q", "a", model="local"))
    shown = state_line(answered, CHAT_EN, is_online=True, titles={"local": "SmolLM2 135M"})
    assert shown.text.startswith("SmolLM2 135M · ")
