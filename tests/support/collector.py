"""A collector of OpenTelemetry that keeps what it gets, and what a trace must be by the request's record."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from answerback.core.request import Record

ERROR = 2


@dataclass(frozen=True, slots=True)
class Span:
    """One span that has ended. Times in epoch milliseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ms: int
    ended_ms: int
    is_error: bool
    attributes: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...]

    @property
    def event_names(self) -> list[str]:
        return [name for name, _ in self.events]


class Collector:
    """`with Collector() as collector`: `collector.url` takes traces by OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[Span]:
        return [span for body in list(self.bodies) for span in _spans(body)]

    def __enter__(self) -> "Collector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                collector.headers.append(dict(self.headers))
                collector.bodies.append(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _spans(body: bytes) -> Iterable[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    began_ms=span.start_time_unix_nano // 1_000_000,
                    ended_ms=span.end_time_unix_nano // 1_000_000,
                    is_error=span.status.code == ERROR,
                    attributes=_facts(span.attributes),
                    events=tuple((event.name, _facts(event.attributes)) for event in span.events),
                )


def _facts(pairs: Any) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


def trace_of(spans: Sequence[Span], record: Record) -> dict[str, list[Span]]:
    """The spans of a request's trace by name, the earliest first."""
    roots = [span for span in spans if span.attributes.get("answerback.request.id") == record.request_id]
    assert len(roots) == 1, record.request_id
    inside = {roots[0].span_id}
    found = [roots[0]]
    for _ in range(3):
        found = [*roots, *(span for span in spans if span.parent_id in inside)]
        inside = {span.span_id for span in found}
    by_name: dict[str, list[Span]] = {}
    for span in sorted(found, key=lambda span: span.began_ms):
        by_name.setdefault(span.name, []).append(span)
    return by_name


def check_trace(spans: Sequence[Span], record: Record, *, attempts: int) -> dict[str, list[Span]]:
    """Trace = record: every fact of the record is in its trace, and the trace has nothing that the record has not."""
    trace, ending = trace_of(spans, record), record.ending
    assert ending is not None
    [answer] = trace["answer"]
    assert {span.trace_id for named in trace.values() for span in named} == {answer.trace_id}
    if record.traceparent is None:
        assert answer.parent_id == ""
    else:
        assert record.traceparent.split("-")[1:3] == [answer.trace_id, answer.parent_id]
    assert (answer.began_ms, answer.ended_ms) == (record.accepted_at_ms, ending.ended_at_ms)
    facts = answer.attributes
    assert (facts["user.id"], facts["session.id"], facts["gen_ai.conversation.id"], facts["gen_ai.request.model"]) == (
        record.user_id,
        record.session_id,
        record.conversation_id,
        record.model,
    )
    assert (facts["answerback.status"], facts["answerback.length"]) == (ending.status.value, ending.length)
    assert facts["answerback.attempts"] == attempts
    code = None if ending.error_code is None else ending.error_code.value
    assert (facts.get("error.type"), answer.is_error) == (code, code is not None)

    [accept], [queue] = trace["accept"], trace["queue"]
    began_ms = ending.ended_at_ms if record.started_at_ms is None else record.started_at_ms
    assert (queue.began_ms, queue.ended_ms) == (record.accepted_at_ms, began_ms)
    assert accept.began_ms == record.accepted_at_ms

    tried = [span for name, named in trace.items() if name.startswith("attempt ") for span in named]
    assert [span.name for span in tried] == [f"attempt {number + 1}" for number in range(attempts)]
    assert not tried or tried[0].began_ms == record.started_at_ms
    for lost in tried[: attempts - 1]:
        assert lost.attributes["error.type"] == "lost"
    if record.owner:
        assert tried[-1].ended_ms == ending.ended_at_ms
        assert tried[-1].attributes.get("error.type") == code

    calls = [span for name, named in trace.items() if name.startswith("chat ") for span in named]
    assert {span.parent_id for span in calls} <= {span.span_id for span in tried}
    if ending.finish_reason is not None:
        done = calls[-1].attributes
        assert done["gen_ai.response.finish_reasons"] == [ending.finish_reason]
        assert done.get("gen_ai.usage.input_tokens") == ending.input_tokens
        assert done.get("gen_ai.usage.output_tokens") == ending.output_tokens
        assert done.get("gen_ai.usage.cache_read.input_tokens") == ending.cached_tokens
        assert done.get("gen_ai.usage.reasoning.output_tokens") == ending.reasoning_tokens
    for span in trace.get("deliver", ()):
        assert (span.parent_id, span.attributes["session.id"]) == (answer.span_id, record.session_id)
    known = {"answer", "accept", "queue", "deliver", f"chat {record.model}", *(span.name for span in tried)}
    assert trace.keys() <= known
    return trace
