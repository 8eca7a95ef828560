"""What runs on the server's side: the real front, worker and janitor over simulated ports."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from answerback.core.delivery import steady
from answerback.core.request import Policy, RequestKey
from answerback.ports import Connection, Connections, Identity, Queue, Quota, TokenRefused
from answerback.service.delivery_sender import DeliverySender
from answerback.service.front import Front, FrontSettings
from answerback.service.history_pages import HistoryPages
from answerback.service.janitor import Janitor, JanitorSettings
from answerback.service.observer import Observer
from answerback.service.wakeup import Notifier
from answerback.service.worker import Worker, WorkerSettings
from answerback_proof.simulation.faults import Faults
from answerback_proof.simulation.model import WordyModel
from answerback_proof.simulation.network import Link, Network
from answerback_proof.simulation.store import FaultyStore

EPOCH_MS: Final = 1_767_225_600_000
"""2026-01-01T00:00:00Z, when every run begins; the start of a minute."""

SWEEP_S: Final = 30.0
POLICY: Final = Policy()


class Clocks:
    """The front's clock, and the workers', which is `skew_ms` ahead of it."""

    def __init__(self, skew_ms: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._skew_ms = skew_ms

    def front(self) -> int:
        """Epoch milliseconds."""
        return EPOCH_MS + round(self._loop.time() * 1000)

    def worker(self) -> int:
        """Epoch milliseconds."""
        return self.front() + self._skew_ms


class SimulatedTokens:
    """ports.Tokens: a token is its user's name."""

    def __init__(self, *, clock: Callable[[], int], lasts_s: float) -> None:
        self._clock = clock
        self._lasts_ms = int(lasts_s * 1000)

    async def identify(self, token: str) -> Identity:
        if not token.startswith("user"):
            raise TokenRefused
        return Identity(token, self._clock() + self._lasts_ms)


class Parts:
    """Front, worker and janitor over given ports: one composition, whatever the processes around it are."""

    def __init__(
        self,
        *,
        faults: Faults,
        store: FaultyStore,
        connections: Connections,
        network: Network,
        model: WordyModel,
        clocks: Clocks,
        owners: Callable[[], str],
        queue: Callable[[Worker], Queue],
    ) -> None:
        self.store = store
        loop = asyncio.get_running_loop()
        observer = Observer()
        notifier = Notifier()
        models = {model.name: model}
        delivery_sender = DeliverySender(
            requests=store, sender=network, interval=steady(), monotonic=loop.time, observer=observer
        )
        self.worker = Worker(
            settings=WorkerSettings(policy=POLICY, renew_every_s=3.0),
            requests=store,
            history=store,
            models=models,
            delivery_sender=delivery_sender,
            notifier=Notifier() if faults.split else notifier,
            observer=observer,
            clock=clocks.worker,
            monotonic=loop.time,
            new_owner=owners,
        )
        self.queue = queue(self.worker)
        self.front = Front(
            settings=FrontSettings(
                models=tuple(models),
                quota=Quota(per_minute=faults.per_minute, max_pending=1_000),
                policy=POLICY,
                queue_survives=faults.split,
            ),
            requests=store,
            connections=connections,
            sender=network,
            queue=self.queue,
            delivery_sender=delivery_sender,
            history_pages=HistoryPages(history=store, clock=clocks.front),
            tokens=SimulatedTokens(clock=clocks.front, lasts_s=faults.token_s) if faults.token_s else None,
            notifier=notifier,
            observer=observer,
            clock=clocks.front,
            is_blocked=store.is_blocked,
        )
        self.janitor = Janitor(
            settings=JanitorSettings(policy=POLICY, queue_survives=faults.split),
            requests=store,
            history=store,
            connections=connections,
            sender=network,
            queue=self.queue,
            delivery_sender=delivery_sender,
            clock=clocks.front,
        )


class Server(Protocol):
    """A server as the simulated world uses it. No call waits."""

    @property
    def dispatched(self) -> Counter[RequestKey]:
        """How often a worker got each request."""

    def start(self) -> None:
        """Start the server."""

    def connect(self, link: Link, connection: Connection) -> None:
        """A client opens a connection."""

    def message(self, link: Link, data: bytes) -> None:
        """A message has arrived."""

    def disconnect(self, connection_id: str) -> None:
        """The server notices that a connection is gone."""

    def unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        """A slow connection takes frames again."""

    async def inject_faults(self) -> None:
        """Inject faults of the server's own, until the injector stops."""

    async def stop(self) -> None:
        """Kill everything and release it."""
