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
FENCES = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


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


def test_paths_of_the_repository_that_are_named_exist(document: Read, name: str, root: Path) -> None:
    folders = "bench|conformance|docs|examples|fuzz|infra|packaging|requirements|scripts|src|tests"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)[`:]", document(name).prose()):
        assert (root / path).exists(), f"{name}: {path}"


def test_python_blocks_compile(document: Read, name: str) -> None:
    for block in document(name).blocks("python"):
        compile(block, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_fences_are_closed(document: Read, name: str) -> None:
    assert len(re.findall(r"^```", document(name).text, re.MULTILINE)) % 2 == 0


def rules_of(document: Read) -> dict[str, str]:
    """The sections of docs/rules.md by the rule's name."""
    sections = document("docs/rules.md").text.partition("<!-- rules -->")[2].split("\n## ")[1:]
    rules = {name: body for name, _, body in (section.partition("\n") for section in sections)}
    assert len(sections) == len(rules)
    return rules


def test_every_place_and_test_that_the_rules_name_exists(document: Read, root: Path) -> None:
    for name, body in rules_of(document).items():
        _, where, held_by = re.split(r"^- (?:Where|Held by): ", body, flags=re.MULTILINE)
        for kind, places in (("place", where), ("test", held_by)):
            found = re.findall(r"`([\w/]+\.py)::([\w.]+)`", places)
            assert found, f"{name} has no {kind}"
            for file, function in found:
                assert file.startswith("tests/") == (kind == "test"), f"{name}: {file} is no {kind}"
                path = root / file if kind == "test" else root / "src" / "answerback" / file
                assert function in _names(path), f"{name}: {file} has no {function}"


def test_the_page_of_architecture_lists_every_rule_with_a_link_to_its_details(document: Read) -> None:
    rules = document("ARCHITECTURE.md").text.partition("\n## The rules\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^- \[(.+?)\]\(docs/rules\.md#(.+?)\)", rules, re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted(rules_of(document))
    for name, fragment in listed:
        assert fragment == re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-"), name


def test_every_rule_that_the_code_names_is_a_rule(document: Read, root: Path) -> None:
    """And the code uses names, for nobody knows the numbers by heart."""
    rules = {name.lower() for name in rules_of(document)}
    named = set()
    for part in ("core", "service", "protocol", "client", "testing"):
        for path in (root / "src" / "answerback" / part).glob("*.py"):
            text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
            assert not re.findall(r"\b[RG]\d{1,2}\b", text), path
            for names in re.findall(r"\b[Rr]ules?: ([a-z ,;]+)", text):
                named |= {name.strip() for name in names.split(";")}
    assert named <= rules, named - rules
    assert len(named) >= 10, "the code still names its rules"


def test_what_the_page_of_architecture_finds_in_a_file_is_there(document: Read, root: Path) -> None:
    """`[core/x.py](src/answerback/core/x.py) `name`, `Class.name``: the file has these names."""
    places = re.findall(r"\]\((src/[\w/]+\.py)\)((?:,? `[\w.]+`)+)", document("ARCHITECTURE.md").text)
    assert len(places) >= 25
    for file, names in places:
        for name in re.findall(r"`([\w.]+)`", names):
            assert name in _names(root / file), f"{file} has no {name}"


def _names(path: Path) -> set[str]:
    """What a module defines: `name`, and `Class.name` for the methods and fields of a class."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found |= _defined(node)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for item in node.body for name in _defined(item)}
    return found


def _defined(node: ast.stmt) -> set[str]:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def test_the_twins_have_the_same_code_and_the_same_links(document: Read) -> None:
    english, korean = document("README.md"), document("README.ko.md")
    assert FENCES.findall(english.text) == FENCES.findall(korean.text)
    assert len(list(english.headings())) == len(list(korean.headings()))
    targets = [link for link in english.links() if "README" not in link]
    korean_targets = [link.replace("docs/ko/", "docs/") for link in korean.links() if "README" not in link]
    assert sorted(targets) == sorted(korean_targets)


def test_the_korean_tutorial_has_every_step_of_the_english_one(document: Read) -> None:
    english, korean = document("docs/tutorial.md"), document("docs/ko/tutorial.md")
    steps, found = FENCES.findall(english.text), FENCES.findall(korean.text)
    assert found[: len(steps)] == steps  # behind them is how to get a model that answers in Korean
    numbers = re.compile(r"^## (\d)\.", re.MULTILINE)
    assert numbers.findall(english.text) == numbers.findall(korean.text)


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
