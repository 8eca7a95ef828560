"""Keys, notifications, the tray, what is kept: how the app behaves on a desktop."""

import dataclasses

import pytest
from PySide6.QtCore import QPoint, QSettings, Qt
from PySide6.QtGui import QGuiApplication, QInputMethodEvent, QKeySequence
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QApplication,
    QComboBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QToolButton,
)

from answerback_desktop.engine.events import (
    AccountOpened,
    ConnectionChanged,
    ConnectionReason,
    ConnectionStatus,
    ConversationsChanged,
    GatewayChanged,
    GatewayStatus,
    NoticeCode,
    NoticeRaised,
    SettingsChanged,
    SignInStatus,
    TurnChanged,
    TurnsLoaded,
)
from answerback_desktop.records import (
    Account,
    Conversation,
    Failure,
    FailureCode,
    KeptHistory,
    Traits,
    Turn,
    TurnStatus,
)
from answerback_desktop.settings import AuthMode, Language, Settings
from answerback_desktop.signin.provider import SignInFailure
from answerback_desktop.texts import texts_of
from answerback_desktop.ui.chat.prose import ProseView
from answerback_desktop.ui.chat.question import QuestionView
from answerback_desktop.ui.dialogs import ConversationDialog
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.shortcuts import GROUPS, KEYS
from answerback_desktop.ui.theme import Theme
from answerback_desktop.ui.window.main_window import MainWindow
from answerback_desktop.ui.window.notifications import Toast, Tray, notice_text
from answerback_desktop.viewmodels import AppViewModel
from commands import NotedCommands

TEXTS = texts_of(Language.ENGLISH, system_locale="en-GB")


class NotedTray(Tray):
    """A tray that is there, and notes what it is told."""

    is_there = True

    def __init__(self) -> None:
        super().__init__(TEXTS)
        self.reported: list[tuple[str, str]] = []

    def notify(self, text: str, conversation_id: str) -> None:
        self.reported.append((text, conversation_id))


class SessionController:
    """A window whose engine only notes."""

    def __init__(self, tmp_path, *titles: str, settings: Settings | None = None) -> None:
        self.commands = NotedCommands()
        self.model = AppViewModel(self.commands)
        self.tray = NotedTray()
        self.state_path = str(tmp_path / "window.ini")
        self.settings = settings or Settings(language=Language.ENGLISH)
        first = self.model.apply([SettingsChanged(self.settings), self.account(titles)])
        self.window = MainWindow(
            self.model,
            TEXTS,
            Theme(),
            state=QSettings(self.state_path, QSettings.Format.IniFormat),
            tray=self.tray,
            log_path=tmp_path / "desktop.log",
        )
        self.window.apply(first)
        self.window.show()
        self.window.activateWindow()

    @staticmethod
    def account(titles: tuple[str, ...]) -> AccountOpened:
        conversations = tuple(
            Conversation(conversation_id=title, title=title, created_at_ms=0, updated_at_ms=1000 - place)
            for place, title in enumerate(titles)
        )
        account = Account(key="k", server_url="ws://127.0.0.1:8765", user="ada")
        return AccountOpened(account=account, conversations=conversations, pending=(), drafts={})

    def feed(self, *events) -> None:
        self.window.apply(self.model.apply(events))

    def press(self, shortcut: str, place: int = 0) -> None:
        keys = QKeySequence(KEYS[shortcut][place])[0]
        QTest.keyClick(self.window, keys.key(), keys.keyboardModifiers())


@pytest.fixture
def session_controller(qapp, theme, tmp_path, qtbot):
    made = []

    def make(*titles: str, settings: Settings | None = None) -> SessionController:
        one = SessionController(tmp_path, *titles, settings=settings)
        qtbot.addWidget(one.window)
        qtbot.waitUntil(one.window.isActiveWindow, timeout=10_000)
        made.append(one)
        return one

    yield make
    for one in made:
        one.window.hide()


def turn(status: TurnStatus, *, conversation: str = "b", failure: Failure | None = None) -> Turn:
    return Turn(
        request_id="r", conversation_id=conversation, question="q", asked_at_ms=1, status=status, failure=failure
    )


