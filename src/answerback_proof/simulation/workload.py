"""A simulated desktop app: the real client session, driven over simulated links.

The program may be killed and opened again, and opened a second time while the first still runs. Each run of it is a
`Window`; what outlives the windows is the app's disk.
"""

import asyncio
from typing import Protocol

from answerback.client.effects import Effect, Emit, Fail, Reconnect, Send, Stop
from answerback.client.errors import AnswerbackError, SessionReplaced
from answerback.client.events import Answer, Done
from answerback.client.exchange import Timeouts
from answerback.client.outbox import PendingRequest
from answerback.client.session import Session
from answerback.client.timing import Timing
from answerback.core.request import RequestKey
from answerback.protocol.codec import encode
from answerback.protocol.frames import ClientFrame, Hello, RenewToken, ResumePoint, SendMessage
from answerback_proof.history import Asked, Cancelled, History
from answerback_proof.observe import ending, show
from answerback_proof.simulation.network import Link

FOR_EVER_S = 100_000.0
RECONNECT_S = 0.5
REOPEN_S = 5.0


class Environment(Protocol):
    """The simulated world as an app uses it."""

    history: History

    def open_link(self, window: "Window", number: int) -> Link:
        """A new connection."""

    def send(self, link: Link, frame: ClientFrame, data: bytes) -> None:
        """Send a frame to the server."""

    def trace(self, line: str) -> None:
        """Keep a line of what happened."""


class App:
    """One user of the program. `timeout_s` 0: the client never gives up."""

    def __init__(
        self, name: str, *, user_id: str, environment: Environment, timing: Timing, timeout_s: float, keeps_tokens: bool
    ) -> None:
        self.name = name
        self.user_id = user_id
        self.session_id = f"session-{name}"
        self.environment = environment
        self.timing = timing
        self.timeout_s = timeout_s
        self.keeps_tokens = keeps_tokens
        self.asked: dict[str, SendMessage] = {}
        self.outcomes: list[tuple[str, Answer | AnswerbackError]] = []
        self.cancelled: set[str] = set()
        self.disk: dict[str, PendingRequest] = {}
        self.windows: list[Window] = []
        self._loop = asyncio.get_running_loop()

    @property
    def window(self) -> "Window":
        """The one that its user looks at."""
        return self.windows[-1]

    @property
    def is_quiet(self) -> bool:
        """Whether it waits for nothing."""
        return not self.disk and self.window.pending == 0

    def key(self, request_id: str) -> RequestKey:
        """The name of a request of this app in the store."""
        return RequestKey(self.user_id, request_id)

    def qualified(self, request_id: str) -> str:
        """The name of a request of this app in the history: users may have the same ids."""
        return qualified(self.user_id, request_id)

    def open(self) -> None:
        """Start the program: it resumes what is on the disk."""
        self.windows.append(Window(self, len(self.windows)))
        self.window.start()

    def crash(self) -> None:
        """The program is killed: what is not on the disk is gone."""
        self.environment.trace(f"{self.name} crashes")
        self.window.die()

    def ask(self, frame: SendMessage) -> None:
        """A new question."""
        self.environment.trace(f"{self.name} asks {frame.request_id} in {frame.conversation_id}")
        self.asked[frame.request_id] = frame
        self.environment.history.add(
            Asked(
                request=self.qualified(frame.request_id),
                user=self.user_id,
                session=self.session_id,
                conversation=frame.conversation_id,
                text=frame.message,
                stream=frame.stream,
                may_time_out=bool(self.timeout_s),
            )
        )
        self.disk[frame.request_id] = PendingRequest(frame=frame)
        self.window.ask(frame)

    def cancel(self, request_id: str) -> None:
        """The user cancels a question."""
        if request_id not in self.cancelled:
            self.environment.trace(f"{self.name} cancels {request_id}")
            self.cancelled.add(request_id)
            self.environment.history.add(Cancelled(request=self.qualified(request_id)))
        self.window.cancel(request_id)

    def closed_by_another(self, window: "Window") -> None:
        """A window was notified that the session is elsewhere; if that is the newest, its user opens the app again."""
        if window is self.window:
            self._loop.call_later(REOPEN_S, self._reopen, window)

    def _reopen(self, window: "Window") -> None:
        if window is self.window:
            self.open()


