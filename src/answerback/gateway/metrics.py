"""The gateway's metrics, in Prometheus' text format.

Everything is a plain number that is read when somebody scrapes: the client library's own counters take a lock and a
microsecond each, several times a request.
"""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from answerback import __version__
from answerback.core.request import Ending, Record
from answerback.gateway.logging import quoted
from answerback.gateway.queue import InProcessQueue
from answerback.gateway.sockets import Sockets
from answerback.protocol.errors import ErrorCode
from answerback.service.observer import Observer

log = logging.getLogger("answerback.requests")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
NODE_STATES: Final = ("serving", "standby", "draining", "gone", "dead")


class Durations:
    """A histogram of seconds."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        """As Prometheus wants it: cumulative."""
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self._sum)


class Counts(Observer):
    """Counts the events of the service. `clock`: epoch milliseconds."""

    def __init__(self, *, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.was_accepted = 0
        self.was_attached = 0
        self.was_started = 0
        self.was_fenced = 0
        self.was_overrun = 0
        self.text = 0
        self.deltas = 0
        self.refusals: Counter[str] = Counter()
        self.endings: Counter[tuple[str, str, str]] = Counter()
        """By model, status and code. A request that was refused has no model."""
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.accepting = Durations((0.001, 0.002, *SECONDS[:10]))
        self.first_text = Durations(SECONDS)
        self.total = Durations(SECONDS)

    def accepted(self, record: Record) -> None:
        self.was_accepted += 1
        self.accepting.add(max(0, self._clock() - record.accepted_at_ms) / 1000)

    def refused(self, code: ErrorCode) -> None:
        self.refusals[code.value] += 1

    def attached(self, record: Record) -> None:
        self.was_attached += 1

    def started(self, record: Record) -> None:
        self.was_started += 1

    def ended(self, record: Record, ending: Ending) -> None:
        code = "" if ending.error_code is None else ending.error_code.value
        self.endings[record.model, ending.status.value, code] += 1
        if ending.input_tokens is not None:
            self.tokens[record.model, "input"] += ending.input_tokens
        if ending.output_tokens is not None:
            self.tokens[record.model, "output"] += ending.output_tokens
        if log.isEnabledFor(logging.INFO):
            log.info(_summary(record, ending), extra=_about(record))
        self.total.add(ending.total_ms / 1000)
        if ending.first_text_ms is not None:
            self.first_text.add(ending.first_text_ms / 1000)

    def fenced(self, record: Record) -> None:
        self.was_fenced += 1

    def overran(self, record: Record) -> None:
        self.was_overrun += 1

    def sent_text(self, code_points: int) -> None:
        self.deltas += 1
        self.text += code_points


def _summary(record: Record, ending: Ending) -> str:
    """How a request ended, without a word of it: `completed model=echo length=11 queuedMs=0 totalMs=3`."""
    facts = (
        ("code", ending.error_code),
        ("model", record.model or None),
        ("length", ending.length),
        ("inputTokens", ending.input_tokens),
        ("outputTokens", ending.output_tokens),
        ("queuedMs", ending.queued_ms),
        ("firstTextMs", ending.first_text_ms),
        ("totalMs", ending.total_ms),
    )
    return ending.status.value + "".join([f" {name}={quoted(value)}" for name, value in facts if value is not None])


def _about(record: Record) -> dict[str, str | int]:
    return {"requestId": record.request_id, "userId": record.user_id, "attempt": record.attempt}


class Metrics(Collector):
    """The metrics of one gateway. Reads the plain counts when it is asked."""

    def __init__(
        self,
        *,
        sockets: Sockets,
        queue: InProcessQueue,
        clock: Callable[[], int],
        node_states: Callable[[], Iterable[str]],
        unread: Callable[[], int] | None = None,
        database_bytes: Callable[[], int] | None = None,
    ) -> None:
        self.observer = Counts(clock=clock)
        self._sockets = sockets
        self._queue = queue
        self._node_states = node_states
        self._unread = unread
        self._database_bytes = database_bytes
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # memory, CPU time, file descriptors: where the system tells them

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing yet: registering must not read what is not there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        traffic, counts, queue = self._sockets.traffic, self.observer, self._queue
        build = GaugeMetricFamily("answerback_build_info", "The program's version; always 1.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        text = "Gateways of the store by their state, as this one sees them."
        nodes = GaugeMetricFamily("answerback_nodes", text, labels=["state"])
        by_state = Counter(self._node_states())
        for state in NODE_STATES:
            nodes.add_metric([state], by_state[state])
        yield nodes
        if self._database_bytes is not None:
            text = "Size of the SQLite file and of its write-ahead log."
            yield GaugeMetricFamily("answerback_database_bytes", text, value=self._database_bytes())
        for name, text, value in (
            ("connections", "Open connections.", len(self._sockets)),
            ("queue_depth", "Requests that wait for a model.", queue.depth),
            ("generations_running", "Requests that a worker runs now.", queue.running),
            (
                "parked_deliveries",
                "Answers that wait for a slow reader.",
                sum(socket.parked for socket in self._sockets),
            ),
        ):
            yield GaugeMetricFamily(f"answerback_{name}", text, value=value)
        for name, text, value in (
            ("frames_in", "Messages of clients.", traffic.frames_in),
            ("frames_out", "Messages to clients.", traffic.frames_out),
            ("bytes_out", "Bytes of messages to clients.", traffic.bytes_out),
            ("slow", "Frames that a connection could not take when they were due.", traffic.slow),
            ("gone", "Frames whose connection was gone when they were due.", traffic.gone),
            ("parked", "Deliveries that were parked with a slow connection.", traffic.parked),
            ("unparked", "Parked deliveries that were resumed.", traffic.unparked),
            ("throttled", "Times that a connection was not read because its user sent too fast.", traffic.throttled),
            ("accepted", "Requests that were accepted.", counts.was_accepted),
            ("attached", "Repeated request ids that were attached to their request.", counts.was_attached),
            ("attempts", "Attempts that were started.", counts.was_started),
            ("fenced", "Attempts whose request another attempt took over.", counts.was_fenced),
            (
                "budget_overrun",
                "Attempts that a model counted more tokens for than a budget allowed.",
                counts.was_overrun,
            ),
            ("deltas", "Deltas that were sent.", counts.deltas),
            ("text_code_points", "Code points of answers that were sent as deltas.", counts.text),
        ):
            yield CounterMetricFamily(f"answerback_{name}", text, value=value)
        if self._unread is not None:
            text = "Documents of model servers that were skipped in part or whole."
            yield CounterMetricFamily("answerback_model_documents_unread", text, value=self._unread())
        yield from self._requests()

    def _requests(self) -> Iterator[Metric]:
        counts = self.observer
        requests = CounterMetricFamily("answerback_requests", "Requests by how they ended.", labels=["status", "code"])
        text = "Requests by their model and how they ended."
        of_models = CounterMetricFamily("answerback_model_requests", text, labels=["model", "status", "code"])
        by_ending: Counter[tuple[str, str]] = Counter()
        for (model, status, code), number in counts.endings.items():
            by_ending[status, code] += number
            if model:
                of_models.add_metric([model, status, code], number)
        for (status, code), number in by_ending.items():
            requests.add_metric([status, code], number)
        yield requests
        yield of_models
        text = "Tokens that models counted."
        tokens = CounterMetricFamily("answerback_model_tokens", text, labels=["model", "direction"])
        for (model, direction), number in counts.tokens.items():
            tokens.add_metric([model, direction], number)
        yield tokens
        refusals = CounterMetricFamily("answerback_refused", "Requests and frames that were refused.", labels=["code"])
        for code, number in counts.refusals.items():
            refusals.add_metric([code], number)
        yield refusals
        for name, text, durations in (
            ("accept", "From the arrival of a question to its durable acceptance.", counts.accepting),
            ("first_text", "From acceptance to the first text of the model.", counts.first_text),
            ("request", "From acceptance to the ending.", counts.total),
        ):
            yield durations.family(f"answerback_{name}_seconds", text)