def test_the_keyboard_reaches_everything(session_controller):
    one = session_controller("a", "b", "c")
    assert one.model.current.title == "a"
    one.press("next")
    assert one.model.current.title == "b"
    one.press("next", 1)
    one.press("next")
    assert one.model.current.title == "a"
    one.press("previous")
    assert one.model.current.title == "c"
    one.press("new")
    assert one.model.current.record is None
    one.press("search")
    assert one.window.sidebar.search_box.hasFocus()
    one.press("sidebar")
    assert not one.window.sidebar.isVisible()
    one.press("sidebar")
    assert one.window.sidebar.isVisible()
    one.press("larger")
    assert one.commands.of("change_settings")[-1][0].font_size == Settings().font_size + 1


@pytest.mark.parametrize("width", [700, 1100, 1700])
def test_title_answers_and_box_begin_at_one_edge(session_controller, qtbot, width):
    one = session_controller("b")
    window = one.window
    window.resize(width, 700)
    told = dataclasses.replace(turn(TurnStatus.COMPLETED), answer="An answer.")
    one.feed(TurnsLoaded(conversation_id="b", turns=(told,), has_more=False))
    window.chat.flush()
    prose = next(view for view in window.chat.transcript.views if isinstance(view, ProseView))

    def edges() -> set[int]:
        return {part.mapTo(window, QPoint(0, 0)).x() for part in (window.header.title, prose, window.chat.composer)}

    qtbot.waitUntil(lambda: len(edges()) == 1)


def test_the_keyboard_reaches_the_box_the_answers_and_the_questions(session_controller):
    one = session_controller("b", "c")
    told = [
        Turn(
            request_id=f"r{number}",
            conversation_id="b",
            question=f"q{number}",
            asked_at_ms=number,
            status=TurnStatus.COMPLETED,
            answer="word " * 400 + str(number),
        )
        for number in range(3)
    ]
    one.feed(TurnsLoaded(conversation_id="b", turns=tuple(told), has_more=False))
    one.window.sidebar.list.setFocus()
    one.press("composer")
    assert one.window.chat.composer.box.hasFocus()
    one.press("copy_answer")
    assert QGuiApplication.clipboard().text().endswith("word 2")
    assert [toast.text for toast in one.window.toasts.toasts] == [TEXTS.window.copied]
    bar = one.window.chat.transcript.verticalScrollBar()
    places = []
    for shortcut in (*["question_before"] * 4, *["question_after"] * 3):
        one.press(shortcut)
        QApplication.processEvents()
        places.append(bar.value())
    assert places[0] > places[1] > places[2] == places[3] < places[4] < places[5] <= places[6] == bar.maximum()


