"""Our own client passes every client case; and clients that are wrong on purpose do not."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from answerback.client import Client, Turn
from answerback.client.errors import AnswerbackError, RequestCancelled, RequestFailed
from answerback.client.stream import AnswerStream
from answerback.client.timing import Timing
from answerback_proof.conformance import Case, CaseFailed, Outcome, load_cases, run_client_case
from shortened import shortened

CASES = {case.name: case for case in load_cases("client")}

pytestmark = pytest.mark.timeout(60)


class SdkQuestion:
    """`Asked`, by the SDK."""

    def __init__(self, client: Client, message: str, conversation_id: str | None, stream: bool) -> None:
        self._stream: AnswerStream | None = None
        self._task: asyncio.Task | None = None
        if stream:
            self._stream = client.stream(message, conversation=conversation_id)
        else:
            self._task = asyncio.create_task(client.ask(message, conversation=conversation_id))

    async def outcome(self) -> Outcome:
        try:
            answer = await (self._stream.answer if self._stream is not None else asyncio.shield(self._task))
        except RequestCancelled as exc:
            return Outcome(status="cancelled", text=exc.answer.text if exc.answer else "")
        except RequestFailed as exc:
            return Outcome(status="failed", text=exc.answer.text if exc.answer else "", code=str(exc.code))
        except AnswerbackError as exc:
            return Outcome(status="failed", code=str(exc.code))
        return Outcome(status="completed", text=answer.text)

    async def cancel(self) -> None:
        assert self._stream is not None
        self._stream.cancel()


class SdkHistory:
    """`Asked` of a history, by the SDK."""

    def __init__(self, turns: AsyncIterator[Turn]) -> None:
        self._turns = turns

    async def outcome(self) -> Outcome:
        newest = await anext(self._turns)
        code = None if newest.error_code is None else newest.error_code.value
        return Outcome(status=newest.status.value, text=newest.answer, code=code)

    async def cancel(self) -> None:
        raise NotImplementedError


class SdkApp:
    """`ClientUnderTest`, by the SDK."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, message: str, *, conversation_id: str | None, stream: bool) -> SdkQuestion:
        return SdkQuestion(self._client, message, conversation_id, stream)

    def history(self, conversation_id: str) -> SdkHistory:
        return SdkHistory(self._client.history(conversation_id))

    async def close(self) -> None:
        await self._client.aclose()


async def start_sdk(url: str) -> SdkApp:
    client = Client(url, offline_start=True, timing=Timing(backoff_min_s=0.02, backoff_max_s=0.1, close_s=0.2))
    await client.open()
    return SdkApp(client)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_sdk_passes(case: Case) -> None:
    await run_client_case(case, start_sdk)


class NaiveApp:
    """A client that makes one mistake: the name of it says which."""

    def __init__(self, url: str, mistake: str) -> None:
        self.url = url
        self.mistake = mistake
        self.frames: dict[str, dict] = {}
        self.futures: dict[str, asyncio.Future[Outcome]] = {}
        self.texts: dict[str, str] = {}
        self.socket: ClientConnection | None = None
        self.session = uuid.uuid4().hex
        self.task = asyncio.create_task(self.live())

    async def live(self) -> None:
        while True:
            session = uuid.uuid4().hex if self.mistake == "a new session each time" else self.session
            try:
                async with connect(f"{self.url}/?sessionId={session}", proxy=None) as socket:
                    await socket.send(json.dumps({"action": "hello", "helloId": "h"}))
                    for frame in self.frames.values():
                        await self.send(socket, frame)
                    self.socket = socket
                    async for text in socket:
                        self.receive(json.loads(text))
            except (OSError, WebSocketException):
                pass
            self.socket = None
            await asyncio.sleep(0.02)

    async def send(self, socket: ClientConnection, frame: dict) -> None:
        if self.mistake == "a new id for what is sent again" and self.socket is None:
            frame = {**frame, "requestId": uuid.uuid4().hex}
        await socket.send(json.dumps(frame))

    def receive(self, frame: dict) -> None:
        request_id = frame.get("requestId", "")
        if request_id not in self.futures or self.futures[request_id].done():
            return
        match frame["action"]:
            case "messageDelta":
                known = self.texts.get(request_id, "")
                if self.mistake == "offsets are not looked at":
                    self.texts[request_id] = known + frame["delta"]
                elif frame["offset"] + len(frame["delta"]) > len(known):
                    self.texts[request_id] = known[: frame["offset"]] + frame["delta"]
            case "messageResponse":
                text = frame["response"] if frame["response"] is not None else self.texts.get(request_id, "")
                status = "completed" if self.mistake == "every ending is a success" else frame["status"]
                code = frame.get("error", {}).get("code")
                self.futures[request_id].set_result(Outcome(status=status, text=text, code=code))
            case "error" if self.mistake == "an error is an ending":
                self.futures[request_id].set_result(Outcome(status="failed", code=frame["code"]))
            case "error" if self.socket is not None:
                self.sending = asyncio.create_task(self.send(self.socket, self.frames[request_id]))

    def ask(self, message: str, *, conversation_id: str | None, stream: bool) -> "NaiveApp.Question":
        request_id = "q" if self.mistake == "every question has the same id" else uuid.uuid4().hex
        frame = {"action": "sendMessage", "requestId": request_id, "message": message, "stream": stream}
        if conversation_id is not None:
            frame["conversationId"] = conversation_id
        self.frames[request_id] = frame
        future = self.futures[request_id] = asyncio.get_running_loop().create_future()
        sending = asyncio.create_task(self.send(self.socket, frame)) if self.socket is not None else None
        return NaiveApp.Question(future, sending)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @dataclass(slots=True)
    class Question:
        future: "asyncio.Future[Outcome]"
        sending: "asyncio.Task[None] | None"

        async def outcome(self) -> Outcome:
            return await self.future

        async def cancel(self) -> None:
            """Not in the cases that are tried with it."""


MISTAKES = {
    "offsets are not looked at": "01-answers/text that comes twice is there once",
    "every ending is a success": "01-answers/a refusal is shown with its code",
    "every question has the same id": "01-answers/two questions, two ids, answers in the other order",
    "an error is an ending": "02-connections/an error frame ends nothing: the same frame again",
    "a new session each time": "02-connections/a question that was not accepted is sent again, the same",
    "a new id for what is sent again": "02-connections/a question that was not accepted is sent again, the same",
    # Of the naive app by nature, so there is none without them.
    "all at once": "02-connections/one unacknowledged question of a conversation at a time",
    "endings are not held": "01-answers/an ending without its text is held",
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_client_with_a_mistake_fails_the_case_for_it(mistake: str) -> None:
    async def start(url: str) -> NaiveApp:
        return NaiveApp(url, mistake)

    async def start_without(url: str) -> NaiveApp:
        return NaiveApp(url, "none")

    case = shortened(CASES[MISTAKES[mistake]])
    if mistake not in {"all at once", "endings are not held"}:
        await run_client_case(case, start_without)
    with pytest.raises(CaseFailed):
        await run_client_case(case, start)
