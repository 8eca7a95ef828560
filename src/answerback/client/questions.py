"""The questions of a session that have no ending yet: which one may be sent, when to ask about one, when to give up.

WAITING --sent--> SENT --accepted, started, delta--> ACCEPTED --ending, time-out--> OVER
   ^               |  `--refusal, cancellation---------------------------------------^
   +--connection lost, `unavailable`, lost on the way
"""

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Final

from answerback.client.calls import Calls
from answerback.client.effects import Effect, Emit, Fail, FilesWanted, Note, Send
from answerback.client.errors import AnswerbackError, RequestTimeout, request_failed
from answerback.client.events import Event
from answerback.client.exchange import Exchange, Phase, Timeouts
from answerback.client.liveness import Liveness
from answerback.client.timing import Timing
from answerback.core.assembly import Assembly
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import CancelMessage, ClientInfo, Error, Hello, SendMessage
from answerback.protocol.limits import MAX_RESUME_POINTS

_MAX_BROUGHT: Final = 3
"""How often the files of a question are brought before its server is not believed any more."""

_ENDS_ACCEPTED: Final = frozenset({ErrorCode.UNKNOWN_REQUEST, ErrorCode.REQUEST_CONFLICT})
"""Errors that end even an accepted question: the server does not have it (any more) for this session."""


