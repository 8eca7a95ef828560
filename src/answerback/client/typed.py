"""Typed answers: the JSON Schema of a Python type, and an answer's text as a value of it."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from answerback.protocol.codec import is_deep
from answerback.protocol.limits import MAX_SCHEMA_DEPTH

T = TypeVar("T")

_FENCED: Final = re.compile(r"\s*```[^\n`]*\n(.*?)\n?```\s*", re.DOTALL)


class _Reader(Protocol):
    """What knows a type that msgspec does not."""

    def json_schema(self) -> dict[str, Any]: ...

    def validate_json(self, text: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Old:
    """A model of pydantic 1."""

    kind: Any

    def json_schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = self.kind.schema()
        return schema

    def validate_json(self, text: str) -> Any:
        return self.kind.parse_raw(text)


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a msgspec Struct, a dataclass, a pydantic model, or any other type that msgspec knows.

    Its top is never a reference: most servers want to see an object there. Raises: TypeError: the type has none.
    """
    reader = _reader(kind)
    try:
        schema = msgspec.json.schema(kind) if reader is None else reader.json_schema()
    except (TypeError, ValueError, RuntimeError) as exc:  # the last are of pydantic
        raise TypeError(
            f"an answer cannot be a {kind!r}; ask for a msgspec Struct, a dataclass, a pydantic model, or a list or "
            "dict of such"
        ) from exc
    if reference := schema.pop("$ref", None):
        inner: Any = schema
        for name in reference.removeprefix("#/").split("/"):
            inner = inner[name]
        schema = {**inner, **schema}
    return schema


def read_as(kind: type[T], text: str) -> T:
    """The value that the text is. Raises: ValueError: what is wrong, for a person and for the model."""
    text = without_fence(text)
    try:
        reader = _reader(kind)
        return msgspec.json.decode(text, type=kind) if reader is None else cast("T", reader.validate_json(text))
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc


def without_fence(text: str) -> str:
    """The text inside of a Markdown fence, if it is nothing else: models that are told in words like to add one.

    A byte order mark before it is none of it.
    """
    text = text.removeprefix("\ufeff")
    fenced = _FENCED.fullmatch(text)
    return text if fenced is None else fenced[1]


def asked_again(message: str, text: str, why: str) -> str:
    """The question that asks for a valid answer in place of one that is none."""
    return f"{message}\n\nAn earlier answer was:\n{text}\n\nIt is not valid: {why}\nAnswer again, and correct that."


def described(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as a frame has it. Raises: ValueError: it is none."""
    try:
        loose: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema), type=dict[str, Any])
    except (msgspec.MsgspecError, TypeError, RecursionError) as exc:
        raise ValueError(f"the schema is not a JSON object ({exc})") from exc
    if is_deep(loose):
        raise ValueError(f"the schema is nested too deeply; it may be {MAX_SCHEMA_DEPTH} levels deep")
    return loose


def _reader(kind: Any) -> _Reader | None:
    """What reads the type if msgspec does not: it is a model of pydantic, or has one inside, as `list[Invoice]` has."""
    if (pydantic := sys.modules.get("pydantic")) is None:
        return None
    if hasattr(kind, "parse_raw") and not hasattr(kind, "model_validate_json"):
        return _Old(kind)
    try:
        msgspec.json.schema(kind)
    except TypeError:
        try:
            reader: _Reader = pydantic.TypeAdapter(kind)
        except (AttributeError, pydantic.errors.PydanticUserError):  # of pydantic 1, or nothing that it knows
            return None
        return reader
    return None
