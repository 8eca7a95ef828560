"""One question and its answer, through the real front and worker."""

import asyncio
from collections.abc import AsyncGenerator, Iterable

import pytest

from answerback.core.request import Policy, RequestKey
from answerback.ports import Finish, ModelError, Piece, Prompt, Quota
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    CancelMessage,
    Error,
    Hello,
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    MessageStarted,
    ResumePoint,
    SendMessage,
    Status,
    Welcome,
)
from answerback.service.worker import claim_pauses_s
from answerback.testing import Backend, ScriptedModel, run_virtual
from answerback.testing.backend import Line, Peer, say_question


def ask(request_id: str, message: str = "one two three", **more: object) -> SendMessage:
    return SendMessage(request_id=request_id, message=message, **more)  # type: ignore[arg-type]


def endings(peer: Peer) -> list[MessageResponse]:
    return [frame for frame in peer.frames if isinstance(frame, MessageResponse)]


def errors(peer: Peer) -> list[Error]:
    return [frame for frame in peer.frames if isinstance(frame, Error)]


def text(peer: Peer, request_id: str) -> str:
    """What a careful client would have on screen: deltas laid by offset, an older attempt dropped."""
    attempt, got = 0, ""
    for frame in peer.frames:
        if isinstance(frame, MessageDelta) and frame.request_id == request_id:
            if frame.attempt > attempt:
                attempt, got = frame.attempt, ""
            assert frame.offset <= len(got), "a gap"
            got = got[: frame.offset] + frame.delta
    return got


def test_a_streamed_answer_is_accepted_started_streamed_and_ended() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", stream=True))
        await backend.queue.idle()
        kinds = [type(frame) for frame in peer.frames]
        assert kinds[:2] == [MessageAccepted, MessageStarted]
        assert set(kinds[2:-1]) == {MessageDelta}
        assert text(peer, "r1") == "one two three"
        (ending,) = endings(peer)
        assert (ending.status, ending.response, ending.length) == (Status.COMPLETED, None, 13)
        assert ending.usage is not None
        assert ending.usage.output_tokens == 3
        assert ending.timing is not None
        assert (await backend.store.answer(_key("kim", "r1"))).text == "one two three"

    run_virtual(main())


def test_the_two_frame_client_gets_the_whole_answer_in_one_frame() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1")
        await peer.say(
            '{"action":"sendMessage","requestId":"r1","userId":"user_001","message":"hello there","timestamp":"x"}'
        )
        await backend.queue.idle()
        assert [type(frame) for frame in peer.frames] == [MessageAccepted, MessageResponse]
        assert endings(peer)[0].response == "hello there"

    run_virtual(main())


def test_many_apps_at_once_get_their_own_answers_only() -> None:
    async def main() -> None:
        backend = Backend()
        peers = [await backend.connect(f"c{n}", user=f"user{n % 7}") for n in range(50)]
        await asyncio.gather(
            *(
                peer.say(ask(f"r{n}-{m}", f"app {n} question {m}", stream=m % 2 == 0))
                for n, peer in enumerate(peers)
                for m in range(10)
            )
        )
        await backend.queue.idle()
        for n, peer in enumerate(peers):
            assert sorted(e.request_id for e in endings(peer)) == sorted(f"r{n}-{m}" for m in range(10))
            for m in range(10):
                expected = f"app {n} question {m}"
                ending = next(e for e in endings(peer) if e.request_id == f"r{n}-{m}")
                assert (text(peer, f"r{n}-{m}") if m % 2 == 0 else ending.response) == expected

    run_virtual(main())


def test_requests_of_one_key_start_in_order_one_at_a_time_and_keys_do_not_wait_for_each_other() -> None:
    async def main() -> None:
        model = ScriptedModel(say_question)
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        for n in range(5):
            await peer.say(ask(f"a{n}", f"a {n}", conversation_id="A"))
            await peer.say(ask(f"b{n}", f"b {n}", conversation_id="B"))
        accepted = [frame for frame in peer.frames if isinstance(frame, MessageAccepted)]
        assert [frame.position for frame in accepted] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        await backend.queue.idle()
        order = [p.request_id for p in model.prompts]
        assert [r for r in order if r[0] == "a"] == [f"a{n}" for n in range(5)]
        assert [r for r in order if r[0] == "b"] == [f"b{n}" for n in range(5)]
        assert order[:2] == ["a0", "b0"], "B waited for A"

    run_virtual(main())


