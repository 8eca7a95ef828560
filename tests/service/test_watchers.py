"""What other sessions of a user are shown of a question and its answer, on virtual time."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from answerback.core.delivery import PROGRESS_S
from answerback.core.request import Policy, RequestKey
from answerback.core.watching import KEPT_MS, LEFT_MS
from answerback.ports import Finish, Gone, Place, Sent, Slow, Unavailable, Watcher
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    CancelMessage,
    Error,
    Hello,
    MessageAsked,
    MessageDelta,
    MessageProgress,
    MessageResponse,
    MessageStarted,
    ResumePoint,
    ServerFrame,
    Status,
    UpdateConversation,
    Watching,
)
from answerback.service import watchers
from answerback.service.delivery_sender import WATCHERS_S
from answerback.stores.connections import MemoryConnections
from answerback.testing import Backend, ScriptedModel, ScriptedSender, run_virtual
from watched_answers import TEXT, about, ending, on, one_of, question, text_of, watch, words

# --- from the first character to the ending


def test_who_watches_is_shown_the_question_and_its_answer() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        assert phone.frames == [Watching(request_id="watch-1", conversation_id="c", number=1)]
        await asker.say(question(replaces="q0"))
        await backend.queue.idle()
        asked, started, first, *_ = about(phone.frames)
        assert asked == MessageAsked(
            request_id="q",
            conversation_id="c",
            question=TEXT,
            model="scripted",
            replaces="q0",
            accepted_at="2026-01-01T00:00:00.000Z",
        )
        assert (started.attempt, first.offset) == (1, 0)
        assert text_of(phone.frames) == text_of(asker.frames) == f"{TEXT} "
        assert ending(phone.frames) == ending(asker.frames)
        assert not [frame for frame in asker.frames if isinstance(frame, MessageAsked)]
        await phone.say(watch(2))
        assert phone.frames[-1] == Watching(request_id="watch-2", conversation_id="c", number=2, turn="q")

    on(main)


def test_who_comes_late_is_shown_it_from_the_first_character() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await asker.say(question())
        await asyncio.sleep(0.25)
        await phone.say(watch())
        await asyncio.sleep(0.01)
        assert text_of(phone.frames) == "one two three ", "it is shown at once what there is"
        await backend.queue.idle()
        assert isinstance(about(phone.frames)[0], MessageAsked)
        assert text_of(phone.frames) == f"{TEXT} "
        assert ending(phone.frames) == ending(asker.frames)

    on(main)


@pytest.mark.parametrize("at_s", [0.0, 0.05, 0.3, 0.59, 0.6, 0.61, 0.7])
def test_whenever_it_comes_it_has_the_answer_or_the_turn(at_s: float) -> None:
    """It asks in this order: watch, then the history, where `turn` is the newest."""

    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await asker.say(question())
        await asyncio.sleep(at_s)
        await phone.say(watch())
        (told,) = [frame for frame in phone.frames if isinstance(frame, Watching)]
        await backend.queue.idle()
        if told.turn != "q":
            assert text_of(phone.frames) == f"{TEXT} "
            assert ending(phone.frames) == ending(asker.frames)

    on(main)


def test_an_answer_whole_in_one_frame() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        await asker.say(question(stream=False))
        await asyncio.sleep(0.05)
        assert [type(frame) for frame in about(phone.frames)] == [MessageAsked], "it is told at once that one runs"
        await backend.queue.idle()
        assert [type(frame) for frame in about(phone.frames)] == [MessageAsked, MessageResponse]
        assert ending(phone.frames).response == f"{TEXT} "

    on(main)


def test_signs_of_life_are_for_answers_that_are_asked_for_with_them() -> None:
    async def main(parts: tuple[str, ...] | None) -> list[type]:
        backend = Backend(model=ScriptedModel(lambda _: ["one", 3 * PROGRESS_S, Finish()]))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        await asker.say(question(parts=parts))
        await backend.queue.idle()
        return [type(frame) for frame in about(phone.frames)]

    for parts, signs in ((None, 0), ((), 2)):
        kinds: list[type] = []
        run_virtual(_into(kinds, main(parts)))
        assert kinds.count(MessageProgress) >= signs
        assert bool(kinds.count(MessageProgress)) is bool(signs)


async def _into(found: list[type], kinds: Awaitable[list[type]]) -> None:
    found += await kinds


def test_a_long_question_is_shown_in_its_beginning() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda _: ["yes", Finish()]))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        long = "\U0001f600" * 10_000
        await asker.say(question(message=long))
        await backend.queue.idle()
        (asked,) = [frame for frame in phone.frames if isinstance(frame, MessageAsked)]
        assert (asked.question, asked.question_length) == (long[: 16 * 1024 // 4], 10_000)

    on(main)


def test_what_waits_for_its_turn_is_shown_when_it_runs_or_ends() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        for name in ("q", "later", "never"):
            await asker.say(question(name))
        await phone.say(watch())
        await asker.say(CancelMessage(request_id="never"))
        await asyncio.sleep(0.1)
        assert [type(frame) for frame in about(phone.frames, "never")] == [MessageAsked, MessageResponse]
        assert about(phone.frames, "later") == []
        await backend.queue.idle()
        for name in ("q", "later"):
            assert text_of(phone.frames, name) == f"{TEXT} "
            assert ending(phone.frames, name) == ending(asker.frames, name)
        order = [frame.request_id for frame in phone.frames if isinstance(frame, MessageAsked)]
        assert order in (["q", "never", "later"], ["never", "q", "later"])

    on(main)


# --- resuming and leaving


def test_it_is_resumed_where_it_stands_and_without_the_question() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        await asker.say(question())
        await asyncio.sleep(0.25)
        has = text_of(phone.frames)
        assert 0 < len(has) < len(TEXT)
        await phone.leave()
        await asyncio.sleep(0.1)
        again = await one_of(backend, "phone2", session="phone")
        await again.say(watch(resume=(ResumePoint(request_id="q", attempt=1, offset=len(has)),)))
        await backend.queue.idle()
        deltas = [frame for frame in about(again.frames) if isinstance(frame, MessageDelta)]
        assert not [frame for frame in again.frames if isinstance(frame, MessageAsked)]
        assert (deltas[0].offset, has + "".join(one.delta for one in deltas)) == (len(has), f"{TEXT} ")
        assert isinstance(again.frames[-1], MessageResponse)

    on(main)


def test_a_session_that_comes_back_counts_anew() -> None:
    """Its new connection begins with number 1: what an older one has said must not bar it."""

    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker = await one_of(backend, "desk")
        await asker.say(question())
        for number in range(4):
            phone = await one_of(backend, f"phone{number}", session="phone")
            await phone.say(watch(9 - number))
            await asyncio.sleep(0.1)
            assert isinstance(about(phone.frames)[0], MessageAsked)
        await backend.queue.idle()
        assert text_of(phone.frames) == f"{TEXT} "

    on(main)


def test_resumed_after_the_end_and_what_is_not_there() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await asker.say(question())
        await asker.say(question("elsewhere", conversation_id="other"))
        await phone.say(question("mine"))
        await backend.queue.idle()
        seen = len(phone.frames)
        names = {"q": 4, "elsewhere": 0, "unknown": 0, "mine": 0}
        await phone.say(watch(resume=tuple(ResumePoint(request_id=n, attempt=1, offset=at) for n, at in names.items())))
        *answer, last = phone.frames[seen:]
        assert last == Watching(request_id="watch-1", conversation_id="c", number=1, turn="mine")
        errors = {frame.request_id: frame.code for frame in answer if isinstance(frame, Error)}
        assert errors == {
            "elsewhere": ErrorCode.UNKNOWN_REQUEST,
            "unknown": ErrorCode.UNKNOWN_REQUEST,
            "mine": ErrorCode.REQUEST_CONFLICT,
        }
        assert [type(frame) for frame in about(answer)] == [MessageDelta, MessageResponse]
        assert about(answer)[0].offset == 4

    on(main)


def test_who_leaves_is_shown_no_more_and_may_come_again() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch(1))
        await asker.say(question())
        await asyncio.sleep(0.15)
        await phone.say(watch(3, off=True))
        await asyncio.sleep(0.01)
        seen = len(about(phone.frames))
        await phone.say(watch(2))
        assert isinstance(phone.frames[-1], Watching)
        await asyncio.sleep(0.15)
        assert len(about(phone.frames)) == seen, "the frame that came behind it is older"
        await phone.say(watch(4))
        await backend.queue.idle()
        assert isinstance(about(phone.frames)[seen], MessageAsked)
        assert ending(phone.frames) == ending(asker.frames)

    on(main)


def test_who_leaves_resumes_nothing() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await asker.say(question())
        await backend.queue.idle()
        points = (ResumePoint(request_id="q", attempt=1, offset=0), ResumePoint(request_id="no", attempt=1, offset=0))
        await phone.say(watch(off=True, resume=points))
        assert phone.frames == [Watching(request_id="watch-1", conversation_id="c", number=1, turn="q")]

    on(main)


def test_a_renewal_costs_no_text_and_keeps_the_place() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch(1))
        await asyncio.sleep(KEPT_MS / 1000 - 1)
        await asker.say(question())
        await asyncio.sleep(0.25)
        await phone.say(watch(2, resume=(ResumePoint(request_id="q", attempt=1, offset=len(text_of(phone.frames))),)))
        await backend.queue.idle()
        assert sum(len(one.delta) for one in about(phone.frames) if isinstance(one, MessageDelta)) == len(TEXT) + 1
        await asyncio.sleep(2)
        await asker.say(question("q2"))
        await backend.queue.idle()
        assert ending(phone.frames, "q2") == ending(asker.frames, "q2")
        await asyncio.sleep(KEPT_MS / 1000)
        await asker.say(question("q3"))
        await backend.queue.idle()
        assert about(phone.frames, "q3") == [], "nobody has renewed it"

    on(main)


# --- who is shown nothing


def test_nobody_is_shown_what_it_did_not_ask_for() -> None:
    """A session that watches nothing, that watches another conversation, or of another user with equal ids."""

    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, first = await one_of(backend, "desk"), await one_of(backend, "first")
        elsewhere = await one_of(backend, "elsewhere")
        stranger = await one_of(backend, "stranger", user="lee", session="phone")
        await first.say(Hello(hello_id="h"))
        await elsewhere.say(watch(conversation="other"))
        await asker.say(question())
        await stranger.say(watch(resume=(ResumePoint(request_id="q", attempt=1, offset=0),)))
        await stranger.say(watch(2, conversation=None))
        await stranger.say(CancelMessage(request_id="q", conversation_id="c"))
        await backend.queue.idle()
        assert ending(asker.frames).status is Status.COMPLETED
        assert (len(first.frames), len(elsewhere.frames)) == (1, 1)
        unknown = [frame for frame in stranger.frames if isinstance(frame, Error)]
        assert [frame.code for frame in unknown] == [ErrorCode.UNKNOWN_REQUEST] * 2
        assert [frame for frame in stranger.frames if not isinstance(frame, Error)] == [
            Watching(request_id="watch-1", conversation_id="c", number=1),
            Watching(request_id="watch-2", number=2),
        ]
        await stranger.say(question())
        await backend.queue.idle()
        assert len(about(asker.frames)) == len([*about(asker.frames)])
        assert ending(stranger.frames).status is Status.COMPLETED
        record = await backend.store.read(RequestKey("kim", "q"))
        assert record is not None
        assert (record.watchers, record.schema) == ((), 1)

    on(main)


def test_a_conversation_has_one_name() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch(conversation="\u1112\u1161\u11ab"))
        await asker.say(question(conversation_id="\ud55c"))
        await backend.queue.idle()
        assert phone.frames[0] == Watching(request_id="watch-1", conversation_id="\ud55c", number=1)
        assert ending(phone.frames) == ending(asker.frames)
        assert isinstance(phone.frames[1], MessageAsked)
        assert phone.frames[1].conversation_id == "\ud55c"

    on(main)


def test_a_deleted_conversation_has_no_turns_and_begins_again() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await asker.say(question())
        await backend.queue.idle()
        await asker.say(UpdateConversation(request_id="u1", conversation_id="c", deleted=True))
        await phone.say(watch())
        assert phone.frames == [Watching(request_id="watch-1", conversation_id="c", number=1)]
        await asker.say(question("again"))
        await backend.queue.idle()
        assert ending(phone.frames, "again") == ending(asker.frames, "again")

    on(main)


def test_its_own_question_comes_once() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await asker.say(watch())
        await phone.say(watch())
        await asker.say(question())
        await asyncio.sleep(0.2)
        await asker.say(watch(2))
        await backend.queue.idle()
        assert not [frame for frame in asker.frames if isinstance(frame, MessageAsked)]
        deltas = [frame for frame in about(asker.frames) if isinstance(frame, MessageDelta)]
        assert "".join(one.delta for one in deltas) == f"{TEXT} "
        assert len([frame for frame in asker.frames if isinstance(frame, MessageResponse)]) == 1
        await phone.say(question("back"))
        await backend.queue.idle()
        assert ending(asker.frames, "back") == ending(phone.frames, "back")

    on(main)


def test_one_too_many_is_told() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words), most_watchers=2)
        peers = [await one_of(backend, f"p{number}") for number in range(4)]
        for peer in peers[:3]:
            await peer.say(watch())
        (error,) = peers[2].frames
        assert isinstance(error, Error)
        assert (error.code, error.request_id) == (ErrorCode.OVERLOADED, "watch-1")
        await peers[0].leave()
        await peers[2].say(watch(2))
        assert isinstance(peers[2].frames[-1], Watching)
        await peers[3].say(question())
        await backend.queue.idle()
        assert ending(peers[2].frames) == ending(peers[1].frames) == ending(peers[3].frames)

    on(main)


def test_what_was_left_takes_no_place_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("answerback.stores.connections.MOST_WATCHED", 2)

    async def main() -> None:
        phone = await one_of(Backend(model=ScriptedModel(words)), "phone")
        for number, name in enumerate("ab"):
            await phone.say(watch(2 * number, conversation=name))
            await phone.say(watch(2 * number + 1, conversation=name, off=True))
        await asyncio.sleep(LEFT_MS / 1000)
        await phone.say(watch(9))
        assert isinstance(phone.frames[-1], Watching)

    on(main)


# --- pace: each its own


class Stalling(ScriptedSender):
    """Sending to one connection takes a while, as a post may."""

    def __init__(self, *, parks: bool = True) -> None:
        super().__init__(parks=parks)
        self.stalls: set[str] = set()
        self.at: dict[str, list[tuple[float, ServerFrame]]] = defaultdict(list)

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        if connection_id in self.stalls:
            await asyncio.sleep(5.0)
        self.at[connection_id].append((asyncio.get_running_loop().time(), frame))
        return await super().send(connection_id, frame)


@pytest.mark.parametrize("stalled", ["w0", "w1"])
def test_a_connection_that_stalls_holds_up_nobody_else(stalled: str) -> None:
    async def main() -> None:
        sender = Stalling()
        backend = Backend(model=ScriptedModel(words), sender=sender)
        asker, *others = [await one_of(backend, name) for name in ("desk", "w0", "w1")]
        for name in ("desk", "w0", "w1"):
            sender.open(name)
        for peer in others:
            await peer.say(watch())
        sender.stalls.add(stalled)
        await asker.say(question())
        await backend.queue.idle()
        free = ({"w0", "w1"} - {stalled}).pop()
        for name in ("desk", free):
            times = [at for at, frame in sender.at[name] if isinstance(frame, MessageDelta)]
            assert times == pytest.approx([0.1 * n for n in range(6)], abs=0.02), "no piece is late"
            at, last = sender.at[name][-1]
            assert isinstance(last, MessageResponse)
            assert at < 1.0
        await asyncio.sleep(60)
        assert text_of(sender.frames[stalled]) == f"{TEXT} "

    on(main)


@pytest.mark.parametrize("parks", [True, False])
def test_a_slow_watcher_holds_neither_the_asker_nor_the_queue(parks: bool) -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words), parks=parks)
        asker, phone, tablet = [await one_of(backend, name) for name in ("desk", "phone", "tablet")]
        for peer in (phone, tablet):
            await peer.say(watch())
        await asker.say(question())
        await asyncio.sleep(0.15)
        has = text_of(phone.frames)
        backend.sender.slow.add("phone")
        await backend.queue.idle()
        assert asyncio.get_running_loop().time() < 0.6 + WATCHERS_S + 0.01, (
            "what waits behind it does not wait for long"
        )
        assert backend.queue.handed_out == [RequestKey("kim", "q")]
        assert ending(asker.frames).status is Status.COMPLETED
        assert text_of(phone.frames) == has
        backend.sender.drain("phone")
        seen = len(tablet.frames)
        for parked in backend.sender.parked:
            assert parked[:2] == ("phone", RequestKey("kim", "q"))
            await backend.front.unpark(*parked)
        assert len(backend.sender.parked) == (1 if parks else 0)
        assert len(tablet.frames) == seen, "what was parked is for the phone"
        if parks:
            assert text_of(phone.frames) == f"{TEXT} "
            assert ending(phone.frames) == ending(asker.frames)

    on(main)


def test_what_was_parked_before_its_question_was_shown_begins_with_it() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        gone = await one_of(backend, "gone", user="lee")
        await phone.say(watch())
        backend.sender.slow.add("phone")
        await asker.say(question())
        await backend.queue.idle()
        backend.sender.drain("phone")
        ((name, *place),) = backend.sender.parked
        await backend.front.unpark("gone", *place)
        assert gone.frames == [], "it is another user's"
        await backend.front.unpark(name, *place)
        assert isinstance(about(phone.frames)[0], MessageAsked)
        assert ending(phone.frames) == ending(asker.frames)
        await phone.say(watch(2, off=True))
        seen = len(phone.frames)
        await backend.front.unpark(name, *place)
        assert len(phone.frames) == seen, "it watches no longer"

    on(main)


# --- several processes: nobody tells the worker, and what is read may be late


class Late(MemoryConnections):
    """Some reads of who watches fail."""

    fails = 0
    error: Exception = Unavailable("not now")
    waits_s = 0.0

    async def watchers(
        self, user_id: str, *conversations: str | None, now_ms: int
    ) -> Mapping[str | None, Sequence[Watcher]]:
        if any(conversations) and self.fails:
            self.fails -= 1
            raise self.error
        await asyncio.sleep(self.waits_s)
        return await super().watchers(user_id, *conversations, now_ms=now_ms)


def blind(backend: Backend) -> None:
    """Nothing that runs is found when a session begins to watch."""

    async def nothing(user_id: str, conversation_id: str) -> Sequence[Any]:
        return ()

    backend.store.unfinished_in = nothing  # type: ignore[method-assign]


@pytest.mark.parametrize("at_s", [0.05, 0.25, 0.45, 0.58])
def test_a_worker_that_nobody_tells_looks_at_each_renewal_and_after_the_end(at_s: float) -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words), bells_work=False, renew_every_s=0.2)
        blind(backend)
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await asker.say(question())
        await asyncio.sleep(at_s)
        await phone.say(watch())
        assert phone.frames[-1] == Watching(request_id="watch-1", conversation_id="c", number=1)
        await asyncio.sleep(0.21)
        if at_s < 0.3:
            assert about(phone.frames), "it does not wait for the end"
        await backend.queue.idle()
        assert text_of(phone.frames) == f"{TEXT} "
        assert ending(phone.frames) == ending(asker.frames)

    on(main)


def test_what_the_record_notes_is_seen_when_the_worker_polls() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words), bells_work=False, renew_every_s=5.0, look_every_s=0.05)
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await asker.say(question())
        await asyncio.sleep(0.2)
        await phone.say(watch())
        record = await backend.store.read(RequestKey("kim", "q"))
        assert record is not None
        assert [one.session_id for one in record.watchers] == ["phone"]
        assert record.schema == 2
        await asyncio.sleep(0.11)
        assert text_of(phone.frames)
        await backend.queue.idle()
        assert ending(phone.frames) == ending(asker.frames)

    on(main)


@pytest.mark.parametrize("error", [Unavailable("not now"), RuntimeError("our own mistake")])
@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_look_that_fails_is_made_up_for(fails: int, error: Exception) -> None:
    async def main() -> None:
        watching = Late()
        backend = Backend(model=ScriptedModel(words), renew_every_s=0.1, connections=watching)
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        watching.fails, watching.error = fails, error
        await asker.say(question())
        await backend.queue.idle()
        assert ending(phone.frames) == ending(asker.frames)
        assert text_of(phone.frames) == f"{TEXT} "

    on(main)


def test_a_second_attempt_is_shown_from_its_beginning() -> None:
    async def main() -> None:
        policy = Policy(lease_ms=1_000)
        backend = Backend(model=ScriptedModel(words), policy=policy, renew_every_s=0.2)
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        await asker.say(question())
        await asyncio.sleep(0.25)
        assert text_of(phone.frames)
        assert backend.queue.crash(RequestKey("kim", "q"))
        await backend.queue.idle()
        assert [one.attempt for one in about(phone.frames) if isinstance(one, MessageStarted)] == [1, 2]
        assert ending(phone.frames) == ending(asker.frames)
        assert ending(phone.frames).attempt == 2

    on(main)


def test_an_ending_that_was_not_told_is_told_by_whoever_finds_it() -> None:
    async def main() -> None:
        watching = Late()
        backend = Backend(model=ScriptedModel(words), connections=watching)
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await asker.say(question())
        await backend.queue.idle()
        await phone.say(watch())
        record = await backend.store.read(RequestKey("kim", "q"))
        assert record is not None
        assert backend.worker._watchers is not None
        backend.worker._watchers._told.clear()  # as in another process
        watching.fails = 1
        await backend.queue.put(replace(record, queue_no=2))
        await backend.queue.idle()
        assert about(phone.frames) == []
        await backend.queue.put(replace(record, queue_no=3))
        await backend.queue.idle()
        assert ending(phone.frames) == ending(asker.frames)
        seen = len(phone.frames)
        await backend.queue.put(replace(record, queue_no=4))
        await backend.queue.idle()
        assert len(phone.frames) == seen, "once is enough"

    on(main)


def test_what_could_not_be_told_is_told_by_whoever_finds_it_and_little_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchers, "MAX_TOLD", 1)

    async def main() -> None:
        watching = Late()
        backend = Backend(model=ScriptedModel(words), connections=watching)
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        watching.fails = 99
        await asker.say(question())
        await backend.queue.idle()
        assert about(phone.frames) == []
        watching.fails = 0
        record = await backend.store.read(RequestKey("kim", "q"))
        assert record is not None
        await backend.queue.put(replace(record, queue_no=2))
        await backend.queue.idle()
        assert ending(phone.frames) == ending(asker.frames)
        await asker.say(question("q2"))
        await backend.queue.idle()
        assert backend.worker._watchers is not None
        assert list(backend.worker._watchers._told) == [RequestKey("kim", "q2")]

    on(main)


@pytest.mark.parametrize("is_late", [False, True])
def test_who_watches_hears_no_more_of_a_worker_that_has_lost_the_request(is_late: bool) -> None:
    """`is_late`: it was still looking for who watches."""

    async def main() -> None:
        policy, watching = Policy(lease_ms=10**9), Late()  # nobody takes it up
        model = ScriptedModel(lambda _: ["one", 99 * PROGRESS_S, Finish()])
        backend = Backend(model=model, policy=policy, connections=watching)
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        watching.waits_s = is_late * 3 * PROGRESS_S
        await asker.say(question(parts=()))
        await asyncio.sleep(2 * PROGRESS_S)
        assert backend.queue.crash(RequestKey("kim", "q"))
        await asyncio.sleep(0)
        seen = len(about(phone.frames))
        assert bool(seen) is not is_late
        await asyncio.sleep(3 * PROGRESS_S)
        assert len(about(phone.frames)) == seen

    on(main)


def test_a_text_that_can_never_be_stored_is_no_answer_to_anybody() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        await asker.say(question(parts=()))
        await asyncio.sleep(0.25)
        change = backend.store.change

        async def refuses(key: RequestKey, step: Any) -> Any:
            content = getattr(step, "keywords", {}).get("content")
            if content is not None and content.text:
                raise ValueError("it has a character that no database takes")
            return await change(key, step)

        backend.store.change = refuses  # type: ignore[method-assign]
        await backend.queue.idle()
        for peer in (asker, phone):
            (end,) = [frame for frame in about(peer.frames) if isinstance(frame, MessageResponse)]
            assert (end.status, end.length) == (Status.FAILED, 0)
        seen = len(phone.frames)
        await asyncio.sleep(3 * PROGRESS_S)
        assert len(phone.frames) == seen

    on(main)


def test_the_watched_answer_of_a_session_that_moved_follows_it() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch(7))
        await asker.say(question())
        await asyncio.sleep(0.15)
        newer = await one_of(backend, "phone2", session="phone")
        has = len(text_of(phone.frames))
        await newer.say(watch(1, resume=(ResumePoint(request_id="q", attempt=1, offset=has),)))
        seen = len(about(phone.frames))
        await phone.say(watch(8))
        await backend.queue.idle()
        assert len(about(phone.frames)) == seen
        assert about(newer.frames)[0].offset == has
        assert isinstance(newer.frames[-1], MessageResponse)

    on(main)


def test_a_place_is_refused_to_a_connection_that_is_closed() -> None:
    async def main() -> None:
        connections = MemoryConnections()
        watcher = Watcher(session_id="s", connection_id="gone", generation=1, number=1, until_ms=9)
        assert await connections.watch("kim", "c", watcher, now_ms=0, most=8) is Place.OLDER
        assert not connections.watched

    on(main)


def test_a_target_of_the_asker_is_not_for_those_who_watch() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(words))
        asker, phone = await one_of(backend, "desk"), await one_of(backend, "phone")
        await phone.say(watch())
        await asker.say(question())
        await asyncio.sleep(0.25)
        again = await one_of(backend, "desk2", session="desk")
        await again.say(Hello(hello_id="h", resume=(ResumePoint(request_id="q", attempt=0, offset=0),)))
        await backend.queue.idle()
        assert text_of(phone.frames) == text_of(again.frames) == f"{TEXT} "
        assert ending(phone.frames) == ending(again.frames)

    on(main)
