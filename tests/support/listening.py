"""A TCP server for the length of a block."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """On a loopback port, which it gives; `serve` runs for each connection. At the end no connection is left open.

    asyncio leaves some open; Python warns of them in whatever test runs when they are collected.
    """
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(join, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await close(server)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # so that they are closed


async def close(server: asyncio.Server) -> None:
    """Close it when all that it has accepted is known, in the turns of the loop that asyncio takes for that.

    What becomes a connection after the close is neither used nor closed (`Server._attach` fails).
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(8):  # a transport, a protocol and a task, one after the other
        await asyncio.sleep(0)
    server.close()
