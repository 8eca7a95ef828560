"""History is never erased unasked: not by another server at the address, nor by one that lost what it had."""

import sqlite3
from contextlib import closing

import pytest

from answerback.client import Client
from answerback_desktop.engine import sync
from answerback_desktop.engine.events import ConnectionReason, GatewayStatus, NoticeCode
from answerback_desktop.records import TurnStatus


async def talks(app, model, *titles):
    """Conversations of these questions, each answered and known to be at the server."""
    before = synced(app)
    for title in titles:
        turn = await app.ask(title, app.model.new_conversation())
        model.end(title, f"to {title}")
        await app.until(lambda turn=turn: turn.status is TurnStatus.COMPLETED)
    app.engine.refresh()
    await app.until(lambda: synced(app) == before + len(titles))


async def lose(network, conversation_ids):
    """The server has them no longer, and tells the app nothing of it."""
    network.cut()
    async with Client(network.server_url, user="ada") as client:
        for conversation_id in conversation_ids:
            await client.delete(conversation_id)
    network.repair()


def synced(app):
    found = 0
    for path in app.profile.accounts_folder.glob("*.db"):
        with closing(sqlite3.connect(path)) as file, file:
            found += file.execute("SELECT count(*) FROM conversations WHERE is_known = 1").fetchone()[0]
        file.close()
    return found


def titles(app):
    return sorted(one.title for one in app.model.conversations if one.record is not None)


async def test_another_server_at_the_address_is_another_history(open_app, model, network, start_gateway, tmp_path):
    app = await open_app()
    first = network.url
    await talks(app, model, "a", "b", "c", "d", "e")
    network.cut()
    waiting = await app.ask("never sent to a stranger", app.model.conversations[0])
    other = await start_gateway(data_dir=tmp_path / "other")
    network.repair(other.url)
    app.engine.reconnect()
    await app.until(lambda: app.model.other_store is not None)
    assert app.model.other_store.facts == {"url": first, "count": 5}
    await app.online()
    assert titles(app) == []
    await talks(app, model, "of the other")
    async with Client(other.url, user="ada") as client:
        assert [row.title async for row in client.conversations()] == ["of the other"]

    (kept,) = app.model.kept
    assert kept.conversations == 5
    app.engine.open_kept(kept.name)
    await app.until(lambda: app.model.is_kept)
    assert titles(app) == ["a", "b", "c", "d", "e"]
    await app.until(lambda: app.model.connection.reason is ConnectionReason.KEPT)
    old = app.model.open(waiting_conversation(app))
    await app.until(lambda: old.messages)
    assert next(turn.answer for turn in old.messages).startswith("to ")
    old.ask("not here")
    await app.until(lambda: old.draft == "not here")
    app.engine.open_kept(None)
    await app.until(lambda: not app.model.is_kept)
    assert titles(app) == ["of the other"]
    del waiting


def waiting_conversation(app):
    return next(one.conversation_id for one in app.model.conversations if one.pending)


async def test_the_first_server_is_back_and_finds_its_own(open_app, model, network, start_gateway, tmp_path):
    app = await open_app()
    await talks(app, model, "a", "b")
    network.cut()
    waiting = await app.ask("typed in between", app.model.new_conversation())
    other = await start_gateway(data_dir=tmp_path / "other")
    here = network._port
    network.repair(other.url)
    app.engine.reconnect()
    await app.until(lambda: app.model.other_store is not None)
    await app.close()
    again = await open_app()
    await again.online()
    assert titles(again) == []
    network.cut()
    network.repair(f"ws://127.0.0.1:{here}")
    again.engine.reconnect()
    await again.until(lambda: len(titles(again)) == 3)
    model.end("typed in between", "!")
    await again.until(lambda: again.model.pending == 0)
    assert again.model.other_store is None, "nothing is kept of the other one"
    del waiting