def test_who_chooses_a_conversation_by_mouse_types_next(session_controller):
    one = session_controller("a", "b")
    rows = one.window.sidebar.list
    rows.setFocus()
    place = rows.visualRect(rows.model().index(1, 0)).center()
    QTest.mouseClick(rows.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert one.model.current.title == "b"
    assert one.window.chat.composer.box.hasFocus()
    rows.setFocus()
    QTest.keyClick(rows, Qt.Key.Key_Up)
    assert rows.hasFocus()


@pytest.mark.parametrize("size", [11, 21])
@pytest.mark.parametrize("language", [Language.ENGLISH, Language.KOREAN])
def test_no_button_of_the_window_is_cut(session_controller, size: int, language: Language):
    one = session_controller("a")
    one.window.set_texts(texts_of(language, system_locale="en"))
    one.window.set_theme(Theme(body_px=round(size * 96 / 72)))
    one.window.resize(1100, 800)
    QApplication.processEvents()
    for button in one.window.findChildren(QAbstractButton):
        if button.isVisible() and button.text() and isinstance(button, QPushButton | QToolButton):
            assert button.width() >= button.sizeHint().width(), button.text()


def test_being_offline_is_told_once(session_controller):
    one = session_controller("a")
    why = ConnectionReason.CERTIFICATE
    one.feed(ConnectionChanged(status=ConnectionStatus.OFFLINE, reason=why, retry_at_ms=1, detail="it is not trusted"))
    told = [label.text() for label in one.window.findChildren(QLabel) if label.isVisible()]
    assert [text for text in told if TEXTS.status.reasons[why] in text] == [one.window.chat.banner.text.text()]
    assert one.window.header.indicator.text().strip() == TEXTS.status.offline
    assert not one.window.banner.isVisible()
    one.feed(GatewayChanged(status=GatewayStatus.OFFERED))
    assert one.window.banner.isVisible()
    assert not one.window.chat.banner.isVisible()


def test_a_token_that_is_refused_is_told_as_such(session_controller):
    one = session_controller("a", settings=Settings(language=Language.ENGLISH, auth=AuthMode.TOKEN))
    refused = ConnectionReason.TOKEN_REFUSED
    one.feed(ConnectionChanged(status=ConnectionStatus.SIGNED_OUT, reason=refused))
    assert one.window.banner.text.text() == TEXTS.status.welcome_refused_title
    one.window.banner.button.click()
    assert one.window.dialogs.settings is not None


def test_only_what_was_not_sent_is_counted_as_waiting(session_controller):
    one = session_controller("b")
    one.feed(TurnsLoaded(conversation_id="b", turns=(), has_more=False), TurnChanged(turn(TurnStatus.STREAMING)))
    assert (one.model.pending, one.model.unsent) == (1, 0)


def test_a_notice_that_must_not_be_missed_stays(session_controller):
    one = session_controller("a")
    facts = {"version": "1", "least": "2"}
    one.feed(NoticeRaised(code=NoticeCode.UPDATE_NEEDED, facts=facts), NoticeRaised(code=NoticeCode.NO_KEYRING))
    assert [toast.lasts for toast in one.window.toasts.toasts] == [True, False]


def test_a_narrow_window_gives_the_title_the_place_of_a_choice_that_is_none(session_controller):
    one = session_controller("a")
    chip = one.window.header.model_button
    one.window.resize(420, 700)
    for models, is_shown in ((("one",), False), (("one", "two"), True)):
        one.feed(ConnectionChanged(status=ConnectionStatus.ONLINE, models=models))
        assert chip.isVisible() is is_shown


def test_large_letters_give_the_title_more_room(session_controller):
    one = session_controller("a")
    one.window.resize(1120, 700)
    one.feed(ConnectionChanged(status=ConnectionStatus.ONLINE, models=("one",)))
    assert one.window.header.model_button.isVisible()
    one.window.set_theme(Theme(body_px=28))
    assert not one.window.header.model_button.isVisible()


def test_settings_and_help_open_by_key_and_show_every_shortcut(session_controller, qapp: QApplication):
    one = session_controller("a")
    one.press("settings")
    assert one.window.dialogs.settings is not None
    one.window.dialogs.settings.reject()
    one.press("help")
    dialog = qapp.activeModalWidget()
    shown = {label.text() for label in dialog.findChildren(QLabel)}
    assert {
        QKeySequence(KEYS[shortcut][0]).toString(QKeySequence.SequenceFormat.NativeText) for shortcut in KEYS
    } <= shown
    words = texts_of(Language.KOREAN, system_locale="en").window
    assert (words.shortcuts.keys(), words.shortcut_groups.keys()) == (KEYS.keys(), GROUPS.keys())
    dialog.reject()


def test_escape_stops_what_is_answered_only_where_questions_are_typed(session_controller):
    one = session_controller("b")
    one.feed(TurnsLoaded(conversation_id="b", turns=(), has_more=False), TurnChanged(turn(TurnStatus.STREAMING)))
    window = one.window
    for place in (window, window.sidebar.search_box, window.sidebar.list, window.chat.transcript, window.header):
        place.setFocus()
        QTest.keyClick(place, Qt.Key.Key_Escape)
    composing = QInputMethodEvent("다", [])
    QApplication.sendEvent(window.chat.composer.box, composing)
    QTest.keyClick(window.chat.composer.box, Qt.Key.Key_Escape)
    assert one.commands.of("stop") == []
    QApplication.sendEvent(window.chat.composer.box, QInputMethodEvent())
    QTest.keyClick(window.chat.composer.box, Qt.Key.Key_Escape)
    assert one.commands.of("stop") == [("r",)]


def test_what_is_composed_stays_where_it_was_typed(session_controller):
    """Also if the input method says so only after the switch."""
    one = session_controller("a", "b")
    box = one.window.chat.composer.box
    box.setPlainText("반갑")
    box.moveCursor(box.textCursor().MoveOperation.End)
    QApplication.sendEvent(box, QInputMethodEvent("다", []))
    one.window.open_conversation("b")
    assert (one.model.conversation("a").draft, one.model.conversation("b").draft) == ("반갑다", "")
    late = QInputMethodEvent("", [])
    late.setCommitString("다")
    QApplication.sendEvent(box, late)
    assert (box.toPlainText(), one.model.conversation("b").draft) == ("", "")
    QApplication.sendEvent(box, late)
    assert box.toPlainText() == "다", "the next one is typed"


def test_the_cursor_is_in_the_box_after_a_conversation_was_chosen_by_mouse(session_controller):
    one = session_controller("a", "b")
    rows = one.window.sidebar.list
    rows.setFocus()
    QTest.keyClick(rows, Qt.Key.Key_Down)
    assert one.model.current.title == "b"
    assert rows.hasFocus(), "the arrows go on"
    QTest.mouseClick(rows.viewport(), Qt.MouseButton.LeftButton, pos=rows.visualRect(rows.model().index(0, 0)).center())
    assert one.model.current.title == "a"
    assert one.window.chat.composer.box.hasFocus()


def test_an_edit_survives_a_switch_and_escape(session_controller):
    one = session_controller("b", "c")
    done = Turn(
        request_id="r", conversation_id="b", question="Old?", asked_at_ms=1, status=TurnStatus.COMPLETED, answer="a"
    )
    one.feed(TurnsLoaded(conversation_id="b", turns=(done,), has_more=False))
    view = lambda: next(one for one in one_window.chat.transcript.views if isinstance(one, QuestionView))  # noqa: E731
    one_window = one.window
    view().start_edit()
    view().editor.setPlainText("Old and new?")
    one.window.open_conversation("c")
    one.window.open_conversation("b")
    one.feed(TurnsLoaded(conversation_id="b", turns=(done,), has_more=False))
    assert view().editor.toPlainText() == "Old and new?"
    QTest.keyClick(view().editor, Qt.Key.Key_Escape)
    assert view().editor is None
    assert view().edit_button.toolTip() == TEXTS.chat.unsent_edit
    view().edit_button.click()
    assert view().editor.toPlainText() == "Old and new?"
    assert one.commands.of("save_edit")[-1] == ("b", "r", "Old and new?")
    cancel = next(part for part in view().findChildren(QAbstractButton) if part.text() == TEXTS.chat.cancel)
    cancel.click()
    assert one.commands.of("save_edit")[-1] == ("b", "r", "")
    view().edit_button.click()
    assert view().editor.toPlainText() == "Old?"


def test_delete_and_rename_by_key_in_the_list(session_controller):
    one = session_controller("a", "b")
    one.window.sidebar.list.setFocus()
    QTest.keyClick(one.window.sidebar.list, Qt.Key.Key_F2)
    assert one.window.sidebar.list.state() == QAbstractItemView.State.EditingState
    editor = one.window.sidebar.list.findChild(QLineEdit)
    QTest.keyClick(editor, Qt.Key.Key_Escape)
    QTest.keyClick(one.window.sidebar.list, Qt.Key.Key_Delete)
    assert one.commands.of("delete") == [("a",)]
    assert one.model.current.title == "b"


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (None, "Answer to “b”"),
        (Failure(code=FailureCode.TIMEOUT, is_retryable=True), "No answer to “b”"),
    ],
)
def test_an_answer_that_ends_elsewhere_is_notified_by_title_only(session_controller, monkeypatch, failure, text):
    one = session_controller("a", "b")
    one.window.open_conversation("b")
    one.feed(TurnsLoaded(conversation_id="b", turns=(), has_more=False), TurnChanged(turn(TurnStatus.STREAMING)))
    monkeypatch.setattr(one.window, "isActiveWindow", lambda: False)
    status = TurnStatus.COMPLETED if failure is None else TurnStatus.FAILED
    one.feed(TurnChanged(turn(status, failure=failure)))
    assert one.tray.reported == [(text, "b")]
    one.window.open_conversation("a")
    one.tray._notified = "b"
    one.tray._message_clicked()
    assert one.model.current.title == "b"


