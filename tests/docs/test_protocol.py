"""PROTOCOL.md says what the code does: fields, examples, tables."""

import json
import re
import runpy
from collections.abc import Callable, Iterator
from typing import Any, get_args

import msgspec
import pytest

from answerback.protocol import frames
from answerback.protocol.codec import decode_client, decode_server
from answerback.protocol.frames import VISIBLE, ClientFrame, ServerFrame
from answerback.protocol.limits import MAX_ID_LENGTH

CLIENT = get_args(ClientFrame)
SERVER = get_args(ServerFrame)
PARTS = (
    "BudgetInfo",
    "Cost",
    "ResumePoint",
    "ClientInfo",
    "Attachment",
    "Format",
    "ServerLimits",
    "ServerInfo",
    "ModelInfo",
    "ErrorBody",
    "Usage",
    "Timing",
    "ConversationSummary",
    "Turn",
    "TurnPart",
)
HEAD = "| Field | Type | Required | Limits | Meaning |"


@pytest.fixture(scope="session")
def protocol(document: Callable[[str], Any]) -> Any:
    return document("PROTOCOL.md")


def _tables(text: str) -> dict[str, list[list[str]]]:
    """Rows of each table of fields, by the frame's action or the part's name."""
    found: dict[str, list[list[str]]] = {}
    lines = iter(text.splitlines())
    name = ""
    for line in lines:
        if match := re.fullmatch(r"#### (\w+)|<!-- fields: (\w+) -->", line):
            name = match[1] or match[2]
        elif line == HEAD:
            assert name not in found, f"two tables of {name}"
            next(lines)
            found[name] = list(_rows(lines))
    return found


def _rows(lines: Iterator[str]) -> Iterator[list[str]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def _word(field: Any) -> str:
    """How the document names a field's type."""
    kind = field.type
    options = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    words = {
        msgspec.inspect.StrType: "string",
        msgspec.inspect.BytesType: "string",
        msgspec.inspect.LiteralType: "string",
        msgspec.inspect.EnumType: "string",
        msgspec.inspect.IntType: "number",
        msgspec.inspect.BoolType: "boolean",
        msgspec.inspect.VarTupleType: "list",
        msgspec.inspect.StructType: "object",
        msgspec.inspect.DictType: "object",
        msgspec.inspect.AnyType: "any",
    }
    nullable = any(isinstance(option, msgspec.inspect.NoneType) for option in options)
    (word,) = {words[type(option)] for option in options if not isinstance(option, msgspec.inspect.NoneType)}
    return f"{word} or null" if nullable and field.required else word


def _struct(name: str) -> Any:
    by_name = {str(frame.__struct_config__.tag): frame for frame in (*CLIENT, *SERVER)}
    return by_name.get(name) or getattr(frames, name)


EVERY_STRUCT = [str(frame.__struct_config__.tag) for frame in (*CLIENT, *SERVER)] + list(PARTS)


@pytest.mark.parametrize("struct", EVERY_STRUCT)
def test_the_table_of_a_frame_lists_exactly_its_fields(protocol: Any, struct: str) -> None:
    fields = msgspec.inspect.type_info(_struct(struct)).fields
    expected = [(f"`{f.encode_name}`", _word(f), "yes" if f.required else "no") for f in fields]
    assert [tuple(row[:3]) for row in _tables(protocol.text)[struct]] == expected


def test_every_table_of_fields_is_of_a_frame_or_a_part_of_one(protocol: Any) -> None:
    assert sorted(_tables(protocol.text)) == sorted(EVERY_STRUCT)


@pytest.mark.parametrize("struct", [str(frame.__struct_config__.tag) for frame in CLIENT])
def test_the_limits_of_a_clients_fields_are_the_codes(protocol: Any, struct: str) -> None:
    rows = {row[0].strip("`"): row[3] for row in _tables(protocol.text)[struct]}
    for field in msgspec.inspect.type_info(_struct(struct)).fields:
        kinds = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
        for kind in kinds:
            if isinstance(kind, msgspec.inspect.IntType) and field.encode_name != "offset":
                assert f"{kind.ge} to {kind.le:,}" in rows[field.encode_name]
            if isinstance(kind, msgspec.inspect.StrType) and kind.pattern == VISIBLE:
                assert kind.max_length == MAX_ID_LENGTH
                assert rows[field.encode_name].startswith("an id")


def test_every_example_decodes_and_has_no_field_that_the_frame_has_not(protocol: Any) -> None:
    seen = set()
    for block in protocol.blocks("json"):
        example = json.loads(block)
        action = example["action"]
        decode = decode_client if action in EVERY_STRUCT[: len(CLIENT)] else decode_server
        frame: Any = decode(block)
        assert frame is not None, action
        again = json.loads(msgspec.json.encode(frame))
        assert again == example, "an unknown field, or a default that would be left out"
        if example.get("response") is not None:
            assert len(example["response"]) == example["length"]
        seen.add(action)
    assert seen == set(EVERY_STRUCT) - set(PARTS), "every frame has an example"


def test_the_transcript_has_frames_only(protocol: Any) -> None:
    (transcript,) = (block for block in protocol.blocks("text") if block.startswith("#"))
    kinds = set()
    for line in transcript.splitlines():
        if line.startswith("<- "):
            kinds.add(type(decode_server(line[3:])).__name__)
    assert {"Welcome", "MessageAccepted", "MessageStarted", "MessageDelta", "MessageResponse", "Error"} == kinds


def test_what_is_made_from_the_code_is_not_stale(root: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables, the transcript, the evidence. To repair it: python scripts/generate_docs.py."""
    generator = runpy.run_path(str(root / "scripts" / "generate_docs.py"))
    assert generator["main"](["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("field", ["userId", "conversationId", "model", "system", "maxTokens", "replaces"])
def test_null_from_a_client_is_the_same_as_nothing(field: str) -> None:
    plain = '{"action":"sendMessage","requestId":"r","message":"m"}'
    assert decode_client(plain[:-1] + f',"{field}":null}}') == decode_client(plain)
