"""A server that lies: no word is shown that is not this request's answer, and nothing breaks."""

import asyncio
import json

import pytest
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from answerback_desktop.engine.events import ConnectionReason, ConnectionStatus
from answerback_desktop.records import TurnStatus

LIMITS = {
    "maxMessageBytes": 131072,
    "maxFrameBytes": 32768,
    "maxAnswerBytes": 262144,
    "requestsPerMinute": 0,
    "maxPending": 1000,
    "maxTokens": 1024,
    "idleTimeoutMs": 3600000,
    "answerTimeoutMs": 120000,
    "queueTimeoutMs": 600000,
}
LIE = "a word of somebody else"
NOW = "2026-01-01T00:00:00.000Z"


class Liar:
    """Welcomes, and answers each question and call with what the test says. `{id}` in a frame is the request's id."""

    def __init__(self):
        self.about_a_question = []
        self.conversations = []
        self.history = {}
        self.user = "ada"
        self.sockets = []

    async def serve(self, socket):
        self.sockets.append(socket)
        try:
            async for message in socket:
                for reply in self.replies(json.loads(message)):
                    await socket.send(reply if isinstance(reply, str | bytes) else json.dumps(reply))
        except ConnectionClosed:
            pass

    def replies(self, frame):
        match frame["action"]:
            case "hello":
                yield {
                    "action": "welcome",
                    "helloId": frame["helloId"],
                    "connectionId": "c",
                    "sessionId": "s",
                    "userId": self.user,
                    "protocol": 1,
                    "limits": LIMITS,
                    "models": ["liar"],
                }
            case "ping":
                yield {"action": "pong"}
            case "sendMessage":
                for reply in self.about_a_question:
                    if isinstance(reply, dict):
                        yield {"requestId": frame["requestId"], **reply}
                    else:
                        yield reply
            case "listConversations":
                yield {
                    "action": "conversations",
                    "requestId": frame["requestId"],
                    "conversations": self.conversations,
                }
            case "getHistory":
                yield {
                    "action": "history",
                    "requestId": frame["requestId"],
                    "conversationId": frame["conversationId"],
                    "turns": self.history.get(frame["conversationId"], []),
                }


@pytest.fixture
async def liar(stack):
    liar = Liar()
    server = await stack.enter_async_context(serve(liar.serve, "127.0.0.1", 0, max_size=None))
    liar.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    return liar


def delta(offset, text, attempt=1, **more):
    return {"action": "messageDelta", "attempt": attempt, "offset": offset, "delta": text, **more}


def ending(length, attempt=1, **more):
    return {
        "action": "messageResponse",
        "status": "completed",
        "response": None,
        "attempt": attempt,
        "length": length,
        **more,
    }


HONEST = [delta(0, "true "), delta(5, "words"), ending(10)]

LIES = {
    "frames for requests never made": [delta(0, LIE, requestId="never-made"), ending(5, requestId="never-made")],
    "an older attempt": [delta(0, "", attempt=2), delta(0, LIE, attempt=1)],
    "an offset that jumps": [delta(1_000_000, LIE)],
    "malformed frames": ["", "{", "[]", "null", '{"action":"messageDelta"}', b"\x00\xff", '{"action": 7}', "x" * 9],
    "deep JSON": ["[" * 50_000],
    "an unknown action": [{"action": "exec", "delta": LIE}],
    "another's acceptance": [
        {"action": "messageAccepted", "requestId": "other", "conversationId": LIE, "position": 2**53 - 1}
    ],
    "answers to calls never made": [
        {"action": "history", "conversationId": "c", "turns": []},
        {"action": "conversations", "conversations": []},
        {"action": "conversation", "conversationId": "c", "title": LIE, "deleted": True},
        {"action": "tokenRenewed"},
    ],
    "errors about nothing": [{"action": "error", "code": "internal", "message": LIE, "requestId": "never"}],
}


@pytest.mark.parametrize("lies", LIES.values(), ids=LIES.keys())
async def test_lies_before_the_truth(open_app, liar, lies):
    liar.about_a_question = [*lies, *(({**one, "attempt": 2}) for one in HONEST)]
    app = await open_app(url=liar.url)
    turn = await app.ask("?")
    await app.until(lambda: turn.status.is_over)
    assert (turn.status, turn.answer) == (TurnStatus.COMPLETED, "true words")
    assert LIE not in str(app.events)


@pytest.mark.parametrize("lie", [delta("0", LIE), delta(-1, LIE), delta(0, 7), ending(-1, status="great")])
async def test_a_frame_about_a_question_that_cannot_be_read_ends_it(open_app, liar, lie):
    liar.about_a_question = [lie, *HONEST]
    app = await open_app(url=liar.url)
    turn = await app.ask("?")
    await app.until(lambda: turn.status.is_over)
    assert (turn.status, turn.answer) == (TurnStatus.FAILED, "")
    assert LIE not in str(app.events)


