"""A gateway as a process of its own: its signals, its event loop, and its end, whatever else runs in it."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from answerback.gateway.app import Gateway, StoppedEarly
from answerback.gateway.service_manager import notify, stay_alive
from answerback.gateway.settings import GatewaySettings
from answerback.tasks import Tasks

log = logging.getLogger("answerback.gateway")

EXIT_TIMEOUT_S: Final = 2.0
"""How long anything else in the process may take to end when the gateway has stopped."""

SWITCH_INTERVAL_S: Final = 0.0005
"""How soon the store's thread gets the interpreter from a busy event loop. With Python's 5 ms a commit could take a
hundred: SQLite's driver gives the interpreter away at every step."""

COLLECT_AFTER: Final = (50_000, 20, 100)
"""New objects before a collection of the young ones, and so on (`gc.set_threshold`). A request leaves hardly a cycle
behind, and to look for some among all connections costs more than to keep them a while."""


def run_gateway(
    settings: GatewaySettings,
    *,
    announce: Callable[[Gateway], None],
    read_again: Callable[[], GatewaySettings] | None = None,
) -> None:
    """Run a gateway until a signal stops it, on uvloop where it is installed. `announce` is called when it listens.

    The process is the gateway's own: how the interpreter switches threads and collects garbage is set for it, and it
    ends soon after the gateway has stopped, whatever else still runs in it.

    Raises: as entering a Gateway.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*COLLECT_AFTER)

    async def serve() -> None:
        gateway = Gateway(settings, read_again=read_again)
        watchdog = Tasks()
        watchdog.start(stay_alive(), name="watchdog")
        # From before the start on: a reader of the announcement may send a signal at once.
        with _signals(gateway), suppress(StoppedEarly):
            async with gateway:
                gc.freeze()  # what was loaded stays, and need not be looked at again and again
                announce(gateway)
                notify("READY=1", f"STATUS=listening on {gateway.url}")
                await gateway.serve_forever()
        await watchdog.settle(grace_s=0)
        _exit_within(EXIT_TIMEOUT_S, asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        _run_to_end(runner.get_loop(), serve())


def _run_to_end(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    """Run the gateway, whatever the code of a model raises in tasks and callbacks of its own.

    Out of any of them `SystemExit` and `KeyboardInterrupt` leave the loop. The loop is whole then and can be entered
    again; who awaits such a task gets the exception from it.
    """
    main = loop.create_task(work, name="gateway")
    is_interrupted = False
    while True:
        try:
            return loop.run_until_complete(main)
        except asyncio.CancelledError:
            if is_interrupted:
                raise KeyboardInterrupt from None
            log.error("the code of a model has cancelled the gateway's own task; the gateway has stopped")
            raise SystemExit(1) from None
        except (SystemExit, KeyboardInterrupt) as exc:
            if main.done():
                raise
            # Where the loop does not handle SIGINT (Windows), Python raises Ctrl-C itself.
            is_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if isinstance(exc, KeyboardInterrupt) and is_ctrl_c:
                is_interrupted = main.cancel()
            else:
                log.error("a task of a model raised %s; the gateway goes on", type(exc).__name__, exc_info=exc)


def _exit_within(delay_s: float, loop: asyncio.AbstractEventLoop) -> None:
    """End the process with status 0 after `delay_s`, unless it has ended by then. Call it when all work is done.

    A task that ignores its cancellation keeps the event loop from closing, and a thread keeps the interpreter from
    exiting. Neither can be ended but with the process.
    """

    def exit_now() -> None:
        tasks = sorted(f"task {task.get_name()}" for task in asyncio.all_tasks(loop))
        threads = sorted(
            f"thread {thread.name}"
            for thread in threading.enumerate()
            if not thread.daemon and thread is not threading.main_thread()
        )
        log.warning("the process ends without what does not stop: %s", ", ".join([*tasks, *threads]) or "unknown")
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(0)

    timer = threading.Timer(delay_s, exit_now)
    timer.name = "answerback-exit"
    timer.daemon = True
    timer.start()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextmanager
def _signals(gateway: Gateway) -> Iterator[None]:
    """Let signals stop or reload the gateway in the block.

    SIGINT and SIGTERM stop it. SIGHUP reloads a service. It stops what belongs to a terminal, which sends it when it is
    closed; where `nohup` has set it to be ignored, that stays.
    """
    loop = asyncio.get_running_loop()
    handlers: dict[int, Callable[[], object]] = dict.fromkeys((signal.SIGINT, signal.SIGTERM), gateway.ask_to_stop)
    if sys.platform != "win32":
        if not _has_terminal():
            handlers[signal.SIGHUP] = gateway.reload
        elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handlers[signal.SIGHUP] = gateway.ask_to_stop
    try:
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
    except (NotImplementedError, RuntimeError, ValueError):
        # Windows: `_run_to_end` turns Ctrl-C into a cancellation, and that exits the `async with`, too.
        # Not the main thread: the caller calls `stop`.
        yield
        return
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal, whatever its standard streams are."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True
