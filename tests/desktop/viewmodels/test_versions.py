"""Earlier versions of a turn are kept, and shown with what followed them."""

from dataclasses import replace

import pytest

from answerback_desktop.engine.events import AccountOpened, TraitsChanged, TurnChanged, TurnsLoaded
from answerback_desktop.records import Account, Conversation, Traits, Turn, TurnStatus
from answerback_desktop.viewmodels import AppViewModel
from commands import NotedCommands


def turn(name, at_ms, by=None, **more):
    facts = {"question": f"{name}?", "answer": f"{name}!", "status": TurnStatus.COMPLETED, **more}
    return Turn(request_id=name, conversation_id="c", asked_at_ms=at_ms, superseded_by=by, **facts)


class Shown:
    """One conversation that is open."""

    def __init__(self, *turns):
        self.commands = NotedCommands()
        self.app = AppViewModel(self.commands)
        account = Account(key="k", server_url="ws://h", user="ada")
        records = tuple(Conversation(conversation_id=n, title=n, created_at_ms=0, updated_at_ms=1) for n in "cde")
        self.app.apply([AccountOpened(account=account, conversations=records, pending=(), drafts={})])
        self.talk = self.app.open("c")
        self.app.apply([TurnsLoaded(conversation_id="c", turns=turns, has_more=False)])

    @property
    def now(self):
        return [f"{one.request_id} {one.version + 1}/{len(one.versions)}" for one in self.talk.messages]


TWICE = (turn("a", 1), turn("b", 2, "b2"), turn("c", 3, "b2"), turn("b2", 4, "b3", replaces="b"), turn("d", 5, "b3"))
TWICE = (*TWICE, turn("b3", 6, replaces="b2"), turn("e", 7))


def test_each_version_has_what_followed_it():
    shown = Shown(*TWICE)
    assert shown.now == ["a 1/1", "b3 3/3", "e 1/1"]
    assert shown.talk.show_version("b3", -1) == "b2"
    assert shown.now == ["a 1/1", "b2 2/3", "d 1/1"]
    assert shown.talk.show_version("b2", -1) == "b"
    assert shown.now == ["a 1/1", "b 1/3", "c 1/1"]
    assert shown.talk.show_version("b", -1) is None
    shown.talk.show_version("b", 1)
    shown.talk.show_version("b2", 1)
    assert shown.now == ["a 1/1", "b3 3/3", "e 1/1"]
    assert shown.talk.show_version("b3", 1) is None


def test_the_old_answer_is_there_while_the_new_one_comes_and_comes_back_if_it_fails():
    a = turn("a", 1)
    shown = Shown(a)
    shown.talk.regenerate("a")
    new = turn("n", 2, status=TurnStatus.STREAMING, answer="", replaces="a", question="a?")
    changes = shown.app.apply([TurnChanged(replace(a, superseded_by="n")), TurnChanged(new)])
    assert (shown.now, changes.messages) == (["n 2/2"], {"c"})
    shown.talk.show_version("n", -1)
    assert shown.now == ["a 1/2"]
    failed = replace(new, status=TurnStatus.CANCELLED)
    shown.app.apply([TurnChanged(failed), TurnChanged(a)])
    assert shown.now == ["a 1/1", "n 1/1"]


def test_what_is_asked_follows_the_newest_version():
    shown = Shown(*TWICE)
    shown.talk.show_version("b3", -1)
    shown.talk.ask("more")
    shown.app.apply([TurnChanged(turn("f", 8, status=TurnStatus.OUTBOX))])
    assert shown.now == ["a 1/1", "b3 3/3", "e 1/1", "f 1/1"]


def test_a_try_that_brought_nothing_is_no_version_but_an_edit_of_the_question_is():
    nothing = turn("a", 1, "b", question="q", answer="", status=TurnStatus.FAILED)
    assert Shown(nothing, turn("b", 2, question="q", replaces="a")).now == ["b 1/1"]
    assert Shown(nothing, turn("b", 2, question="better", replaces="a")).now == ["b 2/2"]


def test_a_circle_and_a_turn_that_nobody_shows():
    assert Shown(turn("a", 1, "b"), turn("b", 2, "a"), turn("c", 3, "gone"), turn("d", 4)).now == ["d 1/1"]


def test_an_edit_is_kept_until_it_is_asked():
    shown = Shown(turn("a", 1))
    shown.talk.set_edit("a", "a?")
    assert shown.commands.of("save_edit") == []
    shown.talk.set_edit("a", "other")
    shown.talk.edit_and_resend("a", "other")
    assert [text for _, _, text in shown.commands.of("save_edit")] == ["other", ""]
    assert shown.talk.edits == {}


@pytest.mark.parametrize(
    ("traits", "listed"),
    [(Traits(is_pinned=True), ["e", "c", "d"]), (Traits(is_archived=True), ["c", "d"]), (Traits(), ["c", "d", "e"])],
)
def test_pins_come_first_and_the_archive_is_apart(traits, listed):
    shown = Shown()
    shown.app.apply([TraitsChanged(conversation_id="e", traits=traits)])
    assert [one.conversation_id for one in shown.app.conversations] == listed
    shown.app.show_archive(True)
    assert ([one.conversation_id for one in shown.app.conversations] == ["e"]) is traits.is_archived


def test_a_tag_is_searched_for_without_the_engine():
    shown = Shown()
    shown.app.apply([TraitsChanged(conversation_id="d", traits=Traits(tags=("Work", "여행")))])
    for query in ("#wo", "#여행"):
        shown.app.search(query)
        assert [hit.conversation_id for hit in shown.app.search_result.hits] == ["d"]
    assert shown.commands.of("search") == []
