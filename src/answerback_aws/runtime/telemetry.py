"""Logs, metrics and traces of the functions: one answer can be followed through every hop by its request id.

A log line is one JSON object with what is known of the request (`requestId`, `connectionId`, `userId`, `attempt`) and
what it came from (`correlationId`: the front's invocation, carried by the queue's message). Metrics are lines of the
same log in CloudWatch's embedded format. Texts of users, tokens and query strings are in none of them; so exceptions
are logged with their place, and with their words only where these are known to quote nobody.
"""

import json
import logging
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO, TypeAlias

from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

from answerback.core.request import Ending, Record
from answerback.protocol.errors import ErrorCode
from answerback.service.observer import Observer

if TYPE_CHECKING:
    from answerback.traces import Traces

log = logging.getLogger("answerback.aws")

NAMESPACE: Final = "Answerback"

_QUOTES_NOBODY: Final = ("answerback.", "botocore.errorfactory", "botocore.exceptions.ClientError")
_Dimensions: TypeAlias = tuple[tuple[str, str], ...]
_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LambdaContext(Protocol):
    """What the functions use of Lambda's context object."""

    @property
    def aws_request_id(self) -> str:
        """The invocation's id."""

    def get_remaining_time_in_millis(self) -> int:
        """Until Lambda ends this invocation."""


class Formatter(LambdaPowertoolsFormatter):
    """One JSON object a line, whichever logger it comes from."""

    def __init__(self, **keys: Any) -> None:
        super().__init__(utc=True, use_rfc3339=True, serialize_stacktrace=False, **keys)

    def format(self, record: logging.LogRecord) -> str:
        """The line. From Python 3.12 on a record has the name of its task, which says nothing to an operator."""
        vars(record).pop("taskName", None)
        return super().format(record)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        """The traceback without the words of exceptions that may quote a user."""
        return "\n".join(_stack_lines(ei[1])) if ei[1] is not None else ""


class Counts(Observer):
    """The three observers as metrics; it also adds the request to each log line."""

    def __init__(self, *, formatter: Formatter, stream: TextIO, namespace: str, service: str) -> None:
        self._formatter = formatter
        self._stream = stream
        self._namespace = namespace
        self._service = service
        self._values: defaultdict[_Dimensions, dict[tuple[str, str], list[float]]] = defaultdict(dict)
        self.facts: dict[str, str | int] = {}
        """What is known of the request of this invocation."""

    # --- of the service

    def accepted(self, record: Record) -> None:
        self._about(record)
        self.count("Accepted")
        log.info("a request was accepted")

    def refused(self, code: ErrorCode) -> None:
        self.count("Refused", code=code.value)
        log.info("a request was refused", extra={"code": code.value})

    def attached(self, record: Record) -> None:
        self._about(record)
        self.count("Attached")
        log.debug("a repeated question found its request")

    def started(self, record: Record) -> None:
        self._about(record)
        self.count("Attempts")
        log.info("an attempt runs")

    def ended(self, record: Record, ending: Ending) -> None:
        self._about(record)
        self.count("Ended", status=ending.status.value)
        if ending.error_code is not None:
            self.count("Failed", code=ending.error_code.value)
        for name, value in (
            ("QueuedMs", ending.queued_ms),
            ("FirstTextMs", ending.first_text_ms),
            ("TotalMs", ending.total_ms),
        ):
            if value is not None:
                self.sample(name, value, unit="Milliseconds")
        facts = {"status": ending.status.value, "code": ending.error_code, "model": ending.model}
        times = {"queuedMs": ending.queued_ms, "firstTextMs": ending.first_text_ms, "totalMs": ending.total_ms}
        tokens = {"inputTokens": ending.input_tokens, "outputTokens": ending.output_tokens}
        log.info("a request ended", extra={**facts, **times, **tokens})

    def fenced(self, record: Record) -> None:
        self._about(record)
        self.count("Fenced")
        log.debug("an attempt was fenced")

    def overran(self, record: Record) -> None:
        self._about(record)
        self.count("BudgetOverrun")

    # --- of the adapters and functions

    @property
    def correlation_id(self) -> str | None:
        """What the log calls the event that this invocation came from."""
        known = self.facts.get("correlationId")
        return None if known is None else str(known)

    def posted(self, size_bytes: int) -> None:
        self.count("Posts")
        self.sample("PostedBytes", size_bytes, unit="Bytes")
        log.debug("a frame was posted", extra={"bytes": size_bytes})

    def throttled(self) -> None:
        self.count("PostsThrottled")
        log.debug("a post was throttled")

    def not_posted(self, code: str) -> None:
        self.count("PostsRefused")
        log.debug("a post was refused", extra={"code": code})

    def found_gone(self) -> None:
        self.count("Gone")
        log.debug("a connection was gone")

    def waiting(self, turns: int, oldest_ms: int) -> None:
        self.sample("TurnsWaiting", turns)
        self.sample("ArchiveLagMs", oldest_ms, unit="Milliseconds")

    def turns_written(self, turns: int) -> None:
        self.sample("TurnsArchived", turns)

    def turns_not_written(self) -> None:
        self.count("TurnsNotArchived")

    def note(self, **facts: str | int | None) -> None:
        """Say in each further line of this invocation what is known of its request."""
        known = {name: value for name, value in facts.items() if value is not None}
        self.facts.update(known)
        self._formatter.append_keys(**known)

    def count(self, name: str, **dimensions: str) -> None:
        self.sample(name, 1, **dimensions)

    def sample(self, name: str, value: float, *, unit: str = "Count", **dimensions: str) -> None:
        """Record a value; CloudWatch makes sums and percentiles of them."""
        values = self._values[tuple(sorted(dimensions.items()))].setdefault((name, unit), [])
        values.append(value)

    def flush(self) -> None:
        """Write what was counted since the last time."""
        from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import (  # noqa: PLC0415 - after the work
            AmazonCloudWatchEMFProvider,
        )

        for dimensions, metrics in self._values.items():
            provider = AmazonCloudWatchEMFProvider(
                namespace=self._namespace, service=self._service, default_dimensions=dict(dimensions)
            )
            shown = {}
            for (name, unit), values in metrics.items():
                # Of more than a hundred values the format takes none; a sum says as much of a count.
                few = values if len(values) <= 100 else [sum(values)] if unit == "Count" else values[:100]
                shown[name] = {"Unit": unit, "StorageResolution": 60, "Value": few}
            self._stream.write(json.dumps(provider.serialize_metric_set(metrics=shown)) + "\n")
        self._values.clear()

    def forget(self) -> None:
        self.facts.clear()
        self._formatter.clear_state()

    def _about(self, record: Record) -> None:
        attempt = record.attempt or None
        self.note(requestId=record.request_id, userId=record.user_id, attempt=attempt)


