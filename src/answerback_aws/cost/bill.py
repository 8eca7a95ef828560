"""The bill of a month: usage times prices (prices.toml), line by line, and what each choice of the design saves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from answerback.core.delivery import growing
from answerback_aws.cost.workload import (
    BYTES_A_TOKEN,
    MINUTES_A_MONTH,
    PLATFORM_LOG_BYTES,
    SECONDS_A_CONNECTION,
    SECONDS_A_PING,
    SECONDS_A_WATCH,
    WHOLE_VCPU_MB,
    Design,
    UnitCounts,
    Usage,
    Workload,
    table,
    use,
)

MILLION: Final = 1e6
HOURS_A_MONTH: Final = MINUTES_A_MONTH / 60
ALARMS: Final = 24
"""Metrics that alarms watch, which is what is billed (tests/aws/cost/test_stack_of_the_model.py counts them)."""

METRICS: Final = 20
"""Custom metrics with their dimensions: 14 when nothing goes wrong (tests/aws/test_counts.py), and some that do."""

LOG_MONTHS: Final = 1.0
"""How long logs are kept, by the template's default."""

COPIES_KEPT: Final = 6
"""Months of history that lie in the database on average in its first year."""

IO_A_STATEMENT: Final = 2
"""Pages read or written; a guess that costs cents."""


class UnknownPrice(Exception):
    """There is no price for this region or model; the text says which there are."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a unit, the month or year it was read, and where."""

    usd: float
    date: str
    source: str

    @property
    def is_estimate(self) -> bool:
        return self.source == "estimate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The prices of one region, by the names in prices.toml."""

    region: str
    items: Mapping[str, Price]

    def __getitem__(self, name: str) -> Price:
        return self.items[name]


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """US dollars a million tokens. `cache_read_usd`, `cache_write_usd` None: the model caches no prompts."""

    model: str
    input_usd: float
    output_usd: float
    date: str
    source: str
    cache_read_usd: float | None = None
    cache_write_usd: float | None = None


def load_prices(region: str) -> Prices:
    """Raises: UnknownPrice."""
    known = table("prices.toml")
    if region not in known or region == "models":
        regions = ", ".join(name for name in known if name != "models")
        raise UnknownPrice(f"no prices are known for the region {region!r}; known are {regions}")
    return Prices(region=region, items={name: Price(*entry) for name, entry in known[region].items()})


def load_token_price(model: str, *, is_cached: bool = False) -> TokenPrice:
    """`is_cached`: prices of cached tokens are needed, too. Raises: UnknownPrice."""
    models = table("prices.toml")["models"]
    name = model.removeprefix("bedrock:")
    if name not in models:
        raise UnknownPrice(f"no price is known for the model {name!r}; known are {', '.join(models)}")
    input_usd, output_usd, date, source, *cache = models[name]
    if is_cached and not cache:
        caching = ", ".join(other for other, entry in models.items() if len(entry) > 4)
        raise UnknownPrice(f"no price of cached tokens is known for the model {name!r}; known are {caching}")
    return TokenPrice(name, input_usd, output_usd, date, source, *cache)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the bill. `is_estimate`: its price was not read from a price list."""

    service: str
    what: str
    quantity: float
    unit: str
    usd: float
    is_estimate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """What one choice saves a month, compared with `instead`."""

    choice: str
    instead: str
    usd: float


def deployed() -> Design:
    """The design that is deployed."""
    return Design(interval=growing())


def plain() -> Design:
    """The plain way: a post and an item for each token, x86, new clients in every call, a database that never rests."""
    return Design(
        interval=None,
        items_a_token=1.0,
        architecture="x86_64",
        memory_mb=1024,
        reuses_clients=False,
        idle_hours_a_day=16.0,
        aurora_min_acu=0.5,
        has_nat=True,
    )


def bill(usage: Usage, workload: Workload, design: Design, prices: Prices, tokens: TokenPrice | None) -> list[Line]:
    """Every line above zero, in US dollars a month; the model's tokens only if their price is given."""
    lines = []
    for service, what, quantity, unit, name in _rows(usage, design):
        price, per = prices[name], MILLION if name.endswith("_million") else 1.0
        lines.append(Line(service, what, quantity, unit, quantity / per * price.usd, price.is_estimate))
    if tokens is not None:
        asked = workload.answers * workload.tokens_in
        # With a cache, what is not read from it is taken to be written to it, which costs the same or more.
        write_usd = tokens.cache_write_usd if workload.cached else None
        lines.append(_tokens("questions", asked * (1 - workload.cached), write_usd or tokens.input_usd))
        lines.append(_tokens("questions, cached", asked * workload.cached, tokens.cache_read_usd or 0.0))
        lines.append(_tokens("answers", workload.answers * workload.tokens_out, tokens.output_usd))
    return [line for line in lines if line.quantity > 0]


