"""One OpenTelemetry trace an answer, made from the request's record.

    answer                what `traceparent` names is its parent; from acceptance to the ending
      accept              until the question was stored
      queue               until the first attempt began
      attempt N           from its claim to its ending; a lost one ends when the next begins
        chat MODEL        the call of the model, by the conventions for generative AI
      deliver             to the session that asked; events: resume, slow, gone

The ids of `answer` and `attempt N` come from the record, too. So every process that has to do with a request, before a
crash or after it, in a gateway or a function, makes spans of one trace, and none has to pass anything on. A span is
exported when it ends. What a process that is killed had not exported of an attempt, the next attempt tells as lost.

No span has a word of the conversation. Import this module only where traces are wanted: OpenTelemetry is an extra.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBasedTraceIdRatio
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.util.types import AttributeValue

import answerback
from answerback.core.answer import Answer
from answerback.core.delivery import Delivery
from answerback.core.keys import digest
from answerback.core.request import DeliveryTarget, Ending, Record, RequestKey
from answerback.model_guard import Take, ask
from answerback.ports import Finish, Model, ModelError, Piece, Prompt
from answerback.protocol.errors import ERRORS, Fault
from answerback.protocol.frames import MessageAsked
from answerback.service.delivery_sender import DeliverySender, FlushResult, Stream
from answerback.service.observer import Observer

Attributes = Mapping[str, AttributeValue]

EXPORT_EVERY_MS: Final = 1_000
"""A process that is killed loses the spans of its last second."""

CLOSE_S: Final = 2.0
"""How long the last export may take."""

_SENT: Final = TraceFlags(TraceFlags.SAMPLED)


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose id is known."""

    def __init__(self) -> None:
        self.trace_id: int | None = None
        self.span_id: int | None = None

    def generate_trace_id(self) -> int:
        return self.trace_id or super().generate_trace_id()

    def generate_span_id(self) -> int:
        return self.span_id or super().generate_span_id()


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Exports by OTLP over HTTP. `endpoint`: of the collector, with or without the path of traces."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - not on AWS

    path = "/v1/traces"
    return OTLPSpanExporter(endpoint=endpoint if endpoint.endswith(path) else endpoint.rstrip("/") + path)


@dataclass(frozen=True, slots=True)
class _Trace:
    """Where the spans of one request are. `above`: of the span that asked, if there is one."""

    name: str
    trace_id: int
    above: Context
    root_id: int
    is_sampled: bool

    def below(self, span_id: int) -> Context:
        return _in_context(SpanContext(self.trace_id, span_id, is_remote=False, trace_flags=_SENT))

    @property
    def inside(self) -> Context:
        return self.below(self.root_id)

    def attempt_id(self, attempt: int) -> int:
        return int(digest("attempt", self.name, str(attempt))[:16], 16)


@dataclass(slots=True)
class _Attempt:
    trace: _Trace
    no: int
    began_ms: int


@dataclass(slots=True)
class _Delivery:
    """What one session was sent. `target_no`: where it went last."""

    trace: _Trace
    began_ms: int
    target_no: int
    events: list[tuple[str, int, Attributes]] = field(default_factory=list)


