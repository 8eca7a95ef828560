"""The janitor of every minute."""

import asyncio
from typing import Any

import pytest

from answerback.core.request import RequestKey
from answerback.ports import Unavailable
from answerback_aws.runtime.composition import epoch_ms
from answerback_aws.runtime.functions.janitor import sweep
from lambda_functions import FakeWriteBehind, Functions

KEY = RequestKey("kim", "r-1")
QUESTION = {"action": "sendMessage", "requestId": "r-1", "userId": "kim", "message": "hello"}


def accepted_long_ago(functions: Functions, *, queue_no: int) -> None:
    functions.connect("c-1")
    functions.say("c-1", QUESTION)
    functions.alter(KEY, accepted_at_ms=epoch_ms() - 60_000, queue_no=queue_no)


def test_what_waits_is_put_once_more_and_the_queue_drops_the_copy(functions: Functions) -> None:
    accepted_long_ago(functions, queue_no=0)
    put = dict(functions.sqs.sent)
    functions.invoke("janitor", {})
    assert functions.sqs.sent == put
    assert functions.store.records[KEY].queue_no == 1


def test_what_was_never_queued_is_queued(functions: Functions) -> None:
    accepted_long_ago(functions, queue_no=0)
    functions.sqs.sent.clear()
    functions.invoke("janitor", {})
    assert len(functions.sqs.sent) == 1
    assert functions.store.records[KEY].queue_no == 1
    functions.work()
    assert functions.management.to("c-1")[-1]["status"] == "completed"


def test_what_is_queued_is_left_to_the_queue(functions: Functions) -> None:
    accepted_long_ago(functions, queue_no=1)
    functions.sqs.sent.clear()
    functions.invoke("janitor", {})
    assert functions.sqs.sent == {}


def test_a_request_past_its_time_ends_and_its_app_gets_the_error(functions: Functions) -> None:
    accepted_long_ago(functions, queue_no=1)
    functions.alter(KEY, accepted_at_ms=epoch_ms() - 601_000)
    functions.invoke("janitor", {})
    assert functions.management.to("c-1")[-1]["error"]["code"] == "timeout"


def test_an_idle_connection_is_closed_and_removed(functions: Functions) -> None:
    functions.connect("c-1", query={"userId": "kim"})
    functions.run(functions.connections.touch("c-1", now_ms=epoch_ms() - 3_700_000))
    functions.invoke("janitor", {})
    assert functions.management.deleted == ["c-1"]
    assert functions.run(functions.connections.get("c-1")) is None


def test_one_whose_disconnect_was_lost_is_removed(functions: Functions) -> None:
    functions.connect("c-1", query={"userId": "kim"})
    functions.run(functions.connections.touch("c-1", now_ms=epoch_ms() - 3_700_000))
    functions.management.open.clear()
    functions.invoke("janitor", {})
    assert functions.run(functions.connections.get("c-1")) is None


@pytest.mark.parametrize("error", [Unavailable("planted"), RuntimeError("planted")])
def test_aurora_that_is_unavailable_fails_no_invocation(functions: Functions, error: Exception) -> None:
    functions.write_behind.error = error
    assert functions.invoke("janitor", {}) == {}
    assert functions.write_behind.asked == 1


def test_the_sweep_leaves_time_for_aurora_and_the_whole_ends_in_time() -> None:
    stops: list[int] = []

    class Sweeper:
        async def sweep(self, *, stop_at_ms: int) -> None:
            stops.append(stop_at_ms - epoch_ms())

    class Stuck(FakeWriteBehind):
        async def flush_if_due(self) -> int:
            await asyncio.Event().wait()
            return 0

    janitor: Any = Sweeper()
    write_behind: Any = Stuck()
    asyncio.run(sweep(janitor, write_behind, within_s=0.05))
    assert 0 <= stops[0] <= 25


def test_without_time_nothing_is_begun(functions: Functions) -> None:
    functions.connect("c-1", query={"userId": "kim"})
    functions.run(functions.connections.touch("c-1", now_ms=epoch_ms() - 3_700_000))
    functions.invoke("janitor", {}, remaining_ms=5_000)
    assert functions.management.deleted == []
