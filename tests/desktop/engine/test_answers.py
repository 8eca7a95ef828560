"""Questions and answers through the engine and the view models, against a real gateway."""

from answerback.ports import ModelError
from answerback.protocol.errors import ErrorCode
from answerback_desktop.engine.events import ConnectionStatus, TextAppended
from answerback_desktop.records import FailureCode, TurnStatus


async def test_an_answer_with_all_its_facts(open_app, model):
    app = await open_app()
    turn = await app.ask("What is a WebSocket?\nReally?")
    model.say("What is a WebSocket?\nReally?", "A connection ")
    await app.shows(turn, "A connection ")
    assert turn.status is TurnStatus.STREAMING
    assert not turn.status.is_over
    model.end("What is a WebSocket?\nReally?", "that stays.", reason="length")
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    assert turn.answer == "A connection that stays."
    told = turn.record
    assert (told.tokens.input_tokens, told.tokens.output_tokens, told.model, turn.is_cut) == (3, 5, "dictated", True)
    assert told.times.total_ms >= told.times.queued_ms
    assert app.model.current.title == "What is a WebSocket?"
    assert app.model.connection.models == ("dictated",)
    await app.until(lambda: app.model.connection.round_trip_ms is not None)


async def test_three_conversations_stream_at_once_each_in_its_place(open_app, model):
    app = await open_app()
    turns = {name: await app.ask(name) for name in ("red", "green", "blue")}
    conversations = {name: next(c for c in app.model.conversations if c.title == name) for name in turns}
    for name in turns:
        model.say(name, f"{name} begins, ")
    for name, turn in turns.items():
        await app.shows(turn, f"{name} begins, ")
    assert all(conversation.is_streaming for conversation in app.model.conversations)
    assert app.model.pending == 3
    for name in turns:
        model.end(name, f"{name} ends")
    await app.until(lambda: app.model.pending == 0)
    assert {name: turn.answer for name, turn in turns.items()} == {
        name: f"{name} begins, {name} ends" for name in turns
    }
    await app.until(lambda: app.model.unread == 2)
    assert [conversations[name].unread for name in ("red", "green", "blue")] == [1, 1, 0]
    app.model.open(conversations["red"].conversation_id)
    await app.until(lambda: conversations["red"].unread == 0)


async def test_questions_of_one_conversation_wait_for_each_other(open_app, model):
    app = await open_app()
    first = await app.ask("first")
    await app.until(lambda: first.status is TurnStatus.STREAMING)
    second = await app.ask("second", app.model.current)
    await app.until(lambda: second.status is TurnStatus.QUEUED)
    assert second.record.position == 1
    model.end("first", "1")
    model.end("second", "2")
    await app.until(lambda: second.status is TurnStatus.COMPLETED)
    assert [turn.answer for turn in app.model.current.messages] == ["1", "2"]


async def test_a_cut_in_mid_answer_goes_on_from_the_very_character(open_app, model, network):
    app = await open_app()
    turn = await app.ask("story")
    model.say("story", "Once upon ")
    await app.shows(turn, "Once upon ")
    network.cut()
    await app.until(lambda: app.model.connection.status is ConnectionStatus.OFFLINE)
    model.say("story", "a time")
    waiting = await app.ask("while offline")
    assert waiting.status is TurnStatus.OUTBOX
    network.repair()
    await app.shows(turn, "Once upon a time")
    model.end("story", ".")
    model.end("while offline", "here")
    await app.until(lambda: waiting.status is TurnStatus.COMPLETED)
    await app.shows(turn, "Once upon a time.")
    assert turn.revision == 0
    pieces = [event for event in app.events if isinstance(event, TextAppended) and event.request_id == turn.request_id]
    assert "".join(piece.delta for piece in pieces) in ("Once upon a time", "Once upon a time.")
    assert len(model.prompts) == 2


async def test_closed_in_mid_answer_and_opened_again(open_app, model, network):
    app = await open_app()
    turn = await app.ask("story")
    model.say("story", "Once upon ")
    await app.shows(turn, "Once upon ")
    await app.close()
    network.cut()
    again = await open_app()
    (conversation,) = again.model.conversations
    assert conversation.is_streaming
    again.model.open(conversation.conversation_id)
    await again.until(lambda: conversation.messages)
    assert conversation.messages[0].answer == "Once upon "
    network.repair()
    model.end("story", "a time.")
    await again.until(lambda: conversation.messages[0].status is TurnStatus.COMPLETED)
    assert conversation.messages[0].answer == "Once upon a time."
    assert conversation.messages[0].revision == 0
    assert len(model.prompts) == 1


