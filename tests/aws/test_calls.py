"""AWS calls from asyncio, and which errors are an outage."""

import asyncio
import threading
from collections.abc import Iterator

import botocore.exceptions as errors
import pytest

from answerback.ports import Unavailable
from answerback_aws.runtime.client import OUTAGES, Calls, client, error_code, is_outage


def service_error(code: str, status: int = 400) -> errors.ClientError:
    return errors.ClientError(
        {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Op"
    )


@pytest.fixture
def calls() -> Iterator[Calls]:
    made = Calls(threads=2)
    yield made
    made.close()


async def test_it_returns_what_the_call_returns(calls: Calls) -> None:
    assert await calls.run(dict, a=1) == {"a": 1}


async def test_calls_run_beside_each_other_up_to_the_bound(calls: Calls) -> None:
    both = threading.Barrier(2, timeout=10)
    assert sorted(await asyncio.gather(calls.run(both.wait), calls.run(both.wait))) == [0, 1]
    begun, running, most = threading.Semaphore(0), 0, 0
    lock = threading.Lock()

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        begun.release()
        begun.acquire()
        with lock:
            running -= 1

    await asyncio.gather(*(calls.run(call) for _ in range(20)))
    assert most <= 2


@pytest.mark.parametrize(
    "error",
    [
        errors.EndpointConnectionError(endpoint_url="http://x"),
        errors.ConnectTimeoutError(endpoint_url="http://x"),
        errors.ReadTimeoutError(endpoint_url="http://x"),
        errors.ConnectionClosedError(endpoint_url="http://x"),
        errors.HTTPClientError(error="x"),
        errors.ResponseStreamingError(error="x"),
        errors.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        service_error("Anything", 500),
        service_error("Anything", 503),
        *(service_error(code) for code in sorted(OUTAGES)),
    ],
    ids=lambda error: error_code(error) if isinstance(error, errors.ClientError) else type(error).__name__,
)
async def test_an_outage_is_unavailable(calls: Calls, error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(Unavailable) as raised:
        await calls.run(fail)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        service_error("ConditionalCheckFailedException"),
        service_error("TransactionCanceledException"),
        service_error("GoneException", 410),
        service_error("LimitExceededException", 429),  # of a post: a slow reader
        service_error("DatabaseResumingException"),
        service_error("AccessDeniedException"),
        service_error("ResourceNotFoundException"),
        errors.NoCredentialsError(),
        errors.ParamValidationError(report="x"),
        ValueError("a mistake of ours"),
    ],
    ids=lambda error: error_code(error) if isinstance(error, errors.ClientError) else type(error).__name__,
)
async def test_what_the_caller_must_understand_comes_as_it_is(calls: Calls, error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await calls.run(fail)
    assert raised.value is error


def test_an_error_without_facts_is_no_outage() -> None:
    assert not is_outage(errors.ClientError({}, "Op"))


def test_a_client_does_not_wait_a_minute() -> None:
    made = client("dynamodb", region="eu-west-1", endpoint="http://127.0.0.1:9", attempts=2)
    config = made.meta.config
    assert (config.connect_timeout, config.read_timeout) == (2.0, 5.0)
    assert config.retries == {"mode": "standard", "total_max_attempts": 2}
    assert made.meta.endpoint_url == "http://127.0.0.1:9"
    assert made.meta.region_name == "eu-west-1"
    made.close()
