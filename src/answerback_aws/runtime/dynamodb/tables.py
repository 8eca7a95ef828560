"""The tables: names, keys, indexes, the attribute of their time to live. The template declares them.

    table          partition key   sort key    an item is
    Connections    connectionId                an open connection, exactly as the mission gives it, and a few of ours
    Sessions       userId          sessionId   which connection is the address of the session, with its generation
    Requests       userId          requestId   the record that decides about a request
    Conversations  userId          item        a text of a request, an ended turn, or the mark of a deletion
    RateLimits     userId          window      how often the user asked in a minute, or the user's own limit

Everything of a user stands in the user's own partitions, so that erasing a user is one query a table and costs no
index. Two indexes are sparse: an item is in them only while it has the sort key.

    Requests.unfinished        userId, unfinished (N, the position)      until the request has ended
    Conversations.unarchived   userId, unarchived (N, the position)      until the turn is in Aurora

`unfinished` projects only what never changes, so that a renewal or a delivery target writes nothing there.
"""

from dataclasses import dataclass, fields
from typing import Final

TTL_ATTRIBUTE: Final = "expiresAt"
"""Epoch seconds; in every table. DynamoDB deletes days late, so what reads an item also looks at it."""

UNFINISHED: Final = "unfinished"
UNARCHIVED: Final = "unarchived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What the tables are called in one deployment."""

    connections: str
    sessions: str
    requests: str
    conversations: str
    rate_limits: str


TABLES: Final = tuple(field.name for field in fields(Tables))
