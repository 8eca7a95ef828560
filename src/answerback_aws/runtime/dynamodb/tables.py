"""The tables: names, keys, indexes, the attribute of their time to live. The template declares them.

    table          partition key   sort key    an item is
    Connections    connectionId                an open connection: the two-frame client's attributes, and a few of ours
    Sessions       userId          sessionId   which connection is the address of the session, with its generation;
                                               under `watch ...`, which no session id is, who watches a conversation
    Requests       userId          requestId   the record that decides about a request
    Conversations  userId          item        a text of a request, an ended turn, the mark of a deletion, or an upload
    RateLimits     userId          window      how often the user asked in a minute, the user's own limit, begun
                                               uploads, budgets and their counters; a team's are under `team NAME`,
                                               which no user id is

Everything of a user stands in the user's own partitions, so that erasing a user is one query a table and costs no
index. Two indexes are sparse: an item is in them only while it has the sort key.

    Requests.unfinished        userId, unfinished (N, the position)      until the request has ended
    Conversations.unarchived   userId, unarchived (N, the position)      until the turn is in Aurora

`unfinished` projects only what never changes, so that a renewal or a delivery target writes nothing there.

The items of Conversations sort by conversation, position, kind: one query reads the last turns with their texts. The
mark of a deletion sorts behind every position.

    <conversation>#<position>#answer#<version>   an answer's text; the ended record says which version counts
    <conversation>#<position>#question           the question's text and options
    <conversation>#<position>#system             the system text that came with it
    <conversation>#<position>#turn               how it ended; there once the record has ended, in the same transaction
    <conversation>#deleted                       when the conversation was deleted
    upload#<sha256>#<bytes>                      how far a file has come (s3_files.py); no conversation is called so
"""

from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, NamedTuple

from answerback.core.keys import digest

TTL_ATTRIBUTE: Final = "expiresAt"
"""Epoch seconds; in every table. DynamoDB deletes days late, so what reads an item also looks at it."""

USER_DATA: Final = MappingProxyType(
    {"requests": "requestId", "conversations": "item", "rate_limits": "window", "sessions": "sessionId"}
)
"""The tables by user, with their sort keys: what `users export` shows and `users delete` erases.

A connection belongs to a user by the session that names it.
"""

UNFINISHED: Final = "unfinished"
UNARCHIVED: Final = "unarchived"
QUESTION: Final = "question"
SYSTEM: Final = "system"
ANSWER: Final = "answer"
TURN: Final = "turn"
_DELETED: Final = "deleted"
_DIGITS: Final = 16
"""Of the largest position: 2**53 has 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What the tables are called in one deployment."""

    connections: str
    sessions: str
    requests: str
    conversations: str
    rate_limits: str


TABLES: Final = tuple(field.name for field in fields(Tables))


class Place(NamedTuple):
    """Where a turn stands: in which conversation of its user, and at which position."""

    user_id: str
    conversation_id: str
    position: int

    def key(self, kind: str) -> dict[str, str | int | bool]:
        """The key of one of the turn's items."""
        return {"userId": self.user_id, "item": f"{prefix(self.conversation_id)}{self.position:0{_DIGITS}}#{kind}"}


def prefix(conversation_id: str) -> str:
    """What the names of all of the conversation's items begin with. A digest, so that no id can imitate another."""
    return digest("conversation", conversation_id)[:32] + "#"


def below(conversation_id: str, position: int) -> str:
    """Sorts behind every item of lower positions, and before those of `position`."""
    return f"{prefix(conversation_id)}{position:0{_DIGITS}}"


def deletion_key(user_id: str, conversation_id: str) -> dict[str, str | int | bool]:
    """The key of the conversation's mark of a deletion."""
    return {"userId": user_id, "item": prefix(conversation_id) + _DELETED}


WATCH: Final = "watch "
"""What the sort keys in Sessions begin with that are no sessions."""


def watch_key(user_id: str, conversation_id: str | None) -> dict[str, str | int | bool]:
    """The key of those who watch the conversation, or the list."""
    name = "" if conversation_id is None else prefix(conversation_id)
    return {"userId": user_id, "sessionId": WATCH + name}


def kind_of(item: str) -> tuple[int, str] | None:
    """(position, kind) of an item's name; None: it is no part of a turn."""
    _, position, *rest = item.split("#")
    return (int(position), "#".join(rest)) if rest else None
