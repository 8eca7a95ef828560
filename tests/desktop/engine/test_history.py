"""The history that a user's devices share: merged, never overwritten."""

import asyncio
import json

import pytest

from answerback.client import Client
from answerback_desktop.engine import ExportFormat, sync
from answerback_desktop.engine.events import NoticeCode
from answerback_desktop.records import Traits, TurnStatus
from desktop_app import TIMEOUT_S


async def answered(app, model, question, answer, conversation=None):
    turn = await app.ask(question, conversation)
    model.end(question, answer)
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    return turn


def dialogue(conversation):
    return [(turn.question, turn.answer) for turn in conversation.messages]


async def server_lists(network, *titles):
    """Wait until it does; each poll is a round trip."""
    async with asyncio.timeout(TIMEOUT_S), Client(network.url, user="ada") as other:
        while [row.title async for row in other.conversations()] != list(titles):
            pass


async def follow(app, title):
    """Open the conversation of that title on another device."""
    app.model.set_shown(False, is_visible=True)
    app.model.set_shown(True, is_visible=True)
    await app.until(lambda: any(one.title == title for one in app.model.conversations))
    return app.model.open(next(one for one in app.model.conversations if one.title == title).conversation_id)


async def test_two_devices_write_in_one_conversation(open_app, model):
    one, two = await open_app("one"), await open_app("two")
    await answered(one, model, "first", "1")
    there = await follow(two, "first")
    await two.until(lambda: dialogue(there) == [("first", "1")])
    await answered(two, model, "second", "2", there)
    here = one.model.current
    third = await one.ask("third", here)
    one.engine.refresh()
    await one.until(lambda: dialogue(here) == [("first", "1"), ("second", "2"), ("third", "")])
    model.end("third", "3")
    await one.until(lambda: third.status is TurnStatus.COMPLETED)
    two.engine.refresh()
    await two.until(lambda: dialogue(there) == [("first", "1"), ("second", "2"), ("third", "3")])
    assert dialogue(here) == dialogue(there)


async def test_offline_both_ask_and_nothing_is_lost(open_app, model, network):
    one, two = await open_app("one"), await open_app("two")
    await answered(one, model, "first", "1")
    there = await follow(two, "first")
    await two.until(lambda: dialogue(there) == [("first", "1")])
    network.cut()
    for app, words in ((one, "from one"), (two, "from two")):
        await app.ask(words, app.model.current)
        model.end(words, f"to {words}")
    network.repair()
    for app in (one, two):
        app.engine.reconnect()
        await app.until(lambda app=app: app.model.pending == 0)
    async with Client(network.url, user="ada") as other:
        stored = [(turn.question, turn.answer) async for turn in other.history(one.model.current.conversation_id)]
    assert sorted(stored) == [("first", "1"), ("from one", "to from one"), ("from two", "to from two")]
    for app in (one, two):
        app.engine.refresh()
        await app.until(lambda app=app: dialogue(app.model.current) == stored[::-1])


async def test_renamed_and_deleted_elsewhere(open_app, model, network, monkeypatch):
    monkeypatch.setattr(sync, "UNDO_S", 0.0)
    one, two = await open_app("one"), await open_app("two")
    await answered(one, model, "first", "1")
    there = await follow(two, "first")
    one.model.current.rename("  Better   words ")
    await one.until(lambda: one.model.current.title == "Better words")
    await server_lists(network, "Better words")
    two.engine.refresh()
    await two.until(lambda: there.title == "Better words")
    one.model.current.delete()
    await one.until(lambda: not one.model.conversations)
    await server_lists(network)
    two.engine.refresh()
    await two.until(lambda: not two.model.conversations)


async def test_deleted_elsewhere_after_it_was_listed(open_app, model, network, monkeypatch):
    one, two = await open_app("one"), await open_app("two")
    await answered(one, model, "first", "1")
    there = await follow(two, "first")
    await two.until(lambda: dialogue(there) == [("first", "1")])
    read = sync.Sync._read

    async def delete_and_read(server_sync, wanted, **options):
        async with Client(network.url, user="ada") as other:
            await other.delete(wanted.conversation_id)
        return await read(server_sync, wanted, **options)

    monkeypatch.setattr(sync.Sync, "_read", delete_and_read)
    await answered(one, model, "second", "2", one.model.current)
    two.engine.refresh()
    await server_lists(network)
    two.engine.refresh()
    await two.until(lambda: not two.model.conversations)


