"""The one timer of all streams: when text leaves, on virtual time."""

import asyncio
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from answerback.core.delivery import COALESCE_MS, PROGRESS_S
from answerback.ports import Finish, Gone, Sent, Slow
from answerback.protocol.frames import Hello, MessageDelta, MessageProgress, ResumePoint, SendMessage, ServerFrame
from answerback.service.delivery_sender import TICK_S
from answerback.testing import Backend, ScriptedModel, ScriptedSender, run_virtual

PAUSE_S = COALESCE_MS / 1000


class Timed(ScriptedSender):
    """Notes when each frame leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, list[tuple[float, ServerFrame]]] = defaultdict(list)

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        self.sent[connection_id].append((asyncio.get_running_loop().time(), frame))
        return Sent()

    def deltas(self, connection_id: str) -> list[float]:
        return [at for at, frame in self.sent[connection_id] if isinstance(frame, MessageDelta)]


async def ask(backend: Backend, name: str, **more: object) -> None:
    peer = await backend.connect(name, user=name)
    await peer.say(SendMessage(request_id="r1", message="hello", stream=True, **more))  # type: ignore[arg-type]


def test_text_leaves_at_once_and_then_with_the_pause_between_two_deltas() -> None:
    async def main() -> None:
        sender = Timed()
        backend = Backend(model=ScriptedModel(lambda _: ["word ", 0.003] * 200), sender=sender)
        await ask(backend, "c1")
        await backend.queue.idle()
        at = sender.deltas("c1")
        assert at[0] == 0.0
        pauses = [later - earlier for earlier, later in pairwise(at[:-1])]
        assert min(pauses) >= PAUSE_S - 1e-9
        assert max(pauses) <= PAUSE_S + TICK_S + 0.003 + 1e-9

    run_virtual(main())


def test_many_streams_do_not_send_in_one_moment() -> None:
    async def main() -> None:
        sender = Timed()
        backend = Backend(model=ScriptedModel(lambda _: ["word ", 0.005] * 60), sender=sender)
        for number in range(200):
            await ask(backend, f"c{number}")
            await asyncio.sleep(PAUSE_S / 200)
        await backend.queue.idle()
        together = Counter(round(at, 6) for number in range(200) for at in sender.deltas(f"c{number}"))
        assert max(together.values()) <= 200 * TICK_S / PAUSE_S * 1.5

    run_virtual(main())


def test_the_tick_after_the_last_text_makes_no_task() -> None:
    """It may come while the event loop closes, which would find the task pending."""

    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda _: ["one ", 0.003, "two"]), sender=Timed())
        await ask(backend, "c1")
        await backend.queue.idle()
        made = []

        def make(loop, coroutine, **options):  # type: ignore[no-untyped-def]
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(make)
        await asyncio.sleep(2 * PAUSE_S)
        assert made == []

    run_virtual(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_sign_of_life_is_given_in_time_and_holds_no_text_back(stream: bool) -> None:
    async def main() -> None:
        sender = Timed()
        silence_s = 2.5 * PROGRESS_S
        script = ["one ", 1.0, "two ", 0.1, "three ", silence_s, "four", Finish()]
        backend = Backend(model=ScriptedModel(lambda _: script), sender=sender)
        peer = await backend.connect("c1", user="kim")
        await peer.say(SendMessage(request_id="r1", message="hello", stream=stream, parts=()))
        await backend.queue.idle()
        if stream:
            assert sender.deltas("c1") == pytest.approx([0.0, 1.0, 1.1, 1.1 + silence_s])
        signs = [at for at, frame in sender.sent["c1"] if isinstance(frame, MessageProgress)]
        start = 1.1 if stream else 0.0
        assert signs == pytest.approx([start + PROGRESS_S, start + 2 * PROGRESS_S], abs=4 * TICK_S)

    run_virtual(main())


@pytest.mark.parametrize("outcome", [Sent(), Gone(), Slow()])
def test_what_became_of_a_frame_says_nothing_about_a_target_that_came_meanwhile(outcome: Sent | Gone | Slow) -> None:
    """A post takes its time, and the app may have moved to another connection before it is known how it went."""

    class Late(ScriptedSender):
        async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
            if connection_id != "c1" or not isinstance(frame, MessageDelta) or not frame.offset:
                return await super().send(connection_id, frame)
            await asyncio.sleep(5.0)
            return outcome

    async def main() -> None:
        sender = Late()
        backend = Backend(model=ScriptedModel(lambda _: ["one ", 1.0, "two ", 10.0, "three"]), sender=sender)
        sender.open("c1")
        sender.open("c2")
        first = await backend.connect("c1", session="desk", user="kim")
        await first.say(SendMessage(request_id="r1", message="hello", stream=True))
        await asyncio.sleep(2.0)
        second = await backend.connect("c2", session="desk", user="kim")
        await second.say(Hello(hello_id="h", resume=(ResumePoint(request_id="r1", attempt=1, offset=0),)))
        await backend.queue.idle()
        deltas = [(frame.offset, frame.delta) for frame in sender.frames["c2"] if isinstance(frame, MessageDelta)]
        assert deltas == [(0, "one two "), (8, "three")]

    run_virtual(main())
