"""Write the parts of the documents that are made from the code: tables, and the transcript.

    python scripts/generate_docs.py          write them
    python scripts/generate_docs.py --check  say what is stale; exit status 1 if anything is

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import json
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from answerback.cli.settings import SETTINGS, defaults
from answerback.core.delivery import MAX_TEXT_BYTES
from answerback.core.transitions import TRANSITIONS, Event, State
from answerback.gateway.settings import Caps
from answerback.protocol import limits
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.settings import toml

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("PROTOCOL.md", "docs/benchmarks.md", "docs/configure.md", "docs/evidence.md")
_PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

# What the table of codes does not say: where each comes, and what to do about it.
_CODES: Mapping[ErrorCode, tuple[str, str]] = {
    ErrorCode.INVALID_FRAME: (
        "`messageResponse` to a `sendMessage` with a readable id, else `error`",
        "corrects the program; a question needs a new id",
    ),
    ErrorCode.MESSAGE_TOO_LARGE: ("`error`, then the connection may be closed with 1009", "shortens the message"),
    ErrorCode.UNAUTHORIZED: (
        "HTTP 401; `messageResponse` after the token expired; `error` to `renewToken`",
        "gets a fresh token, then asks under a new id",
    ),
    ErrorCode.FORBIDDEN: (
        "`messageResponse`: the model is not offered or takes no such file, or the system prompt is locked; `error` "
        "without a `requestId`: the operator has blocked this user, and the connection is closed",
        "asks without that field; stays away",
    ),
    ErrorCode.USER_MISMATCH: ("`messageResponse`; `error` to `renewToken`", "opens a connection for each user"),
    ErrorCode.SESSION_REPLACED: ("`error`, then the connection is closed", "stays away"),
    ErrorCode.RATE_LIMITED: ("`messageResponse`", "waits `retryAfterMs`, then asks under a new id"),
    ErrorCode.OVERLOADED: (
        "`messageResponse`; `error` to `putPiece`; `error` without a `requestId`: the user has too many connections, "
        "and this one is closed",
        "waits for an answer, then asks under a new id; waits `retryAfterMs`; closes another connection",
    ),
    ErrorCode.REQUEST_CONFLICT: (
        "`error` to `sendMessage`, `cancelMessage` or a resume point",
        "uses a new id for each question",
    ),
    ErrorCode.UNKNOWN_REQUEST: (
        "`error` to a resume point, or to `updateConversation`",
        "sends the question again under its id, or lets it go",
    ),
    ErrorCode.ATTACHMENT_MISSING: (
        "`error` to a `sendMessage` with `attachments`, or to `getAttachment`",
        "brings the file, then sends the very same frame again; does without it",
    ),
    ErrorCode.MODEL_UNAVAILABLE: ("`messageResponse`", "asks again later, under a new id"),
    ErrorCode.MODEL_THROTTLED: ("`messageResponse`", "waits `retryAfterMs` or a while, then asks under a new id"),
    ErrorCode.MODEL_FAILED: ("`messageResponse`", "asks again under a new id"),
    ErrorCode.TIMEOUT: ("`messageResponse`", "asks again, or for less, under a new id"),
    ErrorCode.UNAVAILABLE: ("`error`", "sends the very same frame again after `retryAfterMs`"),
    ErrorCode.INTERNAL: (
        "`messageResponse` after the last attempt; `error` for a frame that could not be handled",
        "after `messageResponse`: asks under a new id; after `error`: sends the very same frame again",
    ),
}

_ENDED = (State.COMPLETED, State.FAILED, State.CANCELLED)


def transitions() -> str:
    """Every (state, event) pair."""
    for state in _ENDED:
        if TRANSITIONS[state] != TRANSITIONS[_ENDED[0]]:
            raise AssertionError("the terminal states differ: give each its column")
    columns = (State.ACCEPTED, State.RUNNING, _ENDED[0])
    rows = [(event, *(_in_words(TRANSITIONS[state][event]) for state in columns)) for event in Event]
    return _table(("Event", "accepted", "running", ", ".join(_ENDED)), rows)


def _in_words(cell: Any) -> str:
    """A cell of the table, case by case: the first one whose guards hold counts."""
    cases = [(" and ".join(guards), effect) for guards, effect in _cases(cell)]
    return " · ".join(effect if len(cases) == 1 else f"{guards or 'otherwise'}: {effect}" for guards, effect in cases)


def _cases(cell: Any, *guards: str) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(cell, str):
        yield guards, cell
    else:
        yield from _cases(cell.then, *guards, cell.guard)
        yield from _cases(cell.otherwise, *guards)


def errors() -> str:
    """Every error code."""
    rows = [
        (f"`{code}`", info.fault, "yes" if info.retryable else "no", info.message, *_CODES[code])
        for code, info in ERRORS.items()
    ]
    return _table(("Code", "Whose", "Retryable", "Message", "Comes in", "What the client does"), rows)


def sizes() -> str:
    """The sizes of the protocol. Its times and rates are the operator's and stand in `welcome`."""
    kb = 1024
    rows = [
        ("message from a client", f"{limits.MAX_MESSAGE_BYTES // kb} KB", "`message_too_large`, 1009"),
        ("frame to a client", f"{limits.MAX_FRAME_BYTES // kb} KB", "is never sent"),
        (
            "streamed answer",
            f"{limits.MAX_ANSWER_BYTES // kb} KB, as encoded in JSON",
            "ends there: `completed`, `finishReason` `length`",
        ),
        (
            "answer that is not streamed",
            f"{MAX_TEXT_BYTES // kb} KB, as encoded in JSON",
            "ends there: `completed`, `finishReason` `length`",
        ),
        ("id", f"{limits.MAX_ID_LENGTH} code points", "`invalid_frame`"),
        ("title", f"{limits.MAX_TITLE_LENGTH} code points", "`invalid_frame`"),
        ("resume points of one `hello`", str(limits.MAX_RESUME_POINTS), "`invalid_frame`; send several"),
        ("items of one page", str(limits.MAX_PAGE), "`invalid_frame`"),
        (
            "file of a question",
            f"{limits.MAX_ATTACHMENT_BYTES // kb // kb} MB, {limits.MAX_ATTACHED_BYTES // kb // kb} MB and "
            f"{limits.MAX_ATTACHMENTS} files together",
            "`invalid_frame`; `forbidden`",
        ),
        ("unfinished requests of a user", f"{Caps().pending_per_user:,} by default", "`overloaded`"),
    ]
    return _table(("Limit", "Value", "Beyond it"), rows)


