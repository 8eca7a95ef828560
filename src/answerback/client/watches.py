"""What a session watches: conversations in which other sessions of the user ask, and the list of conversations.

Theory of operation. `watch` goes out on every connection and every few minutes, with what is held of each answer that
has no ending. `watching` says that it holds. Then the history is read, unless its newest turn is known. So a turn is
shown live or found there, and is given out once (rule: watch, then history). An answer begins
with `messageAsked` of a conversation that is watched now, and with nothing else. Its ending, a turn in the history, or
a long silence ends it. Only the newest `watch` counts: `number` tells its answer from that of an older one.
"""

from typing import Final

from answerback.client.calls import Calls
from answerback.client.effects import Effect, Note, Reply, ReplyFailed, Send, Show, WatchFailed, WatchHeld
from answerback.client.errors import AnswerbackError, ProtocolViolation, RequestFailed, RequestTimeout, request_failed
from answerback.client.events import (
    Answer,
    Asked,
    ChangesMissed,
    Done,
    Failed,
    Thinking,
    TurnsMissed,
    Watched,
    WatchEvent,
    outcome_of,
)
from answerback.client.paging import TurnPages
from answerback.client.questions import Questions
from answerback.client.timing import Timing
from answerback.client.watch_state import PAGE, Followed, WatchState, asked, asked_in, frames_of, remember
from answerback.core.assembly import AnswerFrame, Broken, Ended, Missing
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import (
    ConversationChanged,
    Error,
    GetHistory,
    History,
    MessageAsked,
    MessageProgress,
    MessageResponse,
    Watching,
    Welcome,
)

FEATURE: Final = "watch"
_NO_WATCHING: Final = (
    "This server does not show answers to other devices. Its operator may have to upgrade it, or to allow watchers."
)


def unsupported() -> RequestFailed:
    """The error of a server that cannot be watched."""
    return request_failed(ErrorCode.FORBIDDEN, _NO_WATCHING)