async def test_delete_is_taken_back(open_app, model):
    app = await open_app()
    await answered(app, model, "keep me", "yes")
    name = app.model.current.conversation_id
    app.model.current.delete()
    await app.until(lambda: not app.model.conversations)
    assert app.model.current is None
    app.engine.undo_delete(name)
    await app.until(lambda: app.model.conversations)
    back = app.model.open(name)
    await app.until(lambda: dialogue(back) == [("keep me", "yes")])


async def test_a_deletion_offline_is_sent_later(open_app, model, network, monkeypatch):
    monkeypatch.setattr(sync, "UNDO_S", 0.0)
    app = await open_app()
    await answered(app, model, "gone", "yes")
    network.cut()
    app.model.current.delete()
    await app.until(lambda: not app.model.conversations)
    await app.close()
    network.repair()
    again = await open_app()
    await again.online()
    await server_lists(network)
    assert not again.model.conversations


async def test_deleted_in_mid_answer_is_stopped_and_stays_deleted(open_app, model, network, monkeypatch):
    monkeypatch.setattr(sync, "UNDO_S", 0.0)
    app = await open_app()
    await answered(app, model, "first", "1")
    turn = await app.ask("endless", app.model.current)
    await app.until(lambda: turn.status is TurnStatus.STREAMING)
    app.model.current.delete()
    await app.until(lambda: not app.model.conversations)
    await server_lists(network)
    await app.close()
    again = await open_app()
    await again.online()
    await again.until(lambda: again.model.connection.round_trip_ms is not None)
    assert not again.model.conversations


async def test_regenerated_elsewhere(open_app, model):
    one, two = await open_app("one"), await open_app("two")
    first = await answered(one, model, "first", "1")
    await answered(one, model, "second", "2", one.model.current)
    there = await follow(two, "first")
    await two.until(lambda: len(there.messages) == 2)
    one.model.current.regenerate(first.request_id)
    model.end("first", "one")
    await one.until(lambda: dialogue(one.model.current) == [("first", "one")] and not one.model.pending)
    two.engine.refresh()
    await two.until(lambda: dialogue(there) == [("first", "one")])


async def test_a_new_device_gets_all_of_a_long_history(open_app, model, network):
    async with Client(network.url, user="ada") as other:
        for number in range(130):
            model.end(f"question {number}", f"answer {number}")
            await other.ask(f"question {number}", conversation="long")
    app = await open_app()
    await app.until(lambda: app.model.conversations)
    conversation = app.model.open("long")
    await app.until(lambda: len(conversation.messages) >= 20 and conversation.has_more)
    assert len(conversation.messages) == 20

    def all_are_loaded():
        conversation.load_more()
        return len(conversation.messages) == 130

    await app.until(all_are_loaded)
    assert dialogue(conversation) == [(f"question {n}", f"answer {n}") for n in range(130)]
    app.model.search("question 77")
    await app.until(lambda: app.model.search_result)
    assert [hit.excerpt for hit in app.model.search_result.hits] == ["question 77"]


@pytest.mark.parametrize("query", ["소켓", "소켓은", "웹소켓은 무엇"])
async def test_search_finds_parts_of_words_in_any_script_without_a_connection(open_app, model, network, query):
    app = await open_app()
    await answered(app, model, "질문", "웹소켓은 무엇인가")
    network.cut()
    app.model.search(query)
    await app.until(lambda: app.model.search_result)
    (hit,) = app.model.search_result.hits
    assert [hit.excerpt[start:end] for start, end in hit.marks] == query.split()


async def test_export(open_app, model):
    app = await open_app()
    await answered(app, model, "What?\nReally?", "**Yes**")
    app.model.current.export(ExportFormat.MARKDOWN)
    await app.until(lambda: app.model.exported)
    assert app.model.exported.file_name == "What.md"
    assert "> What?\n> Really?" in app.model.exported.text
    assert app.model.exported.text.endswith("\n\n**Yes**\n")
    app.model.current.export(ExportFormat.JSON)
    await app.until(lambda: app.model.exported.file_name == "What.json")
    (turn,) = json.loads(app.model.exported.text)["turns"]
    assert (turn["question"], turn["answer"], turn["status"]) == ("What?\nReally?", "**Yes**", "completed")


