"""The engine as the user interface sees it: a thread of its own, commands in, events out."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from answerback.client import Attachment, File
from answerback_desktop.engine.account import AccountEngine
from answerback_desktop.engine.environment import Environment
from answerback_desktop.engine.events import EngineStopped, Event
from answerback_desktop.engine.export import ExportFormat
from answerback_desktop.engine.session_controller import SessionController
from answerback_desktop.records import Traits
from answerback_desktop.settings import Settings

log = logging.getLogger("answerback.desktop")


class Engine:
    """Runs the app's work in a thread. Every method may be called from any thread and returns at once.

        engine = Engine(Environment(profile=profile))
        engine.start()
        …
        changes = app.apply(engine.drain())  # about 30 times a second
        …
        engine.close()  # then drain until `Changes.stopped`, or `engine.join()`

    The profile's lock is the caller's. Commands before `start` and after `close` do nothing.
    """

    def __init__(self, environment: Environment, *, on_event: Callable[[], None] | None = None) -> None:
        """`on_event` is called in the engine's thread after each event: something to wake a reader with."""
        self._environment = environment
        self._on_event = on_event
        self._events: deque[Event] = deque()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._controller: SessionController | None = None
        self._stopping: asyncio.Event | None = None

    # --- life

    def start(self) -> None:
        """Begin. The first events are there when this returns: settings, the account's list, its drafts.

        Raises: OSError: the profile's folder cannot be used.
        """
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="answerback-engine", daemon=True)
        self._thread.start()
        ready.result()

    def close(self) -> None:
        """End: everything is written down; running answers go on at the server. `EngineStopped` is the last event."""
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None:
            try:
                loop.call_soon_threadsafe(stopping.set)
            except RuntimeError:
                pass  # it has ended already

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end after `close`; whether it has come."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def drain(self) -> list[Event]:
        """What happened since the last call, in order."""
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    # --- commands: thread-safe, at once, without a result; what comes of a command comes as events

    def ask(
        self,
        conversation_id: str,
        request_id: str,
        text: str,
        *,
        replaces: str | None = None,
        files: Sequence[File | Attachment] = (),
    ) -> None:
        """Ask a question, with the model, system prompt and limit of the settings. `TurnChanged` follows at once.

        `request_id`: a new uuid4. `replaces`: the turn whose place it takes (regenerate, edit); that turn and all
        after it become earlier versions, and come back if the new one does not complete. `files` go with it; an
        `Attachment` is one of an earlier question, of which the account has a copy.
        """
        self._do(lambda controller: controller.ask(conversation_id, request_id, text, replaces=replaces, files=files))

    def stop(self, request_id: str) -> None:
        """Stop a question; its ending follows."""
        self._on_account(lambda account: account.stop(request_id))

    def forget_turn(self, request_id: str) -> None:
        """Remove a turn that failed and that the server never took."""
        self._on_account(lambda account: account.forget_turn(request_id))

    def open_conversation(self, conversation_id: str) -> None:
        """`TurnsLoaded` with the newest page follows; a poll of the server's history too."""
        self._on_account(lambda account: account.open_conversation(conversation_id))

    def load_more(self, conversation_id: str, before_request_id: str) -> None:
        """`TurnsLoaded` with the page before this turn follows."""
        self._on_account(lambda account: account.load_more(conversation_id, before_request_id))

    def show(self, conversation_id: str | None, *, is_seen: bool) -> None:
        """The conversation that is open in the window: what other devices ask there follows. None: none, or the window
        is hidden. `is_seen`: the person looks at it, so its answers are read.
        """
        self._on_account(lambda account: account.show(conversation_id, is_seen=is_seen))

    def save_draft(self, conversation_id: str, text: str) -> None:
        """Keep what is typed; empty: nothing."""
        self._on_account(lambda account: account.save_draft(conversation_id, text))

    def rename(self, conversation_id: str, title: str) -> None:
        """Give a conversation a title (cut to 200 characters); sent to the server when there is a connection."""
        self._on_account(lambda account: account.rename(conversation_id, title))

    def delete(self, conversation_id: str) -> None:
        """Remove it from the list. The server deletes it when the time for an undo is over (`UNDO_S`)."""
        self._on_account(lambda account: account.delete(conversation_id))

    def undo_delete(self, conversation_id: str) -> None:
        """Bring it back, here and at the server."""
        self._on_account(lambda account: account.undo_delete(conversation_id))

    def search(self, query: str) -> None:
        """`SearchFound` follows."""
        self._on_account(lambda account: account.search(query))

    def export(self, conversation_id: str | None, form: ExportFormat) -> None:
        """`Exported` follows. None: all conversations, with the earlier versions of their turns."""
        self._on_account(lambda account: account.export(conversation_id, form))

    def fetch_file(self, named: Attachment) -> None:
        """`FileFetched` follows, from this computer or from the server; a notice says why not."""
        self._on_account(lambda account: account.fetch_file(named))

    def import_file(self, path: Path) -> None:
        """Add what an export has and this account has not. A notice says what became of it."""
        self._do(lambda controller: controller.import_file(path))

    def save_edit(self, conversation_id: str, request_id: str, text: str) -> None:
        """Keep a question that was changed and not asked again; empty: nothing."""
        self._on_account(lambda account: account.save_edit(conversation_id, request_id, text))

    def set_traits(self, conversation_id: str, traits: Traits) -> None:
        """Pin, archive, tag; give it a model and a system prompt. `TraitsChanged` follows."""
        self._on_account(lambda account: account.set_traits(conversation_id, traits))

    def settle_missing(self, *, keep: bool) -> None:
        """What the server has lost stays here for good, or goes."""
        self._on_account(lambda account: account.settle_missing(keep=keep))

    def open_kept(self, name: str | None) -> None:
        """Show what is kept of another server (`AccountOpened.kept`), to read and export; None: the server again."""
        self._do(lambda controller: controller.open_kept(name))

    def refresh(self) -> None:
        """Poll for changes of other devices: the window has got the focus."""
        self._on_account(lambda account: account.refresh())

    def reconnect(self) -> None:
        """Try at once; also after the client was stopped."""
        self._do(lambda controller: controller.reconnect())

    def change_settings(self, settings: Settings) -> None:
        """Store them, and let them hold. Another server or user: `AccountOpened` follows."""
        self._do(lambda controller: controller.change_settings(settings))

    def sign_in(self) -> None:
        """Open the system browser (OIDC). `SignInChanged` follows."""
        self._do(lambda controller: controller.sign_in())

    def cancel_sign_in(self) -> None:
        """Do not wait for the browser any more."""
        self._do(lambda controller: controller.cancel_sign_in())

    def sign_out(self) -> None:
        """Forget the tokens; the local data stays and is shown again after the next sign-in of that user."""
        self._do(lambda controller: controller.sign_out())

    def start_gateway(self) -> None:
        """Start a gateway with the embedded model on this machine. `GatewayChanged` follows."""
        self._do(lambda controller: controller.start_gateway())

    def find_local_models(self) -> None:
        """Look for an Ollama on this machine. `LocalModelsFound` follows."""
        self._do(lambda controller: controller.find_local_models())

    # --- inside

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if self._on_event is not None:
            self._on_event()

    def _on_account(self, command: Callable[[AccountEngine], None]) -> None:
        self._do(lambda controller: controller.on_account(command))

    def _do(self, command: Callable[[SessionController], None]) -> None:
        loop, controller = self._loop, self._controller
        if loop is None or controller is None:
            return

        def run() -> None:
            try:
                command(controller)
            except Exception:
                log.exception("a command failed")

        try:
            loop.call_soon_threadsafe(run)
        except RuntimeError:
            pass  # the loop has ended

    def _run(self, ready: Future[None]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(ready))
        except Exception:
            log.exception("the engine failed")
        finally:
            self._emit(EngineStopped())

    async def _serve(self, ready: Future[None]) -> None:
        controller = SessionController(self._environment, self._emit)
        self._stopping = asyncio.Event()
        try:
            await controller.open()
        except BaseException as exc:
            ready.set_exception(exc)
            return
        self._loop, self._controller = asyncio.get_running_loop(), controller
        ready.set_result(None)
        try:
            await self._stopping.wait()
        finally:
            self._loop = self._controller = None
            await controller.close()
