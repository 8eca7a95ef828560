"""The connection manager: `$connect` saves the connection, `$disconnect` removes it.

Nothing is posted from `$connect`: the connection does not exist for `@connections` before it has returned. And
`$disconnect` may come late, long after the app has come back: it removes this connection and never its session's newer
one.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from answerback.clock import epoch_ms
from answerback.core.handshake import MAX_USER_AGENT, Handshake, HandshakeError, Rules, own_session_id, validate
from answerback.ports import Connection, Connections, Unavailable
from answerback_aws.runtime.composition import process
from answerback_aws.runtime.functions import upgrade_request
from answerback_aws.runtime.telemetry import LambdaContext

log = logging.getLogger("answerback.aws.connections")

Answer = dict[str, Any]


def handler(event: Mapping[str, Any], context: LambdaContext) -> Answer:
    """Called by API Gateway."""
    composition = process("connections")
    about = event["requestContext"]
    with composition.observing.invocation(context, connectionId=about["connectionId"]):
        if about["eventType"] == "CONNECT":
            rules = composition.settings.handshake_rules
            return composition.run(connect(composition.connections, event, clock=epoch_ms, rules=rules))
        return composition.run(disconnect(composition.connections, event))


async def connect(
    connections: Connections, event: Mapping[str, Any], *, clock: Callable[[], int], rules: Rules
) -> Answer:
    """Save the connection. Any status but 200 is what the client gets instead of a socket."""
    try:
        handshake = validate(upgrade_request(event), rules)
    except HandshakeError as error:
        log.info("a connection is refused: %s", error)
        return {"statusCode": error.status, "body": error.text}
    connection = _connection(event, handshake, now_ms=clock())
    try:
        await connections.add(connection)
    except Unavailable as exc:
        log.warning("a connection could not be saved: %s", exc)
        return {"statusCode": 503}
    answer: Answer = {"statusCode": 200}
    if handshake.subprotocol is not None:
        answer["headers"] = {"Sec-WebSocket-Protocol": handshake.subprotocol}
    return answer


async def disconnect(connections: Connections, event: Mapping[str, Any]) -> Answer:
    """Remove the connection. That cancels no request: only an explicit cancellation does."""
    about = event["requestContext"]
    try:
        await connections.remove(about["connectionId"])
    except Unavailable as exc:
        log.warning("a closed connection could not be removed; the janitor will: %s", exc)
    log.info("a connection is closed", extra={"closeCode": about.get("disconnectStatusCode")})
    return {"statusCode": 200}


def _connection(event: Mapping[str, Any], handshake: Handshake, *, now_ms: int) -> Connection:
    about = event["requestContext"]
    known = about.get("authorizer") or {}
    user_id = known.get("userId")
    expires_at_ms = known.get("expiresAtMs")
    identity = about.get("identity") or {}
    return Connection(
        connection_id=about["connectionId"],
        session_id=handshake.session_id or own_session_id(secrets.token_urlsafe(16)),
        connected_at_ms=int(about.get("connectedAt") or now_ms),
        last_activity_ms=now_ms,
        user_id=handshake.user_id if user_id is None else str(user_id),
        authenticated=user_id is not None,
        token_expires_at_ms=None if expires_at_ms is None else int(expires_at_ms),
        team=known.get("team"),
        source_ip=identity.get("sourceIp") or "",
        user_agent=(identity.get("userAgent") or "")[:MAX_USER_AGENT] or handshake.user_agent,
    )
