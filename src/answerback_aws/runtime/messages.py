"""Messages of the queue as Lambda's event source mapping hands them out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from answerback.core.request import RequestKey

CORRELATION: Final = "correlationId"
"""The attribute that names the invocation which put the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message that Lambda hands to a function. `receives`: how often it was handed out, this time included.

    `key` None: it cannot be read. `correlation_id`: of the invocation that put it.
    """

    message_id: str
    receipt_handle: str
    receives: int
    key: RequestKey | None
    correlation_id: str | None = None


def read_event(event: Mapping[str, Any]) -> Sequence[Message]:
    """The messages of an event of Lambda's event source mapping."""
    return tuple(_message(entry) for entry in event.get("Records", ()))


def failed(messages: Sequence[Message]) -> dict[str, Any]:
    """What the function returns: these are handed out again; all others are deleted."""
    return {"batchItemFailures": [{"itemIdentifier": message.message_id} for message in messages]}


def _message(entry: Mapping[str, Any]) -> Message:
    attributes = entry.get("attributes", {})
    cause = entry.get("messageAttributes", {}).get(CORRELATION, {})
    receives = str(attributes.get("ApproximateReceiveCount", "1"))
    return Message(
        message_id=str(entry["messageId"]),
        receipt_handle=str(entry["receiptHandle"]),
        receives=int(receives) if receives.isdigit() else 1,
        key=_key(entry.get("body")),
        correlation_id=cause.get("stringValue"),
    )


def _key(body: object) -> RequestKey | None:
    try:
        named = json.loads(str(body))
    except (ValueError, RecursionError):
        return None
    user, request = (named.get("user"), named.get("request")) if isinstance(named, dict) else (None, None)
    return RequestKey(user, request) if isinstance(user, str) and isinstance(request, str) else None
