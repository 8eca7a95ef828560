"""The asyncio client against a scripted gateway: questions and answers, every step named by the script."""

import asyncio
import contextlib
import random

import pytest

import answerback
from answerback.client import (
    AnswerRestarted,
    Client,
    Closed,
    Done,
    MessageTooLarge,
    ProtocolViolation,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
    Text,
    Timing,
)
from answerback.client.exchange import Timeouts
from answerback.client.session import Session
from answerback.protocol.codec import pieces_of

QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.002, close_s=0.5)


# --- asking


async def test_ask(gateway):
    async with Client(gateway.url) as app:
        asking = asyncio.create_task(app.ask("Hello?"))
        peer = await gateway.peer()
        sent = await peer.get("sendMessage")
        assert (sent["message"], sent.get("stream", False)) == ("Hello?", False)
        await peer.accept(sent["requestId"])
        await peer.answer(sent["requestId"], "Hi.")
        answer = await asking
    assert (answer.text, answer.request_id, answer.conversation_id) == ("Hi.", sent["requestId"], "s-1")
    assert str(answer) == "Hi."


async def test_stream(gateway):
    async with Client(gateway.url) as app:
        stream = app.stream("Hello?")
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.accept(rid)
        await peer.start(rid)
        await peer.say(rid, 0, "Hi ")
        await peer.say(rid, 3, "you.")
        await peer.end(rid, 7)
        assert "".join([piece async for piece in stream]) == "Hi you."
        assert (await stream.answer).text == "Hi you."
        assert stream.conversation_id == "s-1"


async def test_every_field_of_a_question(gateway):
    async with Client(gateway.url) as app:
        app.stream("Q\0?", conversation="c", model="m", system="s", max_tokens=7, replaces="r", request_id="mine")
        peer = await gateway.peer()
        assert await peer.get("sendMessage") == {
            "action": "sendMessage",
            "requestId": "mine",
            "message": "Q?",
            "stream": True,
            "conversationId": "c",
            "model": "m",
            "system": "s",
            "maxTokens": 7,
            "replaces": "r",
            "parts": [],
        }


async def test_events(gateway):
    async with Client(gateway.url) as app:
        stream = app.stream("?")
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.accept(rid, 3)
        events = stream.events()
        assert (await anext(events)).position == 3
        await peer.say(rid, 0, "a")
        await anext(events)
        await peer.say(rid, 1, "b")
        assert [(await anext(events)).delta, (await anext(events)).snapshot] == ["a", "ab"]
        await peer.end(rid, 2)
        assert [type(event) async for event in events] == [Done]
        assert [event async for event in stream.events()] == []


async def test_what_is_not_read_is_kept_as_one_piece(gateway):
    async with Client(gateway.url) as app:
        stream = app.stream("?")
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        for offset in range(100):
            await peer.say(rid, offset, "x")
        await peer.end(rid, 100)
        await stream.answer
        kinds = [event async for event in stream.events()]
        assert [event.delta for event in kinds if isinstance(event, Text)] == ["x" * 100]


async def test_a_failure_is_raised_by_every_way_to_read(gateway):
    async with Client(gateway.url) as app:
        stream = app.stream("?")
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.say(rid, 0, "half")
        error = {"code": "model_failed", "message": "It broke off.", "retryable": True}
        await peer.end(rid, 4, status="failed", error=error)
        assert await anext(stream) == "half"
        with pytest.raises(RequestFailed, match="It broke off"):
            await anext(stream)
        with pytest.raises(RequestFailed) as failed:
            await stream.answer
        assert (failed.value.answer.text, failed.value.code, failed.value.retryable) == ("half", "model_failed", True)
        assert [piece async for piece in stream] == []


