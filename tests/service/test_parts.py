"""Parts of answers through the real front and worker, on virtual time."""

import asyncio
from collections.abc import Iterable

import pytest

from answerback.core.parts import KINDS, Content
from answerback.core.request import RequestKey
from answerback.ports import FinalModelError, Finish, ModelFault, Part
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    GetHistory,
    Hello,
    History,
    MessageDelta,
    MessageProgress,
    MessageResponse,
    ResumePoint,
    SendMessage,
    ServerFrame,
)
from answerback.testing import Backend, ScriptedModel, run_virtual

ALL = tuple(sorted(KINDS))
SAID = [
    *(Part("reasoning", "hm, "), 0.1, Part("reasoning", "yes"), Part("status", "looking")),
    *(Part("tool", "", "search", new=True), Part("tool", '{"q":'), 0.1, Part("tool", '"sea"}', "search")),
    *(Part("result", "3", "search"), "The sea ", 0.1, "is deep."),
    *(Part("citation", '{"url":"a"}', new=True), Part("citation", '{"url":"b"}', new=True), Part("chart", "x")),
    *(" Really.", Finish()),
]
LISTED = [
    *(("reasoning", None, "hm, yes"), ("status", None, "looking"), ("tool", "search", '{"q":"sea"}')),
    *(("result", "search", "3"), ("text", None, "The sea is deep.")),
    *(("citation", None, '{"url":"a"}'), ("citation", None, '{"url":"b"}'), ("text", None, " Really.")),
]


def ask(request_id: str = "r", **more: object) -> SendMessage:
    return SendMessage(request_id=request_id, message="How deep?", conversation_id="c", **more)  # type: ignore[arg-type]


def listed(frames: Iterable[ServerFrame]) -> list[tuple[str, str | None, str]]:
    """The parts that the frames make."""
    found: list[tuple[str, str | None, str]] = []
    for frame in frames:
        if isinstance(frame, MessageDelta):
            if frame.part == len(found):
                found.append((frame.kind, frame.name, ""))
            kind, name, text = found[frame.part]
            assert (frame.kind, frame.part) == (kind, len(found) - 1)
            found[frame.part] = (kind, name, text + frame.delta)
    return found


def text_of(found: list[tuple[str, str | None, str]]) -> str:
    return "".join(text for kind, _, text in found if kind == "text")


def test_parts_come_in_order_and_stay_with_the_answer() -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda _: SAID))
        peer = await backend.connect("c1", session="s", user="kim")
        await peer.say(ask(stream=True, parts=(*ALL, "chart")))
        await backend.queue.idle()
        assert listed(peer.frames) == LISTED
        ending = peer.frames[-1]
        assert isinstance(ending, MessageResponse)
        assert (ending.length, ending.response) == (sum(len(text) for *_, text in LISTED), None)
        content = await backend.store.answer(RequestKey("kim", "r"))
        assert content.text == "".join(text for *_, text in LISTED)
        for offset in range(len(content.text)):
            await peer.say(Hello(hello_id="h", resume=(ResumePoint(request_id="r", attempt=1, offset=offset),)))
        resumed = [frame for frame in peer.frames if isinstance(frame, MessageDelta) and frame.offset]
        assert {frame.delta for frame in resumed if frame.kind == "tool"} >= {'"}', '{"q":"sea"}'[1:]}
        for is_with_parts in (True, False):
            await peer.say(GetHistory(request_id="h", conversation_id="c", parts=is_with_parts))
            page = peer.frames[-1]
            assert isinstance(page, History)
            (turn,) = page.turns
            assert turn.answer == (content.text if is_with_parts else text_of(LISTED))
            assert len(turn.parts) == len(LISTED) * is_with_parts

    run_virtual(main())


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ({"stream": True}, [("text", None, text_of(LISTED))]),
        ({"stream": True, "parts": ()}, [("text", None, text_of(LISTED))]),
        ({"stream": True, "parts": ("tool",)}, [LISTED[2], ("text", None, text_of(LISTED))]),
        ({"parts": ALL}, []),
    ],
)
def test_a_client_gets_the_kinds_that_it_takes(more: dict[str, object], parts: list[object]) -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda _: SAID))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask(**more))
        await backend.queue.idle()
        assert listed(peer.frames) == parts
        ending = peer.frames[-1]
        assert isinstance(ending, MessageResponse)
        if not more.get("stream"):
            assert ending.response == text_of(LISTED)
            assert await backend.store.answer(RequestKey("kim", "r")) == Content(text_of(LISTED))

    run_virtual(main())


def test_the_model_is_shown_the_text_of_its_earlier_answer_alone() -> None:
    async def main() -> None:
        model = ScriptedModel(lambda _: SAID)
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        for name in ("r1", "r2"):
            await peer.say(ask(name, stream=True, parts=ALL))
            await backend.queue.idle()
        assert [message.text for message in model.prompts[1].messages] == ["How deep?", text_of(LISTED), "How deep?"]

    run_virtual(main())


def test_thoughts_that_nobody_takes_are_signs_of_life() -> None:
    async def main() -> None:
        script = [*(item for _ in range(9) for item in (Part("reasoning", "hm"), 1.0)), "so", Finish()]
        backend = Backend(model=ScriptedModel(lambda _: script))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask(stream=True, parts=()))
        await backend.queue.idle()
        (sign,) = (frame for frame in peer.frames if isinstance(frame, MessageProgress))
        assert sign.silent_ms <= 1000

    run_virtual(main())


def test_a_prompt_is_not_shortened_behind_thoughts_that_were_shown() -> None:
    async def main() -> None:
        too_long = FinalModelError(ErrorCode.MODEL_FAILED, "too long", ModelFault.TOO_LONG)
        script = [["one", Finish()], [Part("reasoning", "hm"), too_long]]
        model = ScriptedModel(lambda _: script[min(1, len(model.prompts) - 1)])
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        for name in ("r1", "r2"):
            await peer.say(ask(name, stream=True, parts=ALL))
            await backend.queue.idle()
        assert len(model.prompts) == 2

    run_virtual(main())


@pytest.mark.parametrize(
    "piece",
    [Part("tool", 5), Part(7, "x"), Part("tool", b"x")],  # type: ignore[arg-type]
)
def test_a_part_that_is_none_is_a_failure_of_the_model(piece: Part) -> None:
    async def main() -> None:
        backend = Backend(model=ScriptedModel(lambda _: ["so far", piece]))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask(stream=True, parts=ALL))
        await asyncio.sleep(1)
        ending = peer.frames[-1]
        assert isinstance(ending, MessageResponse)
        assert ending.error is not None
        assert ending.error.code is ErrorCode.MODEL_FAILED

    run_virtual(main())


def test_what_a_frame_cannot_hold_of_a_name_is_dropped() -> None:
    async def main() -> None:
        said = [Part("tool", "a", "x\0y" * 99), Part("tool", "b", 7, new=True), Part("text", " c"), Finish()]  # type: ignore[arg-type]
        backend = Backend(model=ScriptedModel(lambda _: said))
        peer = await backend.connect("c1", user="kim")
        await peer.say(ask(stream=True, parts=ALL))
        await backend.queue.idle()
        assert listed(peer.frames) == [("tool", ("xy" * 99)[:64], "a"), ("tool", None, "b"), ("text", None, " c")]

    run_virtual(main())
