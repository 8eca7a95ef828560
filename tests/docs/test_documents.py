"""Links lead somewhere, code compiles, and the twins agree."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Read = Callable[[str], Any]


def test_links_inside_the_repository_lead_somewhere(document: Read, name: str) -> None:
    read = document(name)
    for link in read.links():
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = unquote(link).partition("#")
        target = read if not path else None
        if path:
            file = (read.path.parent / path).resolve()
            assert file.exists(), f"{name}: {link}"
            if fragment:
                target = type(read)(file, file.read_text(encoding="utf-8"))
        if target is not None:
            assert fragment in target.anchors(), f"{name}: {link}"


def test_python_blocks_compile(document: Read, name: str) -> None:
    for block in document(name).blocks("python"):
        compile(block, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_fences_are_closed(document: Read, name: str) -> None:
    assert len(re.findall(r"^```", document(name).text, re.MULTILINE)) % 2 == 0


def test_every_place_and_test_that_the_rules_name_exists(document: Read, root: Path) -> None:
    rules = [line for line in document("ARCHITECTURE.md").text.splitlines() if line.startswith("| **R")]
    assert [re.match(r"\| \*\*R(\d+)\*\*", line)[1] for line in rules] == [str(n) for n in range(1, 18)]  # type: ignore[index]
    for line in rules:
        _, _, where, tests, _ = line.split("|")
        assert "::" in where
        for place in re.findall(r"`([\w/]+\.py)::([\w.]+)`", where + tests):
            file, name = place
            path = root / file if file.startswith("tests/") else root / "src" / "answerback" / file
            assert name in _names(path), f"{file} has no {name}"


def _names(path: Path) -> set[str]:
    """Functions, classes and methods of a module: `name` and `Class.name`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if hasattr(item, "name")}
    return found
