"""Target `session`: the client's state machine between an application, a clock, and servers honest or not."""

from answerback.client.effects import (
    Effect,
    Emit,
    Fail,
    Reconnect,
    Reply,
    ReplyFailed,
    RoundTrip,
    Send,
    Show,
    Stop,
    WatchFailed,
)
from answerback.client.errors import AnswerbackError, Closed, RequestFailed
from answerback.client.events import Asked, Done, Failed, Restarted, Text, TurnsMissed, Watched
from answerback.client.exchange import Timeouts
from answerback.client.session import Session
from answerback.client.timing import Timing
from answerback.protocol.codec import FrameError, decode_client, decode_server, encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Error,
    GetHistory,
    Hello,
    History,
    MessageAccepted,
    MessageAsked,
    Ping,
    Pong,
    SendMessage,
    ServerFrame,
    ServerLimits,
    Status,
    Turn,
    Watching,
    Welcome,
)
from harness.reading import Script
from harness.truth import IDS, honest, truth

_CODES = tuple(code for code in ErrorCode if code is not ErrorCode.SESSION_REPLACED)
_LIMITS = ServerLimits(
    max_message_bytes=1_000,
    max_frame_bytes=1_000,
    max_answer_bytes=1_000,
    requests_per_minute=0,
    max_pending=9,
    max_tokens=9,
    idle_timeout_ms=9,
    answer_timeout_ms=120_000,
    queue_timeout_ms=600_000,
)


def session(data: bytes) -> None:
    """It never raises, shows no text of another request, ends each question once, and never storms."""
    world = _World(Script(data))
    while world.script and world.session.stopped is None:
        world.step()
    world.carry_out(world.session.stop(Closed()))
    assert not world.open, "a question without an ending"
    assert not world.calls, "a call without an ending"
    assert not world.watched, "a watch without an end"


class _Shown:
    """What the application has seen of one question, and what was said about it on the wire."""

    def __init__(self, *, streamed: bool) -> None:
        self.streamed = streamed
        self.text = ""
        self.attempt = 0
        self.is_honest = True
        self.said: list[str] = []


