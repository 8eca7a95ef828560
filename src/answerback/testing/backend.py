"""A whole backend in memory: the real front, worker and janitor over fakes. For tests of apps, of adapters, of us."""

import asyncio

from answerback.core.delivery import steady
from answerback.core.request import Policy
from answerback.core.watching import MOST
from answerback.ports import Connection, Model, Quota, Sender, Tokens, limits_of
from answerback.protocol.codec import encode
from answerback.protocol.frames import ClientFrame, ServerFrame
from answerback.service.delivery_sender import DeliverySender
from answerback.service.devices import Devices
from answerback.service.front import Front
from answerback.service.front_settings import FrontSettings
from answerback.service.history_pages import HistoryPages
from answerback.service.janitor import Janitor, JanitorSettings
from answerback.service.observer import Observer
from answerback.service.questions import Questions
from answerback.service.uploads import Uploads
from answerback.service.watchers import Watchers
from answerback.service.worker import Worker, WorkerSettings, owner_tokens
from answerback.stores.connections import MemoryConnections
from answerback.stores.sqlite import MemoryStore
from answerback.testing.model import ScriptedModel, say_question
from answerback.testing.network import ScriptedSender
from answerback.testing.queue import LaneQueue

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
        uploads = Uploads(files=self.store, clock=self.clock)
        watchers = Watchers(
            watching=self.connections,
            requests=self.store,
            delivery_sender=delivery_sender,
            clock=self.clock,
            history=self.store,
        )
        self.worker = Worker(
            settings=WorkerSettings(
                policy=policy, renew_every_s=renew_every_s, poll_every_s=look_every_s, system=system
            ),
            requests=self.store,
            history=self.store,
            models=models,
            delivery_sender=delivery_sender,
            observer=observer,
            clock=lambda: self.clock() + worker_skew_ms,
            monotonic=self._loop.time,
            new_owner=owner_tokens(),
            uploads=uploads,
            watchers=watchers,
        )
        self.queue = queue(self.worker.run, clock=self.clock, visibility_s=policy.lease_ms / 1000)
        settings = FrontSettings(
            models=tuple(models),
            model_limits={name: limits_of(one) for name, one in models.items()},
            quota=quota or Quota(per_minute=0, max_pending=1_000),
            policy=policy,
            lock_system=lock_system,
            queue_survives=queue_survives,
        )
        questions = Questions(
            settings=settings,
            requests=self.store,
            queue=self.queue,
            delivery_sender=delivery_sender,
            observer=observer,
            clock=self.clock,
            worker=self.worker if bells_work else None,
            uploads=uploads,
            watchers=watchers,
        )
        self.front = Front(
            settings=settings,
            questions=questions,
            connections=self.connections,
            history_pages=HistoryPages(history=self.store, clock=self.clock, changed=watchers.tell_changed),
            delivery_sender=delivery_sender,
            tokens=tokens,
            clock=self.clock,
            is_blocked=self.store.is_blocked,
            budgets_of_user=self.store.budgets_of_user,
            uploads=uploads,
            devices=Devices(
                most=most_watchers,
                watching=self.connections,
                requests=self.store,
                history=self.store,
                queue=self.queue,
                questions=questions,
                delivery_sender=delivery_sender,
                clock=self.clock,
            ),
        )
        self.janitor = Janitor(
            settings=JanitorSettings(policy=policy, queue_survives=queue_survives),
            requests=self.store,
            history=self.store,
            connections=self.connections,
            sender=sender,
            queue=self.queue,
            delivery_sender=delivery_sender,
            clock=self.clock,
            files=self.store,
        )

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
