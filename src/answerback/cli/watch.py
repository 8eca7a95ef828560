"""`answerback chat --watch`: a conversation as other devices go on with it."""

import sys
from itertools import islice
from typing import Final

from answerback.cli.options import ClientOptions
from answerback.cli.output import CliError, ExitCode, note, say, say_exactly
from answerback.cli.talk import AnswerPrinter, ConnectionNotes, Interruptions, connected, explain, shortfall
from answerback.client import (
    Asked,
    BlockingClient,
    BlockingWatch,
    Done,
    Failed,
    PartStarted,
    PartText,
    RequestCancelled,
    Turn,
    TurnsMissed,
    Watched,
)
from answerback.texts import spoken

_SHOWN: Final = 20
"""Turns that were there before."""


def follow(asked: ClientOptions, conversation: str | None, *, kinds: tuple[str, ...]) -> ExitCode:
    """Show what is asked in a conversation, the last one by default, until Ctrl+C twice. Raises: CliError."""
    with connected(asked, ConnectionNotes()) as client:
        if conversation is None and (last := next(iter(client.conversations()), None)) is not None:
            conversation = last.conversation_id
        if conversation is None:
            raise CliError("there is no conversation yet", "name the one that will be used, with --conversation ID")
        with client.watch(conversation) as watch:
            Follower(client, conversation, kinds, watch).run()
            if sys.stdout.isatty():
                print()
    return ExitCode.OK


class Follower:
    """One run of the command. `kinds`: the parts that are shown besides text, where a question asks for them."""

    def __init__(
        self, client: BlockingClient, conversation: str, kinds: tuple[str, ...], watch: BlockingWatch[Watched]
    ) -> None:
        self._client = client
        self._watch = watch
        self._conversation = conversation
        self._kinds = kinds
        self._open: dict[str, tuple[Asked, AnswerPrinter]] = {}  # what has no ending yet, in the order asked
        self._is_terminal = sys.stdout.isatty()
        self._shown: str | None = None  # whose answer the last line belongs to
        self._is_leaving = False

    def run(self) -> None:
        """Until Ctrl+C, twice while an answer comes: once stops it."""
        before = list(islice(self._client.history(self._conversation), _SHOWN)) if self._is_terminal else []
        known = {turn.request_id for turn in before}
        with Interruptions(self._interrupted) as interruptions:
            with interruptions.step():
                for turn in reversed(before):
                    _show_turn(turn)
                note(f"(watching {self._conversation}; Ctrl+C stops an answer, and leaves)")
                if not self._watch.is_live:
                    note("(too many devices watch this conversation: its turns are shown when they have ended)")
            for item in self._watch:
                with interruptions.step():
                    if item.request_id not in known:
                        self._take(item)

    def _interrupted(self) -> None:
        if self._is_leaving or not self._open:
            self._watch.close()
            return
        self._is_leaving = True
        note("(stopping; Ctrl+C again leaves)")
        self._client.cancel(next(iter(self._open)), conversation=self._conversation)

    def _take(self, item: Watched) -> None:
        request_id, event = item
        match event:
            case TurnsMissed():
                note("(turns before this one were missed; /history in `answerback chat` has them)")
            case Asked():
                self._open[request_id] = (event, AnswerPrinter(shows_text=self._is_terminal))
                if self._shown is None:
                    self._turn_to(request_id)
            case PartStarted() | PartText() if event.kind not in self._kinds:
                pass
            case Done() | Failed():
                self._end(request_id, event)
            case _:
                self._turn_to(request_id).show(event)

    def _turn_to(self, request_id: str) -> AnswerPrinter:
        """Show the answer to this question from here on."""
        question, growing = self._open[request_id]
        if self._shown != request_id:
            if self._shown is not None:
                self._open[self._shown][1].end()
            self._shown = request_id
            if self._is_terminal:
                _show_question(question)
        return growing

    def _end(self, request_id: str, ending: Done | Failed) -> None:
        """A pipe gets question and answer now, in one piece."""
        growing = self._turn_to(request_id)
        if isinstance(ending, Done):
            growing.show(ending)
        growing.end()
        question, _ = self._open.pop(request_id)
        self._shown, self._is_leaving = None, False
        answer = ending.answer if isinstance(ending, Done) else getattr(ending.error, "answer", None)
        if not self._is_terminal:
            _show_question(question)
            if answer is not None and answer.text:
                say_exactly(answer.text)
        match ending:
            case Done(answer):
                if (why := shortfall(answer)) is not None:
                    note(f"({why})")
            case Failed(RequestCancelled()):
                note("(stopped)")
            case Failed(error):
                note(f"({explain(error)})")
        if self._open:
            self._turn_to(next(iter(self._open)))


def _show_question(question: Asked) -> None:
    say(f"> {question.question}{'…' if question.is_cut else ''}")


def _show_turn(turn: Turn) -> None:
    say(f"> {turn.question}")
    say(turn.answer or spoken(f"({turn.status})"))
