"""Counts what DynamoDB bills: the read and write units of every call of a client."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from counting_proxy import read_units_of

_READS = {"GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"}


@dataclass(slots=True)
class Units:
    """Units and calls since the last `clear`. A refused write is billed, but not reported: it counts as one of 1 KB."""

    read: float = 0.0
    written: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        self.read = self.written = 0.0
        self.calls.clear()


@contextmanager
def metered(client: Any) -> Iterator[Units]:
    """Units that count every call of this boto3 client meanwhile; it asks DynamoDB for them with each call."""
    units = Units()

    def ask(params: Mapping[str, Any], model: Any, **_: Any) -> Mapping[str, Any]:
        if "ReturnConsumedCapacity" not in model.input_shape.members:
            return params
        return {**params, "ReturnConsumedCapacity": "TOTAL"}

    def count(parsed: Mapping[str, Any], model: Any, **_: Any) -> None:
        units.calls[model.name] += 1
        total = _billed(parsed)
        if model.name in _READS:
            units.read += total
        else:
            units.written += total

    handlers = {"provide-client-params.dynamodb": ask, "after-call.dynamodb": count}
    for event, handler in handlers.items():
        client.meta.events.register(event, handler)
    yield units
    for event, handler in handlers.items():
        client.meta.events.unregister(event, handler)


def _billed(answer: Mapping[str, Any]) -> float:
    match answer.get("Error", {}).get("Code"):
        case None if "ConsumedCapacity" not in answer:
            # The emulator does not count BatchGetItem, which we always ask to be consistent.
            found = (item for items in answer.get("Responses", {}).values() for item in items)
            return float(sum(map(read_units_of, found)))
        case None:
            consumed = answer["ConsumedCapacity"]
            return float(
                sum(part["CapacityUnits"] for part in (consumed if isinstance(consumed, list) else [consumed]))
            )
        case "ConditionalCheckFailedException":
            return 1.0
        case "TransactionCanceledException":
            return 2.0 * len(answer.get("CancellationReasons", []))
        case _:
            return 0.0