async def test_two_users_see_only_their_own(open_app, model):
    ada, bob = await open_app("one", user="ada"), await open_app("two", user="bob")
    await answered(ada, model, "private", "secret")
    bob.engine.refresh()
    await bob.online()
    await answered(bob, model, "mine", "too")
    bob.engine.refresh()
    assert [one.title for one in bob.model.conversations] == ["mine"]


async def test_versions_are_there_on_every_device_and_after_a_restart(open_app, model):
    one = await open_app("one")
    first = await answered(one, model, "first", "1")
    await answered(one, model, "second", "2", one.model.current)
    one.model.current.edit_and_resend(first.request_id, "first, better")
    model.end("first, better", "one")
    here = one.model.current
    await one.until(lambda: dialogue(here) == [("first, better", "one")] and not one.model.pending)
    await one.close()
    again, two = await open_app("one"), await open_app("two")
    for app in (again, two):
        talk = await follow(app, "first")
        await app.until(lambda talk=talk: talk.messages and len(talk.messages[0].versions) == 2)
        assert dialogue(talk) == [("first, better", "one")]
        talk.show_version(talk.messages[0].request_id, -1)
        assert dialogue(talk) == [("first", "1"), ("second", "2")]
        assert app.model.unread == 0


async def test_a_model_and_instructions_of_its_own(open_app, model):
    app = await open_app()
    talk = app.model.new_conversation()
    talk.set_traits(system="Only here.", model=model.name, tags=("work",))
    await answered(app, model, "?", "!", talk)
    await answered(app, model, "elsewhere", "!", app.model.new_conversation())
    assert [prompt.system for prompt in model.prompts] == ["Only here.", None]
    talk.set_edit(talk.messages[0].request_id, "an edit")
    await app.close()
    again = await open_app()
    kept = again.model.conversation(talk.conversation_id)
    assert kept.traits == Traits(system="Only here.", model=model.name, tags=("work",))
    assert list(kept.edits.values()) == ["an edit"]


async def test_everything_is_exported_and_imported_elsewhere_and_nothing_is_overwritten(open_app, model, tmp_path):
    one, two = await open_app("one", user="ada"), await open_app("two", user="bob")
    first = await answered(one, model, "first", "1")
    one.model.current.regenerate(first.request_id)
    model.end("first", "one")
    here = one.model.current
    await one.until(lambda: dialogue(here) == [("first", "one")] and not one.model.pending)
    here.set_traits(is_pinned=True)
    await one.until(lambda: here.traits.is_pinned)
    for form, name in ((ExportFormat.JSON, "all.json"), (ExportFormat.MARKDOWN, "all.md")):
        one.model.exported = None
        one.engine.export(None, form)
        await one.until(lambda: one.model.exported)
        (tmp_path / name).write_text(one.model.exported.text, encoding="utf-8", newline="\n")
    for name, turns in (("all.json", 2), ("all.md", 0)):
        two.engine.import_file(tmp_path / name)
        await two.until(lambda: two.model.notices)
        notice = two.model.notices.popleft()
        assert (notice.code, dict(notice.facts)) == (NoticeCode.IMPORTED, {"count": 1, "turns": turns})
    talk = two.model.open(here.conversation_id)
    await two.until(lambda: talk.messages)
    assert (dialogue(talk), len(talk.messages[0].versions), talk.traits.is_pinned) == ([("first", "one")], 2, True)

    changed = (tmp_path / "all.json").read_text(encoding="utf-8").replace('"one"', '"forged"')
    (tmp_path / "all.json").write_text(changed, encoding="utf-8")
    two.engine.import_file(tmp_path / "all.json")
    await two.until(lambda: two.model.notices)
    assert dialogue(talk) == [("first", "one")]
    two.engine.import_file(tmp_path / "nowhere.json")
    await two.until(lambda: len(two.model.notices) == 2)
    assert two.model.notices[1].code is NoticeCode.IMPORT_FAILED
    mine = await answered(two, model, "goes on", "yes", talk)
    two.engine.refresh()
    await two.until(lambda: two.model.connection.is_online and mine.status is TurnStatus.COMPLETED)
    assert dialogue(talk) == [("first", "one"), ("goes on", "yes")]
