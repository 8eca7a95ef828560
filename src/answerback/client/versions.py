"""Versions of this program, as a server may want a later one than this."""

import re
from itertools import zip_longest
from typing import Final

from answerback import __version__
from answerback.protocol.frames import ServerInfo

_NUMBERS: Final = re.compile(r"v?(\d{1,9}(?:\.\d{1,9})*)", re.ASCII)


def is_lower(version: str, least: str) -> bool:
    """Whether a version comes before another, by their leading numbers: `0.9.1` before `0.10`."""
    for one, other in zip_longest(_numbers(version), _numbers(least), fillvalue=0):
        if one != other:
            return one < other
    return False


def _numbers(text: str) -> list[int]:
    found = _NUMBERS.match(text)
    return [] if found is None else [int(part) for part in found[1].split(".")]


def wanted(server: ServerInfo | None) -> str | None:
    """The least version of its own clients that a server likes to see, if this one is lower."""
    least = None if server is None else server.least_client
    return least if least and is_lower(__version__, least) else None
