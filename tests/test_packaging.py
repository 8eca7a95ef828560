"""The pins and the extras: complete, with hashes, and without the name of any host."""

import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = sorted([*(ROOT / "requirements").glob("*.txt"), *(ROOT / "src/answerback_aws/requirements").glob("*.txt")])
EMULATOR = ROOT / "src/answerback_aws/requirements/emulator.txt"
EXTRAS = {"server", "local-llm", "postgres", "openai", "aws", "otel", "desktop", "schema"}


def pinned(path: Path) -> dict[str, str]:
    """Name to the lines that pin it."""
    entries = re.split(r"\n(?=\S)", path.read_text().strip())
    return {re.split(r"==", entry)[0]: entry for entry in entries}


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements}  # type: ignore[index]


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.stem)
def test_every_package_has_a_version_and_hashes(path: Path) -> None:
    assert pinned(path)
    for name, entry in pinned(path).items():
        assert re.match(rf"{re.escape(name)}==\S+", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.stem)
def test_no_pin_names_a_host(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert not re.search(r"--(extra-)?index|--find-links|--trusted-host", text)


def test_the_pins_cover_what_each_set_installs() -> None:
    extras = {name: names(found) for name, found in PROJECT["project"]["optional-dependencies"].items()}
    base = names(PROJECT["project"]["dependencies"])
    dev = set(pinned(ROOT / "requirements/dev.txt"))
    gateway = set(pinned(ROOT / "requirements/gateway.txt"))
    groups = [text for group in PROJECT["dependency-groups"].values() for text in group if isinstance(text, str)]
    assert base | extras["server"] | extras["local-llm"] | {"hatchling"} <= gateway <= dev
    assert extras["postgres"] | extras["openai"] | extras["aws"] | extras["otel"] | names(groups) <= dev
    desktop = extras["desktop"] - {"answerback"} | extras["server"] | extras["local-llm"]
    assert base | desktop <= set(pinned(ROOT / "requirements/desktop.txt")) <= dev


def test_one_version_of_a_package_everywhere() -> None:
    """The emulator has an environment of its own, because it pins packages that we use too."""
    versions: dict[str, set[str]] = {}
    for path in PINS:
        if path == EMULATOR:
            continue
        for name, entry in pinned(path).items():
            versions.setdefault(name, set()).add(entry.split()[0])
    assert [found for found in versions.values() if len(found) > 1] == []


def test_all_is_every_extra() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) == EXTRAS | {"all"}
    [everything] = extras["all"]
    assert set(re.search(r"\[(.*)\]", everything)[1].split(",")) == EXTRAS  # type: ignore[index]


@pytest.fixture
def make_venv_name(tmp_path: Path) -> Callable[[str, str], str]:
    """What the Makefile takes as the environment where `.venv` has one Python and PYTHON is another."""

    def python(path: Path, version: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)
        return path

    def name(made: str, asked: str) -> str:
        for shared in ("Makefile", "scripts"):
            (tmp_path / shared).symlink_to(ROOT / shared)
        if made:
            python(tmp_path / ".venv/bin/python", made)
        chosen = [f"PYTHON={python(tmp_path / 'asked', asked)}"] if asked else []
        (tmp_path / "name.mk").write_text("include Makefile\n.PHONY: name\nname: ; @echo $(VENV)\n")
        command = ["make", "--file", "name.mk", *chosen, "name"]
        environment = {"PATH": os.environ["PATH"]}  # without what a `make test PYTHON=...` hands on
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return name


@pytest.mark.parametrize(
    ("made", "asked", "taken"),
    [
        ("", "", ".venv"),
        ("", "3.13", ".venv"),
        ("3.12", "", ".venv"),
        ("3.12", "3.12", ".venv"),
        ("3.12", "3.13", ".venv-3.13"),
    ],
)
def test_another_python_has_an_environment_of_its_own(
    make_venv_name: Callable[[str, str], str], made: str, asked: str, taken: str
) -> None:
    assert make_venv_name(made, asked) == taken
