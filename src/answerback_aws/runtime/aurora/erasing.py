"""Erasing a user from every table."""

from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.items import Value, text_of


async def erase_user(database: Database, user_id: str) -> bool:
    """Delete every item of the user, for good; whether there was any. May be repeated. Raises: Unavailable.

    erase     records ──► texts and turns ──► minutes and limit ──► sessions and their connections
                      ▲
    a worker that still runs an answer is fenced from here on: it has no record that it could end, so no turn is
    written behind the eraser's back, and the text that it had written is taken back
    """
    tables = database.tables
    found = False
    for table, sort_key in (
        (tables.requests, "requestId"),
        (tables.conversations, "item"),
        (tables.rate_limits, "window"),
        (tables.sessions, "sessionId"),
    ):
        items = await database.query(
            table,
            "userId = :u",
            {":u": user_id},
            ProjectionExpression="#s, connectionId",
            ExpressionAttributeNames={"#s": sort_key},
            ConsistentRead=True,
        )
        found = found or bool(items)
        keys: list[dict[str, Value]] = [{"userId": user_id, sort_key: item[sort_key]["S"]} for item in items]
        open_now = [text_of(item, "connectionId") for item in items]
        await database.delete_many(
            tables.connections, [{"connectionId": connection} for connection in open_now if connection is not None]
        )
        await database.delete_many(table, keys)
    return found
