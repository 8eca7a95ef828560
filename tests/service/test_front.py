"""What a front does with frames that are wrong, foreign, or about something else than an answer."""

import asyncio

from answerback.core import request as changes
from answerback.core.budget import Price, Tariff, Terms
from answerback.core.request import Change, Policy, RequestKey
from answerback.ports import (
    Existing,
    Identity,
    ModelLimits,
    Quota,
    T,
    TokenRefused,
    Unavailable,
    answer_timeouts_ms,
    within,
)
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    CancelMessage,
    Conversation,
    Conversations,
    Error,
    GetHistory,
    Hello,
    History,
    ListConversations,
    MessageProgress,
    MessageResponse,
    ModelInfo,
    Ping,
    Pong,
    RenewToken,
    ResumePoint,
    SendMessage,
    Status,
    TokenRenewed,
    UpdateConversation,
    Welcome,
)
from answerback.protocol.limits import MAX_FRAME_BYTES
from answerback.service.front_settings import FrontSettings
from answerback.stores.sqlite import MemoryStore
from answerback.testing import Backend, ScriptedModel, run_virtual
from answerback.testing.backend import Peer


def ask(request_id: str, message: str = "one two three", **more: object) -> SendMessage:
    return SendMessage(request_id=request_id, message=message, **more)  # type: ignore[arg-type]


def last_error(peer: Peer) -> Error:
    return [frame for frame in peer.frames if isinstance(frame, Error)][-1]


def refusal(peer: Peer) -> ErrorCode:
    frame = peer.frames[-1]
    assert isinstance(frame, MessageResponse)
    assert frame.status is Status.FAILED
    assert frame.error is not None
    return frame.error.code


def test_clients_are_told_what_single_models_may_and_know() -> None:
    limits = {
        "plain": ModelLimits(),
        "thinker": ModelLimits(answer_timeout_s=600, max_tokens=16_384),
        "little": ModelLimits(languages=("en",), demo=True),
    }
    policy = Policy(answer_timeouts_ms=answer_timeouts_ms(limits))
    prices = {"plain": None, "thinker": Price(1, 2, 0)}
    terms = {name: Terms(max_tokens=10, context_tokens=0, price=price) for name, price in prices.items()}
    quota = Quota(per_minute=0, max_pending=1, tariff=Tariff(models=terms))
    settings = FrontSettings(models=tuple(limits), model_limits=limits, policy=policy, quota=quota)
    assert settings.model_info() == {
        "thinker": ModelInfo(answer_timeout_ms=600_000, max_tokens=16_384, priced=True),
        "little": ModelInfo(languages=("en",), demo=True),
    }
    assert [settings.tokens_of(name) for name in ("plain", "thinker", "unknown")] == [1024, 16_384, 1024]


def test_an_answer_gets_at_most_half_of_the_context() -> None:
    assert within(ModelLimits(), 4096, max_tokens=1024) == ModelLimits()
    assert within(ModelLimits(), 512, max_tokens=1024) == ModelLimits(max_tokens=256)
    assert within(ModelLimits(max_tokens=9000), 16_384, max_tokens=1024) == ModelLimits(max_tokens=8192)
    assert within(ModelLimits(max_tokens=100), 512, max_tokens=1024) == ModelLimits(max_tokens=100)


def test_a_welcome_fits_a_frame_however_many_models_there_are() -> None:
    names = [f"{number:03}" + "모" * 125 for number in range(60)]
    limits = {name: ModelLimits(answer_timeout_s=600, max_tokens=16_384, languages=("en", "ko")) for name in names}
    policy = Policy(answer_timeouts_ms=answer_timeouts_ms(limits))
    settings = FrontSettings(models=names, model_limits=limits, policy=policy, quota=Quota(per_minute=0, max_pending=1))
    told = settings.model_info()
    assert 0 < len(told) < len(names)
    welcome = Welcome(
        hello_id="h" * 128,
        connection_id="c" * 128,
        session_id="s" * 128,
        user_id="u" * 128,
        protocol=1,
        limits=settings.limits(),
        models=tuple(names),
        model_info=told,
    )
    assert len(encode(welcome)) <= MAX_FRAME_BYTES


