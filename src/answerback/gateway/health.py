"""Whether a gateway can do its work, and what anybody may know of that."""

import asyncio
import math
from collections.abc import Callable
from typing import Final

from aiohttp import web

from answerback.core.request import RequestKey
from answerback.gateway.http import json_response
from answerback.ports import Durability, Requests, Unavailable

HEALTH_TIMEOUT_S: Final = 2.0
GLANCE_EVERY_S: Final = 1.0
PROBE_EVERY_S: Final = 2.0
"""A probe is a write to the disk, and anybody on this machine may ask for health without a key."""


class Health:
    """Whether the gateway can do its work: reads and writes the store to see. Without traffic nobody else would notice.

    `clock`: epoch milliseconds. `monotonic`: seconds.
    """

    def __init__(
        self, *, requests: Requests, durability: Durability, clock: Callable[[], int], monotonic: Callable[[], float]
    ) -> None:
        self._requests = requests
        self._durability = durability
        self._clock = clock
        self._monotonic = monotonic
        self._probed_at: float | None = None
        self._glanced: tuple[float, bool] = (-math.inf, False)

    async def glance(self) -> bool:
        """As `is_good` without a write of its own, and at most one read in GLANCE_EVERY_S: for anybody who asks."""
        now = self._monotonic()
        if now - self._glanced[0] >= GLANCE_EVERY_S:
            self._glanced = (now, True)  # who asks meanwhile starts no second read
            self._glanced = (now, await self._can_read() and not self._durability.last_write_failed)
        return self._glanced[1]

    async def is_good(self) -> bool:
        """Whether the store can be read and written. The last write counts, of any caller."""
        has_failed = self._durability.last_write_failed
        if not await self._can_read(probe=True):
            return False
        # A write that failed is reported once in any case: room for a probe need not be room for a question.
        return not (has_failed or self._durability.last_write_failed)

    async def _can_read(self, *, probe: bool = False) -> bool:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await self._requests.read(RequestKey("healthz", "healthz"))
                if probe:
                    await self._probe()
        except (TimeoutError, Unavailable):
            return False
        return True

    async def _probe(self) -> None:
        now = self._monotonic()
        if self._probed_at is None or now - self._probed_at >= PROBE_EVERY_S:
            self._probed_at = now
            await self._durability.probe(now_ms=self._clock())


def health_response(*, is_good: bool) -> web.Response:
    """What anybody may know of a gateway's health."""
    return json_response(200 if is_good else 503, {"status": "ok" if is_good else "unavailable"})
