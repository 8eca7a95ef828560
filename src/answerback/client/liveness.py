"""Whether the present connection still answers, without acknowledgements."""

from dataclasses import dataclass
from typing import Final

from answerback.client.exchange import Exchange
from answerback.client.timing import Timing

_HELLOS_MISSED: Final = 3
"""Unanswered in a row although the connection is not silent: what is behind it is broken, so try another."""


@dataclass(slots=True, eq=False, kw_only=True)
class Greeting:
    """A `hello` that is out, and the questions that it asks about."""

    hello_id: str
    expires_at: float
    exchanges: list[Exchange]


class Liveness:
    """Pure; `Session` drives it. Every message that comes is a sign of life; `hello` and `ping` ask for one."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._greetings: dict[str, Greeting] = {}
        self._asked_at: float | None = None
        self._received_at = 0.0
        self._missed = 0
        self._dead_s = timing.dead_s
        self._is_open = False
        self._was_welcomed = False

    def opened(self, *, now: float) -> None:
        """A new connection, about which nothing is known yet."""
        self.lost()
        self._is_open = True
        self._was_welcomed = False
        self._received_at = now

    def lost(self) -> None:
        """No connection."""
        self._is_open = False
        self._greetings.clear()
        self._asked_at = None
        self._missed = 0

    def received(self, *, now: float) -> None:
        """A message came."""
        self._received_at = now
        self._asked_at = None

    def asked(self, *, now: float) -> None:
        """Something was sent that must be answered."""
        if self._asked_at is None:
            self._asked_at = now

    @property
    def retry_s(self) -> float:
        """Pause before a `hello` is repeated that was not answered."""
        return self._timing.hello_expiry_s * max(1, self._missed)

    def greeted(self, hello_id: str, exchanges: list[Exchange], *, now: float) -> None:
        """A `hello` was sent."""
        expires_at = now + self._timing.hello_expiry_s
        self._greetings[hello_id] = Greeting(hello_id=hello_id, expires_at=expires_at, exchanges=exchanges)
        self.asked(now=now)

    def welcomed(self, hello_id: str) -> Greeting | None:
        """Its `welcome` came; None if it had expired or is not ours."""
        self._missed = 0
        self._was_welcomed = True
        self._dead_s = self._timing.dead_s
        return self._greetings.pop(hello_id, None)

    def expired(self, *, now: float) -> list[Greeting]:
        """Each `hello` that is too old to be waited for."""
        late = [greeting for greeting in self._greetings.values() if now >= greeting.expires_at]
        for greeting in late:
            del self._greetings[greeting.hello_id]
        if late and self._asked_at is None:
            self._missed += 1  # the connection is not silent; several that were sent together count once
        return late

    def failure(self, *, now: float) -> str | None:
        """Why the connection is to be given up; None: it is good. The session drops it at once."""
        if self._asked_at is not None and now >= self._asked_at + self._dead_s:
            # A slow line may need longer for a large question: the next one gets twice the time.
            self._dead_s = min(self._timing.probe_max_s, self._dead_s * 2)
            return "the connection is open but silent"
        if self._missed >= _HELLOS_MISSED:
            return "the server does not answer hello"
        return None

    def wants_hello(self) -> bool:
        """Whether an answer is awaited that no `hello` on the way would bring; the first `welcome` always is."""
        is_awaited = self._asked_at is not None or (self._is_open and not self._was_welcomed)
        return is_awaited and not self._greetings

    def wants_ping(self, *, now: float) -> bool:
        """Whether the connection has been quiet for so long that it may be closed for it."""
        return self._is_open and self._asked_at is None and now >= self._received_at + self._timing.ping_idle_s

    def due_at(self) -> float | None:
        """When the session has to call again."""
        if not self._is_open:
            return None
        due = self._received_at + self._timing.ping_idle_s if self._asked_at is None else self._asked_at + self._dead_s
        for greeting in self._greetings.values():
            due = min(due, greeting.expires_at)
        return due