def test_a_hello_brings_a_sign_of_every_unfinished_request_to_those_who_take_signs() -> None:
    """Also of one that runs, as its record says: its worker may have died, and then the front alone can answer."""

    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda prompt: (60.0, "late")))
        peer = await backend.connect("c1", session="s", user="kim")
        await peer.say(ask("first", parts=()))
        await peer.say(ask("with", parts=()))
        await peer.say(ask("without"))
        await asyncio.sleep(5.0)
        points = tuple(ResumePoint(request_id=name, attempt=0, offset=0) for name in ("first", "with", "without"))
        await peer.say(Hello(hello_id="h", resume=points))
        signs = [frame for frame in peer.frames if isinstance(frame, MessageProgress)]
        assert signs == [MessageProgress(request_id=name, attempt=0, silent_ms=5000) for name in ("first", "with")]
        await backend.queue.idle()
        signs = [frame for frame in peer.frames if isinstance(frame, MessageProgress) and frame.attempt]
        assert {sign.request_id for sign in signs} == {"first", "with"}
        assert [s.silent_ms // 1000 for s in signs if s.request_id == "first"] == [8, 16, 24, 32, 40, 48, 56]

    run_virtual(main())


def test_bad_frames_get_an_error_that_says_what_to_do_and_the_connection_lives() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        for bad in (
            "not json",
            "[]",
            "5",
            '{"a":1}',
            '{"action":"dance"}',
            '{"action":"hello"}',
            b"\xff\xfe",
            "[" * 9999,
        ):
            await peer.say(bad)
            assert last_error(peer).code is ErrorCode.INVALID_FRAME
        await peer.say("x" * 200_000)
        assert last_error(peer).code is ErrorCode.MESSAGE_TOO_LARGE
        await peer.say(ask("r1"))
        await backend.queue.idle()
        assert peer.frames[-1].status is Status.COMPLETED  # type: ignore[union-attr]

    run_virtual(main())


def test_a_broken_question_is_a_refused_request_and_stays_refused() -> None:
    async def main() -> None:
        model = ScriptedModel(lambda prompt: ["x"])
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        await peer.say('{"action":"sendMessage","requestId":"r1","message":7}')
        assert refusal(peer) is ErrorCode.INVALID_FRAME
        await peer.say(ask("r1"))
        assert refusal(peer) is ErrorCode.INVALID_FRAME
        assert model.prompts == []

    run_virtual(main())


def test_a_broken_repeat_of_a_running_question_is_no_second_ending() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1"))
        await peer.say('{"action":"sendMessage","requestId":"r1","message":""}')
        assert last_error(peer).code is ErrorCode.REQUEST_CONFLICT
        await backend.queue.idle()
        assert [type(f) for f in peer.frames].count(MessageResponse) == 1

    run_virtual(main())


def test_refusals_that_are_kept_are_limited_and_the_rest_end_nothing() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        for n in range(150):
            await peer.say(f'{{"action":"sendMessage","requestId":"r{n}","message":""}}')
            await peer.say(CancelMessage(request_id=f"c{n}"))
        assert len(backend.store.records) == 100
        sent = last_error(peer)
        assert (sent.code, sent.request_id) == (ErrorCode.RATE_LIMITED, "c149")
        assert sent.retry_after_ms
        other = await backend.connect("c2", user="lee")
        await other.say(CancelMessage(request_id="r1"))
        assert isinstance(other.frames[-1], MessageResponse), "nobody else is affected"
        await peer.say(ask("fine"))
        await peer.say(CancelMessage(request_id="fine"))
        await backend.queue.idle()
        ended = [f for f in peer.frames if isinstance(f, MessageResponse) and f.request_id == "fine"]
        assert ended[0].status is Status.CANCELLED, "what is known can be cancelled all the same"

    run_virtual(main())


def test_the_user_is_the_first_one_named_and_no_other() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1")
        await peer.say(ask("r1", user_id="kim"))
        await peer.say(ask("r2", user_id="lee"))
        assert refusal(peer) is ErrorCode.USER_MISMATCH
        await backend.queue.idle()
        assert await backend.store.read(RequestKey("kim", "r1")) is not None
        nobody = await backend.connect("c2")
        await nobody.say(ask("r1"))
        assert await backend.store.read(RequestKey("anonymous", "r1")) is not None
        await backend.queue.idle()

    run_virtual(main())


def test_a_broken_first_frame_does_not_decide_whose_connection_it_is() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1")
        await peer.say('{"action":"dance","requestId":"r0"}')
        assert last_error(peer).code is ErrorCode.INVALID_FRAME
        await peer.say('{"action":"sendMessage","requestId":"r1","userId":"kim","message":""}')
        assert refusal(peer) is ErrorCode.INVALID_FRAME
        await peer.say(ask("r2", user_id="kim"))
        await backend.queue.idle()
        assert peer.frames[-1].status is Status.COMPLETED  # type: ignore[union-attr]
        nameless = await backend.connect("c2")
        await nameless.say('{"action":"sendMessage","requestId":"r1","message":""}')
        assert refusal(nameless) is ErrorCode.INVALID_FRAME, "a client that names nobody is anonymous, and is answered"

    run_virtual(main())


def test_models_and_system_prompts_that_are_not_allowed_are_refused() -> None:
    async def main() -> None:
        backend = Backend(lock_system=True, system="be kind")
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", model="gpt"))
        assert refusal(peer) is ErrorCode.FORBIDDEN
        await peer.say(ask("r2", system="be rude"))
        assert refusal(peer) is ErrorCode.FORBIDDEN
        await peer.say(ask("r3", replaces="r0"))
        assert refusal(peer) is ErrorCode.INVALID_FRAME
        await peer.say(ask("r4"))
        await backend.queue.idle()
        assert backend.model.prompts[0].system == "be kind"  # type: ignore[attr-defined]

    run_virtual(main())


def test_a_second_app_with_the_session_takes_over_and_the_older_cannot_take_it_back() -> None:
    async def main() -> None:
        backend = Backend()
        first = await backend.connect("c1", session="s", user="kim")
        await first.say(Hello(hello_id="h"))
        await asyncio.sleep(1)
        second = await backend.connect("c2", session="s", user="kim")
        assert "c1" not in backend.sender.closed, "nothing happens before the first frame"
        await second.say(Hello(hello_id="h"))
        assert last_error(first).code is ErrorCode.SESSION_REPLACED
        assert backend.sender.closed == {"c1"}
        assert isinstance(second.frames[-1], Welcome)

    run_virtual(main())


def test_a_session_goes_on_though_its_older_connection_does_not_read() -> None:
    async def main() -> None:
        backend = Backend()
        first = await backend.connect("c1", session="s", user="kim")
        await first.say(Hello(hello_id="h"))
        await asyncio.sleep(1)
        backend.sender.slow.add("c1")
        second = await backend.connect("c2", session="s", user="kim")
        async with asyncio.timeout(1):
            await second.say(Hello(hello_id="h"))
        assert isinstance(second.frames[-1], Welcome)
        assert last_error(first).code is ErrorCode.SESSION_REPLACED
        assert backend.sender.closed == {"c1"}

    run_virtual(main())


def test_a_late_first_frame_of_an_older_connection_loses() -> None:
    async def main() -> None:
        backend = Backend()
        older = await backend.connect("c1", session="s", user="kim")
        await asyncio.sleep(1)
        newer = await backend.connect("c2", session="s", user="kim")
        await newer.say(ask("r1", stream=True))
        await older.say(Hello(hello_id="h", resume=(ResumePoint(request_id="r1", attempt=1, offset=0),)))
        assert last_error(older).code is ErrorCode.SESSION_REPLACED
        await backend.queue.idle()
        assert isinstance(newer.frames[-1], MessageResponse)
        assert not any(isinstance(f, MessageResponse) for f in older.frames)

    run_virtual(main())


def test_ids_are_names_inside_their_user_and_session() -> None:
    async def main() -> None:
        backend = Backend()
        mine = await backend.connect("c1", session="s", user="kim")
        await mine.say(ask("r1", "the secret", conversation_id="A", stream=True))
        await backend.queue.idle()
        theirs = await backend.connect("c2", session="s", user="lee")
        point = ResumePoint(request_id="r1", attempt=1, offset=0)
        await theirs.say(Hello(hello_id="h", resume=(point, ResumePoint(request_id="nothing", attempt=1, offset=0))))
        known, unknown = (f for f in theirs.frames if isinstance(f, Error))
        assert (known.code, known.message) == (unknown.code, unknown.message)
        assert known.code is ErrorCode.UNKNOWN_REQUEST
        await theirs.say(GetHistory(request_id="h1", conversation_id="A"))
        assert theirs.frames[-1] == History(request_id="h1", conversation_id="A", turns=())
        await theirs.say(UpdateConversation(request_id="u1", conversation_id="A", title="mine"))
        assert last_error(theirs).code is ErrorCode.UNKNOWN_REQUEST
        await theirs.say(ListConversations(request_id="l1"))
        assert theirs.frames[-1] == Conversations(request_id="l1", conversations=())
        await theirs.say(CancelMessage(request_id="r1"))
        assert isinstance(theirs.frames[-1], MessageResponse)
        assert theirs.frames[-1].status is Status.CANCELLED
        assert "secret" not in repr(theirs.frames)
        other_session = await backend.connect("c3", session="t", user="kim")
        await other_session.say(Hello(hello_id="h", resume=(point,)))
        assert last_error(other_session).code is ErrorCode.REQUEST_CONFLICT
        assert "secret" not in repr(other_session.frames)

    run_virtual(main())


def test_conversations_are_listed_renamed_deleted_and_restored() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        for name in ("A", "B"):
            await peer.say(ask(f"r{name}", f"first of {name}\nmore", conversation_id=name))
            await backend.queue.idle()
        await peer.say(ListConversations(request_id="l"))
        listed = peer.frames[-1]
        assert isinstance(listed, Conversations)
        assert [(c.conversation_id, c.title, c.turns) for c in listed.conversations] == [
            ("B", "first of B", 1),
            ("A", "first of A", 1),
        ]
        await peer.say(UpdateConversation(request_id="u", conversation_id="A", title="제목"))
        assert peer.frames[-1] == Conversation(request_id="u", conversation_id="A", title="제목", deleted=False)
        await peer.say(UpdateConversation(request_id="d", conversation_id="A", deleted=True))
        await peer.say(GetHistory(request_id="h", conversation_id="A"))
        assert peer.frames[-1] == History(request_id="h", conversation_id="A", turns=())
        await peer.say(UpdateConversation(request_id="d", conversation_id="A", deleted=False))
        await peer.say(GetHistory(request_id="h", conversation_id="A"))
        restored = peer.frames[-1]
        assert isinstance(restored, History)
        assert [t.answer for t in restored.turns] == ["first of A\nmore"]

    run_virtual(main())


def test_history_pages_join_to_the_exact_texts_however_long() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda prompt: [prompt.messages[-1].text]))
        peer = await backend.connect("c1", user="kim")
        questions = [f'{n} "긴 이야기" 😀\n ' * size for n, size in enumerate((1, 2000, 3, 4000, 500))]
        for n, question in enumerate(questions):
            await peer.say(ask(f"r{n}", question, conversation_id="A", stream=True))
            await backend.queue.idle()
        asked = dict.fromkeys((f"r{n}" for n in range(5)), "")
        answered = dict(asked)
        before = None
        pages = 0
        while True:
            await peer.say(GetHistory(request_id="h", conversation_id="A", before=before, limit=2))
            page = peer.frames[-1]
            assert isinstance(page, History)
            for turn in reversed(page.turns):
                asked[turn.request_id] = turn.question + asked[turn.request_id]
                answered[turn.request_id] = turn.answer + answered[turn.request_id]
                assert turn.question_offset == len(questions[int(turn.request_id[1:])]) - len(asked[turn.request_id])
            pages += 1
            before = page.next
            if before is None:
                break
        assert list(asked.values()) == questions
        assert list(answered.values()) == questions
        assert pages > 5
        await peer.say(GetHistory(request_id="h", conversation_id="A", before="nonsense"))
        assert last_error(peer).code is ErrorCode.INVALID_FRAME

    run_virtual(main())


