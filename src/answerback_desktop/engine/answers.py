"""Sends questions and follows their answers. A question and its ending are in the store before they are shown."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from answerback.client import (
    Answer,
    AnswerbackError,
    AnswerStream,
    Attachment,
    Client,
    Closed,
    Done,
    File,
    MessageTooLarge,
    PartStarted,
    PartText,
    PendingRequest,
    Queued,
    RequestCancelled,
    RequestFailed,
    Restarted,
    SendMessage,
    SessionReplaced,
    Started,
    Status,
    Text,
    Thinking,
    Uploading,
    Usage,
    clean,
)
from answerback.tasks import Tasks
from answerback_desktop.engine.events import (
    ConversationsChanged,
    DraftReturned,
    NoticeCode,
    NoticeRaised,
    TextAppended,
    TurnChanged,
    TurnsRemoved,
)
from answerback_desktop.engine.export import instant_ms
from answerback_desktop.engine.parts import WANTED, Writer, written
from answerback_desktop.records import Failure, FailureCode, Times, Turn, TurnStatus
from answerback_desktop.settings import Settings
from answerback_desktop.store.files import FileGone

if TYPE_CHECKING:
    from answerback_desktop.engine.account import AccountEngine

log = logging.getLogger("answerback.desktop")

WAIT_S: Final = 7 * 24 * 3600.0
"""A question waits in the outbox for as long as the server keeps its records; giving up is the person's."""
SILENCE_S: Final = 180.0
"""More than the server gives an answer, so that the server's own ending is what is shown."""
_CODES: Final = frozenset(FailureCode)
_SOON_MS: Final = 60_000
"""A pause up to this is for what others have reserved of a budget: it is free again before the next window."""


