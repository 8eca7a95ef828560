"""What a person does with the app, from the window to a real gateway and back."""

import asyncio
import json
import math
from pathlib import Path

import pytest
from msgspec.structs import replace
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QLabel, QLineEdit

from answerback.core.budget import Budget, Period, Unit
from answerback_desktop.engine.events import ConnectionStatus
from answerback_desktop.engine.export import ExportFormat
from answerback_desktop.records import TurnStatus
from answerback_desktop.settings import Language, Theme
from answerback_desktop.texts import texts_of
from answerback_desktop.ui.chat.footer import FooterView
from answerback_desktop.ui.theme import Scheme
from answerback_desktop.ui.window.connection import ConnectionDetails
from answerback_desktop.ui.window.conversation_model import Role
from answerback_desktop.ui.window.welcome import Screen
from answerback_desktop.viewmodels.connection import local_time
from budgeted import give
from gateway_thread import GatewayThread
from wall import set_clock


def test_three_conversations_stream_at_once_each_in_its_place(open_app, gateway):
    person = open_app(url=gateway.url)
    person.online()
    asked = {name: person.ask_again(name) for name in ("red", "green", "blue")}
    for name in asked:
        gateway.say(name, f"{name} begins, ")
    person.until(lambda: all(conversation.is_streaming for conversation in asked.values()))
    rows = person.window.sidebar.list.model()
    assert [rows.index(row, 0).data(Role.NOTE) for row in range(3)] == ["Answering…"] * 3
    for name in asked:
        gateway.end(name, f"{name} ends")
    person.until(lambda: person.model.pending == 0)
    for name, conversation in asked.items():
        person.window.open_conversation(conversation.conversation_id)
        person.until(lambda c=conversation, n=name: person.turn(c, n) is not None)
        assert person.turn(conversation, name).answer == f"{name} begins, {name} ends"


def test_answers_elsewhere_are_marked_unread_until_they_are_looked_at(open_app, gateway):
    person = open_app(url=gateway.url)
    person.online()
    first = person.ask_again("first")
    person.ask_again("second")
    gateway.end("first", "1")
    person.until(lambda: first.unread == 1)
    row = person.titles().index("first")
    rows = person.window.sidebar.list.model()
    assert rows.index(row, 0).data(Role.UNREAD) == 1
    assert "1 new" in rows.index(row, 0).data(Qt.ItemDataRole.AccessibleTextRole)
    person.until(lambda: person.window.windowTitle() == "(1) Answerback")
    person.window.open_conversation(first.conversation_id)
    person.until(lambda: person.window.windowTitle() == "Answerback")
    gateway.end("second", "2")


@pytest.mark.parametrize(
    ("language", "left"),
    [
        (Language.ENGLISH, "17,480 tokens of 17,480 tokens left, until 20"),
        (Language.KOREAN, "토큰 17,480개 중 토큰 17,480개 남음, 20"),
    ],
)
def test_what_is_left_of_a_budget_and_when_it_opens(open_app, tmp_path, monkeypatch, language, left):
    clock = set_clock(monkeypatch)
    asyncio.run(give(tmp_path / "gateway", "ada", Budget(17_480, Unit.TOKENS, Period.MONTH)))
    texts = texts_of(language, system_locale="")
    with GatewayThread(tmp_path / "gateway") as gateway:
        person = open_app(url=gateway.url, clock=clock, language=language)
        header = person.window.header
        person.until(lambda: left in header.model_button.toolTip())
        turn = None
        while turn is None or turn.record.failure is None:
            gateway.end(text := "?" * (40 + len(person.titles())), "1")
            conversation = person.ask_again(text)
            turn = person.turn(conversation, text)
            person.until(lambda turn=turn: turn.status.is_over)
        header.indicator.click()
        details = person.window.findChild(ConnectionDetails)
        rows = [label.text() for label in details.findChildren(QLabel) if label.isVisibleTo(details)]
        assert texts.status.budget in rows
        details.close()
        footer = next(view for view in person.window.chat.transcript.views if isinstance(view, FooterView))
        person.until(footer.retry_button.isVisible)
        assert local_time(turn.record.failure.opens_at_ms) in footer.label.text()
        assert footer.retry_button.text() == texts.chat.retry_in_minutes.format(minutes=math.ceil(turn.retry_in_s / 60))


