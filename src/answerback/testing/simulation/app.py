"""A simulated desktop app: the real client session, driven over simulated links."""

import asyncio
from collections.abc import Callable
from itertools import count

from answerback.client.effects import Effect, Emit, Fail, Reconnect, Send, Stop
from answerback.client.events import Answer, Done, Restarted, Text
from answerback.client.exchange import Patience
from answerback.client.outbox import PendingRequest
from answerback.client.session import Session
from answerback.client.timing import Timing
from answerback.protocol.codec import encode
from answerback.protocol.frames import SendMessage
from answerback.testing.simulation.parts import Link


class App:
    """One app session. `open_link` gives a new connection; `trace` keeps a line of what happened.

    What it keeps on its disk (R15): questions without an ending, and endings, each written together with being shown.
    """

    def __init__(
        self,
        name: str,
        *,
        open_link: Callable[["App", int], Link],
        send: Callable[[Link, bytes], None],
        trace: Callable[[str], None],
        timing: Timing | None = None,
    ) -> None:
        self.name = name
        self.session_id = f"session-{name}"
        self._open_link = open_link
        self._send = send
        self._trace = trace
        self._timing = timing or Timing()
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._session = Session(timing=self._timing)
        self._links: dict[int, Link] = {}
        self._current = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_up = True
        self.disk: dict[str, PendingRequest] = {}
        self.endings: dict[str, list[Answer | Exception]] = {}
        self.texts: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self.shown: list[tuple[str, str]] = []
        self.is_stopped = False

    # --- what its user does

    def ask(self, frame: SendMessage) -> None:
        """Ask, with enough patience that only the server ends it."""
        self.endings[frame.request_id] = []
        self.disk[frame.request_id] = PendingRequest(frame=frame)
        if self._is_up:
            self._do(self._session.ask(frame, Patience(total_s=100_000.0), now=self._loop.time()))

    def cancel(self, request_id: str) -> None:
        """Press stop."""
        self.cancelled.add(request_id)
        if self._is_up:
            self._do(self._session.cancel(request_id, now=self._loop.time()))

    def crash(self) -> None:
        """The process is killed: what is not on the disk is gone."""
        self._trace(f"{self.name} crashes")
        self._is_up = False
        self.texts.clear()
        for link in self._links.values():
            link.client_open = False
        self._links.clear()
        if self._timer is not None:
            self._timer.cancel()

    def restart(self) -> None:
        """The app is opened again: it takes up what was on the disk."""
        self._trace(f"{self.name} starts again")
        self._is_up = True
        self._session = Session(timing=self._timing)
        for pending in list(self.disk.values()):
            self._do(self._session.restore(pending, Patience(total_s=100_000.0), now=self._loop.time()))
        self.connect()

    @property
    def is_quiet(self) -> bool:
        """Whether it waits for nothing."""
        return not self.disk

    # --- its connection

    def connect(self) -> None:
        """Open a connection and make it the current one; an older one stays until the new one works."""
        if not self._is_up or self.is_stopped:
            return
        number = next(self._numbers)
        link = self._open_link(self, number)
        self._links[number] = link
        self._current = number
        self._do(self._session.connected(number, now=self._loop.time()))

    def broken(self, number: int) -> None:
        """A connection is noticed to be gone."""
        link = self._links.pop(number, None)
        if link is None or not self._is_up:
            return
        link.client_open = False
        self._do(self._session.disconnected(number, now=self._loop.time()))
        if number == self._current:
            self._loop.call_later(0.5, self._reconnect, number)

    def _reconnect(self, number: int) -> None:
        if number == self._current:
            self.connect()

    def hear(self, number: int, data: bytes) -> None:
        """A message has arrived."""
        if self._is_up and number in self._links:
            self._do(self._session.received(number, data, now=self._loop.time()))

    # --- the session's effects

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(frame=frame):
                    link = self._links.get(self._current)
                    if link is not None:
                        self._send(link, encode(frame))
                case Emit(request_id=request_id, event=event):
                    self._show(request_id, event)
                case Fail(request_id=request_id, error=error, is_final=is_final):
                    self._trace(f"{self.name} sees {request_id} end: {error!r}")
                    self.endings[request_id].append(error)
                    if is_final:
                        self.disk.pop(request_id, None)
                case Reconnect(reason=reason):
                    self._trace(f"{self.name} gives its connection up: {reason}")
                    self.broken(self._current)
                case Stop():
                    self.is_stopped = True
                case _:
                    pass
        for request_id in list(self.disk):
            kept = self._session.exported(request_id)
            if kept is not None:
                self.disk[request_id] = kept
        self._arm()

    def _show(self, request_id: str, event: object) -> None:
        match event:
            case Text(delta=delta):
                self.texts[request_id] = self.texts.get(request_id, "") + delta
                self.shown.append((request_id, self.texts[request_id]))
            case Restarted():
                self.texts[request_id] = ""
            case Done(answer=answer):
                self._trace(f"{self.name} sees {request_id} done, attempt {answer.attempt}")
                self.endings[request_id].append(answer)
                self.disk.pop(request_id, None)
            case _:
                pass

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._session.due_at()
        if due is not None and self._is_up:
            self._timer = self._loop.call_at(max(due, self._loop.time() + 0.001), self._tick)

    def _tick(self) -> None:
        if self._is_up:
            self._do(self._session.tick(now=self._loop.time()))
