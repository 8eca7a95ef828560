"""Whether the gateway can do its work: `/healthz`."""

import asyncio
from collections.abc import Callable
from typing import Final

from answerback.core.request import RequestKey
from answerback.ports import Durability, Requests, Unavailable

TIMEOUT_S: Final = 2.0
PROBE_EVERY_S: Final = 2.0
"""A probe is a write to the disk, and anybody on this machine may ask for health without a key."""


class Health:
    """Reads and writes the store to see whether that works; without traffic nobody else would notice. `monotonic`:
    seconds.
    """

    def __init__(
        self, *, requests: Requests, durability: Durability, clock: Callable[[], int], monotonic: Callable[[], float]
    ) -> None:
        self._requests = requests
        self._durability = durability
        self._clock = clock
        self._monotonic = monotonic
        self._probed_at: float | None = None

    async def is_good(self) -> bool:
        """Whether the store can be read and written. The last write counts, whoever made it."""
        has_failed = self._durability.last_write_failed
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._requests.read(RequestKey("healthz", "healthz"))
                await self._probe()
        except (TimeoutError, Unavailable):
            return False
        # A write that failed is told once in any case: room for a probe need not be room for a question.
        return not (has_failed or self._durability.last_write_failed)

    async def _probe(self) -> None:
        now = self._monotonic()
        if self._probed_at is None or now - self._probed_at >= PROBE_EVERY_S:
            self._probed_at = now
            await self._durability.probe(now_ms=self._clock())
