"""The local data of an account."""

import contextlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from answerback.client import File, PendingRequest, Usage
from answerback.core.context import title_of
from answerback.protocol.frames import SendMessage
from answerback_desktop.engine.events import NoticeCode
from answerback_desktop.records import Failure, FailureCode, Times, Turn, TurnStatus
from answerback_desktop.store import schema
from answerback_desktop.store.files import FileCopies, FileGone, keep_copy
from answerback_desktop.store.history import HistoryStore, Listed
from answerback_desktop.store.schema import Database, StoreError, StoreTrouble
from answerback_desktop.store.store import AccountStore

NOW = 1_700_000_000_000


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "a.db")
    yield database
    database.close()


@pytest.fixture
def store(database):
    return AccountStore(database)


@pytest.fixture
def history(database):
    return HistoryStore(database)


def question(name, conversation="c", *, replaces=None, text=None):
    frame = SendMessage(
        request_id=name, message=text or f"{name}?", stream=True, conversation_id=conversation, replaces=replaces
    )
    return PendingRequest(frame=frame)


def completed(turn, answer="!"):
    return Turn(
        request_id=turn.request_id,
        conversation_id=turn.conversation_id,
        question=turn.question,
        asked_at_ms=turn.asked_at_ms,
        status=TurnStatus.COMPLETED,
        answer=answer,
        attempt=1,
        replaces=turn.replaces,
        finish_reason="stop",
        model="m",
        tokens=Usage(input_tokens=1, output_tokens=2),
        times=Times(queued_ms=1, first_text_ms=2, total_ms=3),
        answered_at_ms=NOW + 5,
    )


def put(store, name, conversation="c", *, answer=None, **more):
    turn, _, _ = store.put_question(question(name, conversation, **more), now_ms=NOW)
    if answer is not None:
        turn, _ = store.end(completed(turn, answer), is_unread=False, now_ms=NOW)
    return turn


def names(store, conversation="c"):
    return [turn.request_id for turn in store.page(conversation, limit=None).turns]


def server_turn(name, at_ms, answer="!", **more):
    return Turn(
        request_id=name,
        conversation_id="c",
        question=f"{name}?",
        asked_at_ms=at_ms,
        status=TurnStatus.COMPLETED,
        answer=answer,
        is_synced=True,
        **more,
    )


def test_the_copies_of_files_go_with_the_conversation(database, store):
    copies = FileCopies(database.path)
    kept, unused = copies.keep([File(name="a.pdf", data=b"%PDF-1"), File(name="b.pdf", data=b"%PDF-2")])
    frame = SendMessage(request_id="q", message="q?", conversation_id="c", attachments=(kept.attachment,))
    turn, _, _ = store.put_question(PendingRequest(frame=frame, paths=(kept.path,)), now_ms=NOW)
    copies.sweep(store.attached())
    assert copies.keep(turn.attachments) == (kept,)
    assert not Path(unused.path).exists()
    assert Path(kept.path).stat().st_mode & 0o077 == 0
    Path(kept.path).write_bytes(b"changed")
    with pytest.raises(FileGone):
        copies.keep(turn.attachments)
    store.forget_conversation("c")
    copies.sweep(store.attached())
    assert not Path(kept.path).exists()


def test_everything_of_a_turn_comes_back(database, store, tmp_path):
    asked = put(store, "one")
    ended = Turn(
        request_id="one",
        conversation_id="c",
        question="one?",
        asked_at_ms=asked.asked_at_ms,
        status=TurnStatus.FAILED,
        answer="half \U0001f600 반",
        attempt=2,
        failure=Failure(code=FailureCode.OVER_BUDGET, is_retryable=True, retry_at_ms=NOW + 1, opens_at_ms=NOW + 2),
        model="m",
        finish_reason="x",
        tokens=Usage(input_tokens=1, output_tokens=2),
        times=Times(queued_ms=1, first_text_ms=None, total_ms=3),
        answered_at_ms=NOW,
        attachments=(File(name="표.csv", data=b"a,b").attachment,),
    )
    store.end(ended, is_unread=True, now_ms=NOW)
    with_other = AccountStore(other := Database(tmp_path / "a.db"))
    try:
        assert with_other.turn("one") == ended
        assert with_other.conversation("c").unread == 1
    finally:
        other.close()


