"""The client's side of one app session: a pure state machine over any number of connections.

Theory of operation. A question waits until its ordering key is free, is sent, is accepted, and ends (`questions.py`).
Connections come and go beneath: on each new one the accepted questions are resumed from the code point they have, and
the first unaccepted one of each key is sent again under the same id, which the server attaches. Nobody
acknowledges anything: when a pending question has been silent for a while, the session asks for it with `hello`. A
connection on which nothing answers is given up (`liveness.py`).

Nothing here does I/O, reads a clock or draws a random number. `now` is monotonic seconds. Every input returns the
effects to carry out, in order; `due_at` says when `tick` is wanted.
"""

from typing import Final

from answerback.client.calls import CallFrame, Calls
from answerback.client.effects import Effect, Note, Ready, Reconnect, Replace, ReplyFrame, Send, Stop
from answerback.client.errors import (
    AnswerbackError,
    Forbidden,
    MessageTooLarge,
    ProtocolViolation,
    RequestCancelled,
    SessionReplaced,
    StoreChanged,
    request_failed,
)
from answerback.client.events import Answer, Done, Queued, Thinking, Watched, outcome_of
from answerback.client.exchange import Exchange, Phase, Timeouts
from answerback.client.liveness import Liveness
from answerback.client.outbox import PendingRequest
from answerback.client.questions import Questions
from answerback.client.timing import Timing
from answerback.client.watches import FEATURE, Watches, unsupported
from answerback.core.assembly import AnswerFrame, Broken, Ended, Missing
from answerback.core.uploads import why_not_taken
from answerback.protocol import frames
from answerback.protocol.codec import Data, FrameError, decode_server, encode
from answerback.protocol.errors import ErrorCode

NO_FILES: Final = "This server takes no files. Leave them out, or ask its operator to upgrade it."


