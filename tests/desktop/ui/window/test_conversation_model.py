"""The list as Qt sees it: rows move, and what was chosen stays chosen."""

import dataclasses
import random
from datetime import datetime, timedelta

import pytest
from PySide6.QtCore import QPersistentModelIndex, Qt
from PySide6.QtWidgets import QApplication

from answerback_desktop.records import Conversation, Traits, Turn, TurnStatus
from answerback_desktop.settings import Language
from answerback_desktop.texts import texts_of
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.window.conversation_model import ConversationListModel, Role
from answerback_desktop.ui.window.rows import ConversationDelegate
from answerback_desktop.ui.window.sidebar import list_view
from answerback_desktop.viewmodels import ConversationViewModel
from commands import NotedCommands

TEXTS = texts_of(Language.ENGLISH, system_locale="en-GB")


def conversation(name: str, *, commands: NotedCommands | None = None, unread: int = 0) -> ConversationViewModel:
    record = Conversation(conversation_id=name, title=name, created_at_ms=0, updated_at_ms=0, unread=unread)
    return ConversationViewModel(name, record, commands or NotedCommands())


@pytest.fixture
def model(qapp) -> ConversationListModel:
    return ConversationListModel(TEXTS)


def titles(model: ConversationListModel) -> list[str]:
    return [model.index(row).data() for row in range(model.rowCount())]


def test_rows_follow_any_change_of_order_and_set(model, qtmodeltester):
    rng = random.Random(7)
    everything = [conversation(str(number)) for number in range(30)]
    for _ in range(60):
        wanted = rng.sample(everything, rng.randrange(len(everything) + 1))
        model.show(wanted)
        assert titles(model) == [one.title for one in wanted]
        assert [model.row_of(one.conversation_id) for one in wanted] == list(range(len(wanted)))
    qtmodeltester.check(model)


def test_a_row_that_moves_keeps_its_identity(model):
    a, b, c = (conversation(name) for name in "abc")
    model.show([a, b, c])
    kept = QPersistentModelIndex(model.index(2))
    resets = []
    model.modelReset.connect(lambda: resets.append(1))
    model.show([c, a, b])
    assert kept.row() == 0
    model.show([conversation("new"), c, b])
    assert kept.row() == 1
    assert resets == []


def test_two_thousand_at_once_are_one_reset_and_one_more_is_one_row(model):
    everything = [conversation(str(number)) for number in range(2000)]
    counts = {"reset": 0, "inserted": 0, "moved": 0}
    model.modelReset.connect(lambda: counts.update(reset=counts["reset"] + 1))
    model.rowsInserted.connect(lambda *_: counts.update(inserted=counts["inserted"] + 1))
    model.rowsMoved.connect(lambda *_: counts.update(moved=counts["moved"] + 1))
    model.show(everything)
    model.show([everything[1500], *everything[:1500], *everything[1501:]])
    model.show([conversation("new"), everything[1500], *everything[:1500], *everything[1501:]])
    assert counts == {"reset": 1, "inserted": 1, "moved": 1}


def test_what_a_row_says(model):
    one = conversation("Weather", unread=2)
    model.show([one])
    row = model.index(0)
    assert (row.data(), row.data(Role.UNREAD), row.data(Role.NOTE)) == ("Weather", 2, "")
    one.draft = "and   tomorrow?"
    assert row.data(Role.NOTE) == "Draft: and tomorrow?"
    waiting = Turn(request_id="r", conversation_id="Weather", question="q", asked_at_ms=0)
    one.note_pending(waiting)
    assert row.data(Role.NOTE) == "Waiting to be sent"
    model.set_online(True)
    assert row.data(Role.NOTE) == "Waiting for its turn"
    one.note_pending(dataclasses.replace(waiting, status=TurnStatus.STREAMING))
    assert (row.data(Role.NOTE), row.data(Role.IS_STREAMING)) == ("Answering…", True)
    model.set_online(False)
    assert (row.data(Role.NOTE), row.data(Role.IS_STREAMING)) == ("Continues when connected", False)
    one.note_pending(dataclasses.replace(waiting, status=TurnStatus.QUEUED))
    assert row.data(Role.NOTE) == "Continues when connected"  # taken by the server: there is nothing to send
    one.note_pending(dataclasses.replace(waiting, status=TurnStatus.STREAMING))
    model.set_online(True)
    spoken = row.data(Qt.ItemDataRole.AccessibleTextRole)
    assert spoken.startswith("Weather, 2 new, Answering…, ")


