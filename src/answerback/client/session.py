"""The client's side of one app session: a pure state machine over any number of connections.

Theory of operation. A question waits until its ordering key is free, is sent, is accepted, and ends. Connections come
and go beneath: on each new one the accepted questions are resumed from the code point they have, and the first
unaccepted one of each key is sent again under the same id, which the server attaches (R14). Nobody acknowledges
anything: when a pending question has been silent for a while, the session asks for it with `hello` (R5). A connection
on which nothing answers is given up.

    WAITING --sent--> SENT --accepted, started, delta--> ACCEPTED --ending, time-out--> OVER
       ^               |  `--refusal, cancellation---------------------------------------^
       +--connection lost, `unavailable`, lost on the way

Nothing here does I/O, reads a clock or draws a random number. `now` is monotonic seconds. Every input returns the
effects to carry out, in order; `due_at` says when `tick` is wanted.
"""

from collections import deque
from typing import Final

from answerback.client.calls import CallFrame, Calls
from answerback.client.effects import Effect, Emit, Fail, Note, Ready, Reconnect, Send, Stop
from answerback.client.errors import (
    AnswerbackError,
    MessageTooLarge,
    ProtocolViolation,
    RequestCancelled,
    RequestTimeout,
    SessionReplaced,
    request_failed,
)
from answerback.client.events import Answer, Done, Event, Queued, answer_of
from answerback.client.exchange import Exchange, Patience, Phase
from answerback.client.liveness import Liveness
from answerback.client.outbox import PendingRequest
from answerback.client.timing import Timing
from answerback.core.assembly import AnswerFrame, Assembly, Broken, Ended, Missing
from answerback.protocol.codec import Data, FrameError, decode_server, encode
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import (
    CancelMessage,
    Conversation,
    Conversations,
    Error,
    Hello,
    History,
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    MessageStarted,
    Ping,
    Pong,
    SendMessage,
    ServerFrame,
    ServerLimits,
    Status,
    TokenRenewed,
    Welcome,
)
from answerback.protocol.limits import MAX_RESUME_POINTS

_ENDS_ACCEPTED: Final = frozenset({ErrorCode.UNKNOWN_REQUEST, ErrorCode.REQUEST_CONFLICT})
"""Errors that end even an accepted question: the server does not have it (any more) for this session."""


