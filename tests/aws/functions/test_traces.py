"""Traces of the functions: front and worker make one, and it is what the record says."""

from collections.abc import Callable, Iterator

import pytest

from answerback.clock import epoch_ms
from answerback.core.request import RequestKey
from answerback.core.transitions import State
from answerback_aws.runtime import client, span_exporter
from collector import Collector, check_trace
from lambda_functions import Functions

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECRET = "s3cret"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    client.session.cache_clear()
    with Collector() as collector:
        monkeypatch.setattr(span_exporter, "endpoint_in", lambda _: f"{collector.url}/v1/traces")
        yield collector
    client.session.cache_clear()


def ask(functions: Functions) -> None:
    functions.connect("c-1", query={"userId": "kim", "sessionId": "s"})
    functions.say("c-1", {"action": "hello", "helloId": "h"})
    question = {"requestId": "r-1", "message": f"{SECRET} one", "stream": True, "traceparent": TRACEPARENT}
    functions.say("c-1", {"action": "sendMessage", **question})


def test_front_and_worker_make_one_trace(make_functions: Callable[..., Functions], collector: Collector) -> None:
    functions = make_functions(TRACE_RATIO="1")
    ask(functions)
    # An attempt is lost: its process is killed, and the next has it when the lease is over.
    functions.alter(RequestKey("kim", "r-1"), state=State.RUNNING, attempt=1, owner="dead", started_at_ms=epoch_ms())
    functions.work()
    record = functions.run(functions.store.read(RequestKey("kim", "r-1")))
    assert record.traceparent == TRACEPARENT
    trace = check_trace(collector.spans, record, attempts=2)
    assert len(trace["deliver"]) == 1
    assert not any(SECRET.encode() in body for body in collector.bodies)
    signed = collector.headers[0]["Authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-central-1/xray/aws4_request" in signed


def test_spans_that_nobody_takes_cost_no_answer(
    make_functions: Callable[..., Functions], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_exporter, "endpoint_in", lambda _: "http://127.0.0.1:9/v1/traces")
    functions = make_functions(TRACE_RATIO="1")
    ask(functions)
    functions.work()
    assert functions.management.to("c-1")[-1]["status"] == "completed"
    assert [line for line in functions.lines if "spans could not be exported" in line.get("message", "")]


def test_none_of_the_share_of_none_is_kept(make_functions: Callable[..., Functions], collector: Collector) -> None:
    functions = make_functions(TRACE_RATIO="0")
    functions.connect("c-1", query={"userId": "kim", "sessionId": "s"})
    functions.say("c-1", {"action": "sendMessage", "requestId": "r-1", "message": "one"})
    functions.work()
    assert functions.management.to("c-1")[-1]["status"] == "completed"
    assert collector.spans == []


def test_the_endpoint_is_that_of_the_region() -> None:
    assert span_exporter.endpoint_in("eu-central-1") == "https://xray.eu-central-1.amazonaws.com/v1/traces"
    assert span_exporter.endpoint_in("cn-north-1") == "https://xray.cn-north-1.amazonaws.com.cn/v1/traces"
