"""The asyncio client that watches, against a scripted gateway: what a reader gets, how slow it may be, and its end."""

import asyncio

import pytest

from answerback.client import (
    Asked,
    ChangesMissed,
    Client,
    Closed,
    Done,
    Failed,
    RequestFailed,
    RequestTimeout,
    Started,
    Text,
    Timing,
    TurnsMissed,
    Watched,
)
from answerback.client.watch_state import MAX_MISSED
from answerback.protocol.frames import ConversationChanged

QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.002, close_s=0.5, call_timeout_s=0.2)


@pytest.fixture
def watched(gateway):
    gateway.features = ("watch",)
    return gateway


async def entered(app, gateway, *, number=1):
    """Begin to watch; the connection and the watch."""
    watch = app.watch("c")
    assert not watch.is_live
    entering = asyncio.create_task(watch.__aenter__())
    peer = await gateway.peer()
    await peer.hold(number)
    return peer, await entering


async def gone(watch, peer, number):
    """Leave it, and wait until the server knows."""
    await watch.__aexit__(None, None, None)
    frame = await peer.get("watch")
    assert (frame["number"], frame["off"]) == (number, True)


async def heard(app, peer):
    """Wait until the client has read everything that was sent to it."""
    ping = asyncio.create_task(app.ping())
    await peer.get("ping")
    await peer.send({"action": "pong"})
    await ping


async def test_what_another_app_asks_is_shown_with_its_answer(watched):
    async with Client(watched.url) as app:
        peer, watch = await entered(app, watched)
        assert watch.is_live
        assert watch.conversation_id == "c"
        await peer.ask("a")
        await peer.say("a", 0, "Hi ")
        items = aiter(watch)
        first = await anext(items)
        assert isinstance(first, Watched)
        assert (first.request_id, first.event.question) == ("a", "a?")
        assert [type((await anext(items)).event) for _ in range(2)] == [Started, Text]
        await peer.say("a", 3, "you.")
        await peer.end("a", 7)
        request_id, text = await anext(items)
        assert (request_id, text.delta, text.snapshot) == ("a", "you.", "Hi you.")
        assert (await anext(items)).event.answer.text == "Hi you."
        await gone(watch, peer, 2)
        with pytest.raises(StopAsyncIteration):
            await anext(items)


async def test_a_conversation_has_one_name(watched):
    async with Client(watched.url) as app:
        entering = asyncio.create_task(app.watch("cafe\u0301").__aenter__())
        peer = await watched.peer()
        await peer.hold(1, conversation="caf\u00e9")
        watch = await entering
        assert watch.conversation_id == "caf\u00e9"
        await peer.ask("a", conversation="caf\u00e9")
        async for request_id, event in watch:
            assert (request_id, type(event)) == ("a", Asked)
            break


async def test_a_plain_loop_begins_and_ends_it(watched):
    async with Client(watched.url) as app:
        peer = await watched.peer()

        async def first():
            async for item in app.watch("c"):
                shown.append(item.request_id)
                break

        shown = []
        reading = asyncio.create_task(first())
        await peer.hold(1)
        await peer.ask("a")
        await reading
        assert shown == ["a"]
        assert (await peer.get("watch"))["off"]
        assert app._watches._watches == app._watches._is_live == {}


async def test_a_loop_inside_of_async_with_may_be_left_and_begun_again(watched):
    async with Client(watched.url) as app:
        peer, watch = await entered(app, watched)
        await peer.ask("a")
        await peer.ask("b")
        for wanted in ("a", "b"):
            async for request_id, _ in watch:
                assert request_id == wanted
                break
        await gone(watch, peer, 2)


async def test_the_outermost_of_nested_ones_ends_it(watched):
    async with Client(watched.url) as app:
        peer, watch = await entered(app, watched)
        async with watch as again:
            await peer.ask("a")
            assert (await again.next()).request_id == "a"
        assert watch.is_live
        await peer.ask("b")
        async for request_id, _ in watch:
            assert request_id == "b"
            break
        await gone(watch, peer, 2)
        assert not watch.is_live


async def test_one_that_is_over_cannot_be_begun_again(watched):
    async with Client(watched.url) as app:
        peer, watch = await entered(app, watched)
        await gone(watch, peer, 2)
        assert not watch.is_live
        with pytest.raises(RuntimeError, match="begin another"):
            await watch.__aenter__()


async def test_a_reader_that_is_cancelled_loses_nothing(watched):
    async with Client(watched.url) as app:
        peer, watch = await entered(app, watched)
        waiting = asyncio.create_task(watch.next())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await peer.ask("a")
        assert (await watch.next()).request_id == "a"


async def test_a_server_without_it_says_so_at_once(gateway):
    async with Client(gateway.url) as app:
        with pytest.raises(RequestFailed, match="does not show answers to other devices"):
            async with app.watch("c"):
                pass
        with pytest.raises(RequestFailed, match="does not show answers to other devices"):
            await anext(aiter(app.changes()))
        with pytest.raises(RequestFailed, match="does not show answers to other devices"):
            app.cancel("a", conversation="c")
        app.cancel("a")