class _Tokens:
    async def identify(self, token: str) -> Identity:
        if token == "bad":
            raise TokenRefused("expired")
        user, _, expires = token.partition("/")
        return Identity(user, int(expires))


def test_an_expired_token_refuses_new_requests_until_it_is_renewed_and_running_ones_finish() -> None:
    async def main() -> None:
        backend = Backend(tokens=_Tokens(), model=ScriptedModel(lambda prompt: [5.0, "done"]))
        expiry = backend.clock() + 1000
        peer = await backend.connect("c1", user="kim", token_expires_at_ms=expiry)
        await peer.say(ask("r1"))
        await asyncio.sleep(2)
        await peer.say(ask("r2"))
        assert refusal(peer) is ErrorCode.UNAUTHORIZED
        await peer.say(ListConversations(request_id="l"))
        assert (last_error(peer).code, last_error(peer).request_id) == (ErrorCode.UNAUTHORIZED, "l")
        await peer.say(RenewToken(request_id="t", token="bad"))
        assert last_error(peer).code is ErrorCode.UNAUTHORIZED
        await peer.say(RenewToken(request_id="t", token=f"lee/{expiry + 60_000}"))
        assert last_error(peer).code is ErrorCode.USER_MISMATCH
        await peer.say(RenewToken(request_id="t", token=f"kim/{expiry + 60_000}"))
        assert peer.frames[-1] == TokenRenewed(request_id="t", expires_at="2026-01-01T00:01:01.000Z")
        await peer.say(ask("r3"))
        await backend.queue.idle()
        ended = {f.request_id: f.status for f in peer.frames if isinstance(f, MessageResponse)}
        assert ended == {"r1": Status.COMPLETED, "r2": Status.FAILED, "r3": Status.COMPLETED}

    run_virtual(main())