async def test_a_restart_with_the_same_words_goes_on_and_with_others_is_an_error(gateway):
    async with Client(gateway.url) as app:
        peer = await gateway.peer()
        same, other = app.stream("?", request_id="same"), app.stream("?", request_id="other", conversation="c")
        for stream in (same, other):
            await peer.get("sendMessage")
            await peer.say(stream.request_id, 0, "one two")
            assert await anext(stream) == "one two"
        await peer.say("same", 0, "one", 2)
        await peer.say("same", 3, " two three", 2)
        await peer.end("same", 13, attempt=2)
        assert [piece async for piece in same] == [" three"]
        await peer.say("other", 0, "uno", 2)
        with pytest.raises(AnswerRestarted):
            await anext(other)
        await peer.end("other", 3, attempt=2)
        assert (await other.answer).text == "uno"


async def test_a_restart_that_ends_sooner_is_an_error(gateway):
    async with Client(gateway.url) as app:
        peer = await gateway.peer()
        stream = app.stream("?", request_id="r")
        await peer.say("r", 0, "one two")
        assert await anext(stream) == "one two"
        await peer.say("r", 0, "one", 2)
        await peer.end("r", 3, attempt=2)
        with pytest.raises(AnswerRestarted):
            await anext(stream)


async def test_cancel(gateway):
    async with Client(gateway.url) as app:
        stream = app.stream("?")
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.say(rid, 0, "half")
        assert await anext(stream) == "half"
        stream.cancel()
        await peer.get("cancelMessage")
        await peer.end(rid, 4, status="cancelled")
        with pytest.raises(RequestCancelled) as cancelled:
            await stream.answer
        assert cancelled.value.answer.text == "half"
        stream.cancel()


async def test_leaving_a_stream_early_stops_it_and_dropping_it_does_not(gateway):
    async with Client(gateway.url) as app:
        peer = await gateway.peer()
        dropped = app.stream("?", request_id="dropped")
        await peer.get("sendMessage")
        await peer.accept("dropped")
        async with app.stream("?", request_id="left") as left:
            await peer.get("sendMessage")
        assert (await peer.get("cancelMessage"))["requestId"] == "left"
        with pytest.raises(RequestCancelled):
            await left.answer
        await peer.say("dropped", 0, "x")
        await peer.end("dropped", 1)
        assert (await dropped.answer).text == "x"


async def test_a_cancelled_task_stops_its_question(gateway):
    async with Client(gateway.url) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await peer.get("cancelMessage"))["requestId"] == rid


async def test_a_time_out_cancels_and_later_frames_are_swallowed(gateway):
    async with Client(gateway.url) as app:
        asking = asyncio.create_task(app.ask("?", timeout=0.05))
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        with pytest.raises(RequestTimeout, match=r"^Request timeout$"):
            await asking
        assert (await peer.get("cancelMessage"))["requestId"] == rid
        await peer.answer(rid, "too late")
        with pytest.raises(TimeoutError):
            await app.ask("again", timeout=0)


async def test_a_whole_app_may_have_one_time_limit_for_each_question_in_all(gateway):
    async with Client(gateway.url, request_timeout=0.05) as app:
        peer = await gateway.peer()
        for ask in (lambda: app.ask("?"), lambda: app.stream("?").answer):
            asking = asyncio.ensure_future(ask())
            rid = (await peer.get("sendMessage"))["requestId"]
            await peer.start(rid)
            while peer.inbox.empty():  # signs do not prolong it
                await peer.send({"action": "messageProgress", "requestId": rid, "attempt": 1, "silentMs": 1})
            assert (await peer.get("cancelMessage"))["requestId"] == rid
            with pytest.raises(RequestTimeout, match=r"^Request timeout$"):
                await asking


