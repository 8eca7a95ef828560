"""What processes ask of the operating system, in order, as `strace` sees it."""

import os
import re
import shutil
import subprocess
from codecs import decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CALLS = "write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync"
_LINE = re.compile(r"(\d+) +([\d.]+) (.*)")
_CALL = re.compile(r"(\w+)\((\d+)?(?:<(.*?)>(?=[,)]))?(.*)")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_END = re.compile(r"= (-?\d+)(?: .*)?<([\d.]+)>$")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")


@dataclass(frozen=True, slots=True)
class SystemCall:
    """One call: `began` and `ended` in seconds, `path` of the file or socket, and the bytes it gives, in Latin-1."""

    name: str
    path: str
    text: str
    began: float
    ended: float

    @property
    def is_sync(self) -> bool:
        return self.name in {"fsync", "fdatasync"}

    @property
    def is_of_network(self) -> bool:
        return self.path.startswith("TCP")


@contextmanager
def traced(*pids: int, file: Path) -> Iterator[list[SystemCall]]:
    """Follow the processes, with what they start, until they end or the block does; then the list is full."""
    strace = shutil.which("strace")
    if strace is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no strace here (Debian: apt-get install strace)")
    options = ["-f", "-yy", "-ttt", "-T", "-s", "1000000", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(file)]
    tracer = subprocess.Popen(
        [strace, *options, *(f"-p{pid}" for pid in pids)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    calls: list[SystemCall] = []
    try:
        assert tracer.stderr is not None
        for _ in pids:
            said = tracer.stderr.readline()
            assert "attached" in said, said
        yield calls
    finally:
        tracer.terminate()
        tracer.communicate()
    calls.extend(parsed(file.read_text(errors="replace").splitlines()))


def parsed(lines: Sequence[str]) -> list[SystemCall]:
    """The calls in a log of strace, each whole, in the order in which they ended."""
    waiting: dict[str, tuple[float, str]] = {}
    found: list[SystemCall] = []
    for line in lines:
        parts = _LINE.fullmatch(line)
        if parts is None:
            continue
        pid, at, rest = parts[1], float(parts[2]), parts[3]
        if rest.endswith("<unfinished ...>"):
            waiting[pid] = (at, rest.removesuffix("<unfinished ...>").rstrip())  # the parenthesis comes when it resumes
            continue
        if resumed := _RESUMED.fullmatch(rest):
            began, start = waiting.pop(pid, (at, f"{resumed[1]}("))
            at, rest = began, start + resumed[2]
        call, end = _CALL.match(rest), _END.search(rest)
        if call is not None and end is not None and int(end[1]) >= 0:
            text = "".join(decode(string, "unicode_escape") for string in _STRING.findall(call[4]))
            found.append(SystemCall(call[1], call[3] or "", text, at, at + float(end[2])))
    return sorted(found, key=lambda call: call.ended)
