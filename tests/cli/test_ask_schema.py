"""`answerback ask --schema`: what a schema file may be, and what an answer is checked for."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from answerback.cli.ask import _Schema
from answerback.cli.output import CliError

TEXT = {"type": "object", "properties": {"a": {"type": "string"}}}


def schema_of(folder: Path, content: object) -> _Schema:
    path = folder / "schema.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return _Schema.read(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"$ref": "http://127.0.0.1:9/x.json"}, "refers to http://127.0.0.1:9/x.json, which is not in it"),
        ({"$id": "http://127.0.0.1:9/", "items": {"$ref": "other"}}, "which is not in it"),
        ({"$ref": "#/$defs/no"}, "which is not in it"),
        ({"patternProperties": {"(": {}}}, "is not a JSON Schema"),
        ({"$schema": 5}, "is not a JSON Schema"),
        ('{"items":' * 500 + "{}" + "}" * 500, "nested too deeply"),
        ('{"items":' * 5_000 + "{}" + "}" * 5_000, "nested too deeply"),
        ("[]", "is not a JSON object"),
    ],
)
def test_what_is_no_schema_or_refers_to_elsewhere_is_told_before_asking(
    tmp_path: Path, content: object, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(CliError, match=why.replace("$", "\\$")):
        schema_of(tmp_path, content)


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"T": TEXT}, "$ref": "#/$defs/T"},
        {"$id": "http://127.0.0.1:9/a", "$defs": {"T": {"$id": "b", **TEXT}}, "$ref": "b"},
        {"$schema": "http://json-schema.org/draft-04/schema#", "definitions": {"T": TEXT}, "$ref": "#/definitions/T"},
    ],
)
def test_what_a_schema_refers_to_in_itself_counts(tmp_path: Path, schema: dict[str, Any]) -> None:
    why = schema_of(tmp_path, schema).why_not('{"a": 1}')
    assert why == "the answer is not valid at $.a: 1 is not of type 'string'"


@pytest.mark.parametrize(
    ("schema", "text", "why"),
    [
        ({}, "[" * 5_000, "the answer is not JSON"),
        ({}, "NaN", "the answer is not JSON"),
        ({"$ref": "#"}, "{}", "the answer cannot be checked"),
    ],
)
def test_an_answer_that_cannot_be_checked_is_told(tmp_path: Path, schema: dict[str, Any], text: str, why: str) -> None:
    assert (schema_of(tmp_path, schema).why_not(text) or "").startswith(why)


def test_a_byte_order_mark_is_no_part_of_schema_or_answer(tmp_path: Path) -> None:
    assert schema_of(tmp_path, "\ufeff{}").why_not("\ufeff{}") is None


@pytest.mark.timeout(10)
def test_a_schema_is_not_read_from_a_pipe_or_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CliError, match="not a regular file"):
            _Schema.read(path)
