"""Log lines for people and for machines. Facts travel as `extra` fields; message text of users is never logged."""

import json
import logging
import re
import sys
from typing import Any, Final, Literal, TextIO, TypeAlias

from answerback.core.instants import iso
from answerback.texts import escaped

LogFormat: TypeAlias = Literal["text", "json"]

_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]*")
"""Visible ASCII, but for the quote, the equals sign and the backslash."""

FIELDS: Final = (
    *("requestId", "connectionId", "userId", "conversationId", "holder", "attempt", "proxy", "remote", "client"),
)
"""The `extra` fields that a formatter shows."""


class TextFormatter(logging.Formatter):
    """`2026-01-01T00:00:00.000Z INFO answerback.front text requestId=...`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback under it, indented, if there is one: no text of an error is a line of its own."""
        facts = "".join(f" {name}={quoted(value)}" for name, value in _facts(record).items())
        text = escaped(record.getMessage()).replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname} {record.name} {text}{facts}"
        if record.exc_info:
            line += escaped("\n" + self.formatException(record.exc_info)).replace("\n", "\n  ")
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return escaped(json.dumps(entry, ensure_ascii=False, default=str))


def configure_logging(
    log_format: LogFormat = "text", *, level: int = logging.INFO, stream: TextIO | None = None
) -> None:
    """Send the log of the whole process to `stream` (standard error), replacing what was configured before."""
    # No line shows where it was written or in which thread, and to find that out costs half a line.
    logging._srcfile = None  # Python's HOWTO for logging, section "Optimization"
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.getLogger().handlers[:] = [handler]
    set_level(level)


def set_level(level: int) -> None:
    """The least severity that is logged from now on."""
    logging.getLogger().setLevel(level)
    # HTTP clients that log each request, with its URL.
    for name in ("botocore", "urllib3"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    given = record.__dict__
    return {name: given[name] for name in FIELDS if given.get(name) is not None}


def _time(record: logging.LogRecord) -> str:
    return iso(int(record.created * 1000))


def quoted(value: object) -> str:
    """Ids are the clients' own words: a quote or an escape keeps one from looking like another field."""
    text = str(value)
    return text if isinstance(value, int) or _PLAIN.fullmatch(text) else json.dumps(text)
