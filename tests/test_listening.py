"""The server of the tests leaves no connection open, whenever that came."""

import asyncio
import socket
from contextlib import suppress

import pytest

from listening import listening


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_of_the_last_moment_is_closed(turns):
    async def wait(reader, writer):
        await reader.read()
        await asyncio.sleep(3600)

    loop = asyncio.get_running_loop()
    async with listening(wait) as port:
        app = socket.create_connection(("127.0.0.1", port), 20)
        for _ in range(turns):
            await asyncio.sleep(0)
    is_closed = []
    with app, suppress(ConnectionResetError):
        is_closed.append(app.recv(1) == b"")
    assert is_closed in ([], [True])
    assert asyncio.all_tasks(loop) == {asyncio.current_task()}
