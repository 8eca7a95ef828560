"""The one log file, and the hooks that write into it what nobody caught. Never the words of questions or answers."""

import faulthandler
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from PySide6.QtCore import QMessageLogContext, QObject, QtMsgType, Signal, qInstallMessageHandler

__all__ = ["CrashWatch", "open_log"]

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
    """Send everything of `answerback` into the file; at 1 MB it is begun anew, the one before is kept.

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
    """While installed, what nobody caught is logged, and `happened` is emitted so that the window can say so.

    A crash of native code leaves the stacks of all threads in `fault_path`.
    """

    happened = Signal()

    def __init__(self, fault_path: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._fault_path = fault_path
        self._fault_file: IO[str] | None = None
        self._undo: list[Callable[[], object]] = []

    def install(self) -> None:
        """Take the hooks of the interpreter and of Qt."""
        before = (sys.excepthook, threading.excepthook, sys.unraisablehook)
        sys.excepthook = self._uncaught
        threading.excepthook = self._uncaught_in_thread
        sys.unraisablehook = self._unraisable
        qInstallMessageHandler(_from_qt)
        if not faulthandler.is_enabled():  # else somebody wants the stacks elsewhere: -X faulthandler
            self._fault_file = self._fault_path.open("w", encoding="utf-8")
            faulthandler.enable(self._fault_file)
        self._undo = [
            lambda: setattr(sys, "excepthook", before[0]),
            lambda: setattr(threading, "excepthook", before[1]),
        ]
        self._undo += [lambda: setattr(sys, "unraisablehook", before[2]), lambda: qInstallMessageHandler(None)]

    def remove(self) -> None:
        """Give them back."""
        for undo in self._undo:
            undo()
        self._undo = []
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

    def _uncaught_in_thread(self, told: threading.ExceptHookArgs) -> None:
        if told.exc_value is not None:
            log.error("nobody caught this", exc_info=(told.exc_type, told.exc_value, told.exc_traceback))
        self.happened.emit()

    def _unraisable(self, told: "sys.UnraisableHookArgs") -> None:
        if told.exc_value is not None:
            log.error("nobody could catch this", exc_info=(told.exc_type, told.exc_value, told.exc_traceback))


def _from_qt(kind: QtMsgType, context: QMessageLogContext, message: str) -> None:
    """Qt's own remarks: about fonts, plugins, screens."""
    log.log(_QT_LEVELS.get(kind, logging.WARNING), "Qt: %s", message)
