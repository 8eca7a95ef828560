"""The asyncio client against a scripted gateway: real sockets, every step named by the script."""

import asyncio
import base64
import contextlib
import json
import random
import time

import pytest

import answerback
from answerback.client import (
    AnswerRestarted,
    CannotConnect,
    Client,
    Closed,
    Connected,
    Connecting,
    Disconnected,
    Done,
    Forbidden,
    MessageTooLarge,
    PendingRequest,
    ProtocolViolation,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
    SessionReplaced,
    Stopped,
    Text,
    Timing,
    Unauthorized,
)
from answerback.client.exchange import Timeouts
from answerback.client.link import Address, fragments
from answerback.client.session import Session
from answerback.protocol.frames import SendMessage

QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.002, close_s=0.5)


def jwt(**claims):
    parts = ({"alg": "none"}, claims)
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts), "x"])


# --- asking ---------------------------------------------------------------------------------------------


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
def test_fragments(text, size):
    pieces = list(fragments(text.encode(), size))
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


# --- the connection -------------------------------------------------------------------------------------


async def test_cut_in_mid_answer_it_goes_on_at_the_very_character(gateway):
    async with Client(gateway.url, session="s-1", timing=QUICK) as app:
        stream = app.stream("?")
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.say(rid, 0, "The first ")
        assert await anext(stream) == "The first "
        await peer.cut()
        peer = await gateway.peer()
        assert "sessionId=s-1" in peer.path
        hello = await peer.get("hello")
        assert hello["resume"] == [{"requestId": rid, "attempt": 1, "offset": 10}]
        await peer.say(rid, 10, "half, the second.")
        await peer.end(rid, 27)
        await peer.welcome(hello)
        assert "".join([piece async for piece in stream]) == "half, the second."
        assert (await stream.answer).text == "The first half, the second."


async def test_cut_before_it_was_accepted_it_is_sent_again(gateway):
    async with Client(gateway.url, timing=QUICK) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        first = await peer.get("sendMessage")
        await peer.cut()
        peer = await gateway.peer()
        assert await peer.get("sendMessage") == first
        await peer.answer(first["requestId"], "once")
        assert (await asking).text == "once"


async def test_a_replaced_session_stays_away(gateway):
    async with Client(gateway.url, timing=QUICK) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        await peer.get("sendMessage")
        await peer.send({"action": "error", "code": "session_replaced", "message": "Replaced."})
        with pytest.raises(SessionReplaced):
            await asking
        await peer.closed.wait()
        assert isinstance(app.state, Stopped)
        with pytest.raises(SessionReplaced):
            await app.ask("?")
    assert len(gateway.handshakes) == 1


async def test_a_dead_but_open_connection_is_replaced(gateway):
    timing = Timing(silence_s=0.05, dead_s=0.05, hello_expiry_s=0.02, backoff_min_s=0.001, close_s=0.1)
    async with Client(gateway.url, timing=timing) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        first = await peer.get("sendMessage")
        peer.greets = False
        again = await gateway.peer()
        assert await again.get("sendMessage") == first
        await again.answer(first["requestId"], "here")
        assert (await asking).text == "here"


async def test_waking_up_notices_a_dead_connection(gateway, monkeypatch):
    timing = Timing(watch_s=0.01, jump_s=60, dead_s=0.05, backoff_min_s=0.001, close_s=0.1)
    async with Client(gateway.url, timing=timing):
        peer = await gateway.peer()
        peer.greets = False
        real = time.time
        monkeypatch.setattr("answerback.client.driver.time.time", lambda: real() + 3600)
        await gateway.peer()


async def test_an_old_connection_is_rolled_over_without_a_break(gateway):
    async with Client(gateway.url, timing=QUICK) as app:
        old = await gateway.peer()
        stream = app.stream("?")
        rid = (await old.get("sendMessage"))["requestId"]
        await old.say(rid, 0, "before ")
        assert await anext(stream) == "before "
        await old.welcome({"helloId": "any"}, maxConnectionMs=1)
        new = await gateway.peer()
        hello = await new.get("hello")
        assert hello["resume"] == [{"requestId": rid, "attempt": 1, "offset": 7}]
        assert not old.closed.is_set()
        await old.send({"action": "error", "code": "session_replaced", "message": "Replaced."})
        await old.say(rid, 7, "and ")
        await new.say(rid, 7, "and after")
        await new.end(rid, 16)
        await new.welcome(hello)
        await old.closed.wait()
        assert "".join([piece async for piece in stream]) == "and after"
        assert isinstance(app.state, Connected)


