"""Frames to connections of API Gateway, by its `@connections` API.

One post is awaited before the next of the same answer, and the client's own retries are off: a retried post could
arrive after a later one. A post whose answer is lost may still arrive, and arrives again when it is repeated; clients
drop what they have by its offset.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from answerback.core.request import RequestKey
from answerback.ports import Gone, Sent, Slow, Unavailable
from answerback.protocol.codec import encode
from answerback.protocol.frames import ServerFrame
from answerback.protocol.limits import MAX_FRAME_BYTES
from answerback_aws.runtime.client import Calls, error_code

if TYPE_CHECKING:
    from answerback_aws.runtime.telemetry import Counts

log = logging.getLogger("answerback.aws.sender")

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 4.0
MAX_PAUSES: Final = 1_000
"""Connections that are remembered as slow; forgetting the oldest only costs one more call."""

_GONE: Final = "GoneException"
_LIMIT: Final = "LimitExceededException"


@dataclass(slots=True)
class _Pause:
    """Until when a connection is left alone, and how often in a row it took nothing."""

    times: int = 0
    until: float = 0.0


class ApiGatewaySender:
    """ports.Sender by `post_to_connection`.

    `client`: of `apigatewaymanagementapi` at the stage's URL, without retries. `on_gone` gets each connection
    that turns out to be gone; it may raise Unavailable. `jitter`: a random number from 0 to 1.
    """

    def __init__(
        self,
        *,
        client: Any,
        calls: Calls,
        observer: "Counts",
        on_gone: Callable[[str], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._calls = calls
        self._observer = observer
        self._on_gone = on_gone
        self._sleep = sleep
        self._monotonic = monotonic
        self._jitter = jitter
        self._pauses: dict[str, _Pause] = {}

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        """Post one frame. Raises: ValueError: it is larger than 32 KB, which nothing here may make.

        What cannot be posted for good (no permission, a wrong address) counts as Gone: the answer is stored, and
        nothing that a worker repeats would help. What may be over soon counts as Slow.
        """
        data = encode(frame)
        if len(data) > MAX_FRAME_BYTES:
            raise ValueError(f"a {type(frame).__name__} of {len(data)} bytes")
        if self._is_paused(connection_id):
            return Slow()
        try:
            await self._calls.run(self._client.post_to_connection, ConnectionId=connection_id, Data=data)
        except Unavailable:
            return self._slow(connection_id)
        except ClientError as exc:
            code = error_code(exc)
            if code == _LIMIT:
                return self._slow(connection_id)
            self._pauses.pop(connection_id, None)
            if code == _GONE:
                await self._gone(connection_id)
            else:
                self._observer.not_posted(code)
                log.error("a frame cannot be posted: %s", exc, extra={"connectionId": connection_id})
            return Gone()
        self._pauses.pop(connection_id, None)
        self._observer.posted(len(data))
        return Sent()

    async def ready(self, connection_id: str) -> None:
        """Wait out the pause: API Gateway does not say when a slow connection can take more."""
        pause = self._pauses.get(connection_id)
        if pause is not None:
            await self._sleep(max(0.0, pause.until - self._monotonic()))

    async def close(self, connection_id: str, last: ServerFrame | None = None) -> None:
        """`DELETE @connections`: API Gateway closes with 1000. `last` is tried twice if the connection is slow."""
        if last is not None and isinstance(await self.send(connection_id, last), Slow):
            await self.ready(connection_id)
            await self.send(connection_id, last)
        self._pauses.pop(connection_id, None)
        try:
            await self._calls.run(self._client.delete_connection, ConnectionId=connection_id)
        except Unavailable:
            log.warning("a connection could not be closed", extra={"connectionId": connection_id})
        except ClientError as exc:
            if error_code(exc) != _GONE:
                log.warning("a connection could not be closed: %s", exc, extra={"connectionId": connection_id})

    def park(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> bool:
        """Refuse: no process waits that could be called later."""
        return False

    async def last_active_ms(self, connection_id: str) -> int | None:
        """When API Gateway last saw a message of the connection, either way; None: it is gone.

        Raises: Unavailable.
        """
        try:
            found = await self._calls.run(self._client.get_connection, ConnectionId=connection_id)
        except ClientError as exc:
            if error_code(exc) == _GONE:
                return None
            raise Unavailable(f"the connection cannot be looked up: {error_code(exc)}") from exc
        seen = found.get("LastActiveAt")
        return 0 if seen is None else int(seen.timestamp() * 1000)

    def _is_paused(self, connection_id: str) -> bool:
        pause = self._pauses.get(connection_id)
        return pause is not None and self._monotonic() < pause.until

    def _slow(self, connection_id: str) -> Slow:
        """Leave it alone for a while that grows; the text meanwhile goes out as one bigger piece."""
        self._observer.throttled()
        if connection_id not in self._pauses and len(self._pauses) >= MAX_PAUSES:
            del self._pauses[next(iter(self._pauses))]
        pause = self._pauses.setdefault(connection_id, _Pause())
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**pause.times)
        pause.times += 1
        pause.until = self._monotonic() + longest_s * (0.5 + 0.5 * self._jitter())
        return Slow()

    async def _gone(self, connection_id: str) -> None:
        try:
            await self._on_gone(connection_id)
        except Unavailable:
            log.warning("a connection that is gone could not be removed", extra={"connectionId": connection_id})
