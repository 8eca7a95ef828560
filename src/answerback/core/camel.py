"""The one rule between names in Python and names in JSON and in DynamoDB, where msgspec's `rename` does not reach."""

import re


def camel(name: str) -> str:
    """`user_id` as `userId`."""
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def snake(name: str) -> str:
    """`userId` as `user_id`."""
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)
