"""The migration: a custom resource of the stack, so that a deployment succeeds only with the tables that it needs.

CloudFormation waits until a status is put to a URL that comes with the event. Whatever happens one is put: without it
the stack would wait for the whole time-out.
"""

import json
import logging
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from answerback.clock import epoch_ms
from answerback_aws.runtime.composition import Composition, Timeouts
from answerback_aws.runtime.telemetry import LambdaContext

log = logging.getLogger("answerback.aws.migration")

RESOURCE_ID: Final = "schema"
"""Always the same: another one would make CloudFormation delete the one before."""

TIMEOUTS: Final = Timeouts(call_s=50, all_s=600)
"""A cluster that was just made, or that is paused, needs minutes at most."""

ANSWER_TIMEOUT_S: Final = 10.0


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Called by CloudFormation, or by hand with an empty event."""
    composition = _composition()
    with composition.observing.invocation(context):
        if event.get("RequestType") == "Delete":
            return _answer(event, None, {})  # the data stay; the cluster has a deletion policy of its own
        try:
            applied = composition.run(_migrate(composition))
        except Exception as exc:
            log.exception("the tables of Aurora could not be brought up to date")
            answer = _answer(event, f"{type(exc).__name__}: {exc}", {})
            if "ResponseURL" not in event:
                raise
            return answer
        log.info("the tables of Aurora are up to date", extra={"applied": applied})
        return _answer(event, None, {"Applied": applied})


async def _migrate(composition: Composition) -> int:
    from answerback_aws.runtime.aurora.migration import apply_migrations  # noqa: PLC0415

    return await apply_migrations(composition.aurora, now_ms=epoch_ms())


def _answer(event: Mapping[str, Any], failure: str | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """Answer CloudFormation, if it made the call."""
    answer: dict[str, Any] = {
        "Status": "SUCCESS" if failure is None else "FAILED",
        "PhysicalResourceId": RESOURCE_ID,
        **{name: event.get(name, "") for name in ("StackId", "RequestId", "LogicalResourceId")},
        "Data": dict(data),
    }
    if failure is not None:
        answer["Reason"] = f"{failure} The log of the migration function has more. Deploy again when it is repaired."
    if "ResponseURL" in event:
        _put(event["ResponseURL"], json.dumps(answer).encode())
    return answer


def _put(url: str, body: bytes) -> None:
    import urllib.request  # noqa: PLC0415 - only here

    # The URL is signed without a content type: S3 refuses the request if one is sent.
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310 - CloudFormation's
    with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as response:  # noqa: S310
        response.read()


@cache
def _composition() -> Composition:
    return Composition("migration", os.environ, timeouts=TIMEOUTS)
