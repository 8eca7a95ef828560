"""The authorizer of `$connect`: a token becomes a user, or the connection is refused.

no token, or one that is not accepted      401 (the exception whose whole text is "Unauthorized")
a web page of a foreign origin             403 (Deny)
the query names another user               403 (Deny)
the provider's keys cannot be fetched      500, and the client tries again
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from answerback.core.handshake import HandshakeError, Rules, check_page, check_user, token_of
from answerback.ports import TokenRefused, Tokens
from answerback_aws.runtime.composition import process
from answerback_aws.runtime.functions import upgrade_request
from answerback_aws.runtime.telemetry import LambdaContext

log = logging.getLogger("answerback.aws.authorizer")


class Unauthorized(Exception):
    """API Gateway answers 401 if this is the text of what the authorizer raises, and 500 for any other."""

    def __init__(self) -> None:
        super().__init__("Unauthorized")


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Called by API Gateway."""
    composition = process("authorizer")
    connection_id = event["requestContext"]["connectionId"]
    with composition.observing.invocation(context, connectionId=connection_id):
        if composition.tokens is None:
            raise RuntimeError("the stack has an authorizer but no issuer of tokens")
        return composition.run(authorize(composition.tokens, event, rules=composition.settings.handshake_rules))


async def authorize(tokens: Tokens, event: Mapping[str, Any], *, rules: Rules) -> dict[str, Any]:
    """The policy for this one connection, with what `$connect` has to know of the token.

    Raises: Unauthorized; Unavailable: the token cannot be checked now.
    """
    request = upgrade_request(event)
    try:
        check_page(request, rules)
    except HandshakeError as error:
        log.info("a connection is refused: %s", error)
        return _policy(event, "Deny", user_id="nobody", context={})
    try:
        identity = await tokens.identify(token_of(request))
    except HandshakeError as error:
        log.info("a connection is refused: %s", error)
        raise Unauthorized from None
    except TokenRefused as exc:
        log.info("a token was refused: %s", exc)
        raise Unauthorized from None
    effect: Literal["Allow", "Deny"] = "Allow"
    try:
        check_user(request, identity.user_id)
    except HandshakeError as error:
        log.info("a connection is refused: %s", error, extra={"userId": identity.user_id})
        effect = "Deny"
    context = {"userId": identity.user_id}
    if identity.expires_at_ms is not None:
        context["expiresAtMs"] = str(identity.expires_at_ms)
    if identity.team is not None:
        context["team"] = identity.team
    return _policy(event, effect, user_id=identity.user_id, context=context)


def _policy(
    event: Mapping[str, Any], effect: Literal["Allow", "Deny"], *, user_id: str, context: Mapping[str, str]
) -> dict[str, Any]:
    """For this one connection."""
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": event["methodArn"]}
    return {
        "principalId": user_id,
        "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        "context": dict(context),
    }
