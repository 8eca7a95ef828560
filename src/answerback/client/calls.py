"""What the session asks besides questions: calls about conversations, round trips, and stops that must arrive."""

from collections import deque
from dataclasses import dataclass
from typing import Final, TypeAlias

from answerback.client.effects import Effect, Reply, ReplyFailed, ReplyFrame, RoundTrip, Send
from answerback.client.errors import AnswerbackError, RequestTimeout, request_failed
from answerback.client.timing import Timing
from answerback.protocol import frames
from answerback.protocol.errors import ErrorCode

CallFrame: TypeAlias = (
    frames.ListConversations
    | frames.GetHistory
    | frames.UpdateConversation
    | frames.PutPiece
    | frames.GetAttachment
    | frames.RenewToken
    | frames.GetBudget
)

_STOP_TRIES: Final = 4


@dataclass(slots=True, eq=False, kw_only=True)
class _Call:
    """Repeated until it is answered or late. `frame` is a `Ping` for a round trip. `send_at` None: not on the way."""

    frame: CallFrame | frames.Ping
    deadline: float
    timeout_s: float
    send_at: float | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class _Stopping:
    """A request that was given up, or a watched one. `send_at` None: waits for a connection."""

    frame: frames.CancelMessage
    send_at: float | None = None
    tries_left: int = _STOP_TRIES


class Calls:
    """Pure; `Session` drives it. All calls may be repeated safely: they read, or set what they set before."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._calls: dict[str, _Call] = {}
        self._stopping: dict[str, _Stopping] = {}
        self._pings: deque[tuple[str | None, float]] = deque()
        self._is_open = False

    def due_at(self) -> float | None:
        """When `tick` has something to do."""
        if not self._calls and not self._stopping:
            return None
        instants = [call.deadline for call in self._calls.values()]
        if self._is_open:
            instants += [call.send_at for call in self._calls.values() if call.send_at is not None]
            instants += [stop.send_at for stop in self._stopping.values() if stop.send_at is not None]
        return min(instants, default=None)

    def call(self, request_id: str, frame: CallFrame | frames.Ping, *, timeout_s: float, now: float) -> list[Effect]:
        """Begin a call."""
        call = _Call(frame=frame, deadline=now + timeout_s, timeout_s=timeout_s)
        self._calls[request_id] = call
        return [self._send(request_id, call, now)] if self._is_open else []

    def ping(self, *, now: float) -> list[Effect]:
        """Send a ping without waiting for its answer."""
        self._pings.append((None, now))
        return [Send(frames.Ping())]

    def drop(self, request_id: str) -> None:
        """Forget a call whose caller has gone."""
        self._calls.pop(request_id, None)

    def request_stop(self, request_id: str, conversation_id: str | None = None, *, now: float) -> list[Effect]:
        """Have the server stop a request that was given up. Repeated until it says how that request ended.

        `conversation_id`: of a request that another session has asked.
        """
        stopping = _Stopping(frame=frames.CancelMessage(request_id=request_id, conversation_id=conversation_id))
        self._stopping[request_id] = stopping
        return [self._send_stop(stopping, now)] if self._is_open else []

    def ending_received(self, request_id: str) -> None:
        """The server has said how a request ended that we gave up."""
        self._stopping.pop(request_id, None)

    def opened(self, *, now: float) -> list[Effect]:
        """There is a new connection: send everything again, except what belonged to the old one."""
        self._is_open = True
        self._pings.clear()
        effects: list[Effect] = [self._send_stop(stopping, now) for stopping in self._stopping.values()]
        for request_id, call in self._calls.items():
            if not isinstance(call.frame, frames.RenewToken):  # a new connection has a token of its own
                effects.append(self._send(request_id, call, now))
        return effects

    def lost(self) -> None:
        """There is no connection any more."""
        self._is_open = False
        self._pings.clear()
        for call in self._calls.values():
            call.send_at = None
        for stopping in self._stopping.values():
            stopping.send_at = None

    def answered(self, frame: ReplyFrame) -> list[Effect]:
        """The answer to a call."""
        if self._calls.pop(frame.request_id, None) is None:
            return []
        return [Reply(frame.request_id, frame)]

    def broken(self, request_id: str, error: AnswerbackError) -> list[Effect] | None:
        """An answer to a call that cannot be read; None if it is about none of them."""
        return None if self._calls.pop(request_id, None) is None else [ReplyFailed(request_id, error)]

    def pong(self, *, now: float) -> list[Effect]:
        """The answer to the oldest ping of this connection."""
        if not self._pings:
            return []
        request_id, sent_at = self._pings.popleft()
        if request_id is None or self._calls.pop(request_id, None) is None:
            return []
        return [RoundTrip(request_id, now - sent_at)]

    def refused(self, error: frames.Error, *, now: float) -> list[Effect] | None:
        """An error about a call; None if it is about none of them."""
        request_id = error.request_id
        if error.code is ErrorCode.UNKNOWN_REQUEST and request_id in self._stopping:
            del self._stopping[request_id]  # of a watched one: there is nothing to stop
            return []
        call = None if request_id is None else self._calls.get(request_id)
        if call is None or request_id is None:
            return None
        if error.code is ErrorCode.UNAVAILABLE:
            pause_s = self._timing.resend_s if error.retry_after_ms is None else error.retry_after_ms / 1000
            call.send_at = now + pause_s
            return []
        del self._calls[request_id]
        failure = request_failed(error.code, error.message, retry_after_ms=error.retry_after_ms, request_id=request_id)
        return [ReplyFailed(request_id, failure)]

    def tick(self, *, now: float) -> list[Effect]:
        """Give up what is late, repeat what is silent."""
        effects: list[Effect] = []
        for request_id, call in list(self._calls.items()):
            if now >= call.deadline:
                del self._calls[request_id]
                effects.append(ReplyFailed(request_id, RequestTimeout(request_id, call.timeout_s)))
            elif self._is_open and call.send_at is not None and now >= call.send_at:
                effects.append(self._send(request_id, call, now))
        for request_id, stopping in list(self._stopping.items()):
            if not self._is_open or stopping.send_at is None or now < stopping.send_at:
                continue
            if stopping.tries_left <= 0:
                del self._stopping[request_id]
            else:
                effects.append(self._send_stop(stopping, now))
        return effects

    def stop(self, error: AnswerbackError) -> list[Effect]:
        """End every call with `error`."""
        effects: list[Effect] = [ReplyFailed(request_id, error) for request_id in self._calls]
        self._calls.clear()
        self._stopping.clear()
        return effects

    def _send(self, request_id: str, call: _Call, now: float) -> Effect:
        call.send_at = now + self._timing.silence_s
        if isinstance(call.frame, frames.Ping):
            self._pings.append((request_id, now))
        return Send(call.frame)

    def _send_stop(self, stopping: _Stopping, now: float) -> Effect:
        stopping.tries_left -= 1
        stopping.send_at = now + self._timing.silence_s
        return Send(stopping.frame)
