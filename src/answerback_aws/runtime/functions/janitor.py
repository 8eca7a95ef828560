"""The janitor: every minute it repairs requests, closes idle connections, and writes behind what Aurora does not have.

What does not fit in the time of one invocation is done by the next.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from answerback.clock import epoch_ms
from answerback.ports import Unavailable
from answerback_aws.runtime.composition import BEHIND, process
from answerback_aws.runtime.telemetry import LambdaContext

if TYPE_CHECKING:
    from answerback.service.janitor import Janitor
    from answerback_aws.runtime.aurora.write_behind import WriteBehind

log = logging.getLogger("answerback.aws.janitor")

RESERVED_S: Final = 5.0
"""Before Lambda ends the invocation."""

SWEEP_SHARE: Final = 0.5
"""Of the time, for the sweep; the rest is for Aurora, which may have to wake up first."""


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Called by the schedule."""
    composition = process("janitor", BEHIND)
    with composition.observing.invocation(context):
        within_s = context.get_remaining_time_in_millis() / 1000 - RESERVED_S
        composition.run(sweep(composition.janitor, composition.write_behind, within_s=within_s))
    return {}


async def sweep(janitor: "Janitor", write_behind: "WriteBehind", *, within_s: float) -> None:
    """Once through everything. Raises nothing."""
    try:
        async with asyncio.timeout(within_s):
            await janitor.sweep(stop_at_ms=epoch_ms() + int(within_s * SWEEP_SHARE * 1000))
            await write_behind.flush_if_due()
    except TimeoutError:
        log.warning("the time of the function is over; the next invocation goes on")
    except Unavailable as exc:
        log.warning("the history could not be written to Aurora; the next invocation tries again: %s", exc)
    except Exception:
        log.exception("the history could not be written to Aurora; the next invocation tries again")