def test_a_conversation_remembers_and_a_question_without_one_stands_alone() -> None:
    async def main() -> None:
        model = ScriptedModel(say_question)
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", "my name is Min", conversation_id="A"))
        await peer.say(ask("r2", "who am I", conversation_id="A"))
        await peer.say(ask("r3", "who am I"))
        await peer.say(ask("r4", "and now"))
        await backend.queue.idle()
        said = {p.request_id: [m.text for m in p.messages] for p in model.prompts}
        assert said["r2"] == ["my name is Min", "my name is Min", "who am I"]
        assert said["r3"] == ["who am I"]
        assert said["r4"] == ["and now"]

    run_virtual(main())


def test_replaces_leaves_the_replaced_turn_out_of_the_context() -> None:
    async def main() -> None:
        model = ScriptedModel(say_question)
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", "first", conversation_id="A"))
        await peer.say(ask("r2", "secnd", conversation_id="A"))
        await peer.say(ask("r3", "second", conversation_id="A", replaces="r2"))
        await peer.say(ask("r4", "third", conversation_id="A"))
        await backend.queue.idle()
        said = {p.request_id: [m.text for m in p.messages] for p in model.prompts}
        assert said["r3"] == ["first", "first", "second"]
        assert said["r4"] == ["first", "first", "second", "second", "third"]

    run_virtual(main())


def test_a_connection_cut_in_mid_answer_resumes_at_the_very_character() -> None:
    async def main() -> None:
        backend = Backend()
        question = " ".join(f"단어{n}😀" for n in range(100))
        peer = await backend.connect("c1", session="s", user="kim")
        await peer.say(ask("r1", question, stream=True))
        await asyncio.sleep(0.5)
        had = text(peer, "r1")
        assert 0 < len(had) < len(question)
        await peer.leave()
        await asyncio.sleep(0.2)
        again = await backend.connect("c2", session="s", user="kim")
        await again.say(Hello(hello_id="h", resume=(ResumePoint(request_id="r1", attempt=1, offset=len(had)),)))
        await backend.queue.idle()
        deltas = [frame for frame in again.frames if isinstance(frame, MessageDelta)]
        assert deltas[0].offset == len(had)
        assert had + "".join(frame.delta for frame in deltas) == question
        assert len(backend.model.prompts) == 1  # type: ignore[attr-defined]
        assert isinstance(again.frames[0], Welcome), "retargeted, and no text was due before the welcome"
        assert [e.status for e in endings(again)] == [Status.COMPLETED]
        assert endings(peer) == []

    run_virtual(main())


def test_an_answer_that_ended_while_nobody_was_there_is_served_from_the_store() -> None:
    async def main() -> None:
        backend = Backend()
        peer = await backend.connect("c1", session="s", user="kim")
        await peer.say(ask("r1", stream=True))
        await peer.leave()
        await backend.queue.idle()
        again = await backend.connect("c2", session="s", user="kim")
        await again.say(Hello(hello_id="h", resume=(ResumePoint(request_id="r1", attempt=1, offset=4),)))
        assert [type(f) for f in again.frames] == [MessageDelta, MessageResponse, Welcome]
        assert again.frames[0] == MessageDelta(request_id="r1", attempt=1, offset=4, delta="two three")

    run_virtual(main())


def test_a_worker_that_dies_is_followed_by_a_new_attempt_and_the_text_restarts() -> None:
    async def main() -> None:
        backend = Backend()
        question = " ".join(f"word{n}" for n in range(100))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", question, stream=True))
        await asyncio.sleep(0.5)
        assert backend.queue.crash(_key("kim", "r1"))
        await backend.queue.idle()
        assert text(peer, "r1") == question
        (ending,) = endings(peer)
        assert (ending.attempt, ending.length) == (2, len(question))

    run_virtual(main())


def test_after_three_attempts_the_request_fails_in_the_record() -> None:
    async def main() -> None:
        model = ScriptedModel(lambda prompt: [10.0, "never"])
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1"))
        for _ in range(3):
            await asyncio.sleep(1)
            assert backend.queue.crash(_key("kim", "r1"))
            await asyncio.sleep(21)
        await backend.queue.idle()
        assert len(model.prompts) == 3
        (ending,) = endings(peer)
        assert ending.error is not None
        assert (ending.status, ending.error.code, ending.attempt) == (Status.FAILED, ErrorCode.INTERNAL, 4)

    run_virtual(main())


