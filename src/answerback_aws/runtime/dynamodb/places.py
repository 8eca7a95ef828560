"""What the items of a conversation are called.

All of them stand in the user's partition, and sort by conversation, position, kind, so that one query reads the last
turns of a conversation with their texts. The mark of a deletion sorts behind every position.

    <conversation>#<position>#answer#<version>   an answer's text; the ended record says which version counts
    <conversation>#<position>#question           the question's text and options
    <conversation>#<position>#system             the system text that came with it
    <conversation>#<position>#turn               how it ended; there once the record has ended, in the same transaction
    <conversation>#deleted                       when the conversation was deleted
"""

from typing import Final, NamedTuple

from answerback.core.keys import digest

QUESTION: Final = "question"
SYSTEM: Final = "system"
ANSWER: Final = "answer"
TURN: Final = "turn"
_DELETED: Final = "deleted"
_DIGITS: Final = 16
"""Of the largest position: 2**53 has 16."""


class Place(NamedTuple):
    """Where a turn stands: in which conversation of its user, and at which position."""

    user_id: str
    conversation_id: str
    position: int

    def key(self, kind: str) -> dict[str, str | int | bool]:
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


def kind_of(item: str) -> tuple[int, str] | None:
    """(position, kind) of an item's name; None: it is no part of a turn."""
    _, position, *rest = item.split("#")
    return (int(position), "#".join(rest)) if rest else None