class Session:
    """See the module. One instance is one app session; it outlives connections.

    Connections have rising numbers, given by the driver. Answers on an older connection still count (they are
    idempotent), but what such a connection says about itself does not.
    """

    def __init__(self, *, timing: Timing) -> None:
        self._timing = timing
        self._calls = Calls(timing)
        self._liveness = Liveness(timing)
        self._exchanges: dict[str, Exchange] = {}
        self._lanes: dict[str | None, deque[Exchange]] = {}
        self._link: int | None = None
        self._hellos = 0
        self._due: float | None = None
        self._stopped: AnswerbackError | None = None
        self._limits: ServerLimits | None = None
        self._effects: list[Effect] = []

    @property
    def stopped(self) -> AnswerbackError | None:
        """Why the session takes no more questions, if so."""
        return self._stopped

    @property
    def limits(self) -> ServerLimits | None:
        """What the server allows, once it has said so."""
        return self._limits

    @property
    def pending(self) -> int:
        """Questions without an ending."""
        return len(self._exchanges)

    def due_at(self) -> float | None:
        """When to call `tick`: may be early, never late. None: not before another input."""
        if self._stopped is not None:
            return None
        instants = (self._due, self._calls.due_at(), self._liveness.due_at())
        return min((instant for instant in instants if instant is not None), default=None)

    # --- what the application wants ---------------------------------------------------------------------

    def ask(self, frame: SendMessage, patience: Patience, *, now: float) -> list[Effect]:
        """Take a new question. Raises: the error that stopped the session; ValueError: the id is pending already."""
        self._check_open()
        if frame.request_id in self._exchanges:
            raise ValueError(f"request {frame.request_id} is pending already; use a new id for each question")
        self._pump(self._add(frame, patience, now).key, now)
        return self._flush()

    def restore(self, pending: PendingRequest, patience: Patience, *, now: float) -> list[Effect]:
        """Take up a question of an earlier run of the app, under the same session id; its text comes from the start."""
        self._check_open()
        if pending.frame.request_id in self._exchanges:
            return []
        exchange = self._add(pending.frame, patience, now)
        exchange.conversation_id = pending.conversation_id
        if pending.is_accepted:
            exchange.was_sent = True
            self._accept(exchange, now)
            if self._link is not None:
                self._hello([exchange], now)
        self._pump(exchange.key, now)
        return self._flush()

    def export(self) -> list[PendingRequest]:
        """Every question without an ending, in the order asked; what `restore` takes."""
        return [pending_of(exchange) for exchange in self._exchanges.values()]

    def exported(self, request_id: str) -> PendingRequest | None:
        """One of `export`."""
        exchange = self._exchanges.get(request_id)
        return None if exchange is None else pending_of(exchange)

    def cancel(self, request_id: str, *, now: float) -> list[Effect]:
        """Stop a question. Its ending comes from the server, and may still be the whole answer.

        One that was never sent ends here. An unknown or ended one is left alone.
        """
        exchange = self._exchanges.get(request_id)
        if exchange is None or exchange.is_cancelled:
            return []
        exchange.is_cancelled = True
        if not exchange.was_sent:
            self._fail(exchange, RequestCancelled(_so_far(exchange)), now)
        elif self._link is not None:
            self._effects.append(Send(CancelMessage(request_id=request_id)))
            self._listen(exchange, now)
        return self._flush()

    def abandon(self, request_id: str, *, now: float) -> list[Effect]:
        """Nobody waits for this question any more: it ends here as cancelled, and the server is told to stop it."""
        exchange = self._exchanges.get(request_id)
        if exchange is not None:
            self._tell_stop(exchange, now)
            self._fail(exchange, RequestCancelled(_so_far(exchange)), now)
        return self._flush()

    def call(self, request_id: str, frame: CallFrame | Ping, *, timeout_s: float, now: float) -> list[Effect]:
        """Ask about conversations, renew the token, measure a round trip: `Reply`, `RoundTrip` or `ReplyFailed`."""
        self._check_open()
        if self._link is not None and isinstance(frame, Ping):
            self._liveness.asked(now=now)
        return self._calls.call(request_id, frame, timeout_s=timeout_s, now=now)

    def drop_call(self, request_id: str) -> None:
        """Nobody waits for this call any more."""
        self._calls.drop(request_id)

    def stop(self, error: AnswerbackError) -> list[Effect]:
        """Give up everything with `error`: closed, replaced, or refused for good. Once."""
        if self._stopped is None:
            self._stop(error)
        return self._flush()

    # --- what happens to connections --------------------------------------------------------------------

    def connected(self, link: int, *, now: float) -> list[Effect]:
        """A connection is open: greet, resume what was accepted, send again what was not (R14)."""
        if self._stopped is not None:
            return []
        self._link = link
        self._liveness.opened(now=now)
        accepted = []
        for exchange in self._exchanges.values():
            exchange.offline()
            if exchange.phase is Phase.ACCEPTED:
                accepted.append(exchange)
                self._listen(exchange, now)
        self._hello(accepted, now)
        for key in list(self._lanes):
            self._pump(key, now)
        self._effects.extend(self._calls.opened(now=now))
        return self._flush()

    def disconnected(self, link: int, *, now: float, too_large: bool = False) -> list[Effect]:
        """A connection is gone. `too_large`: it was closed because of a message's size (1009)."""
        if link != self._link:
            return []
        self._link = None
        self._liveness.lost()
        self._calls.lost()
        sent = [exchange for exchange in self._exchanges.values() if exchange.phase is Phase.SENT]
        for exchange in self._exchanges.values():
            exchange.offline()
        if too_large and sent:
            # Sent again it would close every connection: the largest one is the one that was refused.
            culprit = max(sent, key=lambda exchange: len(exchange.frame.message))
            self._fail(culprit, MessageTooLarge(len(encode(culprit.frame)), None), now)
        return self._flush()

    def probe(self, *, now: float) -> list[Effect]:
        """The machine slept, or the network changed: find out at once whether the connection is still good."""
        if self._link is not None:
            accepted = (e for e in self._exchanges.values() if e.phase is Phase.ACCEPTED and e.hello_id is None)
            self._hello(list(accepted), now)
        return self._flush()

    def received(self, link: int, data: Data, *, now: float) -> list[Effect]:
        """One message of a connection. Never raises for what it says."""
        if self._stopped is not None:
            return []
        if link == self._link:
            self._liveness.heard(now=now)
        try:
            frame = decode_server(data)
        except FrameError as exc:
            self._effects.append(Note(str(exc)))
            self._look_soon(now)
        else:
            if frame is not None:
                self._take(link, frame, now)
        return self._flush()

    def tick(self, *, now: float) -> list[Effect]:
        """Do what is due by now."""
        if self._stopped is not None:
            return []
        self._due = None
        self._watch_link(now)
        silent: list[Exchange] = []
        for exchange in list(self._exchanges.values()):
            self._watch(exchange, silent, now)
        if silent:
            self._hello(silent, now)
        self._effects.extend(self._calls.tick(now=now))
        for exchange in self._exchanges.values():
            self._at(exchange.due_at())
        return self._flush()

    # --- frames -----------------------------------------------------------------------------------------

    def _take(self, link: int, frame: ServerFrame, now: float) -> None:
        match frame:
            case MessageAccepted():
                self._take_accepted(frame, now)
            case MessageStarted() | MessageDelta() | MessageResponse():
                self._take_answer(frame, now)
            case Welcome():
                if link == self._link:
                    self._take_welcome(frame, now)
            case Error():
                self._take_error(link, frame, now)
            case History() | Conversations() | Conversation() | TokenRenewed():
                self._effects.extend(self._calls.answered(frame))
            case Pong():
                if link == self._link:
                    self._effects.extend(self._calls.pong(now=now))

    def _take_accepted(self, frame: MessageAccepted, now: float) -> None:
        exchange = self._exchanges.get(frame.request_id)
        if exchange is not None:
            exchange.conversation_id = frame.conversation_id
            self._accept(exchange, now)
            self._emit(exchange, Queued(position=frame.position, conversation_id=frame.conversation_id))

    def _take_answer(self, frame: AnswerFrame, now: float) -> None:
        exchange = self._exchanges.get(frame.request_id)
        if exchange is None:
            if isinstance(frame, MessageResponse):
                self._calls.heard_ending(frame.request_id)
            return
        before = (exchange.assembly.attempt, exchange.assembly.length)
        missing = False
        for event in exchange.assembly.receive(frame):
            match event:
                case Ended():
                    self._end(exchange, event, now)
                    return
                case Broken():
                    self._tell_stop(exchange, now)
                    self._fail(exchange, ProtocolViolation(exchange.request_id, event.detail), now)
                    return
                case Missing():
                    missing = True
                case _:
                    self._emit(exchange, event)
        self._accept(exchange, now)  # whatever it is, the server knows the question (R13)
        if missing:
            self._want_resume(exchange, now)
        elif (exchange.assembly.attempt, exchange.assembly.length) != before:
            exchange.wants_resume = False
            exchange.gap_pause_s = 0.0

    def _end(self, exchange: Exchange, ended: Ended, now: float) -> None:
        response = ended.response
        answer = answer_of(response, ended.text, exchange.conversation_id)
        match response.status:
            case Status.COMPLETED:
                self._emit(exchange, Done(answer))
                self._drop(exchange, now)
            case Status.CANCELLED:
                self._fail(exchange, RequestCancelled(answer), now)
            case Status.FAILED:
                body = response.error
                error = request_failed(
                    ErrorCode.INTERNAL if body is None else body.code,
                    None if body is None else body.message,
                    retryable=None if body is None else body.retryable,
                    retry_after_ms=None if body is None else body.retry_after_ms,
                    request_id=exchange.request_id,
                    answer=answer,
                )
                self._fail(exchange, error, now)

    def _take_welcome(self, welcome: Welcome, now: float) -> None:
        self._limits = welcome.limits
        self._effects.append(Ready(welcome))
        greeting = self._liveness.welcomed(welcome.hello_id)
        for exchange in [] if greeting is None else greeting.exchanges:
            if exchange.hello_id != welcome.hello_id:
                continue
            exchange.hello_id = None
            if exchange.phase is Phase.SENT:
                # The connection is good and still it was not accepted: it was lost. Its id makes it safe to repeat.
                exchange.phase = Phase.WAITING
                self._pump(exchange.key, now)
            elif exchange.phase is Phase.ACCEPTED and exchange.wants_resume:
                self._want_resume(exchange, now)
            elif exchange.phase is Phase.ACCEPTED:
                self._probe_later(exchange, now)

    def _take_error(self, link: int, error: Error, now: float) -> None:
        if error.code is ErrorCode.SESSION_REPLACED:
            if link == self._link:
                self._stop(SessionReplaced())
            return
        effects = self._calls.refused(error, now=now)
        if effects is not None:
            self._effects.extend(effects)
            return
        exchange = None if error.request_id is None else self._exchanges.get(error.request_id)
        if exchange is None or (exchange.phase is Phase.ACCEPTED and error.code not in _ENDS_ACCEPTED):
            self._effects.append(Note(f"{error.code}: {error.message}"))
        elif ERRORS[error.code].retryable:
            pause_s = self._timing.resend_s if error.retry_after_ms is None else error.retry_after_ms / 1000
            exchange.phase = Phase.WAITING
            exchange.probe_at = None
            exchange.resend_at = now + pause_s
            self._at(exchange.resend_at)
        else:
            failure = request_failed(error.code, error.message, request_id=exchange.request_id)
            self._fail(exchange, failure, now)

    def _look_soon(self, now: float) -> None:
        """API Gateway tells of trouble behind it with a message that has no action: ask soon what it was about."""
        soon = now + self._timing.resend_s
        for exchange in self._exchanges.values():
            if exchange.probe_at is not None:
                exchange.probe_at = min(exchange.probe_at, soon)
        self._at(soon)

    # --- questions --------------------------------------------------------------------------------------

    def _stop(self, error: AnswerbackError) -> None:
        self._stopped = error
        self._effects.append(Stop(error))
        self._effects.extend(Fail(request_id, error, is_final=False) for request_id in self._exchanges)
        self._effects.extend(self._calls.stop(error))
        self._exchanges.clear()
        self._lanes.clear()
        self._link = None

    def _check_open(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    def _add(self, frame: SendMessage, patience: Patience, now: float) -> Exchange:
        exchange = Exchange(
            frame=frame,
            patience=patience,
            deadline=now + patience.total_s,
            assembly=Assembly(streamed=frame.stream),
        )
        self._exchanges[frame.request_id] = exchange
        self._lanes.setdefault(exchange.key, deque()).append(exchange)
        self._at(exchange.deadline)
        return exchange

    def _pump(self, key: str | None, now: float) -> None:
        """Send the first unaccepted question of an ordering key, if nothing holds it (R14)."""
        lane = self._lanes.get(key)
        while lane and lane[0].phase in (Phase.ACCEPTED, Phase.OVER):
            lane.popleft()
        if not lane:
            self._lanes.pop(key, None)
            return
        head = lane[0]
        if self._link is None or head.phase is not Phase.WAITING:
            return
        if head.resend_at is not None and now < head.resend_at:
            return
        head.phase = Phase.SENT
        head.resend_at = None
        # A cancelled question is not asked again: its tombstone at the server answers for it (R7).
        self._effects.append(Send(CancelMessage(request_id=head.request_id) if head.is_cancelled else head.frame))
        head.was_sent = True
        self._listen(head, now)

    def _accept(self, exchange: Exchange, now: float) -> None:
        if exchange.phase is not Phase.ACCEPTED:
            exchange.phase = Phase.ACCEPTED
            exchange.resend_at = None
            self._pump(exchange.key, now)
        self._listen(exchange, now)

    def _listen(self, exchange: Exchange, now: float) -> None:
        """It was heard of, or asked for anew: patience starts again. Without a connection nothing is waited for."""
        if self._link is None:
            return
        exchange.probe_pause_s = self._timing.silence_s
        exchange.probe_at = now + exchange.probe_pause_s
        if exchange.patience.silence_s is not None and exchange.assembly.has_started:
            exchange.silent_at = now + exchange.patience.silence_s
        self._at(exchange.due_at())

    def _probe_later(self, exchange: Exchange, now: float) -> None:
        doubled = max(self._timing.silence_s, exchange.probe_pause_s * 2)
        exchange.probe_pause_s = min(self._timing.probe_max_s, doubled)
        exchange.probe_at = now + exchange.probe_pause_s
        self._at(exchange.probe_at)

    def _want_resume(self, exchange: Exchange, now: float) -> None:
        """Text is missing: ask for it at once; while that brings nothing, with growing pauses."""
        if exchange.hello_id is not None:
            exchange.wants_resume = True
            return
        exchange.wants_resume = False
        pause_s = exchange.gap_pause_s
        exchange.gap_pause_s = min(self._timing.silence_s, max(self._timing.backoff_min_s, pause_s * 2))
        if self._link is None:
            return
        if pause_s == 0.0:
            self._hello([exchange], now)
        else:
            exchange.probe_at = now + pause_s
            self._at(exchange.probe_at)

    def _fail(self, exchange: Exchange, error: AnswerbackError, now: float) -> None:
        self._effects.append(Fail(exchange.request_id, error))
        self._drop(exchange, now)

    def _drop(self, exchange: Exchange, now: float) -> None:
        exchange.phase = Phase.OVER
        del self._exchanges[exchange.request_id]
        self._pump(exchange.key, now)

    def _tell_stop(self, exchange: Exchange, now: float) -> None:
        if exchange.was_sent:
            self._effects.extend(self._calls.tell_stop(exchange.request_id, now=now))

    # --- time -------------------------------------------------------------------------------------------

    def _watch_link(self, now: float) -> None:
        """R5: no `welcome`, or nothing at all, means another connection."""
        if self._link is None:
            return
        for greeting in self._liveness.expired(now=now):
            for exchange in greeting.exchanges:
                if exchange.hello_id == greeting.hello_id:
                    exchange.hello_id = None
                    self._probe_later(exchange, now)
        reason = self._liveness.verdict(now=now)
        if reason is not None:
            self._effects.append(Reconnect(reason))
        elif self._liveness.wants_hello():
            self._hello([], now)
        elif self._liveness.wants_ping(now=now):
            self._effects.extend(self._calls.ping(now=now))
            self._liveness.asked(now=now)

    def _watch(self, exchange: Exchange, silent: list[Exchange], now: float) -> None:
        if now >= exchange.deadline:
            self._time_out(exchange, exchange.patience.total_s, now)
        elif exchange.silent_at is not None and now >= exchange.silent_at:
            self._time_out(exchange, exchange.patience.silence_s or 0.0, now)
        elif exchange.resend_at is not None and now >= exchange.resend_at:
            exchange.resend_at = None
            self._pump(exchange.key, now)
        elif exchange.probe_at is not None and now >= exchange.probe_at:
            exchange.probe_at = None
            if exchange.hello_id is None and exchange.phase is not Phase.WAITING:
                silent.append(exchange)

    def _time_out(self, exchange: Exchange, timeout_s: float, now: float) -> None:
        """R17. A client-made ending: later frames of this id find nobody (G2)."""
        self._tell_stop(exchange, now)
        self._fail(exchange, RequestTimeout(exchange.request_id, timeout_s, exchange.assembly.text), now)

    # --- sending ----------------------------------------------------------------------------------------

    def _hello(self, exchanges: list[Exchange], now: float) -> None:
        """Ask for what these still owe; with none, whether anybody is there. Only accepted ones are named (R14)."""
        for start in range(0, max(1, len(exchanges)), MAX_RESUME_POINTS):
            batch = exchanges[start : start + MAX_RESUME_POINTS]
            self._hellos += 1
            hello_id = f"hello-{self._hellos}"
            for exchange in batch:
                exchange.hello_id = hello_id
                exchange.probe_at = None
            accepted = [exchange for exchange in batch if exchange.phase is Phase.ACCEPTED]
            points = tuple(exchange.resume_point for exchange in accepted)
            self._effects.append(Send(Hello(hello_id=hello_id, resume=points)))
            self._effects.extend(
                Send(CancelMessage(request_id=exchange.request_id)) for exchange in accepted if exchange.is_cancelled
            )
            self._liveness.greeted(hello_id, batch, now=now)

    def _emit(self, exchange: Exchange, event: Event) -> None:
        self._effects.append(Emit(exchange.request_id, event))

    def _at(self, instant: float) -> None:
        if self._due is None or instant < self._due:
            self._due = instant

    def _flush(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects


def pending_of(exchange: Exchange) -> PendingRequest:
    """What has to be kept of a question."""
    return PendingRequest(
        frame=exchange.frame,
        is_accepted=exchange.phase is Phase.ACCEPTED,
        conversation_id=exchange.conversation_id,
    )


def _so_far(exchange: Exchange) -> Answer:
    """What there is of the answer to a question that ends here and not at the server."""
    return Answer(
        text=exchange.assembly.text,
        request_id=exchange.request_id,
        status=Status.CANCELLED,
        attempt=exchange.assembly.attempt,
        conversation_id=exchange.conversation_id,
    )