async def test_a_roll_over_that_fails_is_tried_again_soon(gateway):
    """With the pauses of a lost connection, which grow from a quarter of a second; once it was 30 s at once."""
    timing = Timing(backoff_min_s=0.001, backoff_max_s=3600)
    async with Client(gateway.url, timing=timing) as app:
        old = await gateway.peer()
        gateway.refuse = [503, 502, 503]
        await old.welcome({"helloId": "any"}, maxConnectionMs=1)
        await gateway.peer()
        assert len(gateway.handshakes) == 5
        await old.closed.wait()
        assert isinstance(app.state, Connected)


async def test_states(gateway):
    seen = []
    async with Client(gateway.url, timing=QUICK, on_state=seen.append) as app:
        peer = await gateway.peer()
        states = app.states()
        assert isinstance(await anext(states), Connected)
        await peer.cut()
        later = [type(await anext(states)) for _ in range(3)]
        assert later == [Disconnected, Connecting, Connected]
    assert [type(state) async for state in states] == [Stopped]
    assert [type(state) for state in seen] == [Connecting, Connected, Disconnected, Connecting, Connected, Stopped]
    assert app.limits.max_pending == 1000


async def test_a_listener_that_fails_harms_nothing(gateway):
    async with Client(gateway.url, on_state=lambda state: 1 / 0) as app:
        assert isinstance(app.state, Connected)


async def test_ping(gateway):
    async with Client(gateway.url) as app:
        peer = await gateway.peer()
        pinging = asyncio.create_task(app.ping())
        await peer.get("ping")
        await peer.send({"action": "pong"})
        assert await pinging >= 0


async def test_questions_are_kept_while_offline(gateway):
    gateway.refuse = [503] * 3
    async with Client(gateway.url, timing=QUICK, offline_start=True) as app:
        asking = asyncio.create_task(app.ask("?"))
        peer = await gateway.peer()
        rid = (await peer.get("sendMessage"))["requestId"]
        await peer.answer(rid, "at last")
        assert (await asking).text == "at last"
    assert len(gateway.handshakes) == 4


async def test_busy_servers_are_tried_again(gateway):
    gateway.refuse = [429, 503, 500]
    async with Client(gateway.url, timing=QUICK):
        assert len(gateway.handshakes) == 4


async def test_closing_ends_what_is_under_way(gateway):
    async with Client(gateway.url) as app:
        stream = app.stream("?")
        peer = await gateway.peer()
        await peer.get("sendMessage")
    with pytest.raises(Closed):
        await stream.answer
    with pytest.raises(Closed):
        await app.ask("?")
    await peer.closed.wait()
    assert peer.inbox.empty()


async def test_closing_sends_what_is_queued(gateway):
    asked = [f"r{n}" for n in range(40)]  # more than the sockets' buffers hold
    async with Client(gateway.url, timing=Timing(close_s=30)) as app:
        for rid in asked:
            app.stream("x" * 120_000, request_id=rid, conversation=rid)
    peer = await gateway.peer()
    assert [(await peer.get("sendMessage"))["requestId"] for _ in asked] == asked


# --- refusals and addresses -----------------------------------------------------------------------------


async def test_nobody_listens(unused_tcp_port):
    with pytest.raises(CannotConnect, match="answerback serve") as failed:
        async with Client(f"ws://127.0.0.1:{unused_tcp_port}"):
            pass
    assert isinstance(failed.value, ConnectionError)


async def test_tls_to_a_port_without_it():
    async def refuse(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(CannotConnect, match="this port speaks ws://, without TLS"):
            async with Client(f"wss://127.0.0.1:{port}"):
                pass


async def test_what_listens_is_no_websocket_server():
    async def speak(reader, writer):
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(CannotConnect, match="does not speak WebSocket"):
            async with Client(f"ws://127.0.0.1:{port}"):
                pass


async def test_what_listens_is_no_answerback_server(gateway):
    gateway.greets = False
    with pytest.raises(CannotConnect, match="is it an Answerback server"):
        async with Client(gateway.url, connect_timeout=0.1, timing=Timing(close_s=0.1)):
            pass


async def test_a_server_that_stays_busy(gateway):
    gateway.refuse = [503] * 10_000
    with pytest.raises(CannotConnect, match="HTTP 503"):
        async with Client(gateway.url, connect_timeout=0.1, timing=QUICK):
            pass


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (403, Forbidden), (404, CannotConnect), (400, CannotConnect)]
)
async def test_refused_for_good(gateway, status, error):
    gateway.refuse = [status]
    with pytest.raises(error):
        async with Client(gateway.url, token="t"):
            pass
    assert len(gateway.handshakes) == 1


