"""What a session may do besides watching an answer: stop one of another session, and watch the list."""

import asyncio

from answerback.core.request import RequestKey
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    CancelMessage,
    ConversationChanged,
    Error,
    MessageAsked,
    Status,
    UpdateConversation,
    Watching,
)
from answerback.testing import Backend, ScriptedModel
from watched_answers import TEXT, ending, on, one_of, question, watch, words

# --- stopping


def test_any_session_stops_it_and_the_record_says_which() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        await asker.say(question())
        await asyncio.sleep(0.15)
        await phone.say(CancelMessage(request_id="q", conversation_id="c"))
        await backend.queue.idle()
        assert ending(asker.frames) == ending(phone.frames)
        assert ending(asker.frames).status is Status.CANCELLED
        record = await backend.store.read(RequestKey("kim", "q"))
        assert record is not None
        assert (record.cancelled_by, record.schema) == ("phone", 2)

    on(main)


def test_a_stop_of_what_is_not_there_leaves_no_trace() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        for _ in range(2):
            await phone.say(CancelMessage(request_id="q", conversation_id="c"))
        assert {frame.code for frame in phone.frames if isinstance(frame, Error)} == {ErrorCode.UNKNOWN_REQUEST}
        assert await backend.store.read(RequestKey("kim", "q")) is None
        await asker.say(question())
        await backend.queue.idle()
        assert ending(asker.frames).status is Status.COMPLETED
        await phone.say(CancelMessage(request_id="q", conversation_id="c"))
        assert phone.frames[-1] == ending(asker.frames)

    on(main)


def test_what_waits_is_stopped_for_everybody() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone, tablet = [await one_of(backend, name) for name in ("desk", "phone", "tablet")]
        await tablet.say(watch())
        await asker.say(question("first"))
        await asker.say(question())
        await phone.say(CancelMessage(request_id="q", conversation_id="c"))
        for peer in (asker, phone, tablet):
            assert ending(peer.frames).status is Status.CANCELLED
        assert not [frame for frame in phone.frames if isinstance(frame, MessageAsked)]
        await backend.queue.idle()
        assert ending(tablet.frames, "first").status is Status.COMPLETED

    on(main)


# --- the list of conversations


def test_changes_of_the_list_are_told_to_those_who_watch_it() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch(conversation=None))
        assert phone.frames == [Watching(request_id="watch-1", number=1)]
        await asker.say(question())
        await backend.queue.idle()
        await asker.say(UpdateConversation(request_id="u1", conversation_id="c", title="Numbers"))
        await asker.say(UpdateConversation(request_id="u2", conversation_id="c", deleted=True))
        await asker.say(UpdateConversation(request_id="u3", conversation_id="unknown", deleted=True))
        turn, renamed, deleted = phone.frames[1:]
        assert isinstance(turn, ConversationChanged)
        assert (turn.conversation_id, turn.title, turn.turns, turn.deleted) == ("c", TEXT, 1, False)
        assert isinstance(renamed, ConversationChanged)
        assert (renamed.title, renamed.turns, renamed.deleted) == ("Numbers", 1, False)
        assert isinstance(deleted, ConversationChanged)
        assert deleted.deleted
        await phone.say(watch(2, conversation=None, off=True))
        await asker.say(UpdateConversation(request_id="u4", conversation_id="c", deleted=False))
        assert isinstance(phone.frames[-1], Watching)
        assert not [frame for frame in asker.frames if isinstance(frame, ConversationChanged)]
        tablet, seen = await one_of(backend, "tablet"), len(phone.frames)
        await tablet.say(watch(conversation=None))
        await asker.say(question("q2"))
        await backend.queue.idle()
        assert isinstance(tablet.frames[-1], ConversationChanged)
        assert phone.frames[seen:] == [], "it has left"

    on(main)
