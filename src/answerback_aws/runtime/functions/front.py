"""The chat front: one event, one message of a client, one call of `Front.receive`.

What the client has to know goes to its connection as a frame. The function's own answer is always 200: any other makes
API Gateway send a frame of its own, in none of the protocol's forms.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from answerback_aws.runtime.composition import process
from answerback_aws.runtime.telemetry import LambdaContext

if TYPE_CHECKING:
    from answerback.service.front import Front

log = logging.getLogger("answerback.aws.front")

RESERVED_S: Final = 1.0
"""Before Lambda ends the invocation, for the log and the metrics."""


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Called by API Gateway."""
    composition = process("front")
    about = event["requestContext"]
    facts = {"connectionId": about["connectionId"], "correlationId": about.get("requestId")}
    with composition.observing.invocation(context, **facts):
        within_s = context.get_remaining_time_in_millis() / 1000 - RESERVED_S
        composition.run(receive(composition.front, event, within_s=within_s))
    return {"statusCode": 200}


async def receive(front: "Front", event: Mapping[str, Any], *, within_s: float) -> None:
    """Hand the message to the front. Raises nothing.

    A reader so slow that the time is over before it took everything asks for the rest: it is all in the store.
    """
    try:
        async with asyncio.timeout(within_s):
            await front.receive(event["requestContext"]["connectionId"], _data(event))
    except TimeoutError:
        log.warning("a message was not handled to the end in time; the client will ask again")
    except Exception:
        log.exception("a message could not be handled")


def _data(event: Mapping[str, Any]) -> str | bytes:
    """The message. Of a binary one, which is not of this protocol, something that is no frame either."""
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return str(body)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        return b""
