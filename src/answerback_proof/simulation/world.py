"""One simulated run: apps ask, faults are injected and end, and then everything that was promised must hold."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Final

from answerback.client import AnswerbackError, File
from answerback.core.parts import NOTHING
from answerback.core.request import Record
from answerback.protocol.codec import decode_client, encode
from answerback.protocol.frames import (
    CancelMessage,
    ClientFrame,
    Hello,
    PutPiece,
    RenewToken,
    ResumePoint,
    ServerFrame,
    UploadState,
    Watch,
    Watching,
)
from answerback.stores.sqlite import MemoryStore
from answerback.testing.loop import Deadlock
from answerback_proof.checker import Visible, check
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.history import Fault, ModelRun, Promise, RunHistory, Stored, Turn, Usage, Violation, broken
from answerback_proof.simulation.app import SimulatedApp, SimulatedWindow, qualified
from answerback_proof.simulation.case import Case, Report
from answerback_proof.simulation.functions import SimulatedFunctions
from answerback_proof.simulation.gateway import SimulatedGateway
from answerback_proof.simulation.injector import DEATHS, FaultInjector, Faults
from answerback_proof.simulation.invariants import Evidence, Invariants, check_end
from answerback_proof.simulation.network import FOR_EVER_S, Link, Network, SimulatedLoop
from answerback_proof.simulation.process import current, install
from answerback_proof.simulation.server import EPOCH_MS, WANTED, Clocks, GeneratedAnswer, Parts, Server, WordyModel
from answerback_proof.simulation.store import FaultyChannel, FaultyStore, WatchedStore, now
from answerback_proof.simulation.uploads import SimulatedUploads
from answerback_proof.workload import Mix

REST_S: Final = 2_000.0
SETTLE_S: Final = 60.0
LOOK_ON_S: Final = 330.0
"""In which a session that watches reads the history where there is no place for it, renews its watch, and is told that
another one has its session.
"""
MAX_POSTS: Final = 20_000
"""The step budget: a run with more posts than this does not end, and fails."""

UUID_LENGTH: Final = 36
"""A run is repeated to the line of its trace, so what clients draw at random is left out."""

CANCEL_WITHIN_S: Final = 4.0
COMES_BACK: Final = 0.3
"""The share of users who look again at once at what they have just left."""
FROZEN_S: Final = (35.0, 70.0)
"""Longer than an ending is offered."""


def simulate(case: Case) -> Report:
    """Run one case. Equal cases give equal reports. Raises: ValueError: no such profile or fault."""
    faults = case.faults
    lines: list[str] = []

    async def main() -> Report:
        return await World(case, faults, lines).run()

    try:
        with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
            return runner.run(main())
    except Deadlock as exc:
        return Report(case=case, violations=[broken(Promise.ANSWERED, f"the run hung: {exc}")], trace=lines)


class World:
    """Everything around the apps and the server. It sees what passes the server's end of connections."""

    def __init__(self, case: Case, faults: Faults, lines: list[str]) -> None:
        self._case = case
        self._faults = faults
        self._lines = lines
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.dial = self._dial
        self._loop = loop
        install(loop)
        self._numbers = count()
        self._violations: list[Violation] = []
        self._injector = injector = FaultInjector(
            case.seed, faults, on_death=lambda fault: self.history.add(Fault(name=fault))
        )
        skew_ms = 0 if faults.gateways > 1 else injector.stream("skew").randint(-faults.skew_ms, faults.skew_ms)
        injector.counts[FaultKind.CLOCK_SKEW] += skew_ms != 0
        # Where there are budgets a day ends while questions run.
        start_ms = EPOCH_MS - 25_000 if faults.budget else EPOCH_MS
        self._clocks = clocks = Clocks(skew_ms, start_ms=start_ms)
        self.history = RunHistory(clocks.front)
        self._invariants = Invariants(faults=faults, clocks=clocks, store=lambda: self._store, violate=self._violate)
        self._model = WordyModel(injector, watch=self._model_started)
        self._network = Network(injector, self)
        self._owners = count(1)
        self._uploads = SimulatedUploads(injector, self._violate)
        self._upload_names = count(1)
        self._store: WatchedStore
        self._server: Server
        composed: dict[str, Any] = {"clocks": clocks, "make": self._make_parts}
        if faults.gateways > 1:
            from answerback_proof.simulation.fleet import SimulatedFleet  # noqa: PLC0415 - psycopg is an extra
            from answerback_proof.simulation.postgres import SimulatedPostgres  # noqa: PLC0415

            self._store = postgres = SimulatedPostgres(self._record_changed, clock=clocks.front)
            self._server = SimulatedFleet(self._network, postgres=postgres, trace=self.trace, **composed)
        else:
            channel = FaultyChannel(injector, "store")
            self._store = FaultyStore(channel, watch=self._record_changed, files=self._uploads)
            self._server = (SimulatedFunctions if faults.split else SimulatedGateway)(self._network, **composed)

        def app(number: int, watches_user: int | None = None) -> SimulatedApp:
            return SimulatedApp(
                number,
                history=self.history,
                injector=injector,
                faults_s=case.faults_s,
                trace=self.trace,
                watches_user=watches_user,
            )

        self._apps = [app(number) for number in range(case.apps)]
        if faults.watchers:
            self._apps += [app(case.apps + user, watches_user=user) for user in range((case.apps + 1) // 2)]
        if faults.budget:
            users = sorted({app.user for app in self._apps})
            self._store.give_budgets(users, faults.budget, now_ms=clocks.front())
        self._mix = Mix(
            streamed=0.7,
            words=(2,),
            cancelled=faults.cancel,
            cancel_within_s=CANCEL_WITHIN_S,
            timed=float(faults.client_timeout_s > 0),
            timeouts_s=(faults.client_timeout_s, faults.client_timeout_s),
            parts=WANTED if faults.parts else (),
        )

    def _make_parts(self, **more: Any) -> Parts:
        usual: dict[str, Any] = {"store": self._store, "clocks": self._clocks}
        return Parts(
            faults=self._faults,
            model=self._model,
            redelivered=self._invariants.redelivered,
            owners=lambda: f"owner-{next(self._owners)}",
            new_upload=lambda: f"upload-{next(self._upload_names)}",
            **usual | more,
        )

    # --- the run

    async def run(self) -> Report:
        """Inject faults, wait until everything has come to rest, and check."""
        self._server.start()
        work: list[Coroutine[Any, Any, None]] = [self._server.inject_faults()]
        for app in self._apps:
            often = partial(self._often, app)
            work += [self._use(app), self._cut(app), often(FaultKind.APP_CRASH, "crashes of", self._crash)]
            if app.only_watches or not self._faults.watchers:
                work.append(often(FaultKind.FROZEN_APP, "freezes of", self._freeze))
            work += [often(FaultKind.TAKE_OVER, "second window of", self._take_over), self._renew(app)]
            work.append(often(FaultKind.WATCH, "watches of", self._watch))
        background = [self._loop.create_task(coroutine) for coroutine in work]
        await self._wait(self._case.faults_s)
        self._injector.stop()
        self.trace("faults end")
        await self._answered()
        if self._faults.watchers:
            await self._ask_before_watchers()
        else:
            for window in (window for app in self._apps for window in app.windows):
                if window.is_open and window.stopped is None:
                    window.client.reconnect_now()  # its user comes back: is it still connected?
            await self._wait(SETTLE_S)
        await _end(background)
        if not self._violations:
            self._add_store()
            for violation in (*check(self.history, self._visible()), *check_end(self._evidence())):
                self._violate(violation)
        windows = [window for app in self._apps for window in app.windows]
        for window in windows:
            window.kill()
        await self._server.stop()
        for window in windows:
            window.process.dispose()
        self._uploads.close()
        return self._report()

    async def _answered(self) -> None:
        """Wait until every question has an ending, which must not take for ever."""
        deadline = self._loop.time() + REST_S
        while any(app.open_requests for app in self._apps) and self._loop.time() < deadline and not self._violations:
            await self._wait(5.0)
        for app in self._apps:
            if app.open_requests:
                self._violate(broken(Promise.ANSWERED, f"{app.name} still waits for {', '.join(app.open_requests)}"))

    async def _ask_before_watchers(self) -> None:
        """Everybody looks on, and each app asks what watchers have tried to stop before it was asked.

        No connection is opened again: that would show what the server forgot to.
        """
        for app in self._apps:
            for ids in "qr":
                app.watch(f"{ids}-A")
        await self._wait(SETTLE_S)
        for app in self._apps:
            if not app.only_watches and not self._violations:
                rng = self._injector.stream(f"user of {app.name}")
                request = self._mix.draw(rng, self._last_id(app.ids), (f"{app.ids}-A",))
                app.ask(replace(request, cancel_after_s=None))
        await self._answered()
        await self._wait(LOOK_ON_S)

    def _last_id(self, ids: str) -> str:
        return f"{ids}{self._case.questions}"

    async def _wait(self, seconds: float) -> None:
        """Let virtual time pass, unless a promise is broken already."""
        until = self._loop.time() + seconds
        while self._loop.time() < until and not self._violations:
            await asyncio.sleep(min(1.0, until - self._loop.time()))
            if self._network.posts > MAX_POSTS:
                self._violate(broken("flood", f"more than {MAX_POSTS} posts"))

    def _visible(self) -> Visible:
        faults = self._faults
        thaws = bool(faults.gateway_freeze_every_s)
        return Visible(usage=True, deaths=DEATHS, thaws=thaws, skew_ms=faults.skew_ms)

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
        store, answers = self._store, self._store.answers
        for key, record in store.records.items():
            self.history.add(
                Stored.of(
                    record,
                    answers.get(key, NOTHING),
                    has_question=store.has_question(key),
                    prefix=qualified(key.user_id, ""),
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
            asked=len(self.history.asked),
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

    def sent(self, connection_id: str, frame: ServerFrame) -> None:
        self.trace(f"{connection_id} <- {_describe(frame)}")
        self.history.add_to_app(frame, **self._names(connection_id))
        self._invariants.frame_sent(connection_id, frame)
        if isinstance(frame, UploadState):
            self._uploads.told(self._invariants.windows[connection_id].app.user, frame)

    def _model_started(self, run: GeneratedAnswer) -> None:
        key, attempt = run.key, run.attempt
        self.trace(f"model: {key.user_id} {key.request_id}, attempt {attempt}")
        request = qualified(key.user_id, key.request_id)
        asked = self.history.asked.get(request)
        parts = run.parts if asked is not None and asked.stream and asked.parts else ()
        self.history.add(ModelRun(request=request, attempt=attempt, text=run.text, parts=parts))
        self._invariants.model_started(run)
        self._uploads.model_started(run)

    # --- what users do

    async def _often(self, app: SimulatedApp, fault: FaultKind, what: str, act: Callable[[SimulatedApp], Any]) -> None:
        await self._injector.often(fault, partial(act, app), concern=f"{what} {app.name}")

    async def _use(self, app: SimulatedApp) -> None:
        injector, rng = self._injector, self._injector.stream(f"user of {app.name}")
        await app.open()
        for number in () if app.only_watches else range(self._case.questions):
            await asyncio.sleep(rng.uniform(0, self._case.faults_s / self._case.questions))
            request = self._mix.draw(rng, f"{app.ids}{number}", (None, f"{app.ids}-A", f"{app.ids}-B"))
            app.ask(replace(request, files=self._uploads.choose(app.user, request.request_id)))
            self._inject(
                app, *self._uploads.wrong_pieces(app.user, lambda key: now(MemoryStore.upload(self._store, key)))
            )
            if (file := self._uploads.to_read(app.user)) is not None:
                app.window.spawn(self._read_back(app.window, file))
            injector.counts[FaultKind.CANCELLATION] += request.cancel_after_s is not None
            if injector.occurs(FaultKind.SNOOPING):
                self._snoop(app)
            if injector.occurs(FaultKind.HELLO_FLOOD):
                accepted = [name for name, pending in app.disk.items() if pending.is_accepted]
                self._inject(app, *[_hello("again", accepted)] * 20)

    async def _read_back(self, window: SimulatedWindow, file: File) -> None:
        with suppress(AnswerbackError):
            self._uploads.returned(window.app.user, file, await window.client.attachment(file.attachment))

    def _snoop(self, app: SimulatedApp) -> None:
        """Name the requests of the same user's other session, which must have no effect."""
        foreign = [r.request_id for r in self._store.records.values() if r.user_id == app.user]
        foreign = [name for name in foreign if name not in app.results]
        cancellations = [CancelMessage(request_id=name) for name in foreign[-1:]]
        self._inject(app, _hello("snoop", foreign), *cancellations)

    async def _cut(self, app: SimulatedApp) -> None:
        """Connections that break, at both ends at once or not."""
        faults, rng = self._faults, self._injector.stream(f"cuts of {app.name}")
        while faults.cut_every_s:
            await asyncio.sleep(
                self._injector.pause_s(f"cuts of {app.name}", faults.cut_every_s / (1 - faults.rollover))
            )
            if self._injector.is_over:
                return
            link = app.window.link
            if link is None:
                continue
            if self._injector.occurs(FaultKind.HALF_OPEN):
                # Nothing passes any more: the server learns of it late, the client by silence.
                link.is_lost = True
                self._loop.call_later(rng.uniform(5, 90), link.drop)
            elif self._injector.occurs(FaultKind.CUT):
                link.cut()

    async def _crash(self, app: SimulatedApp) -> None:
        links = [link for link in app.window.links if link.server_open]
        app.crash()
        for link in links:
            self._loop.call_later(self._injector.pause_s("notice", 2.0), link.drop)
        await asyncio.sleep(self._injector.pause_s(f"restart of {app.name}", 3.0))
        await app.open()

    def _freeze(self, app: SimulatedApp) -> None:
        lasts_s = self._injector.stream(FaultKind.FROZEN_APP).uniform(*FROZEN_S)
        self.trace(f"{app.name} is frozen for {lasts_s:.0f} s")
        app.window.freeze(self._loop.time() + lasts_s)

    async def _take_over(self, app: SimulatedApp) -> None:
        """The program is opened a second time, with the same session."""
        if app.window.is_open:
            await app.open()

    def _watch(self, app: SimulatedApp) -> None:
        """A user looks at a conversation, leaves it, and may come back at once; or stops what nobody has asked yet."""
        rng = self._injector.stream(f"watches of {app.name}")
        ids = rng.choice("qr")
        conversation = f"{ids}-{rng.choice('AB')}"
        if conversation not in app.watches:
            app.watch(conversation)
        else:
            app.unwatch(conversation)
            if rng.random() < COMES_BACK:
                app.watch(conversation)
        if self._injector.occurs(FaultKind.UNKNOWN_CANCEL):
            self._inject(app, CancelMessage(request_id=self._last_id(ids), conversation_id=f"{ids}-A"))

    async def _renew(self, app: SimulatedApp) -> None:
        """Renew the token in time, as the driver does; now and then too late."""
        for number in count():
            share = self._injector.stream(f"renewals of {app.name}").uniform(0.5, 1.1)
            await asyncio.sleep((self._faults.token_s or FOR_EVER_S) * share)
            self._injector.counts[FaultKind.TOKEN_RENEWAL] += 1
            self._inject(app, RenewToken(request_id=f"renewal-{number}", token=app.user))

    def _inject(self, app: SimulatedApp, *frames: ClientFrame) -> None:
        """Send frames from an app past its client."""
        link = app.window.link
        if link is not None and link.is_connected:
            for frame in frames:
                link.inject(encode(frame))

    # --- connections

    def _dial(self) -> Link:
        """An app opens a connection, beside an older one until the new one works."""
        app, window = next((app, w) for app in self._apps for w in app.windows if w.process is current())
        link = self._server.dial(f"{app.name}#{next(self._numbers)}")
        if window.link is not None:
            self._injector.counts[FaultKind.ROLL_OVER] += 1
            if app.disk and self._injector.occurs(FaultKind.CANCEL_AND_RESUME):
                request_id = self._injector.stream(FaultKind.CANCEL_AND_RESUME).choice(list(app.disk))
                self._loop.call_later(self._injector.latency_s("cancellation"), app.cancel, request_id)
        window.links.append(link)
        self._invariants.windows[link.connection_id] = window
        self.trace(f"{link.connection_id} opens")
        return link

    def heard(self, connection_id: str, data: bytes) -> None:
        frame = decode_client(data)
        self.trace(f"{connection_id} -> {_describe(frame)}")
        self.history.add_from_app(frame, **self._names(connection_id))
        self._invariants.frame_received(connection_id, frame)
        if isinstance(frame, PutPiece):
            window = self._invariants.windows[connection_id]
            self._uploads.received(window.app.user, frame)
            if self._injector.occurs(FaultKind.CUT_UPLOAD) and window.link is not None:
                self._loop.call_soon(window.link.cut)

    def gone(self, connection_id: str) -> None:
        self.trace(f"{connection_id} is gone")

    def _names(self, connection_id: str) -> dict[str, str]:
        """What the history calls a connection and its requests."""
        app = self._invariants.windows[connection_id].app
        return {"connection": connection_id, "session": app.session, "prefix": app.prefix}


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks. Raises: the error of one that has failed."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def _hello(hello_id: str, names: Iterable[str]) -> Hello:
    """A `hello` that asks for these requests from their start."""
    return Hello(hello_id=hello_id, resume=tuple(ResumePoint(request_id=name, attempt=0, offset=0) for name in names))


def _describe(frame: ClientFrame | ServerFrame) -> str:
    """A frame in a trace."""
    parts = [type(frame).__name__]
    for name in ("request_id", "attempt", "offset", "length", "status", "code", "hello_id"):
        value = getattr(frame, name, None)
        is_random = name == "request_id" and isinstance(value, str) and len(value) == UUID_LENGTH  # of a piece
        if value is not None and not is_random:
            parts.append(str(value) if name in ("request_id", "hello_id") else f"{name}={value}")
    if isinstance(frame, Watch | Watching):
        parts.append(f"{frame.conversation_id} no. {frame.number}{' off' if getattr(frame, 'off', False) else ''}")
    if isinstance(frame, Hello | Watch):
        parts += [f"{p.request_id}@{p.attempt}/{p.offset}" for p in frame.resume]
    return " ".join(parts)
