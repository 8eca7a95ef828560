"""Every ending of a model, whatever its code raises, cancels or swallows: the request ends and the next one runs."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from msgspec.structs import replace

from answerback.core.request import Change, Policy, RequestKey
from answerback.core.transitions import State
from answerback.gateway.queue import InProcessQueue
from answerback.ports import Finish, ModelError, Piece, Prompt, Quota, T, Unavailable
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import CancelMessage, Hello, MessageResponse, ResumePoint, SendMessage, Status, Timing
from answerback.service.observer import Observer
from answerback.service.questions import Questions
from answerback.stores.sqlite import MemoryStore
from answerback.testing import Backend, ScriptedModel, run_virtual
from answerback.testing.backend import Peer


class Wild(ScriptedModel):
    """Does what `act` does for the first question; answers every other one."""

    def __init__(self, act: Callable[[], Awaitable[None]], *, after_finish: bool = False) -> None:
        super().__init__(lambda prompt: [])
        self._act = act
        self._after_finish = after_finish

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.prompts.append(prompt)
        yield "so far"
        if prompt.request_id == "r1":
            if self._after_finish:
                yield Finish()
            await self._act()


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        raise error

    return act


async def cancelled_task() -> None:
    """Awaits a task that somebody else has cancelled."""
    task = asyncio.ensure_future(asyncio.sleep(10))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def swallowing() -> None:
    """Ignores that it is cancelled."""
    while True:
        try:
            await asyncio.sleep(10_000)
        except asyncio.CancelledError:
            pass


async def hanging() -> None:
    await asyncio.sleep(10_000)


class Base(BaseException):
    pass


FAILURES = {
    "a model error": raising(ModelError(ErrorCode.MODEL_THROTTLED)),
    "an exception": raising(ValueError("x")),
    "exit": raising(SystemExit(3)),
    "interrupt": raising(KeyboardInterrupt()),
    "generator exit": raising(GeneratorExit()),
    "cancelled error": raising(asyncio.CancelledError()),
    "a cancelled task": cancelled_task,
    "any other": raising(Base()),
}


class Local:
    """A backend whose process runs what it accepts, with the gateway's queue."""

    def __init__(self, model: ScriptedModel, *, store: MemoryStore | None = None, quota: Quota | None = None) -> None:
        self.backend = backend = Backend(model=model, store=store, quota=quota, policy=Policy(lease_ms=0))
        self.queue = backend.worker._local = InProcessQueue(slots={model.name: 100}, clock=backend.clock)
        backend.front._questions = Questions(
            settings=backend.front._settings,
            requests=backend.store,
            queue=self.queue,
            delivery_sender=backend.front._delivery_sender,
            observer=Observer(),
            clock=backend.clock,
            worker=backend.worker,
        )

    async def start(self) -> None:
        await self.queue.recover(self.backend.store)
        self.queue.start(self.backend.worker.work)

    async def connect(self, connection_id: str, *, session: str | None = None) -> Peer:
        if not self.queue._work:
            await self.start()
        return await self.backend.connect(connection_id, session=session, user="kim")

    async def ask(self, peer: Peer, *request_ids: str, stream: bool = True) -> None:
        for request_id in request_ids:
            await peer.say(SendMessage(request_id=request_id, message="hello", conversation_id="A", stream=stream))


def endings(peer: Peer) -> dict[str, MessageResponse]:
    found = [frame for frame in peer.frames if isinstance(frame, MessageResponse)]
    assert len({frame.request_id for frame in found}) == len(found), "one ending each"
    return {frame.request_id: frame for frame in found}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", FAILURES)
