"""Files that go with questions: on the way, across cuts and restarts, and in the history."""

import shutil

import msgspec
import pytest

from answerback.client import File
from answerback.ports import ModelLimits
from answerback_desktop.engine.events import NoticeCode, TurnChanged
from answerback_desktop.records import FailureCode, TurnStatus

PDF = b"%PDF-1.7 " + bytes(300_000)


@pytest.fixture
def model(model):
    model.limits = ModelLimits(attachments=("document",))
    return model


def pdf(name="plan.pdf", data=PDF):
    return File(name=name, data=data)


async def ask(app, text, *files, conversation=None):
    conversation = conversation or app.model.new_conversation()
    conversation.files = files
    return await app.ask(text, conversation)


def copies(app):
    return sorted(path.name for path in app.profile.accounts_folder.glob("*.files/*"))


def names(turn):
    return [one.name for one in turn.record.attachments]


async def test_a_file_reaches_the_model_and_its_progress_is_shown(open_app, model):
    app = await open_app()
    await app.online()
    assert app.model.file_kinds == ("text", "document")
    model.end("What is it?", "a plan")
    turn = await ask(app, "What is it?", pdf())
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    assert [(file.name, file.data) for file in model.prompts[0].attachments] == [("plan.pdf", PDF)]
    told = [event.turn.sent_percent for event in app.events if isinstance(event, TurnChanged)]
    percents = [percent for percent in told if percent is not None]
    assert len(percents) > 2
    assert percents == sorted(percents)
    assert (turn.record.sent_percent, names(turn)) == (None, ["plan.pdf"])


async def test_asked_offline_the_file_is_sent_after_a_restart_though_the_person_deleted_it(open_app, model, network):
    network.cut()
    app = await open_app()
    turn = await ask(app, "later", pdf())
    assert turn.status is TurnStatus.OUTBOX
    await app.close()
    network.repair()
    model.end("later", "here")
    again = await open_app()
    conversation = again.model.open(again.model.conversations[0].conversation_id)
    await again.until(lambda: conversation.messages and conversation.messages[0].answer == "here")
    assert [file.data for file in model.prompts[0].attachments] == [PDF]
    assert names(conversation.messages[0]) == ["plan.pdf"]


async def test_a_copy_that_is_gone_ends_the_question_in_words(open_app, network):
    network.cut()
    app = await open_app()
    await ask(app, "later", pdf())
    await app.close()
    for folder in app.profile.accounts_folder.glob("*.files"):
        shutil.rmtree(folder)
    network.repair()
    again = await open_app()
    conversation = again.model.open(again.model.conversations[0].conversation_id)
    await again.until(lambda: conversation.messages and conversation.messages[0].status is TurnStatus.FAILED)
    assert conversation.messages[0].record.failure.code is FailureCode.ATTACHMENT_MISSING


async def test_regenerated_with_the_same_file_also_after_a_restart(open_app, model):
    app = await open_app()
    model.end("What is it?", "one")
    turn = await ask(app, "What is it?", pdf())
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    await app.close()
    again = await open_app()
    await again.online()
    conversation = again.model.open(again.model.conversations[0].conversation_id)
    await again.until(lambda: conversation.messages)
    model.end("What is it?", "two")
    conversation.regenerate(turn.request_id)
    await again.until(lambda: conversation.messages and conversation.messages[-1].answer == "two")
    assert [[file.data for file in prompt.attachments] for prompt in model.prompts] == [[PDF], [PDF]]


async def test_another_device_sees_the_names_and_says_that_it_has_no_file(open_app, model):
    app = await open_app()
    model.end("What is it?", "one")
    turn = await ask(app, "What is it?", pdf())
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    other = await open_app("two")
    await other.until(lambda: other.model.conversations)
    conversation = other.model.open(other.model.conversations[0].conversation_id)
    await other.until(lambda: conversation.messages)
    assert names(conversation.messages[0]) == ["plan.pdf"]
    conversation.regenerate(turn.request_id)
    await other.until(lambda: other.model.notices)
    assert [(one.code, dict(one.facts)) for one in other.model.notices] == [
        (NoticeCode.FILE_GONE, {"name": "plan.pdf"})
    ]
    assert conversation.draft == "What is it?"


async def fetched(app, named):
    app.model.exported = None
    app.engine.fetch_file(named)
    await app.until(lambda: app.model.exported or app.model.notices)
    return app.model.exported


async def test_another_device_fetches_a_file_and_then_has_it_too(open_app, model, network):
    app = await open_app()
    model.end("What is it?", "one")
    turn = await ask(app, "What is it?", pdf("계획.pdf"))
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    other = await open_app("two")
    await other.until(lambda: other.model.conversations)
    conversation = other.model.open(other.model.conversations[0].conversation_id)
    await other.until(lambda: conversation.messages)
    (named,) = conversation.messages[0].record.attachments
    file = (await fetched(other, named)).file
    assert (file.name, file.media_type, file.data) == ("계획.pdf", "application/pdf", PDF)
    network.cut()
    assert (await fetched(other, named)).file.data == PDF
    network.repair()
    await other.online()
    model.end("What is it?", "two")
    conversation.regenerate(turn.request_id)
    await other.until(lambda: conversation.messages and conversation.messages[-1].answer == "two")
    gone = msgspec.structs.replace(named, sha256="0" * 64)
    assert await fetched(other, gone) is None
    assert [(one.code, dict(one.facts)) for one in other.model.notices] == [
        (NoticeCode.FILE_LOST, {"name": "계획.pdf"})
    ]


async def test_a_file_that_cannot_be_fetched_now_is_told(open_app, model):
    app = await open_app()
    model.end("What is it?", "one")
    turn = await ask(app, "What is it?", pdf())
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    for folder in app.profile.accounts_folder.glob("*.files"):
        shutil.rmtree(folder)
    app.engine._controller._account._client = None
    assert await fetched(app, turn.record.attachments[0]) is None
    assert [one.code for one in app.model.notices] == [NoticeCode.FILE_UNREACHABLE]


async def test_what_the_model_does_not_take_fails_and_the_copy_stays_for_the_next_try(open_app):
    app = await open_app()
    turn = await ask(app, "What is it?", File(name="a.png", data=b"\x89PNG\r\n\x1a\n"))
    await app.until(lambda: turn.status is TurnStatus.FAILED)
    assert turn.record.failure.code is FailureCode.FORBIDDEN
    assert copies(app) == [turn.record.attachments[0].sha256]