class Window:
    """One run of the app's program. `had_rival`: another window had connected before this one was stopped."""

    def __init__(self, app: App, number: int) -> None:
        self.app = app
        self.number = number
        self.links: dict[int, Link] = {}
        self.is_up = True
        self.stopped: AnswerbackError | None = None
        self.had_rival = False
        self.connected_at = 0.0
        self.name = f"window {number}"
        self._environment = app.environment
        self._loop = asyncio.get_running_loop()
        self._session = Session(timing=app.timing)
        self._current = 0
        self._numbers = 0
        self._renewals = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Resume what is on the disk, and connect."""
        self._environment.trace(f"{self.app.name} opens window {self.number}")
        for pending in list(self.app.disk.values()):
            self._do(self._session.restore(pending, self._timeouts(), now=self._loop.time()))
        self.connect()

    def die(self) -> None:
        """The process is killed."""
        self.is_up = False
        for link in self.links.values():
            link.client_open = False
        self.links.clear()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def pending(self) -> int:
        """Questions that it waits for."""
        return self._session.pending

    def _timeouts(self) -> Timeouts:
        return Timeouts(total_s=self.app.timeout_s or FOR_EVER_S)

    def ask(self, frame: SendMessage) -> None:
        if self.is_up and self.stopped is None:
            self._do(self._session.ask(frame, self._timeouts(), now=self._loop.time()))

    def cancel(self, request_id: str) -> None:
        if self.is_up:
            self._do(self._session.cancel(request_id, now=self._loop.time()))

    # --- its connections

    @property
    def link(self) -> Link | None:
        """The present one."""
        return self.links.get(self._current)

    @property
    def is_connected(self) -> bool:
        """Whether it is up, and both ends of its connection think that it is open."""
        link = self.link
        return self.is_up and self.stopped is None and link is not None and link.client_open and link.server_open

    def connect(self) -> None:
        """Open a connection and make it the current one; an older one stays until the new one works."""
        if not self.is_up or self.stopped is not None:
            return
        self._numbers += 1
        number = self._numbers
        self.links[number] = self._environment.open_link(self, number)
        self._current = number
        self.connected_at = self._loop.time()
        self._do(self._session.connected(number, now=self._loop.time()))

    def broken(self, number: int) -> None:
        """A connection is noticed to be gone."""
        link = self.links.pop(number, None)
        if link is None or not self.is_up:
            return
        link.client_open = False
        self._do(self._session.disconnected(number, now=self._loop.time()))
        if number == self._current:
            self._loop.call_later(RECONNECT_S, self._reconnect, number)

    def _reconnect(self, number: int) -> None:
        if number == self._current:
            self.connect()

    def receive(self, number: int, data: bytes) -> None:
        """A message arrives."""
        if self.is_up and number in self.links:
            self._do(self._session.received(number, data, now=self._loop.time()))

    def send(self, frame: ClientFrame) -> None:
        """Send a frame past the session."""
        if self.link is not None:
            self._environment.send(self.link, frame, encode(frame))

    def greet(self, times: int) -> None:
        """Ask for everything that is pending, again and again."""
        names = [request_id for request_id, pending in self.app.disk.items() if pending.is_accepted]
        points = tuple(ResumePoint(request_id=name, attempt=0, offset=0) for name in names)
        for n in range(times):
            self.send(Hello(hello_id=f"again-{n}", resume=points))

    def probe(self) -> None:
        """Its user comes back to it: is it still connected?"""
        if self.is_up and self.stopped is None:
            self._do(self._session.probe(now=self._loop.time()))

    def renew_token(self) -> None:
        """Ask for more time, as the driver does before a token runs out."""
        if self.is_up and self.stopped is None and self.link is not None:
            self._renewals += 1
            name = f"renewal-{self._renewals}"
            frame = RenewToken(request_id=name, token=self.app.user_id)
            self._do(self._session.call(name, frame, timeout_s=30.0, now=self._loop.time()))

    # --- the session's effects

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(frame=frame):
                    self.send(frame)
                case Emit(request_id=request_id, event=event):
                    self._show(request_id, event)
                case Fail(request_id=request_id, error=error, is_final=True):
                    self._end(request_id, error)
                case Reconnect(reason=reason):
                    self._environment.trace(f"{self.app.name} gives its connection up: {reason}")
                    self.broken(self._current)
                case Stop(error=error):
                    self._stop(error)
                case _:
                    pass  # notes, round trips, replies: nothing here depends on them
        self._arm()

    def _show(self, request_id: str, event: object) -> None:
        if isinstance(event, Done):
            self._end(request_id, event.answer)
            return
        show(self._environment.history, self.app.qualified(request_id), self.name, event)
        if request_id in self.app.disk and (kept := self._session.exported(request_id)) is not None:
            self.app.disk[request_id] = kept

    def _end(self, request_id: str, outcome: Answer | AnswerbackError) -> None:
        self._environment.trace(f"{self.app.name} sees {request_id} end: {_brief(outcome)}")
        self.app.outcomes.append((request_id, outcome))
        self._environment.history.add(ending(self.app.qualified(request_id), self.name, outcome))
        self.app.disk.pop(request_id, None)

    def _stop(self, error: AnswerbackError) -> None:
        self._environment.trace(f"window {self.number} of {self.app.name} is stopped: {error}")
        self.stopped = error
        self.had_rival = any(
            window is not self and window.connected_at >= self.connected_at for window in self.app.windows
        )
        if isinstance(error, SessionReplaced):
            self.app.closed_by_another(self)

    def _arm(self) -> None:
        due = self._session.due_at()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and self.is_up:
            self._timer = self._loop.call_at(max(due, self._loop.time() + 0.001), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.is_up:
            self._do(self._session.tick(now=self._loop.time()))


def qualified(user_id: str, request_id: str) -> str:
    """The name of a request in the history of a run."""
    return f"{user_id}/{request_id}"


def _brief(outcome: Answer | AnswerbackError) -> str:
    if isinstance(outcome, Answer):
        return f"answered by attempt {outcome.attempt}, {len(outcome.text)} code points"
    return f"{type(outcome).__name__}: {outcome}"
