"""A gateway of this version on the data of ff0d8e5: everything is there, and what was unfinished gets its ending."""

import asyncio
import json
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from websockets.asyncio.client import connect

from answerback import Client
from answerback.client import Answer, AnswerbackError, PendingRequest, RequestCancelled, RequestConflict
from cli_process import GatewayProcess
from kept import FOLDER, SLOW, assert_kept, command, kept

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

Serve = Callable[..., GatewayProcess]
ENDED = {
    ("ann", "ann-desk"): (
        *(f"intro-{n}" for n in range(1, 7)),
        *("long-1", "renamed-1", "deleted-1", "alone-1", "failed-1", "throttled-1", "cancelled-1"),
        *("refused-model", "refused-empty", "cancelled-early"),
    ),
    ("mina", "mina-phone"): ("mina-1", "mina-2", "mina-3"),
    ("사용자", "한국-1"): ("intro-1",),
}
"""Every request that had ended, by user and session."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Kept data, opened by this version: first by the commands for users, then by a gateway."""

    kind: str
    users: dict[str, Any]
    url: str


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def opened(request: pytest.FixtureRequest, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        place = ["--data-dir", str(folder)]
        if request.param == "sqlite":
            shutil.copy(FOLDER / "answerback.db", folder)
        else:
            server = request.getfixturevalue("postgres_server")
            place += ["--database", stack.enter_context(loaded(server.url))]
        users = {what: json.loads(command("users", what, "--json", *place).out) for what in ("list", "usage")}
        gateway = serve(*place)
        yield Opened(request.param, users, gateway.url)
        gateway.stop(signal.SIGKILL)


@contextmanager
def loaded(url: str) -> Iterator[str]:
    """A database with the kept dump."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE upgrade")
    own = url.replace("/postgres?", "/upgrade?")
    try:
        with psycopg.connect(own, autocommit=True) as connection:
            connection.execute((FOLDER / "postgres.sql").read_text(encoding="utf-8"))
        yield own
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP DATABASE upgrade WITH (FORCE)")


def test_users_limits_and_usage_are_there(opened: Opened) -> None:
    assert_kept(f"{opened.kind}-users.json", opened.users)


async def test_the_history_of_everybody_is_there(opened: Opened) -> None:
    history = {user: await history_of(opened.url, user) for user in ("ann", "mina", "사용자")}
    assert_kept(f"{opened.kind}-history.json", history)


async def test_a_deleted_conversation_comes_back_as_it_was(opened: Opened) -> None:
    async with Client(opened.url, user="ann") as app, asyncio.timeout(30):
        assert [turn async for turn in app.history("deleted")] == []
        assert (await app.restore("deleted")).title == "Will be deleted"
        turns = [(turn.request_id, turn.question, turn.answer) async for turn in app.history("deleted")]
        await app.delete("deleted")
    assert turns == [("deleted-1", "Will be deleted", "Will be deleted")]


async def test_every_ended_request_has_its_ending(opened: Opened) -> None:
    assert_kept(f"{opened.kind}-endings.json", await endings(opened.url))


async def test_a_question_that_is_asked_again_gets_its_stored_answer(opened: Opened) -> None:
    async with Client(opened.url, user="ann", session="ann-desk") as app, asyncio.timeout(30):
        again = await app.ask("What is a WebSocket?", conversation="intro", request_id="intro-1")
        with pytest.raises(RequestConflict):
            await app.ask("What is a socket?", conversation="intro", request_id="intro-1")
    stored = kept(f"{opened.kind}-endings.json")["ann"]["intro-1"]
    assert again.text == "What is a WebSocket?"
    assert msgspec.to_builtins(again.timing) == stored["timing"]


async def test_what_was_unfinished_is_resumed_and_the_app_gets_its_answers(opened: Opened) -> None:
    outbox = KeptOutbox()
    async with Client(opened.url, user="zoe", session="zoe-desk", outbox=outbox) as app, asyncio.timeout(30):
        got = {stream.request_id: await outcome(stream.answer) for stream in app.restored}
        work = [(turn.request_id, turn.question, turn.answer, turn.status) async for turn in app.history("work")]
    assert {name: type(one) for name, one in got.items()} == {
        "running-1": Answer,
        "waiting-1": Answer,
        "waiting-2": Answer,
        "stopping-1": RequestCancelled,
        "unsent-1": Answer,
    }
    answers = [(one.request_id, one.text, one.attempt, one.finish_reason) for one in got.values() if is_answer(one)]
    unsent = "asked while offline, 오프라인"
    assert answers == [
        ("running-1", SLOW, 2, "stop"),
        ("waiting-1", "the first in line", 1, "stop"),
        ("waiting-2", "the second in line, ", 1, "length"),
        ("unsent-1", unsent, 1, "stop"),
    ]
    assert outbox.left == []
    assert work == [
        ("unsent-1", unsent, unsent, "completed"),
        ("waiting-2", "the second in line, whole", "the second in line, ", "completed"),
        ("waiting-1", "the first in line", "the first in line", "completed"),
        ("running-1", SLOW, SLOW, "completed"),
    ]
    assert await cancelled(opened.url, "zoe", "zoe-desk", ["stopping-1"]) == {
        "stopping-1": {"status": "cancelled", "attempt": 2}
    }


def test_the_kept_sqlite_file_is_whole() -> None:
    with (
        closing(sqlite3.connect(f"file:{FOLDER / 'answerback.db'}?mode=ro&immutable=1", uri=True)) as database,
        database,
    ):
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert not Path(f"{FOLDER / 'answerback.db'}-wal").exists()


class KeptOutbox:
    """The outbox of zoe's app, as it kept it."""

    def __init__(self) -> None:
        self.left = [PendingRequest.from_dict(one) for one in kept("outbox.json")]
        assert [one.to_dict() for one in self.left] == kept("outbox.json")

    def load(self) -> Sequence[PendingRequest]:
        return tuple(self.left)

    def save(self, pending: PendingRequest) -> None:
        """A question of the outbox was accepted."""

    def ended(self, request_id: str, outcome: Answer | AnswerbackError) -> None:
        self.left = [one for one in self.left if one.frame.request_id != request_id]


async def outcome(answer: Any) -> Answer | AnswerbackError:
    try:
        found: Answer = await answer
    except AnswerbackError as exc:
        return exc
    return found


def is_answer(found: object) -> bool:
    return isinstance(found, Answer)


async def history_of(url: str, user: str) -> Any:
    """All that the user's apps can see of the past, as the wire names it."""
    async with Client(url, user=user) as app, asyncio.timeout(30):
        listed = [msgspec.to_builtins(one) async for one in app.conversations()]
        shown = {}
        for one in listed:
            shown[one["conversationId"]] = [
                msgspec.to_builtins(turn) async for turn in app.history(one["conversationId"])
            ]
    return {"conversations": listed, "turns": shown}


async def endings(url: str) -> dict[str, dict[str, Any]]:
    """How each request ended: to cancel it shows its ending once more."""
    found = {}
    for (user, session), names in ENDED.items():
        async with asyncio.timeout(30), connect(f"{url}/?userId={user}&sessionId={session}", proxy=None) as socket:
            for name in names:
                await socket.send(json.dumps({"action": "cancelMessage", "requestId": name}))
            frames = [json.loads(await socket.recv()) for _ in names]
        found[user] = {
            frame["requestId"]: frame for frame in sorted(frames, key=lambda one: names.index(one["requestId"]))
        }
    return found


async def cancelled(url: str, user: str, session: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = {}
    async with asyncio.timeout(30), connect(f"{url}/?userId={user}&sessionId={session}", proxy=None) as socket:
        for name in names:
            await socket.send(json.dumps({"action": "cancelMessage", "requestId": name}))
            frame = json.loads(await socket.recv())
            found[frame["requestId"]] = {key: frame[key] for key in ("status", "attempt")}
    return found


async def test_an_app_that_asks_while_the_gateway_is_replaced_gets_its_answer(
    serve: Serve, copied_sqlite: tuple[str, ...], unused_port: int
) -> None:
    url = f"ws://127.0.0.1:{unused_port}"
    async with Client(url, user="ann", session="ann-desk", offline_start=True) as app, asyncio.timeout(40):
        asking = asyncio.create_task(app.ask("Are you there?", conversation="intro"))
        gateway = await asyncio.to_thread(serve, *copied_sqlite, "--port", str(unused_port))
        assert (await asking).text == "Are you there?"
        turns = [turn.question async for turn in app.history("intro")]
    assert "What is a WebSocket?" in turns
    assert turns[0] == "Are you there?"
    gateway.stop()
