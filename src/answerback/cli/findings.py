"""What `answerback doctor` finds: one line a check, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check. `what` is its name, `text` what was found, `advice` what to do ('' if all is well)."""

    level: Level
    what: str
    text: str
    advice: str = ""


def ok(what: str, text: str) -> Finding:
    """All is well."""
    return Finding(level=Level.OK, what=what, text=text)


def warning(what: str, text: str, advice: str) -> Finding:
    """It works, but somebody should know."""
    return Finding(level=Level.WARN, what=what, text=text, advice=advice)


def failure(what: str, text: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(level=Level.FAIL, what=what, text=text, advice=advice)