async def test_a_fixed_token_that_is_refused_later_stops_the_client(gateway):
    async with Client(gateway.url, token="t", timing=QUICK) as app:
        stream = app.stream("?")
        gateway.refuse = [401]
        await (await gateway.peer()).cut()
        with pytest.raises(Unauthorized):
            await stream.answer
        with pytest.raises(Unauthorized):
            await app.ask("?")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "127.0.0.1:8765", "ws://", "", "ws://h:99999", "ws://h:eight", "ws://h:0", "ws://[::1"]
)
def test_not_a_websocket_url(url):
    with pytest.raises(ValueError, match="is not a WebSocket URL"):
        Client(url)


@pytest.mark.parametrize("name", ["Kim Chul-su", "a\n", "x" * 129])
def test_a_name_that_no_server_takes(name):
    with pytest.raises(ValueError, match="user must be 1 to 128 visible characters"):
        Client("ws://127.0.0.1:1", user=name)
    with pytest.raises(ValueError, match="session must be 1 to 128 visible characters"):
        Client("ws://127.0.0.1:1", session=name)


async def test_a_token_that_cannot_stand_in_a_header_is_not_accepted(gateway):
    with pytest.raises(Unauthorized):
        async with Client(gateway.url, token="two\nlines"):
            pass


async def test_a_host_and_a_proxy_that_cannot_be_used(monkeypatch):
    with pytest.raises(CannotConnect, match="not a name that can be looked up"):
        async with Client(f"ws://{'x' * 70}.test"):
            pass
    monkeypatch.setenv("HTTP_PROXY", "carrier-pigeon://127.0.0.1:1")
    monkeypatch.setenv("WS_PROXY", "carrier-pigeon://127.0.0.1:1")
    with pytest.raises(CannotConnect, match="proxy"):
        async with Client("ws://answerback.test"):
            pass


@pytest.mark.parametrize(
    ("url", "with_user", "uri"),
    [
        ("ws://h:1", True, "ws://h:1/?sessionId=a%26b&userId=%EA%B0%80"),
        ("ws://h:1", False, "ws://h:1/?sessionId=a%26b"),
        (
            "wss://x.execute-api.eu-west-1.amazonaws.com/prod",
            False,
            "wss://x.execute-api.eu-west-1.amazonaws.com/prod?sessionId=a%26b",
        ),
        ("wss://h/p/?k=v&e=", True, "wss://h/p/?k=v&e=&sessionId=a%26b&userId=%EA%B0%80"),
        ("ws://[::1]:9", False, "ws://[::1]:9/?sessionId=a%26b"),
    ],
)
def test_uri(url, with_user, uri):
    assert Address(url=url, session="a&b", user="가").uri(with_user=with_user) == uri


async def test_who_is_asking(gateway):
    async with Client(gateway.url, session="s", user="user_001"):
        peer = await gateway.peer()
        assert peer.path == "/?sessionId=s&userId=user_001"
        assert peer.headers["User-Agent"] == f"answerback/{answerback.__version__}"
    async with Client(gateway.url, session="s", user="user_001", token="secret"):
        peer = await gateway.peer()
        assert (peer.path, peer.headers["Authorization"]) == ("/?sessionId=s", "Bearer secret")


# --- tokens ---------------------------------------------------------------------------------------------


async def test_a_token_is_asked_for_at_every_connect(gateway):
    tokens = iter(["one", "two", "three"])

    async def fresh():
        return next(tokens)

    gateway.refuse = [401]
    async with Client(gateway.url, token=fresh, timing=QUICK):
        peer = await gateway.peer()
        assert peer.headers["Authorization"] == "Bearer two"
        await peer.cut()
        assert (await gateway.peer()).headers["Authorization"] == "Bearer three"


async def test_a_token_refused_twice_is_refused(gateway):
    gateway.refuse = [401, 401]
    with pytest.raises(Unauthorized):
        async with Client(gateway.url, token=lambda: "t", timing=QUICK):
            pass


