"""Many apps that do the same at once, lose their connections or cancel; and a large question with many notes."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp

from answerback.client.link import Address
from answerback.protocol.codec import decode_server, encode
from answerback.protocol.frames import CancelMessage, Hello, MessageDelta, ResumePoint, SendMessage, Welcome
from answerback_proof.load.load import Exchange, Exchanges
from answerback_proof.load.websocket import LoadConnection, LoadConnectionError, open_connection
from answerback_proof.workload import question
from servers import OURS, Setup, WrongServer, model_server, running, usage_of_tree

_AT_ONCE = 1_000
"""Handshakes at a time: what the listening socket holds without making anybody wait for a second SYN."""

_PATIENCE_S = 180.0
_SLOW_WORD_MS = 5_000
"""Of answers that are there to be cancelled: ten thousand of them must cost next to nothing while they grow."""

_RETRY_S = 0.2
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that closes with a reset, as a network that is gone does."""

Figures = dict[str, float]


class App:
    """An app with one streamed answer. It keeps what it has over a lost connection, and asks for the rest."""

    def __init__(self, url: str, number: int, exchanges: Exchanges) -> None:
        self.number = number
        self.connection: LoadConnection | None = None
        self.exchange: Exchange | None = None
        self.text_came = asyncio.Event()
        self.welcomed_at = 0.0
        self._greeted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._url = Address(url=url, session=f"app-{number}", user=f"app-{number}").uri(with_user=True)
        self._exchanges = exchanges

    async def connect(self) -> None:
        """Connect and say what is owed; again and again, as any client does."""
        while not await self._try_to_connect():
            await asyncio.sleep(_RETRY_S)

    async def _try_to_connect(self) -> bool:
        try:
            self.connection = await open_connection(self._url)
        except LoadConnectionError:
            return False
        greeted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._greeted = greeted
        self.connection.on_text = self._take
        self.connection.on_close = lambda _: None if greeted.done() else greeted.set_result(False)
        self.say_hello()
        return await greeted

    def say_hello(self) -> asyncio.Future[bool]:
        """Say what there is of the answer, and so ask for the rest; the future that `welcome` fulfils."""
        assert self.connection is not None
        owed = self.exchange
        points: tuple[ResumePoint, ...] = ()
        if owed is not None and owed.text is not None:
            points = (ResumePoint(request_id=owed.request_id, attempt=owed.text.attempt, offset=owed.text.length),)
        if self._greeted.done():
            self._greeted = asyncio.get_running_loop().create_future()
        self.connection.send(encode(Hello(hello_id="hello", resume=points)))
        return self._greeted

    def ask(self, text: str, *, conversation_id: str | None = None) -> Exchange:
        """Send one question; the exchange in which its frames are checked."""
        assert self.connection is not None
        request_id, now = str(uuid4()), time.perf_counter()
        self.exchange = self._exchanges.asked(self.number, request_id, expected=text, due_at=now)
        frame = SendMessage(request_id=request_id, message=text, stream=True, conversation_id=conversation_id)
        self.connection.send(encode(frame))
        return self.exchange

    def cut(self) -> None:
        """Lose the connection with all that is on its way."""
        assert self.connection is not None
        assert self.connection._transport is not None
        sock: socket.socket = self.connection._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.connection.on_text = lambda _: None
        self.connection._transport.abort()

    def _take(self, text: bytes) -> None:
        frame, now = decode_server(text), time.perf_counter()
        self._exchanges.received(self.number, frame, now=now)
        if isinstance(frame, MessageDelta):
            self.text_came.set()
        elif isinstance(frame, Welcome):
            self.welcomed_at = now
            if not self._greeted.done():
                self._greeted.set_result(True)


