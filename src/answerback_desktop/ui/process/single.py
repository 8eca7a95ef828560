"""One app a profile: a second start shows the window of the first."""

import hashlib
import logging
from pathlib import Path
from typing import Final

from PySide6.QtCore import QObject, Signal
from PySide6.QtNetwork import QLocalServer, QLocalSocket

__all__ = ["Doorbell", "ring"]

log = logging.getLogger("answerback.desktop")
_RING: Final = b"raise\n"
_HEARD: Final = b"raised\n"
_WAIT_MS: Final = 2_000
_HEAR_MS: Final = 200


def _name(folder: Path) -> str:
    """Of the local socket: the same for the same folder, and short, since a socket's path must be."""
    return f"answerback-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]}"


class Doorbell(QObject):
    """Listens for a second start of the profile in `folder`. Signals: `rung()`."""

    rung = Signal()

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
        """No more."""
        self._server.close()

    def _come(self) -> None:
        """Whoever comes says at once what it wants; waiting for it here keeps the socket out of Python's callbacks."""
        while (socket := self._server.nextPendingConnection()) is not None:
            if socket.waitForReadyRead(_HEAR_MS) and bytes(socket.read(64).data()).startswith(_RING):
                socket.write(_HEARD)
                socket.waitForBytesWritten(_HEAR_MS)
                self.rung.emit()
            socket.close()
            socket.deleteLater()


def ring(folder: Path) -> bool:
    """Ask the app that has the profile in `folder` open to show its window; whether it said that it did."""
    socket = QLocalSocket()
    socket.connectToServer(_name(folder))
    if not socket.waitForConnected(_WAIT_MS):
        return False
    socket.write(_RING)
    socket.flush()
    return socket.waitForReadyRead(_WAIT_MS) and bytes(socket.readAll().data()).startswith(_HEARD)
