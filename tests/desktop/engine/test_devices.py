"""What one device asks, on another one of the same person: live where the conversation is open, and in the list."""

import pytest

from answerback.client import Client, Done, RequestCancelled
from answerback.gateway.app import Gateway
from answerback.gateway.settings import Caps, GatewaySettings
from answerback_desktop.engine.devices import Devices
from answerback_desktop.engine.events import NoticeCode, TextAppended, TurnChanged
from answerback_desktop.records import Traits, TurnStatus
from answerback_desktop.store.schema import Database
from answerback_desktop.store.store import AccountStore
from network import Network


@pytest.fixture
async def laptop(network):
    """Another app of the same person."""
    async with Client(network.url, user="ada") as client:
        yield client


@pytest.fixture
async def trip(open_app, model, laptop):
    """The app, and in it a conversation that is open and watched."""
    app = await open_app()
    first = await app.ask("first")
    model.end("first", "1")
    await app.until(lambda: first.status is TurnStatus.COMPLETED)
    conversation = app.model.current
    await watched(app, model, laptop)
    return app, conversation


async def watched(app, model, laptop, words="are you there"):
    """Ask on the laptop until it is seen in the app, and end it: the app watches from then on."""
    conversation = app.model.current
    laptop.stream(words, conversation=conversation.conversation_id)
    await app.until(lambda: found(conversation, words) is not None)
    model.end(words, "yes")
    await app.until(lambda: found(conversation, words).answer == "yes" and settled(conversation, words))


def found(conversation, question):
    return next((turn for turn in conversation.messages if turn.question == question), None)


def settled(conversation, question):
    turn = found(conversation, question)
    return turn is not None and turn.status.is_over and not turn.record.is_elsewhere


def dialogue(conversation):
    return [(turn.question, turn.answer) for turn in conversation.messages]


def rows(app):
    """Every turn in the app's store."""
    (path,) = app.profile.folder.glob("accounts/**/*.db")
    database = Database(path)
    try:
        store = AccountStore(database)
        return [
            (turn.question, turn.answer, turn.status)
            for one in store.conversations()
            for turn in store.page(one.conversation_id, limit=None).turns
        ]
    finally:
        database.close()


async def test_an_answer_of_another_device_grows_live_and_is_one_turn_in_the_end(trip, model, laptop):
    app, conversation = trip
    stream = laptop.stream("second", conversation=conversation.conversation_id)
    await app.until(lambda: found(conversation, "second") is not None)
    turn = found(conversation, "second")
    assert turn.record.is_elsewhere
    assert not turn.status.is_over
    model.say("second", "It ")
    await app.shows(turn, "It ")
    assert turn.status is TurnStatus.STREAMING
    model.say("second", "grows, ")
    await app.shows(turn, "It grows, ")
    assert any(isinstance(event, TextAppended) and event.delta == "grows, " for event in app.events)
    model.end("second", "and ends.")
    await app.until(lambda: settled(conversation, "second"))
    assert (turn.answer, turn.status, turn.record.tokens.output_tokens) == (
        "It grows, and ends.",
        TurnStatus.COMPLETED,
        5,
    )
    await stream.answer
    expected = [("first", "1"), ("are you there", "yes"), ("second", "It grows, and ends.")]
    assert dialogue(conversation) == expected
    third = await app.ask("third", conversation)
    model.end("third", "3")
    await app.until(lambda: third.status is TurnStatus.COMPLETED)
    await app.close()
    assert rows(app) == [(*one, TurnStatus.COMPLETED) for one in [*expected, ("third", "3")]]


async def test_an_answer_that_runs_already_is_shown_from_its_first_character(open_app, model, laptop):
    app = await open_app()
    stream = laptop.stream("first", conversation="c")
    model.say("first", "From the ")
    async for piece in stream:
        assert piece == "From the "
        break
    model.end("first", "start.")
    await stream.answer
    laptop.stream("second", conversation="c")
    model.say("second", "So it ")
    await app.until(lambda: app.model.conversation("c") is not None)
    conversation = app.model.open("c")
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "So it ")
    model.end("second", "began.")
    whole = [("first", "From the start."), ("second", "So it began.")]  # the first of them from the history
    await app.until(lambda: settled(conversation, "second") and dialogue(conversation) == whole)


