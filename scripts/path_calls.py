#!/usr/bin/env python
"""Count the calls into our own code from a question's frame to the first delta of its answer, in a gateway on SQLite.

    scripts/path_calls.py          how many calls in how many files, and the files
    scripts/path_calls.py --list   each call in its order, too

A coroutine that goes on counts as a call. The model is `echo`, the third question of a connection is counted, and the
count is the same in every run. tests/gateway/test_path_calls.py holds it below a limit.
"""

import argparse
import asyncio
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp

import answerback
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings

SOURCE = f"{Path(answerback.__file__).parent}/"
FIRST_DELTA = b'{"action":"messageDelta"'


@dataclass(slots=True)
class Calls:
    """The calls so far, as (file, function)."""

    is_counting: bool = False
    made: list[tuple[str, str]] = field(default_factory=list)

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """See `sys.setprofile`."""
        if not self.is_counting or event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(SOURCE):
            self.made.append((code.co_filename.removeprefix(SOURCE), code.co_qualname))
            if code.co_qualname == "Socket.send" and frame.f_locals["payload"].startswith(FIRST_DELTA):
                self.is_counting = False

    def by_file(self) -> Counter[str]:
        """How many there are in each file."""
        return Counter(file for file, _ in self.made)


async def count_calls(data_dir: Path) -> Calls:
    """Start a gateway, ask three questions, and count the calls for the third."""
    calls = Calls()
    settings = GatewaySettings(port=0, admin_port=None, data_dir=data_dir, models=("echo:delay_ms=50",), rate_limit=0)
    threading.setprofile(calls.profile)
    sys.setprofile(calls.profile)
    try:
        async with (
            Gateway(settings) as gateway,
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{gateway.url}/?userId=u&sessionId=s") as socket,
        ):
            for number in range(3):
                await socket.send_json(
                    {"action": "sendMessage", "requestId": f"r{number}", "message": "one two", "stream": True}
                )
                calls.is_counting = number == 2
                while (await socket.receive_json())["action"] != "messageResponse":
                    pass
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return calls


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="each call in its order")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calls = asyncio.run(count_calls(Path(folder)))
    if options.list:
        for file, function in calls.made:
            print(f"{file:34} {function}")
        print()
    by_file = calls.by_file()
    for file, number in by_file.most_common():
        print(f"{number:4} {file}")
    print(f"{len(calls.made)} calls in {len(by_file)} files")


if __name__ == "__main__":
    main()