def test_a_question_waits_until_its_ending_is_written(store):
    put(store, "one")
    store.note_accepted(PendingRequest(frame=question("one").frame, is_accepted=True), TurnStatus.QUEUED)
    (kept,) = store.load_outbox()
    assert (kept.frame, kept.is_accepted) == (question("one").frame, True)
    store.save_partial("one", attempt=1, text="so far", status=TurnStatus.STREAMING)
    assert store.pending()[0].answer == "so far"
    store.end(completed(store.turn("one")), is_unread=False, now_ms=NOW)
    assert store.load_outbox() == []
    store.save_partial("one", attempt=1, text="late", status=TurnStatus.STREAMING)
    assert store.turn("one").answer == "!"


def test_a_page_at_a_time(store):
    for number in range(45):
        put(store, f"{number:02}", answer="!")
    put(store, "pending")
    page = store.page("c")
    assert ([page.turns[0].request_id, page.turns[-1].request_id], page.has_more) == (["26", "pending"], True)
    older = store.page("c", before="26")
    assert (older.turns[0].request_id, older.turns[-1].request_id, older.has_more) == ("06", "25", True)
    oldest = store.page("c", before="06")
    assert (len(oldest.turns), oldest.has_more) == (6, False)


def test_a_replaced_turn_is_hidden_and_comes_back_or_is_a_version(store):
    for name in ("a", "b", "c"):
        put(store, name, answer="!")
    _, _, hidden = store.put_question(question("d", replaces="b"), now_ms=NOW)
    assert ([(turn.request_id, turn.superseded_by) for turn in hidden], names(store)) == (
        [("b", "d"), ("c", "d")],
        ["a", "d"],
    )
    cancelled = Turn(**{**_fields(completed(store.turn("d"))), "status": TurnStatus.CANCELLED})
    _, returned = store.end(cancelled, is_unread=False, now_ms=NOW)
    assert [(turn.request_id, turn.superseded_by) for turn in returned] == [("b", None), ("c", None)]
    assert names(store) == ["a", "b", "c", "d"]
    store.put_question(question("e", replaces="b"), now_ms=NOW)
    _, returned = store.end(completed(store.turn("e")), is_unread=False, now_ms=NOW)
    assert returned == ()
    assert names(store) == ["a", "e"]
    put(store, "f", answer="!", replaces="e")
    versions = [(turn.request_id, turn.superseded_by) for turn in store.page("c").versions]
    assert versions == [("b", "e"), ("c", "e"), ("d", "e"), ("e", "f")], "and nothing of them is lost"
    assert [hit.request_id for hit in store.search("?", limit=9) if hit.request_id] == ["f", "a"]


def _fields(turn):
    return {name: getattr(turn, name) for name in Turn.__slots__}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("socket", ["en"]),
        ("WEBSOCK", ["en"]),
        ("소켓", ["ko"]),
        ("웹소켓은", ["ko"]),
        ("what 100%", ["en"]),
        ("100_", []),
        ('"', ["quote"]),
        ("AND OR NOT", []),
        ("question ", []),
        ("é", ["quote"]),
    ],
)
@pytest.mark.parametrize("has_index", [True, False])
def test_search(store, database, query, found, has_index):
    database.searcher._has_index &= has_index
    put(store, "en", text="What is a WebSocket? 100% sure", answer="A line.")
    put(store, "ko", text="질문", answer="웹소켓은 연결이다")
    put(store, "quote", text='say "é"', answer="x" * 500)
    hits = [hit for hit in store.search(query, limit=9) if hit.request_id]
    assert [hit.request_id for hit in hits] == found
    for hit in hits:
        assert hit.marks
        assert {hit.excerpt[start:end].casefold() for start, end in hit.marks} <= set(query.casefold().split())


def test_a_hit_marks_all_words_of_the_phrase(store):
    put(store, "fox", text="Tell", answer="dog " * 30 + "A **fox** jumps over the lazy dog, and a lazy cat.")
    (hit,) = store.search("lazy dog", limit=9)
    assert [hit.excerpt[start:end] for start, end in hit.marks][-3:] == ["lazy", "dog", "lazy"]
    assert "over the lazy dog, and" in hit.excerpt


def test_history_is_merged_and_what_is_here_stays(store, history):
    mine = put(store, "mine", answer="verified")
    put(store, "refused", answer="local only")
    pending = put(store, "pending")
    theirs = server_turn("theirs", mine.asked_at_ms - 10)
    forged = replace(server_turn("mine", mine.asked_at_ms, "forged"), question="forged?")
    merge = history.merge_turns("c", [theirs, forged])
    assert merge.added == 1
    assert names(store) == ["theirs", "mine", "refused", "pending"]
    assert (store.turn("mine").answer, store.turn("mine").is_synced) == ("verified", True)
    assert store.turn("mine").question == mine.question
    assert [turn.request_id for turn in history.settle_lost("c", {"theirs"}).changed] == ["theirs"]
    assert names(store) == ["theirs", "mine", "refused", "pending"], "what the server has lost is not lost here"
    assert history.count_synced("c") == 1
    history.merge_turns("c", [server_turn("pending", pending.asked_at_ms)])
    assert store.turn("pending").status is TurnStatus.OUTBOX
    assert history.merge_turns("c", [server_turn("mine", mine.asked_at_ms)]).changed == []


