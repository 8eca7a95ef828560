"""The `answerback` command in processes that are forked from one that has imported it.

Streams, signals, environment and exit of such a process are its own, and it ends as any interpreter ends. It only does
not import again what the one before it has imported, which takes longer than most commands.
"""

import atexit
import fcntl
import gc
import inspect
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cache
from threading import Lock
from typing import Any, Final

_HANDLERS: Final = {
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""Of a new interpreter, where its parent does not ignore the signal."""
_NUMBER: Final = struct.Struct("i")
"""What is said of a process: its id, and then its exit code."""


class Command(subprocess.Popen[Any]):
    """`answerback ARGUMENTS`, with the options of Popen.

    `closed`: standard streams that it does not have. `terminal`: a descriptor of what controls it.
    """

    def __init__(
        self,
        arguments: Sequence[str | bytes],
        *,
        closed: Collection[int] = (),
        terminal: int | None = None,
        **options: Any,
    ) -> None:
        self._closed, self._terminal = closed, terminal
        super().__init__([os.fsdecode(argument) for argument in arguments], **options)

    def _execute_child(self, *given: Any) -> None:
        asked = inspect.signature(super()._execute_child).bind(*given).arguments
        pipes = [asked[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        ends = {number: end if end != -1 else number for number, end in enumerate((pipes[0], pipes[3], pipes[5]))}
        streams = {number: end for number, end in ends.items() if number not in self._closed}
        order = {
            "arguments": asked["args"],
            "environment": dict(asked["env"] or os.environ),
            "folder": os.path.abspath(asked["cwd"] or "."),
            "streams": list(streams),
            "ignored": [number for number in _HANDLERS if signal.getsignal(number) is signal.SIG_IGN],
            "session": asked["start_new_session"],
            "terminal": self._terminal is not None,
        }
        self._status, theirs = socket.socketpair()
        with theirs:
            passed = [theirs.fileno(), *streams.values(), *([] if self._terminal is None else [self._terminal])]
            with _ORDERING:
                socket.send_fds(_server(), [json.dumps(order).encode() + b"\n"], passed)
        (self.pid,) = _NUMBER.unpack(self._status.recv(_NUMBER.size))
        self._close_pipe_fds(*pipes)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                said = self._status.recv(_NUMBER.size)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._status.close()
            (self.returncode,) = _NUMBER.unpack(said)
        return self.returncode


def run(
    arguments: Sequence[str | bytes], *, input: str | bytes | None = None, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run` with its output captured."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Command(arguments, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


_ORDERING: Final = Lock()


@cache
def _server() -> socket.socket:
    """What the process that forks takes orders from. It ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- the process that forks ---------------------------------------------------------------------------------------


def _fork_by_order(orders: socket.socket) -> None:
    """Fork a process for each order. Returns in these only."""
    running: dict[int, socket.socket] = {}

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):  # another signal came in the middle of this, and all were reaped for it
            while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with running.pop(ended[0]) as status, suppress(ConnectionError):
                    status.send(_NUMBER.pack(os.waitstatus_to_exitcode(ended[1])))

    signal.signal(signal.SIGCHLD, reap)
    while True:
        message, passed, _, _ = socket.recv_fds(orders, 1 << 16, 5)
        if not message:
            sys.exit()
        while not message.endswith(b"\n"):
            message += orders.recv(1 << 16)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if not pid:
            _become(json.loads(message), passed[1:])
            return
        running[pid] = socket.socket(fileno=passed[0])
        running[pid].send(_NUMBER.pack(pid))
        for descriptor in passed[1:]:
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def _become(order: dict[str, Any], passed: list[int]) -> None:
    """Make this process what a new interpreter with these streams and settings would be."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    for number, handler in _HANDLERS.items():
        signal.signal(number, signal.SIG_IGN if number in order["ignored"] else handler)
    if order["session"]:
        os.setsid()
    terminal = passed.pop() if order["terminal"] else None
    if terminal is not None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for number in range(3):
        if number in order["streams"]:
            os.dup2(passed.pop(0), number)
        else:
            os.close(number)
    kept = 2 if terminal is None else os.dup2(terminal, 3)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["answerback", *order["arguments"]]
    sys.path[0:1] = [order["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    _open_streams(order["streams"])


def _open_streams(numbers: Collection[int]) -> None:
    """As the interpreter does it. A stream whose descriptor is closed is None."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        before, stream = getattr(sys, name), None
        if number in numbers:
            mode, buffering = "w" if number else "r", 1 if number == 2 else -1
            stream = open(number, mode, buffering, before.encoding, before.errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    import answerback.cli.ask
    import answerback.cli.chat
    import answerback.cli.doctor
    import answerback.cli.serve
    import answerback.cli.users
    import answerback.gateway.app  # noqa: F401
    from answerback.cli.entry import main
    from answerback.cli.main import run as run_here

    run_here(["--version"])  # which imports the rest
    gc.freeze()
    _fork_by_order(socket.socket(fileno=int(sys.argv[1])))
    main()
