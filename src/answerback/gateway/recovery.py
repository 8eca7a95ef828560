"""What the start of a gateway takes up from the process before it."""

import asyncio
from collections.abc import Callable, Iterable

from answerback.core import request as changes
from answerback.core.request import Record
from answerback.ports import Requests


async def recover(requests: Requests, restore: Callable[[Iterable[Record]], None]) -> int:
    """Give every unfinished request to `restore`, in the order accepted; returns how many there are.

    Whoever calls this holds the store's lock: the workers that had leases are dead, and so are the connections that
    targets lead to. Raises: Unavailable.
    """
    records = await requests.unfinished()
    # All at once, so that a store with group commit needs few commits.
    await asyncio.gather(*(requests.change(record.key, changes.recover) for record in records))
    restore(records)
    return len(records)
