"""Links lead somewhere, code compiles, and the twins agree."""

import ast
import re
from collections.abc import Callable
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
