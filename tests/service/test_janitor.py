"""What only the janitor would notice."""

import asyncio
from typing import Any

from answerback.core.delivery import steady
from answerback.core.request import Policy, Record
from answerback.models.echo import EchoModel, EchoOptions
from answerback.protocol.frames import GetHistory, ListConversations, SendMessage, UpdateConversation
from answerback.service.delivery_sender import DeliverySender
from answerback.service.janitor import Janitor, JanitorSettings
from answerback.service.observer import Observer
from answerback.testing import Backend, run_virtual

A_DAY_S = 24 * 3600


def test_a_deleted_conversation_can_be_restored_for_a_week_and_is_then_gone_for_good() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        for name in ("A", "B"):
            await peer.say(SendMessage(request_id=f"r{name}", message="hello", conversation_id=name))
            await backend.queue.idle()
        await peer.say(UpdateConversation(request_id="d", conversation_id="A", deleted=True))
        await asyncio.sleep(6 * A_DAY_S)
        await backend.janitor.sweep()
        back = await backend.connect("c2", user="kim")
        await back.say(UpdateConversation(request_id="d", conversation_id="A", deleted=False))
        await back.say(GetHistory(request_id="h", conversation_id="A"))
        assert len(back.frames[-1].turns) == 1  # type: ignore[union-attr]
        await back.say(UpdateConversation(request_id="d", conversation_id="A", deleted=True))
        await asyncio.sleep(8 * A_DAY_S)
        await backend.janitor.sweep()
        late = await backend.connect("c3", user="kim")
        await late.say(UpdateConversation(request_id="d", conversation_id="A", deleted=False))
        await late.say(ListConversations(request_id="l"))
        assert [c.conversation_id for c in late.frames[-1].conversations] == ["B"]  # type: ignore[union-attr]

    run_virtual(main())


def test_a_conversation_is_deleted_after_its_days_and_erased_with_the_records() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        await peer.say(SendMessage(request_id="r1", message="hello", conversation_id="A"))
        await backend.queue.idle()
        await backend.store.set_retention("kim", 2, now_ms=0)
        shown = []
        for _ in range(5):
            await backend.janitor.sweep()
            late = await backend.connect(f"c{len(shown)}", user="kim")
            await late.say(ListConversations(request_id="l"))
            shown.append(len(late.frames[-1].conversations))  # type: ignore[union-attr]
            await asyncio.sleep(A_DAY_S)
        assert shown == [1, 1, 1, 0, 0]
        assert len(backend.store.records) == 1
        await asyncio.sleep(3 * A_DAY_S)
        await backend.janitor.sweep()
        assert backend.store.records == {}
        assert await backend.store.update_conversation("kim", "A", title=None, deleted=False, now_ms=0) is None

    run_virtual(main())


def test_records_are_forgotten_after_a_week_and_history_answers() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        await peer.say(SendMessage(request_id="r1", message="hello", conversation_id="A"))
        await backend.queue.idle()
        await asyncio.sleep(8 * A_DAY_S)
        await backend.janitor.sweep()
        assert backend.store.records == {}
        late = await backend.connect("c2", user="kim")
        await late.say(GetHistory(request_id="h", conversation_id="A"))
        assert [t.answer for t in late.frames[-1].turns] == ["hello"]  # type: ignore[union-attr]

    run_virtual(main())


class Network:
    """What the network knows of its connections' last messages."""

    def __init__(self) -> None:
        self.seen: dict[str, int | None] = {}

    async def last_active_ms(self, connection_id: str) -> int | None:
        return self.seen[connection_id]


def janitor_of(backend: Backend, **options: Any) -> Janitor:
    delivery_sender = DeliverySender(
        requests=backend.store,
        sender=backend.sender,
        interval=steady(),
        monotonic=asyncio.get_running_loop().time,
        observer=Observer(),
    )
    parts: dict[str, Any] = {
        "settings": JanitorSettings(),
        "requests": backend.store,
        "history": backend.store,
        "connections": backend.connections,
        "sender": backend.sender,
        "queue": backend.queue,
        "delivery_sender": delivery_sender,
        "clock": backend.clock,
    }
    return Janitor(**parts | options)


def test_a_connection_that_only_the_network_saw_alive_is_kept() -> None:
    async def main() -> None:
        backend, network = Backend(), Network()
        for name in ("reads", "silent", "gone"):
            await backend.connect(name, user="kim")
        await asyncio.sleep(3700)
        network.seen = {"reads": backend.clock() - 60_000, "silent": backend.clock() - 3_650_000, "gone": None}
        await janitor_of(backend, last_active_ms=network.last_active_ms).sweep()
        assert backend.sender.closed == {"silent", "gone"}
        kept = await backend.connections.get("reads")
        assert kept is not None
        assert kept.last_activity_ms == network.seen["reads"]
        assert [await backend.connections.get(name) for name in ("silent", "gone")] == [None, None]

    run_virtual(main())


def test_a_sweep_without_time_leaves_everything_to_the_next() -> None:
    async def main() -> None:
        backend = Backend()
        await backend.connect("c1", user="kim")
        await asyncio.sleep(3700)
        janitor = janitor_of(backend)
        await janitor.sweep(stop_at_ms=backend.clock())
        assert await backend.connections.get("c1") is not None
        await janitor.sweep(stop_at_ms=backend.clock() + 1)
        assert await backend.connections.get("c1") is None

    run_virtual(main())


class ReadEarlier:
    """A store whose list of unfinished requests was read a moment before."""

    def __init__(self, store: Any, records: list[Record]) -> None:
        self._store = store
        self._records = records

    async def unfinished(self) -> list[Record]:
        return self._records

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class QueueOfPuts:
    """Keeps what is put."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def put(self, record: Record) -> None:
        self.records.append(record)


def test_what_ended_while_the_sweep_read_is_not_queued_again() -> None:
    """Its ending would be sent once more. What still runs is put, in case its run was lost."""

    async def main() -> None:
        backend, queue = Backend(model=EchoModel(EchoOptions(first_ms=1000))), QueueOfPuts()
        peer = await backend.connect("c1", user="kim")
        await peer.say(SendMessage(request_id="r1", message="hello"))
        await asyncio.sleep(0.5)
        running = list(await backend.store.unfinished())
        settings = JanitorSettings(policy=Policy(lease_ms=0))
        requests = ReadEarlier(backend.store, running)
        await janitor_of(backend, settings=settings, requests=requests, queue=queue).sweep()
        await backend.queue.idle()
        await janitor_of(backend, settings=settings, requests=requests, queue=queue).sweep()
        assert queue.records == running

    run_virtual(main())