def test_a_repeated_id_attaches_and_runs_once() -> None:
    async def main() -> None:
        model = ScriptedModel(say_question)
        backend = Backend(model=model)
        peer = await backend.connect("c1", session="s", user="kim")
        await asyncio.gather(*(peer.say(ask("r1")) for _ in range(10)))
        await backend.queue.idle()
        await peer.say(ask("r1", stream=True))
        assert len(model.prompts) == 1
        assert {e.response for e in endings(peer)} == {"one two three"}
        await peer.say(ask("r1", "something else"))
        assert [e.code for e in errors(peer)] == [ErrorCode.REQUEST_CONFLICT]
        other = await backend.connect("c2", session="t", user="kim")
        await other.say(ask("r1"))
        assert [e.code for e in errors(other)] == [ErrorCode.REQUEST_CONFLICT]
        assert len(model.prompts) == 1

    run_virtual(main())


def test_cancel_while_queued_while_running_and_after_the_end() -> None:
    async def main() -> None:
        model = ScriptedModel(say_question)
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", " ".join(["word"] * 1000), stream=True))
        await peer.say(ask("r2"))
        await asyncio.sleep(1)
        await peer.say(CancelMessage(request_id="r2"))
        assert [(e.request_id, e.status) for e in endings(peer)] == [("r2", Status.CANCELLED)]
        await peer.say(CancelMessage(request_id="r1"))
        await asyncio.sleep(0.01)
        # The queue still held r2: its worker finds it ended and posts the ending once more: the queue forgets last.
        assert [e.request_id for e in endings(peer)] == ["r2", "r1", "r2"]
        ending = endings(peer)[1]
        assert ending.status is Status.CANCELLED
        assert ending.length == len(text(peer, "r1")) > 0
        assert (model.running, model.stopped) == (0, 1)
        await backend.queue.idle()
        assert [p.request_id for p in model.prompts] == ["r1"], "a cancelled request was run"
        await peer.say(ask("r3"))
        await backend.queue.idle()
        await peer.say(CancelMessage(request_id="r3"))
        assert endings(peer)[-1] == next(e for e in endings(peer) if e.request_id == "r3")
        assert endings(peer)[-1].status is Status.COMPLETED

    run_virtual(main())


def test_a_cancellation_that_comes_before_its_question_wins() -> None:
    async def main() -> None:
        model = ScriptedModel(say_question)
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        await peer.say(CancelMessage(request_id="r1"))
        await peer.say(ask("r1"))
        await backend.queue.idle()
        assert [e.status for e in endings(peer)] == [Status.CANCELLED, Status.CANCELLED]
        assert model.prompts == []

    run_virtual(main())


def test_without_a_notifier_a_cancellation_is_seen_at_the_next_renewal() -> None:
    async def main() -> None:
        model = ScriptedModel(lambda prompt: [100.0])
        backend = Backend(model=model, bells_work=False, renew_every_s=1.0)
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1"))
        await asyncio.sleep(0.5)
        await peer.say(CancelMessage(request_id="r1"))
        await asyncio.sleep(0.6)
        assert [e.status for e in endings(peer)] == [Status.CANCELLED]

    run_virtual(main())


@pytest.mark.parametrize("lease_ms", [3_000, 20_000])
def test_a_running_answer_keeps_its_lease_however_short_it_is(lease_ms: int) -> None:
    async def main() -> None:
        backend = Backend(
            model=ScriptedModel(lambda prompt: [60.0]), policy=Policy(lease_ms=lease_ms), renew_every_s=None
        )
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1"))
        for _ in range(100):
            await asyncio.sleep(0.5)
            record = await backend.store.read(_key("kim", "r1"))
            assert record is not None
            assert record.attempt == 1
            assert record.lease_until_ms - backend.clock() > lease_ms / 2

    run_virtual(main())


def test_the_tries_of_a_claim_take_half_a_lease() -> None:
    for lease_ms in (1_000, 3_000, 20_000, 60_000):
        pauses_s = list(claim_pauses_s(Policy(lease_ms=lease_ms)))
        assert pauses_s, "one lost answer costs no attempt"
        assert lease_ms / 2_000 - 1.0 < sum(pauses_s) <= lease_ms / 2_000


