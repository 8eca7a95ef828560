"""One simulated run: apps ask, faults strike and end, and then everything that was promised must have come about."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from answerback.client.errors import RequestCancelled, RequestFailed
from answerback.client.events import Answer
from answerback.core.request import Ending, Policy, RequestKey
from answerback.ports import Connection, Quota
from answerback.protocol.frames import MessageResponse, SendMessage, Status
from answerback.testing.backend import Backend
from answerback.testing.loop import Stuck, run_virtual
from answerback.testing.simulation.app import App
from answerback.testing.simulation.faults import Dice, Faults
from answerback.testing.simulation.parts import (
    FaultyStore,
    Link,
    Network,
    StormyQueue,
    WordyModel,
    describe,
)

STORM_S = 60.0
CALM_S = 2_000.0
MAX_POSTS = 50_000
"""The step budget: a run that needs more is a storm, and a failure."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: which of G1 to G7 (or `storm`), and what was seen."""

    promise: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What one seed did. `trace` has a line an event, with its virtual second."""

    seed: int
    violations: list[Violation]
    faults: Counter[str]
    asked: int
    endings: Counter[str]
    posts: int
    runs: int
    virtual_s: float
    trace: list[str] = field(repr=False)


def simulate(seed: int, faults: Faults, *, apps: int = 4, questions: int = 6) -> Report:
    """Run one seed. Equal arguments give equal reports."""

    async def main() -> Report:
        return await _World(seed, faults, apps, questions).run()

    try:
        return run_virtual(main())
    except Stuck as exc:
        return Report(
            seed=seed,
            violations=[Violation("G5", f"the run hung: {exc}")],
            faults=Counter(),
            asked=0,
            endings=Counter(),
            posts=0,
            runs=0,
            virtual_s=0.0,
            trace=[],
        )


class _World:
    def __init__(self, seed: int, faults: Faults, apps: int, questions: int) -> None:
        self._seed = seed
        self._faults = faults
        self._questions = questions
        self._loop = asyncio.get_running_loop()
        self._lines: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbound: dict[str, asyncio.Queue[bytes]] = {}
        self._owner_of: dict[str, App] = {}
        self._asked_order: dict[tuple[str, str | None], list[str]] = defaultdict(list)
        self.dice = Dice(seed, faults)
        self.model = WordyModel(self.dice, faults)
        self.network = Network(self.dice, faults)
        self.store = FaultyStore(self.dice, faults)
        self.backend = Backend(
            model=self.model,
            store=self.store,
            sender=self.network,
            queue=StormyQueue,
            quota=Quota(per_minute=0, max_pending=1_000),
            policy=Policy(),
            bells_work=not faults.reorder,
            queue_survives=faults.reorder,
            worker_skew_ms=self.dice.stream("skew").randint(-faults.skew_ms, faults.skew_ms),
        )
        # Two apps share a user, so that a mix-up inside one user shows as well.
        self.apps = [App(f"app{n}", open_link=self._open, send=self._up, trace=self._trace) for n in range(apps)]
        self._user = {app.name: f"user{n // 2}" for n, app in enumerate(self.apps)}

    async def run(self) -> Report:
        background = [
            asyncio.create_task(self._sweep()),
            *(asyncio.create_task(self._use(app)) for app in self.apps),
            *(asyncio.create_task(self._trouble(app)) for app in self.apps),
        ]
        queue = self.backend.queue
        if isinstance(queue, StormyQueue):
            background.append(asyncio.create_task(queue.storm(self.dice, self._faults)))
        await asyncio.sleep(STORM_S)
        self.dice.stop()
        self._trace("faults end")
        storm = Violation("storm", f"more than {MAX_POSTS} posts")
        violations: list[Violation] = []
        while not all(app.is_quiet for app in self.apps) and self._loop.time() < STORM_S + CALM_S:
            await asyncio.sleep(1.0)
            if self.network.posts > MAX_POSTS:
                violations.append(storm)
                break
        await asyncio.sleep(60.0)
        for task in [*background, *self._tasks]:
            task.cancel()
        await queue.stop()
        violations += list(_check(self))
        endings = Counter(
            type(e).__name__ if isinstance(e, Exception) else e.status.value
            for app in self.apps
            for seen in app.endings.values()
            for e in seen
        )
        return Report(
            seed=self._seed,
            violations=violations,
            faults=self.dice.counts,
            asked=sum(len(app.endings) for app in self.apps),
            endings=endings,
            posts=self.network.posts,
            runs=len(self.model.runs),
            virtual_s=self._loop.time(),
            trace=self._lines,
        )

    def user_of(self, app: App) -> str:
        return self._user[app.name]

    def app_of(self, connection_id: str) -> App:
        return self._owner_of[connection_id]

    @property
    def asked_order(self) -> dict[tuple[str, str | None], list[str]]:
        return self._asked_order

    def _trace(self, line: str) -> None:
        self._lines.append(f"{self._loop.time():9.3f} {line}")

    # --- the apps' users

    async def _use(self, app: App) -> None:
        random = self.dice.stream(f"user of {app.name}")
        app.connect()
        for number in range(self._questions):
            await asyncio.sleep(random.uniform(0, STORM_S / self._questions))
            conversation = random.choice([None, f"{app.name}-A", f"{app.name}-B"])
            request_id = f"{app.name}-q{number}"
            frame = SendMessage(
                request_id=request_id,
                message=f"question {request_id}",
                conversation_id=conversation,
                stream=random.random() < 0.7,
            )
            self._trace(f"{app.name} asks {request_id} in {conversation}")
            self._asked_order[app.name, conversation].append(request_id)
            app.ask(frame)
            if self.dice.strikes("cancellation", self._faults.cancel):
                self._later(random.uniform(0, 4), app.cancel, request_id)

    def _later(self, delay_s: float, act: Callable[..., object], *args: Any) -> None:
        self._loop.call_later(delay_s, act, *args)

    async def _trouble(self, app: App) -> None:
        """Cuts, half-open connections, crashes and roll-overs of one app."""
        await asyncio.gather(self._cut(app), self._crash(app))

    async def _cut(self, app: App) -> None:
        random = self.dice.stream(f"cuts of {app.name}")
        while self._faults.cut_every_s:
            await asyncio.sleep(self.dice.pause_s(f"cuts of {app.name}", self._faults.cut_every_s))
            if self.dice.is_over:
                return
            if self.dice.strikes("roll-over", self._faults.rollover):
                app.connect()
                continue
            open_links = [link for link in self.network.links.values() if self._owner_of[link.connection_id] is app]
            if not open_links:
                continue
            link = open_links[-1]
            if self.dice.strikes("half-open connection", self._faults.half_open):
                # Nothing passes any more and nobody is told: the server learns of it late, the client by silence.
                link.client_open = False
                self._later(random.uniform(5, 90), self._server_notices, link)
            elif self.dice.strikes("cut connection", 1.0):
                self._server_notices(link)
                link.broken()

    async def _crash(self, app: App) -> None:
        while self._faults.app_crash_every_s:
            await asyncio.sleep(self.dice.pause_s(f"crashes of {app.name}", self._faults.app_crash_every_s))
            if not self.dice.strikes("app crash", 1.0):
                return
            app.crash()
            for link in list(self.network.links.values()):
                if self._owner_of[link.connection_id] is app:
                    self._later(self.dice.pause_s("notice", 2.0), self._server_notices, link)
            await asyncio.sleep(self.dice.pause_s(f"restart of {app.name}", 3.0))
            app.restart()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(30.0)
            await self.backend.janitor.sweep()

    # --- connections

    def _open(self, app: App, number: int) -> Link:
        connection_id = f"{app.name}#{len(self._owner_of)}"
        self._owner_of[connection_id] = app
        link = Link(
            connection_id,
            deliver=lambda data: app.hear(number, data),
            broken=lambda: app.broken(number),
        )
        self.network.links[connection_id] = link
        now_ms = self.backend.clock()
        self._inbound[connection_id] = asyncio.Queue()
        self._spawn(self._serve(link, app, now_ms))
        return link

    async def _serve(self, link: Link, app: App, now_ms: int) -> None:
        """The server's end: `$connect`, then messages, in order or each in an invocation of its own."""
        await self.backend.front.connect(
            Connection(
                connection_id=link.connection_id,
                session_id=app.session_id,
                user_id=self._user[app.name],
                connected_at_ms=now_ms,
                last_activity_ms=now_ms,
            )
        )
        inbound = self._inbound[link.connection_id]
        while True:
            data = await inbound.get()
            handled = self.backend.front.receive(link.connection_id, data)
            if self._faults.reorder:
                self._invoke(self._spawn(handled))
            else:
                await handled

    def _invoke(self, task: "asyncio.Task[None]") -> None:
        if self.dice.strikes("front crash", self._faults.front_crash):
            self._later(self.dice.pause_s("front crash after", 0.05), task.cancel)

    def _up(self, link: Link, data: bytes) -> None:
        if not link.client_open:
            return
        self._trace(f"{link.connection_id} -> {describe(data)}")
        copies = 1 + self.dice.strikes("duplicated message", self._faults.duplicate)
        for _ in range(copies):
            at = self._loop.time() + self.dice.latency_s("up")
            if not self._faults.reorder:
                at = link.up_at = max(at, link.up_at)
            self._loop.call_at(at, self._arrive, link, data)

    def _arrive(self, link: Link, data: bytes) -> None:
        if link.server_open:
            self._inbound[link.connection_id].put_nowait(data)

    def _server_notices(self, link: Link) -> None:
        link.server_open = False
        self.network.links.pop(link.connection_id, None)
        self._spawn(self.backend.front.disconnect(link.connection_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


# --- the promises, looked at from the outside ---------------------------------------------------------------


def _check(world: _World) -> Iterable[Violation]:
    yield from _own_answers(world)
    yield from _one_ending(world)
    yield from _as_stored(world)
    yield from _order(world)
    yield from _one_bill(world)


def _own_answers(world: _World) -> Iterable[Violation]:
    for connection_id, frame in world.network.sent:
        request_id = getattr(frame, "request_id", None)
        app = world.app_of(connection_id)
        if request_id is not None and request_id not in app.endings:
            yield Violation("G1", f"{connection_id} got a frame about {request_id}")
    for app in world.apps:
        for request_id, snapshot in app.shown:
            attempt = snapshot.split("/", 2)[1] if snapshot.count("/") >= 2 else None
            if attempt is None:
                if not request_id.startswith(snapshot[: len(request_id)]):
                    yield Violation("G1", f"{app.name} showed {snapshot!r} for {request_id}")
            elif not attempt.isdigit() or not WordyModel.text(request_id, int(attempt)).startswith(snapshot):
                yield Violation("G1", f"{app.name} showed {snapshot!r} for {request_id}")


def _one_ending(world: _World) -> Iterable[Violation]:
    said: dict[str, set[tuple[Status, int, int]]] = defaultdict(set)
    for _, frame in world.network.sent:
        if isinstance(frame, MessageResponse):
            said[frame.request_id].add((frame.status, frame.attempt, frame.length))
    for request_id, endings in said.items():
        if len(endings) > 1:
            yield Violation("G2", f"the server told {len(endings)} endings of {request_id}: {endings}")
    for app in world.apps:
        if app.is_stopped:
            yield Violation("G5", f"{app.name} was stopped")
        for request_id, seen in app.endings.items():
            if len(seen) != 1:
                yield Violation("G2" if seen else "G5", f"{app.name} saw {len(seen)} endings of {request_id}")


def _as_stored(world: _World) -> Iterable[Violation]:
    for app in world.apps:
        for request_id, seen in app.endings.items():
            key = RequestKey(world.user_of(app), request_id)
            record = world.store.records.get(key)
            if not seen:
                continue
            if record is None and request_id in app.cancelled and isinstance(seen[0], RequestCancelled):
                continue  # cancelled before it was ever sent
            if record is None or record.ending is None:
                yield Violation("G5", f"the store has no ending of {request_id}")
            else:
                stored = world.store.answers.get(key, "")
                yield from _same_ending(app, request_id, seen[0], record.ending, stored)


def _same_ending(app: App, request_id: str, seen: object, ending: Ending, stored: str) -> Iterable[Violation]:
    match seen:
        case Answer() as answer:
            text = WordyModel.text(request_id, answer.attempt)
            if not (answer.text == stored == text) or ending.status is not Status.COMPLETED:
                yield Violation("G3", f"{request_id}: shown {answer.text!r}, stored {stored!r}, said {text!r}")
        case RequestCancelled():
            if ending.status is not Status.CANCELLED:
                yield Violation("G2", f"{request_id}: seen cancelled, stored {ending.status}")
            if request_id not in app.cancelled:
                yield Violation("G6", f"{request_id} was cancelled by nobody")
        case RequestFailed() as error:
            if ending.status is not Status.FAILED or ending.error_code != error.code:
                yield Violation("G2", f"{request_id}: seen {error!r}, stored {ending}")
        case other:
            yield Violation("G5", f"{request_id} ended with {other!r}")


def _order(world: _World) -> Iterable[Violation]:
    first_runs: list[str] = []
    for key, _ in world.model.runs:
        if key.request_id not in first_runs:
            first_runs.append(key.request_id)
    for (app, conversation), asked in world.asked_order.items():
        started = [request_id for request_id in first_runs if request_id in asked]
        expected = [request_id for request_id in asked if request_id in started]
        if started != expected:
            yield Violation("G4", f"{app} in {conversation}: asked {expected}, started {started}")


def _one_bill(world: _World) -> Iterable[Violation]:
    for run, times in Counter(world.model.runs).items():
        if times > 1:
            yield Violation("G7", f"attempt {run[1]} of {run[0].request_id} ran {times} times")
    struck = world.dice.counts
    if not any(struck[fault] for fault in ("worker crash", "stalled store call")):
        for key, times in Counter(key for key, _ in world.model.runs).items():
            if times > 1 and not struck["redelivery of a running request"]:
                yield Violation("G7", f"{key.request_id} ran {times} times though no worker was lost")
