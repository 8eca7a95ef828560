"""The turns of a conversation are the server's, in its order, whatever was guessed here before it was known."""

import asyncio
from dataclasses import replace

import pytest

from answerback.client import PendingRequest, RequestTimeout
from answerback.protocol.frames import ConversationSummary, SendMessage, Status
from answerback.protocol.frames import Turn as HistoryTurn
from answerback.testing.loop import run_virtual
from answerback_desktop.engine.sync import Sync, turn_of
from answerback_desktop.records import TurnStatus
from answerback_desktop.store.history import HistoryStore
from answerback_desktop.store.schema import Database
from answerback_desktop.store.store import AccountStore

NOW = 1_767_225_600_000
SECOND = "2026-01-01T00:00:0{}.000Z"


def turn(request_id, second=0):
    at = SECOND.format(second)
    return HistoryTurn(
        request_id=request_id, question="?", answer="!", status=Status.COMPLETED, asked_at=at, answered_at=at
    )


class OneConversation:
    """A server with one conversation, of the turns that a test gives it; with none it is deleted.

    `while_read`: what happens while the history is on its way; it may raise.
    """

    def __init__(self):
        self.turns = []
        self.while_read = lambda: None

    async def conversations(self):
        if count := len(self.turns):
            at = SECOND.format(count)
            yield ConversationSummary(conversation_id="c", title="C", turns=count, created_at=at, updated_at=at)

    async def history(self, conversation_id, *, superseded=False, parts=False):
        page = self.turns[::-1]
        self.while_read()
        for one in page:
            yield one


class Account:
    """Of a person who sees every conversation; it shows nothing. `told`: of what another device has deleted."""

    is_watched = True

    def __init__(self, database):
        self.database, self.store, self.history = database, AccountStore(database), HistoryStore(database)
        self.told = []

    def write_down(self):
        pass

    def conversation_gone(self, conversation, *, is_kept, is_news):
        if is_news:
            self.told.append(conversation.conversation_id)

    def clock(self):
        return NOW

    def is_online_by(self, client):
        return True

    def conversations_changed(self, conversation_ids):
        pass

    def turns_merged(self, conversation_id, merge):
        pass

    def is_seen(self, conversation_id):
        return True


class Device:
    """The store of an app, and its sync with a server."""

    def __init__(self, database, server):
        account = Account(database)
        self.store, self.history, self.told = account.store, account.history, account.told
        self.sync = Sync(server, account)

    def ask(self, request_id):
        frame = SendMessage(request_id=request_id, message="?", stream=True, conversation_id="c")
        self.store.put_question(PendingRequest(frame=frame), now_ms=NOW)

    def end(self, request_id):
        ended = replace(self.store.turn(request_id), status=TurnStatus.COMPLETED, answer="!", answered_at_ms=NOW)
        self.store.end(ended, is_unread=False, now_ms=NOW)
        self.sync.ended("c")

    def show(self, shown):
        """An answer of another device has come whole."""
        self.history.merge_turns("c", [turn_of("c", shown, now_ms=NOW)])

    def update(self):
        """Look at the server once."""

        async def main():
            running = asyncio.ensure_future(self.sync.run())
            self.sync.request("c")
            await asyncio.sleep(1)  # of virtual time: everything has come to rest
            running.cancel()

        run_virtual(main())

    def order(self):
        return [one.request_id for one in self.store.page("c", limit=None).turns]


@pytest.fixture
def server():
    return OneConversation()


@pytest.fixture
def device(tmp_path, server):
    database = Database(tmp_path / "account.db")
    yield Device(database, server)
    database.close()


def test_turns_of_one_millisecond(server, device):
    server.turns = [turn("z"), turn("m"), turn("a")]
    device.update()
    assert device.order() == ["z", "m", "a"]


def test_a_clock_that_was_set_back(server, device):
    server.turns = [turn("a", 1), turn("b", 3), turn("c", 2)]
    device.update()
    assert device.order() == ["a", "b", "c"]


def test_a_clock_that_was_set_back_after_all_was_known(server, device):
    server.turns = [turn("a", 5), turn("b", 6), turn("c", 7)]
    device.update()
    server.turns.append(turn("d", 1))
    device.update()
    assert device.order() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("other", ["before", "after"])
def test_a_turn_that_the_server_has_before_it_has_ended_here(server, device, other):
    server.turns = [turn("first", 0)]
    device.update()
    device.ask("own")
    server.turns += [turn("other", 1), turn("own", 2)] if other == "before" else [turn("own", 1), turn("other", 2)]
    device.update()
    assert device.order() == ["first", "other", "own"]  # what has not ended comes last
    device.end("own")
    device.update()
    assert device.order() == [one.request_id for one in server.turns]


def test_the_end_of_such_a_turn_asks_for_a_look(server, device):
    device.ask("own")
    server.turns = [turn("own", 1), turn("other", 2)]

    async def main():
        running = asyncio.ensure_future(device.sync.run())
        device.sync.request()
        await asyncio.sleep(1)
        device.end("own")
        await asyncio.sleep(1)
        running.cancel()

    run_virtual(main())
    assert device.order() == ["own", "other"]


@pytest.fixture
def shared(server, device):
    """A conversation that both have, and in which something is being typed here."""
    server.turns = [turn("first", 1)]
    device.update()
    device.store.save_draft("c", "half a question")
    return device


def test_a_turn_that_comes_while_an_older_history_is_read_is_not_lost(server, shared):
    server.turns.append(turn("second", 2))
    server.while_read = lambda: shared.show(turn("third", 3))
    shared.update()
    assert shared.store.turn("third").is_synced, "the history is older than this turn, and says nothing of it"
    server.turns, server.while_read = [], lambda: None
    shared.update()
    assert shared.order() == []


@pytest.mark.parametrize("is_hinted", [True, False])
def test_a_conversation_deleted_elsewhere_is_told_of_once(server, shared, is_hinted):
    server.turns = []
    if is_hinted:
        shared.sync.deleted("c")
    shared.update()
    shared.sync.deleted("c")
    shared.update()
    assert shared.told == ["c"]
    server.turns = [turn("first", 1)]
    shared.update()
    server.turns = []
    shared.update()
    assert shared.told == ["c", "c"], "restored, and deleted again"


def test_a_turn_that_is_shown_after_its_conversation_was_deleted_goes(server, shared):
    second = turn("second", 2)
    server.turns = []
    shared.update()
    shared.show(second)
    shared.update()
    assert shared.order() == []
    assert shared.store.drafts() == {"c": "half a question"}


def test_a_deletion_that_cannot_be_looked_at_now_is_looked_at_later(server, device):
    device.ask("own")
    device.end("own")

    def fail():
        raise RequestTimeout("history", 1.0)

    server.while_read = fail
    device.sync.deleted("c")
    device.update()
    assert device.order() == ["own"]
    server.while_read = lambda: None
    device.update()
    assert device.order() == []