def _rows(usage: Usage, design: Design) -> Iterator[tuple[str, str, float, str, str]]:
    """(service, what, quantity, unit, name of the price) of each line."""
    yield ("API Gateway", "messages, in and out", usage.messages, "messages", "websocket_message_million")
    yield ("API Gateway", "open connections", usage.connection_minutes, "minutes", "websocket_minute_million")
    yield ("Lambda", "time", usage.gb_seconds, "GB-s", f"lambda_{design.architecture}_gb_second")
    yield ("Lambda", "calls", usage.invocations, "calls", "lambda_request_million")
    if design.provisioned:
        writes, reads = usage.peak_write_units_s * HOURS_A_MONTH, usage.peak_read_units_s * HOURS_A_MONTH
        yield ("DynamoDB", "provisioned writes", writes, "unit-hours", "dynamodb_provisioned_write_hour")
        yield ("DynamoDB", "provisioned reads", reads, "unit-hours", "dynamodb_provisioned_read_hour")
    else:
        yield ("DynamoDB", "writes on demand", usage.write_units, "units", "dynamodb_write_million")
        yield ("DynamoDB", "reads on demand", usage.read_units, "units", "dynamodb_read_million")
    yield ("DynamoDB", "storage", usage.stored_gb, "GB", "dynamodb_storage_gb_month")
    yield ("DynamoDB", "point-in-time recovery", usage.stored_gb, "GB", "dynamodb_backup_gb_month")
    yield ("S3", "pieces and files written", usage.s3_puts, "requests", "s3_put_million")
    yield ("S3", "pieces and files read", usage.s3_gets, "requests", "s3_get_million")
    yield ("S3", "files kept for 98 days", usage.file_gb, "GB", "s3_storage_gb_month")
    yield ("SQS", "FIFO requests", usage.sqs_requests, "requests", "sqs_fifo_million")
    yield ("Aurora", "capacity", usage.aurora_acu_hours, "ACU-hours", "aurora_acu_hour")
    yield ("Aurora", "storage", usage.stored_gb * COPIES_KEPT, "GB", "aurora_storage_gb_month")
    yield ("Aurora", "Data API", usage.data_api_requests, "requests", "data_api_million")
    yield ("Aurora", "I/O", usage.data_api_requests * IO_A_STATEMENT, "requests", "aurora_io_million")
    yield ("Secrets Manager", "the database's secret", 1, "secret", "secret_month")
    yield ("CloudWatch", "logs", usage.log_gb, "GB", "logs_ingested_gb")
    yield ("CloudWatch", "logs kept", usage.log_gb * LOG_MONTHS, "GB", "logs_stored_gb_month")
    yield ("CloudWatch", "alarms", ALARMS, "alarms", "alarm_month")
    yield ("CloudWatch", "metrics", METRICS, "metrics", "metric_month")
    yield ("CloudWatch", "dashboard", 1, "dashboard", "dashboard_month")
    yield ("Data transfer", "to the internet", usage.data_out_gb, "GB", "data_out_gb")
    if design.has_nat:
        yield ("VPC", "NAT gateways in 2 zones", 2 * HOURS_A_MONTH, "hours", "nat_gateway_hour")
        yield ("VPC", "NAT gateway, data", usage.data_out_gb, "GB", "nat_gateway_gb")


def _tokens(what: str, count: float, usd_a_million: float) -> Line:
    return Line("Bedrock", what, count, "tokens", count / MILLION * usd_a_million, is_estimate=True)


def total(lines: Sequence[Line]) -> float:
    """US dollars a month."""
    return sum(line.usd for line in lines)


def month(workload: Workload, design: Design, counts: UnitCounts, prices: Prices) -> float:
    """What the stack itself costs a month, without the model's tokens."""
    return total(bill(use(workload, design, counts), workload, design, prices, None))


