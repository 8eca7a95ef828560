"""What systemd is told of the gateway by the protocol of sd_notify(3): ready, reloading, stopping, and alive."""

import asyncio
import os
import socket
import time
from collections.abc import Mapping


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send `lines`, such as READY=1, to the manager that has started this process; nothing where none has.

    A manager that cannot be reached is no reason not to serve: it gives up waiting by itself.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            return


def reloading() -> tuple[str, ...]:
    """What is said before a reload; READY=1 follows it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


async def stay_alive(environ: Mapping[str, str] = os.environ) -> None:
    """Tell a manager that watches this process (WatchdogSec=), twice in its interval, that the event loop runs."""
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isascii() or not usec.isdigit() or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        notify("WATCHDOG=1", environ=environ)
        await asyncio.sleep(int(usec) / 2_000_000)
