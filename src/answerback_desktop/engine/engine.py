"""The engine as the user interface sees it: a thread of its own, commands in, events out."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
from typing import Concatenate, ParamSpec

from answerback_desktop.engine.account import AccountEngine
from answerback_desktop.engine.environment import Environment
from answerback_desktop.engine.events import EngineStopped, Event
from answerback_desktop.engine.session_controller import SessionController

log = logging.getLogger("answerback.desktop")

_P = ParamSpec("_P")


def _command_of_session(
    command: Callable[Concatenate[SessionController, _P], None],
) -> Callable[Concatenate["Engine", _P], None]:
    @wraps(command)
    def give(engine: "Engine", /, *args: _P.args, **named: _P.kwargs) -> None:
        engine.do(lambda controller: command(controller, *args, **named))

    return give


def _command_of_account(
    command: Callable[Concatenate[AccountEngine, _P], None],
) -> Callable[Concatenate["Engine", _P], None]:
    @wraps(command)
    def give(engine: "Engine", /, *args: _P.args, **named: _P.kwargs) -> None:
        engine.do(lambda controller: controller.on_account(lambda account: command(account, *args, **named)))

    return give


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

    ask = _command_of_session(SessionController.ask)
    stop = _command_of_account(AccountEngine.stop)
    forget_turn = _command_of_account(AccountEngine.forget_turn)
    open_conversation = _command_of_account(AccountEngine.open_conversation)
    load_more = _command_of_account(AccountEngine.load_more)
    show = _command_of_account(AccountEngine.show)
    save_draft = _command_of_account(AccountEngine.save_draft)
    rename = _command_of_account(AccountEngine.rename)
    delete = _command_of_account(AccountEngine.delete)
    undo_delete = _command_of_account(AccountEngine.undo_delete)
    search = _command_of_account(AccountEngine.search)
    export = _command_of_account(AccountEngine.export)
    fetch_file = _command_of_account(AccountEngine.fetch_file)
    import_file = _command_of_session(SessionController.import_file)
    save_edit = _command_of_account(AccountEngine.save_edit)
    set_traits = _command_of_account(AccountEngine.set_traits)
    settle_missing = _command_of_account(AccountEngine.settle_missing)
    open_kept = _command_of_session(SessionController.open_kept)
    refresh = _command_of_account(AccountEngine.refresh)
    reconnect = _command_of_session(SessionController.reconnect)
    change_settings = _command_of_session(SessionController.change_settings)
    sign_in = _command_of_session(SessionController.sign_in)
    cancel_sign_in = _command_of_session(SessionController.cancel_sign_in)
    sign_out = _command_of_session(SessionController.sign_out)
    start_gateway = _command_of_session(SessionController.start_gateway)
    find_local_models = _command_of_session(SessionController.find_local_models)

    # --- inside

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if self._on_event is not None:
            self._on_event()

    def do(self, command: Callable[[SessionController], None]) -> None:
        """Let the controller do something, soon."""
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
