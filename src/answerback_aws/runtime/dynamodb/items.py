"""Records as items, and back; the few kinds of value that we use.

Attributes are named as the fields are, in camelCase with the unit; a field that has its default is left out, so that an
item stays below the 1 KB that one write unit pays for. `schema` is always there.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from answerback.core.camel import camel, snake
from answerback.core.request import Record
from answerback.stores.encoding import check_schema

Value: TypeAlias = str | int | bool | tuple[int, ...] | tuple[str, ...]
"""A tuple is a set, which is never empty."""

Item: TypeAlias = Mapping[str, Mapping[str, Any]]
"""As the low-level client has it: `{"attempt": {"N": "1"}}`."""

_NESTED: Final = ("wish", "ending", "parts", "hold", "watchers")
"""Fields that are kept as JSON: they are written whole and never asked about."""

_NAMED: Final = re.compile(r"#(\w+)")
_decode_json: Final = msgspec.json.Decoder()
_encode_json: Final = msgspec.json.Encoder()


def encode(values: Mapping[str, Value | None]) -> dict[str, dict[str, Any]]:
    """An item, or the values of an expression; None is left out."""
    return {name: _attribute(value) for name, value in values.items() if value is not None}


def decode(item: Item) -> dict[str, Any]:
    """The item's plain values; a set as a sorted tuple."""
    return {name: _value(attribute) for name, attribute in item.items()}


def text_of(item: Item, name: str) -> str | None:
    """A text attribute."""
    attribute = item.get(name)
    return None if attribute is None else str(attribute["S"])


def number_of(item: Item, name: str) -> int | None:
    """A number attribute."""
    attribute = item.get(name)
    return None if attribute is None else int(attribute["N"])


def encode_record(record: Record) -> dict[str, dict[str, Any]]:
    """The record's attributes."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    plain["schema"] = record.schema
    for name in _NESTED:
        if name in plain:
            plain[name] = _encode_json.encode(plain[name]).decode()
    return encode({camel(name): value for name, value in plain.items()})


def decode_item(item: Item) -> Record:
    """The record; attributes that are the store's own are not looked at.

    Raises: answerback.stores.database.StoreError: a newer version of the program wrote it.
    """
    plain: dict[str, Any] = {snake(name): value for name, value in decode(item).items()}
    for name in _NESTED:
        if name in plain:
            plain[name] = _decode_json.decode(plain[name])
    check_schema(int(plain["schema"]))
    return msgspec.convert(plain, Record)


def names_in(*expressions: str) -> dict[str, Any]:
    """What `#name` stands for in expressions: the attribute of that name, a reserved word of DynamoDB."""
    names = {f"#{name}": name for text in expressions for name in _NAMED.findall(text)}
    return {"ExpressionAttributeNames": names} if names else {}


def expression(change: str, condition: str = "", /, **values: Value | None) -> dict[str, Any]:
    """The arguments of a write: its change, and the condition that it needs. `:name` stands for one of the values."""
    found: dict[str, Any] = {"UpdateExpression": change, "ConditionExpression": condition}
    found |= names_in(change, condition)
    found["ExpressionAttributeValues"] = encode({f":{name}": value for name, value in values.items()})
    return {name: one for name, one in found.items() if one}


def update_of(table: str, key: Mapping[str, Value], change: str, condition: str = "", /, **values: Value | None) -> Any:
    """An update as a part of a transaction."""
    return {"Update": {"TableName": table, "Key": encode(key), **expression(change, condition, **values)}}


def update(before: Item, after: Item) -> dict[str, Any]:
    """The arguments of an update that turns `before` into `after`: only what differs is sent."""
    changed = [name for name in after if after[name] != before.get(name)]
    removed = [name for name in before if name not in after]
    names = {f"#u{n}": name for n, name in enumerate(changed + removed)}
    parts = []
    if changed:
        parts.append("SET " + ", ".join(f"#u{n} = :u{n}" for n in range(len(changed))))
    if removed:
        parts.append("REMOVE " + ", ".join(f"#u{n}" for n in range(len(changed), len(names))))
    return {
        "UpdateExpression": " ".join(parts),
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": {f":u{n}": after[name] for n, name in enumerate(changed)},
    }


def _attribute(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, tuple):
        return {"NS" if isinstance(value[0], int) else "SS": [str(one) for one in value]}
    return {"N": str(value)} if isinstance(value, int) else {"S": value}


def _value(attribute: Mapping[str, Any]) -> Any:
    ((kind, value),) = attribute.items()
    match kind:
        case "S":
            return str(value)
        case "N":
            return int(value)
        case "BOOL":
            return bool(value)
        case "NS":
            return tuple(sorted(map(int, value)))
        case "SS":
            return tuple(sorted(value))
    raise TypeError(f"an attribute of kind {kind} is not ours")
