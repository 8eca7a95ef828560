"""The AsyncAPI document: up to date, complete, its references lead somewhere, its examples are frames."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asyncapi import CLIENT_FRAMES, REPLIES, SERVER_FRAMES, UNASKED, document, tag, text
from frame_examples import examples

from answerback.protocol.codec import decode_client, decode_server, encode

FILE = Path(__file__).resolve().parents[2] / "asyncapi.json"
EVERY_FRAME = (*CLIENT_FRAMES, *SERVER_FRAMES)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for item in part:
            yield from references(item)


def resolve(path: str) -> Any:
    found: Any = document()
    assert path.startswith("#/")
    for step in path[2:].split("/"):
        found = found[step]
    return found


def test_the_kept_file_is_up_to_date() -> None:
    """To repair it: scripts/asyncapi.py > asyncapi.json"""
    assert FILE.read_text(encoding="utf-8") == text()


def test_the_module_writes_it() -> None:
    command = [sys.executable, str(FILE.parent / "scripts/asyncapi.py")]
    assert subprocess.run(command, capture_output=True, check=True).stdout.decode() == text()


def test_every_reference_leads_somewhere() -> None:
    for path in set(references(document())):
        assert resolve(path) is not None


def test_every_frame_is_a_message_with_its_fields_and_examples() -> None:
    messages = document()["components"]["messages"]
    assert list(messages) == [tag(frame) for frame in EVERY_FRAME]
    for frame in EVERY_FRAME:
        message = messages[tag(frame)]
        payload = resolve(message["payload"]["$ref"])
        assert set(payload["properties"]) == {"action"} | {f.encode_name for f in msgspec.structs.fields(frame)}
        assert message["examples"], tag(frame)


def test_every_frame_is_received_or_sent_by_some_operation() -> None:
    operations = document()["operations"].values()
    named = {ref.rpartition("/")[2] for operation in operations for ref in references(operation)}
    assert named == {tag(frame) for frame in EVERY_FRAME} | {"connection"}
    assert list(REPLIES) == list(CLIENT_FRAMES)
    assert set(UNASKED) < set(SERVER_FRAMES)


def test_messages_of_an_operation_are_of_its_channel() -> None:
    channel = document()["channels"]["connection"]
    for operation in document()["operations"].values():
        for part in (operation, operation.get("reply", {})):
            for ref in references(part.get("messages", [])):
                assert ref.rpartition("/")[2] in channel["messages"]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_an_example_is_a_frame_and_says_nothing_superfluous(example: Any) -> None:
    data = encode(example.frame)
    decode = decode_client if type(example.frame) in CLIENT_FRAMES else decode_server
    assert decode(data) == example.frame


def test_the_names_of_examples_are_unique() -> None:
    names = [example.name for example in examples()]
    assert len(set(names)) == len(names)


def test_an_ending_has_the_length_of_its_text() -> None:
    for message in document()["components"]["messages"]["messageResponse"]["examples"]:
        payload = message["payload"]
        if payload["response"] is not None:
            assert payload["length"] == len(payload["response"])


def test_the_error_codes_are_a_table_for_programs() -> None:
    schema = document()["components"]["schemas"]["ErrorCode"]
    assert sorted(schema["x-codes"]) == sorted(schema["enum"])
    assert json.loads(json.dumps(schema)) == schema
