"""The chat worker: one message of the queue, one request, one run of `Worker`.

The record decides who may run a request; the message only says that there is something to do. So its visibility is
shortened to the lease and renewed with it: after a crash another worker has it within seconds, and finds the lease
over.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from answerback.clock import epoch_ms
from answerback.core.request import RequestKey
from answerback.service.attempt import Done, Retry
from answerback_aws.runtime.composition import process
from answerback_aws.runtime.sqs import HiddenTime, SqsHandler
from answerback_aws.runtime.telemetry import LambdaContext

AFTER_LEASE_S: Final = 2.0
"""The message is seen again when the lease is certainly over, so that one redelivery is enough."""

BEATS_A_LEASE: Final = 3


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Called by Lambda's event source mapping."""
    composition = process("worker")
    with composition.observing.invocation(context):
        remaining_ms = context.get_remaining_time_in_millis()
        return composition.run(_sqs_handler().handle(event, remaining_ms=remaining_ms))


@cache
def _sqs_handler() -> SqsHandler:
    composition = process("worker")
    worker, lease_s = composition.worker, composition.settings.policy.lease_ms / 1000

    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        return await worker.run(key, stop_at_ms=stop_at_ms)

    return SqsHandler(
        run=run,
        visibility=composition.visibility(composition.settings.queue_url),
        hidden_time=HiddenTime(for_s=lease_s + AFTER_LEASE_S, every_s=lease_s / BEATS_A_LEASE),
        counts=composition.observing.counts,
        clock=epoch_ms,
    )