async def test_a_token_function_that_fails_is_called_again(gateway, caplog):
    answers = iter([RuntimeError("no network"), "good"])

    def fresh():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Client(gateway.url, token=fresh, timing=QUICK):
        assert (await gateway.peer()).headers["Authorization"] == "Bearer good"
    assert "the token function failed" in caplog.text


async def test_a_token_is_renewed_before_it_expires(gateway):
    soon, later = jwt(exp=time.time() + 30), jwt(exp=time.time() + 7200)
    tokens = iter([soon, later])
    async with Client(gateway.url, token=lambda: next(tokens), timing=Timing(watch_s=0.01)) as app:
        peer = await gateway.peer()
        renewal = await peer.get("renewToken")
        assert renewal["token"] == later
        await peer.send({"action": "tokenRenewed", "requestId": renewal["requestId"]})
        asking = asyncio.create_task(app.ask("?"))
        await peer.answer((await peer.get("sendMessage"))["requestId"], "still here")
        assert (await asking).text == "still here"


async def test_a_renewal_that_is_refused_means_a_new_connection(gateway):
    tokens = iter([jwt(exp=time.time() + 30), jwt(exp=time.time() + 40), "third"])
    timing = Timing(watch_s=0.01, backoff_min_s=0.001, close_s=0.1)
    async with Client(gateway.url, token=lambda: next(tokens), timing=timing):
        peer = await gateway.peer()
        renewal = await peer.get("renewToken")
        refusal = {"action": "error", "code": "unauthorized", "message": "No.", "requestId": renewal["requestId"]}
        await peer.send(refusal)
        assert (await gateway.peer()).headers["Authorization"] == "Bearer third"


# --- conversations --------------------------------------------------------------------------------------


def turn(rid, question, answer, **more):
    return {
        "requestId": rid,
        "question": question,
        "answer": answer,
        "status": "completed",
        "askedAt": "2025-01-01T00:00:00Z",
        "answeredAt": "2025-01-01T00:00:01Z",
        **more,
    }


async def serve_history(peer, *pages):
    for number, turns in enumerate(pages):
        asked = await peer.get("getHistory")
        assert asked.get("before") == (f"p{number}" if number else None)
        more = {"next": f"p{number + 1}"} if number + 1 < len(pages) else {}
        reply = {"requestId": asked["requestId"], "conversationId": asked["conversationId"], "turns": turns, **more}
        await peer.send({"action": "history", **reply})


async def test_history_is_paged_and_its_pieces_are_joined(gateway):
    pages = [
        [turn("long", "", "tail", answerOffset=6, questionOffset=4), turn("new", "q3", "a3")],
        [turn("long", "tion", "middle")],
        [turn("old", "q1", "a1")],
    ]
    async with Client(gateway.url) as app:
        serving = asyncio.create_task(serve_history(await gateway.peer(), *pages))
        turns = [(t.request_id, t.question, t.answer) async for t in app.history("c")]
        await serving
    assert turns == [("new", "q3", "a3"), ("long", "tion", "middletail"), ("old", "q1", "a1")]


@pytest.mark.parametrize(
    "pages",
    [
        [[turn("a", "q", "tail", answerOffset=6)]],
        [[turn("a", "q", "tail", answerOffset=6)], [turn("b", "q", "other")]],
        [[turn("a", "q", "tail", answerOffset=6)], [turn("a", "q", "short")]],
    ],
)
async def test_pieces_that_do_not_fit(gateway, pages):
    async with Client(gateway.url) as app:
        serving = asyncio.create_task(serve_history(await gateway.peer(), *pages))
        with pytest.raises(ProtocolViolation):
            [t async for t in app.history("c")]
        await serving


async def test_conversations_and_their_changes(gateway):
    async with Client(gateway.url) as app:
        peer = await gateway.peer()
        listing = asyncio.create_task(collect(app.conversations()))
        for before, following in ((None, {"next": "n"}), ("n", {})):
            asked = await peer.get("listConversations")
            assert asked.get("before") == before
            row = {"conversationId": f"c-{before}", "title": "T", "turns": 1, "createdAt": "x", "updatedAt": "y"}
            reply = {"requestId": asked["requestId"], "conversations": [row], **following}
            await peer.send({"action": "conversations", **reply})
        assert [row.conversation_id for row in await listing] == ["c-None", "c-n"]
        for change, field in (
            (app.rename("c", "New"), {"title": "New"}),
            (app.delete("c"), {"deleted": True}),
            (app.restore("c"), {"deleted": False}),
        ):
            changing = asyncio.create_task(change)
            asked = await peer.get("updateConversation")
            assert field.items() <= asked.items()
            reply = {"requestId": asked["requestId"], "conversationId": "c", "title": "New", "deleted": False}
            await peer.send({"action": "conversation", **reply})
            assert (await changing).title == "New"