async def test_ten_megabytes_of_text_end_as_a_failure_and_the_app_lives(open_app, liar):
    piece = "x" * 30_000
    liar.about_a_question = [delta(number * len(piece), piece) for number in range(340)]
    app = await open_app(url=liar.url)
    turn = await app.ask("?")
    await app.until(lambda: turn.status.is_over)
    assert turn.status is TurnStatus.FAILED
    assert len(turn.answer) <= 262_144
    liar.about_a_question = HONEST
    again = await app.ask("again")
    await app.until(lambda: again.status is TurnStatus.COMPLETED)


async def test_one_frame_of_ten_megabytes_is_not_read(open_app, liar):
    liar.about_a_question = [delta(0, "x" * 10_000_000)]
    app = await open_app(url=liar.url)
    turn = await app.ask("?")
    await app.until(lambda: app.model.connection.status is ConnectionStatus.OFFLINE)
    assert turn.answer == ""


async def test_an_ending_that_contradicts_the_text(open_app, liar):
    liar.about_a_question = [delta(0, "true words"), ending(4)]
    app = await open_app(url=liar.url)
    turn = await app.ask("?")
    await app.until(lambda: turn.status is TurnStatus.STREAMING)
    await app.until(lambda: app.model.connection.round_trip_ms is not None)
    assert "true words".startswith(turn.answer)
    assert turn.status is TurnStatus.STREAMING


async def test_history_with_odd_content(open_app, liar):
    def turn(request_id, **more):
        return {
            "requestId": request_id,
            "question": "q",
            "answer": "a",
            "status": "completed",
            "askedAt": NOW,
            "answeredAt": "never",
            **more,
        }

    listed = {"turns": 3, "createdAt": "yesterday", "updatedAt": "\u0000"}
    liar.conversations = [
        {**listed, "conversationId": "good", "title": "a\nb\u0000c" + "x" * 10_000},
        {**listed, "conversationId": "", "title": "no id"},
        {**listed, "conversationId": "x" * 5_000, "title": "a long id"},
        {**listed, "conversationId": "with space", "title": "space"},
    ]
    liar.history["good"] = [
        turn("one", askedAt="9999-12-31T23:59:59Z", answer="an\u0000swer"),
        turn("two", replaces="two", usage={"inputTokens": 2**53 - 1, "outputTokens": 0}),
        turn("", answer=LIE),
        turn("three", status="failed", errorCode="timeout"),
    ]
    app = await open_app(url=liar.url)
    await app.until(lambda: app.model.conversations)
    assert [one.conversation_id for one in app.model.conversations] == ["good"]
    conversation = app.model.open("good")
    await app.until(lambda: len(conversation.messages) == 3)
    assert {turn.answer for turn in conversation.messages} == {"a", "answer"}
    assert len(conversation.title) == 200
    assert "\n" not in conversation.title
    await app.close()
    again = await open_app(url=liar.url)
    assert [one.conversation_id for one in again.model.conversations] == ["good"]


async def test_history_cannot_rewrite_what_ended_here(open_app, liar):
    liar.about_a_question = HONEST
    app = await open_app(url=liar.url)
    turn = await app.ask("?")
    await app.until(lambda: turn.status.is_over)
    name = app.model.current.conversation_id
    forged = {"question": LIE, "answer": LIE, "status": "completed", "askedAt": NOW, "answeredAt": NOW}
    liar.conversations = [
        {"conversationId": name, "title": "renamed", "turns": 1, "createdAt": NOW, "updatedAt": NOW},
        {"conversationId": "elsewhere", "title": "other", "turns": 1, "createdAt": NOW, "updatedAt": NOW},
    ]
    liar.history[name] = liar.history["elsewhere"] = [{"requestId": turn.request_id, **forged}]
    app.engine.refresh()
    await app.until(lambda: app.model.current.title == "renamed")
    other = app.model.open("elsewhere")
    await app.until(lambda: other.is_loaded)
    assert other.messages == []
    assert (turn.question, turn.answer) == ("?", "true words")


async def test_a_server_that_takes_us_for_somebody_else_is_left(open_app, liar):
    app = await open_app(url=liar.url)
    await app.online()
    liar.user = "mallory"
    for socket in liar.sockets:
        await socket.close()
    await app.until(lambda: app.model.connection.reason is ConnectionReason.USER_MISMATCH)
    turn = await app.ask("kept?")
    assert turn.status is TurnStatus.OUTBOX


async def test_a_taken_over_session_is_taken_back_by_hand(open_app, liar):
    app = await open_app(url=liar.url)
    await app.online()
    frame = {"action": "error", "code": "session_replaced", "message": LIE}
    await liar.sockets[-1].send(json.dumps(frame))
    await app.until(lambda: app.model.connection.reason is ConnectionReason.SESSION_REPLACED)
    liar.about_a_question = HONEST
    turn = await app.ask("later")
    assert turn.status is TurnStatus.OUTBOX
    app.engine.reconnect()
    await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    assert LIE not in str(app.events)


async def test_noise_of_random_bytes(open_app, liar):
    app = await open_app(url=liar.url)
    await app.online()
    socket = liar.sockets[-1]
    for number in range(200):
        await socket.send(bytes((number * 31 + k * k) % 256 for k in range(number)))
    await asyncio.sleep(0)
    liar.about_a_question = HONEST
    turn = await app.ask("?")
    await app.until(lambda: turn.answer == "true words")
