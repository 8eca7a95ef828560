"""What `ask` and `chat` share: how an answer is shown while it grows, how it is stopped, and what errors mean."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self, TextIO

from answerback import __version__
from answerback.cli.options import ClientOptions
from answerback.cli.output import CliError, ExitCode, note, printable, usage_error
from answerback.client import (
    Answer,
    AnswerbackError,
    BlockingClient,
    CannotConnect,
    Connected,
    ConnectionState,
    Disconnected,
    Done,
    Event,
    Forbidden,
    Obstacle,
    PartStarted,
    PartText,
    Queued,
    RateLimited,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
    Restarted,
    Text,
    Thinking,
    Unauthorized,
    Uploading,
)
from answerback.protocol.frames import ModelInfo
from answerback.texts import names_of, spoken, unknown_language

_NOBODY_THERE: Final = frozenset({Obstacle.REFUSED, Obstacle.NAME, Obstacle.TIMEOUT, Obstacle.NETWORK})
"""Where a gateway to start, or another address, may be the way out."""
_SHORTFALLS: Final = {
    "length": "the answer was cut at its limit of tokens or bytes; see --max-tokens",
    "content_filter": "the answer was cut by the model's filter",
    "tool_calls": "the model wanted to use a tool, and this gateway has none for it",
    "other": "the model ended its answer for a reason of its own; it may not be whole",
}


def explain(error: AnswerbackError) -> CliError:
    """The client's error as this command's: one line, what to do, and the exit code."""
    message = str(error).rstrip(".")
    match error:
        case CannotConnect():
            says_what_to_do = ";" in error.reason or error.obstacle not in _NOBODY_THERE
            hint = "" if says_what_to_do else "start one with `answerback serve`, or check --url"
            return CliError(message, hint, exit_code=ExitCode.CANNOT_CONNECT)
        case Unauthorized(is_missing=True):
            hint = "pass one with --token or ANSWERBACK_TOKEN; `answerback token` makes one for development"
            return CliError("this gateway wants a token; none was given", hint)
        case Unauthorized():
            hint = "pass a fresh one with --token or ANSWERBACK_TOKEN; `answerback token` makes one for development"
            return CliError("the gateway did not accept the token", hint)
        case Forbidden():
            said = f": {error.detail}" if error.detail else ""
            return CliError(f"the gateway does not let this app in{said}", "ask its operator")
        case RequestTimeout(cause_code="unavailable"):
            message = "the gateway cannot store requests now (unavailable)"
            return CliError(message, "ask its operator", exit_code=ExitCode.TIMED_OUT)
        case RequestTimeout(cause_code=str(code)):
            return CliError(f"the gateway could not take the request in time ({code})", exit_code=ExitCode.TIMED_OUT)
        case RequestTimeout():
            hint = f"no whole answer within {error.timeout_s:g} s; the gateway was told to stop, try a longer --timeout"
            return CliError(message, hint, exit_code=ExitCode.TIMED_OUT)
        case RateLimited():
            message = "this user's requests of this minute are used up"
            return CliError(message, _when(error), exit_code=ExitCode.RATE_LIMITED)
        case RequestFailed(code="timeout"):
            return CliError(message, exit_code=ExitCode.TIMED_OUT)
        case RequestCancelled():
            return CliError("the request was cancelled")
        case _:
            return CliError(message)


def shortfall(answer: Answer) -> str | None:
    """Why a completed answer may be less than was asked for, in a line; None: it is whole."""
    reason = answer.finish_reason or ""
    if not answer.text.strip() and reason == "length":
        return "the answer has no words: its limit of tokens went into thinking; raise --max-tokens"
    if not answer.text.strip() and reason not in ("content_filter", "tool_calls"):
        return "the model ended its answer without a word; ask again, or ask another model"
    return _SHORTFALLS.get(reason)


def note_language(question: str, model: str, info: ModelInfo) -> bool:
    """Tell who asks in a language that the model does not know; to Koreans in Korean. Whether there was a need."""
    language = unknown_language(question, info.languages)
    if language is not None:
        text = (
            f"({model} knows {names_of(info.languages)} only; another: answerback serve --model openai:BASE_URL#MODEL)"
        )
        note(spoken(text, to_korean=language == "ko"))
    return language is not None


def update_wanted(least: str | None) -> str | None:
    """A line for who uses a lower version than the gateway likes to see."""
    if least is None:
        return None
    return f"this gateway wants version {least} of answerback or a later one, this is {__version__}; update it"


def wrong_input(error: ValueError) -> CliError:
    """What the client says about its arguments. Raises: UnicodeEncodeError: as it is; `main.run` tells of it."""
    if isinstance(error, UnicodeEncodeError):
        raise error
    return usage_error(str(error).rstrip("."))


@contextmanager
def connected(asked: ClientOptions, notes: "ConnectionNotes") -> Iterator[BlockingClient]:
    """A client of the gateway, which tells `notes` of its connection. Raises: CliError: what its errors mean."""
    try:
        with BlockingClient(
            asked.url, token=asked.token, user=asked.user, session=asked.session, on_state=notes.changed
        ) as client:
            yield client
    except ValueError as exc:
        raise wrong_input(exc) from exc
    except AnswerbackError as exc:
        raise explain(exc) from exc


def _when(error: RateLimited) -> str:
    if error.retry_after_ms is None:
        return "try again in the next minute"
    wait_s = -(-error.retry_after_ms // 1000)
    at = datetime.now().astimezone() + timedelta(milliseconds=error.retry_after_ms)
    return f"try again in {wait_s} s, at {at:%H:%M:%S}"


@dataclass(slots=True, kw_only=True)
class ConnectionNotes:
    """Says when the connection goes and when it is back; called on the client's own thread."""

    models: tuple[str, ...] = ()
    is_lost: bool = False

    def changed(self, state: ConnectionState) -> None:
        """One quiet line when the connection goes and one when it is back."""
        match state:
            case Connected(models=models):
                self.models = models
                if self.is_lost:
                    self.is_lost = False
                    note("(connected again)")
            case Disconnected() if self.models and not self.is_lost:
                self.is_lost = True
                note("(the connection is lost; trying again, nothing is forgotten)")
            case _:
                pass