class Session:
    """See the module. One instance is one app session; it outlives connections.

    Connections have rising numbers, given by the driver. Answers on an older connection still count (they are
    idempotent), but what such a connection says about itself does not.
    """

    def __init__(
        self,
        *,
        timing: Timing,
        client: frames.ClientInfo | None = None,
        store: str | None = None,
        can_renew: bool = False,
    ) -> None:
        """`store`: the server's store, "" for that of the first server; None: any. `can_renew`: a fresh token can be
        had, so that what is refused for want of one is not over.
        """
        self._timing = timing
        self._store = store
        self._effects: list[Effect] = []
        self._calls = Calls(timing)
        self._liveness = Liveness(timing)
        self._questions = Questions(timing=timing, liveness=self._liveness, calls=self._calls, effects=self._effects)
        self._questions.client = client
        self._watches = Watches(timing=timing, questions=self._questions, effects=self._effects, can_renew=can_renew)
        self._link: int | None = None
        self.stopped: AnswerbackError | None = None
        """Why the session takes no more questions, if so."""
        self._welcome: frames.Welcome | None = None

    @property
    def limits(self) -> frames.ServerLimits | None:
        """What the server allows, once it has said so."""
        return None if self._welcome is None else self._welcome.limits

    @property
    def features(self) -> tuple[str, ...]:
        """What the server understands beyond the first edition of the protocol, once it has said so."""
        return () if self._welcome is None else self._welcome.features

    @property
    def server(self) -> frames.ServerInfo | None:
        """What the server has said of itself."""
        return None if self._welcome is None else self._welcome.server

    @property
    def takes_files(self) -> bool:
        """Whether the server has said that questions may have files."""
        return self._welcome is not None and "attachments" in self._welcome.features

    def model_info(self, name: str | None) -> frames.ModelInfo:
        """What the server has said of a model; None: of its default."""
        welcome = self._welcome
        if welcome is None:
            return frames.ModelInfo()
        return welcome.model_info.get(name or next(iter(welcome.models), ""), frames.ModelInfo())

    @property
    def pending(self) -> int:
        """Questions without an ending."""
        return len(self._questions)

    def last_call_s(self, *, now: float) -> float:
        """In how many seconds to ask the server at the latest, before some question is given up; may be infinite."""
        return self._questions.last_call_s(now=now)

    def due_at(self) -> float | None:
        """When to call `tick`: may be early, never late. None: not before another input."""
        if self.stopped is not None:
            return None
        due = self._questions.due_at()
        for instant in (self._calls.due_at(), self._liveness.due_at(), self._watches.due_at()):
            if instant is not None and (due is None or instant < due):
                due = instant
        return due

    # --- what the application wants ---------------------------------------------------------------------

    def ask(self, frame: frames.SendMessage, timeouts: Timeouts, *, now: float) -> list[Effect]:
        """Take a new question. Raises: the error that stopped the session; ValueError: the id is pending already."""
        self._check_open()
        if self._questions.get(frame.request_id) is not None:
            raise ValueError(f"request {frame.request_id} is pending already; use a new id for each question")
        exchange = self._questions.add(frame, timeouts, now=now)
        self._watches.asked_here(frame.request_id, exchange.key)
        self._hold_or_pump(exchange, now)
        return self._flush()

    def restore(self, pending: PendingRequest, timeouts: Timeouts, *, now: float) -> list[Effect]:
        """Resume a question of an earlier run of the app, under the same session id; its text comes from the start."""
        self._check_open()
        if self._questions.get(pending.frame.request_id) is not None:
            return []
        exchange = self._questions.add(pending.frame, timeouts, now=now)
        exchange.conversation_id = pending.conversation_id
        exchange.was_sent = True  # who kept it may have sent it before a reply came: a cancellation must be sent
        if pending.is_accepted:
            self._questions.accept(exchange, now=now)
            if self._questions.is_open:
                self._questions.hello([exchange], now=now)
        self._hold_or_pump(exchange, now)
        return self._flush()

    def bringing(self, *, now: float) -> list[Effect]:
        """A piece of a file has arrived: a sign for all questions whose files are brought, one after the other."""
        self._questions.bringing(now=now)
        return self._flush()

    def brought(self, request_id: str, *, now: float) -> list[Effect]:
        """A question's files are at the server: it may be sent."""
        if (exchange := self._questions.get(request_id)) is not None:
            self._questions.brought(exchange, now=now)
        return self._flush()

    def not_brought(self, request_id: str, error: AnswerbackError, *, now: float) -> list[Effect]:
        """A question's files cannot be brought: it ends here."""
        if (exchange := self._questions.get(request_id)) is not None:
            self._questions.fail(exchange, error, now=now)
        return self._flush()

    def export(self) -> list[PendingRequest]:
        """Every question without an ending, in the order asked; what `restore` takes."""
        return [exchange.pending for exchange in self._questions]

    def exported(self, request_id: str) -> PendingRequest | None:
        """One of `export`."""
        exchange = self._questions.get(request_id)
        return None if exchange is None else exchange.pending

    def cancel(self, request_id: str, conversation_id: str | None = None, *, now: float) -> list[Effect]:
        """Stop a question. Its ending comes from the server, and may still be the whole answer.

        One that was never sent ends here. An unknown or ended one is left alone. `conversation_id`: of one that another
        session may have asked. Raises: RequestFailed: the server does not know that.
        """
        exchange = self._questions.get(request_id)
        if exchange is None and conversation_id is not None:
            self._check_watch()
            self._watches.cancel(request_id, conversation_id, now=now)
            return self._flush()
        if exchange is None or exchange.is_cancelled:
            return []
        exchange.is_cancelled = True
        if not exchange.was_sent:
            self._questions.fail(exchange, RequestCancelled(exchange.so_far), now=now)
        elif self._questions.is_open:
            self._effects.append(Send(frames.CancelMessage(request_id=request_id)))
            self._questions.restart_timers(exchange, now=now)
        return self._flush()

    def abandon(self, request_id: str, *, now: float) -> list[Effect]:
        """Nobody waits for this question any more: it ends here as cancelled, and the server stops it."""
        exchange = self._questions.get(request_id)
        if exchange is not None:
            self._questions.request_stop(exchange, now=now)
            self._questions.fail(exchange, RequestCancelled(exchange.so_far), now=now)
        return self._flush()

    def watch(self, conversation_id: str | None, *, after: str | None = None, now: float) -> list[Effect]:
        """Show what other sessions of the user ask in a conversation, or how the list of conversations changes.

        `Show`, `WatchHeld` and `WatchFailed` tell. `after`: the newest turn that the app has; those after it are shown.
        What is watched already is left alone. Raises: RequestFailed: the server does not know that.
        """
        self._check_watch()
        if conversation_id not in self._watches:
            self._watches.watch(conversation_id, after=after, now=now)
        return self._flush()

    def unwatch(self, conversation_id: str | None) -> list[Effect]:
        """Watch it no longer."""
        self._watches.unwatch(conversation_id)
        return self._flush()

    def shown_so_far(self, conversation_id: str) -> list[Watched]:
        """The answers under way in a conversation that is watched, for one more reader of it."""
        return self._watches.so_far(conversation_id)

    def call(self, request_id: str, frame: CallFrame | frames.Ping, *, timeout_s: float, now: float) -> list[Effect]:
        """Ask about conversations, renew the token, measure a round trip: `Reply`, `RoundTrip` or `ReplyFailed`."""
        self._check_open()
        if self._link is not None and isinstance(frame, frames.Ping):
            self._liveness.asked(now=now)
        return self._calls.call(request_id, frame, timeout_s=timeout_s, now=now)

    def drop_call(self, request_id: str) -> None:
        """Forget a call whose caller has gone."""
        self._calls.drop(request_id)

    def stop(self, error: AnswerbackError) -> list[Effect]:
        """Give up everything with `error`: closed, replaced, or refused for good. Once."""
        if self.stopped is None:
            self._stop(error)
        return self._flush()

    # --- what happens to connections --------------------------------------------------------------------

    def connected(self, link: int, *, now: float) -> list[Effect]:
        """A connection is open: greet, resume what was accepted, send again what was not."""
        if self.stopped is not None:
            return []
        self._link = link
        self._liveness.opened(now=now)
        self._watches.lost()  # until the server has said whether it can be watched
        if self._store:  # another one would not know what is resumed, and would take what is sent again
            self._questions.lost()
            self._calls.lost()
            self._questions.hello([], now=now)
        else:
            self._begin(now)
        return self._flush()

    def disconnected(self, link: int, *, now: float, too_large: bool = False) -> list[Effect]:
        """A connection is gone; one that was given up is not news.

        `too_large`: the other side closed it because of a message's size (1009).
        """
        if link != self._link:
            return []
        sent = [exchange for exchange in self._questions if exchange.phase is Phase.SENT]
        self._lose_link()
        if too_large and sent:
            # Sent again it would close every connection: the largest one is the one that was refused.
            culprit = max(sent, key=lambda exchange: len(exchange.frame.message))
            self._questions.fail(culprit, MessageTooLarge(len(encode(culprit.frame)), None), now=now)
        return self._flush()

    def probe(self, *, now: float) -> list[Effect]:
        """The machine slept, or the network changed: find out at once whether the connection is still good."""
        if self._questions.is_open:
            accepted = (e for e in self._questions if e.phase is Phase.ACCEPTED and e.hello_id is None)
            self._questions.hello(list(accepted), now=now)
        return self._flush()

    def received(self, link: int, data: Data, *, now: float) -> list[Effect]:
        """One message of a connection. Never raises for what it says."""
        if self.stopped is not None:
            return []
        if link == self._link:
            self._liveness.received(now=now)
        try:
            frame = decode_server(data)
        except FrameError as exc:
            self._take_broken(exc, now)
        else:
            if frame is not None:
                self._take(link, frame, now)
        return self._flush()

    def tick(self, *, now: float) -> list[Effect]:
        """Do what is due by now."""
        if self.stopped is not None:
            return []
        self._questions.expire(now=now)
        if self._link is None or self._is_link_good(now):
            self._questions.tick(now=now)
            self._effects.extend(self._calls.tick(now=now))
            self._watches.tick(now=now)
        return self._flush()

    # --- frames -----------------------------------------------------------------------------------------

    def _take(self, link: int, frame: frames.ServerFrame, now: float) -> None:
        match frame:
            case frames.MessageAccepted():
                self._take_accepted(frame, now)
            case frames.MessageStarted() | frames.MessageDelta() | frames.MessageResponse():
                self._take_answer(frame, now)
            case frames.MessageProgress():
                self._take_progress(frame, now)
            case frames.MessageAsked():
                # A late one of an older connection may be of an answer that has ended there.
                if link == self._link:
                    self._watches.asked(frame, now=now)
            case frames.Watching() | frames.ConversationChanged():
                self._watches.take(frame, now=now)
            case _ if isinstance(frame, ReplyFrame):
                self._effects.extend(self._calls.answered(frame))
                if isinstance(frame, frames.History):
                    self._watches.take(frame, now=now)
            case frames.Error():
                self._take_error(link, frame, now)
            case frames.Welcome() | frames.Pong() | frames.GoAway():
                if link == self._link:
                    self._take_own(frame, now)

    def _take_own(self, frame: frames.Welcome | frames.Pong | frames.GoAway, now: float) -> None:
        """What the present connection says about itself."""
        match frame:
            case frames.Welcome():
                if self._is_our_store(frame.server):
                    self._take_welcome(frame, now)
            case frames.Pong():
                self._effects.extend(self._calls.pong(now=now))
            case frames.GoAway():
                self._effects.append(Replace(frame.deadline_ms / 1000))

    def _take_welcome(self, welcome: frames.Welcome, now: float) -> None:
        is_first, self._welcome = self._welcome is None, welcome
        every_ms = welcome.limits.progress_ms
        self._questions.progress_s = None if every_ms is None else every_ms / 1000
        self._effects.append(Ready(welcome))
        self._questions.welcomed(welcome.hello_id, now=now)
        if not self._questions.is_open:
            self._begin(now)
        if not self._watches.is_open:
            self._watches.opened(welcome, now=now)
        for exchange in self._questions if is_first else ():  # what files it takes was not known before
            if exchange.is_held:
                self._hold_or_pump(exchange, now)

    def _take_broken(self, broken: FrameError, now: float) -> None:
        """A frame that cannot be read ends what it is about: it would come again at every resend."""
        request_id = broken.request_id or ""
        error = ProtocolViolation(request_id, broken.detail)
        exchange = None if broken.action in (None, "messageProgress") else self._questions.get(request_id)
        if exchange is not None:
            self._questions.request_stop(exchange, now=now)
            self._questions.fail(exchange, error, now=now)
        elif broken.action not in (None, "messageProgress") and self._watches.broken(request_id, error, now=now):
            pass
        elif broken.action is None or (effects := self._calls.broken(request_id, error)) is None:
            self._effects.append(Note(str(broken)))  # API Gateway reports failures in messages that have no action
            self._questions.probe_soon(now=now)
        else:
            self._effects.extend(effects)

    def _take_accepted(self, frame: frames.MessageAccepted, now: float) -> None:
        exchange = self._questions.get(frame.request_id)
        if exchange is not None:
            exchange.conversation_id = frame.conversation_id
            self._watches.asked_here(frame.request_id, frame.conversation_id)
            self._questions.accept(exchange, now=now)
            event = Queued(position=frame.position, conversation_id=frame.conversation_id)
            self._questions.emit(exchange, event)

    def _take_progress(self, frame: frames.MessageProgress, now: float) -> None:
        """A sign of life. It says nothing of the text, and a late one of an older attempt says nothing at all."""
        exchange = self._questions.get(frame.request_id)
        if exchange is None:
            self._watches.answered(frame, now=now)
            return
        if 0 < frame.attempt < exchange.assembly.attempt:
            return
        self._questions.accept(exchange, now=now)
        if frame.attempt:
            self._questions.emit(exchange, Thinking(frame.silent_ms / 1000))

    def _take_answer(self, frame: AnswerFrame, now: float) -> None:
        exchange = self._questions.get(frame.request_id)
        if exchange is None:
            if isinstance(frame, frames.MessageResponse):
                self._calls.ending_received(frame.request_id)
            self._watches.answered(frame, now=now)
            return
        assembly = exchange.assembly
        before = (assembly.attempt, assembly.length)
        missing = False
        for event in assembly.receive(frame):
            match event:
                case Ended():
                    self._end(exchange, event, now)
                    return
                case Broken():
                    self._questions.request_stop(exchange, now=now)
                    error = ProtocolViolation(exchange.request_id, event.detail)
                    self._questions.fail(exchange, error, now=now)
                    return
                case Missing():
                    missing = True
                case _:
                    self._questions.emit(exchange, event)
        self._questions.accept(exchange, now=now)  # whatever it is, the server knows the question
        if missing:
            self._questions.want_resume(exchange, now=now)
        elif (assembly.attempt, assembly.length) != before:
            self._questions.got_text(exchange, now=now)

    def _end(self, exchange: Exchange, ended: Ended, now: float) -> None:
        outcome = outcome_of(ended, exchange.conversation_id)
        if isinstance(outcome, Answer):
            self._questions.emit(exchange, Done(outcome))
            self._questions.drop(exchange, now=now)
        else:
            self._questions.fail(exchange, outcome, now=now)

    def _take_error(self, link: int, error: frames.Error, now: float) -> None:
        if error.code is ErrorCode.SESSION_REPLACED:
            if link == self._link:
                self._stop(SessionReplaced())
            return
        if error.code is ErrorCode.FORBIDDEN and error.request_id is None:  # of the whole connection, not of a call
            if link == self._link:
                self._stop(Forbidden(error.message.rstrip(".")))
            return
        if (effects := self._calls.refused(error, now=now)) is not None:
            self._effects.extend(effects)
        elif (exchange := self._questions.get(error.request_id)) is not None:
            self._questions.refused(exchange, error, now=now)
        elif not self._watches.refused(error, now=now):
            self._effects.append(Note(f"{error.code}: {error.message}"))

    # --- inside -----------------------------------------------------------------------------------------

    def _hold_or_pump(self, exchange: Exchange, now: float) -> None:
        if exchange.is_held and exchange.phase is Phase.WAITING and self._welcome is not None:
            self._want_files(exchange, now)
        self._questions.pump(exchange.key, now=now)

    def _want_files(self, exchange: Exchange, now: float) -> None:
        """Have a question's files brought, if server and model take them."""
        kinds = self.model_info(exchange.frame.model).attachments
        why = why_not_taken(exchange.frame.attachments, kinds) if kinds else None
        if not self.takes_files:
            why = NO_FILES
        if why is None:
            self._questions.hold(exchange)
        else:
            error = request_failed(ErrorCode.FORBIDDEN, why, request_id=exchange.request_id)
            self._questions.fail(exchange, error, now=now)

    def _is_link_good(self, now: float) -> bool:
        """No `welcome`, or nothing at all, means another connection; what else is due is done on that one."""
        reason = self._liveness.failure(now=now)
        if reason is not None:
            self._effects.append(Reconnect(reason))
            self._lose_link()
            return False
        if self._liveness.wants_hello():
            self._questions.hello([], now=now)
        elif self._liveness.wants_ping(now=now):
            self._effects.extend(self._calls.ping(now=now))
            self._liveness.asked(now=now)
        return True

    def _begin(self, now: float) -> None:
        self._questions.opened(now=now)
        self._effects.extend(self._calls.opened(now=now))

    def _is_our_store(self, server: frames.ServerInfo | None) -> bool:
        """Whether it is the one expected, as far as the server says; if not, the session is stopped."""
        if self._store is None or server is None or server.store_id is None:
            return True
        if self._store and self._store != server.store_id:
            self._stop(StoreChanged(server.store_id))
            return False
        self._store = server.store_id
        return True

    def _lose_link(self) -> None:
        self._link = None
        self._liveness.lost()
        self._questions.lost()
        self._calls.lost()
        self._watches.lost()

    def _check_watch(self) -> None:
        self._check_open()
        if self._welcome is not None and FEATURE not in self._welcome.features:
            raise unsupported()

    def _check_open(self) -> None:
        if self.stopped is not None:
            raise self.stopped.with_traceback(None)

    def _stop(self, error: AnswerbackError) -> None:
        self.stopped = error
        self._link = None
        self._effects.append(Stop(error))
        self._questions.stop(error)
        self._effects.extend(self._calls.stop(error))
        self._watches.stop(error)

    def _flush(self) -> list[Effect]:
        effects = self._effects.copy()
        self._effects.clear()
        return effects
