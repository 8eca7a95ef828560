"""The blocking facade, against a gateway on a thread of its own."""

import asyncio
import concurrent.futures
import gc
import inspect
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading

import pytest
from websockets.asyncio.server import serve

from answerback.client import (
    BlockingClient,
    CannotConnect,
    Client,
    Closed,
    Connected,
    Done,
    PendingRequest,
    RequestCancelled,
    RequestTimeout,
    Stopped,
    Timing,
)
from answerback.client.blocking import _LoopThread
from answerback.protocol.frames import SendMessage

LIMITS = dict.fromkeys(
    ("maxMessageBytes", "maxFrameBytes", "maxAnswerBytes", "requestsPerMinute", "maxPending", "maxTokens"), 100_000
) | dict.fromkeys(("idleTimeoutMs", "answerTimeoutMs", "queueTimeoutMs"), 100_000)


class ThreadedGateway:
    """Answers each question with its own words, except `wait`; notes every frame."""

    def __init__(self):
        self.seen = []
        self.cancelled = threading.Event()
        self.on_wait = None
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self.thread.start()
        self.ready.wait()

    async def serve(self):
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        async with serve(self.handle, "127.0.0.1", 0, compression=None, close_timeout=0.2) as server:
            self.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            self.ready.set()
            await self.stop.wait()

    async def handle(self, socket):
        async for message in socket:
            frame = json.loads(message)
            self.seen.append(frame)
            for reply in self.replies(frame):
                await socket.send(json.dumps(reply))

    def replies(self, frame):
        rid = frame.get("requestId")
        match frame["action"]:
            case "hello":
                names = {"connectionId": "c", "sessionId": "s", "userId": "u", "protocol": 1, "models": ["echo"]}
                about = {"modelInfo": {"echo": {"demo": True}}, "server": {"version": "99", "leastClient": "99"}}
                names |= {"limits": LIMITS, "features": ["budgets"], **about}
                yield {"action": "welcome", "helloId": frame["helloId"], **names}
            case "getBudget":
                budget = {"unit": "tokens", "limit": 9, "used": 1, "reserved": 0, "resetsAt": "then"}
                yield {"action": "budget", "requestId": rid, "budget": budget}
            case "ping":
                yield {"action": "pong"}
            case "cancelMessage":
                self.cancelled.set()
                yield self.end(rid, None, status="cancelled")
            case "sendMessage" if frame["message"] == "wait":
                yield {"action": "messageAccepted", "requestId": rid, "conversationId": "c", "position": 0}
                if self.on_wait:
                    self.on_wait()
            case "sendMessage" if frame.get("stream"):
                for offset, letter in enumerate(frame["message"]):
                    yield {
                        "action": "messageDelta",
                        "requestId": rid,
                        "attempt": 1,
                        "offset": offset,
                        "delta": letter,
                    }
                yield self.end(rid, None, length=len(frame["message"]))
            case "sendMessage":
                yield self.end(rid, frame["message"])
            case "listConversations":
                row = {"conversationId": "c", "title": "T", "turns": 1, "createdAt": "x", "updatedAt": "y"}
                yield {"action": "conversations", "requestId": rid, "conversations": [row]}
            case "getHistory":
                yield {"action": "history", "requestId": rid, "conversationId": "c", "turns": []}
            case "updateConversation":
                deleted = frame.get("deleted", False)
                title = frame.get("title", "T")
                reply = {"requestId": rid, "conversationId": "c", "title": title, "deleted": deleted}
                yield {"action": "conversation", **reply}

    def end(self, rid, text, *, status="completed", length=None):
        length = len(text or "") if length is None else length
        names = {"status": status, "response": text, "attempt": 1, "length": length}
        return {"action": "messageResponse", "requestId": rid, **names}

    def close(self):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join()


@pytest.fixture
def threaded():
    gateway = ThreadedGateway()
    yield gateway
    gateway.close()


def test_ask_in_three_lines(threaded):
    with BlockingClient(threaded.url) as app:
        assert app.ask("Hello?").text == "Hello?"


def test_stream(threaded):
    with BlockingClient(threaded.url) as app:
        stream = app.stream("Hello?")
        assert "".join(stream) == "Hello?"
        assert stream.answer.text == "Hello?"
        *_, last = app.stream("again").events()
        assert isinstance(last, Done)


