"""The authorizer of `$connect`: a token becomes a user, or the connection is refused.

no token, or one that is not accepted      401 (the exception whose whole text is "Unauthorized")
the query names another user               403 (Deny)
the provider's keys cannot be fetched      500, and the client tries again
"""

import logging
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from answerback.aws.composition import Composition
from answerback.aws.functions.handshake import Handshake
from answerback.aws.observing import LambdaContext
from answerback.ports import TokenRefused, Tokens

log = logging.getLogger("answerback.aws.authorizer")


class Unauthorized(Exception):
    """API Gateway answers 401 if this is the text of what the authorizer raises, and 500 for any other."""

    def __init__(self) -> None:
        super().__init__("Unauthorized")


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Called by API Gateway."""
    composition = _composition()
    connection_id = event["requestContext"]["connectionId"]
    with composition.observing.invocation(context, connectionId=connection_id):
        if composition.tokens is None:
            raise RuntimeError("the stack has an authorizer but no issuer of tokens")
        return composition.run(authorize(composition.tokens, event))


async def authorize(tokens: Tokens, event: Mapping[str, Any]) -> dict[str, Any]:
    """The policy for this one connection, with what `$connect` has to know of the token.

    Raises: Unauthorized; Unavailable: the token cannot be checked now.
    """
    handshake = Handshake.of(event)
    token = handshake.token
    if token is None:
        log.info("a connection without a token is refused")
        raise Unauthorized
    try:
        identity = await tokens.identify(token)
    except TokenRefused as exc:
        log.info("a token was refused: %s", exc)
        raise Unauthorized from None
    is_other = handshake.query.get("userId") not in {None, identity.user_id}
    if is_other:
        log.info("a connection for another user than the token's is refused", extra={"userId": identity.user_id})
    context = {"userId": identity.user_id}
    if identity.expires_at_ms is not None:
        context["expiresAtMs"] = str(identity.expires_at_ms)
    return {
        "principalId": identity.user_id,
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Action": "execute-api:Invoke",
                    "Effect": "Deny" if is_other else "Allow",
                    "Resource": event["methodArn"],
                }
            ],
        },
        "context": context,
    }


@cache
def _composition() -> Composition:
    return Composition("authorizer", os.environ)
