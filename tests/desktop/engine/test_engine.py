"""The engine's life: settings, accounts, local gateway, crashes, trouble with the disk."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys

import pytest

from answerback.tasks import CANCEL_S
from answerback_desktop.engine import Engine, Environment
from answerback_desktop.engine.events import ConnectionReason, ConnectionStatus, GatewayStatus, NoticeCode
from answerback_desktop.profile import Profile
from answerback_desktop.records import TurnStatus
from answerback_desktop.settings import AuthMode, Field, Settings
from answerback_desktop.store import schema
from desktop_app import DesktopApp

KILLED = """
import sys, time
from pathlib import Path
from answerback_desktop.engine import Engine, Environment
from answerback_desktop.profile import Profile
from answerback_desktop.viewmodels import AppViewModel
engine = Engine(Environment(profile=Profile.named("one", root=Path(sys.argv[1]))))
engine.start()
app = AppViewModel(engine)
app.apply(engine.drain())
conversation = app.new_conversation()
conversation.ask("story")
conversation.set_draft("typed on")
while True:
    app.apply(engine.drain())
    for one in conversation.messages:
        print(one.status.value, repr(one.answer), flush=True)
    time.sleep(0.02)
"""


async def test_killed_in_mid_answer(open_app, model, network, tmp_path, stack):
    app = await open_app()
    await app.close()
    model.say("story", "Once upon ")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path / "profiles"), stdout=asyncio.subprocess.PIPE
    )
    while b"Once upon " not in await process.stdout.readline():
        pass
    for _ in range(60):  # more than the time after which the text so far is on disk
        await process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()
    network.cut()
    again = await open_app()
    (conversation,) = again.model.conversations
    assert conversation.draft == "typed on"
    again.model.open(conversation.conversation_id)
    await again.until(lambda: conversation.messages and conversation.messages[0].answer == "Once upon ")
    network.repair()
    model.end("story", "a time.")
    await again.until(lambda: conversation.messages[0].status is TurnStatus.COMPLETED)
    assert conversation.messages[0].answer == "Once upon a time."
    assert [(prompt.request_id, prompt.attempt) for prompt in model.prompts] == [
        (conversation.messages[0].request_id, 1)
    ]


async def test_another_user_is_another_account_and_nothing_mixes(open_app, model, network):
    app = await open_app(user="ada")
    ada = await app.ask("of ada")
    model.end("of ada", "1")
    await app.until(lambda: ada.status is TurnStatus.COMPLETED)
    app.model.change_settings(Settings(server_url=network.url, user="bob"))
    await app.until(lambda: app.model.account and app.model.account.user == "bob")
    assert not app.model.conversations
    await app.online()
    assert app.model.connection.state.user == "bob"
    bob = await app.ask("of bob")
    model.end("of bob", "2")
    await app.until(lambda: bob.status is TurnStatus.COMPLETED)
    assert [one.title for one in app.model.conversations] == ["of bob"]
    app.model.change_settings(Settings(server_url=network.url, user="ada"))
    await app.until(lambda: [one.title for one in app.model.conversations] == ["of ada"])


async def test_settings_that_cannot_be_are_not_taken(open_app):
    app = await open_app()
    before = app.model.settings
    assert app.model.change_settings(Settings(server_url="http://x", max_tokens=0)) == (
        Field.SERVER_URL,
        Field.MAX_TOKENS,
    )
    await app.online()
    assert app.model.settings == before


async def test_the_settings_go_into_the_question(open_app, model, network):
    app = await open_app()
    app.model.change_settings(Settings(server_url=network.url, user="ada", system="Be brief.", max_tokens=7))
    turn = await app.ask("?")
    await app.until(lambda: turn.status is TurnStatus.STREAMING)
    model.end("?", "!")
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    assert (model.prompts[0].system, model.prompts[0].max_tokens) == ("Be brief.", 7)


async def test_a_development_token_is_kept_by_the_keyring_alone(open_app, network, tmp_path):
    app = await open_app()
    app.model.change_settings(Settings(server_url=network.url, auth=AuthMode.TOKEN))
    await app.until(lambda: app.model.connection.status is ConnectionStatus.SIGNED_OUT)
    conversation = app.model.new_conversation()
    conversation.ask("nobody is signed in")
    await app.until(lambda: conversation.draft == "nobody is signed in")
    app.model.change_settings(Settings(server_url=network.url, auth=AuthMode.TOKEN, token="not.a.jwt"))
    await app.online()
    assert app.model.connection.state.user == "anonymous"
    assert NoticeCode.NO_KEYRING in [notice.code for notice in app.model.notices]
    assert "not.a.jwt" not in app.profile.settings_path.read_text()


async def test_broken_files_are_moved_aside_and_reported(open_app, model):
    app = await open_app()
    turn = await app.ask("?")
    model.end("?", "!")
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    await app.close()
    (database,) = app.profile.accounts_folder.glob("*.db")
    database.write_bytes(b"not a database at all" * 1000)
    again = await open_app()
    await again.until(lambda: again.model.conversations)  # from the server
    assert [notice.code for notice in again.model.notices] == [NoticeCode.STORE_MOVED_ASIDE]
    await again.close()
    again.profile.settings_path.write_text("{")
    reset = await DesktopApp(again.profile.folder.parent, "one").__aenter__()
    assert [notice.code for notice in reset.model.notices] == [NoticeCode.SETTINGS_MOVED_ASIDE]
    assert reset.model.settings == Settings()
    await reset.close()


async def test_each_question_that_cannot_be_kept_comes_back_and_is_reported(open_app, model, monkeypatch):
    monkeypatch.setattr(schema, "_BUSY_MS", 1)
    app = await open_app()
    await app.online()
    conversation = app.model.new_conversation()
    with contextlib.closing(sqlite3.connect(next(app.profile.accounts_folder.glob("*.db")))) as other:
        other.execute("BEGIN IMMEDIATE")
        for told in (1, 2):
            conversation.set_draft("")
            conversation.ask("first")
            await app.until(lambda: conversation.draft == "first")
            await app.until(lambda told=told: len(app.model.notices) >= told)
    assert {notice.code for notice in app.model.notices} == {NoticeCode.STORE_LOCKED}
    turn = await app.ask("second")
    await app.until(lambda: turn.status is TurnStatus.STREAMING)


async def test_nobody_answers_and_a_gateway_is_started(stack, tmp_path, unused_port):
    settings = Settings(server_url=f"ws://127.0.0.1:{unused_port}", user="ada")
    app = DesktopApp(
        tmp_path, "one", settings, gateway_command=(sys.executable, "-m", "answerback"), gateway_arguments=GATEWAY
    )
    await stack.enter_async_context(app)
    await app.until(lambda: app.model.gateway.status is GatewayStatus.OFFERED)
    assert app.model.connection.reason is ConnectionReason.REFUSED
    app.engine.start_gateway()
    await app.until(lambda: app.model.gateway.status is GatewayStatus.RUNNING)
    turn = await app.ask("hello there")
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    assert turn.answer == "hello there"
    await app.close()
    again = DesktopApp(tmp_path, "one")
    await stack.enter_async_context(again)
    await again.until(lambda: again.model.gateway.status is GatewayStatus.OFFERED)


GATEWAY = ("--model", "echo", "--log-level", "info")


async def test_a_gateway_that_does_not_start_says_where_to_look(stack, tmp_path):
    settings = Settings(server_url="ws://127.0.0.1:9", user="ada")
    app = DesktopApp(tmp_path, "one", settings, gateway_arguments=("--no-such-flag",))
    await stack.enter_async_context(app)
    app.engine.start_gateway()
    await app.until(lambda: app.model.gateway.status is GatewayStatus.FAILED)
    await app.until(lambda: app.model.notices)
    assert app.model.notices[-1].facts["log"] == str(app.profile.gateway_log_path)
    assert "no-such-flag" in app.profile.gateway_log_path.read_text()


JOURNAL = """
import os, signal, sys, time
from pathlib import Path

