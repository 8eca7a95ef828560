"""What is shown is in the server's order as soon as that is known, in whatever order everything happens."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from answerback.client import PendingRequest
from answerback.protocol.frames import ConversationSummary, SendMessage, Status
from answerback.protocol.frames import Turn as HistoryTurn
from answerback.testing.loop import run_virtual
from answerback_desktop.engine.events import AccountOpened, ConversationsChanged, TurnChanged
from answerback_desktop.engine.export import instant_ms
from answerback_desktop.engine.pages import Pages
from answerback_desktop.engine.sync import Sync
from answerback_desktop.records import Account, Turn, TurnStatus
from answerback_desktop.store.history import HistoryStore
from answerback_desktop.store.schema import Database
from answerback_desktop.store.store import AccountStore
from answerback_desktop.viewmodels import AppViewModel
from commands import NotedCommands

START_MS = 1_767_225_600_000
SEEDS = 150


def iso(at_ms):
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Server:
    """One conversation, whose questions are answered one after the other. Every read takes a while."""

    def __init__(self, chance):
        self.chance = chance
        self.now_ms = START_MS
        self.accepted = []
        self.turns = []

    def accept(self, request_id):
        self.now_ms += self.chance.choice([0, 0, 1, 5])
        self.accepted.append((request_id, iso(self.now_ms)))

    def end(self):
        request_id, asked_at = self.accepted.pop(0)
        self.now_ms += self.chance.choice([0, 1, 5])
        self.turns.append(
            HistoryTurn(
                request_id=request_id,
                question="?",
                answer="!",
                status=Status.COMPLETED,
                asked_at=asked_at,
                answered_at=iso(self.now_ms),
            )
        )
        return request_id

    async def pause(self):
        await asyncio.sleep(self.chance.choice([0, 0, 0.001, 0.01]))

    async def conversations(self):
        await self.pause()
        count, at = len(self.turns), self.turns[-1].answered_at if self.turns else iso(0)
        await self.pause()
        if count:
            yield ConversationSummary(conversation_id="c", title="C", turns=count, created_at=at, updated_at=at)

    async def history(self, conversation_id, *, superseded, parts):
        await self.pause()
        for number, turn in enumerate(self.turns[::-1]):
            yield turn
            if number % 2:
                await self.pause()


class App:
    """The store, the sync and what is shown of an app; `ended` is what the connection would bring."""

    def __init__(self, path, server, skew_ms):
        self.server, self.skew_ms = server, skew_ms
        self.database = Database(path)
        self.store = AccountStore(self.database)
        self.model = AppViewModel(NotedCommands())
        account = Account(key="k", server_url="ws://h", user="ada")
        self.emit(AccountOpened(account=account, conversations=(), pending=(), drafts={}))
        self.pages = Pages(self.store, self.emit, lambda _: None)
        self.history, self.is_watched = HistoryStore(self.database), True
        self.sync = Sync(server, self)

    def clock(self):
        return self.server.now_ms + self.skew_ms

    def emit(self, event):
        self.model.apply([event])

    def conversations_changed(self, conversation_ids):
        self.emit(ConversationsChanged(changed=tuple(map(self.store.conversation, conversation_ids))))

    def turns_merged(self, conversation_id, merge):
        self.pages.merged(conversation_id, merge)

    def is_seen(self, _):
        return True

    def is_online_by(self, _):
        return True

    def ask(self, request_id):
        frame = SendMessage(request_id=request_id, message="?", stream=True, conversation_id="c")
        turn, conversation, _ = self.store.put_question(PendingRequest(frame=frame), now_ms=self.clock())
        self.emit(ConversationsChanged(changed=(conversation,)))
        self.pages.begun("c")
        self.emit(TurnChanged(turn))

    def ended(self, request_id):
        turn = self.store.turn(request_id)
        turn = replace(turn, status=TurnStatus.COMPLETED, answer="!", answered_at_ms=self.clock())
        self.emit(TurnChanged(self.store.end(turn, is_unread=False, now_ms=self.clock())[0]))
        self.sync.ended("c")

    def shown_live(self, request_id):
        """Another device's answer has ended before this app's eyes."""
        asked_at = next(turn.asked_at for turn in self.server.turns if turn.request_id == request_id)
        if self.store.conversation("c") is None or self.store.turn(request_id) is not None:
            return  # there is nowhere to show it, or the history has brought it
        turn = Turn(
            request_id=request_id,
            conversation_id="c",
            question="?",
            answer="!",
            status=TurnStatus.COMPLETED,
            asked_at_ms=instant_ms(asked_at, self.clock()),
            answered_at_ms=self.clock(),
            is_synced=True,
        )
        self.turns_merged("c", self.history.merge_turns("c", [turn]))
        self.sync.request("c")

    def open(self):
        if self.model.open("c") is not None:
            self.pages.open("c")

    def shown(self):
        conversation = self.model.conversation("c")
        while conversation.has_more:
            self.pages.more("c", conversation.messages[0].request_id)
        return [turn.request_id for turn in conversation.messages]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_devices_in_one_conversation(tmp_path: Path, seed: int):
    chance = random.Random(seed)
    server = Server(chance)
    app = App(tmp_path / "account.db", server, chance.choice([0, 0, -50, 50, -3_600_000, 3_600_000]))
    unsent, untold, unseen = [], [], []

    def end():
        request_id = server.end()
        (untold if request_id.endswith("own") else unseen).append(request_id)

    def own(name):
        app.ask(name)
        unsent.append(name)

    async def main():
        running = asyncio.ensure_future(app.sync.run())
        for number in range(chance.randrange(3, 25)):
            name = f"{chance.randrange(9)}-{number}"
            match chance.randrange(9):
                case 0:
                    own(f"{name}-own")
                case 1 if unsent:
                    server.accept(unsent.pop(0))
                case 2:
                    server.accept(name)
                case 3 if server.accepted:
                    end()
                case 4 if untold:
                    app.ended(untold.pop(0))
                case 5:
                    app.sync.request("c")
                case 6:
                    app.open()
                case 7 if unseen:
                    app.shown_live(unseen.pop(0))
                case _:
                    await asyncio.sleep(chance.choice([0, 0.001, 0.02]))
        own("last-own")
        while unsent:
            server.accept(unsent.pop(0))
        while server.accepted:
            end()
        while untold:
            app.ended(untold.pop(0))
        while unseen:
            app.shown_live(unseen.pop(chance.randrange(len(unseen))))
            if chance.randrange(2):
                await asyncio.sleep(0.1)
        for _ in range(2):
            app.sync.request("c")
            await asyncio.sleep(1)  # of virtual time: everything has come to rest
        running.cancel()

    try:
        run_virtual(main())
        if not app.model.conversation("c").is_loaded:
            app.open()
        assert app.shown() == [turn.request_id for turn in server.turns]
    finally:
        app.database.close()


def test_opened_while_its_only_question_waited(tmp_path: Path):
    """As after a restart: the loaded part began with a question that had not ended, which sorts last."""
    server = Server(random.Random(0))
    app = App(tmp_path / "account.db", server, 0)
    app.ask("own")
    app.pages.forget("c")
    app.open()
    for name in ("other", "own"):
        server.accept(name)
        server.end()
    app.ended("own")

    async def main():
        running = asyncio.ensure_future(app.sync.run())
        app.sync.request("c")
        await asyncio.sleep(1)
        running.cancel()

    try:
        run_virtual(main())
        assert app.shown() == ["other", "own"]
    finally:
        app.database.close()


def test_another_device_s_answer_of_the_same_millisecond_is_shown_live(tmp_path: Path):
    """Its place is known from the history alone: that a turn is here already does not say that it stands right."""
    server = Server(random.Random(0))
    app = App(tmp_path / "account.db", server, 0)
    server.chance = SimpleNamespace(choice=min)  # no time passes

    async def main():
        running = asyncio.ensure_future(app.sync.run())
        app.ask("z-own")
        for name in ("z-own", "a"):
            server.accept(name)
        app.ended(server.end())
        app.sync.request("c")
        await asyncio.sleep(1)
        app.shown_live(server.end())
        await asyncio.sleep(1)
        running.cancel()

    try:
        run_virtual(main())
        app.open()
        assert app.shown() == ["z-own", "a"]
    finally:
        app.database.close()
