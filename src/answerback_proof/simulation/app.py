"""A simulated desktop app: the real client in a process that may be killed, and opened twice."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

from answerback.client import Answer, AnswerbackError, Connected, ConnectionState, SessionReplaced, Stopped
from answerback.client.timing import Timing
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.history import Ended, RunHistory
from answerback_proof.simulation.injector import FaultInjector
from answerback_proof.simulation.network import FOR_EVER_S, Link
from answerback_proof.simulation.process import Process, spawn_outside
from answerback_proof.workload import App, PlannedRequest, Window

URL: Final = "ws://localhost"
REOPEN_S: Final = 5.0
STOP_AFTER_S: Final = 1.5
FLAPPING_S: Final = 0.2
TOGETHER_S: Final = 0.01
"""Of two connections that come so close the one that came first may be the newer: each gateway counts those of one
millisecond on, and of two with the same time the one counts that is bound later."""
_PATIENT: Final = {"ask_timeout_s": FOR_EVER_S, "stream_silence_s": FOR_EVER_S, "queue_wait_s": FOR_EVER_S}
PROBING: Final = Timing(**_PATIENT)
QUIET: Final = Timing(
    **_PATIENT,
    silence_s=FOR_EVER_S,
    probe_max_s=FOR_EVER_S,
    hello_expiry_s=FOR_EVER_S,
    dead_s=FOR_EVER_S,
    ping_idle_s=FOR_EVER_S,
    renew_watch_s=FOR_EVER_S,
)
"""A client that never asks by itself, so that nothing it asks for can hide what the server forgot."""


class SimulatedApp(App["SimulatedWindow"]):
    """One user of the program. `trace` gets a line for each thing that the user does or sees.

    `watches_user`: the number of the user whose conversations it shows; it asks nothing itself.
    """

    def __init__(
        self,
        number: int,
        *,
        history: RunHistory,
        injector: FaultInjector,
        faults_s: float,
        trace: Callable[[str], None],
        watches_user: int | None = None,
    ) -> None:
        # Two apps share a user; users, sessions apart, use the same ids: a mix-up of any kind shows.
        user, self.name, self.ids = f"user{number // 2}", f"app{number}", "qr"[number % 2]
        self.only_watches = watches_user is not None
        if self.only_watches:
            user = f"user{watches_user}"
        super().__init__(user=user, session=f"session-{self.name}", history=history, prefix=qualified(user, ""))
        self.injector = injector
        self.faults_s = faults_s
        faults = injector.faults
        self.timing = Timing() if faults.gives_up else PROBING if faults.probes else QUIET
        self._trace = trace

    def new_window(self, name: str) -> "SimulatedWindow":
        self._trace(f"{self.name} opens {name}")
        return SimulatedWindow(self, name)

    async def open(self) -> None:
        """Start the program, beside one that may still run."""
        self.windows.append(self.new_window(f"window {len(self.windows)}"))
        self.window.spawn(self.window.open())

    def crash(self) -> None:
        """The program is killed: what is not on the disk is gone."""
        self._trace(f"{self.name} crashes")
        self.window.kill()

    def ask(self, request: PlannedRequest, *, again: bool = False) -> "asyncio.Future[Ended]":
        self._trace(f"{self.name} asks {request.request_id} in {request.conversation}")
        return super().ask(request, again=again)

    def cancel(self, request_id: str) -> None:
        self._trace(f"{self.name} cancels {request_id}")
        super().cancel(request_id)

    def saw(self, request_id: str, event: object) -> None:
        if isinstance(event, Answer):
            self._trace(
                f"{self.name} sees {request_id} answered by attempt {event.attempt}, {len(event.text)} code points"
            )
        elif isinstance(event, AnswerbackError):
            self._trace(f"{self.name} sees {request_id} end: {type(event).__name__}: {event}")

    def watch(self, conversation: str) -> None:
        self._trace(f"{self.name} watches {conversation}")
        super().watch(conversation)

    def unwatch(self, conversation: str) -> None:
        self._trace(f"{self.name} leaves {conversation}")
        super().unwatch(conversation)

    def saw_question(self, request_id: str, conversation: str) -> None:
        self._trace(f"{self.name} is shown {request_id} of {conversation}")
        if self.injector.occurs(FaultKind.WATCHER_CANCEL):
            after_s = self.injector.pause_s("cancellation by a watcher", STOP_AFTER_S)
            asyncio.get_running_loop().call_later(after_s, self.stop_watched, request_id, conversation)

    def stop_watched(self, request_id: str, conversation: str) -> None:
        self._trace(f"{self.name} stops {request_id} of {conversation}")
        super().stop_watched(request_id, conversation)

    async def replaced(self, window: "SimulatedWindow") -> None:
        """A window was notified that the session is elsewhere; if that is the newest, its user opens the app again."""
        await asyncio.sleep(REOPEN_S)
        if window is self.window:
            await self.open()


class SimulatedWindow(Window):
    """One run of the program, as a process. `had_rival`: it was told of another one, which had connected after it."""

    app: SimulatedApp

    def __init__(self, app: SimulatedApp, name: str) -> None:
        self.process = Process()
        self.stopped: Exception | None = None
        self.had_rival = False
        self.links: list[Link] = []
        super().__init__(
            app,
            name,
            URL,
            user=app.user,
            offline_start=True,
            on_state=self._state_changed,
            timing=app.timing,
            rng=ClientRandom(self, f"{app.injector.seed}/{app.name} {name}"),
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.process.spawn(work)

    def freeze(self, until: float) -> None:
        """The process stops reading and writing until then, its connections open. Then it notices that it slept."""
        for link in self.links:
            link.slow_until = link.frozen_until = until
        asyncio.get_running_loop().call_at(until, self._thaw)

    def _thaw(self) -> None:
        if self.is_open:
            self.client.reconnect_now()

    def kill(self) -> None:
        self.is_open = False
        self.leave()
        self.process.kill()
        for link in self.links:
            link.client_open = False

    def told_of_another(self, connection_id: str) -> None:
        """The server says on this connection that another one has the session."""
        rivals = [link.opened_at for window in self.app.windows if window is not self for link in window.links]
        for link in self.links:
            if link.connection_id == connection_id:
                self.had_rival |= any(link.opened_at - TOGETHER_S <= at < FOR_EVER_S for at in rivals)

    @property
    def link(self) -> Link | None:
        return self.links[-1] if self.links and self.links[-1].client_open else None

    @property
    def is_connected(self) -> bool:
        """Whether it is open, and both ends of its connection think that it is open."""
        link = self.link
        return self.is_open and isinstance(self.client.state, Connected) and link is not None and link.server_open

    def _state_changed(self, state: ConnectionState) -> None:
        if isinstance(state, Stopped) and self.is_open:
            self.stopped = state.error
            if isinstance(state.error, SessionReplaced):
                spawn_outside(self.app.replaced(self))


class ClientRandom(Random):
    """The random numbers of a client. How old its connections grow is up to the fault injector."""

    def __init__(self, window: SimulatedWindow, seed: str) -> None:
        super().__init__(seed)
        self._window = window

    def uniform(self, a: float, b: float) -> float:
        app = self._window.app
        if b != app.timing.rollover_max_s:
            return super().uniform(a, b)
        injector, faults = app.injector, app.injector.faults
        rolls_over = sum(link.client_open for link in self._window.links) > 1
        if rolls_over and injector.occurs(FaultKind.FLAPPING):
            return super().uniform(0, FLAPPING_S)
        if faults.rollover and faults.cut_every_s:
            age_s = injector.pause_s(f"roll-overs of {app.name}", faults.cut_every_s / faults.rollover)
            if asyncio.get_running_loop().time() + age_s < app.faults_s:
                return age_s
        return b


def qualified(user_id: str, request_id: str) -> str:
    """The name of a request in the history of a run."""
    return f"{user_id}/{request_id}"