class Questions:
    """Pure; `Session` drives it. What is to be done goes to `effects`, the session's list."""

    def __init__(self, *, timing: Timing, liveness: Liveness, calls: Calls, effects: list[Effect]) -> None:
        self._timing = timing
        self._liveness = liveness
        self._calls = calls
        self._effects = effects
        self._exchanges: dict[str, Exchange] = {}
        self._unaccepted: dict[str | None, deque[Exchange]] = {}
        self._hellos = 0
        self.client: ClientInfo | None = None
        """Who `hello` says that we are."""
        self.progress_s: float | None = None
        """How often the server gives a sign of life. None: it gives none."""
        self._due: float | None = None
        self.is_open = False
        """Whether questions may be sent on the connection."""

    def __len__(self) -> int:
        return len(self._exchanges)

    def __iter__(self) -> Iterator[Exchange]:
        """In the order asked."""
        return iter(tuple(self._exchanges.values()))

    def get(self, request_id: str | None) -> Exchange | None:
        """A question that has no ending yet."""
        return None if request_id is None else self._exchanges.get(request_id)

    def due_at(self) -> float | None:
        """When `tick` has something to do; may be early."""
        return self._due

    def add(self, frame: SendMessage, timeouts: Timeouts, *, now: float) -> Exchange:
        """A new question, not sent yet."""
        exchange = Exchange(
            frame=frame,
            timeouts=timeouts,
            deadline=now + timeouts.total_s,
            assembly=Assembly(streamed=frame.stream),
            silent_at=now + (timeouts.silence_s or 0.0) if timeouts.from_call else None,
            is_held=bool(frame.attachments),
        )
        self._exchanges[frame.request_id] = exchange
        self._unaccepted.setdefault(exchange.key, deque()).append(exchange)
        self._at(exchange.due_at())
        return exchange

    # --- connections ------------------------------------------------------------------------------------

    def opened(self, *, now: float) -> None:
        """A new connection is open: resume what was accepted, then send again what was not.

        Rule: resume the accepted, repeat the unaccepted.
        """
        self.lost()
        self.is_open = True
        accepted = [exchange for exchange in self if exchange.phase is Phase.ACCEPTED]
        for exchange in accepted:
            self.restart_timers(exchange, now=now)
        self.hello(accepted, now=now)
        for key in list(self._unaccepted):
            self.pump(key, now=now)

    def lost(self) -> None:
        """No connection: what was not accepted waits again, and no clock runs but the deadlines."""
        self.is_open = False
        for exchange in self:
            if exchange.phase is Phase.SENT:
                exchange.phase = Phase.WAITING
            exchange.hello_id = None
            exchange.wants_resume = False
            exchange.gap_pause_s = 0.0
            exchange.probe_at = exchange.resume_at = exchange.resend_at = None
            if not exchange.timeouts.from_call:
                exchange.silent_at = None

    # --- one question -----------------------------------------------------------------------------------

    def pump(self, key: str | None, *, now: float) -> None:
        """Send the first unaccepted question of an ordering key, if nothing holds it: one at a time for each key."""
        waiting = self._unaccepted.get(key)
        while waiting and waiting[0].phase in (Phase.ACCEPTED, Phase.OVER):
            waiting.popleft()
        if not waiting:
            self._unaccepted.pop(key, None)
            return
        head = waiting[0]
        if not self.is_open or head.phase is not Phase.WAITING or (head.is_held and not head.is_cancelled):
            return
        if head.resend_at is not None and now < head.resend_at:
            return
        head.phase = Phase.SENT
        head.resend_at = None
        # A cancelled question is not asked again: every answered id has a record at the server.
        self._effects.append(Send(CancelMessage(request_id=head.request_id) if head.is_cancelled else head.frame))
        head.was_sent = True
        self.restart_timers(head, now=now)

    def accept(self, exchange: Exchange, *, now: float) -> None:
        """The server knows the question, as a frame about it says: the next one of its key may go."""
        exchange.refusal = None
        if exchange.timeouts.from_call and self.progress_s is not None:
            exchange.silent_at = now + (exchange.timeouts.silence_s or 0.0)
        if exchange.phase is not Phase.ACCEPTED:
            exchange.phase = Phase.ACCEPTED
            exchange.was_sent = True
            exchange.resend_at = None
            self.pump(exchange.key, now=now)
        self.restart_timers(exchange, now=now)

    def restart_timers(self, exchange: Exchange, *, now: float) -> None:
        """A frame about it came or was sent, so its timers start again. Without a connection they do not run."""
        if not self.is_open:
            return
        exchange.probe_pause_s = self._probe_after_s(exchange)
        exchange.probe_at = now + exchange.probe_pause_s
        timeouts = exchange.timeouts
        if timeouts.silence_s is not None and not timeouts.from_call and exchange.assembly.has_started:
            exchange.silent_at = now + timeouts.silence_s
        self._at(exchange.due_at())

    def _probe_after_s(self, exchange: Exchange) -> float:
        """A thinking answer that gives its signs costs no `hello`."""
        if self.progress_s is None or exchange.frame.parts is None:
            return self._timing.silence_s
        return max(self._timing.silence_s, 1.5 * self.progress_s)

    def hold(self, exchange: Exchange) -> None:
        """Its files have to be brought first."""
        exchange.phase = Phase.WAITING
        exchange.is_held = True
        exchange.probe_at = exchange.hello_id = None
        self._effects.append(FilesWanted(exchange.request_id))

    def bringing(self, *, now: float) -> None:
        """A piece of a file has arrived: that is a sign, too, for all that are held."""
        for exchange in self._exchanges.values():
            if exchange.is_held and exchange.timeouts.from_call:
                exchange.silent_at = now + (exchange.timeouts.silence_s or 0.0)

    def brought(self, exchange: Exchange, *, now: float) -> None:
        """Its files are at the server."""
        exchange.is_held = False
        exchange.brought += 1
        self.pump(exchange.key, now=now)

    def resend_later(self, exchange: Exchange, pause_s: float, *, now: float) -> None:
        """The server could not take it now: the same frame again after a pause; its key waits with it."""
        exchange.phase = Phase.WAITING
        exchange.probe_at = None
        exchange.resend_at = now + pause_s
        self._at(exchange.resend_at)

    def refused(self, exchange: Exchange, error: Error, *, now: float) -> None:
        """An error about a question."""
        if ERRORS[error.code].retryable:
            exchange.refusal = error.code
        if exchange.phase is Phase.ACCEPTED and error.code not in _ENDS_ACCEPTED:
            self._effects.append(Note(f"{error.code}: {error.message}"))
        elif error.code is ErrorCode.ATTACHMENT_MISSING and exchange.is_held:
            pass  # said twice, of a frame that was sent twice
        elif error.code is ErrorCode.ATTACHMENT_MISSING and 0 < exchange.brought < _MAX_BROUGHT:
            self.hold(exchange)  # it was there, and is too old by now
        elif ERRORS[error.code].retryable:
            pause_s = self._timing.resend_s if error.retry_after_ms is None else error.retry_after_ms / 1000
            self.resend_later(exchange, pause_s, now=now)
        else:
            self.fail(exchange, request_failed(error.code, error.message, request_id=exchange.request_id), now=now)

    def want_resume(self, exchange: Exchange, *, now: float) -> None:
        """Text is missing: ask for it at once; while that brings nothing, with growing pauses."""
        if exchange.hello_id is not None:
            exchange.wants_resume = True
        elif self.is_open and exchange.resume_at is None:
            pause_s = exchange.gap_pause_s
            exchange.gap_pause_s = min(self._timing.silence_s, max(self._timing.backoff_min_s, pause_s * 2))
            if pause_s == 0.0:
                self.hello([exchange], now=now)
            else:
                exchange.resume_at = now + pause_s
                self._at(exchange.resume_at)

    def got_text(self, exchange: Exchange, *, now: float) -> None:
        """The text goes on: nothing is missing before it."""
        exchange.gap_pause_s = 0.0
        exchange.wants_resume, exchange.resume_at = False, None
        if not exchange.assembly.lacks_text:
            return
        # The ending has come before the rest of its text, and nobody says more.
        if exchange.hello_id is not None:
            exchange.wants_resume = True
        else:
            exchange.resume_at = now + self._timing.backoff_min_s
            self._at(exchange.resume_at)

    def emit(self, exchange: Exchange, event: Event) -> None:
        """Give an event to the application."""
        self._effects.append(Emit(exchange.request_id, event))

    def fail(self, exchange: Exchange, error: AnswerbackError, *, now: float) -> None:
        """The one ending of a question, with an error."""
        self._effects.append(Fail(exchange.request_id, error))
        self.drop(exchange, now=now)

    def drop(self, exchange: Exchange, *, now: float) -> None:
        """Forget a question that has its ending. Later frames of its id find nothing, so that it has only one."""
        exchange.phase = Phase.OVER
        del self._exchanges[exchange.request_id]
        self.pump(exchange.key, now=now)

    def request_stop(self, exchange: Exchange, *, now: float) -> None:
        """Have the server stop a question that is given up here, unless it was never sent."""
        if exchange.was_sent:
            self._effects.extend(self._calls.request_stop(exchange.request_id, now=now))

    def stop(self, error: AnswerbackError) -> None:
        """Give all of them up."""
        self._effects.extend(Fail(request_id, error, is_final=False) for request_id in self._exchanges)
        self._exchanges.clear()
        self._unaccepted.clear()

    # --- asking the server about them: there are no acknowledgements ------------------------------------

    def hello(self, exchanges: list[Exchange], *, now: float) -> None:
        """Ask for the rest of these questions' answers, or with none whether the server answers.

        Only accepted ones are named: the others are sent again by `pump`.
        """
        for start in range(0, max(1, len(exchanges)), MAX_RESUME_POINTS):
            batch = exchanges[start : start + MAX_RESUME_POINTS]
            self._hellos += 1
            hello_id = f"hello-{self._hellos}"
            for exchange in batch:
                exchange.hello_id = hello_id
                exchange.wants_resume = False
                exchange.probe_at = exchange.resume_at = None
            accepted = [exchange for exchange in batch if exchange.phase is Phase.ACCEPTED]
            points = tuple(exchange.resume_point for exchange in accepted)
            self._effects.append(Send(Hello(hello_id=hello_id, resume=points, client=self.client)))
            self._effects.extend(
                Send(CancelMessage(request_id=exchange.request_id)) for exchange in accepted if exchange.is_cancelled
            )
            self._liveness.greeted(hello_id, batch, now=now)

    def welcomed(self, hello_id: str, *, now: float) -> None:
        """All that a `hello` asked for was sent before its `welcome`."""
        greeting = self._liveness.welcomed(hello_id)
        for exchange in [] if greeting is None else greeting.exchanges:
            if exchange.hello_id != hello_id:
                continue
            if exchange.phase is Phase.SENT:
                # The connection is good and still it was not accepted: it was lost. Its id makes it safe to repeat.
                exchange.hello_id = None
                exchange.phase = Phase.WAITING
                self.pump(exchange.key, now=now)
            else:
                self._hello_settled(exchange, now)
                if exchange.probe_at is None:
                    self._probe_later(exchange, now)

    def probe_soon(self, *, now: float) -> None:
        """The server had an error and did not say about which question: ask about all of them soon."""
        soon = now + self._timing.resend_s
        for exchange in self._exchanges.values():
            if exchange.probe_at is not None:
                exchange.probe_at = min(exchange.probe_at, soon)
        self._at(soon)

    def _hello_settled(self, exchange: Exchange, now: float) -> None:
        """A `hello` for it is answered or too old; if text is still missing, that is asked for again."""
        exchange.hello_id = None
        if exchange.wants_resume:
            exchange.wants_resume = False
            self.want_resume(exchange, now=now)

    def _probe_later(self, exchange: Exchange, now: float) -> None:
        """The `hello` has brought nothing about it: ask again later and later, and once more before it is given up.

        Signs are not repeated, and one lost on the way must not end a question that the server works on.
        """
        doubled = max(self._timing.silence_s, exchange.probe_pause_s * 2)
        exchange.probe_pause_s = min(self._timing.probe_max_s, doubled)
        self._probe_at(exchange, now + min(exchange.probe_pause_s, self._last_call_s(exchange, now)))

    def _probe_at(self, exchange: Exchange, instant: float) -> None:
        if exchange.hello_id is None and exchange.phase in (Phase.SENT, Phase.ACCEPTED):
            exchange.probe_at = instant
            self._at(instant)

    def last_call_s(self, *, now: float) -> float:
        """In how many seconds to ask the server at the latest, before some question is given up; may be infinite."""
        return min((self._last_call_s(exchange, now) for exchange in self._exchanges.values()), default=inf)

    def _last_call_s(self, exchange: Exchange, now: float) -> float:
        left_s = exchange.gives_up_at - self._timing.hello_expiry_s - now
        return left_s if left_s > 0 else inf

    # --- time -------------------------------------------------------------------------------------------

    def expire(self, *, now: float) -> None:
        """Wait no longer for the `welcome` of an old `hello`."""
        for greeting in self._liveness.expired(now=now):
            for exchange in greeting.exchanges:
                if exchange.hello_id == greeting.hello_id:
                    self._hello_settled(exchange, now)
                    self._probe_at(exchange, now + self._liveness.retry_s)

    def tick(self, *, now: float) -> None:
        """Do what is due by now."""
        self._due = None
        silent = [exchange for exchange in self if self._watch(exchange, now)]
        if silent:
            self.hello(silent, now=now)
        for exchange in self:
            self._at(exchange.due_at())

    def _watch(self, exchange: Exchange, now: float) -> bool:
        """What time does to one question; true if it is to be asked for."""
        if now >= exchange.deadline:
            self._time_out(exchange, exchange.timeouts.total_s, now)
        elif exchange.silent_at is not None and now >= exchange.silent_at:
            self._time_out(exchange, exchange.timeouts.silence_s or 0.0, now)
        elif exchange.resend_at is not None and now >= exchange.resend_at:
            exchange.resend_at = None
            self.pump(exchange.key, now=now)
        elif any(at is not None and now >= at for at in (exchange.probe_at, exchange.resume_at)):
            exchange.probe_at = exchange.resume_at = None
            return exchange.hello_id is None and exchange.phase is not Phase.WAITING
        return False

    def _time_out(self, exchange: Exchange, timeout_s: float, now: float) -> None:
        """End a question by a time-out, and have the server stop it (rule: absolute deadlines)."""
        self.request_stop(exchange, now=now)
        cause_code = None if exchange.refusal is None else exchange.refusal.value
        error = RequestTimeout(exchange.request_id, timeout_s, exchange.assembly.text, cause_code=cause_code)
        self.fail(exchange, error, now=now)

    def _at(self, instant: float) -> None:
        if self._due is None or instant < self._due:
            self._due = instant
