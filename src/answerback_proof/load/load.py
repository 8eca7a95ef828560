"""The load: apps that ask, in a closed or an open loop, and a check of every frame.

A load test sends hundreds of thousands of frames. So its history is one entry a request, whose text is let go once it
is checked. A load client never resumes: every text comes once, in order, and whole.
"""

import asyncio
import gc
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from uuid import uuid4

from answerback.client.link import Address
from answerback.protocol.codec import FrameError, decode_server, encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Error,
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    MessageStarted,
    ServerFrame,
    Status,
)
from answerback_proof.answer_text import AnswerText, Flaw
from answerback_proof.checker import ViolationCounts
from answerback_proof.checker import count as count_violations
from answerback_proof.history import Promise, Violation, ViolationKind
from answerback_proof.load.websocket import LoadConnection, LoadConnectionError, open_connection
from answerback_proof.workload import PlannedRequest, question

_OPENING_AT_ONCE = 200
_STALLED_S = 30.0
"""Without a frame for so long a run ends, and what is pending counts as lost."""


_MAX_EXAMPLES = 10


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """One question. Instants in seconds on the caller's clock; `due_at` is when it should have been sent.

    `text`: what came of the answer; None once it has ended.
    """

    app: int
    request_id: str
    expected: str | None
    due_at: float
    accepted_at: float | None = None
    first_text_at: float | None = None
    last_text_at: float | None = None
    ended_at: float | None = None
    text: AnswerText | None = field(default_factory=AnswerText)