async def test_a_cut_costs_no_character(trip, model, laptop, network):
    app, conversation = trip
    laptop.stream("second", conversation=conversation.conversation_id)
    model.say("second", "before ")
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "before ")
    network.cut()
    await app.until(lambda: not app.model.connection.is_online)
    model.say("second", "during ")
    network.repair()
    turn = found(conversation, "second")
    await app.shows(turn, "before during ")
    network.cut()
    await app.until(lambda: not app.model.connection.is_online)
    model.end("second", "after")
    network.repair()
    await app.until(lambda: settled(conversation, "second"))
    assert dialogue(conversation)[2:] == [("second", "before during after")]
    shown = [event.turn.answer for event in app.events if isinstance(event, TurnChanged)]
    assert "during " not in shown


async def test_an_answer_that_begins_anew_is_shown_anew(stack, tmp_path, open_app, model):
    settings = GatewaySettings(
        port=0, admin_port=None, grace_s=0.0, models=("echo",), coalesce_ms=1, data_dir=tmp_path / "restarted"
    )
    gateway = Gateway(settings, models=(model,))
    await gateway.__aenter__()
    network = await stack.enter_async_context(Network(gateway.url))
    app = await open_app(url=network.url)
    first = await app.ask("first")
    model.end("first", "1")
    await app.until(lambda: first.status is TurnStatus.COMPLETED)
    conversation = app.model.current
    laptop = await stack.enter_async_context(Client(network.url, user="ada"))
    laptop.stream("second", conversation=conversation.conversation_id)
    model.say("second", "old words")
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "old words")
    network.cut()
    await gateway.__aexit__(None, None, None)
    again = await stack.enter_async_context(Gateway(settings, models=(model,)))
    network.repair(again.url)
    turn = found(conversation, "second")
    model.say("second", "new ")
    await app.shows(turn, "new ")
    assert turn.revision > 0
    model.end("second", "words")
    await app.until(lambda: settled(conversation, "second"))
    assert dialogue(conversation) == [("first", "1"), ("second", "new words")]


async def test_either_device_stops_it(trip, model, laptop):
    app, conversation = trip
    stream = laptop.stream("second", conversation=conversation.conversation_id)
    model.say("second", "so far")
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "so far")
    conversation.stop_all()
    await app.until(lambda: settled(conversation, "second"))
    turn = found(conversation, "second")
    assert (turn.status, turn.answer) == (TurnStatus.CANCELLED, "so far")
    with pytest.raises(RequestCancelled):
        await stream.answer


async def test_asking_again_elsewhere_takes_the_place_of_the_turn_and_gives_it_back_if_it_fails(trip, model, laptop):
    app, conversation = trip
    replaced = found(conversation, "are you there").request_id
    stream = laptop.stream("better", conversation=conversation.conversation_id, replaces=replaced)
    model.say("better", "words")
    await app.until(lambda: (turn := found(conversation, "better")) is not None and turn.answer == "words")
    assert [question for question, _ in dialogue(conversation)] == ["first", "better"]
    stream.cancel()
    await app.until(lambda: settled(conversation, "better"))
    asked = ["first", "are you there", "better"]
    await app.until(lambda: [question for question, _ in dialogue(conversation)] == asked)
    laptop.stream("best", conversation=conversation.conversation_id, replaces=replaced)
    model.end("best", "of all")
    await app.until(lambda: dialogue(conversation)[:2] == [("first", "1"), ("best", "of all")])


async def test_only_the_open_conversation_is_watched(trip, model, laptop):
    app, conversation = trip
    name = conversation.conversation_id
    laptop.stream("second", conversation=name)
    model.say("second", "so far")
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "so far")
    other = app.model.new_conversation()
    await app.until(lambda: found(conversation, "second") is None)
    assert conversation.pending == 0
    before = len(app.events)
    model.end("second", " and more")
    await app.until(lambda: conversation.unread == 1)
    assert not [event for event in app.events[before:] if isinstance(event, TextAppended)]
    assert app.model.current is other
    app.model.open(name)
    await app.until(lambda: dialogue(conversation)[2:] == [("second", "so far and more")])


