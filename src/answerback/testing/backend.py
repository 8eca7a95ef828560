"""A whole backend in memory: the real front, worker and janitor over fakes. For tests of apps, of adapters, of us."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TypeAlias

from answerback.core.delivery import steady
from answerback.core.request import Policy, RequestKey
from answerback.core.watching import MOST
from answerback.ports import (
    Connection,
    Finish,
    Gone,
    Model,
    Part,
    Piece,
    Prompt,
    Quota,
    Sender,
    Sent,
    Slow,
    Tokens,
    limits_of,
)
from answerback.protocol.codec import encode
from answerback.protocol.frames import ClientFrame, ServerFrame
from answerback.service.attempt import Done, Retry
from answerback.service.composition import Service
from answerback.service.delivery_sender import DeliverySender
from answerback.service.front_settings import FrontSettings
from answerback.service.janitor import JanitorSettings
from answerback.service.observer import Observer
from answerback.service.uploads import Uploads
from answerback.service.worker import WorkerSettings
from answerback.stores.connections import MemoryConnections
from answerback.stores.sqlite import MemoryStore
from answerback.testing.queue import LaneQueue

Line: TypeAlias = str | Part | float | Finish | Exception
"""Text or a part to say, seconds to wait, the finish, or an error to raise."""


class ScriptedModel:
    """ports.Model that answers with what `script` returns; it keeps every prompt, so that a test can count runs."""

    def __init__(
        self, script: Callable[[Prompt], Iterable[Line]], *, name: str = "scripted", context_tokens: int = 4096
    ) -> None:
        self._script = script
        self._name = name
        self._context_tokens = context_tokens
        self.prompts: list[Prompt] = []
        self.running = 0
        self.stopped = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    @property
    def concurrency(self) -> int:
        return 1_000

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.prompts.append(prompt)
        self.running += 1
        finished = False
        try:
            for line in self._script(prompt):
                if isinstance(line, Exception):
                    raise line
                if isinstance(line, float):
                    await asyncio.sleep(line)
                else:
                    yield line
            finished = True
        finally:
            self.running -= 1
            self.stopped += not finished

    async def close(self) -> None:
        pass


def say_question(prompt: Prompt) -> Iterable[Line]:
    """A script: the question's own words, one a piece, 10 ms apart."""
    question = prompt.messages[-1].text
    words = question.split(" ")
    for number, word in enumerate(words):
        yield word if number == 0 else f" {word}"
        yield 0.01
    yield Finish(input_tokens=len(words), output_tokens=len(words))


class ScriptedSender:
    """ports.Sender without a network. A connection is open from `open` until `drop` or `close`."""

    def __init__(self, *, parks: bool = True) -> None:
        self.frames: dict[str, list[ServerFrame]] = defaultdict(list)
        self.closed: set[str] = set()
        self.slow: set[str] = set()
        self.parked: list[tuple[str, RequestKey, int, int]] = []
        self._open: set[str] = set()
        self._parks = parks
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()

    def open(self, connection_id: str) -> None:
        """From now on frames reach it."""
        self._open.add(connection_id)

    def drop(self, connection_id: str) -> None:
        """The network is gone under it."""
        self._open.discard(connection_id)
        self._drained.set()

    def drain(self, connection_id: str) -> None:
        """A slow connection reads again."""
        self.slow.discard(connection_id)
        self._drained.set()

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        if connection_id not in self._open:
            return Gone()
        if connection_id in self.slow:
            return Slow()
        self.frames[connection_id].append(frame)
        self._arrived.set()
        return Sent()

    async def ready(self, connection_id: str) -> None:
        while connection_id in self._open and connection_id in self.slow:
            self._drained.clear()
            await self._drained.wait()

    async def close(self, connection_id: str, last: ServerFrame | None = None) -> None:
        if last is not None and connection_id in self._open:
            self.frames[connection_id].append(last)
            self._arrived.set()
        self.closed.add(connection_id)
        self.drop(connection_id)

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        if self._parks:
            self.parked.append((connection_id, key, attempt, offset))
        return self._parks

    async def arrival(self) -> None:
        """Wait for the next frame on any connection."""
        self._arrived.clear()
        await self._arrived.wait()