def test_a_ping_is_answered_and_keeps_the_connection_from_being_idle() -> None:
    async def main() -> None:
        backend = Backend()
        lively = await backend.connect("c1", user="kim")
        await backend.connect("c2", user="lee")
        for _ in range(3):
            await asyncio.sleep(1500)
            await lively.say(Ping())
            await backend.janitor.sweep()
        assert lively.frames == [Pong()] * 3
        assert backend.sender.closed == {"c2"}
        assert await backend.connections.get("c2") is None

    run_virtual(main())


class _Outage(MemoryStore):
    """A store that is unavailable while `down`; `late` also lets the write happen before it says so."""

    down = False
    late = False

    async def accept(self, record, question, quota, *, now_ms):  # type: ignore[no-untyped-def]
        if self.down and not self.late:
            raise Unavailable
        admission = await super().accept(record, question, quota, now_ms=now_ms)
        if self.down:
            raise Unavailable
        return admission

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        if self.down and not self.late:
            raise Unavailable
        outcome = await super().change(key, change)
        if self.down:
            raise Unavailable
        return outcome


class Erasing(MemoryStore):
    """Erases a user whose request was just found."""

    async def accept(self, record, question, quota, *, now_ms):  # type: ignore[no-untyped-def]
        admission = await super().accept(record, question, quota, now_ms=now_ms)
        if isinstance(admission, Existing):
            await self.delete_user(record.user_id)
        return admission