async def test_a_window_that_is_hidden_watches_nothing_and_one_behind_others_does(trip, model, laptop):
    app, conversation = trip
    app.model.set_shown(False, is_visible=True)
    laptop.stream("second", conversation=conversation.conversation_id)
    model.say("second", "so far")
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "so far")
    app.model.set_shown(False, is_visible=False)
    await app.until(lambda: found(conversation, "second") is None)
    app.model.set_shown(False, is_visible=True)
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "so far")
    model.end("second", ".")
    await app.until(lambda: settled(conversation, "second") and conversation.unread == 1)


async def test_a_crash_in_mid_answer_leaves_nothing_that_the_history_does_not_mend(trip, model, laptop, open_app):
    app, conversation = trip
    name = conversation.conversation_id
    stream = laptop.stream("second", conversation=name)
    model.say("second", "so ")
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "so ")
    await app.close()
    assert [question for question, *_ in rows(app)] == ["first", "are you there"]
    model.end("second", "far")
    await stream.answer
    again = await open_app()
    await again.online()
    conversation = again.model.open(name)
    await again.until(lambda: dialogue(conversation)[2:] == [("second", "so far")])
    await again.close()
    assert rows(again)[2:] == [("second", "so far", TurnStatus.COMPLETED)]


async def test_a_long_question_is_whole_in_the_end(trip, model, laptop):
    app, conversation = trip
    question = "long " * 5_000 + "."
    laptop.stream(question, conversation=conversation.conversation_id)
    await app.until(lambda: len(conversation.messages) == 3)
    turn = conversation.messages[-1]
    assert turn.question.endswith("…")
    assert question.startswith(turn.question[:-1])
    model.end(question, "short")
    await app.until(lambda: turn.question == question and turn.answer == "short")


async def test_the_list_stays_in_step_and_what_is_only_here_stays(trip, model, laptop):
    app, conversation = trip
    name = conversation.conversation_id
    conversation.set_traits(is_pinned=True, tags=("work",))
    conversation.set_draft("half a question")
    laptop.stream("new one", conversation="new")
    model.end("new one", "!")
    await app.until(lambda: app.model.conversation("new") is not None and app.model.conversation("new").unread == 0)
    await laptop.rename(name, "Better words")
    await app.until(lambda: conversation.title == "Better words")
    assert (conversation.traits, conversation.draft) == (Traits(is_pinned=True, tags=("work",)), "half a question")
    await laptop.delete("new")
    await app.until(lambda: app.model.conversation("new") is None)
    await laptop.restore("new")
    await app.until(lambda: app.model.conversation("new") is not None)
    there = app.model.open("new")
    await app.until(lambda: dialogue(there) == [("new one", "!")])


async def test_what_happened_while_the_connection_was_lost_is_in_the_list_then(trip, model, laptop, network):
    app, conversation = trip
    await laptop.rename(conversation.conversation_id, "One")
    await app.until(lambda: conversation.title == "One")
    network.cut()
    await app.until(lambda: not app.model.connection.is_online)
    network.repair()
    await laptop.rename(conversation.conversation_id, "Two")
    await app.until(lambda: conversation.title == "Two")


async def test_a_conversation_deleted_elsewhere_while_it_is_open_says_so_and_comes_back(trip, laptop):
    app, conversation = trip
    name = conversation.conversation_id
    before = dialogue(conversation)
    await laptop.delete(name)
    await app.until(lambda: app.model.notices and app.model.conversation(name) is None)
    notice = app.model.notices.popleft()
    assert notice.code is NoticeCode.DELETED_ELSEWHERE
    assert notice.facts == {"conversation_id": name, "title": "first"}
    app.engine.undo_delete(name)
    await app.until(lambda: app.model.conversation(name) is not None)
    restored = app.model.open(name)
    await app.until(lambda: dialogue(restored) == before)


async def test_a_draft_in_a_conversation_deleted_elsewhere_stays(trip, laptop):
    app, conversation = trip
    conversation.set_draft("half a question")
    await laptop.delete(conversation.conversation_id)
    await app.until(lambda: app.model.notices and found(conversation, "are you there") is None)
    assert app.model.current is conversation
    assert conversation.draft == "half a question"
    await laptop.restore(conversation.conversation_id)
    await app.until(lambda: [question for question, _ in dialogue(conversation)] == ["first", "are you there"])


