"""A workload, and what it makes the stack do in a month, by what one of each thing takes, as measured (counts.toml)."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from answerback.core.delivery import Interval

SECONDS_A_CONNECTION: Final = 6_450.0
"""The SDK rolls its connection over between 100 and 115 minutes, before API Gateway's two hours."""

SECONDS_A_PING: Final = 270.0
"""The SDK's pings on a quiet connection; API Gateway closes it after ten quiet minutes."""

SECONDS_A_WATCH: Final = 240.0
"""An app that watches renews that: one conversation, and the list. It needs no pings then."""

WATCHES_AN_APP: Final = 2

BYTES_A_TOKEN: Final = 4.5
FRAME_BYTES: Final = 118
"""What a frame has besides its text, on average of one streamed answer (tests/aws/test_counts.py)."""

PLATFORM_LOG_BYTES: Final = 600
"""Lambda's own lines of one call, in JSON; the emulator writes other ones."""

WHOLE_VCPU_MB: Final = 1769
"""With so much memory a function has one virtual CPU; with less, its share of it."""

WRITE_BYTES: Final = 1024
READ_BYTES: Final = 4096
DATA_API_BYTES: Final = 32 * 1024
POLLS_A_MINUTE: Final = 2 * 5 * 3
"""Two mappings with five pollers each, which wait 20 s when there is nothing to do."""

METERED_BYTES: Final = 32 * 1024
"""API Gateway bills a message for each 32 KB begun."""

PIECE_KB: Final = 64
"""Files are sent in pieces of this size."""

RETURNED_KB: Final = 24_000 / 1024
"""And read back in frames of this size."""

FILE_DAYS: Final = 98
"""How long a file is kept after it was used last, by the bucket's lifecycle."""

MINUTES_A_MONTH: Final = 730.0 * 60.0
DAYS_A_MONTH: Final = MINUTES_A_MONTH / 60 / 24


Section = Mapping[str, float]