class _World:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.session = Session(timing=Timing())
        self.now = 1_000.0
        self.link = 0
        self.is_linked = False
        self.open: dict[str, _Shown] = {}
        self.calls: set[str] = set()
        self.watched: set[str | None] = set()
        self.followed: dict[str | None, dict[str, str]] = {}
        self.pages = 0
        self.hello_id = "none"

    def step(self) -> None:
        """One thing that happens."""
        match self.script.byte() % 16:
            case 0 | 1:
                self._ask()
            case 2:
                self.link += 1
                self.is_linked = True
                self.carry_out(self.session.connected(self.link, now=self.now))
            case 3:
                too_large = bool(self.script.byte() & 1)
                self.carry_out(self.session.disconnected(self.link, now=self.now, too_large=too_large))
                self.is_linked = False
            case 4 | 5:
                self.now += self.script.byte() / 8
                self._tick()
            case 6:
                self.carry_out(self.session.cancel(self.script.pick(IDS), now=self.now))
            case 7:
                self.carry_out(self.session.abandon(self.script.pick(IDS), now=self.now))
            case 8:
                self._call()
            case 9:
                self.carry_out(self.session.probe(now=self.now))
            case 10:
                self._receive(self.script.block())
            case 12:
                self._watch()
            case 11:
                self._receive(encode(self._gossip()))
            case _:
                request_id = self.script.pick(IDS)
                shown = self.open.get(request_id)
                self._receive(encode(honest(self.script, request_id, streamed=shown is None or shown.streamed)))
        self._check_pending()

    def _ask(self) -> None:
        request_id = self.script.pick(IDS)
        if request_id in self.open:
            return
        streamed = bool(self.script.byte() & 1)
        frame = SendMessage(
            request_id=request_id,
            message="?",
            stream=streamed,
            conversation_id=self.script.pick((None, None, "k")),
        )
        self.open[request_id] = _Shown(streamed=streamed)
        timeouts = Timeouts(total_s=750.0, silence_s=30.0) if streamed else Timeouts(total_s=30.0)
        self.carry_out(self.session.ask(frame, timeouts, now=self.now))

    def _call(self) -> None:
        request_id = f"call-{self.script.byte() % 3}"
        if request_id in self.calls:
            return
        frame = self.script.pick((Ping(), GetHistory(request_id=request_id, conversation_id="k")))
        self.calls.add(request_id)
        self.carry_out(self.session.call(request_id, frame, timeout_s=30.0, now=self.now))

    def _watch(self) -> None:
        conversation_id = self.script.pick((None, "k", "l"))
        try:
            match self.script.byte() % 4:
                case 0:
                    self.watched.discard(conversation_id)
                    self.followed.pop(conversation_id, None)
                    self.carry_out(self.session.unwatch(conversation_id))
                case 1:
                    self.carry_out(self.session.cancel(self.script.pick(IDS), "k", now=self.now))
                case _:
                    effects = self.session.watch(conversation_id, now=self.now)
                    self.watched.add(conversation_id)
                    self.carry_out(effects)
        except RequestFailed:
            assert "watch" not in self.session.features

    def _gossip(self) -> ServerFrame:
        """Frames that are no answers."""
        request_id = self.script.pick((*IDS, "call-0", "call-1", None, "nobody"))
        match self.script.byte() % 7:
            case 4:
                return MessageAsked(
                    request_id=self.script.pick((*IDS, "e", "f")),
                    conversation_id=self.script.pick(("k", "l")),
                    question="?",
                    model="m",
                    accepted_at="",
                )
            case 5:
                number = self.script.byte() % 8
                turn = self.script.pick((None, *IDS))
                conversation_id = self.script.pick((None, "k", "l"))
                return Watching(request_id=f"watch-{number}", conversation_id=conversation_id, number=number, turn=turn)
            case 6:
                found = self.script.pick((*IDS, "e", "f"))
                turn_of = Turn(
                    request_id=found,
                    question="?",
                    answer=truth(found, 1),
                    status=self.script.pick((Status.COMPLETED, Status.FAILED)),
                    asked_at="",
                    answered_at="",
                )
                page_id = f"turns-{self.pages}"
                return History(
                    request_id=page_id, conversation_id="k", turns=(turn_of,), next=self.script.pick((None, "p"))
                )
            case 0:
                return MessageAccepted(request_id=request_id or "a", conversation_id="k", position=self.script.byte())
            case 1:
                return Welcome(
                    hello_id=self.script.pick((self.hello_id, self.hello_id, "hello-1")),
                    connection_id="c",
                    session_id="s",
                    user_id="u",
                    protocol=1,
                    limits=_LIMITS,
                    models=("m",),
                    features=self.script.pick((("watch",), ("watch",), ())),
                )
            case 2:
                pause_ms = self.script.pick((None, 0, 1_000, 2**53 - 1))
                return Error(
                    code=self.script.pick(_CODES), message="no", request_id=request_id, retry_after_ms=pause_ms
                )
            case _:
                return Pong()

    def _receive(self, data: bytes) -> None:
        self._note(data)
        link = self.link - (self.script.byte() == 255)
        self.carry_out(self.session.received(link, data, now=self.now))

    def _note(self, data: bytes) -> None:
        """Remember what was said about whom, and whether an honest server could say it."""
        try:
            frame = decode_server(data)
        except FrameError:
            return
        shown = self.open.get(getattr(frame, "request_id", None) or "")
        if shown is None:
            return
        text = getattr(frame, "delta", None) or getattr(frame, "response", None)
        attempt = getattr(frame, "attempt", 1)
        offset = getattr(frame, "offset", 0)
        if isinstance(text, str):
            shown.said.append(text)
            name = str(getattr(frame, "request_id", ""))
            whole = truth(name, attempt) if attempt < 1_000 else ""
            shown.is_honest &= whole[offset : offset + len(text)] == text
        if getattr(frame, "length", None) is not None:
            length = len(truth(str(getattr(frame, "request_id", "")), attempt)) if attempt < 1_000 else -1
            shown.is_honest &= getattr(frame, "length", None) == length

    def _tick(self) -> None:
        for _ in range(50):
            self.carry_out(self.session.tick(now=self.now))
            due_at = self.session.due_at()
            if due_at is None or due_at > self.now:
                return
        raise AssertionError("something is always due: the driver would spin")

    def carry_out(self, effects: list[Effect]) -> None:
        """What a driver and an application see."""
        assert len(effects) < 200
        for effect in effects:
            match effect:
                case Send(frame):
                    assert self.is_linked, "a frame for no connection"
                    assert decode_client(encode(frame)) == frame
                    if isinstance(frame, Hello):
                        self.hello_id = frame.hello_id
                    elif isinstance(frame, GetHistory) and frame.request_id.startswith("turns-"):
                        self.pages = int(frame.request_id.removeprefix("turns-"))
                case Show(conversation_id, item):
                    assert conversation_id in self.watched, "shown, and not watched"
                    if isinstance(item, Watched):
                        self._follow(self.followed.setdefault(conversation_id, {}), item)
                case WatchFailed(conversation_id):
                    self.watched.remove(conversation_id)
                    self.followed.pop(conversation_id, None)
                case Emit(request_id, event):
                    self._show(request_id, event)
                case Fail(request_id, error):
                    self._end(request_id, error)
                case Reply(request_id) | ReplyFailed(request_id) | RoundTrip(request_id):
                    self.calls.remove(request_id)
                case Reconnect() | Stop():
                    self.is_linked = False
                case _:
                    pass

    def _show(self, request_id: str, event: object) -> None:
        shown = self.open[request_id]
        match event:
            case Restarted(attempt):
                shown.text = ""
                shown.attempt = attempt
            case Text():
                assert event.offset == len(shown.text)
                assert any(event.delta in said for said in shown.said), "text that nobody said about this request"
                shown.text += event.delta
                if shown.is_honest:
                    assert any(truth(request_id, attempt).startswith(shown.text) for attempt in (1, 2, 3))
            case Done(answer):
                assert answer.request_id == request_id
                assert answer.text == shown.text
                if shown.is_honest:
                    assert answer.text == truth(request_id, answer.attempt)
                del self.open[request_id]
            case _:
                pass

    def _follow(self, followed: dict[str, str], item: Watched) -> None:
        """One thing after the other, from the question to the one ending."""
        request_id, event = item
        match event:
            case TurnsMissed():
                pass
            case Asked():
                assert request_id not in followed
                followed[request_id] = ""
            case Restarted():
                followed[request_id] = ""
            case Text():
                assert event.offset == len(followed[request_id])
                followed[request_id] += event.delta
            case Done(answer):
                assert followed.pop(request_id) == answer.text
            case Failed():
                del followed[request_id]
            case _:
                assert request_id in followed

    def _end(self, request_id: str, error: AnswerbackError) -> None:
        assert str(error)
        del self.open[request_id]

    def _check_pending(self) -> None:
        assert self.session.pending == len(self.open)
        assert {pending.frame.request_id for pending in self.session.export()} == set(self.open)
