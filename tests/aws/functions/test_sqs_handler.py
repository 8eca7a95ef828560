"""Messages of a queue, their visibility, and what the mapping is told; on virtual time."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from answerback.core.request import RequestKey
from answerback.ports import Unavailable
from answerback.service.attempt import Done, Retry
from answerback.testing import run_virtual
from answerback_aws.runtime.sqs import HiddenTime, SqsHandler, Visibility
from lambda_functions import QUEUE_URL, DirectCalls, FakeSqs, sqs_event

HIDDEN_TIME = HiddenTime(for_s=22, every_s=7)


class Deaf:
    """Counts nothing."""

    def count(self, name: str, **dimensions: str) -> None:
        pass

    def note(self, **facts: Any) -> None:
        pass


def now_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


def sqs_handler(run: Callable[[RequestKey, int], Awaitable[Done | Retry]], sqs: FakeSqs) -> SqsHandler:
    visibility = Visibility(client=sqs, calls=DirectCalls(), url=QUEUE_URL)  # type: ignore[arg-type]
    return SqsHandler(run=run, visibility=visibility, hidden_time=HIDDEN_TIME, counts=Deaf(), clock=now_ms)  # type: ignore[arg-type]


def event(*names: str, receives: int = 1) -> dict[str, Any]:
    body = [
        sqs_event(json.dumps({"user": "kim", "request": name}), message_id=name, receives=receives) for name in names
    ]
    return {"Records": [entry for one in body for entry in one["Records"]]}


def failed(*names: str) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": name} for name in names]}


def play(
    run: Callable[[RequestKey, int], Awaitable[Done | Retry]],
    given: dict[str, Any],
    *,
    remaining_ms: int = 180_000,
    sqs: FakeSqs | None = None,
) -> tuple[dict[str, Any], list[int]]:
    sqs = sqs or FakeSqs()

    async def main() -> dict[str, Any]:
        return await sqs_handler(run, sqs).handle(given, remaining_ms=remaining_ms)

    return run_virtual(main()), [seconds for _, seconds in sqs.hidden]


def test_what_is_done_is_no_failure() -> None:
    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        await asyncio.sleep(1)
        return Done()

    assert play(run, event("m-1")) == (failed(), [22])


def test_it_stays_hidden_for_as_long_as_it_is_worked_on() -> None:
    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        await asyncio.sleep(30)
        return Done()

    assert play(run, event("m-1")) == (failed(), [22] * 5)


def test_a_retry_is_delivered_when_it_asks_to_be() -> None:
    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        await asyncio.sleep(1)
        return Retry(now_ms() + 9_300)

    assert play(run, event("m-1")) == (failed("m-1"), [22, 10])


def test_pauses_grow_with_the_number_of_times() -> None:
    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        return Retry(now_ms())

    assert [play(run, event("m-1", receives=count))[1][-1] for count in (1, 2, 5, 31, 500)] == [1, 1, 4, 30, 30]


def test_nothing_passes_what_failed() -> None:
    ran: list[str] = []

    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        ran.append(key.request_id)
        return Done() if key.request_id == "m-1" else Retry(0)

    assert play(run, event("m-1", "m-2", "m-3"))[0] == failed("m-2", "m-3")
    assert ran == ["m-1", "m-2"]


def test_the_run_learns_when_the_function_ends_and_stopped_before() -> None:
    told: list[int] = []

    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        told.append(stop_at_ms)
        await asyncio.sleep(3600)
        return Done()

    answer, hidden = play(run, event("m-1"), remaining_ms=10_000)
    assert answer == failed("m-1")
    assert told == [8_000]
    assert hidden == [22, 22, 1]


def test_a_visibility_that_cannot_be_changed_stops_nothing() -> None:
    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        await asyncio.sleep(30)
        return Retry(0)

    assert play(run, event("m-1"), sqs=FakeSqs(error=Unavailable("planted"))) == (failed("m-1"), [])


def test_no_call_is_under_way_when_it_is_over() -> None:
    """A late one would hide the message again after it was put back."""

    class Slow(DirectCalls):
        async def run(self, call: Callable[..., Any], /, **arguments: Any) -> Any:
            await asyncio.sleep(3)
            return call(**arguments)

    sqs = FakeSqs()

    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        await asyncio.sleep(1)
        return Retry(now_ms() + 5_000)

    async def main() -> None:
        visibility = Visibility(client=sqs, calls=Slow(), url=QUEUE_URL)  # type: ignore[arg-type]
        subject = SqsHandler(run=run, visibility=visibility, hidden_time=HIDDEN_TIME, counts=Deaf(), clock=now_ms)  # type: ignore[arg-type]
        assert await subject.handle(event("m-1"), remaining_ms=60_000) == failed("m-1")
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())
    assert [seconds for _, seconds in sqs.hidden] == [22, 3]