async def test_one_that_is_refused_says_why_and_another_one_may_be_begun(watched):
    async with Client(watched.url) as app:
        entering = asyncio.create_task(app.watch("c").__aenter__())
        peer = await watched.peer()
        frame = await peer.get("watch")
        refusal = {"code": "invalid_frame", "message": "no", "requestId": frame["requestId"]}
        await peer.send({"action": "error", **refusal})
        with pytest.raises(RequestFailed, match="no"):
            await entering
        entering = asyncio.create_task(app.watch("c").__aenter__())
        await peer.hold(2)
        assert (await entering).is_live


async def test_a_server_that_lost_it_while_it_was_watched(watched):
    async with Client(watched.url, timing=QUICK) as app:
        peer, watch = await entered(app, watched)
        await peer.ask("a")
        await heard(app, peer)
        watched.features = ()
        await peer.cut()
        assert (await watch.next()).request_id == "a"
        for _ in range(2):
            with pytest.raises(RequestFailed, match="does not show answers to other devices"):
                await watch.next()
        assert not watch.is_live
        assert app._watches._watches == app._watches._is_live == {}


async def test_a_server_that_does_not_answer_is_given_up_where_it_is_waited_for(watched):
    async with Client(watched.url, timing=QUICK) as app:
        with pytest.raises(RequestTimeout):
            async with app.watch("c"):
                pass
        peer = await watched.peer()
        assert not (await peer.get("watch")).get("off")
        assert (await peer.get("watch"))["off"]


async def test_no_room_for_one_more(watched):
    async with Client(watched.url) as app:
        watch = app.watch("c")
        entering = asyncio.create_task(watch.__aenter__())
        peer = await watched.peer()
        frame = await peer.get("watch")
        await peer.send({"action": "error", "code": "overloaded", "message": "Full.", "requestId": frame["requestId"]})
        asks = await peer.get("getHistory")
        await peer.send({"action": "history", "requestId": asks["requestId"], "conversationId": "c", "turns": []})
        assert not (await entering).is_live


async def test_closing_the_client_ends_it(watched):
    async with Client(watched.url) as app:
        _, watch = await entered(app, watched)
        reading = asyncio.create_task(watch.next())
    with pytest.raises(Closed):
        await reading
    watch.push(Watched("a", TurnsMissed()))
    watch.close()
    watch.close()
    assert watch._unread == {}
    with pytest.raises(Closed):
        await app.watch("c").next()


async def test_closing_it_ends_the_loop_of_who_reads(watched):
    async with Client(watched.url) as app, asyncio.timeout(10):
        peer, watch = await entered(app, watched)
        reading = asyncio.create_task(anext(aiter(watch), None))
        await heard(app, peer)
        watch.close()
        assert await reading is None


async def test_one_whose_beginning_is_cancelled_is_not_watched(watched):
    async with Client(watched.url) as app:
        entering = asyncio.create_task(app.watch("c").__aenter__())
        peer = await watched.peer()
        await peer.get("watch")
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        assert entering.cancelled()
        assert (await peer.get("watch"))["off"]
        assert app._watches._watches == {}


async def test_before_the_client_is_open():
    with pytest.raises(RuntimeError, match="not open"):
        await Client("ws://127.0.0.1:9").watch("c").next()


# --- slow readers


async def test_what_is_not_read_is_one_piece_for_each_answer(watched):
    async with Client(watched.url) as app:
        peer, watch = await entered(app, watched)
        for rid in "ab":
            await peer.ask(rid)
        for offset in range(200):
            for rid in "ab":
                await peer.say(rid, offset, rid)
        await heard(app, peer)
        assert sum(len(unread) for unread in watch._unread.values()) == 6
        shown = [await watch.next() for _ in range(6)]
        assert [(rid, event.delta) for rid, event in shown if isinstance(event, Text)] == [
            ("a", "a" * 200),
            ("b", "b" * 200),
        ]
        assert watch._unread == {}


async def test_of_answers_that_nobody_reads_the_oldest_are_dropped_and_that_is_said(watched):
    async with Client(watched.url) as app:
        peer, watch = await entered(app, watched)
        await peer.ask("begun")
        await peer.ask("runs")
        await heard(app, peer)
        assert (await watch.next()).request_id == "begun"
        await peer.answer("begun", "yes")
        for number in range(3 * MAX_MISSED):
            await peer.ask(f"r{number}")
            await peer.answer(f"r{number}", "yes")
        await heard(app, peer)
        assert len(watch._unread) == MAX_MISSED
        items = [await watch.next() for _ in range(1 + 1 + 2 + 3 * (MAX_MISSED - 2))]
        assert isinstance(items[0].event, TurnsMissed)
        assert [item.event.question for item in items if isinstance(item.event, Asked)] == [
            "runs?",
            *(f"r{number}?" for number in range(2 * MAX_MISSED + 2, 3 * MAX_MISSED)),
        ]
        assert {item.request_id for item in items if isinstance(item.event, Done)} >= {"begun"}
        assert watch._unread == {}