class Answers:
    """The questions and running answers of one account, and its client's outbox (`answerback.client.Outbox`).

    Every method may raise StoreError.
    """

    def __init__(self, account: "AccountEngine") -> None:
        self._account = account
        self._store = account.store
        self._emit = account.emit
        self._live: dict[str, LiveAnswer] = {}
        self._tasks = Tasks()

    async def close(self) -> None:
        """Stop reading answers, and write down what is shown."""
        await self._tasks.settle(grace_s=0)
        self.write()
        self._live.clear()

    def ask(
        self,
        client: Client | None,
        conversation_id: str,
        request_id: str,
        text: str,
        *,
        replaces: str | None,
        settings: Settings,
        files: Sequence[File | Attachment] = (),
    ) -> None:
        """Ask a question; if it cannot be stored, its text and files go back into the draft.

        Raises: StoreError, after that.
        """
        text = clean(text)
        if not text.strip():
            return
        system = clean(settings.system) if settings.system and settings.system.strip() else None
        returned = DraftReturned(conversation_id=conversation_id, text=text, files=own_files(files))
        try:
            kept = self._account.copies.keep(files)
            frame = SendMessage(
                request_id=request_id,
                message=text,
                stream=True,
                conversation_id=conversation_id,
                model=settings.model,
                system=system,
                max_tokens=settings.max_tokens,
                replaces=replaces,
                parts=WANTED,
                attachments=tuple(file.attachment for file in kept),
            )
            stream = None if client is None else _begin(client, frame, kept)
            if stream is None:
                self.save(PendingRequest(frame=frame, paths=tuple(file.path for file in kept)))
        except MessageTooLarge as exc:
            self._emit(returned)
            facts = {"size_bytes": exc.size_bytes, "limit_bytes": exc.limit_bytes or exc.size_bytes}
            self._emit(NoticeRaised(code=NoticeCode.MESSAGE_TOO_LARGE, facts=facts))
        except FileGone as exc:
            self._emit(returned)
            self._emit(NoticeRaised(code=NoticeCode.FILE_GONE, facts={"name": exc.name}))
        except Exception:
            self._emit(returned)
            raise
        else:
            if stream is not None:
                self.follow(stream)

    def stop(self, client: Client | None, request_id: str) -> None:
        """Stop a question. Without a client only a question that was never sent can be stopped."""
        if client is not None:
            client.cancel(request_id)
            return
        turn = self._store.turn(request_id)
        if turn is not None and turn.status is TurnStatus.OUTBOX:
            answer = Answer(text="", request_id=request_id, status=Status.CANCELLED, attempt=0)
            self.ended(request_id, RequestCancelled(answer))

    def forget_turn(self, request_id: str) -> None:
        turn = self._store.turn(request_id)
        if turn is not None and self._store.forget_turn(request_id):
            self._emit(TurnsRemoved(conversation_id=turn.conversation_id, request_ids=(request_id,)))

    def follow(self, stream: AnswerStream) -> None:
        """Follow the answer to a stored question."""
        turn = self._store.turn(stream.request_id)
        if turn is not None and not turn.status.is_over:
            self._live[turn.request_id] = LiveAnswer(turn)
            self._tasks.start(self._read(stream), name=f"answer-{turn.request_id}")

    def so_far(self, request_id: str) -> Turn | None:
        """A turn as it is shown, while it has no ending."""
        live = self._live.get(request_id)
        return None if live is None else live.turn

    def write(self) -> None:
        """Write down what is shown."""
        for request_id, live in self._live.items():
            if live.is_unsaved:
                turn = live.turn
                self._store.save_partial(request_id, attempt=turn.attempt, text=turn.answer, status=turn.status)
                live.is_unsaved = False

    async def _read(self, stream: AnswerStream) -> None:
        """What comes until the ending; the ending itself comes by way of the outbox."""
        try:
            async for event in stream.events():
                live = self._live.get(stream.request_id)
                if live is None or isinstance(event, Done):
                    return
                shown = live.receive(event)
                if shown is not None:
                    self._emit(shown)
                    self._account.write_soon()
        except AnswerbackError:
            pass  # reported by `ended`, or only this client's end

    # --- the client's outbox

    def load(self) -> Sequence[PendingRequest]:
        """Questions without an ending, in the order asked."""
        return self._store.load_outbox()

    def save(self, pending: PendingRequest) -> None:
        """A new question, or one that the server has taken. Raises: StoreError: it is not kept."""
        if pending.is_accepted:
            self._store.note_accepted(pending, TurnStatus.QUEUED)
            return
        turn, conversation, superseded = self._store.put_question(pending, now_ms=self._account.clock())
        if conversation is not None:
            self._emit(ConversationsChanged(changed=(conversation,)))
        self._account.begun(turn.conversation_id)
        for one in (*superseded, turn):
            self._emit(TurnChanged(one))

    def ended(self, request_id: str, outcome: Answer | AnswerbackError) -> None:
        """The ending and the text, in one transaction. Raises: StoreError, after it was shown."""
        before = self.so_far(request_id) or self._store.turn(request_id)
        if before is None or before.status.is_over:
            return
        now_ms = self._account.clock()
        turn = ended(before, outcome, now_ms=now_ms)
        is_unread = turn.status is not TurnStatus.CANCELLED and not self._account.is_seen(turn.conversation_id)
        returned: Sequence[Turn] = ()
        try:
            turn, returned = self._store.end(turn, is_unread=is_unread, now_ms=now_ms)
        finally:
            self._live.pop(request_id, None)
            for one in (turn, *returned):
                self._emit(TurnChanged(one))
            self._account.ended(turn.conversation_id)


def ended(turn: Turn, outcome: Answer | AnswerbackError, *, now_ms: int) -> Turn:
    """The turn with its ending."""
    over = replace(turn, position=None, answered_at_ms=now_ms, sent_percent=None)
    match outcome:
        case Answer():
            return _with_answer(replace(over, status=TurnStatus.COMPLETED), outcome)
        case RequestCancelled(answer=answer):
            return _with_answer(replace(over, status=TurnStatus.CANCELLED), answer)
        case RequestFailed():
            retry_at_ms = None if outcome.retry_after_ms is None else now_ms + outcome.retry_after_ms
            is_over_budget = outcome.reason == "budget" and outcome.retryable
            code = FailureCode.OVER_BUDGET if is_over_budget else code_of(outcome.code)
            opens_at = outcome.resets_at if is_over_budget and (outcome.retry_after_ms or 0) > _SOON_MS else None
            failure = Failure(
                code=code,
                is_retryable=outcome.retryable,
                retry_at_ms=retry_at_ms,
                opens_at_ms=None if opens_at is None else instant_ms(opens_at, now_ms),
            )
            failed = replace(over, status=TurnStatus.FAILED, failure=failure)
            return failed if outcome.answer is None else _with_answer(failed, outcome.answer)
        case _:  # RequestTimeout, MessageTooLarge, ProtocolViolation: made by the client; what is shown stays
            failure = Failure(code=code_of(outcome.code), is_retryable=outcome.retryable)
            return replace(over, status=TurnStatus.FAILED, failure=failure)


