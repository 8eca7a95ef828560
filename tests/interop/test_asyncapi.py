"""The AsyncAPI document against the specification's own JSON schema, and its examples against their payload schemas."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from asyncapi import document

HERE = Path(__file__).parent


def errors_in(content: Any, folder: Path) -> list[str]:
    """What the validator finds wrong."""
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules" / "@asyncapi" / "specs").is_dir():
        why = "Node and its package @asyncapi/specs are not here (make test installs them)"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    file = folder / "asyncapi.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    done = subprocess.run(
        [node, str(HERE / "asyncapi.mjs"), str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout, done.stderr
    found: list[str] = json.loads(done.stdout)
    assert (done.returncode == 0) == (found == [])
    return found


def test_the_document_and_its_examples_are_valid(tmp_path: Path) -> None:
    assert errors_in(document(), tmp_path) == []


def test_the_validator_finds_a_wrong_document(tmp_path: Path) -> None:
    wrong = document()
    wrong["operations"]["hello"]["action"] = "recieve"
    assert any("/operations/hello" in error for error in errors_in(wrong, tmp_path))


def test_the_validator_finds_a_wrong_example(tmp_path: Path) -> None:
    wrong = document()
    del wrong["components"]["messages"]["messageDelta"]["examples"][0]["payload"]["offset"]
    (error,) = errors_in(wrong, tmp_path)
    assert "messageDelta, a piece" in error