class Watches:
    """Pure; `Session` drives it. What is to be done goes to `effects`, the session's list."""

    def __init__(self, *, timing: Timing, questions: Questions, effects: list[Effect], can_renew: bool) -> None:
        self._timing = timing
        self._can_renew = can_renew
        self._questions = questions
        self._effects = effects
        self._calls = Calls(timing)
        self._watches: dict[str | None, WatchState] = {}
        self._answers: dict[str, WatchState] = {}
        self._past: dict[str, None] = {}
        """Requests that were asked here while anything was watched, or shown: what still comes of them is no news."""
        self._numbers = 0
        self._is_open = False
        self._patience_s = timing.queue_wait_s
        self._probe_after_s = timing.silence_s

    def __contains__(self, conversation_id: str | None) -> bool:
        return conversation_id in self._watches

    @property
    def is_open(self) -> bool:
        """Whether there is a connection on which the server has said that it can be watched."""
        return self._is_open

    def due_at(self) -> float | None:
        """When to call `tick`: may be early, never late."""
        due = self._calls.due_at()
        for watch in self._watches.values() if self._is_open else ():
            for instant in (watch.send_at, *(self._gives_up_at(one) for one in watch.answers.values())):
                if instant is not None and (due is None or instant < due):
                    due = instant
        return due

    # --- what the application wants ---------------------------------------------------------------------

    def watch(self, conversation_id: str | None, *, after: str | None, now: float) -> None:
        """Watch a conversation, or the list."""
        watch = WatchState(
            conversation_id=conversation_id,
            known=dict.fromkeys(
                one.request_id for one in self._questions if conversation_id in (one.key, one.conversation_id)
            ),
            has_begun=False,
            floor=None,
            is_unsettled=after is not None,
        )
        if after is not None:
            watch.begin(after)
        self._watches[conversation_id] = watch
        if self._is_open:
            self._send(watch, now)

    def unwatch(self, conversation_id: str | None) -> None:
        """Watch it no longer. Nothing of it is kept."""
        if (watch := self._forget(conversation_id)) is not None and self._is_open:
            self._numbers += 1
            self._effects.append(Send(watch.frame(self._numbers, off=True)))

    def so_far(self, conversation_id: str | None) -> list[Watched]:
        """What another reader of something that is watched already is to be shown first."""
        watch = self._watches.get(conversation_id)
        shown: list[Watched] = []
        for request_id, followed in ({} if watch is None else watch.answers).items():
            shown.append(Watched(request_id, followed.asked))
            shown += [Watched(request_id, event) for event in followed.assembly.so_far()]
        return shown

    def cancel(self, request_id: str, conversation_id: str, *, now: float) -> None:
        """Stop a request that another session has asked. Repeated until the server says how it ended."""
        self._take(self._calls.request_stop(request_id, conversation_id, now=now), now)

    def asked_here(self, request_id: str, conversation_id: str | None) -> None:
        """This session has asked it, so its turn is not news."""
        if self._watches:
            remember(request_id, self._past)
        if conversation_id is not None and (watch := self._watches.get(conversation_id)) is not None:
            watch.know(request_id)

    # --- connections ------------------------------------------------------------------------------------

    def opened(self, welcome: Welcome, *, now: float) -> None:
        """The server has greeted on a new connection: it is told again what is watched."""
        if FEATURE not in welcome.features:
            self.stop(unsupported())
            return
        self._is_open = True
        limits, models = welcome.limits, welcome.model_info.values()
        answer_ms = max([limits.answer_timeout_ms, *(info.answer_timeout_ms or 0 for info in models)])
        self._patience_s = (limits.queue_timeout_ms + answer_ms) / 1000 + self._timing.stream_silence_s
        self._probe_after_s = max(self._timing.silence_s, 1.5 * (limits.progress_ms or 0) / 1000)
        self._take(self._calls.opened(now=now), now)
        for watch in self._watches.values():
            for followed in watch.answers.values():
                followed.heard_at = now
            watch.pause_s = watch.gap_pause_s = 0.0
            self._send(watch, now)

    def lost(self) -> None:
        """There is no connection any more."""
        self._is_open = False
        self._calls.lost()
        for watch in self._watches.values():
            self._stop_reading(watch)

    def stop(self, error: AnswerbackError) -> None:
        """All of it is over."""
        self._calls.stop(error)
        for conversation_id in list(self._watches):
            self._fail(conversation_id, error)

    # --- frames -----------------------------------------------------------------------------------------

    def take(self, frame: Watching | ConversationChanged | History, *, now: float) -> None:
        """A frame that may be about something that is watched."""
        match frame:
            case Watching():
                self._held(frame, now)
            case ConversationChanged() if None in self._watches:
                self._effects.append(Show(None, frame))
            case History():
                self._take(self._calls.answered(frame), now)
            case _:
                pass

    def asked(self, frame: MessageAsked, *, now: float) -> None:
        """Another session has asked something in a conversation: the one frame that opens an answer."""
        watch = self._watches.get(frame.conversation_id)
        if watch is None or frame.request_id in watch.known:
            return
        if frame.request_id not in watch.answers:
            self._open(watch, asked(frame), now)
        self._heard(watch, frame.request_id, now)
        if watch.is_unsettled and frame.request_id in watch.answers:
            self._want(watch, now)  # its ending may have come before it

    def answered(self, frame: AnswerFrame | MessageProgress, *, now: float) -> None:
        """A frame about a request that this session has not asked; it counts if that is shown now."""
        if isinstance(frame, MessageResponse):
            self._calls.ending_received(frame.request_id)
        if (watch := self._answers.get(frame.request_id)) is None:
            for one in self._watches.values():
                one.is_unsettled = one.has_begun
                if frame.request_id not in self._past:
                    one.miss(frame.request_id)
            return
        followed = watch.answers[frame.request_id]
        if not isinstance(frame, MessageProgress):
            self._feed(watch, followed, frame, now)
        elif frame.attempt >= max(1, followed.assembly.attempt):
            self._show(watch, frame.request_id, Thinking(frame.silent_ms / 1000))
        self._heard(watch, frame.request_id, now)

    def refused(self, error: Error, *, now: float) -> bool:
        """An error; whether it is about something that is watched."""
        for watch in self._watches.values():
            if error.request_id == watch.request_id and watch.is_out:
                self._refused(watch, error, now)
                return True
        if (effects := self._calls.refused(error, now=now)) is not None:
            self._take(effects, now)
        elif error.code is ErrorCode.UNKNOWN_REQUEST and error.request_id in self._answers:
            watch = self._answers[error.request_id]
            watch.answers[error.request_id].is_lost = True
            self._read(watch, now)
        else:
            return False
        return True

    def broken(self, request_id: str, error: ProtocolViolation, *, now: float) -> bool:
        """A frame that cannot be read; whether it is about something that is watched."""
        if (watch := self._answers.get(request_id)) is not None:
            self._end(watch, request_id, Failed(error))
            return True
        for watch in self._watches.values():
            if request_id == watch.request_id and watch.is_out:
                self._fail(watch.conversation_id, error)
                return True
        effects = self._calls.broken(request_id, error)
        self._take(effects or [], now)
        return effects is not None

    def tick(self, *, now: float) -> None:
        """Do what is due by now."""
        self._take(self._calls.tick(now=now), now)
        for watch in self._watches.values() if self._is_open else ():
            for request_id, followed in list(watch.answers.items()):
                if now >= self._gives_up_at(followed):
                    error = RequestTimeout(request_id, self._patience_s, followed.assembly.text)
                    self._end(watch, request_id, Failed(error))
            if watch.send_at is not None and now >= watch.send_at:
                watch.pause_s = min(self._timing.probe_max_s, watch.pause_s * 2)
                self._send(watch, now)

    # --- asking the server ------------------------------------------------------------------------------

    def _gives_up_at(self, followed: Followed) -> float:
        return followed.heard_at + self._patience_s

    def _send(self, watch: WatchState, now: float) -> None:
        self._numbers += 1
        self._effects.append(Send(watch.frame(self._numbers)))
        watch.is_out, watch.wants_more = True, False
        watch.pause_s = max(self._timing.silence_s, watch.pause_s)
        watch.send_at = now + watch.pause_s
        watch.renew_at = now + self._timing.renew_watch_s

    def _held(self, frame: Watching, now: float) -> None:
        """The server has answered a `watch`; it counts if that was the newest."""
        watch = self._watches.get(frame.conversation_id)
        if watch is None or frame.number != watch.number or not watch.is_out:
            return
        watch.is_out, watch.was_held, watch.is_refused = False, True, False
        self._effects.append(WatchHeld(watch.conversation_id, is_live=True))
        if not watch.has_begun:
            watch.begin(frame.turn)
            watch.is_unsettled = watch.conversation_id is None
        self._look_back(watch, frame.turn, now)
        if watch.wants_more:
            self._want(watch, now)
        else:
            self._schedule(watch, now)

    def _schedule(self, watch: WatchState, now: float) -> None:
        """When to ask again. An answer that is silent may have ended without a word that arrived."""
        watch.send_at = min(watch.renew_at, now + watch.pause_s) if watch.answers else watch.renew_at

    def _heard(self, watch: WatchState, request_id: str, now: float) -> None:
        if (followed := watch.answers.get(request_id)) is not None:
            followed.heard_at = now
        if self._is_open and not watch.is_out and not watch.gap_pause_s:
            watch.pause_s = self._probe_after_s
            self._schedule(watch, now)

    def _want(self, watch: WatchState, now: float) -> None:
        """Text is missing: ask for it at once; while that brings nothing, with growing pauses."""
        if watch.is_out:
            watch.wants_more = True
        elif self._is_open:
            pause_s = watch.gap_pause_s
            watch.gap_pause_s = min(self._timing.silence_s, max(self._timing.backoff_min_s, pause_s * 2))
            if pause_s:
                watch.send_at = now + pause_s
            else:
                self._send(watch, now)

    def _refused(self, watch: WatchState, error: Error, now: float) -> None:
        watch.is_refused = True
        if error.code is ErrorCode.UNAUTHORIZED and watch.was_held and self._can_renew:
            self._effects.append(WatchHeld(watch.conversation_id, is_live=False))
            watch.is_out, watch.is_unsettled = False, True
            watch.send_at = now + watch.pause_s
            return
        if not ERRORS[error.code].retryable:
            self._fail(watch.conversation_id, request_failed(error.code, error.message))
            return
        watch.is_unsettled = True
        is_full = error.code is ErrorCode.OVERLOADED
        pause_s = self._timing.full_watch_s if is_full else self._timing.resend_s
        watch.is_out = False
        watch.send_at = now + (pause_s if error.retry_after_ms is None else error.retry_after_ms / 1000)
        if is_full:  # it is shown the turns when they have ended
            if watch.has_begun or watch.conversation_id is None:
                self._effects.append(WatchHeld(watch.conversation_id, is_live=False))
            self._look_back(watch, None, now)

    # --- the history ------------------------------------------------------------------------------------

    def _look_back(self, watch: WatchState, turn: str | None, now: float) -> None:
        """Find out what ended without being shown. `turn`: the newest one in the history, as far as it is told."""
        if watch.conversation_id is None:
            if watch.is_unsettled:
                self._effects.append(Show(None, ChangesMissed()))
            watch.is_unsettled = False
        elif (
            watch.is_unsettled
            or (turn is not None and turn not in watch.settled)
            or any(now - one.heard_at >= self._timing.probe_max_s for one in watch.answers.values())
        ):
            self._read(watch, now)

    def _read(self, watch: WatchState, now: float) -> None:
        if watch.conversation_id is None or not self._is_open:
            return
        if watch.pages is None:
            watch.pages = TurnPages(watch.conversation_id)
            self._read_page(watch, watch.pages, now)
        else:
            watch.reads_again = True

    def _read_page(self, watch: WatchState, pages: TurnPages, now: float) -> None:
        self._numbers += 1
        watch.page_id = f"turns-{self._numbers}"
        frame = GetHistory(
            request_id=watch.page_id,
            conversation_id=pages.conversation_id,
            before=pages.before,
            limit=PAGE,
            superseded=True,
            parts=True,
        )
        self._take(self._calls.call(watch.page_id, frame, timeout_s=self._timing.call_timeout_s, now=now), now)

    def _stop_reading(self, watch: WatchState) -> None:
        """It is read from the start at the next `watching`."""
        self._calls.drop(watch.page_id)
        watch.pages, watch.page_id, watch.reads_again = None, "", False
        watch.found.clear()
        watch.is_unsettled = watch.is_unsettled or watch.has_begun

    def _take(self, effects: list[Effect], now: float) -> None:
        """What the calls made here want, and what they bring."""
        for effect in effects:
            match effect:
                case Reply(page_id, frame):
                    watch = next((one for one in self._watches.values() if one.page_id == page_id), None)
                    if watch is not None and watch.pages is not None and isinstance(frame, History):
                        self._take_page(watch, watch.pages, frame, now)
                case ReplyFailed(page_id):
                    for watch in self._watches.values():
                        if watch.page_id == page_id:
                            self._stop_reading(watch)
                case _:
                    self._effects.append(effect)

    def _take_page(self, watch: WatchState, pages: TurnPages, page: History, now: float) -> None:
        try:
            watch.found += pages.take(page)
        except ProtocolViolation as error:
            self._effects.append(Note(str(error)))
            self._stop_reading(watch)
            return
        if watch.has_begun and not watch.has_found_enough():
            self._read_page(watch, pages, now)
            return
        self._give_out(watch, now)
        watch.settled = frozenset(turn.request_id for turn in watch.found)
        reads_again = watch.reads_again
        self._stop_reading(watch)
        watch.is_unsettled = watch.is_refused  # what ends until it is held may stand before the newest turn
        if reads_again:
            self._read(watch, now)

    def _give_out(self, watch: WatchState, now: float) -> None:
        """Show what was found, oldest first, and end what is shown already."""
        if not watch.has_begun:
            watch.begin(watch.found[0].request_id if watch.found else None)
            # Not before: the application then reads the history, and these turns are not shown to it.
            self._effects.append(WatchHeld(watch.conversation_id, is_live=False))
        news, has_more = watch.news()
        if news and has_more:
            self._show(watch, news[-1].request_id, TurnsMissed())
        fresh = {turn.request_id for turn in news}
        for turn in reversed(watch.found):
            request_id = turn.request_id
            if request_id in fresh and request_id not in watch.answers:
                self._open(watch, asked_in(turn, watch.conversation_id or ""), now)
            if (followed := watch.answers.get(request_id)) is None:
                watch.know(request_id)
                continue
            for frame in frames_of(turn, followed.assembly):
                if request_id in watch.answers:
                    self._feed(watch, followed, frame, now)
        for request_id in [request_id for request_id, one in watch.answers.items() if one.is_lost]:
            error = request_failed(ErrorCode.UNKNOWN_REQUEST, request_id=request_id)
            self._end(watch, request_id, Failed(error))

    # --- answers ----------------------------------------------------------------------------------------

    def _open(self, watch: WatchState, question: Asked, now: float) -> None:
        if question.request_id in self._answers or self._questions.get(question.request_id) is not None:
            return  # it is of another conversation, or this session has asked it
        remember(question.request_id, self._past)
        watch.answers[question.request_id] = Followed(asked=question, heard_at=now)
        self._answers[question.request_id] = watch
        self._show(watch, question.request_id, question)

    def _feed(self, watch: WatchState, followed: Followed, frame: AnswerFrame, now: float) -> None:
        assembly = followed.assembly
        before = (assembly.attempt, assembly.length)
        for event in assembly.receive(frame):
            match event:
                case Ended():
                    outcome = outcome_of(event, watch.conversation_id)
                    ending = Done(outcome) if isinstance(outcome, Answer) else Failed(outcome)
                    self._end(watch, frame.request_id, ending)
                case Broken():
                    self._end(watch, frame.request_id, Failed(ProtocolViolation(frame.request_id, event.detail)))
                case Missing():
                    if isinstance(frame, MessageResponse) and not assembly.length:
                        self._read(watch, now)  # one that is not streamed and failed has its text nowhere else
                    else:
                        self._want(watch, now)
                    return
                case _:
                    self._show(watch, frame.request_id, event)
        if (assembly.attempt, assembly.length) != before:
            watch.gap_pause_s = 0.0
            watch.wants_more &= any(one.assembly.lacks_text for one in watch.answers.values())

    def _end(self, watch: WatchState, request_id: str, ending: Done | Failed) -> None:
        del watch.answers[request_id], self._answers[request_id]
        watch.know(request_id)
        self._show(watch, request_id, ending)

    def _show(self, watch: WatchState, request_id: str, event: WatchEvent) -> None:
        self._effects.append(Show(watch.conversation_id, Watched(request_id, event)))

    def _fail(self, conversation_id: str | None, error: AnswerbackError) -> None:
        self._forget(conversation_id)
        self._effects.append(WatchFailed(conversation_id, error))

    def _forget(self, conversation_id: str | None) -> WatchState | None:
        if (watch := self._watches.pop(conversation_id, None)) is not None:
            self._calls.drop(watch.page_id)
            for request_id in watch.answers:
                del self._answers[request_id]
        return watch