def test_a_repeat_of_what_is_erased_meanwhile_is_told() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda prompt: ["word"] * 1000), store=Erasing())
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1"))
        await peer.say(ask("r1"))
        assert (last_error(peer).code, last_error(peer).request_id) == (ErrorCode.REQUEST_CONFLICT, "r1")

    run_virtual(main())


class Hesitant(MemoryStore):
    """Sets the second target of a request a minute late."""

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        if getattr(change, "func", None) is changes.retarget:
            await asyncio.sleep(60)
        return await super().change(key, change)


def test_who_cancels_what_ends_meanwhile_is_told_how_it_ended() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda prompt: ["word", 100.0]), store=Hesitant())
        old = await backend.connect("c1", session="s", user="kim")
        await old.say(ask("r1"))
        await asyncio.sleep(1)
        new = await backend.connect("c2", session="s", user="kim")
        await new.say(CancelMessage(request_id="r1"))
        assert [frame.status for frame in new.frames if isinstance(frame, MessageResponse)] == [Status.CANCELLED]

    run_virtual(main())


def test_an_outage_is_sent_as_unavailable_and_the_same_frame_works_later() -> None:
    async def main() -> None:
        for late in (False, True):
            store = _Outage()
            model = ScriptedModel(lambda prompt: ["done"])
            backend = Backend(store=store, model=model)
            peer = await backend.connect("c1", user="kim")
            store.down, store.late = True, late
            await peer.say(ask("r1"))
            error = last_error(peer)
            assert (error.code, error.request_id) == (ErrorCode.UNAVAILABLE, "r1")
            assert error.retry_after_ms
            store.down = False
            await peer.say(ask("r1"))
            await backend.queue.idle()
            assert isinstance(peer.frames[-1], MessageResponse)
            assert len(model.prompts) == 1

    run_virtual(main())


