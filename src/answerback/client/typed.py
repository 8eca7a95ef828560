"""Typed answers: the JSON Schema of a Python type, and an answer's text as a value of it."""

import re
from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from answerback.protocol.codec import is_deep
from answerback.protocol.limits import MAX_SCHEMA_DEPTH

T = TypeVar("T")

_FENCED: Final = re.compile(r"\s*```[^\n`]*\n(.*?)\n?```\s*", re.DOTALL)


class _Pydantic(Protocol):
    """What a pydantic model has; the package itself is not needed for it."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...

    @classmethod
    def model_validate_json(cls, text: str) -> Any: ...


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a msgspec Struct, a dataclass, a pydantic model, or any other type that msgspec knows.

    Its top is never a reference: most servers want to see an object there. Raises: TypeError: the type has none.
    """
    schema = cast("type[_Pydantic]", kind).model_json_schema() if _is_pydantic(kind) else msgspec.json.schema(kind)
    if reference := schema.pop("$ref", None):
        schema = {**schema["$defs"][reference.rpartition("/")[2]], **schema}
    return schema


def read_as(kind: type[T], text: str) -> T:
    """The value that the text is. Raises: ValueError: what is wrong, for a person and for the model."""
    text = without_fence(text)
    try:
        if _is_pydantic(kind):
            return cast("T", cast("type[_Pydantic]", kind).model_validate_json(text))
        return msgspec.json.decode(text, type=kind)
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


def _is_pydantic(kind: type[Any]) -> bool:
    return hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate_json")