def test_no_notification_in_front_of_a_person_nor_against_the_settings(session_controller, monkeypatch):
    quiet = session_controller("b", settings=Settings(language=Language.ENGLISH, notifications=False))
    monkeypatch.setattr(quiet.window, "isActiveWindow", lambda: False)
    there = session_controller("b")
    for one in (quiet, there):
        if one is there:
            monkeypatch.setattr(one.window, "isActiveWindow", lambda: True)
        one.feed(TurnsLoaded(conversation_id="b", turns=(), has_more=False), TurnChanged(turn(TurnStatus.STREAMING)))
        one.feed(TurnChanged(turn(TurnStatus.COMPLETED)))
        assert one.tray.reported == []


@pytest.mark.parametrize("stays", [True, False])
def test_closing_goes_to_the_tray_or_quits_as_the_settings_say(session_controller, stays):
    one = session_controller("a", settings=Settings(language=Language.ENGLISH, tray=stays))
    wanted = []
    one.window.quit_wanted.connect(lambda: wanted.append(1))
    one.window.close()
    assert (one.window.isVisible(), len(wanted)) == ((False, 0) if stays else (True, 1))
    assert len(one.tray.reported) == (1 if stays else 0)
    if stays:
        one.tray.open_wanted.emit("")
        assert one.window.isVisible()
        one.window.close()
        assert len(one.tray.reported) == 1, "it is said once"


