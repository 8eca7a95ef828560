"""Servers that are wrong on purpose, each in one way, fail the case for it: a proxy plants the mistake."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from answerback_proof.conformance import CaseStatus, ServerRun, load_cases
from answerback_proof.conformance.peer import check_frame
from cli_process import GatewayProcess
from shortened import shortened

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

CASES = {case.name: case for case in load_cases("server")}
Frame = dict[str, Any]
Mistake = Callable[[Frame, "Proxy"], Iterator[Frame]]


class Proxy:
    """Passes messages on; frames of the server go through the mistake."""

    def __init__(self, target: str, mistake: Mistake, close_codes: dict[int, int]) -> None:
        self._target = target
        self._mistake = mistake
        self._close_codes = close_codes
        self.sockets: list[ServerConnection] = []
        self.seen: dict[str, Frame] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def handle(self, downstream: ServerConnection) -> None:
        self.sockets.append(downstream)
        path = downstream.request.path if downstream.request else "/"
        async with connect(self._target + path, compression=None, max_size=None, proxy=None) as upstream:

            async def forward() -> None:
                try:
                    async for message in downstream:
                        await upstream.send(message)
                except ConnectionClosed:
                    pass
                await upstream.close()

            task = asyncio.create_task(forward())
            try:
                async for message in upstream:
                    for frame in self._mistake(json.loads(message), self):
                        await downstream.send(json.dumps(frame, ensure_ascii=False))
            except ConnectionClosed:
                pass
            code = upstream.close_code or 1000
            await downstream.close(self._close_codes.get(code, code) if code != 1006 else 1011)
            task.cancel()
            await asyncio.gather(task, *self.tasks, return_exceptions=True)

    def elsewhere(self, frame: Frame) -> None:
        """Send a frame on every other connection than the last."""
        for socket in self.sockets[:-1]:
            self.tasks.add(asyncio.create_task(socket.send(json.dumps(frame))))


@asynccontextmanager
async def wrong(
    target: str, mistake: Mistake = lambda frame, _: iter((frame,)), close_codes: dict[int, int] | None = None
) -> AsyncIterator[str]:
    proxy = Proxy(target, mistake, close_codes or {})
    async with serve(proxy.handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def changed(action: str, **fields: Any) -> Mistake:
    """Another value of a field; a function of the frame gives it."""

    def mistake(frame: Frame, _: Proxy) -> Iterator[Frame]:
        if frame["action"] == action:
            new = {name: value(frame) if callable(value) else value for name, value in fields.items()}
            frame = {name: value for name, value in {**frame, **new}.items() if value is not ...}
        yield frame

    return mistake


def left_out(action: str) -> Mistake:
    return lambda frame, _: iter(() if frame["action"] == action else (frame,))


def twice_but_different(frame: Frame, _: Proxy) -> Iterator[Frame]:
    yield frame
    if frame["action"] == "messageResponse":
        yield {**frame, "status": "cancelled", "response": None}


def one_piece_lost(frame: Frame, proxy: Proxy) -> Iterator[Frame]:
    if frame["action"] == "messageDelta" and frame["requestId"] not in proxy.seen:
        proxy.seen[frame["requestId"]] = frame
        return
    yield frame


def on_a_foreign_connection(frame: Frame, proxy: Proxy) -> Iterator[Frame]:
    yield frame
    if frame["action"] == "messageResponse":
        proxy.elsewhere(frame)


def welcome_first(frame: Frame, proxy: Proxy) -> Iterator[Frame]:
    """Holds everything back until `welcome` came."""
    if "welcomed" in proxy.seen or frame["action"] not in {"welcome", "messageResponse", "error"}:
        yield frame
    elif frame["action"] == "welcome":
        yield frame
        yield from (held for name, held in proxy.seen.items() if name != "welcomed")
    else:
        proxy.seen[str(len(proxy.seen))] = frame


def too_large(frame: Frame, _: Proxy) -> Iterator[Frame]:
    yield {**frame, "padding": "x" * 40_000}


MISTAKES: dict[str, tuple[Mistake, str]] = {
    "offsets in bytes": (
        changed("messageDelta", offset=lambda frame: frame["offset"] * 3),
        "02-asking/the pieces are the text",
    ),
    "lengths in UTF-16 units": (
        changed("messageResponse", length=lambda frame: len((frame["response"] or "").encode("utf-16-le")) // 2),
        "02-asking/lengths count code points",
    ),
    "a piece is lost": (one_piece_lost, "02-asking/a streamed answer"),
    "no acknowledgement": (left_out("messageAccepted"), "02-asking/the two frames"),
    "no start": (left_out("messageStarted"), "02-asking/a streamed answer"),
    "a second ending that differs": (twice_but_different, "02-asking/the two frames"),
    "the answer goes to another connection too": (
        on_a_foreign_connection,
        "02-asking/answers go to the connection of the session that asked",
    ),
    "the text where there should be none": (
        changed("messageResponse", response="the text"),
        "02-asking/the pieces are the text",
    ),
    "any failure is a success": (
        changed("messageResponse", status="completed"),
        "02-asking/a model that breaks off",
    ),
    "a refusal without a reason": (
        changed("messageResponse", error=...),
        "03-bad-input/a question that says nothing",
    ),
    "an error without its request": (changed("error", requestId=...), "04-idempotency/any other payload is a conflict"),
    "another code": (changed("error", code="internal"), "03-bad-input/not JSON"),
    "an exception's text": (
        changed("error", message=""),
        "03-bad-input/not JSON",
    ),
    "a cancelled request that says it completed": (
        changed("messageResponse", status="completed", response="", length=0),
        "05-cancelling/while it runs and is not streamed",
    ),
    "an attempt that goes up without need": (
        changed("messageResponse", attempt=lambda frame: frame["attempt"] + 1),
        "04-idempotency/the same frame while it runs",
    ),
    "a resume from the start": (
        changed("messageDelta", offset=0),
        "06-resuming/of an answer that has ended meanwhile",
    ),
    "welcome before what was owed": (welcome_first, "06-resuming/welcome comes last"),
    "an unknown request is passed over": (left_out("error"), "06-resuming/a request that was never accepted"),
    "no word to who was replaced": (left_out("error"), "07-sessions/the newer connection takes over"),
    "every request is the next one": (
        changed("messageAccepted", position=0),
        "08-ordering/one conversation, in the order accepted",
    ),
    "turns with the newest first": (
        changed("history", turns=lambda frame: frame["turns"][::-1]),
        "09-history/a conversation has its turns, oldest first",
    ),
    "no next page": (changed("history", next=...), "09-history/pages of turns, newest page first"),
    "a field of a wrong kind": (changed("welcome", protocol="1"), "01-connecting/hello is answered by welcome"),
    "another user": (changed("welcome", userId="root"), "01-connecting/hello is answered by welcome"),
    "frames above the limit": (too_large, "01-connecting/ping is answered by pong"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_server_with_a_mistake_fails_the_case_for_it(mistake: str, gateway: GatewayProcess) -> None:
    plant, name = MISTAKES[mistake]
    run = ServerRun(gateway.url)
    facts = await run.probe()
    async with wrong(gateway.url) as url:
        result = await ServerRun(url).run_case(shortened(CASES[name]), facts)
        assert result.status is CaseStatus.PASSED, f"the proxy itself is at fault: {result.why}"
    async with wrong(gateway.url, plant) as url:
        result = await ServerRun(url).run_case(shortened(CASES[name]), facts)
        assert result.status is CaseStatus.FAILED
        assert result.why
        assert result.transcript


async def test_a_server_is_not_wrong_that_lacks_a_feature_and_names_none(gateway: GatewayProcess) -> None:
    async with wrong(gateway.url, changed("welcome", features=None)) as url:
        run, case = ServerRun(url), CASES["09-history/a turn that is replaced is there for who asks for it"]
        result = await run.run_case(case, await run.probe())
    assert (result.status, result.why) == (CaseStatus.SKIPPED, "needs the feature superseded")


async def test_a_server_that_knows_one_path_alone_fails(gateway: GatewayProcess) -> None:
    facts = await ServerRun(gateway.url).probe()

    def only_root(socket: ServerConnection, request: Request) -> Response | None:
        return None if request.path.partition("?")[0] == "/" else socket.respond(HTTPStatus.NOT_FOUND, "")

    proxy = Proxy(gateway.url, lambda frame, _: iter((frame,)), {})
    async with serve(proxy.handle, "127.0.0.1", 0, process_request=only_root) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        result = await ServerRun(url).run_case(CASES["01-connecting/any path is accepted"], facts)
    assert result.status is CaseStatus.FAILED


def test_a_code_that_the_protocol_does_not_have_is_wrong_though_readers_take_it() -> None:
    frame = '{"action":"error","code":"%s","message":"a \\"code\\":\\"oops\\" in a text"}'
    assert check_frame(frame % "internal") is None
    assert "oops" in (check_frame(frame % "oops") or "")


async def test_a_server_that_closes_with_another_code_fails(gateway: GatewayProcess) -> None:
    facts = await ServerRun(gateway.url).probe()
    for name, code in (
        ("a binary message", 1003),
        ("a message above 128 KB", 1009),
    ):
        async with wrong(gateway.url, close_codes={code: 1000}) as url:
            result = await ServerRun(url).run_case(shortened(CASES[f"03-bad-input/{name}"]), facts)
            assert result.status is CaseStatus.FAILED, name
