"""A network between an app and a server, that can be cut."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from listening import close


class Network:
    """Listens on a loopback port of its own. `cut` breaks every connection, and takes no new one until `repair`."""

    def __init__(self, server_url: str) -> None:
        self._port = urlsplit(server_url).port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self.url = ""

    async def __aenter__(self) -> "Network":
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def server_url(self) -> str:
        """The server, past this network."""
        return f"ws://127.0.0.1:{self._port}"

    def cut(self) -> None:
        self._is_cut = True
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """Nobody listens any more."""
        self.cut()
        if self._server.is_serving():
            await close(self._server)

    def repair(self, server_url: str | None = None) -> None:
        if server_url is not None:
            self._port = urlsplit(server_url).port
        self._is_cut = False

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        ends = [writer]
        try:
            if not self._is_cut:
                there, here = await asyncio.open_connection("127.0.0.1", self._port)
                ends.append(here)
            if self._is_cut:  # also while it was being opened
                for end in ends:
                    end.transport.abort()
                return
            self._writers.update(ends)
            await asyncio.gather(self._carry(reader, here), self._carry(there, writer))
        except OSError:
            writer.transport.abort()
        finally:
            for end in ends:
                end.close()
                with suppress(OSError):
                    await end.wait_closed()
                self._writers.discard(end)
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