@pytest.mark.parametrize(
    ("made", "asked", "ask", "stream"),
    [
        ({}, {}, Timeouts(total_s=1230, silence_s=30, from_call=True), Timeouts(total_s=1230, silence_s=30)),
        ({"request_timeout": 30}, {}, Timeouts(total_s=30), Timeouts(total_s=30, silence_s=30)),
        ({"request_timeout": 30}, {"timeout": 90}, Timeouts(total_s=90), Timeouts(total_s=30, silence_s=90)),
        ({}, {"timeout": 5}, Timeouts(total_s=5), Timeouts(total_s=1230, silence_s=5)),
        ({}, {"model": "quick"}, Timeouts(total_s=650, silence_s=30, from_call=True), None),
    ],
)
async def test_when_a_question_is_given_up(gateway, monkeypatch, made, asked, ask, stream):
    """By the caller's word, by the app's, else by the server's own limits and 30 s without a sign of life."""
    given = []

    def note(session, frame, timeouts, *, now):
        given.append(timeouts)
        raise Closed

    gateway.greets = False
    app = Client(gateway.url, **made)
    opening = asyncio.create_task(app.open())
    peer = await gateway.peer()
    info = {"echo": {"answerTimeoutMs": 600_000}, "quick": {"answerTimeoutMs": 20_000}}
    await peer.welcome(await peer.get("hello"), model_info=info, progressMs=8000)
    await opening
    monkeypatch.setattr(Session, "ask", note)
    with pytest.raises(Closed):
        await app.ask("?", **asked)
    with pytest.raises(Closed):
        app.stream("?", **asked)
    await app.aclose()
    assert given == [ask, stream or given[1]]


async def test_messages_that_cannot_be_sent(gateway):
    async with Client(gateway.url) as app:
        with pytest.raises(MessageTooLarge, match="131072 are allowed"):
            await app.ask("x" * 131_072)
        with pytest.raises(ValueError, match="empty"):
            app.stream(" \0")


async def test_a_large_message_goes_in_fragments(gateway):
    message = "가x" * 25_000
    async with Client(gateway.url) as app:
        app.stream(message)
        peer = await gateway.peer()
        assert (await peer.get("sendMessage"))["message"] == message


@pytest.mark.parametrize("text", ["", "abc", "가나다라", "a\U0001f600b\U0001f600", "x" * 32])
@pytest.mark.parametrize("size", [4, 5, 8])
def test_pieces_are_cut_between_code_points(text, size):
    pieces = list(pieces_of(text.encode(), size))
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= size for piece in pieces)


async def test_a_server_that_contradicts_itself(gateway):
    async with Client(gateway.url) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.socket.send('{"message": "Internal server error", "connectionId": "c", "requestId": "r"}')
        await peer.socket.send(b"\xff\xfe")
        await peer.answer("someone-elses", "secret")
        await peer.end(rid, 99, response="short")
        with pytest.raises(ProtocolViolation):
            await asking
        await peer.get("cancelMessage")


def test_on_uvloop_questions_can_be_asked_while_others_are_due():
    """uvloop's handle for an instant that has come does not say when."""
    uvloop = pytest.importorskip("uvloop", reason="not for Windows")

    async def main():
        async with Client("ws://127.0.0.1:9", offline_start=True, timing=QUICK) as app:
            streams = [app.stream(text, total_timeout=0) for text in ("one", "two", "three")]
            for stream in streams:
                with pytest.raises(RequestTimeout):
                    await stream.answer

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# --- many apps


async def test_many_questions_in_flight_come_home_each(gateway):
    rng = random.Random(7)

    async def answer_all(peer, count):
        asked = []
        for _ in range(count):
            frame = await peer.get("sendMessage")
            await peer.accept(frame["requestId"])
            asked.append(frame)
        rng.shuffle(asked)
        for frame in asked:
            await peer.answer(frame["requestId"], frame["message"].upper())

    async with contextlib.AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(Client(gateway.url)) for _ in range(10)]
        serving = [asyncio.create_task(answer_all(await gateway.peer(), 20)) for _ in apps]
        asking = [app.ask(f"app {a} question {q}") for a, app in enumerate(apps) for q in range(20)]
        answers = await asyncio.gather(*asking)
        await asyncio.gather(*serving)
    assert [answer.text for answer in answers] == [f"APP {a} QUESTION {q}" for a in range(10) for q in range(20)]


def test_the_package_offers_the_client():
    for name in answerback.__all__:
        assert getattr(answerback, name) is not None
    with pytest.raises(AttributeError):
        answerback.nonsense  # noqa: B018
