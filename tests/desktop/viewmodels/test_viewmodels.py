"""Events in, what is shown out; what a person does out as commands. No engine, no clock."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.client import File
from answerback_desktop.engine.events import (
    AccountClosed,
    AccountOpened,
    ConnectionChanged,
    ConnectionReason,
    ConnectionStatus,
    ConversationsChanged,
    DraftReturned,
    EngineStopped,
    Exported,
    GatewayChanged,
    GatewayStatus,
    NoticeCode,
    NoticeRaised,
    RoundTripMeasured,
    SearchFound,
    SettingsChanged,
    SignInChanged,
    SignInStatus,
    TextAppended,
    TurnChanged,
    TurnsLoaded,
    TurnsRemoved,
)
from answerback_desktop.records import Account, Conversation, Failure, FailureCode, Turn, TurnStatus
from answerback_desktop.settings import Settings
from answerback_desktop.viewmodels import AppViewModel, Changes
from answerback_desktop.viewmodels import connection as connecting

ACCOUNT = Account(key="k", server_url="ws://h", user="ada")


class Commands:
    """Writes down what was asked of the engine."""

    def __init__(self):
        self.given = []

    def __getattr__(self, name):
        return lambda *args, **more: self.given.append((name, *args, *more.values()))

    def take(self):
        given, self.given = self.given, []
        return given


@pytest.fixture
def commands():
    return Commands()


@pytest.fixture
def app(commands):
    return AppViewModel(commands)


def record(name, updated_at_ms=1, **more):
    return Conversation(conversation_id=name, title=name, created_at_ms=0, updated_at_ms=updated_at_ms, **more)


def turn(name, conversation="c", at_ms=1, status=TurnStatus.COMPLETED, **more):
    return Turn(
        request_id=name, conversation_id=conversation, question=f"{name}?", asked_at_ms=at_ms, status=status, **more
    )


def opened(app, *records, pending=(), drafts=None):
    return app.apply([AccountOpened(account=ACCOUNT, conversations=records, pending=pending, drafts=drafts or {})])


def loaded(app, *turns, has_more=False, name="c"):
    app.open(name)
    return app.apply([TurnsLoaded(conversation_id=name, turns=turns, has_more=has_more)])


def text(offset, delta, name="a", attempt=1):
    return TextAppended(conversation_id="c", request_id=name, attempt=attempt, offset=offset, delta=delta)


def test_an_account_is_opened_with_its_list_its_pending_turns_and_drafts(app):
    changes = opened(
        app,
        record("old", 1),
        record("new", 2, unread=3),
        pending=[turn("p", "old", status=TurnStatus.STREAMING)],
        drafts={"old": "thought", "begun": "more"},
    )
    assert changes.everything
    assert [one.conversation_id for one in app.conversations] == ["begun", "new", "old"]
    assert [(one.is_streaming, one.has_draft, one.unread) for one in app.conversations] == [
        (False, True, 0),
        (False, False, 3),
        (True, True, 0),
    ]
    assert (app.unread, app.pending, app.current) == (3, 1, None)
    assert app.apply([AccountClosed()]).everything
    assert not app.conversations


def test_what_opening_asks_for(app, commands):
    opened(app, record("c"))
    app.open("c")
    assert commands.take() == [("open_conversation", "c"), ("show", "c", True)]
    assert app.current.is_loading
    changes = loaded(app, turn("b", at_ms=2), turn("a", at_ms=1), has_more=True)
    assert changes.messages == {"c"}
    assert [one.request_id for one in app.current.messages] == ["a", "b"]
    commands.take()
    app.current.load_more()
    app.current.load_more()
    assert commands.take() == [("load_more", "c", "a")]
    changes = app.apply([TurnsLoaded(conversation_id="c", turns=(turn("0", at_ms=0),), has_more=False)])
    assert changes == Changes(messages=frozenset({"c"}))
    app.current.load_more()
    assert commands.take() == []


def test_text_grows_and_only_that_is_reported(app):
    opened(app, record("c"))
    loaded(app, turn("a", status=TurnStatus.STREAMING, attempt=1, answer="One"))
    changes = app.apply([text(3, " two"), text(7, " three"), text(7, " three"), text(100, "gap")])
    assert changes == Changes(appended={"a"})
    one = app.current.turn("a")
    assert (one.answer, one.revision) == ("One two three", 0)


def test_another_attempt_is_another_text(app):
    opened(app, record("c"))
    streaming = turn("a", status=TurnStatus.STREAMING, attempt=1, answer="One")
    loaded(app, streaming)
    changes = app.apply(
        [text(3, "!"), TurnChanged(replace(streaming, attempt=2, answer="")), text(0, "Two", attempt=2)]
    )
    assert (changes.turns, changes.appended) == ({"a"}, set())
    one = app.current.turn("a")
    assert (one.answer, one.revision) == ("Two", 1)
    done = replace(streaming, attempt=2, answer="Two.", status=TurnStatus.COMPLETED)
    changes = app.apply([TurnChanged(done)])
    assert (one.answer, one.revision, changes.ended, changes.conversations) == ("Two.", 1, ["a"], {"c"})
    assert app.apply([TurnChanged(done)]) == Changes()


def test_answers_in_conversations_that_are_not_loaded_only_mark_them(app):
    opened(app, record("c"), record("d"))
    app.open("d")
    running = turn("a", status=TurnStatus.STREAMING)
    assert app.apply([TurnChanged(running), text(0, "x")]).conversations == {"c"}
    assert app.conversation("c").is_streaming
    changes = app.apply([TurnChanged(replace(running, status=TurnStatus.COMPLETED))])
    assert changes.ended == ["a"]
    assert not app.conversation("c").is_streaming


def test_pending_turns_come_last_and_removed_ones_go(app):
    opened(app, record("c"))
    loaded(app, turn("a", at_ms=10), turn("p", at_ms=5, status=TurnStatus.OUTBOX))
    assert [one.request_id for one in app.current.messages] == ["a", "p"]
    changes = app.apply([TurnChanged(turn("b", at_ms=20))])
    assert (changes.messages, [one.request_id for one in app.current.messages]) == ({"c"}, ["a", "b", "p"])
    changes = app.apply([TurnsRemoved(conversation_id="c", request_ids=("a", "p", "nobody"))])
    assert (changes.messages, [one.request_id for one in app.current.messages]) == ({"c"}, ["b"])
    assert app.pending == 0


def test_what_a_person_does_to_turns(app, commands):
    opened(app, record("c"))
    failed = Failure(code=FailureCode.RATE_LIMITED, is_retryable=True, retry_at_ms=5)
    final = Failure(code=FailureCode.FORBIDDEN, is_retryable=False)
    loaded(
        app,
        turn("a", at_ms=1, status=TurnStatus.FAILED, failure=failed),
        turn("b", at_ms=2, status=TurnStatus.FAILED, failure=final),
        turn("c", at_ms=3, status=TurnStatus.CANCELLED),
    )
    commands.take()
    conversation = app.current
    assert conversation.ask("  \n") is None
    assert conversation.retry("b") is None
    assert conversation.regenerate("nobody") is None
    assert commands.take() == []
    conversation.set_draft("new")
    name = conversation.ask("new")
    assert commands.take() == [("save_draft", "c", "new"), ("ask", "c", name, "new", None, ()), ("save_draft", "c", "")]
    name = conversation.edit_and_resend("a", "better")
    assert commands.take() == [("ask", "c", name, "better", "a", ())]
    name = conversation.retry("c")
    assert commands.take() == [("ask", "c", name, "c?", "c", ())]
    name = conversation.retry("a")
    assert commands.take() == [("ask", "c", name, "a?", None, ()), ("forget_turn", "a")]
    conversation.retry("a", "b", "c")
    asked = [one[3:5] if one[0] == "ask" else one for one in commands.take()]
    assert asked == [("a?", None), ("c?", None), ("forget_turn", "a"), ("forget_turn", "c")]
    conversation.rename("  a \n title ")
    conversation.rename("   ")
    conversation.stop("a")
    conversation.delete()
    app.commands.undo_delete("c")
    assert commands.take() == [("rename", "c", "a title"), ("stop", "a"), ("delete", "c"), ("undo_delete", "c")]


def test_the_list_is_ordered_and_follows(app):
    opened(app, record("a", 1), record("b", 2))
    app.open("a")
    assert app.apply([ConversationsChanged(changed=(record("b", 2, unread=1),))]) == Changes(
        conversations=frozenset({"b"})
    )
    changes = app.apply([ConversationsChanged(changed=(record("a", 3),))])
    assert (changes.list, [one.conversation_id for one in app.conversations]) == (True, ["a", "b"])
    changes = app.apply([ConversationsChanged(removed=("a", "nobody"))])
    assert (changes.list, changes.current, app.current) == (True, True, None)
    assert [one.conversation_id for one in app.conversations] == ["b"]


def test_one_empty_conversation_is_enough(app, commands):
    opened(app, record("a"))
    first = app.new_conversation()
    assert app.new_conversation() is first
    assert (first.title, first.is_loaded, app.conversations[0]) == ("", True, first)
    assert ("open_conversation", first.conversation_id) not in commands.take()
    first.set_draft("something")
    second = app.new_conversation()
    assert second is not first
    app.apply([TurnChanged(turn("q", second.conversation_id, status=TurnStatus.OUTBOX))])
    assert [one.request_id for one in second.messages] == ["q"]


def test_what_is_seen_is_reported(app, commands):
    opened(app, record("a"))
    app.open("a")
    commands.take()
    app.set_shown(True, is_visible=True)
    app.set_shown(False, is_visible=True)
    app.set_shown(False, is_visible=False)
    app.set_shown(True, is_visible=True)
    assert commands.take() == [("show", "a", False), ("show", None, False), ("show", "a", True), ("refresh",)]


def test_files_that_were_to_be_sent_outlive_the_conversation(app, commands):
    opened(app, record("a"), record("b"))
    file = File(name="notes.txt", data=b"notes")
    app.open("a").files = (file,)
    changes = app.apply([ConversationsChanged(removed=("a",))])
    assert changes.current
    assert (app.current.conversation_id, app.current.files, app.current.record) == ("a", (file,), None)
    app.open("b").files = (file,)
    app.current.delete()
    commands.take()
    app.apply([ConversationsChanged(removed=("b",))])
    assert app.current is None
    assert commands.take() == [("show", None, False)]


def test_a_question_that_was_not_taken_is_back_in_the_draft(app):
    opened(app, record("a"))
    app.conversation("a").set_draft("typed since")
    changes = app.apply([DraftReturned(conversation_id="a", text="question")])
    assert (changes.drafts, app.conversation("a").draft) == ({"a"}, "question\n\ntyped since")


def test_connection(app, monkeypatch):
    offline = ConnectionChanged(status=ConnectionStatus.OFFLINE, reason=ConnectionReason.LOST, retry_at_ms=10_500)
    online = ConnectionChanged(status=ConnectionStatus.ONLINE, user="ada", models=("m",))
    assert app.apply([online, RoundTripMeasured(12.5)]) == Changes(connection=True)
    assert (app.connection.is_online, app.connection.round_trip_ms, app.connection.retry_in_s) == (True, 12.5, None)
    clock = {"epoch_ms": 9_000, "monotonic": 50.0}
    monkeypatch.setattr(connecting, "epoch_ms", lambda: clock["epoch_ms"])
    monkeypatch.setattr(connecting.time, "monotonic", lambda: clock["monotonic"])
    app.apply([offline])
    shown = []
    for clock["monotonic"], clock["epoch_ms"] in ((50.0, 0), (50.6, 9_500), (51.5, 99_999), (99.0, 0)):
        shown.append(app.connection.retry_in_s)
    assert shown == [2, 1, 0, 0]
    assert (app.connection.models, app.connection.round_trip_ms) == (("m",), None)


def test_search_results_of_an_older_query_are_dropped(app, commands):
    app.search(" new ")
    assert commands.take() == [("search", "new")]
    assert app.apply([SearchFound(query="old", hits=())]) == Changes()
    assert app.apply([SearchFound(query="new", hits=())]) == Changes(search=True)
    app.search("")
    assert app.search_result is None


def test_everything_else_is_kept_and_reported(app, commands):
    events = [
        SettingsChanged(Settings(server_url="ws://other")),
        SignInChanged(status=SignInStatus.SIGNED_IN, user="Ada"),
        GatewayChanged(status=GatewayStatus.OFFERED),
        NoticeRaised(code=NoticeCode.NO_KEYRING),
        Exported(conversation_id="c", text="t", file_name="f"),
        EngineStopped(),
    ]
    assert app.apply(events) == Changes(
        settings=True, connection=True, sign_in=True, gateway=True, notices=True, exported=True, stopped=True
    )
    assert app.connection.server_url == "ws://other"
    assert app.change_settings(Settings(server_url="nonsense")) != ()
    assert commands.take() == []
    assert app.change_settings(Settings()) == ()
    assert commands.take() == [("change_settings", Settings())]


@given(st.lists(st.tuples(st.integers(0, 12), st.text(max_size=5))))
def test_whatever_pieces_come_the_text_only_grows_and_the_changes_add_up(pieces):
    app = AppViewModel(Commands())
    opened(app, record("c"))
    loaded(app, turn("a", status=TurnStatus.STREAMING, attempt=1))
    shown = ""
    for offset, delta in pieces:
        changes = app.apply([text(offset, delta)])
        one = app.current.turn("a")
        assert one.answer.startswith(shown)
        assert (one.answer != shown) == (changes.appended == {"a"})
        shown = one.answer
        assert one.length == len(shown)


def test_view_models_and_engine_load_without_qt():
    program = "import sys, answerback_desktop.viewmodels, answerback_desktop.engine; print('PySide6' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )
