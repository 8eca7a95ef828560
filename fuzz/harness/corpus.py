"""The kept inputs of each target: one text file, one Python bytes literal a line; `#` begins a comment."""

import ast
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "corpus"
REGRESSIONS = "# Inputs that once broke something; kept whatever a minimiser says."
KEPT = "# Inputs that each reach code that the ones before do not."


def read(name: str) -> tuple[list[bytes], list[bytes]]:
    """The regressions and the other inputs of a target; none if it has no file yet."""
    path = FOLDER / f"{name}.txt"
    found: tuple[list[bytes], list[bytes]] = ([], [])
    at = 1
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
        if line in (REGRESSIONS, KEPT):
            at = 0 if line == REGRESSIONS else 1
        elif line and not line.startswith("#"):
            found[at].append(ast.literal_eval(line))
    return found


def inputs(name: str) -> list[bytes]:
    """Every kept input of a target."""
    regressions, kept = read(name)
    return [*regressions, *kept]


def write(name: str, kept: Iterable[bytes]) -> None:
    """Replace the inputs of a target that are no regressions."""
    path = FOLDER / f"{name}.txt"
    head = path.read_text(encoding="ascii").partition(KEPT)[0] if path.exists() else f"{REGRESSIONS}\n\n"
    lines = [repr(data) for data in sorted(set(kept), key=lambda data: (len(data), data))]
    path.write_text(head + "\n".join((KEPT, *lines)) + "\n", encoding="ascii")
