"""What a batch of events changed, so that widgets update only that."""

from collections.abc import MutableSequence
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Changes:
    """What has to be drawn again, where true or not empty.

    Attributes:
        everything: another account: draw everything again.
        connection, settings, sign_in, gateway, search: that view model.
        notices: there are new ones in `AppViewModel.notices`.
        list: the conversations' order or set.
        current: another conversation is shown.
        exported: a text or a file for the person to save is in `AppViewModel.exported`.
        stopped: the engine has ended; the app may close.
        conversations: ids of conversations whose line in the list changed (title, unread, streaming, draft).
        messages: ids of conversations whose set or order of turns, or loading state, changed.
        turns: ids of requests whose state changed; read the turn again, with its answer.
        appended: ids of requests whose answer only grew. A turn is never in both.
        drafts: ids of conversations whose draft was changed by the engine: show it in the input box.
        ended: ids of requests that just ended, the last one last, for notifications.
    """

    everything: bool = False
    connection: bool = False
    settings: bool = False
    sign_in: bool = False
    gateway: bool = False
    search: bool = False
    notices: bool = False
    list: bool = False
    current: bool = False
    exported: bool = False
    stopped: bool = False
    conversations: set[str] = field(default_factory=set)
    messages: set[str] = field(default_factory=set)
    turns: set[str] = field(default_factory=set)
    appended: set[str] = field(default_factory=set)
    drafts: set[str] = field(default_factory=set)
    ended: MutableSequence[str] = field(default_factory=lambda: [])