def savings(workload: Workload, counts: UnitCounts, prices: Prices) -> list[Saving]:
    """Each choice on its own, against the deployed design with only that one undone."""
    base = deployed()
    choices = (
        ("coalesced posts", "a post for each token", replace(base, interval=None)),
        (
            "text in the worker's memory until the end",
            "a DynamoDB item for each token",
            replace(base, items_a_token=1.0),
        ),
        (
            "the lease renewed every 7 s, the record only read in between",
            "renewed with each poll, every second",
            replace(base, renews_with_each_poll=True),
        ),
        ("DynamoDB on demand", "capacity provisioned for 3 times the average", replace(base, provisioned=True)),
        ("arm64", "x86_64", replace(base, architecture="x86_64")),
        (f"Lambda with {base.memory_mb} MB", "1,769 MB (a whole vCPU)", replace(base, memory_mb=1769)),
        ("clients made once a process", "clients made in every call", replace(base, reuses_clients=False)),
        ("one connection an app", "a connection for each question", replace(base, reuses_connections=False)),
        ("idle connections closed after 1 h", "open all night", replace(base, idle_hours_a_day=24 - workload.hours)),
        ("Aurora pauses, history written behind", "0.5 ACU always on", replace(base, aurora_min_acu=0.5)),
        ("no VPC, no NAT", "two NAT gateways", replace(base, has_nat=True)),
    )
    now = month(workload, base, counts, prices)
    return [
        Saving(choice=choice, instead=instead, usd=month(workload, other, counts, prices) - now)
        for choice, instead, other in choices
    ]


def assumptions(workload: Workload, counts: UnitCounts) -> Sequence[str]:
    """One sentence or two each."""
    design, cold = deployed(), counts.cold
    return (
        "Counts of calls, units, frames and log lines: the stack's own, counted on an emulator by AWS's rules; never "
        "run on AWS.",
        "Milliseconds of the functions: measured on another machine with a whole CPU, and taken to be computing: "
        f"{WHOLE_VCPU_MB / design.memory_mb:.1f} times as long with {design.memory_mb} MB. The wait for the model is "
        "billed with them.",
        f"{cold['share']:.0%} of the calls start a process, which takes {cold['busy_ms'] / 1000:g} s more and is "
        "billed.",
        f"The model says its first word after {workload.first_token_s:g} s. A token is {BYTES_A_TOKEN:g} bytes; "
        "questions have up to 0.9 KB of text besides their context, and belong to conversations.",
        f"An app opens a new connection every {SECONDS_A_CONNECTION / 60:.0f} minutes, and "
        + (
            f"renews every {SECONDS_A_WATCH:g} s that it watches a conversation and the list."
            if workload.devices
            else f"pings every {SECONDS_A_PING:g} s while it is quiet."
        ),
        f"Turns are written to Aurora when {counts.write_behind['waiting_turns']:g} wait or the oldest is "
        f"{design.write_behind_every_s / 60:g} minutes old; then it is awake for 5 minutes with half a capacity unit. "
        "Reading the history wakes it too, which is not counted.",
        f"The bill is one of the first year: the database holds {COPIES_KEPT} months of history, DynamoDB one.",
        f"Lambda's own log lines have {PLATFORM_LOG_BYTES} bytes a call. {METRICS} custom metrics; no traces or access "
        "logs.",
        "Prices of the first tier, without free tiers, taxes and support plans.",
        f"{workload.cached:.0%} of the questions' tokens are read from Bedrock's cache, the others are written to it."
        if workload.cached
        else "Bedrock without prompt caching.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A month, in US dollars. `plain_usd`: the stack built in the plain way, without the model's tokens."""

    workload: Workload
    usage: Usage
    lines: Sequence[Line]
    savings: Sequence[Saving]
    plain_usd: float
    assumptions: Sequence[str]
    prices: Prices
    tokens: TokenPrice | None

    @property
    def usd(self) -> float:
        return total(self.lines)

    @property
    def stack_usd(self) -> float:
        """The bill without the model's tokens."""
        return total([line for line in self.lines if line.service != "Bedrock"])


def estimate(workload: Workload, *, region: str, model: str | None) -> Estimate:
    """Estimate a month; `model` None leaves the tokens out. Raises: UnknownPrice."""
    prices = load_prices(region)
    tokens = None if model is None else load_token_price(model, is_cached=workload.cached > 0)
    counts = UnitCounts.load()
    design = deployed()
    usage = use(workload, design, counts)
    return Estimate(
        workload=workload,
        usage=usage,
        lines=bill(usage, workload, design, prices, tokens),
        savings=savings(workload, counts, prices),
        plain_usd=month(workload, plain(), counts, prices),
        assumptions=assumptions(workload, counts),
        prices=prices,
        tokens=tokens,
    )
