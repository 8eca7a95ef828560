"""Who watches a conversation: a few sessions of its user. Each has a place for some minutes, and renews it."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from answerback.core.request import Watcher

MOST: Final = 8
"""Sessions that watch one conversation, or the list, by default."""

MOST_WATCHED: Final = 1_000
"""Conversations of one user that are watched at a time, where they are counted."""

KEPT_MS: Final = 10 * 60_000
"""How long a place is kept. A client renews it every four minutes: two renewals may be lost."""

LEFT_MS: Final = 60_000
"""How long it is known that a session watches no longer: longer than an older frame of it can come behind."""


class Place(Enum):
    """What became of a `watch`."""

    KEPT = "it holds"
    OLDER = "a later one of its session holds"
    FULL = "there is no place"


def placed(watchers: Sequence[Watcher], new: Watcher, *, now_ms: int, most: int) -> tuple[Watcher, ...] | Place:
    """Those who watch when `new` has come, the newest last; or why it changes nothing.

    Frames may be handled out of order. So one that is `off` stays for a while, without a place: else an older one that
    comes behind it would be shown answers that nobody there waits for.
    """
    others = [one for one in watchers if one.until_ms > now_ms and one.session_id != new.session_id]
    if any(one.session_id == new.session_id and one.order > new.order for one in watchers):
        return Place.OLDER
    if not new.off and sum(not one.off for one in others) >= most:
        return Place.FULL
    left = [one for one in others if one.off]
    return (*(one for one in others if one not in left[:-most]), new)
