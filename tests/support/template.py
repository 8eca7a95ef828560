"""The template as data: intrinsic functions in their long form, and what its parts say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PATH = Path(__file__).resolve().parents[2] / "infra" / "template.yaml"
TEXT = PATH.read_text(encoding="utf-8")


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):
    pass


def _intrinsic(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _intrinsic)

TEMPLATE: Mapping[str, Any] = yaml.load(TEXT, Loader=_Loader)
RESOURCES: Mapping[str, Any] = TEMPLATE["Resources"]


def of_type(kind: str) -> dict[str, Any]:
    """The resources of a type, by name."""
    return {name: resource for name, resource in RESOURCES.items() if resource["Type"] == kind}


def plain(value: Any) -> str:
    """A value as one text: what a Ref, GetAtt or Sub names stands in `${}`, as in a Sub."""
    match value:
        case {"Ref": name}:
            return f"${{{name}}}"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"${{{name}.{attribute}}}"
        case {"Fn::Sub": str() as text}:
            return text
        case {"Fn::If": [_, first, _]}:
            return plain(first)
        case _:
            return str(value)


def listed(value: Any) -> list[Any]:
    """A list, whether one or many were written."""
    return value if isinstance(value, list) else [value]


def statements(role: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(action, resource) of everything that the role allows."""
    found = []
    for policy in role["Properties"]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            chosen = statement.get("Fn::If", [None, statement])[1]
            assert chosen["Effect"] == "Allow"
            found += [(action, plain(r)) for action in listed(chosen["Action"]) for r in listed(chosen["Resource"])]
    return found