def test_the_tray_counts_what_is_unread(session_controller):
    one = session_controller("a")
    one.tray.set_unread(3)
    assert one.tray._icon.toolTip() == "Answerback: 3 new"
    one.tray.set_unread(0)
    assert one.tray._icon.toolTip() == "Answerback"


def test_place_size_and_the_open_conversation_are_kept(session_controller):
    one = session_controller("a", "b")
    one.window.resize(741, 655)
    one.window.open_conversation("b")
    one.window.toggle_sidebar()
    one.window.keep_state()
    again = session_controller("a", "b")
    assert (again.window.width(), again.window.height()) == (741, 655)
    assert again.model.current.title == "b"
    assert not again.window.sidebar.isVisible()


def test_every_control_has_a_name_for_a_screen_reader(session_controller):
    one = session_controller("a")
    one.window.show_settings()
    one.window.toasts.show_toast(Toast(text="Something", action="Undo", act=lambda: None))
    nameless = [
        type(widget).__name__
        for kind in (QAbstractButton, QLineEdit, QComboBox, QAbstractItemView)
        for widget in one.window.findChildren(kind)
        if widget.isVisible()
        and not (widget.accessibleName() or getattr(widget, "text", str)().strip())
        and widget.window() in (one.window, one.window.dialogs.settings)
        and "Private" not in type(widget).__name__
        and not isinstance(widget.parent(), QLineEdit)
    ]
    assert nameless == []
    one.window.dialogs.settings.reject()


def test_toasts_are_few_and_shown_once(session_controller, qtbot):
    one = session_controller("a")
    done = []
    for text in ("1", "2", "2", "3", "4"):
        one.window.toasts.show_toast(Toast(text=text, action="Undo", act=lambda text=text: done.append(text)))
    assert [toast.text for toast in one.window.toasts.toasts] == ["2", "3", "4"]
    button = next(b for b in one.window.toasts.findChildren(QAbstractButton) if b.isVisible() and b.text() == "Undo")
    button.click()
    assert done == ["2"]
    assert [toast.text for toast in one.window.toasts.toasts] == ["3", "4"]


def test_notices_are_sentences_with_their_facts():
    size = NoticeRaised(code=NoticeCode.MESSAGE_TOO_LARGE, facts={"size_bytes": 200, "limit_bytes": 100})
    assert "200 of 100 bytes" in notice_text(size, TEXTS)
    for failure in SignInFailure:
        raised = NoticeRaised(code=NoticeCode.SIGN_IN_FAILED, facts={"reason": failure.value})
        assert notice_text(raised, TEXTS) == TEXTS.status.sign_in_failures[failure]