def test_whatever_a_model_raises_is_its_failure(name: str, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        local = Local(Wild(FAILURES[name]))
        peer = await local.connect("c1")
        await local.ask(peer, "r1", "r2", stream=stream)
        await asyncio.sleep(1)
        ended = endings(peer)
        error = ended["r1"].error
        assert error is not None
        code = ErrorCode.MODEL_THROTTLED if name == "a model error" else ErrorCode.MODEL_FAILED
        assert (error.code, ended["r1"].attempt, ended["r1"].length) == (code, 1, 6)
        assert ended["r2"].status is Status.COMPLETED
        assert (local.queue.running, local.queue.depth) == (0, 0)

    with caplog.at_level(logging.WARNING, logger="answerback"):
        run_virtual(main())
    assert caplog.records[-1].message.startswith("the model failed: ")


@pytest.mark.parametrize("name", FAILURES)
def test_what_comes_after_the_finish_undoes_nothing(name: str) -> None:
    async def main() -> None:
        local = Local(Wild(FAILURES[name], after_finish=True))
        peer = await local.connect("c1")
        await local.ask(peer, "r1", "r2")
        await asyncio.sleep(1)
        assert {ending.status for ending in endings(peer).values()} == {Status.COMPLETED}

    run_virtual(main())


async def swallowing_once() -> None:
    """Ignores only that it is cancelled for the first time."""
    try:
        await asyncio.sleep(10_000)
    except asyncio.CancelledError:
        await asyncio.sleep(10_000)


@pytest.mark.parametrize("act", [hanging, swallowing, swallowing_once])
def test_a_model_that_does_not_return_after_its_finish_is_told_once(
    act: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        local = Local(Wild(act, after_finish=True))
        peer = await local.connect("c1")
        await local.ask(peer, "r1", "r2")
        await asyncio.sleep(20)
        assert {ending.status for ending in endings(peer).values()} == {Status.COMPLETED}
        assert [prompt.request_id for prompt in local.backend.model.prompts] == ["r1", "r2"]
        assert (local.queue.running, local.queue.depth) == (0, 0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.get_coro().close()  # type: ignore[union-attr]

    run_virtual(main())
    # Told again, it would be abandoned again, and a cancellation of ours be taken for its own.
    found = [line.getMessage() for line in caplog.records if line.name == "answerback.worker"]
    given_up = "the model does not stop when it is asked to; the request ends without it"
    assert found == ([] if act is hanging else [given_up])


@pytest.mark.parametrize("cancels", [False, True])
@pytest.mark.parametrize("act", [hanging, swallowing])
def test_a_model_that_does_not_end_holds_nothing_up(act: Callable[[], Awaitable[None]], cancels: bool) -> None:
    async def main() -> None:
        local = Local(Wild(act))
        peer = await local.connect("c1")
        await local.ask(peer, "r1", "r2")
        await asyncio.sleep(1)
        if cancels:
            await peer.say(CancelMessage(request_id="r1"))
        await asyncio.sleep(12 if cancels else 132)
        ended = endings(peer)
        assert ended["r1"].status is (Status.CANCELLED if cancels else Status.FAILED)
        assert (ended["r1"].length, ended["r2"].status) == (6, Status.COMPLETED)
        assert (local.queue.running, local.queue.depth) == (0, 0)
        stopped_at = asyncio.get_running_loop().time()
        await local.queue.stop(grace_s=0)
        assert asyncio.get_running_loop().time() == stopped_at, "a stop does not wait for what was abandoned"
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.get_coro().close()  # type: ignore[union-attr]

    run_virtual(main())


def test_a_request_is_stored_as_claimed_where_it_runs_at_once() -> None:
    async def main() -> None:
        store, seen = MemoryStore(), []

        async def look() -> None:
            seen.append(store.records[RequestKey("kim", "r1")])

        local = Local(Wild(look), store=store)
        peer = await local.connect("c1")
        changes: list[RequestKey] = []
        change = store.change

        async def noting(key: RequestKey, step: Change[T]) -> T:
            changes.append(key)
            return await change(key, step)

        store.change = noting  # type: ignore[method-assign]
        await local.ask(peer, "r1")
        await asyncio.sleep(1)
        assert (seen[0].attempt, seen[0].lease_until_ms) == (1, 0)
        assert changes == [RequestKey("kim", "r1")], "one write accepts and claims, one ends"

    run_virtual(main())


class Lost(MemoryStore):
    """The answer to the next acceptance is lost; the question is stored or not."""

    stores = True

    async def accept(self, record, question, quota, *, now_ms):  # type: ignore[no-untyped-def]
        if self.stores:
            await super().accept(record, question, quota, now_ms=now_ms)
        raise Unavailable


@pytest.mark.parametrize("stores", [False, True])
def test_an_acceptance_whose_answer_was_lost_costs_neither_an_attempt_nor_the_conversation(stores: bool) -> None:
    async def main() -> None:
        store = Lost()
        store.stores = stores
        model = Wild(raising(ModelError(ErrorCode.MODEL_FAILED)))
        local = Local(model, store=store)
        peer = await local.connect("c1")
        await local.ask(peer, "r2")
        await asyncio.sleep(1)
        del Lost.accept
        try:
            await local.ask(peer, "r2", "r3")
        finally:
            Lost.accept = lost_accept  # type: ignore[method-assign]
        await asyncio.sleep(1)
        assert [(prompt.request_id, prompt.attempt) for prompt in model.prompts] == [("r2", 1), ("r3", 1)]
        assert local.queue.depth == 0

    lost_accept = Lost.accept
    run_virtual(main())


class Slow(MemoryStore):
    """Stores a question at once, and says so much later."""

    async def accept(self, record, question, quota, *, now_ms):  # type: ignore[no-untyped-def]
        admitted = await super().accept(record, question, quota, now_ms=now_ms)
        if record.request_id == "r2":
            await asyncio.sleep(3_600)
        return admitted


@pytest.mark.parametrize("others", [(), ("r1",)], ids=["its turn has come", "it waits"])
def test_a_question_whose_task_is_cancelled_while_it_is_stored_is_answered(others: tuple[str, ...]) -> None:
    async def main() -> None:
        model = Wild(hanging)
        local = Local(model, store=Slow())
        peer = await local.connect("c1")
        await local.ask(peer, *others)
        asking = asyncio.create_task(local.ask(peer, "r2"))
        await asyncio.sleep(1)
        asking.cancel()
        await local.ask(peer, "r3")
        for request_id in others:
            await peer.say(CancelMessage(request_id=request_id))
        await asyncio.sleep(60)
        assert [prompt.request_id for prompt in model.prompts] == [*others, "r2", "r3"]
        record = await local.backend.store.read(RequestKey("kim", "r2"))
        assert record is not None
        assert (record.attempt, record.state) == (1, State.COMPLETED)
        assert local.queue.depth == 0

    run_virtual(main())


class Crossing(MemoryStore):
    """The frame of a question that comes first is stored last."""

    def __init__(self) -> None:
        super().__init__()
        self._came: set[str] = set()

    async def accept(self, record, question, quota, *, now_ms):  # type: ignore[no-untyped-def]
        is_first = record.request_id not in self._came
        self._came.add(record.request_id)
        if is_first:
            await asyncio.sleep(1)
        return await super().accept(record, question, quota, now_ms=now_ms)

    async def change(self, key, step):  # type: ignore[no-untyped-def]
        await asyncio.sleep(1)
        return await super().change(key, step)


@pytest.mark.parametrize("others", [(), ("r1",)], ids=["its turn has come", "it waits"])
def test_a_question_that_came_twice_keeps_its_place(others: tuple[str, ...]) -> None:
    """An app changes its connection while it asks: both bring the frame."""

    async def main() -> None:
        model = Wild(hanging)
        local = Local(model, store=Crossing())
        peer = await local.connect("c1")
        await local.ask(peer, *others)
        first = asyncio.create_task(local.ask(peer, "r2"))
        await asyncio.sleep(0.5)
        await local.ask(peer, "r2")
        await asyncio.sleep(0.9)
        await local.ask(peer, "r3")
        await first
        for request_id in others:
            await peer.say(CancelMessage(request_id=request_id))
        await asyncio.sleep(60)
        assert [prompt.request_id for prompt in model.prompts] == [*others, "r2", "r3"]
        assert local.queue.depth == 0

    run_virtual(main())


@pytest.mark.parametrize("others", [(), ("r1",)], ids=["its turn has come", "it waits"])
def test_an_id_that_came_twice_at_once_for_two_questions_is_answered_for_one(others: tuple[str, ...]) -> None:
    async def main() -> None:
        model = Wild(hanging)
        local = Local(model, store=Crossing())
        peer = await local.connect("c1")
        await local.ask(peer, *others)
        first = asyncio.create_task(local.ask(peer, "r2"))
        await asyncio.sleep(0.5)
        await peer.say(SendMessage(request_id="r2", message="hi", conversation_id="B", stream=True))
        await first
        await asyncio.sleep(60)
        assert [prompt.request_id for prompt in model.prompts] == [*others, "r2"]
        assert model.prompts[-1].messages[-1].text == "hi"

    run_virtual(main())


def test_what_is_refused_gives_its_turn_back() -> None:
    async def main() -> None:
        local = Local(Wild(hanging), quota=Quota(per_minute=1, max_pending=10))
        peer = await local.connect("c1")
        await local.ask(peer, "r2")
        await asyncio.sleep(1)
        await local.ask(peer, "r2", "r3")  # the id is taken; over the rate
        assert (local.queue.running, local.queue.depth) == (0, 0)
        ended = [frame for frame in peer.frames if isinstance(frame, MessageResponse)]
        assert [(end.request_id, end.status) for end in ended] == [
            ("r2", Status.COMPLETED),
            ("r2", Status.COMPLETED),
            ("r3", Status.FAILED),
        ]

    run_virtual(main())


def test_what_is_refused_while_its_conversation_is_busy_does_not_stand_in_line() -> None:
    async def main() -> None:
        local = Local(Wild(hanging), quota=Quota(per_minute=2, max_pending=10))
        peer = await local.connect("c1")
        await local.ask(peer, "r2", "r1")
        await asyncio.sleep(1)
        await local.ask(peer, "r2", "r3")  # the id is taken; over the rate
        assert (local.queue.running, local.queue.depth) == (1, 0)
        await peer.say(CancelMessage(request_id="r1"))
        await asyncio.sleep(20)
        ended = [frame.request_id for frame in peer.frames if isinstance(frame, MessageResponse)]
        assert ended == ["r2", "r2", "r3", "r1"]
        assert (local.queue.running, local.queue.depth) == (0, 0)

    run_virtual(main())


class Dying(MemoryStore):
    """The process dies when it has stored the question: nothing of it goes on."""

    async def accept(self, record, question, quota, *, now_ms):  # type: ignore[no-untyped-def]
        await super().accept(record, question, quota, now_ms=now_ms)
        await asyncio.Event().wait()


def test_the_next_start_runs_the_second_attempt_of_what_was_stored_as_claimed() -> None:
    async def main() -> None:
        store, model = Dying(), Wild(hanging)
        dead = Local(model, store=store)
        peer = await dead.connect("c1", session="s")
        asking = asyncio.create_task(dead.ask(peer, "r2"))
        await asyncio.sleep(1)
        assert store.records[RequestKey("kim", "r2")].attempt == 1
        assert not model.prompts
        again = await Local(model, store=store).connect("c2", session="s")
        await again.say(Hello(hello_id="h", resume=(ResumePoint(request_id="r2", attempt=0, offset=0),)))
        await asyncio.sleep(1)
        assert [prompt.attempt for prompt in model.prompts] == [2]
        assert (endings(again)["r2"].attempt, endings(again)["r2"].status) == (2, Status.COMPLETED)
        asking.cancel()

    run_virtual(main())


class Refusing(MemoryStore):
    """Can never store an ending that has a text."""

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        def check(record):  # type: ignore[no-untyped-def]
            step = change(record)
            if step.content.text:
                raise OverflowError
            return step

        return await super().change(key, check)


@pytest.mark.parametrize("stream", [False, True])
def test_an_ending_that_can_never_be_stored_fails_the_request_once(stream: bool) -> None:
    async def main() -> None:
        model = Wild(hanging)
        local = Local(model, store=Refusing())
        peer = await local.connect("c1")
        await local.ask(peer, "r2", "r3", stream=stream)
        await asyncio.sleep(1)
        for ending in endings(peer).values():
            assert ending.error is not None
            assert (ending.error.code, ending.attempt, ending.length) == (ErrorCode.INTERNAL, 1, 0)
        assert [prompt.request_id for prompt in model.prompts] == ["r2", "r3"]

    run_virtual(main())


def test_nothing_is_left_of_a_request_that_ended() -> None:
    async def main() -> None:
        local = Local(Wild(hanging))
        peer = await local.connect("c1")
        await local.ask(peer, "r2", "r3")
        await asyncio.sleep(3)
        worker = local.backend.worker
        assert set(endings(peer)) == {"r2", "r3"}
        assert (worker._runs, worker._claiming, worker._watching, local.queue._turns) == ({}, {}, None, {})

    run_virtual(main())


@pytest.mark.parametrize("ends_unread", [True, False])
def test_a_connection_that_reads_nothing_holds_its_conversation_for_half_a_minute_and_gets_the_ending_later(
    ends_unread: bool,
) -> None:
    """Where the sender cannot park, as on AWS: the next question may be another device's."""

    async def main() -> None:
        backend = Backend(parks=False, queue_survives=True)
        frozen = await backend.connect("c1", session="desk", user="kim")
        await frozen.say(SendMessage(request_id="r1", message="one two", conversation_id="k", stream=True))
        if not ends_unread:
            await backend.queue.idle()
        backend.sender.slow.add("c1")
        peer = await backend.connect("c2", session="phone", user="kim")
        ended_at = asyncio.get_running_loop().time()
        await peer.say(SendMessage(request_id="r2", message="three", conversation_id="k"))
        async with asyncio.timeout(600):
            await backend.queue.idle()
        waited_s = asyncio.get_running_loop().time() - ended_at
        assert waited_s == pytest.approx(31.5 if ends_unread else 1.0, abs=1.5)
        assert [frame.response for frame in peer.frames if isinstance(frame, MessageResponse)] == ["three"]

        backend.sender.drain("c1")
        if ends_unread:
            assert not [frame for frame in frozen.frames if isinstance(frame, MessageResponse)]
        await frozen.say(Hello(hello_id="h", resume=(ResumePoint(request_id="r1", attempt=1, offset=0),)))
        ending = [frame for frame in frozen.frames if isinstance(frame, MessageResponse)][-1]
        assert (ending.request_id, ending.status, ending.length) == ("r1", Status.COMPLETED, 7)

    run_virtual(main())


def test_a_run_whose_request_was_ended_by_others_stops_its_model_at_once() -> None:
    """The attempt in the record is not the run's any more, so nothing that it says can be stored."""

    async def main() -> None:
        model = ScriptedModel(lambda prompt: ["so far", 60.0, "too late"])
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        await peer.say(SendMessage(request_id="r1", message="hello"))
        await asyncio.sleep(0.5)
        record = await backend.store.read(RequestKey("kim", "r1"))
        assert record is not None
        backend.worker.changed(replace(record, attempt=2, owner="another"))
        await asyncio.sleep(0.01)
        assert model.running == 0
        await backend.queue.stop()

    run_virtual(main())


@pytest.mark.parametrize("skew_ms", [0, -60_000])
def test_the_times_of_an_answer_are_told_and_a_clock_that_is_behind_makes_none_negative(skew_ms: int) -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda _: [1.0, "one", 2.0, "two"]), worker_skew_ms=skew_ms)
        peer = await backend.connect("c1", user="kim")
        for name in ("r1", "r2"):
            await peer.say(SendMessage(request_id=name, message="hello", conversation_id="k"))
        await backend.queue.idle()
        times = [frame.timing for frame in peer.frames if isinstance(frame, MessageResponse)]
        if skew_ms:
            assert times == [Timing(queued_ms=0, first_text_ms=0, total_ms=0)] * 2
        else:
            assert times == [
                Timing(queued_ms=0, first_text_ms=1_000, total_ms=3_000),
                Timing(queued_ms=3_000, first_text_ms=4_000, total_ms=6_000),
            ]

    run_virtual(main())
