"""One simulated run: apps ask, faults are injected and end, and then everything that was promised must hold."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from itertools import count
from typing import Any, Final

from answerback.client.timing import Timing
from answerback.core.request import Record, RequestKey
from answerback.ports import Connection
from answerback.protocol.frames import CancelMessage, ClientFrame, Hello, ResumePoint, SendMessage, ServerFrame
from answerback.testing.loop import Stuck, run_virtual
from answerback_proof.checker import Visible, check
from answerback_proof.faults import FaultKind
from answerback_proof.history import Fault, History, ModelRun, Promise, Stored, Turn, Usage, Violation
from answerback_proof.simulation.case import Case, Report
from answerback_proof.simulation.faults import DEATHS, FaultInjector, Faults
from answerback_proof.simulation.functions import SimulatedFunctions
from answerback_proof.simulation.gateway import SimulatedGateway
from answerback_proof.simulation.invariants import Evidence, Invariants, broken, check_end
from answerback_proof.simulation.model import GeneratedAnswer, WordyModel
from answerback_proof.simulation.network import Link, Network
from answerback_proof.simulation.process import install
from answerback_proof.simulation.server import Clocks, Parts, Server
from answerback_proof.simulation.store import FaultyChannel, FaultyStore
from answerback_proof.simulation.workload import App, Window, qualified

REST_S: Final = 2_000.0
SETTLE_S: Final = 60.0
MAX_POSTS: Final = 20_000
"""The step budget: a run with more posts than this does not end, and fails."""

QUIET_S: Final = 1_000_000.0
_QUIET: Final = Timing(
    silence_s=QUIET_S, probe_max_s=QUIET_S, hello_expiry_s=QUIET_S, dead_s=QUIET_S, ping_idle_s=QUIET_S
)
"""A client that never asks by itself, so that nothing it asks for can hide what the server forgot."""


def simulate(case: Case) -> Report:
    """Run one case. Equal cases give equal reports. Raises: ValueError: no such profile or fault."""
    faults = case.faults
    lines: list[str] = []

    async def main() -> Report:
        return await World(case, faults, lines).run()

    try:
        return run_virtual(main())
    except Stuck as exc:
        return Report(case=case, violations=[broken(Promise.ANSWERED, f"the run hung: {exc}")], trace=lines)


class World:
    """Everything around the apps and the server; workload.Environment for the apps."""

    def __init__(self, case: Case, faults: Faults, lines: list[str]) -> None:
        self._case = case
        self._faults = faults
        self._lines = lines
        self._loop = asyncio.get_running_loop()
        install(self._loop)
        self._numbers = count()
        self._open_links: dict[Link, Window] = {}
        self._violations: list[Violation] = []
        self._injector = injector = FaultInjector(
            case.seed, faults, on_death=lambda fault: self.history.add(Fault(name=fault))
        )
        skew_ms = injector.stream("skew").randint(-faults.skew_ms, faults.skew_ms)
        injector.counts[FaultKind.CLOCK_SKEW] += skew_ms != 0
        self._clocks = clocks = Clocks(skew_ms)
        self.history = History(clocks.front)
        self._invariants = Invariants(clocks=clocks, store=lambda: self._store, violate=self._violate)
        self._model = WordyModel(injector, faults, watch=self._model_started)
        self._network = Network(injector, faults, watch=self._frame_sent, unpark=self._unpark)
        self._store = FaultyStore(FaultyChannel(injector, faults, "store"), watch=self._record_changed)
        self._owners = count(1)
        server = SimulatedFunctions if faults.split else SimulatedGateway
        self._server: Server = server(faults=faults, injector=injector, clocks=clocks, make=self._make_parts)
        # Two apps share a user; users, sessions apart, use the same ids: a mix-up of any kind shows.
        timing = Timing() if faults.probes else _QUIET
        self._apps = [
            App(
                f"app{n}",
                user_id=f"user{n // 2}",
                environment=self,
                timing=timing,
                timeout_s=faults.client_timeout_s,
                keeps_tokens=bool(faults.token_s),
            )
            for n in range(case.apps)
        ]

    def _make_parts(self, **more: Any) -> Parts:
        return Parts(
            faults=self._faults,
            store=self._store,
            network=self._network,
            model=self._model,
            clocks=self._clocks,
            owners=lambda: f"owner-{next(self._owners)}",
            **more,
        )

    # --- the run

    async def run(self) -> Report:
        """Inject faults, wait until everything has come to rest, and check."""
        self._server.start()
        work: list[Coroutine[Any, Any, None]] = [self._server.inject_faults()]
        for app in self._apps:
            work += [self._use(app), self._cut(app), self._crash(app), self._take_over(app), self._renew(app)]
        background = [self._loop.create_task(coroutine) for coroutine in work]
        await self._wait(self._case.faults_s)
        self._injector.stop()
        self.trace("faults end")
        deadline = self._loop.time() + REST_S
        while not all(app.is_quiet for app in self._apps) and self._loop.time() < deadline and not self._violations:
            await self._wait(5.0)
        for app in self._apps:
            if not app.is_quiet:
                self._violate(
                    broken(Promise.ANSWERED, f"{app.name} still waits for {', '.join(app.disk) or 'something'}")
                )
            for window in app.windows:
                window.probe()
        await self._wait(SETTLE_S)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if not self._violations:
            self._add_store()
            for violation in (*check(self.history, self._visible()), *check_end(self._evidence())):
                self._violate(violation)
        await self._server.stop()
        return self._report()

    async def _wait(self, seconds: float) -> None:
        """Let virtual time pass, unless a promise is broken already."""
        until = self._loop.time() + seconds
        while self._loop.time() < until and not self._violations:
            await asyncio.sleep(min(1.0, until - self._loop.time()))
            if self._network.posts > MAX_POSTS:
                self._violate(broken("flood", f"more than {MAX_POSTS} posts"))

    def _visible(self) -> Visible:
        return Visible(usage=True, deaths=DEATHS, skew_ms=self._faults.skew_ms)

    def _evidence(self) -> Evidence:
        return Evidence(
            faults=self._faults,
            apps=self._apps,
            store=self._store,
            model=self._model,
            invariants=self._invariants,
            dispatched=self._server.dispatched,
        )

    def _add_store(self) -> None:
        """Add what the store holds to the history."""
        store, answers = self._store, self._store.answers
        for key, record in store.records.items():
            self.history.add(
                Stored(
                    request=qualified(key.user_id, key.request_id),
                    record=record,
                    answer=answers.get(key, ""),
                    has_question=store.has_question(key),
                )
            )
        for user, turn in store.all_turns():
            self.history.add(Turn(request=qualified(user, turn.request_id), user=user, turn=turn))
        for usage in store.all_usage():
            self.history.add(Usage(usage=usage))

    def _report(self) -> Report:
        outcomes = [outcome for app in self._apps for _, outcome in app.outcomes]
        return Report(
            case=self._case,
            violations=self._violations,
            faults=+self._injector.counts,
            endings=Counter(type(o).__name__ if isinstance(o, Exception) else "Answer" for o in outcomes),
            asked=sum(len(app.asked) for app in self._apps),
            posts=self._network.posts,
            model_runs=len(self._model.runs),
            virtual_s=self._loop.time(),
            trace=self._lines,
        )

    def trace(self, line: str) -> None:
        self._lines.append(f"{self._loop.time():9.3f} {line}")

    def _violate(self, violation: Violation) -> None:
        self.trace(f"VIOLATION {violation}")
        self._violations.append(violation)

    # --- what is watched

    def _record_changed(self, before: Record | None, after: Record) -> None:
        if before is None or (before.state, before.attempt) != (after.state, after.attempt):
            self.trace(f"store: {after.user_id} {after.request_id} is {after.state}, attempt {after.attempt}")
        self._invariants.record_changed(before, after)

    def _frame_sent(self, connection_id: str, frame: ServerFrame) -> None:
        self.trace(f"{connection_id} <- {_describe(frame)}")
        self.history.add_to_app(frame, **self._names(connection_id))
        self._invariants.frame_sent(connection_id, frame)

    def _model_started(self, run: GeneratedAnswer) -> None:
        key, attempt = run.key, run.attempt
        self.trace(f"model: {key.user_id} {key.request_id}, attempt {attempt}")
        request = qualified(key.user_id, key.request_id)
        self.history.add(ModelRun(request=request, attempt=attempt, text=WordyModel.text(key, attempt)))
        self._invariants.model_started(run)

    # --- what users do

    async def _use(self, app: App) -> None:
        random = self._injector.stream(f"user of {app.name}")
        faults, pause_s = self._faults, self._case.faults_s / self._case.questions
        prefix = "qr"[int(app.name[3:]) % 2]
        app.open()
        for number in range(self._case.questions):
            await asyncio.sleep(random.uniform(0, pause_s))
            request_id = f"{prefix}{number}"
            frame = SendMessage(
                request_id=request_id,
                message=f"question {request_id}",
                conversation_id=random.choice([None, f"{prefix}-A", f"{prefix}-B"]),
                stream=random.random() < 0.7,
            )
            app.ask(frame)
            if self._injector.occurs(FaultKind.CANCELLATION, faults.cancel):
                self._loop.call_later(random.uniform(0, 4), self._cancel, app, request_id)
            if self._injector.occurs(FaultKind.SNOOPING, faults.snoop):
                self._snoop(app)
            if self._injector.occurs(FaultKind.HELLO_FLOOD, faults.hello_storm):
                app.window.greet(20)

    def _cancel(self, app: App, request_id: str) -> None:
        app.cancel(request_id)
        if self._injector.occurs(FaultKind.CANCEL_AND_RESUME, self._faults.cancel_and_resume):
            app.window.connect()

    def _snoop(self, app: App) -> None:
        """Name the requests of the same user's other session, which must have no effect."""
        foreign = [r.request_id for r in self._store.records.values() if r.user_id == app.user_id]
        foreign = [name for name in foreign if name not in app.asked]
        points = tuple(ResumePoint(request_id=name, attempt=0, offset=0) for name in foreign)
        app.window.send(Hello(hello_id="snoop", resume=points))
        for name in foreign[-1:]:
            app.window.send(CancelMessage(request_id=name))

    async def _cut(self, app: App) -> None:
        """Connections that break, at both ends at once or not, and that are replaced by newer ones."""
        faults, random = self._faults, self._injector.stream(f"cuts of {app.name}")
        while faults.cut_every_s:
            await asyncio.sleep(self._injector.pause_s(f"cuts of {app.name}", faults.cut_every_s))
            if self._injector.is_over:
                return
            if self._injector.occurs(FaultKind.ROLL_OVER, faults.rollover):
                app.window.connect()
                while self._injector.occurs(FaultKind.FLAPPING, faults.flapping):
                    await asyncio.sleep(random.uniform(0, 0.2))
                    app.window.connect()
                continue
            link = app.window.link
            if link is None:
                continue
            if self._injector.occurs(FaultKind.HALF_OPEN, faults.half_open):
                # Nothing passes any more: the server learns of it late, the client by silence.
                link.client_open = False
                self._loop.call_later(random.uniform(5, 90), self._notice, link)
            elif self._injector.occurs(FaultKind.CUT, 1.0):
                self._notice(link)
                link.broken()

    async def _crash(self, app: App) -> None:
        while self._faults.app_crash_every_s:
            await asyncio.sleep(self._injector.pause_s(f"crashes of {app.name}", self._faults.app_crash_every_s))
            if not self._injector.occurs(FaultKind.APP_CRASH, 1.0):
                return
            links = [link for link, window in self._open_links.items() if window is app.window]
            app.crash()
            for link in links:
                self._loop.call_later(self._injector.pause_s("notice", 2.0), self._notice, link)
            await asyncio.sleep(self._injector.pause_s(f"restart of {app.name}", 3.0))
            app.open()

    async def _take_over(self, app: App) -> None:
        """The program is opened a second time, with the same session."""
        while self._faults.takeover_every_s:
            await asyncio.sleep(self._injector.pause_s(f"second window of {app.name}", self._faults.takeover_every_s))
            if not self._injector.occurs(FaultKind.TAKE_OVER, 1.0):
                return
            if app.window.is_up:
                app.open()

    async def _renew(self, app: App) -> None:
        """Renew the token in good time; now and then too late."""
        while self._faults.token_s:
            share = self._injector.stream(f"renewals of {app.name}").uniform(0.5, 1.1)
            await asyncio.sleep(self._faults.token_s * share)
            self._injector.counts[FaultKind.TOKEN_RENEWAL] += 1
            app.window.renew_token()

    # --- connections

    def open_link(self, window: Window, number: int) -> Link:
        connection_id = f"{window.app.name}#{next(self._numbers)}"
        link = Link(
            connection_id,
            deliver=lambda data: window.receive(number, data),
            broken=lambda: window.broken(number),
        )
        self.trace(f"{connection_id} opens")
        self._invariants.windows[connection_id] = window
        self._network.links[connection_id] = link
        self._open_links[link] = window
        now_ms = self._clocks.front()
        token_s = self._faults.token_s
        self._server.connect(
            link,
            Connection(
                connection_id=connection_id,
                session_id=window.app.session_id,
                user_id=window.app.user_id,
                authenticated=bool(token_s),
                token_expires_at_ms=now_ms + int(token_s * 1000) if token_s else None,
                connected_at_ms=now_ms,
                last_activity_ms=now_ms,
            ),
        )
        return link

    def send(self, link: Link, frame: ClientFrame, data: bytes) -> None:
        if not link.client_open:
            return
        self.trace(f"{link.connection_id} -> {_describe(frame)}")
        for _ in range(1 + self._injector.occurs(FaultKind.DUPLICATED_MESSAGE, self._faults.duplicate)):
            at = self._loop.time() + self._injector.latency_s("up")
            if not self._faults.split:
                at = link.up_at = max(at, link.up_at)
            self._loop.call_at(at, self._arrive, link, frame, data)

    def _arrive(self, link: Link, frame: ClientFrame, data: bytes) -> None:
        if link.server_open:
            self.history.add_from_app(frame, **self._names(link.connection_id))
            self._invariants.frame_received(link.connection_id, frame)
            self._server.message(link, data)

    def _names(self, connection_id: str) -> dict[str, str]:
        """What the history calls a connection and its requests."""
        app = self._invariants.windows[connection_id].app
        return {"connection": connection_id, "session": app.session_id, "prefix": app.qualified("")}

    def _notice(self, link: Link) -> None:
        """The server's end learns that the connection is gone."""
        if self._open_links.pop(link, None) is not None:
            self.trace(f"{link.connection_id} is gone")
            link.server_open = False
            self._network.links.pop(link.connection_id, None)
            self._server.disconnect(link.connection_id)

    def _unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        self._server.unpark(connection_id, key, attempt, offset)


def _describe(frame: ClientFrame | ServerFrame) -> str:
    """A frame in a trace."""
    parts = [type(frame).__name__]
    for name in ("request_id", "attempt", "offset", "length", "status", "code", "hello_id"):
        value = getattr(frame, name, None)
        if value is not None:
            parts.append(str(value) if name in ("request_id", "hello_id") else f"{name}={value}")
    if isinstance(frame, Hello):
        parts += [f"{p.request_id}@{p.attempt}/{p.offset}" for p in frame.resume]
    return " ".join(parts)