def test_a_cut_network_is_shown_and_what_was_typed_waits_and_goes_on(open_app, gateway):
    person = open_app(url=gateway.url)
    person.online()
    conversation = person.ask_again("story")
    gateway.say("story", "Once upon ")
    person.until(lambda: person.turn(conversation, "story").answer == "Once upon ")
    gateway.cut()
    person.until(lambda: person.model.connection.status is ConnectionStatus.OFFLINE)
    person.until(lambda: "Offline" in person.window.header.indicator.text())
    waiting = person.ask_again("while offline")
    assert person.turn(waiting, "while offline").status is TurnStatus.OUTBOX
    gateway.say("story", "a time")
    gateway.repair()
    person.until(lambda: "Connected" in person.window.header.indicator.text())
    gateway.end("story", ".")
    gateway.end("while offline", "here")
    person.until(lambda: person.model.pending == 0)
    assert person.turn(waiting, "while offline").answer == "here"
    assert person.turn(conversation, "story").answer == "Once upon a time."


def test_closed_in_mid_answer_and_opened_again(open_app, gateway):
    person = open_app(url=gateway.url)
    person.online()
    conversation = person.ask_again("long one")
    gateway.say("long one", "It begins ")
    person.until(lambda: person.turn(conversation, "long one").answer == "It begins ")
    person.leave()
    gateway.end("long one", "and ends.")
    again = open_app()
    again.until(lambda: again.titles() == ["long one"])
    turn = lambda: again.turn(again.model.current, "long one")  # noqa: E731
    again.until(lambda: turn() is not None and turn().status is TurnStatus.COMPLETED)
    assert turn().answer == "It begins and ends."


def test_two_apps_of_one_user_share_the_history_and_two_users_do_not(open_app, gateway):
    one, two = open_app("one", url=gateway.url), open_app("two", url=gateway.url)
    other = open_app("other", url=gateway.url, user="bob")
    for person in (one, two, other):
        person.online()
    conversation = one.ask_again("shared")
    gateway.end("shared", "with me")
    one.until(lambda: conversation.pending == 0)
    two.app.engine.refresh()  # what the window does when it gets the focus
    two.until(lambda: "shared" in two.titles())
    mine = other.ask_again("mine")
    gateway.end("mine", "alone")
    other.until(lambda: mine.pending == 0)
    assert other.titles() == ["mine"]
    assert "mine" not in one.titles()


def test_delete_is_at_once_and_can_be_undone(open_app, gateway):
    person = open_app(url=gateway.url)
    person.online()
    kept, gone = person.ask_again("kept"), person.ask_again("gone")
    for name in ("kept", "gone"):
        gateway.end(name, "ok")
    person.until(lambda: person.model.pending == 0)
    person.window.delete_conversation(gone)
    person.until(lambda: person.titles() == ["kept"])
    assert person.model.current is kept
    assert person.toasts() == ["“gone” was deleted."]
    person.window.toasts.toasts[0].act()
    person.until(lambda: sorted(person.titles()) == ["gone", "kept"])


def test_search_finds_text_and_opens_the_place(open_app, gateway):
    person = open_app(url=gateway.url)
    person.online()
    whale = person.ask_again("Which animal is the largest?")
    gateway.end("Which animal is the largest?", "The blue whale 🐋 is.")
    person.until(lambda: whale.pending == 0)
    person.ask_again("And the smallest?")
    gateway.end("And the smallest?", "Hard to say.")
    sidebar = person.window.sidebar
    sidebar.search_box.setText("BLUE WHALE")
    person.until(lambda: sidebar.results.model().rowCount() == 1)
    sidebar.results.activated.emit(sidebar.results.model().index(0, 0))
    assert person.model.current is whale
    sidebar.search_box.setText("nothing like this")
    person.until(lambda: not sidebar.results.isVisible() and sidebar._empty.isVisible())
    sidebar.clear_search()
    assert sidebar.list.isVisible()


