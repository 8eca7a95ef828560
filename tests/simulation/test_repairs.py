"""What the simulation found, each as the shortest case that shows it."""

import asyncio
import logging

import pytest

from answerback.client.effects import Send
from answerback.client.session import Session
from answerback.client.timing import Timing
from answerback.core.request import Change, Question, Record, RequestKey
from answerback.ports import T, Unavailable
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Error, Hello, MessageAccepted, MessageDelta, MessageResponse, SendMessage
from answerback.stores.sqlite import MemoryStore
from answerback.testing import Backend, LaneQueue, ScriptedModel, ScriptedSender, run_virtual


class _Lossy(MemoryStore):
    """The next writes take effect, but their answers are lost; the next reads of a question fail."""

    writes = 0
    reads = 0

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        outcome = await super().change(key, change)
        if self.writes:
            self.writes -= 1
            raise Unavailable
        return outcome

    async def question(self, key: RequestKey) -> Question | None:
        if self.reads:
            self.reads -= 1
            raise Unavailable
        return await super().question(key)


def test_an_outage_of_seconds_at_the_claim_or_the_question_costs_no_attempt() -> None:
    async def main() -> None:
        for writes, reads in ((6, 0), (0, 6)):
            store = _Lossy()
            backend = Backend(store=store, model=ScriptedModel(lambda prompt: ["done"]))
            peer = await backend.connect("c1", user="kim")
            store.writes, store.reads = writes, reads
            await peer.say(SendMessage(request_id="r1", message="hello"))
            await backend.queue.idle()
            (ending,) = [frame for frame in peer.frames if isinstance(frame, MessageResponse)]
            assert ending.attempt == 1
            assert backend.clock() - store.records[RequestKey("kim", "r1")].accepted_at_ms < 20_000

    run_virtual(main())


class _Choking(ScriptedSender):
    """Takes one delta, then chokes for a while, and parks nothing."""

    def __init__(self) -> None:
        super().__init__(parks=False)
        self.chokes = 3

    async def send(self, connection_id, frame):  # type: ignore[no-untyped-def]
        sent = await super().send(connection_id, frame)
        if isinstance(frame, MessageDelta) and self.chokes:
            self.chokes -= 1
            self.slow.add(connection_id)
            asyncio.get_running_loop().call_later(1.0, self.drain, connection_id)
        return sent


def test_a_slow_connection_gets_a_stored_text_once() -> None:
    async def main() -> None:
        text = "x" * 200_000
        sender = _Choking()
        backend = Backend(model=ScriptedModel(lambda prompt: [text]), sender=sender)
        sender.open("c1")
        await backend.connect("c0", user="kim", session="s")
        sender.open("c0")
        await backend.front.receive("c0", encode(SendMessage(request_id="r1", message="hello", stream=True)))
        sender.drop("c0")
        await backend.queue.idle()
        sender.chokes = 3
        peer = await backend.connect("c1", user="kim", session="s")
        await peer.say(SendMessage(request_id="r1", message="hello", stream=True))
        deltas = [frame for frame in sender.frames["c1"] if isinstance(frame, MessageDelta)]
        assert "".join(frame.delta for frame in deltas) == text

    run_virtual(main())


def test_a_connection_that_missed_the_take_over_learns_of_it_with_its_next_hello() -> None:
    async def main() -> None:
        backend = Backend()
        older = await backend.connect("c1", user="kim", session="s")
        await older.say(Hello(hello_id="h1"))
        await asyncio.sleep(1)
        await backend.connect("c2", user="kim", session="s")
        await backend.connections.bind("c2", "kim")  # and the front that did it died before it sent the error
        await older.say(Hello(hello_id="h2"))
        last = older.frames[-1]
        assert isinstance(last, Error)
        assert last.code is ErrorCode.SESSION_REPLACED
        assert "c1" in backend.sender.closed

    run_virtual(main())


def test_a_greeting_that_meets_an_outage_is_repeated() -> None:
    session = Session(timing=Timing())
    session.connected(1, now=0.0)
    session.received(1, encode(Error(code=ErrorCode.UNAVAILABLE, message="later")), now=1.0)
    due = session.due_at()
    assert due == 4.0
    again = session.tick(now=due)
    assert [effect.frame.hello_id for effect in again if isinstance(effect, Send) and isinstance(effect.frame, Hello)]


class _LostPut(LaneQueue):
    """The first put fails; nothing is queued."""

    def __init__(self, run, **more):  # type: ignore[no-untyped-def]
        super().__init__(run, **more)
        self.fails = 1

    async def put(self, record: Record) -> None:
        if self.fails:
            self.fails -= 1
            raise Unavailable
        await super().put(record)


def test_a_question_is_accepted_after_the_queue_has_it_and_a_repeat_repairs_what_is_missing() -> None:
    async def main() -> None:
        for queue_survives in (False, True):
            backend = Backend(
                model=ScriptedModel(lambda prompt: ["done"]), queue=_LostPut, queue_survives=queue_survives
            )
            peer = await backend.connect("c1", user="kim")
            await peer.say(SendMessage(request_id="r1", message="hello"))
            assert [type(frame) for frame in peer.frames] == [Error]
            await peer.say(SendMessage(request_id="r1", message="hello"))
            assert MessageAccepted in map(type, peer.frames)
            await backend.queue.idle()
            assert isinstance(peer.frames[-1], MessageResponse)

    run_virtual(main())


class _Broken(MemoryStore):
    """What is asked of it fails as often as is said, and not by an outage."""

    fails = 0
    is_away = 0

    async def question(self, key: RequestKey) -> Question | None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("a defect")
        return await super().question(key)

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        if self.is_away:
            self.is_away -= 1
            raise Unavailable
        return await super().change(key, change)


def test_a_run_that_meets_a_defect_or_a_long_outage_is_dispatched_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="answerback")

    async def main() -> None:
        for fails, is_away in ((1, 0), (0, 15)):
            store = _Broken()
            backend = Backend(store=store, model=ScriptedModel(lambda prompt: ["done"]))
            peer = await backend.connect("c1", user="kim")
            store.fails, store.is_away = fails, is_away
            await peer.say(SendMessage(request_id="r1", message="hello"))
            await backend.queue.idle()
            (ending,) = [frame for frame in peer.frames if isinstance(frame, MessageResponse)]
            assert ending.response == "done"

    run_virtual(main())


def test_the_janitor_leaves_alone_what_is_queued() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda prompt: [40.0, "done"]), queue_survives=True)
        peer = await backend.connect("c1", user="kim")
        await peer.say(SendMessage(request_id="r1", message="hello"))
        await peer.say(SendMessage(request_id="r2", message="hello"))
        for _ in range(2):  # the first sweep puts it as the front did, and notes that
            await asyncio.sleep(15)
            await backend.janitor.sweep()
        await backend.queue.idle()
        assert [key.request_id for key in backend.queue.handed_out] == ["r1", "r2"]

    run_virtual(main())


def test_the_first_frame_of_a_known_user_cannot_name_another() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        await peer.say(SendMessage(request_id="r1", message="hello", user_id="lee"))
        (refusal,) = [frame for frame in peer.frames if isinstance(frame, MessageResponse)]
        assert refusal.error is not None
        assert refusal.error.code is ErrorCode.USER_MISMATCH
        assert list(backend.store.records) == [RequestKey("kim", "r1")]

    run_virtual(main())
