"""The arrows between the packages, read from the syntax trees, and what importing costs."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import answerback

SOURCE = Path(answerback.__file__).parents[1]
PACKAGES = ("answerback", "answerback_aws", "answerback_desktop", "answerback_proof")

NEUTRAL = {"clock", "file_lock", "outbound", "tasks"}
"""Small helpers about the operating system and asyncio. They know nothing of questions and answers."""

INNER = {"protocol", "core", "ports", "model_guard"}
SERVER = INNER | {"service", "stores", "models", "auth", "clock", "outbound", "traces"}
MAY_IMPORT: Mapping[str, set[str]] = {
    # The product.
    "protocol": set(),
    "core": {"protocol"},
    "ports": {"protocol", "core"},
    "model_guard": {"protocol", "core", "ports"},
    "tasks": set(),
    "settings": set(),
    "clock": set(),
    "file_lock": set(),
    "outbound": set(),
    "service": INNER,
    "traces": INNER | {"service"},
    "stores": INNER | {"clock", "file_lock"},
    "models": INNER | {"outbound"},
    "auth": INNER | {"outbound", "tasks"},
    "client": {"protocol", "core", "outbound", "tasks"},
    "gateway": SERVER | {"settings", "tasks", "texts"},
    "testing": INNER | {"service", "stores"},
    "texts": {"protocol"},
    "cli": SERVER | {"client", "gateway", "settings", "texts"},
    "__main__": {"cli"},
    "answerback": {"client"},  # `from answerback import Client`; the package itself
    # The same product on AWS.
    "answerback_aws": set(),
    "answerback_aws.runtime": SERVER,
    # What it writes for the worker is what the worker reads.
    "answerback_aws.deploy": INNER | {"models", "clock", "outbound", "answerback_aws.runtime.worker_settings"},
    "answerback_aws.emulator": INNER | {"models", "clock", "outbound", "answerback_aws.deploy"},
    "answerback_aws.cost": {"core"},
    "answerback_aws.commands": INNER
    | {"auth", "cli", "client", "clock", "settings", "stores", "texts"}
    | {f"answerback_aws.{part}" for part in ("cost", "deploy", "emulator", "runtime")},
    # The desktop app.
    "answerback_desktop": {"client", "texts"} | NEUTRAL,
    "answerback_desktop.command": {"cli", "client", "answerback_desktop"},
    # What proves and measures them.
    "answerback_proof": SERVER
    | {"client", "gateway", "settings", "testing", "cli", "texts", "tasks", "answerback_aws"},
}
"""What each part may import at run time, besides itself and the version.

A part is a package or module of `answerback`, named without it, or of the three that build on it, named with it. One
that is not listed belongs to the part above it.
"""

HEAVY = {
    "PySide6",
    "aiohttp",
    "boto3",
    "filelock",
    "jwt",
    "opentelemetry",
    "platformdirs",
    "psycopg",
    "rich",
    "sqlite3",
    "typer",
    "uvloop",
    "xllamacpp",
}


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (SOURCE / package).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """`core` of `answerback.core.request`; `answerback` of the package itself; see MAY_IMPORT for the others."""
    package, _, rest = module.partition(".")
    top = rest.partition(".")[0]
    if package == "answerback":
        return top or package
    return f"{package}.{top}" if f"{package}.{top}" in MAY_IMPORT else package


def is_for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.AST, path: Path) -> Iterator[str]:
    """Modules of ours that the code imports when it runs, wherever in the file it does."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if is_module(full) else str(node.module)
        elif isinstance(node, ast.stmt) and is_for_types_only(node):
            continue
        else:
            yield from imports(node, path)


def is_module(name: str) -> bool:
    path = SOURCE.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def ours(path: Path) -> set[str]:
    tree = tree_of(path)
    return {name for name in imports(tree, path) if name.partition(".")[0] in PACKAGES}


