"""Links lead somewhere, code compiles, and the twins agree."""

import ast
import re
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import answerback.client as client

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


def rules_of(document: Read) -> dict[str, str]:
    """The rows of the table of rules by the rule's name, in small letters."""
    table = document("ARCHITECTURE.md").text.partition("<!-- rules -->")[2]
    rows = re.findall(r"^\| \*\*([^*]+)\*\* \(R(\d+)\)\. .*$", table, re.MULTILINE)
    lines = [line for line in table.splitlines() if line.startswith("| **")]
    assert [number for _, number in rows] == [str(n) for n in range(1, 18)]
    assert len(lines) == len({name for name, _ in rows}) == 17
    return {name.lower(): line for (name, _), line in zip(rows, lines, strict=True)}


def test_every_place_and_test_that_the_rules_name_exists(document: Read, root: Path) -> None:
    for line in rules_of(document).values():
        _, _, where, tests, _ = line.split("|")
        assert "::" in where
        for place in re.findall(r"`([\w/]+\.py)::([\w.]+)`", where + tests):
            file, name = place
            path = root / file if file.startswith("tests/") else root / "src" / "answerback" / file
            assert name in _names(path), f"{file} has no {name}"


def test_every_rule_that_the_code_names_is_in_the_table(document: Read, root: Path) -> None:
    """And the code names rules, for nobody knows their numbers by heart."""
    rules = rules_of(document)
    named = set()
    for part in ("core", "service", "protocol", "client", "testing"):
        for path in (root / "src" / "answerback" / part).glob("*.py"):
            text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
            assert not re.findall(r"\b[RG]\d{1,2}\b", text), path
            for names in re.findall(r"\b[Rr]ules?: ([a-z ,;]+)", text):
                named |= {name.strip() for name in names.split(";")}
    assert named <= set(rules), named - set(rules)
    assert len(named) >= 10, "the code still names its rules"


def _names(path: Path) -> set[str]:
    """Functions, classes and methods of a module: `name` and `Class.name`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if hasattr(item, "name")}
    return found


def test_the_twins_have_the_same_code_and_the_same_links(document: Read) -> None:
    english, korean = document("README.md"), document("README.ko.md")
    fences = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
    assert fences.findall(english.text) == fences.findall(korean.text)
    assert len(list(english.headings())) == len(list(korean.headings()))
    targets = [link for link in english.links() if "README" not in link]
    assert sorted(targets) == sorted(link for link in korean.links() if "README" not in link)


def test_the_sdk_page_names_everything_public(document: Read) -> None:
    text = document("docs/sdk.md").text
    for name in client.__all__:
        assert re.search(rf"\b{name}\b", text), name
    for name in {*vars(client.Client)} | {"session_id"}:
        if not name.startswith("_"):
            assert re.search(rf"`[^`\n]*\b{name}\b", text), f"Client.{name}"
    for argument in signature(client.Client).parameters:
        assert f"`{argument}`" in text, argument
    (tree,) = (block for block in document("docs/sdk.md").blocks("") if block.startswith("AnswerbackError"))
    documented = (client.errors.__doc__ or "").replace("\n    ", "\n")
    assert tree in documented