def test_a_turn_stays_in_its_conversation_whatever_the_history_says(store, history):
    turn = put(store, "mine")
    stopped = Turn(**{**_fields(completed(turn)), "status": TurnStatus.CANCELLED})
    store.end(stopped, is_unread=False, now_ms=NOW)
    assert history.merge_turns("elsewhere", [server_turn("mine", NOW, "forged")]).changed == []
    assert store.turn("mine").answer == "!"


def test_a_conversation_that_is_gone_keeps_what_only_we_have(store, history):
    history.merge_turns("c", [server_turn("theirs", NOW)])
    put(store, "pending")
    history.synced("c", None, new_answers=1)
    assert history.gone("c").is_kept
    assert names(store) == ["pending"]
    assert store.conversation("c").unread == 0
    store.end(completed(store.turn("pending")), is_unread=False, now_ms=NOW)
    history.merge_turns("c", [server_turn("pending", NOW)])
    assert not history.gone("c").is_kept
    assert store.conversations() == ()


def test_a_copy_is_made_of_own_answers_too(store, history):
    put(store, "mine", answer="not in the history yet")
    put(store, "pending", conversation="other")
    assert history.loses("c") == ("mine",)
    assert not history.gone("c").is_kept
    assert store.turn("mine") is None


def listed(name, updated_at, title="t", turns=1):
    return Listed(
        conversation_id=name, title=title, turns=turns, created_at_ms=1, updated_at_ms=2, updated_at=updated_at
    )


def test_the_list(store, history):
    assert [one.conversation_id for one in history.merge_list([listed("a", "1")]).stale] == ["a"]
    history.synced("a", "1", new_answers=2)
    assert history.merge_list([listed("a", "1")]).stale == ()
    assert store.conversation("a").unread == 2
    store.rename("a", "mine", now_ms=NOW)
    history.merge_list([listed("a", "2", title="theirs")])
    assert store.conversation("a").title == "mine"
    store.title_sent("a", "mine")
    history.merge_list([listed("a", "3", title="theirs")])
    assert store.conversation("a").title == "theirs"
    assert history.merge_list([]).missing == ("a",)
    store.delete("a", now_ms=NOW)
    assert history.merge_list([listed("a", "4")]) == history.merge_list([listed("a", "4")])
    assert store.conversations() == ()


def test_a_question_under_way_keeps_its_conversation_where_it_is(store, history):
    turn, _, _ = store.put_question(question("one"), now_ms=NOW)
    history.merge_list([listed("c", "1")])
    assert store.conversation("c").updated_at_ms == NOW
    store.end(completed(turn), is_unread=False, now_ms=NOW)
    history.merge_list([listed("c", "2")])
    assert store.conversation("c").updated_at_ms == 2


@pytest.mark.parametrize("damage", [b"", b"junk" * 4096, None])
def test_a_file_that_is_none_is_moved_aside(tmp_path, damage):
    path = tmp_path / "a.db"
    if damage is None:
        with closing(sqlite3.connect(path)) as newer, newer:
            newer.execute("PRAGMA user_version = 99")
        newer.close()
    else:
        path.write_bytes(damage)
    database = Database(path)
    store = AccountStore(database)
    put(store, "one")
    database.close()
    assert (database.moved_aside is None) is (damage == b"")
    assert database.moved_aside is None or database.moved_aside.exists()


def test_damage_inside_is_found_at_the_start(tmp_path):
    path = tmp_path / "a.db"
    database = Database(path)
    store = AccountStore(database)
    for number in range(50):
        put(store, f"{number}", answer="long " * 400)
    database.close()
    data = bytearray(path.read_bytes())
    data[8192:40_960] = b"\xff" * (40_960 - 8192)
    path.write_bytes(data)
    again = Database(path)
    assert again.moved_aside is not None
    assert AccountStore(again).conversations() == ()
    again.close()