def test_a_title_is_typed_in_place(model):
    commands = NotedCommands()
    begun = ConversationViewModel("begun", None, commands)
    model.show([begun, conversation("old", commands=commands)])
    assert not model.flags(model.index(0)) & Qt.ItemFlag.ItemIsEditable
    assert model.index(0).data() == "New conversation"
    row = model.index(1)
    for typed in ("  ", "old", " a  new\tname "):
        model.setData(row, typed)
    assert commands.of("rename") == [("old", "a new name")]


def test_days_stand_over_their_first_conversation(model):
    now_ms = round(datetime.now().timestamp() * 1000)
    day_ms = 24 * 3600 * 1000
    rows = [conversation(name) for name in ("pinned", "today", "too", "week", "month", "long ago")]
    ages = (400, 0, 0, 4, 20, 800)
    for one, days in zip(rows, ages, strict=True):
        one.record = dataclasses.replace(one.record, updated_at_ms=now_ms - days * day_ms)
    rows[0].traits = Traits(is_pinned=True, tags=("work",))
    changed = []
    model.layoutChanged.connect(lambda: changed.append(1))
    model.show(rows)
    shown = [model.index(row).data(Role.HEADING) for row in range(6)]
    assert shown[:5] == ["Pinned", "Today", "", "Past 7 days", "Past 30 days"]
    assert shown[5].endswith(str((datetime.now() - timedelta(days=800)).year))
    assert changed == [1]
    assert model.index(0).data(Role.TIME).startswith("#work ")
    model.show(rows[2:])
    assert model.index(0).data(Role.HEADING) == "Today"
    model.set_texts(texts_of(Language.KOREAN, system_locale="ko-KR"))
    assert model.index(0).data(Role.HEADING) == "오늘"


def test_the_day_goes_up_to_a_new_conversation_when_its_first_question_is_kept(model):
    now_ms = round(datetime.now().timestamp() * 1000)
    old, new = conversation("old"), ConversationViewModel("new", None, NotedCommands())
    old.record = dataclasses.replace(old.record, updated_at_ms=now_ms)
    model.show([new, old])
    assert [model.index(row).data(Role.HEADING) for row in (0, 1)] == ["", "Today"]
    new.record = dataclasses.replace(old.record, conversation_id="new")
    model.update_rows({"new"})
    assert [model.index(row).data(Role.HEADING) for row in (0, 1)] == ["Today", ""]


def test_hundreds_that_change_places_are_one_reset(model):
    everything = [conversation(str(number)) for number in range(300)]
    model.show(everything)
    moved, resets = [], []
    model.rowsMoved.connect(lambda *_: moved.append(1))
    model.modelReset.connect(lambda: resets.append(1))
    model.show(everything[::-1])
    assert (titles(model)[0], len(moved), len(resets)) == ("299", 0, 1)
    model.show([everything[0], *everything[:0:-1]])
    assert (titles(model)[:2], len(moved), len(resets)) == (["0", "299"], 1, 1)


def test_a_row_that_says_something_else_lays_out_no_other(model, qtbot, theme):
    view = list_view(model)
    qtbot.addWidget(view)
    measured = []

    class Delegate(ConversationDelegate):
        def sizeHint(self, option, index):  # noqa: N802
            measured.append(index.row())
            return super().sizeHint(option, index)

    view.setItemDelegate(Delegate(Appearance(theme=theme, texts=TEXTS), view, headed=lambda: model.headings))
    everything = [conversation(str(number)) for number in range(50)]
    model.show(everything)
    view.show()
    qtbot.waitUntil(lambda: len(measured) >= 50)
    QApplication.processEvents()
    measured.clear()
    everything[1].draft = "a word"
    model.update_rows({"1"})
    QApplication.processEvents()
    assert len(measured) < 50
    view.close()