def test_rename_in_the_list(open_app, gateway, qtbot):
    person = open_app(url=gateway.url)
    person.online()
    conversation = person.ask_again("old name")
    gateway.end("old name", "ok")
    person.until(lambda: conversation.pending == 0)
    person.window.sidebar.rename(conversation.conversation_id)
    editor = person.window.sidebar.list.findChild(QLineEdit)
    assert editor.text() == "old name"
    editor.setText("새 이름  ✨")
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    person.until(lambda: person.titles() == ["새 이름 ✨"])
    person.until(lambda: person.window.header.title.text() == "새 이름 ✨")


def test_export_writes_what_was_said(open_app, gateway, tmp_path: Path):
    person = open_app(url=gateway.url)
    person.online()
    conversation = person.ask_again("Say **hi**")
    gateway.end("Say **hi**", "hi, 안녕")
    person.until(lambda: conversation.pending == 0)
    texts = person.window._appearance.texts
    for form, name in ((ExportFormat.MARKDOWN, "chat.md"), (ExportFormat.JSON, "chat.json")):
        person.window.exporter.dialog = None
        conversation.export(form)
        person.until(lambda: person.window.exporter.dialog is not None)
        person.window.exporter.dialog.reject()
        person.window.exporter.write(tmp_path / name, person.model.exported.text.encode(), "{file}", texts)
    assert "hi, 안녕" in (tmp_path / "chat.md").read_text(encoding="utf-8")
    assert "hi, 안녕" in json.dumps(json.loads((tmp_path / "chat.json").read_text("utf-8")), ensure_ascii=False)
    person.window.exporter.write(tmp_path / "no such folder" / "x.md", b"x", "{file}", texts)
    assert person.toasts()[-1].startswith("The file could not be written.")


def test_settings_are_checked_beside_the_field_then_hold(open_app, gateway):
    person = open_app(url=gateway.url)
    person.online()
    person.window.show_settings()
    dialog = person.window.dialogs.settings
    dialog.server.url.setText("ftp://no")
    assert not dialog.save_button.isEnabled()
    complaint = dialog.server._complaints
    assert [label.isVisibleTo(dialog) for _, label in complaint.values()].count(True) == 1
    dialog.server.url.setText(gateway.url)
    assert dialog.save_button.isEnabled()
    dialog.answers.system.setPlainText("Be brief.")
    dialog.appearance.theme.setCurrentIndex(list(Theme).index(Theme.DARK))
    assert person.window._appearance.theme.scheme is Scheme.DARK
    dialog.save_button.click()
    person.until(lambda: person.model.settings.system == "Be brief.")
    person.ask_again("hello")
    gateway.end("hello", "hi")
    person.until(lambda: person.model.pending == 0)
    assert gateway.model.prompts[-1].system == "Be brief."


def test_a_cancelled_dialog_leaves_the_theme_as_it_was(open_app, gateway):
    person = open_app(url=gateway.url, theme=Theme.LIGHT)
    person.window.show_settings()
    dialog = person.window.dialogs.settings
    dialog.appearance.theme.setCurrentIndex(list(Theme).index(Theme.DARK))
    assert person.window._appearance.theme.scheme is Scheme.DARK
    dialog.reject()
    assert person.window._appearance.theme.scheme is Scheme.LIGHT
    assert person.window.dialogs.settings is None


def test_the_language_changes_at_once_and_everywhere(open_app, gateway):
    person = open_app(url=gateway.url)
    person.online()
    person.window.show_settings()
    dialog = person.window.dialogs.settings
    dialog.appearance.language.setCurrentIndex(list(Language).index(Language.KOREAN))
    dialog.save_button.click()
    person.until(lambda: person.window.sidebar.new_button.text().strip() == "새 대화")
    person.until(lambda: "연결됨" in person.window.header.indicator.text())
    english = [
        button.text()
        for button in person.window.findChildren(QAbstractButton)
        if button.isVisible() and button.text().isascii() and button.text().strip() not in {"", "dictated"}
    ]
    assert english == []
    assert "물어" in person.window.chat.composer.box.placeholderText()


