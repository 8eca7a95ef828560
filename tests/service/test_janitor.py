"""What only the janitor would notice."""

import asyncio

from answerback.protocol import GetHistory, ListConversations, SendMessage, UpdateConversation
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
