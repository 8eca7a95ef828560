"""What runs on the server's side: the real front, worker and janitor over simulated ports."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from answerback.core.assembly import AnswerPart
from answerback.core.budget import Tariff, Terms
from answerback.core.delivery import steady
from answerback.core.handshake import Rules
from answerback.core.request import Policy, RequestKey
from answerback.ports import Finish, Identity, ModelError, Part, Piece, Prompt, Queue, Quota, Sender, TokenRefused
from answerback.protocol.errors import ErrorCode
from answerback.service.attempt import Done, Retry
from answerback.service.composition import Service
from answerback.service.delivery_sender import DeliverySender
from answerback.service.front_settings import FrontSettings
from answerback.service.janitor import JanitorSettings
from answerback.service.observer import Observer
from answerback.service.uploads import Uploads
from answerback.service.worker import Local, WorkerSettings
from answerback.stores.connections import MemoryConnections
from answerback.stores.store import SqlStore
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.hostile_model import HostileModel, Misbehaviour
from answerback_proof.simulation.injector import FaultInjector, Faults
from answerback_proof.simulation.network import Link, Network

EPOCH_MS: Final = 1_767_225_600_000
"""2026-01-01T00:00:00Z, when every run begins; the start of a minute."""

SWEEP_S: Final = 30.0
POLICY: Final = Policy()
RULES: Final = Rules()
WORDS_S: Final = 0.35
PIECES_S: Final = 0.1
TARIFF: Final = Tariff(models={"wordy": Terms(max_tokens=64)})
"""For budgets: the model says a few words, and earlier turns have room."""

THINKING_S: Final = (36.0, 48.0)
"""Longer than a client waits without a sign of life."""

_OTHER_TEXTS: Final = frozenset({Misbehaviour.SAYS_NOTHING, Misbehaviour.SAYS_A_MEGABYTE})
_FAILURES: Final = frozenset(
    {
        *(Misbehaviour.RAISES, Misbehaviour.RAISES_A_BAD_ERROR, Misbehaviour.AWAITS_A_CANCELLED_TASK),
        *(Misbehaviour.ENDS_IN_FAILURE, Misbehaviour.YIELDS_NO_TEXT, Misbehaviour.CANCELS_ITS_OWN_TASK),
    }
)


class Clocks:
    """The front's clock, and the workers', which is `skew_ms` ahead of it. `front`: another one than the true time."""

    def __init__(self, skew_ms: int = 0, *, front: Callable[[], int] | None = None, start_ms: int = EPOCH_MS) -> None:
        self._loop = asyncio.get_running_loop()
        self._skew_ms = skew_ms
        self._front = front
        self._start_ms = start_ms

    def front(self) -> int:
        """Epoch milliseconds."""
        return self._start_ms + round(self._loop.time() * 1000) if self._front is None else self._front()

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


WANTED: Final = ("reasoning", "tool", "citation")
"""What apps want of the kinds that the model says."""


@dataclass(slots=True, kw_only=True)
class GeneratedAnswer:
    """One attempt at the model. `text`: all that it says, if that is known, and `parts` if that is more than text.
    `may_fail`: it can be a failure.
    """

    key: RequestKey
    attempt: int
    prompt: Prompt
    text: str | None
    parts: tuple[AnswerPart, ...] = ()
    misbehaviour: Misbehaviour | None = None
    may_fail: bool = False
    billed: int = 0
    """Tokens that a provider bills for it, whatever becomes of it."""


class WordyModel:
    """ports.Model whose text names its user, request and attempt, so that a foreign or stale word is recognised."""

    name = "wordy"
    context_tokens = 1_000_000
    concurrency = 1_000

    def __init__(self, injector: FaultInjector, *, watch: Callable[[GeneratedAnswer], None]) -> None:
        self._injector = injector
        self._watch = watch
        self.runs: list[GeneratedAnswer] = []

    @staticmethod
    def words(key: RequestKey) -> int:
        """How many it says to this request."""
        return 3 + sum(f"{key.user_id}{key.request_id}".encode()) * 7 % 13

    @classmethod
    def text(cls, key: RequestKey, attempt: int) -> str:
        """All that it says to this request in this attempt."""
        return " ".join(f"{key.user_id}/{key.request_id}/{attempt}/{n}가😀" for n in range(cls.words(key)))

    @classmethod
    def script(cls, key: RequestKey, attempt: int) -> Iterator[str | Part]:
        """The same with parts between its words: long and short ones, in pieces, empty ones, several of one kind."""
        rng = Random(f"{key.user_id}/{key.request_id}/{attempt}")  # noqa: S311 - repeatable, not secret
        for number, word in enumerate(cls.text(key, attempt).split(" ")):
            for _ in range(rng.choice((0, 0, 0, 1, 1, 4))):
                kind = rng.choice(("reasoning", "tool", "tool", "status", "citation", "later"))
                name = f"{kind}{number}" if kind == "tool" else None
                yield Part(kind, "", name, new=True)
                for piece in range(rng.choice((0, 1, 1, 3))):
                    yield Part(kind, f"{key.user_id}/{key.request_id}/{attempt}/{kind}/{number}/{piece}가😀 ")
            yield word if number == 0 else f" {word}"

    @classmethod
    def parts(cls, key: RequestKey, attempt: int) -> tuple[AnswerPart, ...]:
        """What an app gets of it that wants `WANTED`, told once more in the plainest way."""
        found: list[AnswerPart] = []
        begins = False
        label: tuple[str, str | None] = ("", None)
        for piece in cls.script(key, attempt):
            if isinstance(piece, str):
                if found and found[-1].kind == "text":
                    found[-1] = AnswerPart("text", None, found[-1].text + piece)
                else:
                    found.append(AnswerPart("text", None, piece))
            elif piece.kind in WANTED:
                if piece.new:
                    begins, label = True, (piece.kind, piece.name)
                elif begins:
                    found.append(AnswerPart(*label, piece.text))
                    begins = False
                else:
                    found[-1] = found[-1]._replace(text=found[-1].text + piece.text)
        return tuple(found) if len(found) > 1 else ()

    def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        key = RequestKey(prompt.user_id, prompt.request_id)
        run = GeneratedAnswer(key=key, attempt=prompt.attempt, prompt=prompt, text=self._text(prompt))
        if self._injector.faults.parts:
            run.parts = self.parts(key, prompt.attempt)
        if self._injector.occurs(FaultKind.MODEL_MISBEHAVES):
            run.misbehaviour = self._injector.stream("misbehaviour").choice(list(Misbehaviour))
            run.may_fail = run.misbehaviour in _FAILURES
            run.text = None if run.misbehaviour in _OTHER_TEXTS else run.text
        self.runs.append(run)
        self._watch(run)
        if run.misbehaviour is None:
            return self._say(run)
        pick = self._injector.stream("ways to misbehave").randrange
        return HostileModel(lambda _: run.misbehaviour, self._text, pick=pick).stream(prompt)

    async def _say(self, run: GeneratedAnswer) -> AsyncGenerator[Piece, None]:
        run.may_fail = self._injector.occurs(FaultKind.MODEL_FAILS)
        run.billed = len(run.prompt.messages)
        words = self._text(run.prompt).split(" ")
        pieces: Iterator[str | Part] = iter([word if number == 0 else f" {word}" for number, word in enumerate(words)])
        if self._injector.faults.parts:
            pieces = self.script(run.key, run.attempt)
        number = 0
        for piece in pieces:
            if isinstance(piece, Part):
                if piece.text:
                    await asyncio.sleep(self._injector.pause_s("parts", PIECES_S))
                yield piece
                continue
            await asyncio.sleep(self._injector.pause_s("model", WORDS_S))
            if self._injector.occurs(FaultKind.MODEL_THINKS):
                await asyncio.sleep(self._injector.stream("thoughts").uniform(*THINKING_S))
            if run.may_fail and number == len(words) // 2:
                raise ModelError(ErrorCode.MODEL_FAILED)
            run.billed += 1
            yield piece
            number += 1
        yield Finish(output_tokens=len(words), input_tokens=len(run.prompt.messages))

    def _text(self, prompt: Prompt) -> str:
        return self.text(RequestKey(prompt.user_id, prompt.request_id), prompt.attempt)

    async def close(self) -> None:
        pass


class Parts:
    """Front, worker and janitor over given ports: one composition, whatever the processes around it are.

    `queue` makes the queue; where all is one process, that queue is `local` to it. `redelivered` is called for each
    request that a worker of its own gives back to the queue.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        store: SqlStore,
        connections: MemoryConnections,
        sender: Sender,
        model: WordyModel,
        clocks: Clocks,
        redelivered: Callable[[RequestKey], None],
        owners: Callable[[], str],
        queue: Queue,
        new_upload: Callable[[], str],
        local: Local | None = None,
    ) -> None:
        self.store = store
        self._redelivered = redelivered
        # A gateway's process is all the lease there is: it holds the store's lock.
        policy = POLICY if faults.split else replace(POLICY, lease_ms=0)
        monotonic = asyncio.get_running_loop().time
        uploads = Uploads(files=store, clock=clocks.front, new_name=new_upload) if faults.files else None
        settings = FrontSettings(
            models=(model.name,),
            quota=Quota(per_minute=faults.per_minute, max_pending=1_000, tariff=TARIFF),
            policy=policy,
            queue_survives=faults.split,
        )

        def compose() -> Service:
            return Service(
                settings=settings,
                worker_settings=WorkerSettings(policy=policy, renew_every_s=3.0),
                janitor_settings=JanitorSettings(policy=policy, queue_survives=faults.split),
                store=store,
                connections=connections,
                queue=queue,
                local=local,
                sender=sender,
                delivery_sender=DeliverySender(
                    requests=store, sender=sender, interval=steady(), monotonic=monotonic, observer=Observer()
                ),
                models={model.name: model},
                uploads=uploads,
                observer=Observer(),
                clock=clocks.front,
                worker_clock=clocks.worker,
                monotonic=monotonic,
                new_owner=owners,
                tokens=SimulatedTokens(clock=clocks.front, lasts_s=faults.token_s) if faults.token_s else None,
                most_watchers=faults.watchers or None,
                is_split=faults.split,
            )

        self._compose = compose
        service = compose()
        self.front, self.worker, self.janitor = service.front, service.worker, service.janitor

    async def run(self, key: RequestKey) -> Done | Retry:
        """One dispatched request, by a worker of its own."""
        outcome = await self._compose().worker.run(key)
        if isinstance(outcome, Retry):
            self._redelivered(key)
        return outcome


class Server(ABC):
    """A server as the simulated world uses it. No call waits.

    `make` composes front, worker and janitor around connections, a sender and a queue. `dispatched`: how often a worker
    got each request.
    """

    def __init__(self, network: Network, *, clocks: Clocks, make: Callable[..., Parts]) -> None:
        self.network = network
        self.injector = network.injector
        self.loop = network.loop
        self.clocks = clocks
        self.make = make
        self.dispatched: Counter[RequestKey] = Counter()

    @abstractmethod
    def start(self) -> None:
        """Start the server."""

    @abstractmethod
    def dial(self, connection_id: str) -> Link:
        """A client opens a connection. Raises: ConnectionRefusedError: nobody listens."""

    @abstractmethod
    async def inject_faults(self) -> None:
        """Inject faults of the server's own, until the injector stops."""

    @abstractmethod
    async def stop(self) -> None:
        """Kill everything and release it."""