def test_the_first_run_offers_a_gateway_or_a_server(open_app, gateway, unused_port):
    person = open_app(url=f"ws://127.0.0.1:{unused_port}")
    person.until(lambda: person.window.welcome.shown is Screen.OFFER)
    assert person.window.pages.currentWidget() is person.window.welcome
    person.window.welcome.url_box.setText("no sense")
    person.window.welcome.connect_to_server()
    assert "an address such as" in person.window.welcome._problem.text()
    elsewhere = f"ws://localhost:{unused_port}"
    person.window.welcome.url_box.setText(elsewhere)
    person.window.welcome.connect_to_server()
    shown = lambda: [label.text().replace("\u2060", "") for label in person.window.welcome.findChildren(QLabel)]  # noqa: E731
    person.until(lambda: any(elsewhere in text for text in shown()))
    person.window.welcome.url_box.setText(gateway.url)
    person.window.welcome.connect_to_server()
    person.online()
    person.until(lambda: person.window.pages.currentWidget() is person.window.chat)


def test_stop_and_drafts(open_app, gateway):
    person = open_app(url=gateway.url)
    person.online()
    conversation = person.ask_again("endless")
    gateway.say("endless", "and so on ")
    person.until(lambda: conversation.is_streaming)
    person.write("what I was about to ask")
    other = person.ask_again("other")
    gateway.end("other", "ok")
    person.until(lambda: other.pending == 0)
    person.window.open_conversation(conversation.conversation_id)
    assert person.window.chat.composer.box.toPlainText() == "what I was about to ask"
    QTest.keyClick(person.window.chat.composer.box, Qt.Key.Key_Escape)
    person.until(lambda: conversation.pending == 0)
    rows = person.window.sidebar.list.model()
    note = rows.index(person.titles().index("endless"), 0).data(Role.NOTE)
    assert note == "Draft: what I was about to ask"


def test_a_narrow_window_shows_the_list_or_the_chat(open_app, gateway):
    person = open_app(url=gateway.url)
    window = person.window
    window.resize(1000, 700)
    assert window.sidebar.isVisible()
    window.resize(480, 700)
    person.until(lambda: not window.sidebar.isVisible())
    window.toggle_sidebar()
    assert window.sidebar.isVisible()
    assert not window.right.isVisible()
    window.new_conversation()
    assert window.right.isVisible()
    window.resize(1000, 700)
    person.until(lambda: window.sidebar.isVisible() and window.right.isVisible())


def test_the_first_run_starts_a_gateway_of_its_own(open_app, unused_port):
    person = open_app(url=f"ws://127.0.0.1:{unused_port}")
    person.until(lambda: person.window.welcome.shown is Screen.OFFER)
    start = next(
        button
        for button in person.window.welcome.findChildren(QAbstractButton)
        if button.text() == "Start the gateway" and button.isVisible()
    )
    start.click()
    person.until(lambda: person.window.welcome.shown is Screen.STARTING)
    person.online()
    person.until(lambda: person.window.pages.currentWidget() is person.window.chat)
    assert person.window.focusWidget() is person.window.chat.composer.box
    conversation = person.ask("hello there")
    person.until(lambda: conversation.pending == 0)
    assert person.turn(conversation, "hello there").answer == "hello there"


def test_qts_own_menus_speak_the_language_of_the_app(open_app, gateway):
    def words(person) -> str:
        menu = person.window.chat.composer.box.createStandardContextMenu()
        return " ".join(action.text() for action in menu.actions())

    person = open_app(url=gateway.url, language=Language.KOREAN)
    assert "복사" in words(person)
    person.model.change_settings(replace(person.model.settings, language=Language.ENGLISH))
    person.until(lambda: "Copy" in words(person))
