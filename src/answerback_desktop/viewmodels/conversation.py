"""One conversation: its line in the list, and its turns as far as they are loaded."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from answerback.client import Attachment, File
from answerback_desktop.engine.events import TextAppended, TurnsLoaded
from answerback_desktop.engine.export import ExportFormat
from answerback_desktop.records import Conversation, Traits, Turn, TurnStatus
from answerback_desktop.viewmodels.changes import Changes
from answerback_desktop.viewmodels.connection import Countdown

if TYPE_CHECKING:
    from answerback_desktop.engine.engine import Engine


class TurnViewModel:
    """One question and its answer. Read it; only `ConversationViewModel` changes it.

    `record`: all that is known of it; its text may be older than `answer`.
    `versions`: the ids of its earlier versions, of itself and of its later ones, oldest first; `version`: its place
    among them.
    `answer` only grows while `revision` stays; when `revision` has risen, the text is another one (a new attempt).
    Markdown, untrusted.
    """

    def __init__(self, record: Turn) -> None:
        self.record = record
        self._parts: list[str] = []
        self._text: str | None = record.answer
        self.length = len(record.answer)
        self.revision = 0
        self.versions: tuple[str, ...] = (record.request_id,)
        self.version = 0
        self._countdown = _countdown_of(record)

    @property
    def request_id(self) -> str:
        return self.record.request_id

    @property
    def question(self) -> str:
        """What was asked, as it was typed."""
        return self.record.question

    @property
    def status(self) -> TurnStatus:
        return self.record.status

    @property
    def answer(self) -> str:
        if self._text is None:
            self._parts = ["".join(self._parts)]
            self._text = self._parts[0]
        return self._text

    @property
    def is_cut(self) -> bool:
        """The answer ended at a limit, not by itself."""
        return self.record.finish_reason == "length"

    @property
    def can_retry(self) -> bool:
        """Whether `retry` makes sense: there is no whole answer, and asking again may help."""
        if self.status is TurnStatus.CANCELLED or (self.status is TurnStatus.COMPLETED and not self.length):
            return True
        return self.record.failure is not None and self.record.failure.is_retryable

    @property
    def retry_in_s(self) -> int | None:
        """Seconds until asking again makes sense; None: it does not."""
        if not self.can_retry:
            return None
        return 0 if self._countdown is None else self._countdown.left_s

    # --- by the conversation ------------------------------------------------------------------------------

    def take(self, turn: Turn) -> bool:
        """Take a new state; returns whether it differs."""
        text = self.answer
        if text == turn.answer and replace(self.record, answer=text) == turn:
            return False
        if not turn.answer.startswith(text):
            self.revision += 1
        if turn.failure != self.record.failure:
            self._countdown = _countdown_of(turn)
        self.record = turn
        self._parts = [turn.answer]
        self._text = turn.answer
        self.length = len(turn.answer)
        return True

    def append(self, offset: int, delta: str) -> bool:
        """Text at `offset`, of which some may be there already; whether it was taken: it is new, and leaves no gap."""
        known = self.length - offset
        if known < 0 or known >= len(delta):
            return False
        if self._text is not None:
            self._parts = [self._text]
            self._text = None
        self._parts.append(delta[known:])
        self.length += len(delta) - known
        return True


def _countdown_of(turn: Turn) -> Countdown | None:
    """To when it may be asked again. Its length is known even if the clock was set since it failed."""
    at_ms = None if turn.failure is None else turn.failure.retry_at_ms
    if at_ms is None:
        return None
    return Countdown(at_ms, longest_ms=None if turn.answered_at_ms is None else at_ms - turn.answered_at_ms)


class ConversationViewModel:
    """Read its attributes; what a person does are its methods.

    `record` None: begun here, nothing asked yet (its title is ""). `messages`: the loaded turns, oldest first, in the
    versions chosen; none until `open` was called and the first page came (`is_loading` until then). `files` go with the
    next question. `edits`: by request id, questions that were changed and not asked again; `open_edits` are those whose
    editor is open.
    """

    def __init__(self, conversation_id: str, record: Conversation | None, commands: "Engine") -> None:
        self.conversation_id = conversation_id
        self.record = record
        self.draft = ""
        self.files: tuple[File, ...] = ()
        self.edits: dict[str, str] = {}
        self.open_edits: set[str] = set()
        self.traits = Traits()
        self.is_loading = False
        self.is_loaded = False
        self.has_more = False
        self._commands = commands
        self._turns: dict[str, TurnViewModel] = {}
        self.messages: list[TurnViewModel] = []
        self._pending: dict[str, TurnStatus] = {}
        self._chosen: dict[str, str] = {}

    # --- its line in the list

    @property
    def title(self) -> str:
        """From its first question until it is renamed; "" for one that nothing was asked in."""
        return "" if self.record is None else self.record.title

    @property
    def updated_at_ms(self) -> int | None:
        """Epoch; None: nothing asked yet."""
        return None if self.record is None else self.record.updated_at_ms

    @property
    def unread(self) -> int:
        """Answers that ended unseen."""
        return 0 if self.record is None else self.record.unread

    @property
    def is_streaming(self) -> bool:
        """Whether an answer is coming in now."""
        return TurnStatus.STREAMING in self._pending.values()

    @property
    def is_accepted(self) -> bool:
        """Whether the server has taken a question that it still owes the ending of."""
        return any(status is not TurnStatus.OUTBOX for status in self._pending.values())

    @property
    def pending(self) -> int:
        """Questions without an ending."""
        return len(self._pending)

    @property
    def unsent(self) -> int:
        """Of these, the ones that the server has not taken yet."""
        return sum(status is TurnStatus.OUTBOX for status in self._pending.values())

    @property
    def has_draft(self) -> bool:
        """Whether something was typed and not sent."""
        return bool(self.draft.strip())

    def turn(self, request_id: str) -> TurnViewModel | None:
        return self._turns.get(request_id)

    # --- what a person does

    def open(self) -> None:
        """Load the newest page, and ask the server for more."""
        if not self.is_loading:
            self.is_loading = not self.is_loaded
            self._commands.open_conversation(self.conversation_id)

    def load_more(self) -> None:
        """Load the page before the oldest turn."""
        if self.has_more and not self.is_loading and self.messages:
            self.is_loading = True
            self._commands.load_more(self.conversation_id, self.messages[0].request_id)

    def ask(self, text: str) -> str | None:
        """Ask a question, with `files`; empty text asks nothing. The draft is cleared. Returns the request id."""
        request_id = self._ask(text, None, self.files)
        if request_id is not None:
            self.set_draft("")
            self.files = ()
        return request_id

    def edit_and_resend(self, request_id: str, text: str) -> str | None:
        """Ask `text` in place of this turn and of all after it, with the files of this turn."""
        turn = self._turns.get(request_id)
        asked = self._ask(text, request_id, () if turn is None else turn.record.attachments)
        if asked is not None:
            self.set_edit(request_id, None)
        return asked

    def set_edit(self, request_id: str, text: str | None) -> None:
        """What is in the editor of a question; None, or the question itself: it was not changed."""
        turn = self._turns.get(request_id)
        kept = "" if text is None or (turn is not None and text == turn.question) else text
        if kept != self.edits.get(request_id, ""):
            self.edits[request_id] = kept
            self._commands.save_edit(self.conversation_id, request_id, kept)
        if not kept:
            self.edits.pop(request_id, None)

    def show_version(self, request_id: str, step: int) -> str | None:
        """Show an earlier (-1) or later (1) version of a turn, with what followed it. Returns its id; None: no such."""
        turn = self._turns.get(request_id)
        if turn is None or not 0 <= (at := turn.version + step) < len(turn.versions):
            return None
        self._chosen[turn.versions[-1]] = turn.versions[at]
        self._arrange()
        return turn.versions[at]

    def set_traits(self, **changed: bool | tuple[str, ...] | str | None) -> None:
        """Change some of `Traits`."""
        self._commands.set_traits(self.conversation_id, replace(self.traits, **changed))  # type: ignore[arg-type]

    def regenerate(self, request_id: str) -> str | None:
        """Ask the same again, in place of this turn and of all after it."""
        turn = self._turns.get(request_id)
        return None if turn is None else self._ask(turn.question, request_id, turn.record.attachments)

    def retry(self, *request_ids: str) -> str | None:
        """Ask questions again that failed or were stopped, each once; turns after them stay. Returns the last's id."""
        found = (self._turns.get(request_id) for request_id in request_ids)
        turns = [turn for turn in found if turn is not None and turn.can_retry]
        if not turns:
            return None
        is_end = turns == self.messages[-len(turns) :]
        asked, replaces = None, turns[0].request_id if is_end else None
        for question, files in dict.fromkeys((turn.question, turn.record.attachments) for turn in turns):
            asked, replaces = self._ask(question, replaces, files), None
        for turn in turns if not is_end else ():
            self._commands.forget_turn(turn.request_id)
        return asked

    def stop(self, request_id: str) -> None:
        self._commands.stop(request_id)

    def stop_all(self) -> None:
        """Stop every answer of this conversation."""
        for request_id in self._pending:
            self._commands.stop(request_id)

    def set_draft(self, text: str) -> None:
        """What is in the input box; call it on every change, the engine writes it down in good time."""
        if text != self.draft:
            self.draft = text
            self._commands.save_draft(self.conversation_id, text)

    def rename(self, title: str) -> None:
        """Give it a title; an empty one is ignored."""
        title = " ".join(title.split())
        if title:
            self._commands.rename(self.conversation_id, title)

    def delete(self) -> None:
        """Take it off the list; `AppViewModel.undo_delete` brings it back for a while."""
        self.files = ()
        self._commands.delete(self.conversation_id)

    def export(self, form: ExportFormat) -> None:
        """`AppViewModel.exported` follows."""
        self._commands.export(self.conversation_id, form)

    def _ask(self, text: str, replaces: str | None, files: Sequence[File | Attachment]) -> str | None:
        if not text.strip():
            return None
        self._chosen.clear()  # what is asked follows the newest version
        request_id = str(uuid.uuid4())
        self._commands.ask(self.conversation_id, request_id, text, replaces=replaces, files=files)
        return request_id

    # --- by the app -----------------------------------------------------------------------------------------

    def take_page(self, event: TurnsLoaded, changes: Changes) -> None:
        """A page came. The first one also says what is not there any more."""
        self.is_loading = False
        self.is_loaded = True
        self.has_more = event.has_more
        for turn in event.turns:
            self._merge(turn, changes)
        self._arrange()
        changes.messages.add(self.conversation_id)

    def take_turn(self, turn: Turn, changes: Changes) -> None:
        """Add or update a turn."""
        was = self._pending.get(turn.request_id)
        self.note_pending(turn)
        if was is not self._pending.get(turn.request_id):
            changes.conversations.add(self.conversation_id)
            if was is not None and turn.status.is_over:
                changes.ended.append(turn.request_id)
        if not self.is_loaded:
            return
        known = self._turns.get(turn.request_id)
        before = None if known is None else (known.record.order, known.record.superseded_by)
        self._merge(turn, changes)
        if before != (turn.order, turn.superseded_by):
            shown = list(self.messages)
            changes.turns.update(self._arrange())
            if shown != self.messages:
                changes.messages.add(self.conversation_id)

    def take_text(self, event: TextAppended, changes: Changes) -> None:
        turn = self._turns.get(event.request_id)
        if turn is not None and turn.append(event.offset, event.delta):
            changes.appended.add(event.request_id)

    def remove_turns(self, request_ids: Iterable[str], changes: Changes) -> None:
        for request_id in request_ids:
            if self._pending.pop(request_id, None) is not None:
                changes.conversations.add(self.conversation_id)
            if self._turns.pop(request_id, None) is not None:
                changes.messages.add(self.conversation_id)
        changes.turns.update(self._arrange())

    def note_pending(self, turn: Turn) -> None:
        """Count it, if it is not over."""
        if turn.status.is_over:
            self._pending.pop(turn.request_id, None)
        else:
            self._pending[turn.request_id] = turn.status

    def _merge(self, turn: Turn, changes: Changes) -> None:
        known = self._turns.get(turn.request_id)
        if known is None:
            self._turns[turn.request_id] = TurnViewModel(turn)
        elif known.take(turn):
            changes.turns.add(turn.request_id)
        self.note_pending(turn)

    # --- versions

    def _arrange(self) -> list[str]:
        """Order the turns, and of each the version that was chosen. Returns those of which a version came or went."""
        turns = sorted(self._turns.values(), key=lambda one: one.record.order)
        later: dict[str | None, list[TurnViewModel]] = {}
        for turn in turns:
            later.setdefault(turn.record.superseded_by, []).append(turn)
        before = {turn.request_id: turn.versions for turn in self.messages}
        self.messages = list(self._shown(later.get(None, []), later))
        return [one.request_id for one in self.messages if before.get(one.request_id, one.versions) != one.versions]

    def _shown(
        self, turns: list[TurnViewModel], later: dict[str | None, list[TurnViewModel]], *, is_old: bool = False
    ) -> Iterator[TurnViewModel]:
        """These turns; where an earlier version was chosen, that one and what followed it. `is_old`: the first one is
        a version that was chosen.
        """
        for number, turn in enumerate(turns):
            if is_old and number == 0:
                yield turn
                continue
            branches = self._branches(turn, later)
            heads = [*(branch[0] for branch in branches), turn]
            names = tuple(head.request_id for head in heads)
            for at, head in enumerate(heads):
                head.versions, head.version = names, at
            chosen = self._chosen.get(turn.request_id)
            if chosen in names[:-1]:
                yield from self._shown(branches[names.index(chosen)], later, is_old=True)
                return
            yield turn

    @staticmethod
    def _branches(turn: TurnViewModel, later: dict[str | None, list[TurnViewModel]]) -> list[list[TurnViewModel]]:
        """The earlier versions of a turn, oldest first, each with the turns that followed it."""
        branches: list[list[TurnViewModel]] = []
        seen = {turn.request_id}
        newer = turn
        while (branch := later.get(newer.request_id)) and branch[0].request_id not in seen:
            newer = branch[0]
            seen.add(newer.request_id)
            # A try that brought nothing is no version.
            if newer.answer or len(branch) > 1 or newer.question != turn.question:
                branches.append(branch)
        return branches[::-1]
