"""A workload, and what it makes the stack do in a month."""

import math
from dataclasses import dataclass
from typing import Final

from answerback.aws.cost.counts import Counts
from answerback.core.coalescing import Interval

SECONDS_A_CONNECTION: Final = 6_450.0
"""The SDK rolls its connection over between 100 and 115 minutes, before API Gateway's two hours."""

SECONDS_A_PING: Final = 270.0
"""The SDK's pings on a quiet connection; API Gateway closes it after ten quiet minutes."""

BYTES_A_TOKEN: Final = 4.5
FRAME_BYTES: Final = 110
"""What a delta's frame has besides its text."""

METERED_BYTES: Final = 32 * 1024
"""API Gateway bills a message for each 32 KB begun."""

MINUTES_A_MONTH: Final = 730.0 * 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`apps` are open `hours` a day on `days` days a month and ask `requests` questions a day each.

    Tokens are of one question (with its context) and one answer. `first_token_s`: the model's wait before it speaks.
    """

    apps: int = 1000
    hours: float = 8.0
    days: int = 22
    requests: float = 50.0
    tokens_in: int = 600
    tokens_out: int = 400
    stream: bool = True
    tokens_per_second: float = 80.0
    first_token_s: float = 0.6

    @property
    def answers(self) -> float:
        """Answers a month."""
        return self.apps * self.requests * self.days

    @property
    def model_s(self) -> float:
        """Seconds from the call of the model to its last token."""
        return self.first_token_s + self.tokens_out / self.tokens_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How the stack is built. The defaults are what is deployed; a comparison changes one of them.

    `interval` None: a post for each token. `items_a_token`: DynamoDB writes for each token. `idle_hours_a_day`: how
    long a connection stays open that nobody uses any more. `archive_every_s`: how often history is written behind.
    """

    interval: Interval | None
    memory_mb: int = 512
    architecture: str = "arm64"
    items_a_token: float = 0.0
    reuses_clients: bool = True
    reuses_connections: bool = True
    provisioned: bool = False
    idle_hours_a_day: float = 0.0
    aurora_min_acu: float = 0.0
    archive_every_s: float = 900.0
    has_nat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What happens in a month."""

    messages: float
    connection_minutes: float
    invocations: float
    gb_seconds: float
    write_units: float
    read_units: float
    peak_write_units_s: float
    peak_read_units_s: float
    sqs_requests: float
    posts_an_answer: float
    data_api_requests: float
    aurora_acu_hours: float
    log_gb: float
    stored_gb: float
    data_out_gb: float


def deltas(workload: Workload, interval: Interval | None) -> int:
    """Posts of text for one streamed answer: the first at once, then whenever the interval has passed."""
    if not workload.stream:
        return 0
    if interval is None:
        return workload.tokens_out
    length_s = (workload.tokens_out - 1) / workload.tokens_per_second
    posts, now = 1, 0.0
    while now < length_s:
        # What comes between two posts goes with the second; it waits for a token to be there at all.
        now += max(interval(now), 1.0 / workload.tokens_per_second)
        posts += 1
    return min(posts, workload.tokens_out)


COLD_CLIENT_MS: Final = 250.0
"""CPU to make the SDK's clients anew, which a function without reuse pays in every call."""

AWAKE_AFTER_FLUSH_S: Final = 300.0 + 15.0
"""Aurora pauses after this long without a connection at the earliest, and takes so long to come back."""


def use(workload: Workload, design: Design, counts: Counts) -> Usage:
    """What the workload makes this design do in a month."""
    answers = workload.answers
    posts = deltas(workload, design.interval)
    opened = workload.apps * workload.days * max(1.0, math.ceil(workload.hours * 3600 / SECONDS_A_CONNECTION))
    if not design.reuses_connections:
        opened = answers
    open_s = workload.apps * workload.days * (workload.hours + design.idle_hours_a_day) * 3600
    asked_s = answers * workload.model_s
    pings = max(0.0, open_s - asked_s) / SECONDS_A_PING
    renewals = answers * math.floor(workload.model_s / counts.renewal["every_s"])
    minutes = MINUTES_A_MONTH

    a = counts.answer
    text_bytes = workload.tokens_out * BYTES_A_TOKEN
    whole_frames = math.ceil(text_bytes / METERED_BYTES)
    messages_an_answer = a["messages"] + (posts + a["streamed_messages"] if workload.stream else whole_frames - 1)
    messages = answers * messages_an_answer + opened * counts.connection["messages"] + pings * counts.ping["messages"]

    cold_ms = 0.0 if design.reuses_clients else COLD_CLIENT_MS
    front_ms = a["front_ms"] + cold_ms
    worker_ms = a["worker_ms"] + workload.model_s * 1000 + cold_ms
    archived_ms = counts.archive["busy_ms"]
    busy_ms = (
        answers * (front_ms + worker_ms + archived_ms)
        + opened * (counts.connection["busy_ms"] + counts.connection["invocations"] * cold_ms)
        + pings * (counts.ping["busy_ms"] + cold_ms)
        + minutes * counts.minute["busy_ms"]
    )
    invocations = (
        answers * a["invocations"]
        + opened * counts.connection["invocations"]
        + pings * counts.ping["invocations"]
        + minutes * counts.minute["invocations"]
    )

    def units(kind: str) -> float:
        return (
            answers * (a[kind] + counts.archive[kind])
            + renewals * counts.renewal[kind]
            + opened * counts.connection[kind]
            + pings * counts.ping[kind]
            + minutes * counts.minute[kind]
        )

    write_units = units("write_units") + answers * workload.tokens_out * design.items_a_token
    read_units = units("read_units")
    busy_seconds = workload.days * workload.hours * 3600
    stored = answers * a["stored_bytes"] / 1e9
    frames_bytes = answers * (text_bytes + messages_an_answer * FRAME_BYTES)
    return Usage(
        messages=messages,
        connection_minutes=open_s / 60,
        invocations=invocations,
        gb_seconds=busy_ms / 1000 * design.memory_mb / 1024,
        write_units=write_units,
        read_units=read_units,
        peak_write_units_s=3 * write_units / busy_seconds,
        peak_read_units_s=3 * read_units / busy_seconds,
        sqs_requests=answers * a["sqs_requests"] + renewals * counts.renewal["sqs_requests"] + _polls(minutes),
        posts_an_answer=messages_an_answer - 1,
        data_api_requests=answers * counts.archive["data_api_requests"],
        aurora_acu_hours=_acu_hours(workload, design),
        log_gb=(answers * a["log_bytes"] + invocations * 400) / 1e9,
        stored_gb=stored,
        data_out_gb=frames_bytes / 1e9,
    )


def _polls(minutes: float) -> float:
    """Five pollers of an event source mapping wait 20 s each when there is nothing to do."""
    return minutes * 5 * 3


def _acu_hours(workload: Workload, design: Design) -> float:
    """Half a unit while awake: the statements of this product are tiny. It is awake around each flush."""
    hours = MINUTES_A_MONTH / 60
    if design.aurora_min_acu > 0:
        return hours * design.aurora_min_acu
    used_hours = workload.days * workload.hours
    share = min(1.0, AWAKE_AFTER_FLUSH_S / design.archive_every_s)
    return used_hours * share * 0.5
