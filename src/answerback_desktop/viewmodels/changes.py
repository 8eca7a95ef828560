"""What a batch of events changed, so that widgets update only that."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """New text of an answer: `turn.answer[start:end]`, in code points. Several pieces of one batch are one."""

    conversation_id: str
    request_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What has to be drawn again, where true or not empty.

    Attributes:
        everything: another account: draw everything again.
        connection, settings, sign_in, gateway, search: that view model.
        notices: there are new ones in `AppViewModel.notices`.
        list: the conversations' order or set.
        current: another conversation is shown.
        conversations: ids of conversations whose line in the list changed (title, unread, streaming, draft).
        messages: ids of conversations whose set or order of turns, or loading state, changed.
        turns: ids of requests whose state changed; read the turn again, with its answer.
        appended: answers that only grew. A turn is never in both.
        drafts: ids of conversations whose draft was changed by the engine: show it in the input box.
        ended: ids of requests that just ended, for notifications.
        exported: a text or a file for the person to save is in `AppViewModel.exported`.
        stopped: the engine has ended; the app may close.
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
    conversations: frozenset[str] = frozenset()
    messages: frozenset[str] = frozenset()
    turns: frozenset[str] = frozenset()
    appended: tuple[Appended, ...] = ()
    drafts: frozenset[str] = frozenset()
    ended: tuple[str, ...] = ()
    exported: bool = False
    stopped: bool = False


@dataclass(slots=True, kw_only=True)
class Collector:
    """Gathers the changes of a batch."""

    flags: set[str] = field(default_factory=set)
    conversations: set[str] = field(default_factory=set)
    messages: set[str] = field(default_factory=set)
    turns: set[str] = field(default_factory=set)
    drafts: set[str] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)
    _appended: dict[str, Appended] = field(default_factory=dict)

    def append(self, piece: Appended) -> None:
        """New text, joined with what came right before it."""
        before = self._appended.get(piece.request_id)
        if before is not None:
            piece = Appended(
                conversation_id=piece.conversation_id, request_id=piece.request_id, start=before.start, end=piece.end
            )
        self._appended[piece.request_id] = piece

    def finish(self) -> Changes:
        return Changes(
            **dict.fromkeys(self.flags, True),
            conversations=frozenset(self.conversations),
            messages=frozenset(self.messages),
            turns=frozenset(self.turns),
            appended=tuple(piece for piece in self._appended.values() if piece.request_id not in self.turns),
            drafts=frozenset(self.drafts),
            ended=tuple(self.ended),
        )
