"""The one rule between names in Python and names in JSON and in DynamoDB, where msgspec's `rename` does not reach."""

import re
from dataclasses import fields
from typing import Any


def camel(name: str) -> str:
    """`user_id` as `userId`."""
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def snake(name: str) -> str:
    """`userId` as `user_id`."""
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)


def row_as_json(row: Any) -> dict[str, Any]:
    """A row of a store, a dataclass, as JSON has it: names in camel case, without what has its default."""
    values = {one.name: getattr(row, one.name) for one in fields(row) if getattr(row, one.name) != one.default}
    return {camel(name): value for name, value in values.items()}