EPOCH_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z, when every virtual run begins; the start of a minute."""


class Backend:
    """Build inside a running loop, best a VirtualLoop.

    `bells_work` False: the front tells the worker nothing, as in different processes. `look_every_s`: how often a
    worker polls its record between renewals. `sender` replaces the scripted one, which then gets no frames.
    `worker_skew_ms`: how far the workers' clock is ahead of the front's. `connections`: keeps them, and what
    they watch.
    """

    def __init__(
        self,
        *,
        model: Model | None = None,
        store: MemoryStore | None = None,
        sender: Sender | None = None,
        queue: type[LaneQueue] = LaneQueue,
        quota: Quota | None = None,
        policy: Policy | None = None,
        tokens: Tokens | None = None,
        observer: Observer | None = None,
        parks: bool = True,
        bells_work: bool = True,
        queue_survives: bool = False,
        renew_every_s: float | None = 1.0,
        look_every_s: float | None = None,
        lock_system: bool = False,
        system: str | None = None,
        worker_skew_ms: int = 0,
        connections: MemoryConnections | None = None,
        most_watchers: int = MOST,
    ) -> None:
        self.store = store or MemoryStore()
        self.connections = connections or MemoryConnections()
        self.sender = ScriptedSender(parks=parks)
        sender = sender or self.sender
        self.model = model or ScriptedModel(say_question)
        policy = policy or Policy()
        observer = observer or Observer()
        models = {self.model.name: self.model}
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        delivery_sender = DeliverySender(
            requests=self.store,
            sender=sender,
            interval=steady(),
            monotonic=self._loop.time,
            observer=observer,
        )
        self.queue = queue(self._work, clock=self.clock, visibility_s=policy.lease_ms / 1000)
        service = Service(
            settings=FrontSettings(
                models=tuple(models),
                model_limits={name: limits_of(one) for name, one in models.items()},
                quota=quota or Quota(per_minute=0, max_pending=1_000),
                policy=policy,
                lock_system=lock_system,
                queue_survives=queue_survives,
            ),
            worker_settings=WorkerSettings(
                policy=policy, renew_every_s=renew_every_s, poll_every_s=look_every_s, system=system
            ),
            janitor_settings=JanitorSettings(policy=policy, queue_survives=queue_survives),
            store=self.store,
            connections=self.connections,
            queue=self.queue,
            sender=sender,
            delivery_sender=delivery_sender,
            models=models,
            uploads=Uploads(files=self.store, clock=self.clock),
            observer=observer,
            clock=self.clock,
            worker_clock=lambda: self.clock() + worker_skew_ms,
            monotonic=self._loop.time,
            tokens=tokens,
            most_watchers=most_watchers,
            is_split=not bells_work,
        )
        self.front, self.worker, self.janitor = service.front, service.worker, service.janitor

    async def _work(self, key: RequestKey) -> Done | Retry:
        return await self.worker.run(key)

    def clock(self) -> int:
        """Epoch milliseconds of the virtual now."""
        return EPOCH_MS + round((self._loop.time() - self._started) * 1000)

    async def connect(
        self,
        connection_id: str,
        *,
        session: str | None = None,
        user: str | None = None,
        token_expires_at_ms: int | None = None,
    ) -> "Peer":
        """Open a connection; without `session` it is a session of its own."""
        now_ms = self.clock()
        self.sender.open(connection_id)
        await self.front.connect(
            Connection(
                connection_id=connection_id,
                session_id=session or f"own-{connection_id}",
                user_id=user,
                connected_at_ms=now_ms,
                last_activity_ms=now_ms,
                token_expires_at_ms=token_expires_at_ms,
            )
        )
        return Peer(self, connection_id)


class Peer:
    """The far end of one connection."""

    def __init__(self, backend: Backend, connection_id: str) -> None:
        self._backend = backend
        self.connection_id = connection_id

    @property
    def frames(self) -> list[ServerFrame]:
        """Everything received."""
        return self._backend.sender.frames[self.connection_id]

    async def say(self, frame: ClientFrame | bytes | str) -> None:
        """Send one message and wait until the front has handled it."""
        data = frame if isinstance(frame, bytes | str) else encode(frame)
        run = await self._backend.front.receive(self.connection_id, data)
        if run is not None:
            self._run = asyncio.create_task(run)

    async def leave(self) -> None:
        """The socket closes."""
        self._backend.sender.drop(self.connection_id)
        await self._backend.front.disconnect(self.connection_id)
