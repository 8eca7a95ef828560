"""The log file, crash hooks, stop signals and the single instance per profile: what belongs to the process as a whole.

The log never has the words of questions or answers.
"""

import faulthandler
import hashlib
import logging
import signal
import socket
import sys
import threading
import traceback
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Final

from PySide6.QtCore import QMessageLogContext, QObject, QSocketNotifier, QtMsgType, Signal, qInstallMessageHandler
from PySide6.QtNetwork import QLocalServer, QLocalSocket

log = logging.getLogger("answerback.desktop")
_MAX_BYTES: Final = 1 << 20
_QT_LEVELS: Final = {
    QtMsgType.QtDebugMsg: logging.DEBUG,
    QtMsgType.QtInfoMsg: logging.INFO,
    QtMsgType.QtWarningMsg: logging.WARNING,
    QtMsgType.QtCriticalMsg: logging.ERROR,
    QtMsgType.QtFatalMsg: logging.CRITICAL,
}


class _PlacesOnly(logging.Formatter):
    """An exception is its type and the lines of code it went through: its words may be somebody's."""

    def formatException(  # noqa: N802
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        kind, error, _ = ei
        if kind is None or error is None:
            return ""
        lines: list[str] = []
        seen: BaseException | None = error
        while seen is not None and len(lines) < 500:
            lines += [line.rstrip("\n") for line in traceback.format_tb(seen.__traceback__)]
            lines.append(f"{type(seen).__module__}.{type(seen).__qualname__}")
            seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
        return "\n".join(lines)


def open_log(path: Path) -> logging.Handler:
    """Send everything of `answerback` into the file; at 1 MB a new file is begun, and the last one is kept.

    Raises: OSError: the file cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(_PlacesOnly("%(asctime)s %(levelname)s %(name)s %(threadName)s: %(message)s"))
    ours = logging.getLogger("answerback")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    return handler


class CrashWatch(QObject):
    """While installed, uncaught exceptions are logged, and `happened` is emitted so that the window can say so.

    A crash of native code leaves the stacks of all threads in `fault_path`.
    """

    happened = Signal()

    def __init__(self, fault_path: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._fault_path = fault_path
        self._fault_file: IO[str] | None = None

    def install(self) -> None:
        """Take the hooks of the interpreter and of Qt."""
        self._before = (sys.excepthook, threading.excepthook, sys.unraisablehook)
        sys.excepthook = self._uncaught
        threading.excepthook = self._uncaught_in_thread
        sys.unraisablehook = self._unraisable
        qInstallMessageHandler(_from_qt)
        if not faulthandler.is_enabled():  # else somebody wants the stacks elsewhere: -X faulthandler
            self._fault_file = self._fault_path.open("w", encoding="utf-8")
            faulthandler.enable(self._fault_file)

    def remove(self) -> None:
        """Give them back; only after `install`."""
        sys.excepthook, threading.excepthook, sys.unraisablehook = self._before
        qInstallMessageHandler(None)
        if self._fault_file is not None:
            faulthandler.disable()
            self._fault_file.close()
            self._fault_file = None
            self._fault_path.unlink(missing_ok=True)

    def _uncaught(self, kind: type[BaseException], error: BaseException, places: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, places)
            return
        log.error("nobody caught this", exc_info=(kind, error, places))
        self.happened.emit()

    def _uncaught_in_thread(self, caught: threading.ExceptHookArgs) -> None:
        if caught.exc_value is not None:
            log.error("nobody caught this", exc_info=(caught.exc_type, caught.exc_value, caught.exc_traceback))
        self.happened.emit()

    def _unraisable(self, caught: "sys.UnraisableHookArgs") -> None:
        if caught.exc_value is not None:
            log.error("nobody could catch this", exc_info=(caught.exc_type, caught.exc_value, caught.exc_traceback))


def _from_qt(kind: QtMsgType, context: QMessageLogContext, message: str) -> None:
    """Qt's own remarks: about fonts, plugins, screens."""
    log.log(_QT_LEVELS.get(kind, logging.WARNING), "Qt: %s", message)


class StopSignals(QObject):
    """While installed, SIGINT and SIGTERM emit `came`. Python runs handlers only between its own instructions, and an
    idle event loop runs none of those: a byte on a socket wakes it.
    """

    came = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._notifier = QSocketNotifier(self._read.fileno(), QSocketNotifier.Type.Read, self)
        self._notifier.activated.connect(self._drain)

    def install(self) -> None:
        """Take the signals; only in the main thread."""
        self._before_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def remove(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before_fd)
        self._notifier.setEnabled(False)
        self._read.close()
        self._write.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.came.emit()

    def _drain(self) -> None:
        try:
            self._read.recv(64)
        except BlockingIOError:
            pass


_RAISE: Final = b"raise\n"
_RAISED: Final = b"raised\n"
_WAIT_MS: Final = 2_000
_READ_MS: Final = 200


def _name(folder: Path) -> str:
    """Of the local socket: the same for the same folder, and short, since a socket's path must be."""
    return f"answerback-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]}"


class InstanceServer(QObject):
    """Listens for a second start of the profile in `folder`. Signals: `raise_asked()`."""

    raise_asked = Signal()

    def __init__(self, folder: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._name = _name(folder)
        self._server = QLocalServer(self)
        self._server.setSocketOptions(QLocalServer.SocketOption.UserAccessOption)
        self._server.newConnection.connect(self._come)

    def listen(self) -> None:
        """Begin. Hold the profile's lock: what an earlier run left behind is removed."""
        QLocalServer.removeServer(self._name)
        if not self._server.listen(self._name):
            log.warning("a second start cannot reach this window: %s", self._server.errorString())

    def close(self) -> None:
        self._server.close()

    def _come(self) -> None:
        """Answer one client. It writes at once; waiting for it here keeps the socket out of Python's callbacks."""
        while (socket := self._server.nextPendingConnection()) is not None:
            if socket.waitForReadyRead(_READ_MS) and bytes(socket.read(64).data()).startswith(_RAISE):
                socket.write(_RAISED)
                socket.waitForBytesWritten(_READ_MS)
                self.raise_asked.emit()
            socket.close()
            socket.deleteLater()


def raise_running(folder: Path) -> bool:
    """Ask the app that has the profile in `folder` open to show its window; whether it said that it did."""
    socket = QLocalSocket()
    socket.connectToServer(_name(folder))
    if not socket.waitForConnected(_WAIT_MS):
        return False
    socket.write(_RAISE)
    socket.flush()
    return socket.waitForReadyRead(_WAIT_MS) and bytes(socket.readAll().data()).startswith(_RAISED)