async def test_an_answer_that_comes_in_a_conversation_deleted_elsewhere_is_not_shown(trip, model, laptop):
    app, conversation = trip
    conversation.set_draft("half a question")
    laptop.stream("second", conversation=conversation.conversation_id)
    model.say("second", "so far")
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "so far")
    await laptop.delete(conversation.conversation_id)
    await app.until(lambda: app.model.notices and dialogue(conversation) == [])
    model.end("second", ", and on")
    other = laptop.stream("after that", conversation="other")
    model.end("after that", "yes")
    await other.answer
    await app.until(lambda: app.model.conversation("other") is not None)
    assert dialogue(conversation) == []
    assert len(app.model.notices) == 1


async def test_another_person_is_shown_nothing(trip, model, open_app, network):
    app, conversation = trip
    other = await open_app("bob", user="bob")
    await other.online()
    seen = len(other.events)
    async with Client(network.url, user="ada") as laptop:
        answer = laptop.stream("second", conversation=conversation.conversation_id)
        model.end("second", "for ada")
        await answer.answer
    await app.until(lambda: settled(conversation, "second"))
    mine = await other.ask("mine")
    model.end("mine", "for bob")
    await other.until(lambda: mine.status is TurnStatus.COMPLETED)
    told = [event.turn.question for event in other.events[seen:] if isinstance(event, TurnChanged)]
    assert set(told) == {"mine"}


async def test_what_the_history_has_brought_is_not_shown_a_second_time(trip, model, laptop, monkeypatch):
    app, conversation = trip
    take = Devices._take
    laptop.stream("second", conversation=conversation.conversation_id)
    model.say("second", "so far")
    await app.until(lambda: (turn := found(conversation, "second")) is not None and turn.answer == "so far")
    late: list[tuple[Devices, tuple[object, ...]]] = []
    monkeypatch.setattr(Devices, "_take", lambda devices, *news: late.append((devices, news)))
    model.end("second", ", and on")
    await app.until(lambda: settled(conversation, "second"))
    assert found(conversation, "second").answer == "so far, and on", "from the history, after the hint"
    await app.until(lambda: any(isinstance(news[-1], Done) for _, news in late))
    before = len(app.events)
    for devices, news in late:
        take(devices, *news)
    app.pump()
    assert not [event for event in app.events[before:] if isinstance(event, TextAppended | TurnChanged)]


async def test_a_server_that_does_not_offer_it_is_as_before(tmp_path, start_gateway, open_app, model):
    gateway = await start_gateway(caps=Caps(watchers=0), data_dir=tmp_path / "another")
    app = await open_app(url=gateway.url)
    first = await app.ask("first")
    model.end("first", "1")
    await app.until(lambda: first.status is TurnStatus.COMPLETED)
    conversation = app.model.current
    async with Client(gateway.url, user="ada") as laptop:
        answer = laptop.stream("second", conversation=conversation.conversation_id)
        model.end("second", "2")
        await answer.answer
    app.engine.refresh()
    await app.until(lambda: dialogue(conversation) == [("first", "1"), ("second", "2")])
    assert not app.model.notices


async def test_what_is_asked_here_is_no_news_that_the_server_is_asked_about(open_app, model, laptop, monkeypatch):
    app = await open_app()
    first = await app.ask("first")
    model.end("first", "1")
    await app.until(lambda: first.status is TurnStatus.COMPLETED)
    await watched(app, model, laptop)
    listed, read = [], Client.conversations
    monkeypatch.setattr(Client, "conversations", lambda client: listed.append(client) or read(client))
    for name in map(str, range(8)):
        turn = await app.ask(name, app.model.current)
        model.end(name, name)
        await app.until(lambda turn=turn: turn.status is TurnStatus.COMPLETED)
    async with Client(app.model.account.server_url, user="ada") as other:
        await other.rename(app.model.current.conversation_id, "told after that")
    await app.until(lambda: app.model.current.title == "told after that")
    assert len(listed) <= 3, "for the title, and for what the other device asked"