def settings() -> str:
    """Every setting of `answerback serve`, by panel."""
    parts: list[str] = []
    panel = ""
    rows: list[tuple[str, ...]] = []
    for setting in (*SETTINGS, None):
        if setting is None or setting.panel != panel:
            if rows:
                parts.append(f"### {panel}\n\n" + _table(("Flag", "Default", "Meaning"), rows))
            rows = []
            if setting is None:
                break
            panel = setting.panel
        rows.append((f"`{setting.flag}`", _default(setting.key), setting.help))
    return "\n".join(parts)


def transcript() -> str:
    """What scripts/transcript.py prints."""
    with redirect_stdout(StringIO()) as printed:
        runpy.run_path(str(ROOT / "scripts" / "transcript.py"), run_name="__main__")
    return f"```text\n{printed.getvalue()}```\n"


def runs() -> str:
    """What docs/evidence.toml keeps of the runs that test the promises. `{planted}` in it: the length of their list."""
    kept = _toml("docs/evidence.toml")["run"]
    planted = str(len(_toml("tests/planted/bugs.toml")["bug"]))
    results = [run["result"].strip().replace("{planted}", planted) for run in kept]
    rows = [
        (run["what"], f"`{run['command']}`", str(run["on"]), result) for run, result in zip(kept, results, strict=True)
    ]
    details = [f"\n{run['details'].strip()}\n" for run in kept if "details" in run]
    return _table(("What", "Command", "Date", "Result"), rows) + "".join(details)


def planted() -> str:
    """The planted bugs, by the rule or promise that each breaks."""
    bugs = _toml("tests/planted/bugs.toml")["bug"]
    names = _rules() | _promises()
    keys = list(dict.fromkeys((*names, *(bug["rule"] for bug in bugs))))
    bugs.sort(key=lambda bug: keys.index(bug["rule"]))
    rows = [(names.get(bug["rule"], bug["rule"]), bug["what"], f"`{bug['by']}`") for bug in bugs]
    return f"{len(bugs)} bugs:\n\n" + _table(("Rule or promise", "What is wrong", "Caught by"), rows)


def _rules() -> dict[str, str]:
    """Links to the rules of docs/rules.md by their names."""
    text = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    rules = re.findall(r"^## (.+)$", text, re.MULTILINE)
    return {name: f"[{name}](rules.md#{_fragment(name)})" for name in rules}


def _promises() -> dict[str, str]:
    """Links to the promises of GUARANTEE.md by their keys."""
    text = (ROOT / "GUARANTEE.md").read_text(encoding="utf-8")
    promises = re.findall(r"^### (.+) \((G\d)\)$", text, re.MULTILINE)
    return {key: f"[{name}](../GUARANTEE.md#{_fragment(f'{name} {key}')})" for name, key in promises}


def benchmarks() -> str:
    """The figures that `make bench ARGS=--save` has kept."""
    results = json.loads((ROOT / "bench" / "results.json").read_text(encoding="utf-8"))
    tables: str = runpy.run_path(str(ROOT / "bench" / "page.py"))["rendered"](results)
    return tables


PARTS: Mapping[str, Callable[[], str]] = {
    "transitions": transitions,
    "errors": errors,
    "sizes": sizes,
    "settings": settings,
    "transcript": transcript,
    "runs": runs,
    "planted": planted,
    "benchmarks": benchmarks,
}


def filled(text: str) -> str:
    """A document with its parts as the code has them."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


def main(arguments: Sequence[str]) -> int:
    """Write or check every document."""
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            path.write_text(new, encoding="utf-8")
    for name in stale:
        print(f"{name} {'is stale: run scripts/generate_docs.py' if '--check' in arguments else 'was written'}")
    return 1 if stale and "--check" in arguments else 0


def _toml(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def _fragment(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _default(key: str) -> str:
    setting = next(s for s in SETTINGS if s.key == key)
    value = setting.value_in(defaults())
    if value is None or value == ():
        return "off" if key == "admin_port" else "not set"
    if key == "data_dir":
        return "the platform's folder for application data"
    return f"`{toml(value, setting.kind)}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
