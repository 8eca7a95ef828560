"""Posts to connections: what each answer of API Gateway means."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from answerback.core.request import RequestKey
from answerback.ports import Gone, Sent, Slow, Unavailable
from answerback.protocol.frames import MessageDelta
from answerback.testing import run_virtual
from answerback_aws.runtime.api_gateway import LONGEST_PAUSE_S, ApiGatewaySender
from lambda_functions import DirectCalls, FakeManagement, client_error


class Recorder:
    def __init__(self) -> None:
        self.events: list[str] = []

    def posted(self, size_bytes: int) -> None:
        self.events.append("posted")

    def throttled(self) -> None:
        self.events.append("throttled")

    def not_posted(self, code: str) -> None:
        self.events.append(code)


class Scene:
    """A sender with one open connection, on virtual time."""

    def __init__(self, *, jitter: float = 1.0) -> None:
        self.management = FakeManagement(open={"c-1"})
        self.recorder = Recorder()
        self.removed: list[str] = []
        self.removing: Exception | None = None
        calls: Any = DirectCalls()
        self.sender = ApiGatewaySender(
            client=self.management,
            calls=calls,
            observer=self.recorder,
            on_gone=self._on_gone,
            sleep=asyncio.sleep,
            monotonic=asyncio.get_running_loop().time,
            jitter=lambda: jitter,
        )

    async def _on_gone(self, connection_id: str) -> None:
        self.removed.append(connection_id)
        if self.removing is not None:
            raise self.removing

    async def send(self, text: str = "hello", *, offset: int = 0, to: str = "c-1") -> Any:
        return await self.sender.send(to, MessageDelta(request_id="r", attempt=1, offset=offset, delta=text))


def play(scene: Any) -> None:
    async def main() -> None:
        await scene(Scene())

    run_virtual(main())


SLOW_DOWN = client_error("LimitExceededException", status=429)


def test_frames_are_posted_one_after_the_other() -> None:
    async def scene(at: Scene) -> None:
        for offset in range(5):
            assert await at.send("x", offset=offset) == Sent()
        assert [frame["offset"] for frame in at.management.to("c-1")] == [0, 1, 2, 3, 4]
        assert at.recorder.events == ["posted"] * 5

    play(scene)


def test_a_connection_that_is_gone_is_reported_to_who_keeps_the_connections() -> None:
    async def scene(at: Scene) -> None:
        assert await at.send(to="c-2") == Gone()
        assert at.removed == ["c-2"]
        at.removing = Unavailable("planted")
        assert await at.send(to="c-2") == Gone()

    play(scene)


def test_a_slow_one_is_left_alone_for_pauses_that_grow() -> None:
    async def scene(at: Scene) -> None:
        pauses = []
        for _ in range(7):
            at.management.errors = [SLOW_DOWN]
            assert await at.send() == Slow()
            calls = at.management.calls
            assert await at.send() == Slow(), "not even asked while the pause lasts"
            assert at.management.calls == calls
            before = asyncio.get_running_loop().time()
            await at.sender.ready("c-1")
            pauses.append(asyncio.get_running_loop().time() - before)
        assert pauses == pytest.approx([0.25, 0.5, 1, 2, 4, 4, 4])
        assert at.recorder.events == ["throttled"] * 7
        assert await at.send() == Sent()
        at.management.errors = [SLOW_DOWN]
        await at.send()
        before = asyncio.get_running_loop().time()
        await at.sender.ready("c-1")
        assert asyncio.get_running_loop().time() - before == pytest.approx(0.25), "a post that went out ends the row"

    play(scene)


def test_pauses_are_not_all_the_same() -> None:
    async def main() -> None:
        scenes = [Scene(jitter=jitter) for jitter in (0.0, 0.5, 1.0)]
        pauses = []
        for at in scenes:
            at.management.errors = [SLOW_DOWN]
            await at.send()
            before = asyncio.get_running_loop().time()
            await at.sender.ready("c-1")
            pauses.append(asyncio.get_running_loop().time() - before)
        assert pauses == pytest.approx([0.125, 0.1875, 0.25])

    run_virtual(main())


def test_one_slow_connection_slows_nobody_else() -> None:
    async def scene(at: Scene) -> None:
        at.management.open.add("c-2")
        at.management.errors = [SLOW_DOWN]
        assert await at.send() == Slow()
        assert await at.send(to="c-2") == Sent()

    play(scene)


def test_what_may_be_over_soon_is_slow() -> None:
    async def scene(at: Scene) -> None:
        at.management.errors = [Unavailable("a time-out")]
        assert await at.send() == Slow()
        await at.sender.ready("c-1")
        assert await at.send() == Sent()

    play(scene)


@pytest.mark.parametrize("code", ["ForbiddenException", "PayloadTooLargeException", "BadRequestException"])
def test_what_no_repeating_helps_is_given_up_and_reported_to_the_operator(
    code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(at: Scene) -> None:
        at.management.errors = [client_error(code, status=403)]
        assert await at.send() == Gone()
        assert at.removed == [], "nobody knows that it is gone"
        assert at.recorder.events == [code]

    play(scene)
    assert "cannot be posted" in caplog.text


def test_a_frame_that_is_too_large_is_a_mistake_of_ours() -> None:
    async def scene(at: Scene) -> None:
        with pytest.raises(ValueError, match="a MessageDelta of"):
            await at.send("x" * 32 * 1024)
        assert at.management.calls == 0

    play(scene)


def test_closing_is_never_an_error() -> None:
    async def scene(at: Scene) -> None:
        await at.sender.close("c-1")
        assert at.management.deleted == ["c-1"]
        await at.sender.close("c-1")
        for error in (Unavailable("planted"), client_error("ForbiddenException", status=403), SLOW_DOWN):
            at.management.errors = [error]
            await at.sender.close("c-1")

    play(scene)


@pytest.mark.parametrize(("times", "heard"), [(0, 1), (1, 1), (2, 0)])
def test_the_last_word_is_tried_twice_and_then_the_connection_is_closed(times: int, heard: int) -> None:
    async def scene(at: Scene) -> None:
        at.management.errors = [SLOW_DOWN] * times
        await at.sender.close("c-1", MessageDelta(request_id="r", attempt=1, offset=0, delta="why"))
        assert len(at.management.to("c-1")) == heard
        assert at.management.deleted == ["c-1"]
        assert asyncio.get_running_loop().time() <= LONGEST_PAUSE_S

    play(scene)


def test_nothing_is_parked() -> None:
    async def scene(at: Scene) -> None:
        assert at.sender.park("c-1", RequestKey("kim", "r"), 1, 0) is False
        await at.sender.ready("c-1")

    play(scene)


def test_when_the_network_last_saw_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(at: Scene) -> None:
        assert await at.sender.last_active_ms("c-1") == 0, "it does not say"
        assert await at.sender.last_active_ms("c-2") is None
        seen = datetime(2025, 1, 1, tzinfo=UTC)
        monkeypatch.setattr(at.management, "get_connection", lambda **_: {"LastActiveAt": seen})
        assert await at.sender.last_active_ms("c-1") == 1_735_689_600_000
        monkeypatch.undo()
        at.management.errors = [client_error("ForbiddenException", status=403)]
        with pytest.raises(Unavailable):
            await at.sender.last_active_ms("c-1")

    play(scene)


async def test_a_time_out_of_the_client_is_an_outage() -> None:
    """By the real `Calls`, so that the table there and the sender agree."""
    from answerback_aws.runtime.client import Calls

    at = Scene()
    calls = Calls(threads=1)
    at.sender._calls = calls
    at.management.errors = [ReadTimeoutError(endpoint_url="https://x"), client_error("InternalServerError", status=500)]
    assert await at.send() == Slow()
    await at.sender.ready("c-1")
    assert await at.send() == Slow()
    calls.close()
