"""The tables: names, keys, indexes, the attribute of their time to live. A test holds the template equal to this.

    table          partition key   sort key    an item is
    Connections    connectionId                an open connection: the two-frame client's attributes, and a few of ours
    Sessions       userId          sessionId   which connection is the address of the session, with its generation
    Requests       userId          requestId   the record that decides about a request
    Conversations  userId          item        a text of a request, an ended turn, or the mark of a deletion
    RateLimits     userId          window      how often the user asked in a minute, or the user's own limit

Everything of a user stands in the user's own partitions, so that erasing a user is one query a table and costs no
index. Two indexes are sparse: an item is in them only while it has the sort key.

    Requests.unfinished        userId, unfinished (N, the position)      until the request has ended
    Conversations.unarchived   userId, unarchived (N, the position)      until the turn is in Aurora
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TTL_ATTRIBUTE: Final = "expiresAt"
"""Epoch seconds; in every table. DynamoDB deletes days late, so what reads an item also looks at it."""

UNFINISHED: Final = "unfinished"
UNARCHIVED: Final = "unarchived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A global secondary index on (partition key: text, sort key: number). `include` None: every attribute."""

    name: str
    partition_key: str
    sort_key: str
    include: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The shape of a table. Every key attribute is a text."""

    partition_key: str
    sort_key: str | None = None
    indexes: tuple[Index, ...] = ()


SHAPES: Final[Mapping[str, Table]] = {
    "connections": Table(partition_key="connectionId"),
    "sessions": Table(partition_key="userId", sort_key="sessionId"),
    "requests": Table(
        partition_key="userId",
        sort_key="requestId",
        # Only what never changes is projected: a renewal or a target writes nothing here.
        indexes=(Index(name=UNFINISHED, partition_key="userId", sort_key=UNFINISHED, include=("orderingKey",)),),
    ),
    "conversations": Table(
        partition_key="userId",
        sort_key="item",
        indexes=(Index(name=UNARCHIVED, partition_key="userId", sort_key=UNARCHIVED, include=None),),
    ),
    "rate_limits": Table(partition_key="userId", sort_key="window"),
}
"""The shape of each table of `Tables`, by its field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What the tables are called in one deployment."""

    connections: str
    sessions: str
    requests: str
    conversations: str
    rate_limits: str
