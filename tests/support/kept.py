"""What the commit ff0d8e5 wrote (tests/upgrade/ff0d8e5), and what it showed of it."""

import difflib
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from answerback.cli.main import run
from cli_process import Result

FOLDER = Path(__file__).resolve().parents[1] / "upgrade" / "ff0d8e5"

_WORDS = ("persistent", "소켓", "frame🧵", "답변", "offset", "𝄞music", "재연결", "attempt")
LONG = " ".join(f"{n:04}-{_WORDS[n % 8]}-{'x' * (n % 17)}" for n in range(1, 830))
"""The longest text: more than 16,000 code points, so it is stored in two pieces."""
SLOW = " ".join(f"단어{n:02}" for n in range(40))
"""The question whose answer was under way when the gateway was killed."""

MODELS = (
    *("--model", "echo", "--model", "slow=echo", "--model", "stuck=echo:fail=hang", "--model", "deaf=echo"),
    *("--model", "broken=echo:fail=midstream", "--model", "throttled=echo:fail=throttled"),
    *("--model", "away=echo:fail=unavailable"),
)
"""The models by the names that the kept requests ask for; the slow one is as quick as the others now."""
LONG_TIMEOUTS = (
    *("--max-tokens", "4000", "--retention-days", "3650", "--janitor-interval", "1d"),
    *("--queue-timeout", "36500d", "--answer-timeout", "36500d"),
)
"""The kept requests were asked long ago; nothing of them may be given up or purged for that."""


def command(*arguments: str) -> Result:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(arguments)
    return Result(int(code), out.getvalue(), err.getvalue())


def kept(name: str) -> Any:
    """A kept JSON file."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def assert_kept(name: str, found: Any) -> None:
    """`found` is, value for value and in the same order, what the file holds. The long text is `$LONG` in there."""
    wanted = (FOLDER / name).read_text(encoding="utf-8")
    text = as_text(found)
    if text != wanted:
        lines = difflib.unified_diff(wanted.splitlines(), text.splitlines(), "ff0d8e5", "now", n=2, lineterm="")
        raise AssertionError(f"{name} is not as ff0d8e5 had it:\n" + "\n".join(list(lines)[:60]))


def as_text(found: Any) -> str:
    """As kept files are written: JSON, one line for what is short."""
    return _lines(_shortened(found)) + "\n"


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(part) for part in value]
    return "$LONG" if value == LONG else value


def _lines(value: Any, indent: str = "") -> str:
    short = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(indent + short) <= 160:
        return short
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {_lines(part, inner)}" for key, part in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _lines(part, inner) for part in value) + f"\n{indent}]"