class Exchanges:
    """Takes every question and every frame, and checks each exchange.

    `gaps_s`: between two pieces of one answer.
    """

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.failures: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.frames = 0
        self.ended: list[Exchange] = []
        self.gaps_s: array[float] = array("d")
        self._exchanges: dict[str, Exchange] = {}

    @property
    def pending(self) -> int:
        return len(self._exchanges) - len(self.ended)

    @property
    def counts(self) -> ViolationCounts:
        return count_violations(self.violations)

    @property
    def examples(self) -> list[str]:
        found = self.violations[:_MAX_EXAMPLES]
        return [f"{'misrouted' if v.kind is ViolationKind.FOREIGN else v.kind}: {v.detail}" for v in found]

    def asked(self, app: int, request_id: str, *, expected: str | None, due_at: float) -> Exchange:
        """A question goes out. `expected`: the text of its answer, if it is known before."""
        exchange = Exchange(app=app, request_id=request_id, expected=expected, due_at=due_at)
        self._exchanges[request_id] = exchange
        return exchange

    def received(self, app: int, frame: ServerFrame | None, *, now: float) -> Exchange | None:
        """A frame has come to this app; the exchange that it ends, if it ends one."""
        self.frames += 1
        match frame:
            case MessageDelta():
                if (exchange := self._owned(app, frame.request_id)) is not None:
                    self._add(exchange, frame, now)
            case MessageAccepted():
                exchange = self._owned(app, frame.request_id)
                if exchange is not None and exchange.accepted_at is None:
                    exchange.accepted_at = now
            case MessageStarted():
                exchange = self._owned(app, frame.request_id)
                if exchange is not None and exchange.text is not None:
                    exchange.text.begin(frame.attempt)
            case MessageResponse():
                exchange = self._owned(app, frame.request_id)
                return None if exchange is None else self._end(exchange, frame, now)
            case Error():
                return self._refused(app, frame, now)
            case _:
                pass
        return None

    def close(self) -> None:
        """Nothing more comes: what has no ending is lost."""
        for exchange in self._exchanges.values():
            if exchange.ended_at is None:
                self._violate(Promise.ANSWERED, ViolationKind.LOST, exchange, "no ending")

    def _owned(self, app: int, request_id: str) -> Exchange | None:
        exchange = self._exchanges.get(request_id)
        if exchange is None or exchange.app != app:
            owner = "nobody" if exchange is None else f"app {exchange.app}"
            detail = f"a frame about request {request_id} of {owner} came to app {app}"
            self.violations.append(
                Violation(promise=Promise.OWN_ANSWER, kind=ViolationKind.FOREIGN, request=request_id, detail=detail)
            )
            return None
        return exchange

    def _add(self, exchange: Exchange, frame: MessageDelta, now: float) -> None:
        text = exchange.text
        if text is None:
            self._violate(
                Promise.EXACT_TEXT, ViolationKind.REPEATED, exchange, f"text at {frame.offset} after the ending"
            )
            return
        flaw = text.add(frame.attempt, frame.offset, frame.delta)
        if flaw is not None:
            self._note(exchange, flaw)
        if exchange.first_text_at is None:
            exchange.first_text_at = now
        elif exchange.last_text_at is not None:
            self.gaps_s.append(now - exchange.last_text_at)
        exchange.last_text_at = now

    def _end(self, exchange: Exchange, frame: MessageResponse, now: float) -> Exchange | None:
        text = exchange.text
        if text is None:
            self._violate(Promise.ONE_ENDING, ViolationKind.REPEATED, exchange, "a second ending")
            return None
        flaw = text.end(frame.attempt, frame.length, frame.response)
        if frame.status is not Status.COMPLETED:
            self.failures[str(frame.error.code if frame.error else frame.status)] += 1
        elif exchange.expected is not None and text.text != exchange.expected:
            flaw = None  # the same, said better
            self._wrong(exchange, text.text, exchange.expected)
        elif frame.response is None and text.length != frame.length:
            flaw = Flaw(ViolationKind.LOST, f"the ending says {frame.length} code points, but {text.length} came")
        if flaw is not None:
            self._note(exchange, flaw)
        return self._over(exchange, now)

    def _refused(self, app: int, frame: Error, now: float) -> Exchange | None:
        if frame.request_id is None or frame.code is ErrorCode.SESSION_REPLACED:
            self.errors[str(frame.code)] += 1
            return None
        exchange = self._owned(app, frame.request_id)
        if exchange is None or exchange.ended_at is not None:
            return None
        self.failures[str(frame.code)] += 1
        return self._over(exchange, now)

    def _over(self, exchange: Exchange, now: float) -> Exchange:
        exchange.ended_at = now
        exchange.text = None
        self.ended.append(exchange)
        return exchange

    def _wrong(self, exchange: Exchange, got: str, expected: str) -> None:
        pairs = enumerate(zip(got, expected, strict=False))
        at = next((at for at, (a, b) in pairs if a != b), min(len(got), len(expected)))
        detail = f"{len(got)} code points instead of {len(expected)}, different from {at} on"
        if any(other.expected == got for other in self._exchanges.values()):
            self._violate(Promise.OWN_ANSWER, ViolationKind.FOREIGN, exchange, detail)
        elif len(got) > len(expected):
            self._violate(Promise.EXACT_TEXT, ViolationKind.REPEATED, exchange, detail)
        else:
            self._violate(Promise.EXACT_TEXT, ViolationKind.LOST, exchange, detail)

    def _note(self, exchange: Exchange, flaw: Flaw) -> None:
        if flaw.kind is not ViolationKind.DISORDERED:  # text of an older attempt, which a client ignores
            self._violate(Promise.EXACT_TEXT, flaw.kind, exchange, flaw.detail)

    def _violate(self, promise: Promise, kind: ViolationKind, exchange: Exchange, detail: str) -> None:
        detail = f"request {exchange.request_id} of app {exchange.app}: {detail}"
        self.violations.append(Violation(promise=promise, kind=kind, request=exchange.request_id, detail=detail))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do. Each of `apps` connections, a user and session of its own, asks `requests` questions.

    Closed loop: each app keeps `in_flight` questions pending. Open loop (`rate` requests/s over all apps): a question
    goes out when it is due, whatever is pending, and its latency counts from that instant. `words` and
    `message_bytes`: the question has so many words and at least so many bytes. `is_echo`: the answer must be the
    question.
    """

    url: str
    apps: int = 50
    requests: int = 100
    in_flight: int = 1
    rate: float | None = None
    stream: bool = False
    words: int = 50
    message_bytes: int = 0
    model: str | None = None
    max_tokens: int | None = None
    token: str | None = None
    is_echo: bool = True
    user_prefix: str = "load"


class Run:
    """What the apps of one run share, and at its end the result. `broken`: why connections ended early."""

    def __init__(self, plan: Plan, *, remaining: int = 0) -> None:
        self.plan = plan
        self.exchanges = Exchanges()
        self.broken: list[str] = []
        self.seconds = self.client_cpu_s = 0.0
        self._remaining = remaining
        self._all_ended = asyncio.Event()

    def ended(self) -> None:
        self._remaining -= 1
        if self._remaining <= 0:
            self._all_ended.set()

    def broke(self, reason: str) -> None:
        """A connection ended early: the run is not valid."""
        self.broken.append(reason)
        self._all_ended.set()

    async def finished(self) -> None:
        """Wait until every question has ended, or nothing happens any more."""
        seen = -1
        while not self._all_ended.is_set() and seen != self.exchanges.frames:
            seen = self.exchanges.frames
            try:
                async with asyncio.timeout(_STALLED_S):
                    await self._all_ended.wait()
            except TimeoutError:
                pass


class LoadApp:
    """One connection with its questions."""

    def __init__(self, number: int, connection: LoadConnection, run: Run) -> None:
        self._number = number
        self._connection = connection
        self._run = run
        self._remaining = 0
        self._questions = count()
        connection.on_text = self._take
        connection.on_close = run.broke

    def begin(self, *, requests: int, in_flight: int) -> None:
        """Closed loop: keep `in_flight` questions pending until all were asked."""
        self._remaining = requests
        for _ in range(min(requests, in_flight)):
            self._ask_next()

    def ask(self, *, due_at: float) -> None:
        plan = self._run.plan
        number = next(self._questions)
        request_id = str(uuid4())
        request = PlannedRequest(
            request_id=request_id,
            text=question(f"{self._number}.{number}", plan.words, min_bytes=plan.message_bytes),
            stream=plan.stream,
            model=plan.model,
            max_tokens=plan.max_tokens,
        )
        expected = request.text if plan.is_echo else None
        self._run.exchanges.asked(self._number, request_id, expected=expected, due_at=due_at)
        try:
            self._connection.send(encode(request.frame()))
        except LoadConnectionError:
            pass  # `on_close` was called; the question counts as lost

    def _ask_next(self) -> None:
        if self._remaining:
            self._remaining -= 1
            self.ask(due_at=time.perf_counter())

    def _take(self, payload: bytes) -> None:
        run = self._run
        try:
            frame = decode_server(payload)
        except FrameError as exc:
            run.broke(f"a message that is no frame ({exc.detail})")
            return
        if run.exchanges.received(self._number, frame, now=time.perf_counter()) is not None:
            self._ask_next()
            run.ended()


class Load:
    """Open connections, ready for one or more runs.

    async with Load(plan) as load:
        await load.run()
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._connections: list[LoadConnection] = []

    async def __aenter__(self) -> "Load":
        try:
            for start in range(0, self._plan.apps, _OPENING_AT_ONCE):
                numbers = range(start, min(start + _OPENING_AT_ONCE, self._plan.apps))
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._open(number)) for number in numbers]
                self._connections += [task.result() for task in tasks]
        except ExceptionGroup as group_error:
            await self.__aexit__()
            raise group_error.exceptions[0] from None
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    async def run(self, *, requests: int | None = None) -> Run:
        """Ask everything, `requests` of each app, and wait for every ending."""
        plan = self._plan
        each = plan.requests if requests is None else requests
        run = Run(plan, remaining=each * plan.apps)
        apps = [LoadApp(number, connection, run) for number, connection in enumerate(self._connections)]
        with _no_collection():
            cpu_s, started = time.process_time(), time.perf_counter()
            if plan.rate is None:
                for app in apps:
                    app.begin(requests=each, in_flight=plan.in_flight)
            else:
                await _open_loop(apps, run, total=each * plan.apps, rate=plan.rate, started=started)
            await run.finished()
            run.seconds = time.perf_counter() - started
            run.client_cpu_s = time.process_time() - cpu_s
        run.exchanges.close()
        return run

    async def _open(self, number: int) -> LoadConnection:
        user = f"{self._plan.user_prefix}-{number}"
        headers = {} if self._plan.token is None else {"Authorization": f"Bearer {self._plan.token}"}
        address = Address(url=self._plan.url, session=user, user=user)
        return await open_connection(address.uri(with_user=self._plan.token is None), headers=headers)


async def _open_loop(apps: list[LoadApp], run: Run, *, total: int, rate: float, started: float) -> None:
    """Send each question when it is due. A late one is sent at once, and its lateness is part of its latency."""
    for number in range(total):
        due_at = started + number / rate
        wait_s = due_at - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        elif number % 64 == 0:
            await asyncio.sleep(0)
        if run.broken:
            return
        apps[number % len(apps)].ask(due_at=due_at)


@contextmanager
def _no_collection() -> Iterator[None]:
    """The collector's pauses would be measured as the server's."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
