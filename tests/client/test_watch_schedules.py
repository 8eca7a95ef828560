"""A watcher over a network that loses, repeats, delays and reorders: each turn of others once, with the stored text."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from answerback.client.effects import Emit, Fail, Reconnect, Send, Show
from answerback.client.events import Asked, Done, Failed, Restarted, Text
from answerback.client.exchange import Timeouts
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    CancelMessage,
    GetHistory,
    Hello,
    History,
    MessageAsked,
    MessageResponse,
    SendMessage,
    Status,
    Turn,
    Watch,
    Watching,
)
from session_script import Script, accepted, delta, end, error

WORDS = ("one ", "둘 ", "tre ", "😀 ")


class Asking:
    """A request at the server. `attempt` 0: it waits. Its answer grows until it has ended."""

    def __init__(self, rid, *, is_own, streams):
        self.rid, self.is_own, self.streams = rid, is_own, streams
        self.attempt = 0
        self.text = ""
        self.status = None


class Server:
    """What a server owes to a watcher (PROTOCOL.md, section 5.7), and nothing more."""

    def __init__(self, rng):
        self.rng = rng
        self.cancels = False
        self.asked = []
        self.numbers = {}
        self.held = None  # the connection that the entry names
        self.to_send = []

    def ask(self, rid, *, is_own):
        if all(one.rid != rid for one in self.asked):
            self.asked.append(Asking(rid, is_own=is_own, streams=is_own or self.rng.random() < 0.8))

    def running(self):
        return [one for one in self.asked if one.attempt and one.status is None]

    def tell(self, *frames, link=None):
        link = self.held if link is None else link
        if link is not None:
            self.to_send += [(link, frame) for frame in frames]

    def step(self):
        """A worker does something: one request of the conversation at a time."""
        if (waiting := [one for one in self.asked if one.status is None]) and not self.running():
            one = self.rng.choice(waiting[:2]) if self.cancels and self.rng.random() < 0.2 else waiting[0]
            if one is not waiting[0]:  # cancelled while it waits: its turn is stored before an earlier one
                one.status = Status.CANCELLED
                self.tell(*self.rest(one, 0, 0))
                return
            self.begin(one)
            return
        for one in self.running():
            chance = self.rng.random()
            if chance < 0.05:
                self.begin(one)
            elif chance < 0.25:
                one.status = self.rng.choice((Status.COMPLETED, Status.COMPLETED, Status.CANCELLED, Status.FAILED))
                self.tell(*self.rest(one, one.attempt, len(one.text)))
            else:
                offset, one.text = len(one.text), one.text + self.rng.choice(WORDS)
                if one.streams and not one.is_own:
                    self.tell(delta(one.rid, offset, one.text[offset:], one.attempt))

    def begin(self, one):
        """The first attempt, or another one after a crash."""
        one.attempt, one.text = one.attempt + 1, ""
        if not one.is_own:
            self.tell(self.question(one))

    def question(self, one):
        return MessageAsked(
            request_id=one.rid, conversation_id="c", question=f"{one.rid}?", model="m", accepted_at="2026-01-01"
        )

    def rest(self, one, attempt, offset):
        """The frames of an answer from where somebody stands."""
        if one.is_own:
            return []
        offset = offset if attempt == one.attempt else 0
        if not one.streams:
            whole = one.text if one.status is Status.COMPLETED else None
            return [] if one.status is None else [ending(one, whole)]
        frames = [delta(one.rid, offset, one.text[offset:], one.attempt)] if one.text[offset:] else []
        return frames if one.status is None else [*frames, ending(one, None)]

    def handle(self, link, frame):
        match frame:
            case Hello(hello_id=hello_id, resume=resume):
                self.tell(*(end(point.request_id, text="own") for point in resume), hello_id, link=link)
            case SendMessage(request_id=rid):
                self.ask(rid, is_own=True)
                self.tell(accepted(rid), end(rid, text="own"), link=link)
            case Watch():
                self.watch(link, frame)
            case GetHistory():
                self.history(link, frame)
            case CancelMessage(request_id=rid):
                self.cancel(link, rid)

    def watch(self, link, frame):
        if frame.number > self.numbers.get(link, -1):
            self.numbers[link] = frame.number
            self.held = None if frame.off else link
            points = {point.request_id: point for point in frame.resume}
            for one in self.asked:
                point = points.pop(one.rid, None)
                if point is not None:
                    self.tell(*self.rest(one, point.attempt, point.offset), link=link)
                elif one in self.running() and not one.is_own and not frame.off:
                    self.tell(self.question(one), *self.rest(one, 0, 0), link=link)
            for rid in points:
                self.tell(error(ErrorCode.UNKNOWN_REQUEST, rid), link=link)
        turns = [one.rid for one in self.asked if one.status is not None]
        turn = turns[-1] if turns else None
        self.tell(Watching(request_id=frame.request_id, conversation_id="c", number=frame.number, turn=turn), link=link)

    def history(self, link, frame):
        ended = [one for one in self.asked if one.status is not None]
        before = len(ended) if frame.before is None else int(frame.before)
        start = max(0, before - min(frame.limit, self.rng.randint(1, 10)))
        turns = tuple(
            Turn(
                request_id=one.rid,
                question=f"{one.rid}?",
                answer=one.text,
                status=one.status,
                asked_at="2026-01-01",
                answered_at="2026-01-01",
            )
            for one in ended[start:before]
        )
        more = str(start) if start else None
        self.tell(History(request_id=frame.request_id, conversation_id="c", turns=turns, next=more), link=link)

    def cancel(self, link, rid):
        for one in self.asked:
            if one.rid == rid:
                one.status = one.status or Status.CANCELLED
                self.tell(*self.rest(one, 0, 0), link=link)
                return
        self.tell(error(ErrorCode.UNKNOWN_REQUEST, rid), link=link)


def ending(one, whole):
    length = len(one.text)
    return MessageResponse(
        request_id=one.rid, status=one.status, response=whole, attempt=max(1, one.attempt), length=length
    )


class Watcher:
    """What an application sees; it complains of anything twice, too early or too late."""

    def __init__(self):
        self.texts = {}
        self.endings = {}

    def see(self, item):
        rid, event = item
        assert rid not in self.endings, f"{event} after the ending"
        match event:
            case Asked(question=question):
                assert rid not in self.texts, "asked twice"
                assert question == f"{rid}?"
                self.texts[rid] = ""
            case Restarted():
                self.texts[rid] = ""
            case Text():
                assert event.offset == len(self.texts[rid])
                self.texts[rid] += event.delta
                assert event.snapshot == self.texts[rid]
            case Done(answer):
                assert answer.text == self.texts[rid]
                self.endings[rid] = (Status.COMPLETED, answer.text)
            case Failed(failure):
                assert failure.answer.text == self.texts[rid]
                self.endings[rid] = (failure.answer.status, failure.answer.text)
            case _:
                assert rid in self.texts


class World:
    """A session, the server, and a network that breaks, and that loses, repeats and shuffles while it is `bad`."""

    def __init__(self, rng, bad):
        self.rng, self.bad = rng, bad
        self.script = Script()
        self.server = Server(rng)
        self.watcher = Watcher()
        self.own = set()

    def carry_out(self, effects):
        for effect in effects:
            match effect:
                case Show(_, item):
                    self.watcher.see(item)
                case Emit(rid, Done()):
                    self.own.remove(rid)
                case Fail():
                    raise AssertionError(effect)
                case Reconnect():
                    self.cut()
                case Send(frame):
                    if self.rng.random() >= self.bad:
                        self.server.handle(self.script.link, frame)

    def cut(self):
        self.script.lose()
        self.carry_out(self.script.connect())

    def deliver(self, *, everything):
        """Some of what is under way arrives, perhaps on a connection that is not the newest any more."""
        queue, self.server.to_send = self.server.to_send, []
        if self.rng.random() < self.bad:
            self.rng.shuffle(queue)
        for link, frame in queue:
            if self.rng.random() < self.bad / 2:
                continue
            if not everything and self.rng.random() < 0.3:
                self.server.to_send.append((link, frame))
                continue
            for _ in range(2 if self.rng.random() < self.bad else 1):
                if isinstance(frame, str):
                    if link == self.script.link:
                        self.carry_out(self.script.welcome(Hello(hello_id=frame), features=("watch",)))
                else:
                    self.carry_out(self.script.session.received(link, encode(frame), now=self.script.now))

    def settle(self, seconds):
        """Let the clock go on over a network that works."""
        self.bad = 0.0
        until = self.script.now + seconds
        while True:
            while self.server.to_send:
                self.deliver(everything=True)
            due = self.script.session.due_at()
            if due is None or due > until:
                self.script.now = until
                return
            self.script.now = max(self.script.now, due)
            self.carry_out(self.script.session.tick(now=self.script.now))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.5) | st.just(0), st.integers(0, 3))
def test_whatever_the_network_does_each_turn_of_others_is_shown_once_with_the_stored_text(seed, bad, earlier):
    rng = random.Random(seed)
    world = World(rng, 0)
    server = world.server
    for number in range(earlier):
        server.ask(f"earlier-{number}", is_own=False)
        while server.running() or any(one.status is None for one in server.asked):
            server.step()
    world.carry_out(world.script.connect())
    world.carry_out(world.script.session.watch("c", now=world.script.now))
    world.settle(1)
    world.bad = bad
    server.cancels = not bad
    for number in range(120):
        chance = rng.random()
        if chance < 0.06 and len(server.asked) < 20:
            server.ask(f"r{number}", is_own=False)
        elif chance < 0.10:
            world.own.add(f"own-{number}")
            timeouts = Timeouts(total_s=1e9, silence_s=1e9)
            world.carry_out(world.script.ask(f"own-{number}", timeouts, conversation="c"))
        elif chance < 0.15:
            world.cut()
        elif chance < 0.2:
            world.script.now += rng.choice((0.5, 5, 60))
            world.carry_out(world.script.session.tick(now=world.script.now))
        elif chance < 0.22 and world.watcher.texts:
            rid = rng.choice(list(world.watcher.texts))
            world.carry_out(world.script.session.cancel(rid, "c", now=world.script.now))
        elif chance < 0.6:
            server.step()
        else:
            world.deliver(everything=False)
    while any(one.status is None for one in server.asked):
        server.step()
    world.settle(1_000)
    expected = {one.rid: (one.status, one.text) for one in server.asked if not one.is_own and one.rid.startswith("r")}
    assert world.watcher.endings == expected
    assert world.watcher.texts.keys() == expected.keys()
    assert not world.own