async def test_asked_offline_closed_opened_and_answered(open_app, model, network):
    network.cut()
    app = await open_app()
    turn = await app.ask("patience")
    await app.close()
    assert turn.status is TurnStatus.OUTBOX
    network.repair()
    model.end("patience", "pays")
    again = await open_app()
    conversation = again.model.open(again.model.conversations[0].conversation_id)
    await again.until(lambda: conversation.messages and conversation.messages[0].answer == "pays")


async def test_an_answer_that_ended_while_the_app_was_closed(open_app, model, network):
    app = await open_app()
    turn = await app.ask("late")
    await app.until(lambda: turn.status is TurnStatus.STREAMING)
    await app.close()
    model.end("late", "but here")
    again = await open_app()
    conversation = again.model.open(again.model.conversations[0].conversation_id)
    await again.until(lambda: conversation.messages and conversation.messages[0].status is TurnStatus.COMPLETED)
    assert conversation.messages[0].answer == "but here"
    assert len(model.prompts) == 1


async def test_stop_keeps_what_there_was(open_app, model):
    app = await open_app()
    turn = await app.ask("long")
    model.say("long", "word ")
    await app.shows(turn, "word ")
    app.model.current.stop(turn.request_id)
    await app.until(lambda: turn.status is TurnStatus.CANCELLED)
    assert turn.answer == "word "
    assert turn.can_retry
    assert app.model.unread == 0


async def test_a_question_that_never_left_is_stopped_here(open_app, network):
    network.cut()
    app = await open_app()
    turn = await app.ask("never mind")
    app.model.current.stop(turn.request_id)
    await app.until(lambda: turn.status is TurnStatus.CANCELLED)


async def test_failed_and_asked_again(open_app, model):
    app = await open_app()
    turn = await app.ask("flaky")
    model.fail("flaky", ModelError(ErrorCode.MODEL_FAILED, "inside"))
    await app.until(lambda: turn.status is TurnStatus.FAILED)
    assert (turn.record.failure.code, turn.can_retry) == (FailureCode.MODEL_FAILED, True)
    model.end("flaky", "better")
    conversation = app.model.current
    second = conversation.retry(turn.request_id)
    await app.until(lambda: conversation.turn(second) and conversation.turn(second).answer == "better")
    await app.until(lambda: [turn.request_id for turn in conversation.messages] == [second])


async def test_regenerate_takes_the_place_and_gives_it_back_if_it_is_stopped(open_app, model):
    app = await open_app()
    first = await app.ask("one")
    model.end("one", "1")
    await app.until(lambda: first.status is TurnStatus.COMPLETED)
    conversation = app.model.current
    second = await app.ask("two", conversation)
    model.end("two", "2")
    await app.until(lambda: second.status is TurnStatus.COMPLETED)
    stopped = conversation.regenerate(first.request_id)
    await app.until(lambda: [turn.request_id for turn in conversation.messages] == [stopped])
    conversation.stop(stopped)
    await app.until(lambda: len(conversation.messages) == 3)
    assert [turn.answer for turn in conversation.messages] == ["1", "2", ""]
    edited = conversation.edit_and_resend(first.request_id, "one, please")
    model.end("one, please", "1!")
    await app.until(lambda: [turn.answer for turn in conversation.messages] == ["1!"])
    assert conversation.messages[0].request_id == edited
    assert [said.text for said in model.prompts[-1].messages] == ["one, please"]


async def test_too_large_a_question_is_back_in_the_draft(open_app):
    app = await open_app()
    await app.online()
    conversation = app.model.new_conversation()
    text = "x" * 200_000
    conversation.ask(text)
    await app.until(lambda: app.model.notices)
    assert conversation.draft == text
    assert conversation.messages == []
    assert app.model.notices[0].facts["limit_bytes"] == 131_072


async def test_drafts_survive(open_app):
    app = await open_app()
    conversation = app.model.new_conversation()
    conversation.set_draft("half a thou")
    await app.close()
    again = await open_app()
    assert [one.draft for one in again.model.conversations] == ["half a thou"]
    assert again.model.conversations[0].title == ""