def test_a_file_that_another_program_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "_BUSY_MS", 1)
    held = Database(tmp_path / "held.db")
    with contextlib.closing(sqlite3.connect(held.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as told:
            put(AccountStore(held), "one")
    held.close()
    assert told.value.trouble is StoreTrouble.LOCKED
    assert {f"store-{one}" for one in StoreTrouble} <= set(NoticeCode)


def test_a_disk_that_is_full(database, store):
    put(store, "one", answer="!")
    (pages,) = database.run("PRAGMA page_count").fetchone()
    database.run(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError) as full:
        put(store, "two", text="x" * 100_000)
    assert full.value.trouble is StoreTrouble.FULL
    assert names(store) == ["one"]
    database.run("PRAGMA max_page_count = 1000000")
    put(store, "three")
    assert names(store) == ["one", "three"]


@given(st.text(max_size=300))
@settings(max_examples=200)
def test_titles(text):
    title = title_of(text)
    assert len(title) <= 60
    assert "\n" not in title


class Conversation(RuleBasedStateMachine):
    """Questions, endings and the server's history in any order, against a model of plain dicts."""

    def __init__(self):
        super().__init__()
        self.database = Database(Path(":memory:"))
        self.store, self.history = AccountStore(self.database), HistoryStore(self.database)
        self.pending, self.over, self.counter = [], {}, 0

    def teardown(self):
        self.database.close()

    @rule(skew=st.integers(-1000, 1000))
    def ask(self, skew):
        self.counter += 1
        name = f"q{self.counter:03}"
        self.store.put_question(question(name), now_ms=NOW + skew)
        self.pending.append(name)

    @rule(data=st.data(), status=st.sampled_from([TurnStatus.COMPLETED, TurnStatus.CANCELLED, TurnStatus.FAILED]))
    def end(self, data, status):
        if self.pending:
            name = data.draw(st.sampled_from(self.pending))
            turn = Turn(**{**_fields(completed(self.store.turn(name), f"to {name}")), "status": status})
            self.store.end(turn, is_unread=False, now_ms=NOW)
            self.pending.remove(name)
            self.over[name] = f"to {name}"

    @rule(at_ms=st.integers(NOW - 5000, NOW + 5000))
    def other_device(self, at_ms):
        self.counter += 1
        name = f"s{self.counter:03}"
        self.history.merge_turns("c", [server_turn(name, at_ms, f"to {name}")])
        self.over[name] = f"to {name}"

    @rule(data=st.data())
    def seen_at_the_server(self, data):
        names = sorted(name for name in self.over if name.startswith("q"))
        if names:
            name = data.draw(st.sampled_from(names))
            self.history.merge_turns("c", [server_turn(name, self.store.turn(name).asked_at_ms, self.over[name])])

    @invariant()
    def nothing_is_lost_doubled_or_out_of_place(self):
        turns = self.store.page("c", limit=None).turns
        assert {turn.request_id: turn.answer for turn in turns if turn.status.is_over} == self.over
        assert [turn.request_id for turn in turns if not turn.status.is_over] == self.pending
        assert [turn.order for turn in turns] == sorted(turn.order for turn in turns)
        assert [kept.frame.request_id for kept in self.store.load_outbox()] == self.pending


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=40, stateful_step_count=25)


def test_what_the_server_lost_is_kept_whether_or_not_its_turns_were_fetched(store, history):
    put(store, "mine", answer="!")
    history.merge_list([listed("c", "1", title="mine?")])
    history.keep_missing(["c"])
    history.settle_missing(keep=True)
    history.merge_list([listed("c", "2", title="begun again")])
    assert store.conversation("c").title == "mine?"
    assert not history.gone("c").removed
    assert names(store) == ["mine"]


def test_a_title_that_another_device_gives_counts_before_any_turn_was_fetched(store, history):
    history.merge_list([listed("c", "1", title="before")])
    turn = replace(server_turn("kept", NOW), is_synced=False)
    store.import_turns(store.conversation("c"), [turn])
    history.merge_list([listed("c", "2", title="given elsewhere")])
    assert store.conversation("c").title == "given elsewhere"


def test_a_copy_has_the_answers_that_are_deleted_and_not_their_questions_alone(store, database):
    turn = put(store, "mine")
    keep_copy(database, [])
    store.end(completed(turn), is_unread=False, now_ms=NOW)
    keep_copy(database, ["mine"])
    copies = sorted(database.path.parent.glob("*.copy-*[0-9]"))
    assert len(copies) == 2
    keep_copy(database, ["mine"])
    assert sorted(database.path.parent.glob("*.copy-*[0-9]")) == copies
