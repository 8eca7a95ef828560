"""A client's session with a clock in the test's hand, and the frames that a gateway sends it. No sockets."""

from msgspec.structs import replace

from answerback.client.effects import Emit, Fail, Send, Show
from answerback.client.exchange import Timeouts
from answerback.client.session import Session
from answerback.client.timing import Timing
from answerback.protocol.codec import encode
from answerback.protocol.errors import ERRORS
from answerback.protocol.frames import (
    CancelMessage,
    Error,
    ErrorBody,
    Hello,
    MessageAccepted,
    MessageDelta,
    MessageProgress,
    MessageResponse,
    SendMessage,
    ServerInfo,
    ServerLimits,
    Status,
    Watch,
    Welcome,
)

ASK = Timeouts(total_s=30)
STREAM = Timeouts(total_s=700, silence_s=30)
PATIENT = Timeouts(total_s=750, silence_s=30, from_call=True)
LIMITS = ServerLimits(
    max_message_bytes=1,
    max_frame_bytes=1,
    max_answer_bytes=1,
    requests_per_minute=1,
    max_pending=1,
    max_tokens=1,
    idle_timeout_ms=1,
    answer_timeout_ms=120_000,
    queue_timeout_ms=600_000,
)


def question(rid, *, stream=False, conversation=None, message="?", parts=()):
    return SendMessage(request_id=rid, message=message, stream=stream, conversation_id=conversation, parts=parts)


def accepted(rid, position=0):
    return MessageAccepted(request_id=rid, conversation_id="c", position=position)


def delta(rid, offset, text, attempt=1):
    return MessageDelta(request_id=rid, attempt=attempt, offset=offset, delta=text)


def end(rid, length=0, *, text=None, attempt=1, status=Status.COMPLETED, code=None, retry_after_ms=None):
    error = None
    if code is not None:
        info = ERRORS[code]
        error = ErrorBody(code=code, message=info.message, retryable=info.retryable, retry_after_ms=retry_after_ms)
    length = length if text is None else len(text)
    return MessageResponse(request_id=rid, status=status, response=text, attempt=attempt, length=length, error=error)


def sign(rid, silent_ms=8000, attempt=1):
    return MessageProgress(request_id=rid, attempt=attempt, silent_ms=silent_ms)


def error(code, rid=None, *, retry_after_ms=None):
    return Error(code=code, message="Said by the server.", request_id=rid, retry_after_ms=retry_after_ms)


class Script:
    """A session with a clock in the test's hand; `link` is the connection that frames come on."""

    def __init__(self, *, store=None, can_renew=False, **timing):
        self.session = Session(timing=Timing(**timing), store=store, can_renew=can_renew)
        self.now = 0.0
        self.link = 0

    def ask(self, rid, timeouts=ASK, **more):
        stream = timeouts.silence_s is not None and not timeouts.from_call
        return self.session.ask(question(rid, stream=stream, **more), timeouts, now=self.now)

    def connect(self):
        self.link += 1
        return self.session.connected(self.link, now=self.now)

    def lose(self, **how):
        return self.session.disconnected(self.link, now=self.now, **how)

    def hear(self, *frames, link=None):
        """Frames, or messages as they come."""
        effects = []
        for frame in frames:
            link = self.link if link is None else link
            data = frame if isinstance(frame, str | bytes) else encode(frame)
            effects += self.session.received(link, data, now=self.now)
        return effects

    def welcome(self, hello, progress_ms=None, store_id=None, features=(), model_info=None):
        return self.hear(
            Welcome(
                hello_id=hello.hello_id,
                connection_id="c",
                session_id="s",
                user_id="u",
                protocol=1,
                limits=replace(LIMITS, progress_ms=progress_ms),
                models=("m",),
                features=features,
                model_info=model_info or {},
                server=ServerInfo(version="9", store_id=store_id),
            )
        )

    def wait(self, until):
        """Let time pass, ticking whenever the session wants it."""
        effects = []
        for _ in range(1000):
            due = self.session.due_at()
            if due is None or due > until:
                self.now = until
                return effects
            self.now = max(self.now, due)
            effects += self.session.tick(now=self.now)
        raise AssertionError("the session wants to be called for ever")


def sent(effects):
    """The frames to send, in short."""
    shown = []
    for effect in effects:
        if isinstance(effect, Send):
            match effect.frame:
                case SendMessage(request_id=rid):
                    shown.append(f"ask {rid}")
                case CancelMessage(request_id=rid):
                    shown.append(f"cancel {rid}")
                case Hello(resume=resume):
                    shown.append(" ".join(["hello", *(f"{p.request_id}@{p.attempt}:{p.offset}" for p in resume)]))
                case Watch(conversation_id=conversation, number=number, off=off, resume=resume):
                    points = (f"{p.request_id}@{p.attempt}:{p.offset}" for p in resume)
                    shown.append(
                        " ".join(["unwatch" if off else "watch", conversation or "list", str(number), *points])
                    )
                case frame:
                    shown.append(type(frame).__name__)
    return shown


def hellos(effects):
    return [e.frame for e in effects if isinstance(e, Send) and isinstance(e.frame, Hello)]


def events(effects):
    return [e.event for e in effects if isinstance(e, Emit)]


def watched(effects):
    """What is shown of watched conversations, and of the list."""
    return [e.item for e in effects if isinstance(e, Show)]


def failures(effects):
    return {e.request_id: type(e.error) for e in effects if isinstance(e, Fail)}


def connected(progress_ms=None, features=(), **timing):
    """A script with a connection that has been welcomed."""
    script = Script(**timing)
    (hello,) = hellos(script.connect())
    script.welcome(hello, progress_ms, features=features)
    return script