def test_a_poll_between_two_renewals_sees_a_cancellation_and_leaves_the_lease() -> None:
    async def main() -> None:
        model = ScriptedModel(lambda prompt: [100.0])
        backend = Backend(model=model, bells_work=False, renew_every_s=6.0, look_every_s=1.0)
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1"))
        await asyncio.sleep(3.5)
        claimed = await backend.store.read(_key("kim", "r1"))
        await asyncio.sleep(2.0)
        assert await backend.store.read(_key("kim", "r1")) == claimed
        await asyncio.sleep(1.0)
        renewed = await backend.store.read(_key("kim", "r1"))
        assert claimed is not None
        assert renewed is not None
        assert renewed.lease_until_ms > claimed.lease_until_ms
        await peer.say(CancelMessage(request_id="r1"))
        await asyncio.sleep(1.1)
        assert [e.status for e in endings(peer)] == [Status.CANCELLED]

    run_virtual(main())


def test_a_disconnect_stops_nothing() -> None:
    async def main() -> None:
        model = ScriptedModel(say_question)
        backend = Backend(model=model)
        peer = await backend.connect("c1", session="s", user="kim")
        await peer.say(ask("r1", stream=True))
        await peer.leave()
        await backend.queue.idle()
        assert model.stopped == 0
        record = await backend.store.read(_key("kim", "r1"))
        assert record is not None
        assert record.ending is not None
        assert record.ending.status is Status.COMPLETED

    run_virtual(main())


def test_a_model_that_hangs_ends_as_timeout_with_what_it_said() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda prompt: ["so far ", 1000.0]))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", stream=True))
        await backend.queue.idle()
        (ending,) = endings(peer)
        assert ending.error is not None
        assert (ending.status, ending.error.code, ending.length) == (Status.FAILED, ErrorCode.TIMEOUT, 7)
        assert ending.timing is not None
        assert ending.timing.total_ms == 120_000
        assert text(peer, "r1") == "so far "

    run_virtual(main())


def test_the_time_of_an_answer_counts_from_its_first_start_over_crashes() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda prompt: ["so far ", 1000.0]))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", stream=True))
        for _ in range(2):
            await asyncio.sleep(30)
            assert backend.queue.crash(_key("kim", "r1"))
        await backend.queue.idle()
        (ending,) = endings(peer)
        assert ending.error is not None
        assert ending.timing is not None
        assert (ending.error.code, ending.attempt, ending.timing.total_ms) == (ErrorCode.TIMEOUT, 3, 120_000)

    run_virtual(main())