async def cut_all(apps: int, *, word_ms: int, words: int) -> Figures:
    """Every app has a growing answer and loses its connection at the same moment.

    `last_s`: from that moment until the last of them is connected again and has every character that it had missed.
    A `welcome` says so: the server sends it after all that it owes. Then the answers end, and each must be whole.
    """
    exchanges = Exchanges()
    async with running(OURS, Setup(word_ms=word_ms)) as process, asyncio.timeout(_PATIENCE_S):
        everyone = [App(process.url, number, exchanges) for number in range(apps)]
        await _together(everyone, App.connect)
        for app in everyone:
            app.ask(question(f"{app.number}", words))
            if app.number % 64 == 0:
                await asyncio.sleep(0)
        for app in everyone:
            await app.text_came.wait()
        running_at_cut, before = exchanges.pending, usage_of_tree(process.pid)
        cut_at = time.perf_counter()
        for app in everyone:
            app.cut()
        await _together(everyone, App.connect)
        after = usage_of_tree(process.pid)
        seconds = sorted(app.welcomed_at - cut_at for app in everyone)
        while exchanges.pending:
            await asyncio.sleep(0.1)
        _close(everyone)
    _check(exchanges)
    return {
        "apps": apps,
        "growing": running_at_cut,
        "median_s": seconds[len(seconds) // 2],
        "last_s": seconds[-1],
        "cpu_us": (after.cpu_s - before.cpu_s) / apps * 1e6,
        "memory_mb": after.rss_bytes / 1e6,
    }


async def cancel_all(answers: int, *, apps: int = 100) -> Figures:
    """Cancel very many growing answers at once, each of a model server that counts who is still listening.

    `last_stop_s`: from the first cancellation until that server has seen the last of them end.
    """
    exchanges = Exchanges()
    async with (
        model_server(word_ms=_SLOW_WORD_MS) as upstream,
        asyncio.timeout(_PATIENCE_S),
        aiohttp.ClientSession() as http,
    ):

        async def streams() -> dict[str, float]:
            async with http.get(f"{upstream}/streams") as response:
                return dict(await response.json())

        model = f"openai:{upstream}/v1?concurrency=10000#echo"
        async with running(OURS, Setup(model=model)) as process:
            everyone = [App(process.url, number, exchanges) for number in range(min(apps, answers))]
            await _together(everyone, App.connect)
            asked: list[tuple[App, str]] = []
            for number in range(answers):
                app = everyone[number % len(everyone)]
                text = question(f"{app.number}.{number}", 20)
                asked.append((app, app.ask(text, conversation_id=f"c{number}").request_id))
                if number % 64 == 0:
                    await asyncio.sleep(0)
            while (await streams())["open"] < answers:
                if exchanges.pending < answers:
                    raise WrongServer(
                        f"the first of {answers} answers end before the last begin: try a smaller --scale"
                    )
                await asyncio.sleep(0.1)
            before, first_at, began = usage_of_tree(process.pid), time.time(), time.perf_counter()
            for number, (app, request_id) in enumerate(asked):
                assert app.connection is not None
                app.connection.send(encode(CancelMessage(request_id=request_id)))
                if number % 64 == 0:
                    await asyncio.sleep(0)
            while exchanges.pending:
                await asyncio.sleep(0.01)
            ended_s = time.perf_counter() - began
            while (seen := await streams())["open"]:
                await asyncio.sleep(0.05)
            after = usage_of_tree(process.pid)
            _close(everyone)
    if exchanges.failures != {"cancelled": answers} or seen["stopped"] != answers:
        raise WrongServer(f"of {answers} cancelled answers {seen['stopped']} stopped: {exchanges.failures}")
    return {
        "answers": answers,
        "stopped": seen["stopped"],
        "last_stop_s": seen["last_stopped_at"] - first_at,
        "last_ending_s": ended_s,
        "cpu_us": (after.cpu_s - before.cpu_s) / answers * 1e6,
    }


async def large_question(answers: int, *, message_bytes: int, notes: int) -> Figures:
    """One app asks large questions and says `hello` many times while each is answered: each is a note on its record."""
    exchanges = Exchanges()
    async with running(OURS, Setup(word_ms=50)) as process, asyncio.timeout(_PATIENCE_S):
        app = App(process.url, 0, exchanges)
        await app.connect()
        before, written = usage_of_tree(process.pid), _written_bytes(process.pid)
        for number in range(answers):
            exchange = app.ask(question(f"0.{number}", notes + 20, min_bytes=message_bytes))
            for _ in range(notes):
                app.text_came.clear()
                await app.text_came.wait()
                await app.say_hello()
            while exchange.ended_at is None:
                await asyncio.sleep(0.01)
        after = usage_of_tree(process.pid)
        written = _written_bytes(process.pid) - written
        _close([app])
    _check(exchanges, may_repeat=True)  # text that was on its way when the app said what it has
    return {"cpu_us": (after.cpu_s - before.cpu_s) / answers * 1e6, "written_kb": written / answers / 1000}


def _written_bytes(pid: int) -> int:
    """Bytes that a process has sent to the disk."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


async def _together(everyone: Sequence[App], act: Callable[[App], Coroutine[Any, Any, None]]) -> None:
    """All at once, but for the handshakes that a listening socket has room for."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(app: App) -> None:
        async with room:
            await act(app)

    async with asyncio.TaskGroup() as group:
        for app in everyone:
            group.create_task(one(app))


def _close(everyone: Sequence[App]) -> None:
    for app in everyone:
        if app.connection is not None:
            app.connection.close()


def _check(exchanges: Exchanges, *, may_repeat: bool = False) -> None:
    """Raises: WrongServer: an answer is not whole."""
    exchanges.close()
    counts = exchanges.counts
    if counts.misrouted or counts.lost or (counts.repeated and not may_repeat) or exchanges.failures:
        raise WrongServer(f"{counts}, failures {dict(exchanges.failures)}: {exchanges.examples[:3]}")
