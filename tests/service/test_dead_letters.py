"""What the queue gave up."""

import asyncio
from functools import partial
from typing import Any

from answerback.core import request as changes
from answerback.core.delivery import steady
from answerback.core.request import Policy, RequestKey
from answerback.core.transitions import State
from answerback.ports import Unavailable
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import MessageResponse, SendMessage, Status
from answerback.service.attempt import Done, Retry
from answerback.service.dead_letters import DeadLetters
from answerback.service.delivery_sender import DeliverySender
from answerback.service.observer import Observer
from answerback.stores.sqlite import MemoryStore
from answerback.testing import Backend, LaneQueue, run_virtual

KEY = RequestKey("kim", "r1")


class Deaf(LaneQueue):
    """Hands nothing out."""

    async def put(self, record: Any) -> None:
        pass


def handler(backend: Backend) -> DeadLetters:
    delivery_sender = DeliverySender(
        requests=backend.store,
        sender=backend.sender,
        interval=steady(),
        monotonic=asyncio.get_running_loop().time,
        observer=Observer(),
    )
    return DeadLetters(requests=backend.store, delivery_sender=delivery_sender, clock=backend.clock)


async def asked(**options: Any) -> tuple[Backend, Any]:
    backend = Backend(queue=Deaf, **options)
    peer = await backend.connect("c1", user="kim")
    await peer.say(SendMessage(request_id="r1", message="hello"))
    return backend, peer


async def claim(backend: Backend) -> None:
    step = partial(changes.claim, owner="w1", now_ms=backend.clock(), policy=Policy())
    await backend.store.change(KEY, step)


def test_one_that_nobody_runs_fails_and_its_app_gets_the_ending() -> None:
    async def main() -> None:
        backend, peer = await asked()
        assert await handler(backend).run(KEY) == Done()
        ending = peer.frames[-1]
        assert isinstance(ending, MessageResponse)
        assert ending.status is Status.FAILED
        assert ending.error is not None
        assert ending.error.code is ErrorCode.INTERNAL

    run_virtual(main())


def test_one_with_a_live_lease_is_left_until_it_is_over() -> None:
    async def main() -> None:
        backend, peer = await asked()
        await claim(backend)
        dead_letters, said = handler(backend), len(peer.frames)
        until_ms = backend.store.records[KEY].lease_until_ms
        assert await dead_letters.run(KEY) == Retry(until_ms)
        assert backend.store.records[KEY].state is State.RUNNING
        assert len(peer.frames) == said
        await asyncio.sleep((until_ms - backend.clock()) / 1000)
        assert await dead_letters.run(KEY) == Done()
        assert backend.store.records[KEY].state is State.FAILED

    run_virtual(main())


def test_one_that_has_ended_meanwhile_is_sent_again() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        await peer.say(SendMessage(request_id="r1", message="hello"))
        await backend.queue.idle()
        assert await handler(backend).run(KEY) == Done()
        assert peer.frames[-1] == peer.frames[-2]
        assert backend.store.records[KEY].state is State.COMPLETED

    run_virtual(main())


def test_one_that_is_not_known_is_done_with() -> None:
    async def main() -> None:
        assert await handler(Backend()).run(KEY) == Done()

    run_virtual(main())


class Down(MemoryStore):
    async def change(self, key: Any, change: Any) -> Any:
        raise Unavailable("planted")


class Broken(MemoryStore):
    async def change(self, key: Any, change: Any) -> Any:
        raise RuntimeError("planted")


def test_it_waits_out_an_outage_and_a_fault() -> None:
    async def main() -> None:
        for store in (Down(), Broken()):
            backend = Backend(store=store)
            outcome = await handler(backend).run(KEY)
            assert isinstance(outcome, Retry)
            assert outcome.at_ms > backend.clock()

    run_virtual(main())