def note(what):
    with Path(sys.argv[1]).open("a") as file:
        file.write(what)

def end(*_):
    note("<")
    time.sleep(float(sys.argv[2]))
    note(">")
    sys.exit()

signal.signal(signal.SIGTERM, end)
host, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--host", "--port"))
Path(sys.argv[1]).with_suffix(".pid").write_text(str(os.getpid()))
note("(")
if sys.argv[3] == "listens":
    print(f"listening on ws://{host}:{port}", flush=True)
while True:
    signal.pause()
"""
"""A program in place of a gateway. It notes that it starts, that it is asked to end, and that it ends."""


async def test_the_app_does_not_quit_before_a_gateway_that_starts_has_ended(stack, tmp_path, monkeypatch):
    monkeypatch.setattr("answerback_desktop.gateway.STOP_S", CANCEL_S + 1)
    journal = tmp_path / "journal"
    command = (sys.executable, "-c", JOURNAL, str(journal), "600", "-")
    app = DesktopApp(tmp_path, "one", Settings(server_url="ws://127.0.0.1:9", user="ada"), gateway_command=command)
    await stack.enter_async_context(app)
    app.engine.start_gateway()
    await app.until(journal.exists)
    pid = int(journal.with_suffix(".pid").read_text())
    os.kill(pid, 0)
    await app.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_gateway_takes_the_place_of_one_that_has_ended(stack, tmp_path):
    journal = tmp_path / "journal"
    command = (sys.executable, "-c", JOURNAL, str(journal), "0.3", "listens")
    app = DesktopApp(tmp_path, "one", Settings(server_url="ws://127.0.0.1:9", user="ada"), gateway_command=command)
    await stack.enter_async_context(app)
    for name in ("first", "second", "third"):
        app.model.use_local_model(name)
        app.engine.start_gateway()
    await app.until(lambda: app.model.gateway.status is GatewayStatus.RUNNING)
    app.model.use_local_model("fourth")
    await app.until(lambda: "<" in journal.read_text())
    app.engine.start_gateway()  # while the one before is ending
    await app.until(lambda: journal.read_text().count("(") == 2)
    await app.until(lambda: app.model.gateway.status is GatewayStatus.RUNNING)
    await app.close()
    assert journal.read_text() == "(<>(<>"


async def test_commands_before_and_after_do_nothing(tmp_path):
    profile = Profile.named("one", root=tmp_path)
    engine = Engine(Environment(profile=profile))
    engine.ask("c", "r", "text")
    await asyncio.to_thread(engine.start)
    engine.close()
    assert await asyncio.to_thread(engine.join, 5)
    engine.ask("c", "r", "text")
    engine.close()
    assert [path.name for path in profile.accounts_folder.glob("*.db")]
