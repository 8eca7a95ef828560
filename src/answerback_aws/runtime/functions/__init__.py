"""The Lambda functions: each module's `handler` takes an event, hands it to the service, and answers in AWS's words."""

from collections.abc import Mapping
from typing import Any

from answerback.core.handshake import UpgradeRequest


def upgrade_request(event: Mapping[str, Any]) -> UpgradeRequest:
    """The request of an event. API Gateway leaves out what is empty, or says null."""
    headers, query = event.get("headers") or {}, event.get("queryStringParameters") or {}
    return UpgradeRequest(headers=headers.items(), query=query.items())