class StubbornModel(ScriptedModel):
    """Runs for ten minutes after it was asked to stop, and then yields more text."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.prompts.append(prompt)
        yield "so far "
        if prompt.messages[-1].text == "be stubborn":
            try:
                await asyncio.sleep(1_000.0)
            except asyncio.CancelledError:
                await asyncio.sleep(600.0)
                yield "too late"


def test_a_model_that_does_not_obey_keeps_neither_its_request_nor_its_conversation() -> None:
    async def main() -> None:
        backend = Backend(model=StubbornModel(say_question))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", "be stubborn", stream=True))
        await peer.say(ask("r2"))
        await backend.queue.idle()
        hung, next_one = endings(peer)
        assert hung.error is not None
        assert (hung.request_id, hung.error.code, hung.length) == ("r1", ErrorCode.TIMEOUT, 7)
        assert (next_one.request_id, next_one.status) == ("r2", Status.COMPLETED)
        await asyncio.sleep(700.0)
        assert (await backend.store.answer(_key("kim", "r1"))).text == text(peer, "r1") == "so far "

    run_virtual(main())


def test_a_request_that_waited_ten_minutes_is_not_run() -> None:
    async def main() -> None:
        model = ScriptedModel(lambda prompt: [119.0, Finish()])
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        for n in range(8):
            await peer.say(ask(f"r{n}"))
        sweeps = asyncio.create_task(_sweep_forever(backend))
        await backend.queue.idle()
        sweeps.cancel()
        late = [e for e in endings(peer) if e.error is not None]
        assert {e.error.code for e in late if e.error} == {ErrorCode.TIMEOUT}
        assert {e.request_id for e in late} == {"r6", "r7"}
        assert len(model.prompts) == 6

    run_virtual(main())


def test_model_errors_have_codes_and_never_the_models_words() -> None:
    script: dict[str, Iterable[Line]] = {
        "throttled": [ModelError(ErrorCode.MODEL_THROTTLED, "secret", retry_after_ms=1500)],
        "broken": ["some ", ModelError(ErrorCode.MODEL_FAILED, "secret")],
        "crash": [ValueError("secret")],
    }

    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda prompt: script[prompt.messages[-1].text]))
        peer = await backend.connect("c1", user="kim")
        for word in script:
            await peer.say(ask(word, word, stream=True))
        await backend.queue.idle()
        got = {e.request_id: e.error for e in endings(peer)}
        assert {name: error.code for name, error in got.items() if error} == {
            "throttled": ErrorCode.MODEL_THROTTLED,
            "broken": ErrorCode.MODEL_FAILED,
            "crash": ErrorCode.MODEL_FAILED,
        }
        assert got["throttled"] is not None
        assert got["throttled"].retry_after_ms == 1500
        assert "secret" not in repr(peer.frames)
        assert text(peer, "broken") == "some "

    run_virtual(main())


def test_an_unstreamed_answer_stops_where_its_frame_is_full() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda prompt: ['"x" ' * 4000, '"y" ' * 4000, Finish()]))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1"))
        await peer.say(ask("r2", stream=True))
        await backend.queue.idle()
        short, long = endings(peer)
        assert short.finish_reason == "length"
        assert short.response is not None
        assert len(short.response) == short.length
        assert len(text(peer, "r2")) == long.length == 32_000

    run_virtual(main())


def test_the_eleventh_request_in_a_minute_is_refused_with_a_true_retry_time() -> None:
    async def main() -> None:
        backend = Backend(quota=Quota(per_minute=10, max_pending=100))
        peer = await backend.connect("c1", user="kim")
        other = await backend.connect("c2", user="lee")
        await asyncio.sleep(12.5)
        for n in range(11):
            await peer.say(ask(f"r{n}"))
        await other.say(ask("r0"))
        await backend.queue.idle()
        refused = [e for e in endings(peer) if e.error]
        assert [e.request_id for e in refused] == ["r10"]
        assert refused[0].error is not None
        assert refused[0].error.code is ErrorCode.RATE_LIMITED
        wait_ms = refused[0].error.retry_after_ms
        assert wait_ms == 60_000 - 12_500
        await asyncio.sleep(40)
        await peer.say(ask("r10"))
        again = endings(peer)[-1].error
        assert again is not None
        wait_ms = 60_000 - backend.clock() % 60_000
        assert again.retry_after_ms == wait_ms, "true whenever it is sent"
        assert [e.status for e in endings(other)] == [Status.COMPLETED]
        await asyncio.sleep(wait_ms / 1000)
        await peer.say(ask("r10"))
        assert endings(peer)[-1].error is not None, "the refusal of an id is its ending"
        await peer.say(ask("r11"))
        await backend.queue.idle()
        assert endings(peer)[-1].status is Status.COMPLETED

    run_virtual(main())


def test_too_many_unfinished_requests_are_refused() -> None:
    async def main() -> None:
        backend = Backend(quota=Quota(per_minute=0, max_pending=3), model=ScriptedModel(lambda prompt: [1.0, "x"]))
        peer = await backend.connect("c1", user="kim")
        for n in range(4):
            await peer.say(ask(f"r{n}"))
        (refusal,) = endings(peer)
        assert refusal.error is not None
        assert (refusal.request_id, refusal.error.code) == ("r3", ErrorCode.OVERLOADED)
        await backend.queue.idle()

    run_virtual(main())


def test_a_slow_reader_keeps_an_offset_and_gets_everything_when_it_reads_again() -> None:
    async def main() -> None:
        question = " ".join(f"word{n}" for n in range(200))
        backend = Backend()
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask("r1", question, stream=True))
        await peer.say(ask("r2", "after it", stream=False))
        await asyncio.sleep(0.5)
        backend.sender.slow.add("c1")
        before = len(peer.frames)
        await backend.queue.idle()
        assert len(peer.frames) == before, "nothing was queued up for it"
        assert [key.request_id for _, key, _, _ in backend.sender.parked] == ["r1", "r2"]
        backend.sender.drain("c1")
        for parked in backend.sender.parked:
            await backend.front.unpark(*parked)
        assert text(peer, "r1") == question
        assert [e.request_id for e in endings(peer)] == ["r1", "r2"]

    run_virtual(main())


def _key(user: str, request: str) -> RequestKey:
    return RequestKey(user, request)


async def _sweep_forever(backend: Backend) -> None:
    while True:
        await asyncio.sleep(30)
        await backend.janitor.sweep()