async def test_text_that_was_not_read_and_is_void_is_dropped(watched):
    async with Client(watched.url) as app:
        peer, watch = await entered(app, watched)
        await peer.ask("a")
        for attempt in range(1, 30):
            await peer.say("a", 0, f"attempt {attempt}", attempt=attempt)
        await peer.end("a", len("attempt 29"), attempt=29)
        await heard(app, peer)
        texts = [event.delta for event in watch._unread["a"] if isinstance(event, Text)]
        assert texts == ["attempt 29"]


# --- several readers


async def test_two_readers_of_one_conversation_are_one_watch(watched):
    async with Client(watched.url) as app:
        peer, first = await entered(app, watched)
        await peer.ask("a")
        await peer.say("a", 0, "Hi ")
        await heard(app, peer)
        with pytest.raises(ValueError, match="watched already"):
            await app.watch("c", after="x").next()
        async with app.watch("c") as second:
            await peer.say("a", 3, "you.")
            await peer.end("a", 7)
            for watch in (first, second):
                events = [(await watch.next()).event for _ in range(3)]
                assert "".join(event.delta for event in events if isinstance(event, Text))[:3] == "Hi "
                while not isinstance((await watch.next()).event, Done):
                    pass
        await gone(first, peer, 2)


async def test_another_app_is_stopped_by_the_conversation(watched):
    async with Client(watched.url) as app:
        peer, watch = await entered(app, watched)
        await peer.ask("a")
        await watch.next()
        app.cancel("a", conversation="c")
        frame = await peer.get("cancelMessage")
        assert (frame["requestId"], frame["conversationId"]) == ("a", "c")
        await peer.end("a", 0, status="cancelled")
        ending = (await watch.next()).event
        assert isinstance(ending, Failed)
        assert ending.error.code == "cancelled"


# --- reconnects


async def test_a_lost_connection_is_made_up_for(watched):
    async with Client(watched.url, timing=Timing(backoff_min_s=0.001, backoff_max_s=0.002)) as app:
        peer, watch = await entered(app, watched)
        await peer.ask("a")
        await peer.say("a", 0, "Hi ")
        await heard(app, peer)
        await peer.cut()
        peer = await watched.peer()
        frame = await peer.hold(2, turn="b")
        assert frame["resume"] == [{"requestId": "a", "attempt": 1, "offset": 3}]
        page = await peer.get("getHistory")
        turns = [
            {
                "requestId": rid,
                "question": f"{rid}?",
                "answer": "Hi you.",
                "status": "completed",
                "askedAt": "then",
                "answeredAt": "later",
            }
            for rid in "ab"
        ]
        await peer.send({"action": "history", "requestId": page["requestId"], "conversationId": "c", "turns": turns})
        answers = {}
        while len(answers) < 2:
            request_id, event = await watch.next()
            if isinstance(event, Done):
                answers[request_id] = event.answer.text
        assert answers == {"a": "Hi you.", "b": "Hi you."}


# --- the list


def changed(conversation, title):
    about = {"conversationId": conversation, "title": title, "turns": 1, "updatedAt": "now"}
    return {"action": "conversationChanged", **about}


async def test_changes_of_the_list(watched):
    async with Client(watched.url) as app:
        peer = await watched.peer()
        changes = aiter(app.changes())
        waiting = asyncio.create_task(anext(changes))
        await peer.hold(1, None)
        assert await waiting == ChangesMissed()
        await peer.send(changed("c", "Old"), changed("d", "Other"), changed("c", "New"))
        await heard(app, peer)
        titles = [(await anext(changes)).title for _ in range(2)]
        assert titles == ["Other", "New"]
        await changes.aclose()
        assert (await peer.get("watch"))["off"]
        async with asyncio.TaskGroup() as group:
            watch = app.changes()
            group.create_task(watch.__aenter__())
            await peer.hold(3, None)
        assert watch._unread
        watch.close()
        assert not watch._unread


async def test_too_many_changes_that_nobody_reads_are_one(watched, monkeypatch):
    monkeypatch.setattr("answerback.client.watching._MAX_CHANGES", 3)
    async with Client(watched.url) as app:
        peer = await watched.peer()
        changes = app.changes()
        entering = asyncio.create_task(changes.__aenter__())
        await peer.hold(1, None)
        await entering
        assert await changes.next() == ChangesMissed()
        await peer.send(*(changed(f"c{number}", "T") for number in range(4)))
        await heard(app, peer)
        assert await changes.next() == ChangesMissed()
        await peer.send(changed("c", "T"))
        last = await changes.next()
        assert isinstance(last, ConversationChanged)
        async with app.changes() as another:
            assert await another.next() == ChangesMissed()
        changes.close()