def table(name: str) -> dict[str, Any]:
    """A table of this package."""
    return tomllib.loads(resources.files("answerback_aws.cost").joinpath(name).read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCounts:
    """See counts.toml for every figure, its unit and how it was counted."""

    connection: Section
    ping: Section
    answer: Section
    budget: Section
    watch: Section
    watcher: Section
    poll: Section
    renewal: Section
    write_behind: Section
    minute: Section
    piece: Section
    file: Section
    returned: Section
    cold: Section

    @classmethod
    def load(cls) -> "UnitCounts":
        return cls(**table("counts.toml"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`apps` are open `hours` a day on `days` days a month and ask `requests` questions a day each.

    Tokens are of one question (with its context) and one answer. `first_token_s`: the model's wait before it speaks.
    `cached`: the share of a question's tokens that Bedrock reads from its cache of prompts. `budgets`: how many an
    answer is counted in. `files`: how many new files a question comes with, of `file_kb` each. `reads`: how many
    files of that size are read back for each question, as on another device. `devices`: how many other apps are shown
    each answer as it comes; they are counted in `apps`.
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
    cached: float = 0.0
    budgets: int = 0
    files: float = 0.0
    reads: float = 0.0
    file_kb: int = 500
    devices: float = 0.0

    @property
    def answers(self) -> float:
        return self.apps * self.requests * self.days

    @property
    def model_s(self) -> float:
        """Seconds from the call of the model to its last token."""
        return self.first_token_s + self.tokens_out / self.tokens_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How the stack is built. The defaults are what is deployed; a comparison changes one of them.

    `interval` None: a post for each token. `items_a_token`: DynamoDB writes for each token. `idle_hours_a_day`: how
    long an unused connection stays open. `write_behind_every_s`: how often history is written to Aurora.
    `renews_with_each_poll`: whether the worker writes its lease at every poll of the record.
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
    write_behind_every_s: float = 900.0
    has_nat: bool = False
    renews_with_each_poll: bool = False


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
    s3_puts: float
    s3_gets: float
    file_gb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerUse:
    """What one answer takes. `frames`: posted to the app. `busy_ms`: at one virtual CPU, without the model's time."""

    frames: float
    messages: float
    frame_bytes: float
    invocations: float
    busy_ms: float
    write_units: float
    read_units: float
    sqs_requests: float
    data_api_requests: float
    log_bytes: float
    stored_bytes: float


def deltas(workload: Workload, interval: Interval | None) -> int:
    """Posts of text for one streamed answer: the first at once, then whenever the interval has passed."""
    if not workload.stream:
        return 0
    if interval is None:
        return workload.tokens_out
    length_s = (workload.tokens_out - 1) / workload.tokens_per_second
    # The pauses grow with the age of the answer, in which the model's wait counts.
    posts, now = 1, workload.first_token_s
    while now < workload.first_token_s + length_s:
        # What comes between two posts goes with the second; it waits for a token to be there at all.
        now += max(interval(now), 1.0 / workload.tokens_per_second)
        posts += 1
    return min(posts, workload.tokens_out)


COLD_CLIENT_MS: Final = 250.0
"""CPU to create the SDK's clients, which a function without reuse pays in every call."""

AWAKE_AFTER_FLUSH_S: Final = 300.0 + 15.0
"""Aurora pauses after this long without a connection at the earliest, and takes so long to come back."""


def answer_use(workload: Workload, design: Design, counts: UnitCounts) -> AnswerUse:
    """What one answer takes, from the question to its turn in Aurora."""
    a, late = counts.answer, counts.write_behind
    text_bytes = workload.tokens_out * BYTES_A_TOKEN
    context_bytes = workload.tokens_in * BYTES_A_TOKEN
    frames = a["messages"] - 1 + math.ceil(text_bytes / METERED_BYTES) - 1
    if workload.stream:
        frames = a["messages"] - 1 + a["streamed_messages"] + deltas(workload, design.interval)
    polls = math.floor(workload.model_s / counts.poll["every_s"])
    renewals = polls if design.renews_with_each_poll else math.floor(workload.model_s / counts.renewal["every_s"])
    shown = workload.devices * (counts.watcher["messages"] + frames - (a["messages"] - 1))
    turn_bytes = text_bytes + a["stored_bytes"]
    return AnswerUse(
        frames=frames,
        messages=frames + 1 + shown,
        frame_bytes=text_bytes * (1 + workload.devices) + (frames + shown) * FRAME_BYTES,
        invocations=a["invocations"],
        busy_ms=a["front_ms"] + a["worker_ms"] + late["busy_ms"] + late["batch_busy_ms"] / late["batch_turns"],
        write_units=a["write_units"]
        + workload.budgets * counts.budget["write_units"]
        + math.ceil((text_bytes + a["answer_item_bytes"]) / WRITE_BYTES)
        + renewals * counts.renewal["write_units"]
        + workload.tokens_out * design.items_a_token
        + late["write_units"],
        read_units=a["read_units"]
        + a["context_read_units"]
        + math.ceil(context_bytes / READ_BYTES)
        + (polls - renewals) * counts.poll["read_units"]
        + renewals * counts.renewal["read_units"]
        + bool(workload.devices) * counts.watcher["read_units"]
        + late["read_units"],
        sqs_requests=a["sqs_requests"]
        + math.floor(workload.model_s / counts.renewal["every_s"]) * counts.renewal["sqs_requests"],
        data_api_requests=late["batch_data_api_requests"] / late["batch_turns"] + turn_bytes / DATA_API_BYTES,
        log_bytes=a["log_bytes"] + a["invocations"] * PLATFORM_LOG_BYTES,
        stored_bytes=turn_bytes,
    )


def use(workload: Workload, design: Design, counts: UnitCounts) -> Usage:
    """What the workload makes this design do in a month."""
    answers, minutes = workload.answers, MINUTES_A_MONTH
    one, minute = answer_use(workload, design, counts), counts.minute
    opened = workload.apps * workload.days * max(1.0, math.ceil(workload.hours * 3600 / SECONDS_A_CONNECTION))
    if not design.reuses_connections:
        opened = answers
    open_s = workload.apps * workload.days * (workload.hours + design.idle_hours_a_day) * 3600
    pings = max(0.0, open_s - answers * workload.model_s) / SECONDS_A_PING
    watches = 0.0
    if workload.devices:
        pings, watches = 0.0, WATCHES_AN_APP * open_s / SECONDS_A_WATCH

    files = answers * workload.files
    pieces = files * math.ceil(workload.file_kb / PIECE_KB)

    returned = answers * workload.reads * math.ceil(workload.file_kb / RETURNED_KB)

    def of_files(kind: str) -> float:
        return files * counts.file[kind] + pieces * counts.piece[kind] + returned * counts.returned[kind]

    def each(kind: str) -> float:
        quiet = pings * counts.ping[kind] + watches * counts.watch[kind]
        return opened * counts.connection[kind] + quiet + of_files(kind)

    invocations = answers * one.invocations + each("invocations") + minutes * minute["invocations"]
    busy_ms = answers * one.busy_ms + each("busy_ms") + minutes * minute["busy_ms"]
    busy_ms += invocations * (
        counts.cold["share"] * counts.cold["busy_ms"] if design.reuses_clients else COLD_CLIENT_MS
    )
    # What was measured is taken to be all computing, which takes longer the smaller the share of a CPU.
    waited_s = answers * workload.model_s
    seconds = waited_s + busy_ms / 1000 * max(1.0, WHOLE_VCPU_MB / design.memory_mb)
    write_units = answers * one.write_units + each("write_units") + minutes * minute["write_units"]
    scanned_bytes = open_s / 60 * minute["connection_bytes"]  # each open connection once a minute
    read_units = (
        answers * one.read_units + each("read_units") + minutes * minute["read_units"] + scanned_bytes / READ_BYTES / 2
    )
    used_s = workload.days * workload.hours * 3600
    log_bytes = answers * one.log_bytes + each("log_bytes") + minutes * minute["log_bytes"]
    log_bytes += (each("invocations") + minutes * minute["invocations"]) * PLATFORM_LOG_BYTES
    return Usage(
        messages=answers * one.messages + each("messages"),
        connection_minutes=open_s / 60,
        invocations=invocations,
        gb_seconds=seconds * design.memory_mb / 1024,
        write_units=write_units,
        read_units=read_units,
        peak_write_units_s=3 * write_units / used_s,
        peak_read_units_s=3 * read_units / used_s,
        sqs_requests=answers * one.sqs_requests + minutes * POLLS_A_MINUTE,
        posts_an_answer=one.frames,
        data_api_requests=answers * one.data_api_requests,
        aurora_acu_hours=_acu_hours(workload, design, counts),
        log_gb=log_bytes / 1e9,
        stored_gb=answers * one.stored_bytes / 1e9,
        data_out_gb=answers * one.frame_bytes / 1e9,
        s3_puts=of_files("s3_puts"),
        s3_gets=of_files("s3_gets"),
        file_gb=files * workload.file_kb * 1024 / 1e9 * FILE_DAYS / DAYS_A_MONTH,
    )


def _acu_hours(workload: Workload, design: Design, counts: UnitCounts) -> float:
    """Half a unit while awake: the statements of this product are tiny. It is awake around each writing.

    Turns are written when the oldest has waited for so long, or when so many wait.
    """
    if design.aurora_min_acu > 0:
        return MINUTES_A_MONTH / 60 * design.aurora_min_acu
    used_s = workload.days * workload.hours * 3600
    answers_s = workload.answers / used_s
    if not answers_s:
        return 0.0
    full_s = counts.write_behind["waiting_turns"] / answers_s
    every_s = min(design.write_behind_every_s + 1 / answers_s, max(60.0, full_s))
    return used_s / 3600 * min(1.0, AWAKE_AFTER_FLUSH_S / every_s) * 0.5
