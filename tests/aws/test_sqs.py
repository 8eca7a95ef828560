"""Messages of the queue: what they say, and how they are told apart."""

import asyncio
import json
from typing import Any

import pytest

from answerback.core.keys import ordering_key
from answerback.core.request import Record, RequestKey
from answerback.ports import Unavailable
from answerback_aws.runtime.sqs import SqsQueue, read_event
from asking import record_of
from lambda_functions import QUEUE_URL, DirectCalls, FakeSqs, sqs_event


def record(request_id: str = "r-1", *, user: str = "kim", queue_no: int = 1) -> Record:
    return record_of(request_id, user, conversation_id="k", queue_no=queue_no)


def put(sqs: FakeSqs, *records: Record, correlation_id: str | None = None) -> list[dict[str, Any]]:
    calls: Any = DirectCalls()
    queue = SqsQueue(client=sqs, calls=calls, url=QUEUE_URL, correlation_id=lambda: correlation_id)
    for one in records:
        asyncio.run(queue.put(one))
        asyncio.run(queue.forget(one.key))
    return list(sqs.sent.values())


def test_a_message_names_its_request_and_nothing_else() -> None:
    (message,) = put(FakeSqs(), record())
    assert json.loads(message["MessageBody"]) == {"user": "kim", "request": "r-1"}
    assert message["QueueUrl"] == QUEUE_URL
    assert message["MessageGroupId"] == ordering_key("kim", "k")
    assert len(message["MessageGroupId"]) <= 128
    assert len(message["MessageDeduplicationId"]) <= 128


def test_a_repeated_put_is_the_same_message_and_a_new_number_another() -> None:
    numbers = [record(), record(), record(queue_no=2), record("r-2"), record(user="bob")]
    assert len(put(FakeSqs(), *numbers)) == 4


def test_ids_that_look_alike_when_joined_are_kept_apart() -> None:
    assert len(put(FakeSqs(), record("b:1", user="a"), record("1", user="a:b"), record("r", queue_no=11))) == 3


def test_what_was_put_is_what_is_read() -> None:
    record_ = record('odd "id" — ü', user="用户")
    (message,) = put(FakeSqs(), record_, correlation_id="BFHPhFe3IAMF95g=")
    event = sqs_event(message["MessageBody"], receives=3, attributes=message["MessageAttributes"])
    (read,) = read_event(event)
    assert read.key == record_.key
    assert (read.receives, read.correlation_id) == (3, "BFHPhFe3IAMF95g=")
    assert read.receipt_handle == event["Records"][0]["receiptHandle"]


def test_without_a_correlation_no_attribute() -> None:
    (message,) = put(FakeSqs(), record())
    assert message["MessageAttributes"] == {}
    (read,) = read_event(sqs_event(message["MessageBody"]))
    assert read.correlation_id is None


@pytest.mark.parametrize(
    "body", ["", "null", "[]", "7", '"text"', "{}", '{"user": "kim"}', '{"user": 1, "request": "r"}', "[" * 100_000]
)
def test_what_cannot_be_read_names_no_request(body: str) -> None:
    (read,) = read_event(sqs_event(body))
    assert read.key is None


def test_a_field_that_a_newer_version_adds_is_ignored() -> None:
    (read,) = read_event(sqs_event('{"user": "kim", "request": "r", "more": [1]}'))
    assert read.key == RequestKey("kim", "r")


def test_an_outage_is_reported() -> None:
    with pytest.raises(Unavailable):
        put(FakeSqs(error=Unavailable("planted")), record())