def code_of(code: str | None) -> FailureCode:
    """A word of the closed list."""
    return FailureCode(code) if code in _CODES else FailureCode.INTERNAL


def _with_answer(turn: Turn, answer: Answer) -> Turn:
    usage, timing = answer.usage, answer.timing
    return replace(
        turn,
        answer=written(answer.parts) if answer.parts else answer.text,
        attempt=answer.attempt,
        model=answer.model or turn.model,
        finish_reason=answer.finish_reason,
        tokens=None if usage is None else Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens),
        times=None
        if timing is None
        else Times(queued_ms=timing.queued_ms, first_text_ms=timing.first_text_ms, total_ms=timing.total_ms),
    )


def own_files(files: Sequence[File | Attachment]) -> tuple[File, ...]:
    """Those that the person has chosen for this very question."""
    return tuple(one for one in files if isinstance(one, File))


def _begin(client: Client, frame: SendMessage, files: Sequence[File]) -> AnswerStream | None:
    """Ask through the client; None: it takes no questions any more. Raises: MessageTooLarge, StoreError."""
    try:
        return client.stream(
            frame.message,
            conversation=frame.conversation_id,
            model=frame.model,
            system=frame.system,
            max_tokens=frame.max_tokens,
            replaces=frame.replaces,
            attachments=files,
            request_id=frame.request_id,
            parts=frame.parts or (),
            total_timeout=WAIT_S,
        )
    except MessageTooLarge:
        raise
    except AnswerbackError as exc:
        if not isinstance(exc, Closed | SessionReplaced):
            log.info("the client takes no question: %s", exc.code)
        return None


class LiveAnswer:
    """The text of one running answer, without I/O.

    After a restart of the app the stored text is shown, and the same attempt arrives from its start. The part that is
    shown already is compared, not shown twice; the first difference restarts the answer.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._parts = [turn.answer]
        self._length = len(turn.answer)
        self._writer = Writer()
        self.is_unsaved = False

    @property
    def turn(self) -> Turn:
        """The turn with all the text so far."""
        return replace(self._turn, answer=self.text)

    @property
    def text(self) -> str:
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    def receive(
        self, event: Uploading | Queued | Started | Restarted | Thinking | Text | PartStarted | PartText
    ) -> TurnChanged | TextAppended | None:
        """The events that an event of the client causes for the person."""
        match event:
            case Queued(position=position):
                if self._turn.status is TurnStatus.STREAMING:
                    return None
                return self._become(TurnStatus.QUEUED, position=position)
            case Started(attempt) if self._turn.attempt in (0, attempt):
                return self._become(TurnStatus.STREAMING, attempt=attempt)
            case Started(attempt) | Restarted(attempt):
                self._set_text("")
                self._writer = Writer()
                return self._become(TurnStatus.STREAMING, attempt=attempt)
            case Text() | PartStarted() | PartText():
                return self._take_text(self._writer.length, self._writer.take(event))
            case Uploading(sent_bytes=sent, total_bytes=total):
                percent = 100 * sent // total
                if percent == self._turn.sent_percent or self._turn.status is not TurnStatus.OUTBOX:
                    return None
                self._turn = replace(self._turn, sent_percent=percent)
                return TurnChanged(self.turn)
            case Thinking():
                return None

    def _become(self, status: TurnStatus, *, position: int | None = None, attempt: int = 0) -> TurnChanged:
        self._turn = replace(
            self._turn, status=status, position=position, attempt=attempt or self._turn.attempt, sent_percent=None
        )
        self.is_unsaved = True
        return TurnChanged(self.turn)

    def _take_text(self, offset: int, delta: str) -> TurnChanged | TextAppended | None:
        if offset != self._length:
            shown = self.text[offset : offset + len(delta)]
            if offset > self._length or not delta.startswith(shown):
                self._set_text(self._writer.text)
                return self._become(TurnStatus.STREAMING)
            delta = delta[len(shown) :]
        if not delta:
            return None
        offset = self._length
        self._parts.append(delta)
        self._length += len(delta)
        self.is_unsaved = True
        return TextAppended(
            conversation_id=self._turn.conversation_id,
            request_id=self._turn.request_id,
            attempt=self._turn.attempt,
            offset=offset,
            delta=delta,
        )

    def _set_text(self, text: str) -> None:
        self._parts = [text]
        self._length = len(text)