def test_the_rest_of_the_api(threaded):
    with BlockingClient(threaded.url, session="s") as app:
        assert app.session_id == "s"
        assert isinstance(app.state, Connected)
        assert [row.title for row in app.conversations()] == ["T"]
        assert list(app.history("c")) == []
        assert app.rename("c", "New").title == "New"
        assert app.delete("c").deleted
        assert not app.restore("c").deleted
        assert app.ping() >= 0
        assert app.budget().limit == 9
        assert (app.model_info().demo, app.wanted_version) == (True, "99")
        assert app.pending() == []
        assert app.restored == ()


def test_what_is_not_said_means_the_same_with_asyncio():
    def defaults(kind):
        return {
            name: {
                one.name: one.default
                for one in inspect.signature(function).parameters.values()
                if one.name != "progress"
            }
            for name, function in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    ours, theirs = defaults(BlockingClient), defaults(Client)
    assert {name: theirs.get(name, said) for name, said in ours.items()} == ours


def test_errors_are_raised_here(threaded):
    with BlockingClient(threaded.url) as app:
        with pytest.raises(RequestTimeout):
            app.ask("wait", timeout=0.01)
        stream = app.stream("wait")
        stream.cancel()
        with pytest.raises(RequestCancelled):
            _ = stream.answer
        with app.stream("wait") as left:
            app.cancel("nobody")
            list(app.conversations())  # answered behind what was said of the stream
        with pytest.raises(RequestCancelled):
            list(left)
        assert left.conversation_id == "c"
    with pytest.raises(Closed):
        app.ask("too late")
    assert "answerback-client" not in [thread.name for thread in threading.enumerate()]


def test_ctrl_c_stops_the_question(threaded):
    main = threading.main_thread().ident
    threaded.on_wait = lambda: signal.pthread_kill(main, signal.SIGINT)
    with BlockingClient(threaded.url) as app:
        with pytest.raises(KeyboardInterrupt):
            app.ask("wait", timeout=100)
        assert threaded.cancelled.wait(30)


def test_ctrl_c_stops_a_question_that_is_being_handed_to_the_loop(monkeypatch):
    thread = _LoopThread()
    started, cancelled = threading.Event(), threading.Event()

    async def question():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cancelled.set()

    hand_over = thread._loop.call_soon_threadsafe

    def interrupted(callback, *args, **options):
        monkeypatch.undo()
        hand_over(callback, *args, **options)
        assert started.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(thread._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        thread.run(question())
    assert cancelled.wait(30)
    thread.stop()


def run_interrupted(thread, coroutine, *, at):
    """`thread.run` with Ctrl+C at a step of the interpreter: where that was, if it has so many, and what came out."""
    steps = itertools.count(1)
    came = []

    def trace(frame, event, _):
        is_new, frame.f_trace_opcodes = not frame.f_trace_opcodes, True
        if is_new and sys.version_info[:2] == (3, 12):
            sys.settrace(trace)  # it asks the frames for their wish at this moment alone
        if event == "opcode" and next(steps) == at:
            sys.settrace(None)
            came.append(frame.f_code)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    gc.disable()  # it may run a finalizer of any object at any step, and none lets an exception out
    sys.settrace(trace)
    try:
        outcome = thread.run(coroutine)
    except BaseException as exc:
        outcome = type(exc)
    finally:
        sys.settrace(before)
        gc.enable()
    return came, outcome


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_ctrl_c_at_any_step_is_raised_and_the_loop_goes_on():
    for step in itertools.count(1):
        thread = _LoopThread()
        came, outcome = run_interrupted(thread, asyncio.sleep(0.0005, "slept"), at=step)
        answers = queue.SimpleQueue()
        threading.Thread(target=lambda: answers.put(thread.run(asyncio.sleep(0, "awake"))), daemon=True).start()  # noqa: B023
        assert answers.get(timeout=20) == "awake", f"the loop is blocked after step {step}"
        thread.stop()
        if not came:
            assert outcome == "slept"
            break
        assert outcome is KeyboardInterrupt, f"swallowed in {came}"
    assert step > 100


def test_what_another_thread_closes_just_then_is_closed(monkeypatch):
    thread = _LoopThread()

    def close():
        monkeypatch.undo()
        thread.stop()

    monkeypatch.setattr(thread, "_check", close)
    with pytest.raises(Closed):
        thread.run(asyncio.sleep(0))


def test_what_is_cancelled_on_the_loop_is_not_waited_for():
    thread = _LoopThread()

    async def cancelled():
        raise asyncio.CancelledError

    with pytest.raises(concurrent.futures.CancelledError):
        thread.run(cancelled())
    thread.stop()


def test_several_threads_share_it(threaded):
    answers = {}
    with BlockingClient(threaded.url) as app:

        def ask(n):
            answers[n] = app.ask(f"question {n}").text

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {n: f"question {n}" for n in range(20)}


def test_nobody_listens(unused_tcp_port):
    with pytest.raises(CannotConnect), BlockingClient(f"ws://127.0.0.1:{unused_tcp_port}"):
        pass
    assert "answerback-client" not in [thread.name for thread in threading.enumerate()]


def test_not_open():
    with pytest.raises(RuntimeError, match="not open"):
        BlockingClient("ws://127.0.0.1:1").ask("?")


def test_restored(threaded):
    class Outbox:
        def load(self):
            return [PendingRequest(frame=SendMessage(request_id="r", message="kept", stream=True))]

        def save(self, pending):
            pass

        def ended(self, request_id, outcome):
            self.outcome = outcome

    outbox = Outbox()
    with BlockingClient(threaded.url, outbox=outbox, timing=Timing()) as app:
        (stream,) = app.restored
        assert stream.answer.text == "kept"
    assert outbox.outcome.text == "kept"


# --- the owner is gone: another process, loop or thread ---------------------------------------------------

FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore")  # newer Pythons warn of a fork with threads
from answerback.client import BlockingClient
app = BlockingClient(sys.argv[1])
app.open()
assert app.ask("one").text == "one"
stream = app.stream("wait")
if os.fork() == 0:
    for use in (lambda: app.ask("two", timeout=60), lambda: stream.answer, app.pending, app.ping, lambda: list(stream)):
        try:
            use()
        except RuntimeError as exc:
            assert "opened in another process" in str(exc), exc
        else:
            os._exit(1)
    app.close()
    with BlockingClient(sys.argv[1]) as own:
        assert own.ask("three").text == "three"
    os._exit(0)
_, status = os.wait()
assert status == 0, status
assert app.ask("four").text == "four"  # and a program that does not close it ends all the same
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_to_make_a_client_of_its_own(threaded):
    run = subprocess.run(
        [sys.executable, "-c", FORKED, threaded.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "four" in [frame.get("message") for frame in threaded.seen]


def test_a_thread_that_has_ended_answers_nobody(threaded):
    app = BlockingClient(threaded.url)
    app.open()
    running = app._running
    assert running is not None
    waiting = app.stream("wait")
    killer = threading.Timer(0.1, lambda: running._loop.call_soon_threadsafe(running._loop.stop))
    killer.start()
    for use in (lambda: waiting.answer, lambda: app.ask("two")):
        with pytest.raises(RuntimeError, match="thread has ended"):
            use()
    app.close()
    killer.join()
    asyncio.set_event_loop(None)
    for task in asyncio.all_tasks(running._loop):
        task.cancel()
    running._loop.run_until_complete(asyncio.sleep(0.1))
    running._loop.close()


def test_a_callback_cannot_wait_for_its_own_thread(threaded):
    app = BlockingClient(threaded.url)
    with app, pytest.raises(RuntimeError, match="own callbacks"):
        app._thread.run(_calling(lambda: app.ask("two")))


async def _calling(function):
    return function()


def test_a_second_event_loop_is_told_at_once(threaded):
    app = Client(threaded.url)
    asyncio.run(app.open())
    assert isinstance(app.state, Stopped)  # its tasks are gone with their loop

    async def later():
        for use in (app.ask("hello"), app.ping(), app.rename("c", "T"), anext(app.conversations())):
            with pytest.raises(RuntimeError, match="another event loop"):
                await use
        for call in (lambda: app.stream("hello"), lambda: app.cancel("x"), app.reconnect_now):
            with pytest.raises(RuntimeError, match="another event loop"):
                call()
        await app.aclose()

    asyncio.run(later())


def test_a_loop_beside_the_clients_own_is_told_at_once(threaded):
    with BlockingClient(threaded.url) as blocking:
        inner = blocking._client
        stream = blocking.stream("wait")

        async def beside():
            for use in (inner.ask("hello"), inner.aclose(), stream._stream.answer, anext(aiter(stream._stream))):
                with pytest.raises(RuntimeError, match="another event loop"):
                    await use

        asyncio.run(beside())
        assert blocking.ask("still there").text == "still there"


def test_what_waits_when_its_loop_ends_is_closed(threaded):
    streams = []

    async def leave():
        app = Client(threaded.url)
        await app.open()
        streams.append(app.stream("wait"))

    asyncio.run(leave())

    async def read():
        with pytest.raises(Closed):
            await streams[0].answer

    asyncio.run(read())
