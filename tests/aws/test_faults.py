"""What goes wrong around an answer on the emulated AWS, and what the app sees of it: one ending, the exact text."""

import asyncio
import json
import os
import signal
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from answerback.client import Client
from answerback.core.keys import ordering_key
from answerback.ports import Finish, Piece
from answerback_aws.emulator.bedrock import Asked, Broken, Refused
from stack import Stack

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.timeout(180)]


class Scenario:
    """A model that stops where the test wants it to, and counts its runs."""

    def __init__(self, stack: Stack, question: str, *, before: str, after: str, stuck_runs: int = 0) -> None:
        self.runs = 0
        self.started = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pieces = (before, after)
        self._stuck_runs = stuck_runs
        stack.scripts[question] = self._script

    async def _script(self, _asked: Asked) -> AsyncGenerator[Piece, None]:
        self.runs += 1
        before, after = self._pieces
        yield before
        self._loop.call_soon_threadsafe(self.started.set)
        if self.runs <= self._stuck_runs:
            await asyncio.Event().wait()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.may_go_on.wait(), self._loop))
        yield after
        yield Finish(input_tokens=1, output_tokens=2)


class App:
    """An app of the protocol, frame by frame."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []

    async def say(self, action: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"action": action, **fields}))

    async def receive(self, action: str, **fields: Any) -> dict[str, Any]:
        """The next frame of this kind; those before it are kept, too."""
        while True:
            frame = json.loads(await self.socket.recv())
            self.frames.append(frame)
            if frame["action"] == action and all(frame.get(name) == value for name, value in fields.items()):
                return dict(frame)

    async def ask(self, message: str, **fields: Any) -> str:
        """Accepted; the request id."""
        request_id = str(uuid.uuid4())
        await self.say("sendMessage", requestId=request_id, message=message, **fields)
        await self.receive("messageAccepted", requestId=request_id)
        return request_id


@asynccontextmanager
async def app(stack: Stack, query: str = "") -> AsyncIterator[App]:
    async with asyncio.timeout(150), connect(f"{stack.url}?{query}", proxy=None) as socket:
        yield App(socket)


def text_of(frames: list[dict[str, Any]], *, start: str = "") -> str:
    """What an app puts together of the deltas."""
    text = start
    for frame in frames:
        if frame["action"] == "messageDelta":
            assert frame["offset"] <= len(text), "a gap"
            text = text[: frame["offset"]] + frame["delta"]
    return text


def kill(stack: Stack, function: str) -> None:
    """Every process of this function, at once and without a word."""
    name = f"AWS_LAMBDA_FUNCTION_NAME={stack.outputs[function]}".encode()
    port = f":{stack.emulator.port}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environment.read_bytes()
        except OSError:
            continue
        if name in variables.split(b"\0") and port in variables:
            os.kill(int(environment.parent.name), signal.SIGKILL)


def send(stack: Stack, queue: str, body: str, *, group: str | None = None) -> None:
    stack.emulator.client("sqs").send_message(
        QueueUrl=stack.outputs[queue],
        MessageBody=body,
        MessageGroupId=group or uuid.uuid4().hex,
        MessageDeduplicationId=uuid.uuid4().hex,
    )


async def until(stack: Stack, queue: str, *, waiting: int = 0, handed_out: int) -> None:
    """Until so many messages wait in the queue, and so many are in flight."""
    client = stack.emulator.client("sqs")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    while True:
        found = client.get_queue_attributes(QueueUrl=stack.outputs[queue], AttributeNames=names)["Attributes"]
        if [int(found[name]) for name in names] == [waiting, handed_out]:
            return
        await asyncio.sleep(0.1)  # it can only be asked


@contextmanager
def without_workers(stack: Stack) -> Iterator[None]:
    """The queue is handed to nobody."""
    client = stack.emulator.client("lambda")
    mappings = client.list_event_source_mappings(FunctionName=stack.outputs["WorkerFunction"])["EventSourceMappings"]
    (mapping,) = mappings
    client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    try:
        yield
    finally:
        client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)


async def test_a_worker_that_is_killed_costs_seconds_and_no_character(stack: Stack) -> None:
    """The message is seen again when its lease is over; the new attempt starts the text again."""
    question = stack.name("question")
    scenario = Scenario(stack, question, before="one ", after="two", stuck_runs=1)
    scenario.may_go_on.set()
    with stack.configured("Worker", LEASE_S="3"):
        async with app(stack, f"userId={stack.name('user')}") as one:
            request_id = await one.ask(question, stream=True)
            await one.receive("messageDelta", requestId=request_id)
            await asyncio.to_thread(kill, stack, "WorkerFunction")
            ending = await one.receive("messageResponse", requestId=request_id)
    assert (ending["status"], ending["attempt"], ending["length"]) == ("completed", 2, 7)
    second = [frame for frame in one.frames if frame.get("attempt") == 2]
    assert text_of(second) == "one two"
    assert scenario.runs == 2


@pytest.mark.proof
async def test_the_time_of_an_answer_counts_from_its_first_start_over_killed_workers(stack: Stack) -> None:
    """The second attempt has what the first one has left, not the whole time again."""
    question = stack.name("question")
    Scenario(stack, question, before="one ", after="two", stuck_runs=3)
    with stack.configured("Worker", ANSWER_TIMEOUT_S="26"):
        async with app(stack, f"userId={stack.name('user')}") as one:
            request_id = await one.ask(question, stream=True)
            await one.receive("messageDelta", requestId=request_id)
            await asyncio.to_thread(kill, stack, "WorkerFunction")
            ending = await one.receive("messageResponse", requestId=request_id)
    assert (ending["error"]["code"], ending["attempt"], ending["length"]) == ("timeout", 2, 4)
    assert 26_000 <= ending["timing"]["totalMs"] < 42_000


async def test_an_app_that_was_cut_off_resumes_at_its_character(stack: Stack) -> None:
    question, user, session = stack.name("question"), stack.name("user"), stack.name("session")
    scenario = Scenario(stack, question, before="first ", after="second")
    async with app(stack, f"userId={user}&sessionId={session}") as one:
        request_id = await one.ask(question, stream=True)
        await one.receive("messageDelta", requestId=request_id)
        one.socket.transport.abort()
    scenario.may_go_on.set()
    async with app(stack, f"userId={user}&sessionId={session}") as two:
        have = text_of(one.frames)
        point = {"requestId": request_id, "attempt": 1, "offset": len(have)}
        await two.say("hello", helloId="h", resume=[point])
        ending = await two.receive("messageResponse", requestId=request_id)
    assert text_of(two.frames, start=have) == "first second"
    assert (ending["status"], ending["length"]) == ("completed", 12)
    assert all(frame["offset"] >= len(have) for frame in two.frames if frame["action"] == "messageDelta")
    assert scenario.runs == 1


async def test_of_two_workers_with_one_request_one_runs_the_model(stack: Stack) -> None:
    question, user = stack.name("question"), stack.name("user")
    scenario = Scenario(stack, question, before="the ", after="answer")
    async with app(stack, f"userId={user}") as one:
        request_id = await one.ask(question)
        await scenario.started.wait()
        for _ in range(2):
            send(stack, "QueueUrl", json.dumps({"user": user, "request": request_id}))
        await until(stack, "QueueUrl", handed_out=3)
        scenario.may_go_on.set()
        ending = await one.receive("messageResponse", requestId=request_id)
        await until(stack, "QueueUrl", handed_out=0)
    assert (ending["response"], ending["attempt"]) == ("the answer", 1)
    assert scenario.runs == 1


async def test_a_message_that_cannot_be_read_holds_up_nobody(stack: Stack) -> None:
    user = stack.name("user")
    with without_workers(stack):
        for body in ("garbage", "{}", json.dumps({"user": user, "request": "never accepted"})):
            send(stack, "QueueUrl", body, group=ordering_key(user, None))
    async with Client(stack.url, user=user) as client, asyncio.timeout(60):
        assert (await client.ask("still here?")).text == "still here?"
    assert "cannot be read and is dropped" in stack.logs()


async def test_what_the_queue_gives_up_ends_as_failed(stack: Stack) -> None:
    async with app(stack, f"userId={(user := stack.name('user'))}") as one:
        with without_workers(stack):
            request_id = await one.ask("hello")
            send(stack, "DeadLettersUrl", json.dumps({"user": user, "request": request_id}))
            ending = await one.receive("messageResponse", requestId=request_id)
        assert (ending["status"], ending["error"]["code"]) == ("failed", "internal")
        again = await one.receive(
            "messageResponse", requestId=request_id
        )  # the queue's own message finds it ended: it forgets last
        assert again == ending


async def test_a_dead_letter_of_a_running_request_ends_nothing(stack: Stack) -> None:
    question, user = stack.name("question"), stack.name("user")
    scenario = Scenario(stack, question, before="the ", after="answer")
    async with app(stack, f"userId={user}") as one:
        request_id = await one.ask(question)
        await scenario.started.wait()
        send(stack, "DeadLettersUrl", json.dumps({"user": user, "request": request_id}))
        await until(stack, "DeadLettersUrl", handed_out=1)
        await asyncio.to_thread(stack.sweep)
        scenario.may_go_on.set()
        ending = await one.receive("messageResponse", requestId=request_id)
    stack.emulator.client("sqs").purge_queue(QueueUrl=stack.outputs["DeadLettersUrl"])  # hidden until the lease ends
    assert (ending["status"], ending["response"]) == ("completed", "the answer")


def failing(failure: Exception, *, after: tuple[str, ...] = (), times: int = 1_000) -> Callable[[Asked], Any]:
    """A model that fails so many times."""
    runs = 0

    async def script(asked: Asked) -> AsyncGenerator[Piece, None]:
        nonlocal runs
        runs += 1
        if runs <= times:
            for piece in after:
                yield piece
            raise failure
        yield "at last"
        yield Finish(input_tokens=1, output_tokens=2)

    return script


@pytest.mark.parametrize(
    ("failure", "after", "code"),
    [
        (Refused(429, "ThrottlingException", "secret"), (), "model_throttled"),
        (Refused(403, "AccessDeniedException", "secret"), (), "model_unavailable"),
        (Broken("modelStreamErrorException", "secret"), ("half ",), "model_failed"),
        (Broken("throttlingException", "secret"), ("half ",), "model_throttled"),
    ],
)
async def test_a_model_that_fails_is_reported_by_its_code(
    stack: Stack, failure: Exception, after: tuple[str, ...], code: str
) -> None:
    question = stack.name("question")
    stack.scripts[question] = failing(failure, after=after)
    async with app(stack, f"userId={stack.name('user')}") as one:
        request_id = await one.ask(question, stream=True)
        ending = await one.receive("messageResponse", requestId=request_id)
    assert (ending["status"], ending["error"]["code"]) == ("failed", code)
    assert text_of(one.frames) == "".join(after)
    assert "secret" not in json.dumps(one.frames)


async def test_a_model_that_is_throttled_for_a_moment_is_asked_again(stack: Stack) -> None:
    question = stack.name("question")
    stack.scripts[question] = failing(Refused(429, "ThrottlingException"), times=1)
    async with Client(stack.url, user=stack.name("user")) as client, asyncio.timeout(90):
        assert (await client.ask(question, timeout=80)).text == "at last"


@pytest.mark.proof
async def test_an_aurora_that_is_unavailable_costs_no_answer_and_no_history(stack: Stack) -> None:
    user, conversation = stack.name("user"), stack.name("conversation")
    async with app(stack, f"userId={user}") as one:
        stack.emulator.pause_database()
        try:
            request_id = await one.ask("one", conversationId=conversation)
            assert (await one.receive("messageResponse", requestId=request_id))["response"] == "one"
            await one.say("getHistory", requestId="h-1", conversationId=conversation)
            refused = await one.receive("error", requestId="h-1")
        finally:
            stack.emulator.resume_database()
        assert refused["code"] == "unavailable"
        await one.say("getHistory", requestId="h-2", conversationId=conversation)
        history = await one.receive("history", requestId="h-2")
    assert [(turn["question"], turn["answer"]) for turn in history["turns"]] == [("one", "one")]


async def test_a_token_that_expires_in_mid_connection(secured: Stack) -> None:
    """What is asked after that is refused, until a fresh token comes in band."""
    user = secured.name("user")
    token = secured.token(user, ttl_s=-27)  # accepted for the leeway of 30 s
    async with (
        asyncio.timeout(120),
        connect(secured.url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as socket,
    ):
        one = App(socket)
        codes = set()
        while "unauthorized" not in codes:
            request_id = str(uuid.uuid4())
            await one.say("sendMessage", requestId=request_id, message="hello")
            ending = await one.receive("messageResponse", requestId=request_id)
            codes.add(ending.get("error", {}).get("code"))
        await one.say("renewToken", requestId="t-1", token=secured.token("somebody else"))
        assert (await one.receive("error", requestId="t-1"))["code"] in {"user_mismatch", "unauthorized", "forbidden"}
        await one.say("renewToken", requestId="t-2", token=secured.token(user))
        await one.receive("tokenRenewed", requestId="t-2")
        request_id = await one.ask("hello again")
        assert (await one.receive("messageResponse", requestId=request_id))["response"] == "hello again"


async def test_a_frame_that_fails_leaves_the_connection_open(stack: Stack) -> None:
    async with app(stack, f"userId={stack.name('user')}") as one:
        await one.say("nonsense")
        assert (await one.receive("error"))["code"] == "invalid_frame"
        await one.socket.send("no json at all")
        assert (await one.receive("error"))["code"] == "invalid_frame"
        await one.say("ping")
        await one.receive("pong")