class Observing:
    """The logs, metrics and traces of one function's process. To make one sets up the process's logging.

    `environment`: POWERTOOLS_SERVICE_NAME, POWERTOOLS_METRICS_NAMESPACE, POWERTOOLS_LOG_LEVEL.
    """

    def __init__(self, *, function: str, environment: Mapping[str, str], stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        service = environment.get("POWERTOOLS_SERVICE_NAME") or "answerback"
        self._formatter = Formatter(service=service, function=function)
        self._is_cold = True
        self.traces: Traces | None = None
        """What makes traces, if this process has begun to."""
        self.counts = Counts(
            formatter=self._formatter,
            stream=stream,
            namespace=environment.get("POWERTOOLS_METRICS_NAMESPACE") or NAMESPACE,
            service=service,
        )
        self.handler = logging.StreamHandler(stream)
        self.handler.setFormatter(self._formatter)
        root = logging.getLogger()
        root.handlers[:] = [self.handler]
        # Libraries log requests with their URLs and bodies: their warnings are enough.
        root.setLevel(logging.WARNING)
        logging.getLogger("answerback").setLevel(_level(environment.get("POWERTOOLS_LOG_LEVEL")))

    @contextmanager
    def invocation(self, context: LambdaContext, **facts: str | int | None) -> Iterator[Counts]:
        """For the length of the block, every line says of which invocation and request it is."""
        self._formatter.append_keys(function_request_id=context.aws_request_id, cold_start=self._is_cold)
        self._is_cold = False
        self.counts.note(**facts)
        try:
            yield self.counts
        finally:
            if self.traces is not None:
                self.traces.flush()  # the process is frozen then
            self.counts.flush()
            self.counts.forget()


def _level(name: str | None) -> int:
    return logging.getLevelNamesMapping().get((name or "INFO").upper(), logging.INFO)


def _stack_lines(exc: BaseException) -> Iterator[str]:
    """The exception and what caused it, the first cause first."""
    earlier = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    if earlier is not None:
        yield from _stack_lines(earlier)
        yield "The exception above led to this one:"
    yield "".join(traceback.format_tb(exc.__traceback__)).rstrip()
    kind = f"{type(exc).__module__}.{type(exc).__qualname__}"
    yield f"{kind}: {exc}" if kind.startswith(_QUOTES_NOBODY) else kind
    for inner in getattr(exc, "exceptions", ()):
        yield from _stack_lines(inner)
