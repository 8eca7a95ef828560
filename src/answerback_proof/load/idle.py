"""Quiet connections: what one costs in memory, and what opening it costs in CPU.

They are held by processes of their own, because a process may have only so many open files:
`python -m answerback_proof.load.idle URL COUNT PREFIX` opens them, says `ready`, and holds them until its stdin ends.
"""

import asyncio
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from msgspec import Struct, to_builtins

from answerback.client.link import Address
from answerback.protocol.codec import encode
from answerback.protocol.frames import Hello
from answerback_proof.load.process import ProcessFailed, Usage, usage_of
from answerback_proof.load.websocket import LoadConnection, LoadConnectionError, open_connection

_SPARE_FILES: Final = 256
_AT_ONCE: Final = 200
_HELLO: Final = encode(Hello(hello_id="idle"))


class IdleReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """Per connection: resident bytes of the server, and its CPU for accepting, greeting and binding it."""

    connections: int
    client_processes: int
    bytes_per_connection: float
    cpu_us_per_connection: float
    server_rss_bytes: int

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = to_builtins(self)
        return values

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("idle connections", f"{self.connections:,} (held by {self.client_processes} processes)"),
            ("memory", f"{self.bytes_per_connection / 1000:.1f} kB a connection, {self.server_rss_bytes / 1e6:.0f} MB"),
            ("opening", f"{self.cpu_us_per_connection:.0f} µs of server CPU a connection"),
        ]


async def measure_idle(url: str, pid: int, connections: int, *, says_hello: bool = True) -> IdleReport:
    """Open so many connections to the server with this process id, and look at it. Raises: ProcessFailed."""
    async with quiet_connections(url, pid, connections, says_hello=says_hello) as report:
        return report


@asynccontextmanager
async def quiet_connections(
    url: str, pid: int, connections: int, *, says_hello: bool = True
) -> AsyncIterator[IdleReport]:
    """The same, and the connections stay open for the length of the block."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = max(1, connections if limit == resource.RLIM_INFINITY else limit - _SPARE_FILES)
    shares = [min(most, connections - start) for start in range(0, connections, most)]
    before = _usage(pid)
    async with AsyncExitStack() as stack:
        for number, share in enumerate(shares):
            await _keep_open(stack, url, share, f"idle-{number}", says_hello=says_hello)
        after = _usage(pid)
        yield IdleReport(
            connections=connections,
            client_processes=len(shares),
            bytes_per_connection=round((after.rss_bytes - before.rss_bytes) / connections, 1),
            cpu_us_per_connection=round((after.cpu_s - before.cpu_s) / connections * 1e6, 1),
            server_rss_bytes=after.rss_bytes,
        )


def _usage(pid: int) -> Usage:
    usage = usage_of(pid)
    if usage is None:
        raise ProcessFailed("memory and CPU can only be measured on Linux, of a server on this machine")
    return usage


async def _keep_open(stack: AsyncExitStack, url: str, count: int, prefix: str, *, says_hello: bool) -> None:
    """Start a process that holds connections until the stack is left."""
    module, greeting = ("-m", "answerback_proof.load.idle"), "hello" if says_hello else "-"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *module, url, str(count), prefix, greeting, stdin=pipe, stdout=pipe, stderr=pipe
    )

    async def end() -> None:
        if process.stdin is not None:
            process.stdin.close()
        await process.communicate()

    stack.push_async_callback(end)
    assert process.stdout is not None
    if (await process.stdout.readline()).strip() != b"ready":
        _, errors = await process.communicate()
        raise ProcessFailed(f"the connections could not be opened: {errors.decode(errors='replace')[-500:].strip()}")


async def _open_all(url: str, count: int, prefix: str, *, says_hello: bool) -> list[LoadConnection]:
    connections: list[LoadConnection] = []
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        opened = await asyncio.gather(
            *(_open_one(url, f"{prefix}-{number}", says_hello=says_hello) for number in numbers)
        )
        connections += opened
    return connections


async def _open_one(url: str, name: str, *, says_hello: bool) -> LoadConnection:
    """A connection as an app leaves it: open, greeted, quiet."""
    connection = await open_connection(Address(url=url, session=name, user=name).uri(with_user=True))
    if says_hello:
        welcomed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        connection.on_text = lambda text: None if welcomed.done() else welcomed.set_result(text)
        connection.send(_HELLO)
        await welcomed
    return connection


async def _main(url: str, count: int, prefix: str, *, says_hello: bool) -> None:
    connections = await _open_all(url, count, prefix, says_hello=says_hello)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for connection in connections:
        connection.close()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    try:
        asyncio.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3], says_hello=sys.argv[4] == "hello"))
    except LoadConnectionError as exc:
        sys.exit(str(exc))
