"""The handler of dead letters: a request whose message the queue gave up ends as failed."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from answerback.clock import epoch_ms
from answerback.core.request import RequestKey
from answerback.service.attempt import Done, Retry
from answerback_aws.runtime.composition import process
from answerback_aws.runtime.sqs import HiddenTime, SqsHandler
from answerback_aws.runtime.telemetry import LambdaContext

HIDDEN_TIME: Final = HiddenTime(for_s=60, every_s=20)


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Called by Lambda's event source mapping."""
    composition = process("dead_letters")
    with composition.observing.invocation(context):
        remaining_ms = context.get_remaining_time_in_millis()
        return composition.run(_sqs_handler().handle(event, remaining_ms=remaining_ms))


@cache
def _sqs_handler() -> SqsHandler:
    composition = process("dead_letters")
    dead_letters, counts = composition.dead_letters, composition.observing.counts

    async def run(key: RequestKey, stop_at_ms: int) -> Done | Retry:
        outcome = await dead_letters.run(key)
        if isinstance(outcome, Done):
            counts.count("DeadLetters")
        return outcome

    return SqsHandler(
        run=run,
        visibility=composition.visibility(composition.settings.dead_letters_url),
        hidden_time=HIDDEN_TIME,
        counts=counts,
        clock=epoch_ms,
    )