class Interruptions:
    """Ctrl+C within this is a call of `act` between two steps, and no exception.

    One could come in the middle of a step: what was shown would then count as not shown, or the other way round. Or it
    comes in a finalizer, which Python runs at any time and which swallows it; so `act` raises nothing either. A second
    Ctrl+C within a step is raised there as KeyboardInterrupt: it may write to what takes nothing. Where Ctrl+C is
    ignored it stays so.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._is_in_step = False
        self._is_due = False

    def __enter__(self) -> Self:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        if signal.getsignal(signal.SIGINT) == self._came:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def step(self) -> Iterator[None]:
        """What Ctrl+C does not interrupt."""
        self._is_in_step = True
        try:
            yield
        finally:
            self._is_in_step = False
        if self._is_due:
            self._is_due = False
            self._act()

    def _came(self, *_: object) -> None:
        if not self._is_in_step:
            self._act()
        elif self._is_due:
            raise KeyboardInterrupt
        else:
            self._is_due = True


class AnswerPrinter:
    """Shows an answer while it comes: parts of other kinds on stderr, a line for each, and on a terminal the text.

    What was printed cannot be taken back, so a new attempt that says something else is set off from the old one.
    `shows_text` false: the text is for a pipe, which gets it when it is whole.
    """

    def __init__(self, *, shows_text: bool) -> None:
        self.shows_text: Final = shows_text
        self._shown = ""
        self._line_of: TextIO | None = None
        self._is_replay = False
        self._is_waiting = False

    def show(self, event: Event) -> None:
        match event:
            case PartStarted(_, kind, name):
                self.end()
                self._aside(f"{spoken(kind)}{f' {name}' if name else ''}: ")
            case PartText():
                self._aside(event.delta)
            case _ if self.shows_text:
                self._show_text(event)
            case _:
                self.end()

    def _show_text(self, event: Event) -> None:
        match event:
            case Queued(position=position) if position:
                self._wait(f"… {position} before this one")
            case Uploading(sent_bytes=sent, total_bytes=total) if sent < total:
                self._wait(f"… {100 * sent // total} % of the files are sent")
            case Thinking(silent_s) if not self._shown and self._line_of is None:
                self._wait(f"… thinking for {silent_s:.0f} s")
            case Restarted():
                self._is_replay = True
            case Text() if self._is_replay:
                self._replay(event.snapshot)
            case Text():
                self._write(event.delta)
            case Done(answer) if answer.text != self._shown:
                self._replay(answer.text)
            case _:
                pass

    def end(self) -> None:
        """End the line after a part, or an answer, that is over."""
        self._clear()
        if self._line_of is not None:
            print(file=self._line_of, flush=True)
            self._line_of = None

    def _replay(self, snapshot: str) -> None:
        if snapshot.startswith(self._shown):
            self._is_replay = False
            self._write(snapshot[len(self._shown) :])
        elif not self._shown.startswith(snapshot):
            self._is_replay = False
            self.end()
            note("(the gateway restarted the answer)")
            self._shown = ""
            self._write(snapshot)

    def _write(self, text: str) -> None:
        self._clear()
        if self._line_of is sys.stderr:
            self.end()
        self._shown += text
        self._line_of = None if self._shown.endswith("\n") else sys.stdout
        print(printable(text), end="", flush=True)

    def _aside(self, text: str) -> None:
        self._clear()
        self._line_of = sys.stderr
        text = printable(text)
        print(f"\x1b[2m{text}\x1b[0m" if sys.stderr.isatty() else text, end="", file=sys.stderr, flush=True)

    def _wait(self, text: str) -> None:
        if sys.stderr.isatty():
            self._is_waiting = True
            print(f"\r\x1b[2m{spoken(text)}\x1b[0m\x1b[K", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