class Traces(Observer):
    """Makes the spans, and gives them to `exporter` in a thread of its own. The OTEL_* variables set the rest.

    `clock`: epoch milliseconds, as in the records. `ratio`: of traces that are kept where the app does not say.
    `attributes`: what sets this process apart.
    """

    def __init__(
        self, exporter: SpanExporter, *, clock: Callable[[], int], attributes: Attributes, ratio: float | None = None
    ) -> None:
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "answerback"}
        resource = Resource.create({**named, "service.version": answerback.__version__, **attributes})
        delay_ms = float(os.environ.get("OTEL_BSP_SCHEDULE_DELAY", EXPORT_EVERY_MS))
        self._exporter = exporter
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=resource,
            id_generator=self._ids,
            sampler=None if ratio is None else ParentBasedTraceIdRatio(ratio),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms))
        self._tracer = self._provider.get_tracer("answerback", answerback.__version__)
        self._clock = clock
        self._attempts: dict[RequestKey, _Attempt] = {}
        self._deliveries: WeakKeyDictionary[Delivery, _Delivery] = WeakKeyDictionary()

    def beside(self, other: Observer) -> Observer:
        """An observer that tells the other one, too."""
        return _Both(other, self)

    def delivery_sender(self, **parts: Any) -> DeliverySender:
        """A DeliverySender whose deliveries are traced."""
        return TracedDeliverySender(traces=self, **parts)

    def flush(self) -> None:
        """Export what has ended; blocks."""
        self._provider.force_flush()

    def close(self) -> None:
        """Export what has ended, and stop; blocks, but not for long where nobody takes it."""
        give_up = threading.Timer(CLOSE_S, self._exporter.shutdown)
        give_up.start()
        self._provider.shutdown()
        give_up.cancel()

    # --- spans

    def _trace(self, record: Record) -> _Trace:
        name = digest("trace", *record.key, str(record.accepted_at_ms))
        if record.traceparent is None:
            trace_id, above = int(name[:32], 16), Context()
        else:
            _, trace, parent, flags = record.traceparent.split("-")
            trace_id = int(trace, 16)
            above = _in_context(SpanContext(trace_id, int(parent, 16), True, TraceFlags(int(flags, 16))))
        decision = self._provider.sampler.should_sample(above, trace_id, "answer").decision
        return _Trace(name, trace_id, above, int(name[32:48], 16), decision is Decision.RECORD_AND_SAMPLE)

    def _span(
        self,
        trace: _Trace,
        name: str,
        began_ms: int,
        ended_ms: int,
        *,
        attributes: Attributes,
        parent: Context | None = None,
        span_id: int | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        error: str | None = None,
        events: Sequence[tuple[str, int, Attributes]] = (),
    ) -> None:
        """Make one that has ended. `error`: its code."""
        if not trace.is_sampled:
            return
        self._ids.trace_id, self._ids.span_id = trace.trace_id, span_id
        span = self._tracer.start_span(
            name,
            context=trace.inside if parent is None else parent,
            kind=kind,
            attributes=attributes if error is None else {**attributes, "error.type": error},
            start_time=began_ms * 1_000_000,
        )
        self._ids.trace_id = self._ids.span_id = None
        for what, at_ms, facts in events:
            span.add_event(what, facts, at_ms * 1_000_000)
        if error is not None:
            span.set_status(StatusCode.ERROR)
        span.end(max(began_ms, ended_ms) * 1_000_000)

    def _attempt_span(self, attempt: _Attempt, ended_ms: int, *, error: str | None) -> None:
        self._span(
            attempt.trace,
            f"attempt {attempt.no}",
            attempt.began_ms,
            ended_ms,
            attributes={"answerback.attempt": attempt.no},
            span_id=attempt.trace.attempt_id(attempt.no),
            error=error,
        )

    # --- Observer

    def accepted(self, record: Record) -> None:
        self._span(self._trace(record), "accept", record.accepted_at_ms, self._clock(), attributes={})

    def started(self, record: Record) -> None:
        now_ms, trace = self._clock(), self._trace(record)
        self._lost(record, trace, before=record.attempt, now_ms=now_ms)
        began_ms = record.started_at_ms if record.attempt == 1 and record.started_at_ms is not None else now_ms
        self._attempts[record.key] = _Attempt(trace, record.attempt, began_ms)

    def _lost(self, record: Record, trace: _Trace, *, before: int, now_ms: int) -> None:
        """The attempt before this number ended without an ending: its process or its lease was lost."""
        attempt = self._attempts.pop(record.key, None)
        if before > 1:
            if attempt is None or attempt.no != before - 1:
                attempt = _Attempt(trace, before - 1, record.started_at_ms or now_ms)
            self._attempt_span(attempt, now_ms, error="lost")

    def ended(self, record: Record, ending: Ending) -> None:
        trace = self._trace(record)
        code = None if ending.error_code is None else ending.error_code.value
        began_ms = ending.ended_at_ms if record.started_at_ms is None else record.started_at_ms
        if record.owner:
            attempts = ending.attempt
            attempt = self._attempts.pop(record.key, None) or _Attempt(trace, attempts, began_ms)
            self._attempt_span(attempt, ending.ended_at_ms, error=code)
        else:  # it ended without a worker, and that raised the number
            attempts = ending.attempt - 1
            self._lost(record, trace, before=ending.attempt, now_ms=ending.ended_at_ms)
        self._span(trace, "queue", record.accepted_at_ms, began_ms, attributes={})
        facts: dict[str, AttributeValue | None] = {
            "user.id": record.user_id,
            "session.id": record.session_id,
            "gen_ai.conversation.id": record.conversation_id,
            "gen_ai.request.model": record.model or None,
            "answerback.request.id": record.request_id,
            "answerback.status": ending.status.value,
            "answerback.attempts": attempts,
            "answerback.length": ending.length,
        }
        self._span(
            trace,
            "answer",
            record.accepted_at_ms,
            ending.ended_at_ms,
            attributes=_given(facts),
            parent=trace.above,
            span_id=trace.root_id,
            kind=SpanKind.SERVER,
            error=code,
        )

    def fenced(self, record: Record) -> None:
        # The gateway that took it over tells of the lost attempt.
        self._attempts.pop(record.key, None)

    # --- the model

    async def ask(self, model: Model, prompt: Prompt, take: Take) -> None:
        """`model_guard.ask`, as a span."""
        attempt = self._attempts.get(RequestKey(prompt.user_id, prompt.request_id))
        began_ms = self._clock()
        finish: Finish | None = None
        first_ms: int | None = None
        error: str | None = "cancelled"

        def see(piece: Piece) -> bool | None:
            nonlocal finish, first_ms, error
            if isinstance(piece, Finish):
                finish, error = piece, None
            elif first_ms is None:
                first_ms = self._clock() - began_ms
            return take(piece)

        try:
            await ask(model, prompt, see)
            error = None
        except ModelError as exc:
            error = exc.code.value
            raise
        finally:
            if attempt is not None:
                facts: dict[str, AttributeValue | None] = {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.provider.name": _PROVIDERS.get(type(model).__module__, "answerback"),
                    "gen_ai.request.model": model.name,
                    "gen_ai.request.max_tokens": prompt.max_tokens,
                    "gen_ai.conversation.id": prompt.conversation_id,
                    "gen_ai.response.finish_reasons": None if finish is None else (finish.reason,),
                    "gen_ai.usage.input_tokens": None if finish is None else finish.input_tokens,
                    "gen_ai.response.time_to_first_chunk": None if first_ms is None else first_ms / 1000,
                    "gen_ai.usage.output_tokens": None if finish is None else finish.output_tokens,
                    "gen_ai.usage.cache_read.input_tokens": None if finish is None else finish.cached_tokens,
                    "gen_ai.usage.reasoning.output_tokens": None if finish is None else finish.reasoning_tokens,
                }
                self._span(
                    attempt.trace,
                    f"chat {model.name}",
                    began_ms,
                    self._clock(),
                    attributes=_given(facts),
                    parent=attempt.trace.below(attempt.trace.attempt_id(attempt.no)),
                    kind=SpanKind.CLIENT,
                    error=error,
                )

    # --- the delivery

    def delivering(self, delivery: Delivery) -> None:
        """It begins. What answers a refused question belongs to no trace: that was no answer."""
        if not _is_refusal(delivery.record):
            known = _Delivery(self._trace(delivery.record), self._clock(), delivery.target_no)
            self._deliveries[delivery] = known

    def delivers(self, delivery: Delivery) -> None:
        """Something of it is about to be sent."""
        known = self._deliveries.get(delivery)
        if known is not None and known.target_no != delivery.target_no:
            if known.target_no:
                self._happened(known, delivery, "resume")
            known.target_no = delivery.target_no

    def sent(self, delivery: Delivery, result: FlushResult) -> None:
        """What was due has left, as far as it could."""
        known = self._deliveries.get(delivery)
        if known is None:
            return
        if result is FlushResult.SLOW:
            self._happened(known, delivery, "slow")
        elif delivery.is_gone:
            self._happened(known, delivery, "gone")
        if delivery.is_done and delivery.record.ending is not None:
            self.delivered(delivery)

    def delivered(self, delivery: Delivery) -> None:
        """It is over: the ending is out, or left with a slow connection, or nobody is there to take it."""
        known = self._deliveries.pop(delivery, None)
        if known is not None:
            session = {"session.id": delivery.record.session_id}
            self._span(known.trace, "deliver", known.began_ms, self._clock(), attributes=session, events=known.events)

    def _happened(self, known: _Delivery, delivery: Delivery, what: str) -> None:
        facts = {"answerback.attempt": delivery.attempt, "answerback.offset": delivery.offset}
        if not known.events or (known.events[-1][0], known.events[-1][2]) != (what, facts):
            known.events.append((what, self._clock(), facts))


