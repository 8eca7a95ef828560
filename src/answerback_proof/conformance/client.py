"""Runs client cases: plays the server that the case scripts, and checks what the app is shown."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from answerback.protocol.codec import FrameError, decode_client
from answerback.protocol.limits import (
    MAX_ANSWER_BYTES,
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    SUBPROTOCOL,
)
from answerback.tasks import Tasks
from answerback_proof.conformance.cases import (
    Accept,
    Alone,
    Ask,
    BrokenCase,
    Cancel,
    Case,
    ClientCase,
    ClientStep,
    Pending,
    ReadHistory,
    Shows,
    Wait,
    Welcome,
)
from answerback_proof.conformance.patterns import BrokenPattern, Mismatch, match, substitute
from answerback_proof.conformance.peer import CaseFailed, CaseRun, Frame, Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The ending that an app was shown. `status`: completed, failed or cancelled. `code`: why it failed."""

    status: str
    text: str = ""
    code: str | None = None


class Asked(Protocol):
    """A question of the app."""

    async def outcome(self) -> Outcome:
        """Wait for its ending. Called once."""

    async def cancel(self) -> None:
        """Stop it."""


class ClientUnderTest(Protocol):
    """An adapter of the client that is tried. It connects by itself, and again after a loss."""

    def ask(self, message: str, *, conversation_id: str | None, stream: bool) -> Asked:
        """Ask, without waiting for anything."""

    def history(self, conversation_id: str) -> Asked:
        """Read a conversation's history. The outcome is that of its newest turn: status, answer and error code."""

    async def close(self) -> None:
        """End the app."""


Start: TypeAlias = Callable[[str], Awaitable[ClientUnderTest]]
"""Starts the app with the URL to connect to, without waiting for the connection."""


@dataclass(slots=True, kw_only=True)
class _Caller:
    """A client that wants to connect: waits until the case accepts or refuses it."""

    query: dict[str, str]
    decision: "asyncio.Future[int | None]"
    socket: "asyncio.Future[ServerConnection]"


async def run_client_case(case: Case, start: Start) -> None:
    """Run one case. Raises: CaseFailed: with the step and the difference. BrokenCase: the case itself is wrong."""
    assert isinstance(case.case, ClientCase)
    attempt = _ClientCaseRun(case.case.fresh)
    try:
        await attempt.run(case.case.steps, start)
    except CaseFailed as exc:
        lines = "\n".join(attempt.transcript.lines)
        raise CaseFailed(f"{case.name}, step {attempt.step}: {exc}\n{lines}") from None
    except BrokenPattern as exc:
        raise BrokenCase(f"{case.name}, step {attempt.step}: {exc}") from exc


@dataclass(slots=True)
class _Question:
    """A question of the app, and the ending that it is shown."""

    asked: Asked
    outcome: "asyncio.Task[Outcome]" = field(init=False)

    def __post_init__(self) -> None:
        self.outcome = asyncio.create_task(self.asked.outcome(), name="outcome")


