"""Whatever a model does: one ending that the SDK can read, the exact text, one attempt, and the next question runs."""

import logging
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answerback.core.finish import REASONS
from answerback.core.request import Policy, RequestKey
from answerback.ports import FinalModelError, Finish, ModelError, ModelFault, Piece, Prompt
from answerback.protocol.codec import decode_server, encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import MessageResponse, SendMessage, Status
from answerback.protocol.limits import MAX_FRAME_BYTES
from answerback.testing import Backend, ScriptedModel, run_virtual
from answerback.testing.backend import Peer
from answerback_proof.simulation.hostile_model import HostileModel, Misbehaviour

POLICY = Policy(answer_timeout_ms=30_000)
TEXT = "한국어 and English, 😀"


def question(request_id: str, message: str, *, stream: bool = True, **more: Any) -> SendMessage:
    return SendMessage(request_id=request_id, message=message, conversation_id="c", stream=stream, **more)


def the_ending(peer: Peer, request_id: str) -> MessageResponse:
    """The one ending, read as the SDK reads it."""
    (frame,) = (f for f in peer.frames if isinstance(f, MessageResponse) and f.request_id == request_id)
    data = encode(frame)
    assert len(data) <= MAX_FRAME_BYTES
    read = decode_server(data)
    assert isinstance(read, MessageResponse)
    return read


async def _ask_twice(backend: Backend, *, stream: bool) -> tuple[MessageResponse, MessageResponse]:
    peer = await backend.connect("k", user="kim")
    await peer.say(question("q1", "misbehave", stream=stream))
    await peer.say(question("q2", "behave", stream=stream))
    await backend.queue.idle()
    record = await backend.store.read(RequestKey("kim", "q1"))
    assert record is not None
    assert record.attempt == 1, "the model ran once"
    return the_ending(peer, "q1"), the_ending(peer, "q2")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("misbehaviour", Misbehaviour)
def test_a_hostile_model_ends_its_request_once_and_the_next_question_runs(
    misbehaviour: Misbehaviour, stream: bool
) -> None:
    async def main(seed: int) -> None:
        def choose(prompt: Prompt) -> Misbehaviour | None:
            return misbehaviour if prompt.messages[-1].text == "misbehave" else None

        model = HostileModel(choose, lambda prompt: TEXT, pick=random.Random(seed).randrange)
        backend = Backend(model=model, policy=POLICY)
        first, second = await _ask_twice(backend, stream=stream)
        assert (second.status, second.length) == (Status.COMPLETED, len(TEXT))
        stored, _ = await backend.store.answer(RequestKey("kim", "q1"))
        assert len(stored) == first.length
        if misbehaviour.is_whole:
            assert (first.status, stored) == (Status.COMPLETED, TEXT)
            assert first.finish_reason in REASONS
            assert first.timing is not None
            assert first.timing.total_ms < 10_000, "what comes after the end does not hold it back"
        elif misbehaviour is Misbehaviour.SAYS_A_MEGABYTE:
            assert (first.status, first.finish_reason) == (Status.COMPLETED, "length")
        elif misbehaviour is Misbehaviour.SAYS_NOTHING:
            assert (first.status, stored) == (Status.COMPLETED, "")
        else:
            assert first.status is Status.FAILED
            assert first.error is not None
            hangs = misbehaviour in (Misbehaviour.NEVER_ENDS, Misbehaviour.SWALLOWS_CANCELLATION)
            assert first.error.code is (ErrorCode.TIMEOUT if hangs else ErrorCode.MODEL_FAILED)
            assert stored == TEXT[: len(TEXT) // 2] or misbehaviour is Misbehaviour.ENDS_IN_FAILURE

    for seed in range(12):
        run_virtual(main(seed))


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())


@settings(max_examples=300)
@given(anything, anything, anything)
def test_any_finish_is_stored_and_sent(reason: Any, input_tokens: Any, output_tokens: Any) -> None:
    finish = Finish(reason=reason, input_tokens=input_tokens, output_tokens=output_tokens)

    async def main() -> None:
        model = ScriptedModel(lambda prompt: ["hello", finish if prompt.messages[-1].text == "misbehave" else Finish()])
        first, second = await _ask_twice(Backend(model=model, policy=POLICY), stream=True)
        assert first.length == second.length == 5
        assert second.status is Status.COMPLETED
        assert first.status is Status.FAILED or first.finish_reason in REASONS

    run_virtual(main())


@given(anything, anything, anything)
def test_any_model_error_is_stored_and_sent(code: Any, retry_after_ms: Any, detail: Any) -> None:
    error = ModelError(code, detail, retry_after_ms=retry_after_ms)

    async def main() -> None:
        model = ScriptedModel(lambda prompt: ["hello", error if prompt.messages[-1].text == "misbehave" else Finish()])
        first, second = await _ask_twice(Backend(model=model, policy=POLICY), stream=True)
        assert (first.status, second.status) == (Status.FAILED, Status.COMPLETED)

    run_virtual(main())


# --- errors that trying again does not cure ------------------------------------------------------------------


@pytest.mark.parametrize("fault", ModelFault)
def test_a_fault_is_told_in_words_and_is_not_retryable(fault: ModelFault) -> None:
    async def main() -> None:
        error = FinalModelError(ErrorCode.MODEL_FAILED, "HTTP 401: a secret of the operator", fault)
        backend = Backend(model=ScriptedModel(lambda prompt: [error]))
        peer = await backend.connect("k", user="kim")
        await peer.say(question("q", "hello"))
        await backend.queue.idle()
        body = the_ending(peer, "q").error
        assert body is not None
        assert (body.code, body.message, body.retryable) == (ErrorCode.MODEL_FAILED, fault.value, False)
        # A repeat gets the same from the store.
        other = await backend.connect("k2", session="own-k", user="kim")
        await other.say(question("q", "hello"))
        again = the_ending(other, "q").error
        assert again == body

    run_virtual(main())


