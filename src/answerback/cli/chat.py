"""`answerback chat`: a conversation in the terminal: lines in, answers out, and commands that begin with a slash."""

import shlex
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BufferedReader, TextIOWrapper
from itertools import islice
from typing import Annotated, Final

import typer

from answerback.cli.options import DEFAULT_URL, ClientOptions, Encoding, PromptOptions, with_options
from answerback.cli.output import ExitCode, note, say, say_exactly, usage_error
from answerback.cli.reading import STDIN_HINT, checked, decode, not_text, typed
from answerback.cli.talk import (
    AnswerPrinter,
    ConnectionNotes,
    Interruptions,
    connected,
    explain,
    note_language,
    shortfall,
    update_wanted,
)
from answerback.cli.watch import follow
from answerback.client import (
    Answer,
    AnswerbackError,
    BlockingClient,
    Closed,
    RequestCancelled,
    SessionReplaced,
    Unauthorized,
)
from answerback.client.blocking import BlockingAnswerStream
from answerback.protocol.frames import ConversationSummary
from answerback.texts import spoken
from answerback.texts.encodings import MARK_BYTES, encoding_of


@with_options
def chat(
    *,
    asked: ClientOptions,
    conversation: Annotated[
        str | None, typer.Option("--conversation", "-c", help="Go on with this one.  [default: a new one]")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Go on with the conversation used last.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Only show what is asked there on other devices.")] = False,
    prompt: PromptOptions,
    encoding: Encoding = None,
) -> int:
    """Talk with a model; it remembers what was said before in the conversation.

    Ctrl+C stops the running answer, twice leaves; /help lists what else there is. The conversation is kept by the
    gateway: --conversation ID goes on with it from any machine. In a pipe each line is a question, and stdout has the
    answers.

    With --watch nothing is asked here. What other devices ask in the conversation, the one used last if none is named,
    is shown with its answer while that comes.
    """
    if last and conversation is not None:
        raise usage_error("--last and --conversation are two different ones", "keep one of them")
    if watch:
        if any((prompt.model, prompt.system, prompt.max_tokens, encoding)):
            raise usage_error("--watch asks nothing", "leave out --model, --system, --max-tokens and --encoding")
        return follow(asked, conversation, kinds=prompt.parts)
    return run_chat(asked, prompt, conversation, use_last=last, encoding=encoding)


def _prepare_stdin(encoding: str | None) -> None:
    """A pipe is read as its byte order mark, or the user, says; what is something else is refused."""
    if isinstance(sys.stdin, TextIOWrapper) and not sys.stdin.isatty():
        beginning = sys.stdin.buffer.peek(MARK_BYTES) if isinstance(sys.stdin.buffer, BufferedReader) else b""
        name = checked(encoding) if encoding else encoding_of(beginning)
        sys.stdin.reconfigure(encoding=name, errors="strict")


_LISTED: Final = 20
_HELP: Final = """\
/new             begin a new conversation
/list            your conversations
/open N or ID    go on with one of them
/history         what was said in this one
/save [NAME]     the files that were sent in it, or save one here
/retry           ask the last question again, in place of its answer
/model [NAME]    the models, or use another one
/system [TEXT]   the system prompt, or another one; "off" for none
/cancel          stop the running answer: Ctrl+C does it while the answer comes
/quit            leave; so does Ctrl+D"""


def run_chat(
    asked: ClientOptions,
    prompt: PromptOptions,
    conversation: str | None,
    *,
    use_last: bool,
    encoding: str | None = None,
) -> ExitCode:
    """Talk until the input ends. In a pipe the exit code is that of the last failure. Raises: CliError: cannot talk."""
    link = ConnectionNotes()
    with connected(asked, link) as client:
        if use_last:
            last = next(iter(client.conversations()), None)
            conversation = None if last is None else last.conversation_id
        chat = Chat(client, link, prompt, conversation or _new_id(), asked)
        _prepare_stdin(encoding)
        chat.run()
    return chat.exit_code


class _Quit(Exception):
    """The person wants to go."""


@dataclass(slots=True, kw_only=True)
class _Asked:
    """The last question, for /retry."""

    question: str = ""
    request_id: str | None = None


class Chat:
    """One run of the command."""

    def __init__(
        self,
        client: BlockingClient,
        link: ConnectionNotes,
        prompt: PromptOptions,
        conversation: str,
        asked: ClientOptions,
    ) -> None:
        self._client = client
        self._options = asked
        self._link = link
        self._prompt = prompt
        self._conversation = conversation
        self._asked = _Asked()
        self._stream: BlockingAnswerStream | None = None  # the one that is shown
        self._is_stopping = False
        self._listed: list[ConversationSummary] = []  # by the last /list, for /open
        self._told: set[str] = set()  # models that were said not to know the language
        self._is_person = sys.stdin.isatty()
        self.exit_code = ExitCode.OK
        self._commands: Mapping[str, Callable[[str], None]] = {
            "/help": lambda _: say(spoken(_HELP)),
            "/new": self._new,
            "/list": self._list,
            "/open": self._open,
            "/history": self._history,
            "/save": self._save,
            "/retry": self._retry,
            "/model": self._model,
            "/system": self._system,
            "/cancel": lambda _: note("(no answer is coming; Ctrl+C stops one)"),
            "/quit": self._quit,
        }

    def run(self) -> None:
        """Until the end of the input, /quit, or Ctrl+C twice."""
        if self._is_person:
            with suppress(ImportError):
                import readline  # noqa: F401, PLC0415 - gives input() its editing and history; not on Windows
            say(spoken(f"Connected to the model {self._models()}. /help says what there is, Ctrl+D leaves."))
        if (update := update_wanted(self._client.wanted_version)) is not None:
            note(f"({update})")
        with suppress(_Quit):
            while True:
                line = self._read()
                try:
                    self._take(line)
                except KeyboardInterrupt:
                    if not self._is_person:
                        raise
                    note("(stopped)")
        if self._is_person:
            given = {"--url": self._options.url, "--user": self._options.user, "--conversation": self._conversation}
            options = [
                part for name, value in given.items() if value not in {None, DEFAULT_URL} for part in (name, value)
            ]
            say(spoken(f"To go on: answerback chat {shlex.join(options)}"))

    # --- lines

    def _read(self) -> str:
        """The next line. Raises: _Quit."""
        is_warned = False
        while True:
            try:
                if self._is_person:
                    return typed(input("> "), "this line")
                return decode(input().encode(), "stdin", hint=STDIN_HINT)
            except EOFError:
                if self._is_person:
                    print()
                raise _Quit from None
            except UnicodeDecodeError as exc:
                said = None if exc.encoding.startswith("utf-8") else exc.encoding
                raise not_text(exc.object, "stdin", encoding=said, hint=STDIN_HINT) from None
            except KeyboardInterrupt:
                print()
                if is_warned or not self._is_person:
                    raise _Quit from None
                is_warned = True
                note("(Ctrl+C again leaves)")

    def _take(self, line: str) -> None:
        line = line.strip()
        if not line:
            return
        word, _, rest = line.partition(" ")
        try:
            if not line.startswith("/"):
                self._ask(line)
            elif word in self._commands:
                self._commands[word](rest.strip())
            else:
                note(f"(there is no {word}; /help lists what there is)")
        except (Closed, SessionReplaced, Unauthorized):
            raise
        except AnswerbackError as exc:
            failure = explain(exc)
            self.exit_code = failure.exit_code
            note(f"({failure})")

    # --- asking

    def _ask(self, question: str, *, replaces: str | None = None) -> None:
        self._stream, self._is_stopping = None, False
        with Interruptions(self._interrupted) as interruptions:
            with interruptions.step():
                self._stream = stream = self._client.stream(
                    question, conversation=self._conversation, replaces=replaces, **self._prompt.asked
                )
                self._asked = _Asked(question=question, request_id=stream.request_id)
            used = self._prompt.model or next(iter(self._link.models), "?")
            if used not in self._told and note_language(question, used, self._client.model_info(self._prompt.model)):
                self._told.add(used)
            try:
                answer = self._show(stream, interruptions)
            except Closed:
                if self._is_stopping:
                    raise _Quit from None
                raise
            except RequestCancelled:
                if not self._is_stopping:
                    raise
                note("(stopped)")
                return
        if not sys.stdout.isatty():
            say_exactly(answer.text)
        if (why := shortfall(answer)) is not None:
            note(f"({why})")

    def _show(self, stream: BlockingAnswerStream, interruptions: Interruptions) -> Answer:
        """Follow the answer. Raises: AnswerbackError."""
        growing = AnswerPrinter(shows_text=sys.stdout.isatty())
        try:
            for event in stream.events():
                with interruptions.step():
                    growing.show(event)
            return stream.answer
        finally:
            growing.end()

    def _interrupted(self) -> None:
        """Ctrl+C: stop the answer and wait for its ending, which may still be the whole; again: leave."""
        if self._is_stopping:
            self._client.close()
        elif self._stream is not None:
            self._is_stopping = True
            note("(stopping; Ctrl+C again leaves)")
            self._stream.cancel()

    # --- commands

    def _new(self, _: str) -> None:
        self._conversation = _new_id()
        self._asked = _Asked()
        note("(a new conversation)")

    def _list(self, _: str) -> None:
        self._listed = list(islice(self._client.conversations(), _LISTED))
        if not self._listed:
            note("(there is none yet)")
        for number, found in enumerate(self._listed, start=1):
            here = "*" if found.conversation_id == self._conversation else " "
            when = found.updated_at[:16].replace("T", " ")
            turns = spoken(f"({found.turns} turns, {found.conversation_id})")
            say(f"{here}{number:>3}  {when}  {' '.join(found.title.split())}  {turns}")

    def _open(self, wanted: str) -> None:
        if not wanted:
            note("(which one? /open and its number in /list, or its id)")
            return
        if wanted.isdecimal() and 1 <= int(wanted) <= len(self._listed):
            wanted = self._listed[int(wanted) - 1].conversation_id
        self._conversation = wanted
        self._asked = _Asked()
        self._history("")

    def _history(self, _: str) -> None:
        turns = list(islice(self._client.history(self._conversation), _LISTED))
        if not turns:
            note("(nothing was said yet)")
        for turn in reversed(turns):
            say(f"> {turn.question}")
            for file in turn.attachments:
                say(f"> [{file.name}]")
            say(turn.answer or spoken(f"({turn.status})"))
        if turns:
            self._asked = _Asked(question=turns[0].question, request_id=turns[0].request_id)

    def _save(self, wanted: str) -> None:
        """Save a file of this conversation into the current folder; of two with one name the newer."""
        turns = self._client.history(self._conversation)
        files = list(dict.fromkeys(file for turn in turns for file in turn.attachments))
        if not wanted:
            for number, file in enumerate(files, start=1):
                say(f"{number:>3}  {file.name}")
            if not files:
                note("(no file was sent in this conversation)")
            return
        place = int(wanted) - 1 if wanted.isdecimal() else -1
        found = files[place : place + 1] or [file for file in files if file.name == wanted]
        try:
            if found:
                saved = self._client.attachment(found[0]).save(".")
                say(spoken(f"(saved as {saved.name})"))
                return
            note(f"(there is no file {wanted} in this conversation; /save lists them)")
        except OSError as exc:
            note(f"(the file cannot be written: {exc.strerror or exc})")
        self.exit_code = ExitCode.FAILED

    def _retry(self, _: str) -> None:
        if not self._asked.question:
            note("(nothing was asked yet)")
            return
        self._ask(self._asked.question, replaces=self._asked.request_id)

    def _model(self, name: str) -> None:
        if name and name not in self._link.models:
            note(f"(there is no model {name}; the gateway has {', '.join(self._link.models)})")
            return
        self._prompt = replace(self._prompt, model=name or self._prompt.model)
        say(spoken(self._models()))

    def _models(self) -> str:
        used = self._prompt.model or next(iter(self._link.models), "?")
        others = [name for name in self._link.models if name != used]
        return f"{used} (others: {', '.join(others)})" if others else used

    def _system(self, text: str) -> None:
        if text:
            self._prompt = replace(self._prompt, system=None if text == "off" else text)
        say(self._prompt.system or spoken("(no system prompt)"))

    def _quit(self, _: str) -> None:
        raise _Quit


def _new_id() -> str:
    return f"chat-{uuid.uuid4().hex[:12]}"
