"""What one window asks, in the window of another device of the same person."""

import pytest

from answerback_desktop.engine import sync
from answerback_desktop.records import TurnStatus
from answerback_desktop.ui.chat.footer import FooterView

LONG = "\n\n".join(f"paragraph {number}" for number in range(60))


@pytest.fixture
def both(open_app, gateway):
    """Two windows in which one conversation is open, with a long answer."""
    one, two = open_app("one", url=gateway.url), open_app("two", url=gateway.url)
    one.online()
    two.online()
    here = one.ask_again("first")
    gateway.end("first", LONG)
    two.until(lambda: "first" in two.titles())
    two.window.open_conversation(here.conversation_id)
    there = two.model.current
    two.until(lambda: two.turn(there, "first") is not None and two.turn(there, "first").answer == LONG)
    return one, two, there


def footer_of(person, turn):
    views = person.window.chat.transcript.views
    return next(view for view in views if isinstance(view, FooterView) and view.turn is turn)


def asked(one, two, there, gateway, *, question="second", text="so far"):
    """Asked in the first window, and begun to be answered in the other."""
    one.ask(question)
    gateway.say(question, text)
    two.until(lambda: (turn := two.turn(there, question)) is not None and turn.answer == text)
    return two.turn(there, question)


def test_it_says_where_it_was_asked_and_can_be_stopped(both, gateway):
    one, two, there = both
    turn = asked(one, two, there, gateway)
    two.until(lambda: footer_of(two, turn).label.text() == "Asked on another device. Answering…")
    footer_of(two, turn).stop_button.click()
    two.until(lambda: turn.status is TurnStatus.CANCELLED)
    one.until(lambda: one.turn(one.model.current, "second").status is TurnStatus.CANCELLED)
    two.until(lambda: footer_of(two, turn).label.text() == "Stopped")


def test_who_reads_further_up_goes_on_reading_there(both, gateway):
    one, two, there = both
    bar = two.window.chat.transcript.verticalScrollBar()
    two.until(lambda: bar.maximum() > 0)
    bar.setValue(bar.maximum() // 3)
    at = bar.value()
    two.write("half a question")
    turn = asked(one, two, there, gateway)
    gateway.end("second", LONG)
    two.until(lambda: turn.status is TurnStatus.COMPLETED and not turn.record.is_elsewhere)
    assert bar.value() == at
    assert two.window.chat.composer.box.toPlainText() == "half a question"


def test_a_conversation_deleted_in_the_other_window_comes_back_with_undo(both, monkeypatch):
    monkeypatch.setattr(sync, "UNDO_S", 0.0)
    one, two, _ = both
    one.window.delete_conversation(one.model.current)
    two.until(lambda: two.toasts() == ["“first” was deleted on another device."])
    (toast,) = two.window.toasts.toasts
    assert (toast.action, toast.lasts) == ("Undo", True)
    assert "first" not in two.titles()
    toast.act()
    two.until(lambda: "first" in two.titles())