# --- length --------------------------------------------------------------------------------------------------


class Narrow:
    """A model that refuses prompts of more messages than it likes, as a server does whose tokenizer nobody guessed."""

    name = "narrow"
    context_tokens = 100_000
    concurrency = 1

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[int] = []

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.asked.append(len(prompt.messages))
        if len(prompt.messages) > self.most:
            raise FinalModelError(ErrorCode.MODEL_FAILED, "too long", ModelFault.TOO_LONG)
        yield "fine"

    async def close(self) -> None:
        pass


def test_a_prompt_refused_for_its_length_is_asked_again_with_half_of_the_turns_until_it_fits() -> None:
    async def main() -> None:
        model = Narrow(most=3)
        backend = Backend(model=model)
        peer = await backend.connect("k", user="kim")
        for n in range(8):
            await peer.say(question(f"q{n}", f"question {n}"))
            await backend.queue.idle()
            assert the_ending(peer, f"q{n}").status is Status.COMPLETED
        assert model.asked == [1, 3, *(5, 3), *(7, 3), *(9, 5, 3), *(11, 5, 3), *(13, 7, 3), *(15, 7, 3)]

    run_virtual(main())


def test_a_question_that_is_too_long_by_itself_says_so_at_once() -> None:
    async def main() -> None:
        model = Narrow(most=0)
        backend = Backend(model=model)
        peer = await backend.connect("k", user="kim")
        await peer.say(question("q", "hello"))
        await backend.queue.idle()
        body = the_ending(peer, "q").error
        assert body is not None
        assert (body.message, body.retryable) == (ModelFault.TOO_LONG.value, False)
        assert model.asked == [1]

    run_virtual(main())


@pytest.mark.parametrize("text", ["바다는 깊고 배는 작다. " * 210, "The sea is deep, the boats small. " * 90])
def test_a_long_conversation_goes_on_in_any_script(text: str) -> None:
    """3 tokens for a Hangul syllable, the most that any tokenizer takes, and a context of 8,192."""

    def tokens(prompt: Prompt) -> int:
        return sum(3 if "가" <= letter <= "힣" else 1 for message in prompt.messages for letter in message.text) // (
            1 if "가" <= text[0] <= "힣" else 4
        )

    async def main() -> None:
        def script(prompt: Prompt) -> list[Any]:
            if tokens(prompt) + prompt.max_tokens > 8192:
                return [FinalModelError(ErrorCode.MODEL_FAILED, "too long", ModelFault.TOO_LONG)]
            return ["fine", Finish()]

        model = ScriptedModel(script, context_tokens=8192)
        backend = Backend(model=model)
        peer = await backend.connect("k", user="kim")
        for n in range(12):
            await peer.say(question(f"q{n}", text[: 2_000 + n]))
            await backend.queue.idle()
            assert the_ending(peer, f"q{n}").status is Status.COMPLETED

    run_virtual(main())


# --- blank ---------------------------------------------------------------------------------------------------


def test_an_answer_without_a_word_and_a_blank_system_text_do_not_come_back_as_context() -> None:
    async def main() -> None:
        def script(prompt: Prompt) -> list[Any]:
            silent = prompt.messages[-1].text == "think"
            return [Finish(reason="length")] if silent else ["Fine.", Finish()]

        model = ScriptedModel(script)
        backend = Backend(model=model)
        peer = await backend.connect("k", user="kim")
        for n, message in enumerate(("hello", "think", "and now?")):
            await peer.say(question(f"q{n}", message, system=" \n"))
            await backend.queue.idle()
        assert [message.text for message in model.prompts[-1].messages] == ["hello", "Fine.", "and now?"]
        assert model.prompts[-1].system is None
        assert the_ending(peer, "q2").status is Status.COMPLETED

    run_virtual(main())


# --- the log -------------------------------------------------------------------------------------------------

MARK = "hunter2-비밀번호"
SECRET = "Zebra99"


def _raise_with(message: str) -> None:
    raise KeyError(message)


def _nested(message: str) -> None:
    try:
        _raise_with(message)
    except KeyError as exc:
        raise ValueError(f"cannot read {message!r}") from exc


@pytest.mark.parametrize(
    "fail",
    [
        _raise_with,
        _nested,
        lambda message: (_ for _ in ()).throw(SystemExit(message)),
        lambda message: (_ for _ in ()).throw(ModelError(ErrorCode.MODEL_FAILED, f"no: {message}")),
        lambda message: (_ for _ in ()).throw(
            ModelError(ErrorCode.MODEL_FAILED, repr(message).encode("unicode_escape"))
        ),
    ],
)
def test_no_part_of_the_prompt_or_the_answer_gets_into_the_log(
    fail: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        class Model(Narrow):
            async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
                yield f"The launch code is {SECRET}."
                fail(f"{prompt.messages[-1].text} {SECRET}")

        backend = Backend(model=Model(most=1), system="the system text is Sesam42")
        peer = await backend.connect("k", user="kim")
        await peer.say(question("q", f"my password is {MARK}"))
        await backend.queue.idle()
        assert the_ending(peer, "q").status is Status.FAILED

    with caplog.at_level(logging.DEBUG):
        run_virtual(main())
    assert caplog.text
    for part in ("hunter2", "비밀", "password", "Sesam42", SECRET):
        assert part not in caplog.text
