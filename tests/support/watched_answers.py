"""A backend on virtual time whose user has several sessions: what one asks, and what the others are shown."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from answerback.ports import Finish, Prompt
from answerback.protocol.frames import (
    MessageDelta,
    MessageResponse,
    MessageStarted,
    SendMessage,
    ServerFrame,
    Watch,
)
from answerback.testing import Backend, run_virtual
from answerback.testing.backend import Line, Peer

TEXT = "one two three four five six"


def words(prompt: Prompt) -> Iterable[Line]:
    for word in prompt.messages[-1].text.split(" "):
        yield f"{word} "
        yield 0.1
    yield Finish(input_tokens=1, output_tokens=1)


def question(request_id: str = "q", message: str = TEXT, **more: Any) -> SendMessage:
    return SendMessage(request_id=request_id, message=message, **{"conversation_id": "c", "stream": True, **more})


def watch(number: int = 1, *, conversation: str | None = "c", **more: Any) -> Watch:
    return Watch(request_id=f"watch-{number}", conversation_id=conversation, number=number, **more)


def about(frames: Sequence[ServerFrame], request_id: str = "q") -> list[Any]:
    return [frame for frame in frames if getattr(frame, "request_id", None) == request_id]


def text_of(frames: Sequence[ServerFrame], request_id: str = "q") -> str:
    """The text that the frames make, whatever comes twice. Raises: AssertionError: there is a gap, or two texts."""
    attempt, text = 0, ""
    for frame in about(frames, request_id):
        if isinstance(frame, MessageStarted) and frame.attempt > attempt:
            attempt, text = frame.attempt, ""
        if isinstance(frame, MessageDelta):
            assert frame.attempt == attempt
            assert frame.offset <= len(text)
            known = text[frame.offset :]
            assert frame.delta.startswith(known) or known.startswith(frame.delta)
            text = text[: frame.offset] + max(frame.delta, known, key=len)
    return text


def ending(frames: Sequence[ServerFrame], request_id: str = "q") -> MessageResponse:
    found = [frame for frame in about(frames, request_id) if isinstance(frame, MessageResponse)]
    assert found
    assert all(frame == found[0] for frame in found)
    assert len(text_of(frames, request_id)) in (found[0].length, 0)
    return found[0]


async def one_of(backend: Backend, name: str, *, user: str = "kim", session: str | None = None) -> Peer:
    return await backend.connect(name, user=user, session=session or name)


def on(main: Callable[[], Awaitable[None]]) -> None:
    run_virtual(main())  # type: ignore[arg-type]
