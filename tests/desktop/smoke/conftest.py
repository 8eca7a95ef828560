"""A display without a screen, so that real windows open."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def display() -> Iterator[str]:
    """An X server of its own; its name for DISPLAY."""
    program = shutil.which("Xvfb")
    if program is None:
        why = "no Xvfb was found (Debian: apt-get install xvfb)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    read, write = os.pipe()
    command = [program, "-displayfd", str(write), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=(write,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as numbers:
            number = numbers.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        server.terminate()
        server.wait()
