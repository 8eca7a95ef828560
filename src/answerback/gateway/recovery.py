"""What the start of a gateway takes up from the process before it."""

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from answerback.core.request import Record, State, Step
from answerback.ports import Requests


async def take_up(requests: Requests, restore: Callable[[Iterable[Record]], None]) -> int:
    """Give every unfinished request to `restore`, in the order accepted; returns how many there are.

    Their leases are void: whoever calls this holds the store's lock, so the workers that had them are dead. Raises:
    Unavailable.
    """
    records = await requests.unfinished()
    for record in records:
        if record.state is State.RUNNING:
            await requests.change(record.key, _void_lease)
    restore(records)
    return len(records)


def _void_lease(record: Record | None) -> Step[None]:
    if record is None or record.state is not State.RUNNING:
        return Step(None, None)
    return Step(replace(record, lease_until_ms=0), None)