def is_in(module: str, part: str) -> bool:
    """Whether a part holds a module. The package `answerback` itself holds the version, and is everybody's."""
    package = part.partition(".")[0]
    place = part if package in PACKAGES else f"answerback.{part}"
    return module in {"answerback", package} or f"{module}.".startswith(f"{place}.")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_import_follows_the_arrows(path: Path) -> None:
    part = part_of(name_of(path))
    assert part in MAY_IMPORT, f"{part} is a new part: say in MAY_IMPORT what it may import"
    allowed = MAY_IMPORT[part] | {part}
    wrong = sorted(name for name in ours(path) if not any(is_in(name, one) for one in allowed))
    assert not wrong, f"{name_of(path)} may import {sorted(allowed)}, but imports {wrong}"


def test_only_the_table_of_commands_names_what_builds_on_the_product() -> None:
    """An import by name would go round the arrows: `import_module("answerback_aws...")` is one, too."""
    naming = {
        name_of(path)
        for path in modules()
        if name_of(path).partition(".")[0] == "answerback"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and re.search(r"\banswerback_(aws|desktop|proof)\b", str(node.value))
    }
    assert naming == {"answerback.cli.main"}


def test_the_arrows_themselves_have_no_cycle() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()


def test_no_module_imports_itself_in_a_circle() -> None:
    """At import time. Imports inside a function are how a command stays light, and run later."""
    graph = {}
    for path in modules():
        tree = tree_of(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = []
        graph[name_of(path)] = {name for name in imports(tree, path) if name != name_of(path)}
    TopologicalSorter(graph).prepare()


def test_only_the_widgets_know_qt() -> None:
    """View models, engine and store can serve any front end, and are tested without one."""
    knowing = {
        name_of(path)
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Import | ast.ImportFrom) and "PySide6" in ast.unparse(node)
    }
    assert {name for name in knowing if not re.match(r"answerback_desktop\.(ui|app)\b", name)} == set()


@pytest.mark.parametrize(
    ("module", "needed"), [("answerback", set()), ("answerback.client", set()), ("answerback.cli.main", {"typer"})]
)
def test_what_a_client_imports_is_light(module: str, needed: set[str]) -> None:
    """Checked in a fresh interpreter: the servers, drivers and runtimes are for those who use them."""
    program = f"import sys, {module}; print(*sorted(m for m in sys.modules if '.' not in m))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert HEAVY & set(run.stdout.split()) == needed


def test_the_functions_import_what_their_package_has() -> None:
    """Lambda gets the packages of requirements/functions.txt and not those of a gateway or a terminal."""
    missing = ["aiohttp", "filelock", "httpx", "platformdirs", "psycopg", "rich", "typer", "websockets"]
    names = [name_of(path) for path in modules() if name_of(path).startswith("answerback_aws.runtime")]
    program = (
        f"import importlib, sys; sys.modules |= dict.fromkeys({missing}); [*map(importlib.import_module, {names})]"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", [path for path in modules() if path.name == "__init__.py"], ids=name_of)
def test_exports_exist_and_are_sorted(path: Path) -> None:
    if name_of(path).startswith("answerback_desktop.ui"):
        pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    module = importlib.import_module(name_of(path))
    exported = getattr(module, "__all__", [])
    assert [name for name in exported if not hasattr(module, name)] == []
    assert list(exported) == sorted(exported, key=order_of_ruff)
    assert len(set(exported)) == len(exported)


def order_of_ruff(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions, each by name: the order that `ruff check` keeps (RUF022)."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


def test_nothing_is_built_at_import() -> None:
    """A module-level name in capitals or with Final is a constant; a lower-case one that holds a call is suspect."""
    suspects = []
    for path in modules():
        for node in tree_of(path).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                suspects.append(f"{name_of(path)}:{node.lineno}")
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call | ast.Await):
                call = ast.unparse(node.value.func) if isinstance(node.value, ast.Call) else "await"
                if call not in {"logging.getLogger", "TypeVar", "ParamSpec", "NewType"}:
                    suspects.append(f"{name_of(path)}:{node.lineno}: {call}")
    assert suspects == []