async def collect(source):
    return [item async for item in source]


async def test_a_call_that_is_refused_or_answered_wrongly(gateway):
    async with Client(gateway.url) as app:
        peer = await gateway.peer()
        renaming = asyncio.create_task(app.rename("c", "New"))
        rid = (await peer.get("updateConversation"))["requestId"]
        await peer.send({"action": "error", "code": "unknown_request", "message": "No such thing.", "requestId": rid})
        with pytest.raises(RequestFailed, match="No such thing"):
            await renaming
        renaming = asyncio.create_task(app.rename("c", "New"))
        rid = (await peer.get("updateConversation"))["requestId"]
        await peer.send({"action": "tokenRenewed", "requestId": rid})
        with pytest.raises(ProtocolViolation):
            await renaming


# --- the outbox -----------------------------------------------------------------------------------------


class MemoryOutbox:
    def __init__(self, *pending):
        self.kept = {p.frame.request_id: p for p in pending}
        self.outcomes = {}

    def load(self):
        return list(self.kept.values())

    def save(self, pending):
        self.kept[pending.frame.request_id] = pending

    def ended(self, request_id, outcome):
        del self.kept[request_id]
        self.outcomes[request_id] = outcome


async def test_a_question_survives_the_app(gateway):
    outbox = MemoryOutbox()
    async with Client(gateway.url, session="s", outbox=outbox) as app:
        stream = app.stream("?", request_id="r")
        peer = await gateway.peer()
        await peer.get("sendMessage")
        assert not outbox.kept["r"].is_accepted
        await peer.accept("r")
        await peer.say("r", 0, "half")
        assert await anext(stream) == "half"
        assert outbox.kept["r"].is_accepted
    assert "r" in outbox.kept
    async with Client(gateway.url, session="s", outbox=outbox, offline_start=True) as app:
        peer = await gateway.peer()
        hello = await peer.get("hello")
        assert hello["resume"] == [{"requestId": "r", "attempt": 0, "offset": 0}]
        await peer.say("r", 0, "half and half")
        await peer.end("r", 13)
        await peer.welcome(hello)
        (restored,) = app.restored
        assert (await restored.answer).text == "half and half"
    assert outbox.kept == {}
    assert outbox.outcomes["r"].text == "half and half"


async def test_a_question_that_was_never_accepted_is_asked_after_a_restart(gateway):
    outbox = MemoryOutbox(PendingRequest(frame=SendMessage(request_id="r", message="?", stream=True)))
    async with Client(gateway.url, outbox=outbox) as app:
        assert (await (await gateway.peer()).get("sendMessage"))["requestId"] == "r"
        assert [p.frame.request_id for p in app.pending()] == ["r"]


async def test_an_outbox_that_fails(gateway, caplog):
    class Broken(MemoryOutbox):
        fails = True

        def save(self, pending):
            if self.fails:
                raise OSError("disk full")

        def ended(self, request_id, outcome):
            raise OSError("disk full")

    outbox = Broken()
    async with Client(gateway.url, outbox=outbox) as app:
        with pytest.raises(OSError, match="disk full"):
            app.stream("not kept, not asked")
        assert app.pending() == []
        outbox.fails = False
        stream = app.stream("?", request_id="r")
        peer = await gateway.peer()
        assert (await peer.get("cancelMessage"))["requestId"] != "r"
        await peer.get("sendMessage")
        outbox.fails = True
        await peer.accept("r")
        await peer.say("r", 0, "x")
        await peer.end("r", 1)
        assert (await stream.answer).text == "x"
    assert "disk full" in caplog.text


async def test_a_client_that_is_not_open():
    with pytest.raises(RuntimeError, match="not open"):
        await Client("ws://127.0.0.1:1").ask("?")


# --- many apps ------------------------------------------------------------------------------------------


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