def test_an_outage_is_one_line_in_the_log(caplog) -> None:  # type: ignore[no-untyped-def]
    class Full(_Outage):
        async def accept(self, *_, **__):  # type: ignore[no-untyped-def]
            raise Unavailable("the disk is full; free some space")

    async def main() -> None:
        backend = Backend(store=Full(), model=ScriptedModel(lambda prompt: []))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1"))

    run_virtual(main())
    (line,) = [r for r in caplog.records if r.name == "answerback.front"]
    assert line.getMessage() == "the store is unavailable: the disk is full; free some space"
    assert line.exc_info is None


def test_an_outage_in_mid_answer_loses_nothing() -> None:
    async def main() -> None:
        for late in (False, True):
            store = _Outage()
            model = ScriptedModel(lambda prompt: ["one ", 5.0, "two"])
            backend = Backend(store=store, model=model)
            peer = await backend.connect("c1", user="kim")
            await peer.say(ask("r1"))
            await asyncio.sleep(1)
            store.down, store.late = True, late
            await asyncio.sleep(15)
            store.down = False
            await backend.queue.idle()
            (ending,) = (f for f in peer.frames if isinstance(f, MessageResponse))
            assert ending.response == "one two"
            assert len(model.prompts) == 1

    run_virtual(main())


def test_a_request_that_was_stored_but_never_queued_is_found_by_the_janitor() -> None:
    async def main() -> None:
        store = _Outage()
        backend = Backend(store=store, model=ScriptedModel(lambda prompt: ["done"]))
        peer = await backend.connect("c1", user="kim")
        store.down = store.late = True
        await peer.say(ask("r1"))
        store.down = False
        await asyncio.sleep(11)
        await backend.janitor.sweep()
        await backend.queue.idle()
        assert isinstance(peer.frames[-1], MessageResponse)

    run_virtual(main())