class TracedDeliverySender(DeliverySender):
    """A DeliverySender that tells `traces` of its deliveries."""

    def __init__(self, *, traces: Traces, **parts: Any) -> None:
        super().__init__(**parts)
        self._traces = traces

    def stream(
        self, record: Record, answer: Answer, *, target: DeliveryTarget | None = None, asked: MessageAsked | None = None
    ) -> Stream:
        stream = super().stream(record, answer, target=target, asked=asked)
        if asked is None:  # of the trace of the question are those who asked it
            self._traces.delivering(stream)
        return stream

    async def stored(self, record: Record, target: DeliveryTarget) -> Delivery:
        delivery = await super().stored(record, target)
        self._traces.delivering(delivery)
        return delivery

    async def flush(self, delivery: Delivery) -> FlushResult:
        self._traces.delivers(delivery)
        result = await super().flush(delivery)
        self._traces.sent(delivery, result)
        return result

    def park(self, delivery: Delivery, record: Record) -> bool:
        is_parked = super().park(delivery, record)
        if is_parked:
            self._traces.delivered(delivery)
        return is_parked


class _Both(Observer):
    """An observer that tells two."""

    def __init__(self, first: Observer, second: Observer) -> None:
        for name in [name for name in vars(Observer) if not name.startswith("_")]:
            setattr(self, name, _in_turn(getattr(first, name), getattr(second, name)))


def _in_turn(first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        first(*arguments)
        second(*arguments)

    return call


def _in_context(context: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(context), Context())


def _is_refusal(record: Record) -> bool:
    """Whether the question was never accepted."""
    code = None if record.ending is None else record.ending.error_code
    return not record.model or (code is not None and ERRORS[code].fault in (Fault.CLIENT, Fault.LIMIT))


def _given(facts: Mapping[str, AttributeValue | None]) -> Attributes:
    return {name: value for name, value in facts.items() if value is not None}


_PROVIDERS: Final = {"answerback.models.openai": "openai", "answerback.models.bedrock": "aws.bedrock"}