async def test_a_server_that_lost_most_of_it_is_asked_about(open_app, model, network):
    app = await open_app()
    await talks(app, model, "a", "b", "c", "d")
    doomed = [one.conversation_id for one in app.model.conversations if one.title != "d"]
    await lose(network, doomed)
    await app.until(lambda: app.model.missing == 3)
    assert titles(app) == ["a", "b", "c", "d"]
    await app.close()
    again = await open_app()
    assert again.model.missing == 3, "until the person has said what to do"
    again.engine.settle_missing(keep=True)
    await again.until(lambda: again.model.missing == 0)
    await again.online()
    there = again.model.open(doomed[0])
    await again.until(lambda: there.messages)
    turn = await again.ask("go on", there)
    model.end("go on", "!")
    await again.until(lambda: turn.status is TurnStatus.COMPLETED)
    again.engine.refresh()
    await again.until(lambda: synced(again) == 2)
    assert len(there.messages) == 2, "the turn that the server lost is not lost here"
    assert titles(again) == ["a", "b", "c", "d"]


async def test_what_the_server_lost_goes_if_the_person_says_so(open_app, model, network):
    app = await open_app()
    await talks(app, model, "a", "b", "c")
    await lose(network, [one.conversation_id for one in app.model.conversations])
    await app.until(lambda: app.model.missing == 3)
    app.engine.settle_missing(keep=False)
    await app.until(lambda: not titles(app))
    assert answers_in(app, "*.db.copy-1") == {"to a", "to b", "to c"}


async def test_a_copy_is_written_before_anything_is_deleted_on_a_servers_word(open_app, model, network, monkeypatch):
    monkeypatch.setattr(sync, "UNDO_S", 0.0)
    app = await open_app()
    await talks(app, model, "a", "b", "c")
    there = {one.title: one.conversation_id for one in app.model.conversations}
    async with Client(network.url, user="ada") as client:
        await client.delete(there["a"])
        app.engine.refresh()
        await app.until(lambda: titles(app) == ["b", "c"])
        assert answers_in(app, "*.db.copy-1") == {"to a", "to b", "to c"}
        await client.delete(there["b"])
        app.engine.refresh()
        await app.until(lambda: titles(app) == ["c"])
    assert not list(app.profile.accounts_folder.glob("*.copy-2")), "the first one has it"
    await app.close()
    again = await open_app()
    (kept,) = again.model.kept
    assert (kept.is_copy, kept.conversations) == (True, 3)
    again.engine.open_kept(kept.name)
    await again.until(lambda: titles(again) == ["a", "b", "c"])


def answers_in(app, pattern):
    (path,) = app.profile.accounts_folder.glob(pattern)
    with closing(sqlite3.connect(path)) as file, file:
        found = {answer for (answer,) in file.execute("SELECT answer FROM turns")}
    file.close()
    return found


@pytest.mark.parametrize("is_own", [True, False])
async def test_the_apps_own_gateway_is_offered_only_where_it_has_the_history(
    open_app, model, network, monkeypatch, is_own
):
    monkeypatch.setattr("answerback_desktop.engine.session_controller.can_start", lambda: True)
    app = await open_app()
    await talks(app, model, "a")
    if is_own:
        for path in app.profile.accounts_folder.glob("*.db"):
            with closing(sqlite3.connect(path)) as file, file:
                file.execute("UPDATE meta SET value = '1' WHERE key = 'is_own_gateway'")
            file.close()
    await app.close()
    await network.close()
    again = await open_app()
    await again.until(lambda: again.model.connection.reason is ConnectionReason.REFUSED)
    await again.until(lambda: again.model.gateway.status is not GatewayStatus.UNKNOWN)
    assert again.model.gateway.status is (GatewayStatus.OFFERED if is_own else GatewayStatus.NOT_OURS)
    if not is_own:
        again.engine.start_gateway()
        again.model.search("a")
        await again.until(lambda: again.model.search_result)
        assert again.model.gateway.status is GatewayStatus.NOT_OURS
    assert NoticeCode.GATEWAY_FAILED not in [notice.code for notice in again.model.notices]