def test_sign_in_is_offered_for_what_is_saved(session_controller):
    settings = Settings(
        language=Language.ENGLISH, auth=AuthMode.OIDC, oidc_issuer="https://id.example", oidc_client_id="app"
    )
    one = session_controller("a", settings=settings)
    one.window.show_settings()
    page = one.window.dialogs.settings.server
    page.sign_in_button.click()
    one.model.sign_in = type(one.model.sign_in)(status=SignInStatus.SIGNED_IN, user="ada")
    page.refresh_sign_in()
    assert page._sign_in_state.text() == "Signed in as ada"
    page.sign_in_button.click()
    assert [name for name, _ in one.commands.noted if name.startswith("sign_")] == ["sign_in", "sign_out"]
    page.auth.setCurrentIndex(list(AuthMode).index(AuthMode.NONE))
    assert page.user.isVisibleTo(page)
    assert not page.issuer.isVisibleTo(page)
    one.window.dialogs.settings.reject()


def test_another_server_is_told_with_two_ways(session_controller):
    one = session_controller()
    kept = KeptHistory(name="k.db", conversations=5, changed_at_ms=1, is_copy=False)
    notice = NoticeRaised(code=NoticeCode.OTHER_STORE, facts={"url": "ws://h", "count": 5})
    one.feed(dataclasses.replace(one.account(()), kept=(kept,)), notice)
    banner = one.window.banner
    assert "ws://h" in banner.text.text()
    assert [banner.button.text(), banner.second_button.text()] == [TEXTS.status.show_kept, TEXTS.status.go_on]
    banner.button.click()
    assert one.commands.of("open_kept") == [("k.db",)]
    banner.second_button.click()
    assert banner.isHidden()
    menu = one.window.sidebar.list_menu(one.window)
    assert TEXTS.window.kept in [action.text() for action in menu.actions()], "and there is always a way to them"


def test_kept_conversations_are_read_and_nothing_is_asked_in_them(session_controller):
    one = session_controller("a")
    first = one.account(("b",))
    one.feed(dataclasses.replace(first, account=dataclasses.replace(first.account, is_kept=True)))
    done = turn(TurnStatus.COMPLETED)
    one.feed(TurnsLoaded(conversation_id="b", turns=(dataclasses.replace(done, answer="a"),), has_more=False))
    window = one.window
    assert window.chat.composer.isHidden()
    view = next(view for view in window.chat.transcript.views if isinstance(view, QuestionView))
    assert view.edit_button.isHidden()
    view.start_edit()
    assert view.editor is None
    window.banner.button.click()
    assert one.commands.of("open_kept") == [(None,)]
    one.feed(one.account(("b",)))
    assert not window.chat.composer.isHidden()


def test_what_the_server_lost_is_asked_about(session_controller):
    one = session_controller("a", "b")
    lost = dataclasses.replace(one.model.conversation("a").record, is_missing=True)
    one.feed(ConversationsChanged(changed=(lost,)))
    assert one.window.banner.isVisible()
    one.window.banner.second_button.click()
    assert one.commands.of("settle_missing") == [(True,)]
    one.window.banner.button.click()
    assert one.commands.of("settle_missing")[-1] == (False,)
    one.feed(ConversationsChanged(changed=(dataclasses.replace(lost, is_missing=False),)))
    assert not one.window.banner.isVisible()


def test_what_a_conversation_has_of_its_own(session_controller):
    one = session_controller("a", settings=Settings(language=Language.ENGLISH, system="Of the settings."))
    dialog = ConversationDialog(
        one.model, one.model.conversation("a"), Appearance(theme=Theme(), texts=TEXTS), one.window
    )
    assert dialog.system.toPlainText() == "Of the settings."
    dialog.tags.setText("#work, 여행 , ,work")
    dialog.save_button.click()
    assert one.commands.of("set_traits")[-1] == ("a", Traits(tags=("work", "여행")))
    dialog.own_system.setChecked(True)
    dialog.system.setPlainText("")
    dialog.save_button.click()
    assert one.commands.of("set_traits")[-1][1].system == "", "none at all"
