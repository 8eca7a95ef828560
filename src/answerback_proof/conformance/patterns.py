"""Values with variables, and patterns that values are matched with. Pure. conformance/README.md has the list.

A value holds `${name}` where a variable goes; a string that is nothing else becomes the variable itself, whatever its
type. A pattern is a value in which an object matches an object that has more fields, and in which an object with one
key that begins with `$` is a matcher.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

Variables: TypeAlias = dict[str, Any]

ABSENT: Final = object()
"""Stands for a field that is not there."""

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_.]*)\}")


class Mismatch(Exception):
    """A value is not as the pattern says. `path` is where in the value."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path or 'it'} {self.why}"


class BrokenPattern(Exception):
    """A variable or a matcher that does not exist: the case is wrong, not what it tries."""


def substitute(value: Any, variables: Mapping[str, Any]) -> Any:
    """The value with its variables filled in, `$repeat` and `$join` made to strings.

    Raises: BrokenPattern: a variable is not known.
    """
    match value:
        case str():
            if whole := _VARIABLE.fullmatch(value):
                return _look_up(whole[1], variables)
            return _VARIABLE.sub(lambda found: str(_look_up(found[1], variables)), value)
        case {"$repeat": [text, int() as times]} if len(value) == 1:
            return str(substitute(text, variables)) * times
        case {"$join": list() as parts} if len(value) == 1:
            return "".join(str(substitute(part, variables)) for part in parts)
        case dict():
            return {key: substitute(part, variables) for key, part in value.items()}
        case list():
            return [substitute(part, variables) for part in value]
        case _:
            return value


def match(pattern: Any, value: Any, variables: Variables, path: str = "") -> None:
    """Check a value; `$capture` puts what it finds into `variables`. `pattern` has its variables filled in.

    Raises: Mismatch: with the place and the reason. BrokenPattern: there is no such matcher.
    """
    if isinstance(pattern, dict):
        if len(pattern) == 1 and (name := next(iter(pattern))).startswith("$"):
            _matcher(name)(pattern[name], value, variables, path)
            return
        _match_fields(pattern, value, variables, path)
    elif isinstance(pattern, list):
        if not isinstance(value, list) or len(value) != len(pattern):
            raise Mismatch(path, f"should be a list of {len(pattern)}, but is {_shown(value)}")
        for number, (part, found) in enumerate(zip(pattern, value, strict=True)):
            match(part, found, variables, f"{path}[{number}]")
    elif type(value) is not type(pattern) or value != pattern:
        raise Mismatch(path, f"should be {_shown(pattern)}, but is {_shown(value)}")


def match_exactly(pattern: Any, value: Any, variables: Variables) -> None:
    """As `match`, but no object has a field that the pattern does not name. Raises: Mismatch; BrokenPattern."""
    match(pattern, value, variables)
    _check_nothing_more(pattern, value, "")


def _check_nothing_more(pattern: Any, value: Any, path: str) -> None:
    """`value` matches, so it has the pattern's form."""
    if isinstance(pattern, list):
        for number, (part, found) in enumerate(zip(pattern, value, strict=True)):
            _check_nothing_more(part, found, f"{path}[{number}]")
    elif isinstance(pattern, dict) and not (len(pattern) == 1 and next(iter(pattern)).startswith("$")):
        for key, found in value.items():
            inner = f"{path}.{key}" if path else key
            if key not in pattern:
                raise Mismatch(inner, f"should not be there, but is {_shown(found)}")
            _check_nothing_more(pattern[key], found, inner)


def matches(pattern: Any, value: Any) -> bool:
    """Whether a value is as the pattern says; captures nothing."""
    try:
        match(pattern, value, {})
    except Mismatch:
        return False
    return True


def _match_fields(pattern: Mapping[str, Any], value: Any, variables: Variables, path: str) -> None:
    if not isinstance(value, dict):
        raise Mismatch(path, f"should be an object, but is {_shown(value)}")
    for key, part in pattern.items():
        inner = f"{path}.{key}" if path else key
        found = value.get(key, ABSENT)
        if found is ABSENT and not (isinstance(part, dict) and "$absent" in part):
            raise Mismatch(inner, "is missing")
        match(part, found, variables, inner)


def _matcher(name: str) -> Callable[[Any, Any, Variables, str], None]:
    found = _MATCHERS.get(name)
    if found is None:
        raise BrokenPattern(f"there is no matcher {name}; there are {', '.join(_MATCHERS)}")
    return found


def _any(_wanted: Any, _value: Any, _variables: Variables, _path: str) -> None:
    """Anything at all."""


def _absent(_wanted: Any, value: Any, _variables: Variables, path: str) -> None:
    if value is not ABSENT:
        raise Mismatch(path, f"should be left out, but is {_shown(value)}")


def _regex(wanted: Any, value: Any, _variables: Variables, path: str) -> None:
    if not isinstance(value, str) or re.search(wanted, value) is None:
        raise Mismatch(path, f"should match /{wanted}/, but is {_shown(value)}")


def _int(wanted: Any, value: Any, _variables: Variables, path: str) -> None:
    low, high = wanted.get("min", float("-inf")), wanted.get("max", float("inf"))
    if type(value) is not int or not low <= value <= high:
        raise Mismatch(path, f"should be a whole number from {low} to {high}, but is {_shown(value)}")


def _in(wanted: Any, value: Any, variables: Variables, path: str) -> None:
    if not any(matches(part, value) for part in wanted):
        raise Mismatch(path, f"should be one of {_shown(wanted)}, but is {_shown(value)}")


def _not(wanted: Any, value: Any, _variables: Variables, path: str) -> None:
    if matches(wanted, value):
        raise Mismatch(path, f"should not be {_shown(wanted)}, but is {_shown(value)}")


def _contains(wanted: Any, value: Any, _variables: Variables, path: str) -> None:
    if isinstance(value, str) and isinstance(wanted, str):
        found = wanted in value
    else:
        found = isinstance(value, list) and any(matches(wanted, part) for part in value)
    if not found:
        raise Mismatch(path, f"should contain {_shown(wanted)}, but is {_shown(value)}")


def _length(wanted: Any, value: Any, variables: Variables, path: str) -> None:
    if not isinstance(value, str | list):
        raise Mismatch(path, f"should have a length, but is {_shown(value)}")
    match(wanted, len(value), variables, f"the length of {path}")


def _capture(wanted: Any, value: Any, variables: Variables, _path: str) -> None:
    variables[wanted] = value


_MATCHERS: Final[Mapping[str, Callable[[Any, Any, Variables, str], None]]] = {
    "$any": _any,
    "$absent": _absent,
    "$regex": _regex,
    "$int": _int,
    "$in": _in,
    "$not": _not,
    "$contains": _contains,
    "$length": _length,
    "$capture": _capture,
}


def _look_up(name: str, variables: Mapping[str, Any]) -> Any:
    found: Any = variables
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise BrokenPattern(f"there is no variable {name}")
        found = found[part]
    return found


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "left out"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
