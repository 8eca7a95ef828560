"""What the gateway counts, in Prometheus' text format.

Hot counts are plain integers, read when somebody scrapes; only what happens once a request goes through the client
library.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from answerback.core.request import Ending, Record
from answerback.gateway.sockets import Sockets
from answerback.protocol.errors import ErrorCode
from answerback.service.observer import Observer

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Counts(Observer):
    """Counts what the service tells."""

    def __init__(self, registry: CollectorRegistry, *, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.was_accepted = 0
        self.was_attached = 0
        self.was_started = 0
        self.was_fenced = 0
        self.text = 0
        self.deltas = 0
        self.refusals: Counter[str] = Counter()
        self.endings: Counter[tuple[str, str]] = Counter()
        self._accepting = Histogram(
            "answerback_accept_seconds",
            "From the arrival of a question to its durable acceptance.",
            buckets=(0.0005, 0.001, 0.0025, *SECONDS[:10]),
            registry=registry,
        )
        self._first_text = Histogram(
            "answerback_first_text_seconds",
            "From acceptance to the first text of the model.",
            buckets=SECONDS,
            registry=registry,
        )
        self._total = Histogram(
            "answerback_request_seconds", "From acceptance to the ending.", buckets=SECONDS, registry=registry
        )

    def accepted(self, record: Record) -> None:
        """See Observer."""
        self.was_accepted += 1
        self._accepting.observe(max(0, self._clock() - record.accepted_at_ms) / 1000)

    def refused(self, code: ErrorCode) -> None:
        """See Observer."""
        self.refusals[code.value] += 1

    def attached(self, record: Record) -> None:
        """See Observer."""
        self.was_attached += 1

    def started(self, record: Record) -> None:
        """See Observer."""
        self.was_started += 1

    def ended(self, record: Record, ending: Ending) -> None:
        """See Observer."""
        self.endings[ending.status.value, "" if ending.error_code is None else ending.error_code.value] += 1
        self._total.observe(ending.total_ms / 1000)
        if ending.first_text_ms is not None:
            self._first_text.observe(ending.first_text_ms / 1000)

    def fenced(self, record: Record) -> None:
        """See Observer."""
        self.was_fenced += 1

    def sent_text(self, code_points: int) -> None:
        """See Observer."""
        self.deltas += 1
        self.text += code_points


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """How full the queue is."""

    depth: int
    running: int


class Metrics:
    """The registry of one gateway."""

    def __init__(self, *, sockets: Sockets, queue: Callable[[], QueueState], clock: Callable[[], int]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self.observer = Counts(self._registry, clock=clock)
        self._registry.register(_Numbers(self.observer, sockets, queue))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Numbers(Collector):
    """Reads the plain counts."""

    def __init__(self, counts: Counts, sockets: Sockets, queue: Callable[[], QueueState]) -> None:
        self._counts = counts
        self._sockets = sockets
        self._queue = queue

    def describe(self) -> list[Metric]:
        """Nothing yet: registering must not read what is not there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families."""
        traffic, counts, queue = self._sockets.traffic, self._counts, self._queue()
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
            ("unparked", "Parked deliveries that were taken up again.", traffic.unparked),
            ("throttled", "Times that a connection was not read because its user sent too fast.", traffic.throttled),
            ("accepted", "Requests that were accepted.", counts.was_accepted),
            ("attached", "Repeated request ids that were attached to their request.", counts.was_attached),
            ("attempts", "Attempts that were started.", counts.was_started),
            ("fenced", "Attempts that lost their lease.", counts.was_fenced),
            ("deltas", "Deltas that were sent.", counts.deltas),
            ("text_code_points", "Code points of answers that were sent as deltas.", counts.text),
        ):
            yield CounterMetricFamily(f"answerback_{name}", text, value=value)
        requests = CounterMetricFamily("answerback_requests", "Requests by how they ended.", labels=["status", "code"])
        for (status, code), number in counts.endings.items():
            requests.add_metric([status, code], number)
        yield requests
        refusals = CounterMetricFamily("answerback_refused", "Requests and frames that were refused.", labels=["code"])
        for code, number in counts.refusals.items():
            refusals.add_metric([code], number)
        yield refusals
