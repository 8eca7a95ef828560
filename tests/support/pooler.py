"""Poolers in front of a PostgreSQL server: PgBouncer where it is installed, and a small one of our own everywhere."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from listening import close

Session = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class TransactionPooler:
    """Lends few sessions of a server to all clients, a transaction at a time: `async with` it, then connect to `port`.

    `is_fair`: the session that was idle longest is lent first, as PgBouncer's `server_round_robin` does; else the last.
    """

    def __init__(self, server_socket: Path, *, sessions: int, is_fair: bool) -> None:
        self._server_socket = server_socket
        self._count = sessions
        self._is_fair = is_fair
        self._idle: list[Session] = []
        self._all: list[Session] = []
        self._free = asyncio.Condition()
        self._greeting = b""
        self.port = 0

    async def __aenter__(self) -> "TransactionPooler":
        for _ in range(self._count):
            session = await asyncio.open_unix_connection(str(self._server_socket))
            words = b"user\0postgres\0database\0postgres\0\0"
            session[1].write((len(words) + 8).to_bytes(4) + (196_608).to_bytes(4) + words)
            self._greeting, _ = await _until_ready(session[0])
            self._idle.append(session)
        self._all = list(self._idle)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await close(self._server)
        for _, writer in self._all:
            writer.close()
            await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session: Session | None = None
        try:
            while (await _startup(reader)) != 196_608:  # asks for TLS first
                writer.write(b"N")
            writer.write(self._greeting)
            while True:
                kind, message = await _message(reader)
                if kind == b"X":
                    return
                if session is None:
                    session = await self._take()
                session[1].write(message)
                if kind in b"QS":
                    answer, is_idle = await _until_ready(session[0])
                    writer.write(answer)
                    if is_idle:
                        await self._give_back(session)
                        session = None
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _take(self) -> Session:
        async with self._free:
            await self._free.wait_for(lambda: bool(self._idle))
            return self._idle.pop(0 if self._is_fair else -1)

    async def _give_back(self, session: Session) -> None:
        async with self._free:
            self._idle.append(session)
            self._free.notify()


async def _startup(reader: asyncio.StreamReader) -> int:
    """Read what a client says first; the version of the protocol, or a request for TLS."""
    size = int.from_bytes(await reader.readexactly(4))
    return int.from_bytes((await reader.readexactly(size - 4))[:4])


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


async def _until_ready(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """The answer of the server, and whether no transaction is open after it."""
    answer = b""
    while True:
        kind, message = await _message(reader)
        answer += message
        if kind == b"Z":
            return answer, message.endswith(b"I")


def pgbouncer() -> str | None:
    """The program, where it is installed."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextmanager
def running_pgbouncer(server_folder: Path, port: int, mode: str) -> Iterator[None]:
    """A real PgBouncer on a port, in front of the server whose socket is in `server_folder`."""
    program = pgbouncer()
    assert program is not None
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # where another account may read
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\npostgres = host={server_folder} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {mode}\n"
        )
        account = "postgres" if os.geteuid() == 0 else None
        process = subprocess.Popen(
            [program, str(folder / "pgbouncer.ini")], user=account, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            assert any("process up" in line for line in lines), "pgbouncer does not start"
            yield
        finally:
            process.terminate()
            process.communicate(timeout=20)