class _ClientCaseRun(CaseRun):
    """One case under way."""

    def __init__(self, fresh: Sequence[str]) -> None:
        super().__init__({}, fresh)
        self._callers: asyncio.Queue[_Caller] = asyncio.Queue()
        self._by_socket: dict[ServerConnection, _Caller] = {}
        self._questions: dict[str, _Question] = {}
        self._replies = Tasks()

    async def run(self, steps: Sequence[ClientStep], start: Start) -> None:
        """Every step, then what must hold at the end. Raises: CaseFailed; BrokenPattern."""
        async with serve(
            self._handle,
            "127.0.0.1",
            0,
            process_request=self._decide,
            select_subprotocol=lambda _, offered: Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None,
            compression=None,
            max_size=None,
            ping_interval=None,
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            client = await start(f"ws://127.0.0.1:{port}")
            try:
                for step in steps:
                    self.step += 1
                    await self._do(step, client)
                for peer in self.peers.values():
                    peer.check_nothing_is_left()
            finally:
                await self._end(client)

    async def _end(self, client: ClientUnderTest) -> None:
        while not self._callers.empty():
            self._callers.get_nowait().decision.set_result(HTTPStatus.SERVICE_UNAVAILABLE)
        await client.close()
        await self._replies.settle(grace_s=0)
        outcomes = [question.outcome for question in self._questions.values()]
        for outcome in outcomes:
            outcome.cancel()
        await asyncio.gather(*outcomes, return_exceptions=True)
        await asyncio.gather(*(peer.leave() for peer in self.peers.values()))

    # --- the server

    async def _decide(self, socket: ServerConnection, request: Request) -> Response | None:
        loop = asyncio.get_running_loop()
        caller = _Caller(
            query=dict(parse_qsl(urlsplit(request.path).query)),
            decision=loop.create_future(),
            socket=loop.create_future(),
        )
        self._callers.put_nowait(caller)
        status = await caller.decision
        if status is not None:
            return socket.respond(HTTPStatus(status), "Refused by the case.\n")
        self._by_socket[socket] = caller
        return None

    async def _handle(self, socket: ServerConnection) -> None:
        self._by_socket.pop(socket).socket.set_result(socket)
        await socket.wait_closed()

    async def _accept(self, step: Accept) -> None:
        try:
            async with asyncio.timeout(step.within_ms / 1000):
                caller = await self._callers.get()
        except TimeoutError:
            raise CaseFailed(f"the client should connect within {step.within_ms} ms, but does not") from None
        caller.decision.set_result(step.refuse)
        if step.refuse is not None:
            return
        socket = await caller.socket
        self.transcript.note(step.on, "--", f"open, {caller.query}")
        peer = self.peers[step.on] = Peer(step.on, socket, self.transcript, check_frame)
        peer.on_frame = lambda frame: self._is_small_talk(peer, frame)
        if step.query is not None:
            self.match("the query", step.query, caller.query)

    async def _alone(self, step: Alone) -> None:
        try:
            async with asyncio.timeout(step.for_ms / 1000):
                caller = await self._callers.get()
        except TimeoutError:
            return
        caller.decision.set_result(HTTPStatus.SERVICE_UNAVAILABLE)
        raise CaseFailed("the client connects, but should stay away")

    def _is_small_talk(self, peer: Peer, frame: Frame) -> bool:
        """Answer a `ping`: a client may send one at any time."""
        if frame["action"] != "ping":
            return False
        self._reply(peer, {"action": "pong"})
        return True

    def _welcome(self, step: Welcome) -> None:
        peer = self.peer(step.on)
        pattern = None if step.resume is None else substitute(step.resume, self.variables)
        asked = [frame for frame in peer.unread if frame["action"] == "hello"]
        peer.unread = [frame for frame in peer.unread if frame["action"] != "hello"]

        def see(frame: Frame) -> bool:
            nonlocal pattern
            if frame["action"] != "hello":
                return self._is_small_talk(peer, frame)
            if pattern is not None:
                try:
                    match(pattern, frame.get("resume", []), self.variables, "resume")
                except Mismatch as exc:
                    peer.complain(f"in `hello` {exc}")
                pattern = None
            self._reply(peer, {**_welcome(frame["helloId"]), **step.frame})
            return True

        peer.on_frame = see
        for frame in asked:
            see(frame)

    def _reply(self, peer: Peer, frame: Frame) -> None:
        self._replies.start(peer.send_frame(frame), name="reply")

    # --- steps

    async def _do(self, step: ClientStep, client: ClientUnderTest) -> None:
        match step:
            case Ask():
                message, conversation = substitute([step.message, step.conversation_id], self.variables)
                asked = client.ask(message, conversation_id=conversation, stream=step.stream)
                self._questions[step.name] = _Question(asked)
            case ReadHistory():
                asked = client.history(substitute(step.conversation_id, self.variables))
                self._questions[step.name] = _Question(asked)
            case Cancel():
                await self._question(step.name).asked.cancel()
            case Shows():
                await self._shows(step)
            case Pending():
                if (outcome := self._question(step.name).outcome).done():
                    raise CaseFailed(f"{step.name}: should have no ending yet, but has {outcome.result()}")
            case Accept():
                await self._accept(step)
            case Alone():
                await self._alone(step)
            case Welcome():
                self._welcome(step)
            case Wait():
                await asyncio.sleep(step.ms / 1000)
            case _:
                await self.do_on_peer(step)

    async def _shows(self, step: Shows) -> None:
        question = self._question(step.name)
        try:
            async with asyncio.timeout(step.within_ms / 1000):
                outcome = await asyncio.shield(question.outcome)
        except TimeoutError:
            raise CaseFailed(f"{step.name}: has no ending after {step.within_ms} ms") from None
        self.match(f"{step.name}: the status", step.status, outcome.status)
        for what, pattern, found in (("text", step.text, outcome.text), ("code", step.code, outcome.code)):
            if pattern is not None:
                self.match(f"{step.name}: the {what}", pattern, found)

    def _question(self, name: str) -> _Question:
        question = self._questions.get(name)
        if question is None:
            raise BrokenPattern(f"the question {name} was never asked")
        return question


def check_frame(message: str) -> str | None:
    """What is wrong with a message of a client, whatever the case is about."""
    try:
        decode_client(message)
    except FrameError as exc:
        return f"a message came that is no frame of the protocol ({exc.detail}): {message[:200]}"
    return None


def _welcome(hello_id: str) -> Frame:
    return {
        "action": "welcome",
        "helloId": hello_id,
        "connectionId": "connection-1",
        "sessionId": "session-1",
        "userId": "user_001",
        "protocol": PROTOCOL_VERSION,
        "limits": {
            "maxMessageBytes": MAX_MESSAGE_BYTES,
            "maxFrameBytes": MAX_FRAME_BYTES,
            "maxAnswerBytes": MAX_ANSWER_BYTES,
            "requestsPerMinute": 0,
            "maxPending": 1_000,
            "maxTokens": 1_024,
            "idleTimeoutMs": 3_600_000,
            "answerTimeoutMs": 120_000,
            "queueTimeoutMs": 600_000,
        },
        "models": ["echo"],
    }
