"""Traces: each is what its request's record says, whatever happened, and has no text."""

import asyncio
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from answerback.client import AnswerStream, Client, Event, RequestCancelled, RequestFailed, Restarted, Started, Text
from answerback.core.request import Record
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from answerback.stores.encoding import decode_record
from cli_process import start_gateway
from dictated import DictatedModel
from network import Network

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace as api
from opentelemetry.sdk.trace import TracerProvider

from answerback.client import BlockingClient
from collector import Collector, check_trace, trace_of

SECRET = "s3cret"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def gateway_in(folder: Path, collector: Collector, *models: Any, **options: Any) -> Gateway:
    settings = {"port": 0, "admin_port": None, "data_dir": folder, "otlp_endpoint": collector.url, "grace_s": 0.5}
    return Gateway(GatewaySettings(**settings | options), models=models or None)


def records_in(folder: Path) -> dict[str, Record]:
    with closing(sqlite3.connect(folder / "answerback.db")) as database:
        rows = database.execute("SELECT record, record_schema FROM requests").fetchall()
    return {record.request_id: record for record in (decode_record(*row) for row in rows)}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for is in other threads and processes
        await asyncio.sleep(0.01)


async def until_read(stream: AnswerStream, is_there: Callable[[Event], bool]) -> None:
    async for event in stream.events():
        if is_there(event):
            return


def is_start(attempt: int, event: Event) -> bool:
    return isinstance(event, Started | Restarted) and event.attempt == attempt


def is_exported(collector: Collector, name: str) -> bool:
    return any(span.name == name for span in collector.spans)


def check_no_text(collector: Collector) -> None:
    assert not any(SECRET.encode() in body for body in collector.bodies)


async def test_trace_is_record_however_a_request_ends(tmp_path: Path, collector: Collector) -> None:
    models = ("echo", "broken=echo:fail=unavailable", "slow=echo:delay_ms=600000&concurrency=1")
    async with gateway_in(tmp_path, collector, models=models) as gateway, Client(gateway.url, user="ann") as app:
        await app.ask(f"{SECRET} one", request_id="well", conversation="c")
        async with app.stream(f"{SECRET} one two", request_id="streamed") as stream:
            await stream.answer
        with pytest.raises(RequestFailed):
            await app.ask(SECRET, model="broken", request_id="failed")
        with pytest.raises(RequestFailed):
            await app.ask(SECRET, model="none", request_id="refused")
        asking = [
            asyncio.create_task(app.ask(f"{SECRET} one", model="slow", request_id=name, conversation=name))
            for name in ("running", "waiting")
        ]
        await until(lambda: gateway._queue is not None and gateway._queue.depth == 1)
        for name, task in zip(("waiting", "running"), reversed(asking), strict=True):
            app.cancel(name)
            with pytest.raises(RequestCancelled):
                await task
    records = records_in(tmp_path)
    assert trace_of(collector.spans, records["well"])["deliver"]
    for name, attempts in {"well": 1, "streamed": 1, "failed": 1, "running": 1, "waiting": 0}.items():
        found = check_trace(collector.spans, records[name], attempts=attempts)
        assert len(found["deliver"]) == 1, name
    [call] = trace_of(collector.spans, records["running"])["chat slow"]
    assert call.attributes["error.type"] == "cancelled"
    # What was refused was no answer, and has no trace.
    assert len({span.trace_id for span in collector.spans}) == 5
    check_no_text(collector)


async def test_resumes_are_events_of_the_delivery(tmp_path: Path, collector: Collector) -> None:
    model = DictatedModel()
    async with (
        gateway_in(tmp_path, collector, model) as gateway,
        Network(gateway.url) as network,
        Client(network.url, user="ann") as app,
    ):
        model.say(SECRET, "one ")
        async with app.stream(SECRET, request_id="r") as stream:
            await until_read(stream, lambda event: isinstance(event, Text))
            network.cut()
            model.say(SECRET, "two ")
            network.repair()
            await until_read(stream, lambda event: isinstance(event, Text))
            model.end(SECRET, "three")
            assert (await stream.answer).text == "one two three"
    [delivered] = check_trace(collector.spans, records_in(tmp_path)["r"], attempts=1)["deliver"]
    assert ("resume", {"answerback.attempt": 1, "answerback.offset": 4}) in delivered.events
    check_no_text(collector)


async def test_attempts_after_a_crash_are_of_the_same_trace(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    data = tmp_path / "data"

    async def start(number: int) -> Any:
        model = "words=echo" if number == 2 else "words=echo:delay_ms=600000"
        flags = ("--otlp-endpoint", collector.url, "--model", model)
        return await asyncio.to_thread(start_gateway, *flags, data_dir=data, log=tmp_path / f"log{number}")

    gateways = [await start(0)]
    provider = TracerProvider(shutdown_on_exit=False)
    try:
        async with Network(gateways[0].url) as network, Client(network.url, user="ann") as app:
            with provider.get_tracer("app").start_as_current_span("click") as click:
                stream = app.stream(f"{SECRET} one", request_id="r")
            async with stream:
                # A process that is killed has exported what had ended a while before.
                for number, exported in enumerate(("accept", "attempt 1")):
                    await until_read(stream, partial(is_start, number + 1))
                    await until(partial(is_exported, collector, exported))
                    gateways[-1].stop(signal.SIGKILL)
                    gateways.append(await start(number + 1))
                    network.repair(gateways[-1].url)
                assert (await stream.answer).text == f"{SECRET} one"
    finally:
        for gateway in gateways:
            gateway.stop()
            gateway.process.stdout.close()
    record = records_in(data)["r"]
    context = click.get_span_context()
    assert record.traceparent == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    check_trace(collector.spans, record, attempts=3)
    check_no_text(collector)


@pytest.mark.parametrize("is_sampled", [True, False])
async def test_what_the_app_does_not_sample_is_not_exported(
    tmp_path: Path, collector: Collector, is_sampled: bool
) -> None:
    parent = api.SpanContext(0xA1, 0xB2, is_remote=False, trace_flags=api.TraceFlags(int(is_sampled)))
    async with gateway_in(tmp_path, collector, models=("echo",)) as gateway, Client(gateway.url, user="ann") as app:
        with api.use_span(api.NonRecordingSpan(parent)):
            await app.ask("one")
    assert bool(collector.spans) is is_sampled


async def test_the_blocking_client_says_the_span_of_its_caller(tmp_path: Path, collector: Collector) -> None:
    parent = api.SpanContext(0xA1, 0xB2, is_remote=False, trace_flags=api.TraceFlags(1))

    def ask(url: str) -> None:
        with BlockingClient(url, user="ann") as app, api.use_span(api.NonRecordingSpan(parent)):
            app.ask("one", request_id="asked")
            with app.stream("one", request_id="streamed") as stream:
                assert stream.answer.text == "one"
        with BlockingClient(url, user="ann") as app:
            app.ask("one", request_id="alone")

    async with gateway_in(tmp_path, collector, models=("echo",)) as gateway:
        await asyncio.to_thread(ask, gateway.url)
    said = {name: record.traceparent for name, record in records_in(tmp_path).items()}
    named = f"00-{0xA1:032x}-{0xB2:016x}-01"
    assert said == {"asked": named, "streamed": named, "alone": None}


async def test_a_collector_that_is_gone_costs_no_answer(tmp_path: Path) -> None:
    with Collector() as gone:
        pass
    async with gateway_in(tmp_path, gone, models=("echo",)) as gateway, Client(gateway.url, user="ann") as app:
        assert (await app.ask("one two")).text == "one two"
