"""What the bill takes for granted, in words with the numbers that it uses."""

from collections.abc import Sequence

from answerback_aws.cost.bill import COPIES_KEPT, METRICS, deployed
from answerback_aws.cost.counts import Counts
from answerback_aws.cost.workload import (
    BYTES_A_TOKEN,
    PLATFORM_LOG_BYTES,
    SECONDS_A_CONNECTION,
    SECONDS_A_PING,
    WHOLE_VCPU_MB,
    Workload,
)


def assumptions(workload: Workload, counts: Counts) -> Sequence[str]:
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
        f"An app opens a new connection every {SECONDS_A_CONNECTION / 60:.0f} minutes, and pings every "
        f"{SECONDS_A_PING:g} s while it is quiet.",
        f"Turns are written to Aurora when {counts.archive['waiting_turns']:g} wait or the oldest is "
        f"{design.archive_every_s / 60:g} minutes old; then it is awake for 5 minutes with half a capacity unit. "
        "Whoever reads the history wakes it too, which is not counted.",
        f"The bill is one of the first year: the database holds {COPIES_KEPT} months of history, DynamoDB one.",
        f"Lambda's own log lines have {PLATFORM_LOG_BYTES} bytes a call. {METRICS} custom metrics; no traces or access "
        "logs.",
        "Prices of the first tier, without free tiers, taxes and support plans. Bedrock without prompt caching.",
    )
