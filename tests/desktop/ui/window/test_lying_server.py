"""A window open at a server that lies: it shows the answer and not one word more, and stays quick."""

import json
import threading

import pytest
from PySide6.QtWidgets import QLabel, QPlainTextEdit, QTextEdit
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from answerback_desktop.records import TurnStatus

LIE = "a word of somebody else"
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


def delta(offset, text, attempt=2, **more):
    return {"action": "messageDelta", "attempt": attempt, "offset": offset, "delta": text, **more}


def ending(length, **more):
    return {
        "action": "messageResponse",
        "status": "completed",
        "response": None,
        "attempt": 2,
        "length": length,
        **more,
    }


LIES = [
    delta(0, LIE, requestId="never-made"),
    ending(len(LIE), requestId="never-made"),
    {"action": "messageStarted", "attempt": 2},
    delta(0, LIE, attempt=1),
    delta(1_000_000, LIE),
    {"action": "error", "code": "internal", "message": LIE},
    {"action": "exec", "delta": LIE},
    {"action": "conversation", "requestId": "never-made", "conversationId": "c", "title": LIE, "deleted": True},
    "{",
    b"\x00\xff",
    "[" * 50_000,
]
TRUE = "true words <b>bold</b> ![p](http://127.0.0.1:9/p.png) " + "가" * 9_000
TRUTH = [delta(0, TRUE[:11]), delta(11, TRUE[11:]), ending(len(TRUE))]


def answer(socket):
    """Lies before, between and after the truth."""
    try:
        for message in socket:
            frame = json.loads(message)
            if frame["action"] == "hello":
                welcome = {"connectionId": "c", "sessionId": "s", "userId": "ada", "protocol": 1, "limits": LIMITS}
                hello_id = {"helloId": frame["helloId"], "models": ["liar"]}
                socket.send(json.dumps({"action": "welcome", **welcome, **hello_id}))
            elif frame["action"] == "ping":
                socket.send('{"action": "pong"}')
            elif frame["action"] == "sendMessage":
                for reply in [*LIES, TRUTH[0], *LIES, *TRUTH[1:], *LIES]:
                    is_frame = isinstance(reply, dict)
                    socket.send(json.dumps({"requestId": frame["requestId"], **reply}) if is_frame else reply)
            elif frame["action"] == "listConversations":
                reply = {"action": "conversations", "requestId": frame["requestId"], "conversations": []}
                socket.send(json.dumps(reply))
    except ConnectionClosed:
        pass


@pytest.fixture
def url():
    with serve(answer, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, name="liar")
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def words(window) -> str:
    """All that can be read in the window."""
    labels = [label.text() for label in window.findChildren(QLabel)]
    texts = [text.toPlainText() for kind in (QTextEdit, QPlainTextEdit) for text in window.findChildren(kind)]
    return "\n".join([window.windowTitle(), *labels, *texts])


def test_no_word_of_a_lie_is_shown(open_app, url):
    person = open_app(url=url)
    person.online()
    for question in ("first?", "second?"):
        conversation = person.ask_again(question)
        turn = person.turn(conversation, question)
        person.until(lambda turn=turn: turn.status is TurnStatus.COMPLETED)
        assert turn.answer == TRUE
        person.until(lambda: "true words bold" in words(person.window))
        assert LIE not in words(person.window)
        assert not any(LIE in title for title in person.titles())
